"""The kernels of batch norm with activation as operations of torch: registration, gradients.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from paragone.kernels.teams import share
from paragone.vision.ops.norm_act._cpu_kernels import (
    differentiate,
    gradient_sums,
    moments,
    normalise,
    settle_moments,
    settle_sums,
)

__all__ = ["FORMS", "NormActFunction", "backward", "forward", "norm_act_cpu"]

_INF = float("inf")
FORMS = {
    "none": (0, 0, -_INF, _INF),
    "relu": (0, 0, 0.0, _INF),
    "relu6": (0, 0, 0.0, 6.0),
    "hard_sigmoid": (1, 0, 0.0, 0.0),
    "hard_swish": (1, 1, 0.0, 0.0),
    "sigmoid": (2, 0, 0.0, 0.0),
    "silu": (2, 1, 0.0, 0.0),
}
"""Activation to the kernels' family, whether it is times z, and the ends of a clamp."""
_FORMS = [(f, t, np.float32(low), np.float32(high)) for f, t, low, high in FORMS.values()]
_BLOCK, _MOST, _WORTH = 1 << 15, 2048, 1 << 16


def _layout(x: Tensor) -> tuple[int, int, int, int, int]:
    """Places, channels, places of a block, blocks, and threads."""
    rows, size = x.numel() // x.shape[1], x.shape[1]
    block = min(max(_BLOCK // size // 8 * 8, 8), _MOST)
    threads = torch.get_num_threads() if x.numel() > _WORTH else 1
    return rows, size, block, (rows + block - 1) // block, threads


def _addresses(*tensors: Tensor | None) -> np.ndarray:
    return np.array([0 if x is None else x.data_ptr() for x in tensors], np.int64)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, var: Tensor | None,
    training: bool, momentum: float, eps: float, form: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y, and the statistics (3, C) it was made with: mean, variance, 1 / deviation.

    Args:
        x: (B, C, H, W) float32 in channels-last order, not empty.
        weight: (C,).
        bias: (C,).
        mean: Running mean (C,), moved in training; there None is possible.
        var: Running variance (C,).
        training: Whether the statistics are those of the batch.
        momentum: Share of the new statistics in the running ones.
        eps: Added to the variance.
        form: Place of the activation in `FORMS`.
    """
    rows, size, block, units, threads = _layout(x)
    weight, bias = weight.contiguous(), bias.contiguous()
    parts = torch.empty(2 * units * size) if training else None
    y, stats = torch.empty_like(x), torch.empty(3, size)
    words = _addresses(x, y, stats, weight, bias, parts, mean, var)
    if training:
        share(moments, units, words, rows, size, block, threads=threads)
    settle_moments(words, rows, size, block, eps, momentum)
    share(normalise, units, words, rows, size, block, *_FORMS[form], threads=threads)
    return y, stats


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stats: Tensor, form: int, batch: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    rows, size, block, units, threads = _layout(x)
    dy = dy.contiguous(memory_format=torch.channels_last)
    weight, bias = weight.contiguous(), bias.contiguous()
    dx, parts = torch.empty_like(x), torch.empty(2 * units * size)
    dweight, dbias = torch.empty(size), torch.empty(size)
    words = _addresses(x, dy, stats, weight, bias, parts, dweight, dbias, dx)
    options = (rows, size, block, *_FORMS[form])
    share(gradient_sums, units, words, *options, threads=threads)
    settle_sums(words, units, size)
    share(differentiate, units, words, *options, int(batch), threads=threads)
    return dx, dweight, dbias


@torch.library.custom_op("paragone::norm_act", mutates_args=())
def norm_act_cpu(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, var: Tensor | None, eps: float,
    form: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`forward` without running statistics in training, which are given only in evaluation."""
    return forward(x, weight, bias, mean, var, mean is None, 0.0, eps, form)


@norm_act_cpu.register_fake
def _(x, weight, bias, mean, var, eps, form):
    return torch.empty_like(x), weight.new_empty(3, x.shape[1])


@torch.library.custom_op("paragone::norm_act_backward", mutates_args=())
def _gradients(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stats: Tensor, form: int, batch: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return backward(dy, x, weight, bias, stats, form, batch)


@_gradients.register_fake
def _(dy, x, weight, bias, stats, form, batch):
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, mean, _, _, form = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, bias, output[1])
    ctx.form, ctx.batch = form, mean is None


def _grad(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, bias, stats = ctx.saved_tensors
    found = _gradients(dy, x, weight, bias, stats, ctx.form, ctx.batch)
    return (*found, None, None, None, None)


norm_act_cpu.register_autograd(_grad, setup_context=_setup)


class NormActFunction(torch.autograd.Function):
    """The same without torch's dispatcher, which takes longer than a small map."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        y, stats = forward(*inputs)
        x, weight, bias, _, _, ctx.batch, _, _, ctx.form = inputs
        ctx.save_for_backward(x, weight, bias, stats)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, weight, bias, stats = ctx.saved_tensors
        found = backward(grads[0], x, weight, bias, stats, ctx.form, ctx.batch)
        return (*found, None, None, None, None, None, None)
