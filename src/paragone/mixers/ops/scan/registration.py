"""The Numba kernels of the selective scan as operations that torch knows: shapes and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.teams import share
from paragone.mixers.ops._mamba_views import dense, flat, team, unit_stride

__all__ = ["selective_scan"]

_LOG2_E = 1.4426950408889634
_KEPT, _BLOCK = 32, 128


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, state: Tensor | None, lengths: Tensor | None, softplus: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `reference.selective_scan`, in float32 whatever x is stored in."""
    some = [v if v is None else v.float() for v in (x, dt, A, B, C, D, z, dt_bias, state)]
    needed = torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in some)
    y, last, _ = _forward(*some, lengths, softplus, needed)
    return y.to(x.dtype), last


def _layout(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor | None, *more: Tensor
):
    gate = x if z is None else z
    strides = [s for v in (x, dt, B, C, gate, *more) for s in v.stride()[:2]]
    return np.array([x.shape[2], A.shape[1], x.shape[1], *strides], np.int64)


def _ends(x: Tensor, lengths: Tensor | None) -> Any:
    if lengths is None:
        return np.full(x.shape[0], x.shape[1], np.int64)
    return lengths.to(torch.int64).contiguous().numpy()


@torch.library.custom_op("paragone::selective_scan", mutates_args=(), device_types="cpu")
def _forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, state: Tensor | None, lengths: Tensor | None, softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    from paragone.mixers.ops.scan._forward import scan_forward

    x, dt, B, C = (unit_stride(v) for v in (x, dt, B, C))
    z = None if z is None else unit_stride(z)
    y, last, kept = _empty(x, A, keep)
    rows, _, width = x.shape
    count, units = A.shape[1], rows * -(-width // _BLOCK)
    if lengths is not None:
        y.zero_()
    if state is None:
        last.zero_()
    else:
        last.copy_(state.transpose(1, 2))
    if x.numel():
        share(
            scan_forward, units, _layout(x, dt, A, B, C, z), flat(x), flat(dt),
            dense(A.t() * _LOG2_E), flat(B), flat(C), dense(D, width),
            flat(x if z is None else z), dense(dt_bias, width), _ends(x, lengths), flat(last),
            flat(y), flat(kept), softplus, z is not None, keep,
            threads=team(x.numel() * count),
        )  # fmt: skip
    return y, last.transpose(1, 2).contiguous(), kept


def _empty(x: Tensor, A: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    rows, time, width = x.shape
    chunks = (time + _KEPT - 1) // _KEPT if keep else 0
    return (
        x.new_empty(x.shape),
        x.new_empty(rows, A.shape[1], width),
        x.new_empty(rows, chunks, A.shape[1], width),
    )


@_forward.register_fake
def _forward_fake(x, dt, A, B, C, D, z, dt_bias, state, lengths, softplus, keep):
    y, last, kept = _empty(x, A, keep)
    return y, last.new_empty(x.shape[0], x.shape[2], A.shape[1]), kept


@torch.library.custom_op("paragone::selective_scan_backward", mutates_args=(), device_types="cpu")
def _backward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, lengths: Tensor | None, softplus: bool, kept: Tensor, dy: Tensor,
    dlast: Tensor,
) -> list[Tensor]:  # fmt: skip
    from paragone.mixers.ops.scan._backward import scan_backward

    x, dt, B, C, dy = (unit_stride(v) for v in (x, dt, B, C, dy))
    z = None if z is None else unit_stride(z)
    rows, time, width = x.shape
    count, blocks = A.shape[1], -(-width // _BLOCK)
    new = x.new_empty if lengths is None else x.new_zeros
    dx, ddt, dz = new(x.shape), new(x.shape), new(x.shape if z is not None else 0)
    dB, dC = (new(rows, blocks, time, count) for _ in range(2))
    dA, dD, dbias = (x.new_zeros(rows, *s) for s in ((count, width), (width,), (width,)))
    dstate = dlast.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    if x.numel():
        share(
            scan_backward, rows * blocks, _layout(x, dt, A, B, C, z, dy), flat(x), flat(dt),
            dense(A.t() * _LOG2_E), flat(B), flat(C), dense(D, width),
            flat(x if z is None else z), dense(dt_bias, width), _ends(x, lengths), flat(kept),
            flat(dy), flat(dstate), *(flat(v) for v in (dx, ddt, dA, dB, dC, dD, dz, dbias)),
            softplus, z is not None, threads=team(x.numel() * count),
        )  # fmt: skip
    return [
        dx, ddt, dA.sum(0).t().contiguous(), dB.sum(1), dC.sum(1), dD.sum(0), dz, dbias.sum(0),
        dstate.transpose(1, 2).contiguous(),
    ]  # fmt: skip


@_backward.register_fake
def _backward_fake(x, dt, A, B, C, D, z, dt_bias, lengths, softplus, kept, dy, dlast):
    width = x.new_empty(x.shape[2])
    return [
        x.new_empty(x.shape), x.new_empty(x.shape), A.new_empty(A.shape), B.new_empty(B.shape),
        C.new_empty(C.shape), width, x.new_empty(x.shape if z is not None else 0),
        torch.empty_like(width), dlast.new_empty(dlast.shape),
    ]  # fmt: skip


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.softplus, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.mark_non_differentiable(output[2])


def _gradients(ctx: Any, dy: Tensor, dlast: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, dt, A, B, C, D, z, dt_bias, state, lengths, kept = ctx.saved_tensors
    found = _backward(x, dt, A, B, C, D, z, dt_bias, lengths, ctx.softplus, kept, dy, dlast)
    dx, ddt, dA, dB, dC, dD, dz, dbias, dstate = found
    given = ((D, dD), (z, dz), (dt_bias, dbias), (state, dstate))
    some = (grad if value is not None else None for value, grad in given)
    return dx, ddt, dA, dB, dC, *some, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)
