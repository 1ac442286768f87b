"""The Numba kernels of state space duality as operations that torch knows.

The products C B of a chunk belong to a group of heads, so torch makes them once, batched, and
differentiates them; the kernels get them as `scores` and do what is each head's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paragone.kernels.teams import share
from paragone.mixers.ops._mamba_views import dense, flat, team, unit_stride

__all__ = ["CHUNK", "ssd"]

CHUNK = 64
"""Tokens of a chunk by default: about as many as a head has channels."""


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """As `reference.ssd_chunked`, in float32 whatever x is stored in."""
    x, B, C = x.float(), B.float(), C.float()
    chunk = max(1, min(chunk, x.shape[1]))
    more = -x.shape[1] % chunk
    b, c = (
        functional.pad(v, (0, 0, 0, 0, 0, more)).unflatten(1, (-1, chunk)).transpose(2, 3)
        if x.shape[1]
        else v.new_zeros(v.shape[0], 0, v.shape[2], 1, v.shape[3])
        for v in (B, C)
    )
    scores = c @ b.transpose(-1, -2)
    some = (x, dt, A, scores, B, C, state)
    needed = torch.is_grad_enabled() and any(v.requires_grad for v in some)
    y, last, _ = _forward(*some, chunk, needed)
    return y, last


def _layout(x: Tensor, dt: Tensor, B: Tensor, C: Tensor, chunk: int, *more: Tensor) -> Any:
    (_, time, heads, size), (groups, count) = x.shape, B.shape[2:]
    sizes = [time, heads, size, groups, count, chunk]
    strides = [
        *x.stride()[:3],
        *dt.stride()[:2],
        *(s for v in (B, C, *more) for s in v.stride()[:3]),
    ]
    return np.array(sizes + strides, np.int64)


def _empty(x: Tensor, B: Tensor, chunk: int, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    rows, time, heads, size = x.shape
    chunks = (time + chunk - 1) // chunk if keep else 0
    state = (heads, B.shape[3], size)
    return x.new_empty(x.shape), x.new_empty(rows, *state), x.new_empty(rows, chunks, *state)


@torch.library.custom_op("paragone::ssd", mutates_args=(), device_types="cpu")
def _forward(
    x: Tensor, dt: Tensor, A: Tensor, scores: Tensor, B: Tensor, C: Tensor, state: Tensor,
    chunk: int, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    from paragone.mixers.ops.ssd._forward import ssd_forward

    x, dt, B, C = (unit_stride(v) for v in (x, dt, B, C))
    y, last, kept = _empty(x, B, chunk, keep)
    last.copy_(state)
    if x.numel():
        share(
            ssd_forward, x.shape[0] * x.shape[2], _layout(x, dt, B, C, chunk), flat(x), flat(dt),
            dense(A), dense(scores), flat(B), flat(C), flat(last), flat(y), flat(kept), keep,
            threads=team(x.numel() * B.shape[3]),
        )  # fmt: skip
    return y, last, kept


@_forward.register_fake
def _forward_fake(x, dt, A, scores, B, C, state, chunk, keep):
    return _empty(x, B, chunk, keep)


@torch.library.custom_op("paragone::ssd_backward", mutates_args=(), device_types="cpu")
def _backward(
    x: Tensor, dt: Tensor, A: Tensor, scores: Tensor, B: Tensor, C: Tensor, kept: Tensor,
    dy: Tensor, dlast: Tensor, chunk: int,
) -> list[Tensor]:  # fmt: skip
    from paragone.mixers.ops.ssd._backward import ssd_backward

    x, dt, B, C, dy = (unit_stride(v) for v in (x, dt, B, C, dy))
    (rows, time, heads, _), (groups, count) = x.shape, B.shape[2:]
    dx, ddt, dA = x.new_empty(x.shape), dt.new_empty(dt.shape), A.new_zeros(rows, heads)
    dscores = x.new_zeros(rows, scores.shape[1], heads, chunk, chunk)
    dB, dC = (x.new_empty(rows, time, heads, count) for _ in range(2))
    dstate = dlast.clone(memory_format=torch.contiguous_format)
    if x.numel():
        share(
            ssd_backward, rows * heads, _layout(x, dt, B, C, chunk, dy), flat(x), flat(dt),
            dense(A), dense(scores), flat(B), flat(C), flat(kept), flat(dy),
            *(flat(v) for v in (dstate, dx, ddt, dA, dscores, dB, dC)),
            threads=team(x.numel() * count),
        )  # fmt: skip
    dscores, dB, dC = (v.unflatten(2, (groups, -1)).sum(3) for v in (dscores, dB, dC))
    return [dx, ddt, dA.sum(0), dscores, dB, dC, dstate]


@_backward.register_fake
def _backward_fake(x, dt, A, scores, B, C, kept, dy, dlast, chunk):
    return [v.new_empty(v.shape) for v in (x, dt, A, scores, B, C, dlast)]


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, _, ctx.chunk, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.mark_non_differentiable(output[2])


def _gradients(ctx: Any, dy: Tensor, dlast: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return *_backward(*ctx.saved_tensors, dy, dlast, ctx.chunk), None, None


_forward.register_autograd(_gradients, setup_context=_keep)
