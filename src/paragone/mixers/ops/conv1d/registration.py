"""The Numba kernels of the causal convolution as operations that torch knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.teams import share
from paragone.mixers.ops._mamba_views import dense, flat, team, unit_stride

__all__ = ["causal_conv1d"]

_BLOCK, _STEPS = 128, 10


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool
) -> Tensor:
    """As `reference.causal_conv1d`, in float32 whatever x is stored in."""
    some = [v if v is None else v.float() for v in (x, weight, bias, state)]
    return _forward(*some, silu).to(x.dtype)


@torch.library.custom_op("paragone::causal_conv1d", mutates_args=(), device_types="cpu")
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool
) -> Tensor:
    from paragone.mixers.ops.conv1d._cpu import conv_forward

    x = unit_stride(x)
    (rows, time, width), taps = x.shape, weight.shape[1]
    y = x.new_empty(x.shape)
    if x.numel():
        at = np.array([width, taps, time, *x.stride()[:2]], np.int64)
        share(
            conv_forward, rows * -(-width // _BLOCK), at, flat(x), dense(weight.t()),
            dense(bias, width), dense(state, rows, taps - 1, width), flat(y), silu,
            threads=team(x.numel() * _STEPS),
        )  # fmt: skip
    return y


@_forward.register_fake
def _forward_fake(x, weight, bias, state, silu):
    return x.new_empty(x.shape)


@torch.library.custom_op("paragone::causal_conv1d_backward", mutates_args=(), device_types="cpu")
def _backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool, dy: Tensor
) -> list[Tensor]:
    from paragone.mixers.ops.conv1d._cpu import conv_backward

    x, dy = unit_stride(x), unit_stride(dy)
    (rows, time, width), taps = x.shape, weight.shape[1]
    dx, dbias = x.new_zeros(x.shape), x.new_zeros(rows, width)
    dw, dstate = x.new_zeros(rows, taps, width), x.new_zeros(rows, taps - 1, width)
    if x.numel():
        at = np.array([width, taps, time, *x.stride()[:2], *dy.stride()[:2]], np.int64)
        share(
            conv_backward, rows * -(-width // _BLOCK), at, flat(x), dense(weight.t()),
            dense(bias, width), dense(state, rows, taps - 1, width), flat(dy), flat(dx), flat(dw),
            flat(dbias), flat(dstate), silu, threads=team(2 * x.numel() * _STEPS),
        )  # fmt: skip
    return [dx, dw.sum(0).t().contiguous(), dbias.sum(0), dstate]


@_backward.register_fake
def _backward_fake(x, weight, bias, state, silu, dy):
    rows, _, width = x.shape
    before = x.new_empty(rows, weight.shape[1] - 1, width)
    return [x.new_empty(x.shape), weight.new_empty(weight.shape), x.new_empty(width), before]


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, state = ctx.saved_tensors
    dx, dw, dbias, dstate = _backward(x, weight, bias, state, ctx.silu, dy)
    return dx, dw, None if bias is None else dbias, None if state is None else dstate, None


_forward.register_autograd(_gradients, setup_context=_keep)
