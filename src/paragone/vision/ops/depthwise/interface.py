"""`depthwise_conv`: torch's convolution, with a kernel for the gradient of 5x5 filters.

Shapes: B batch, C channels, H and W height and width, K side of the filters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from paragone.kernels import choice
from paragone.kernels.teams import share

__all__ = ["depthwise_conv", "weight_gradient"]

_UNITS, _WORTH, _SIDE = 8, 1 << 16, 5


def _numba(
    x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int, named: str = "auto"
) -> str | None:
    if named != "numba" and torch.compiler.is_compiling():
        return "a compiler sees more in torch's own operations"
    if x.device.type != "cpu":
        return f"it serves the CPU, not {x.device.type}"
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return f"it computes in float32, and the map is {x.dtype}"
    if weight.shape[-2:] != (_SIDE, _SIDE) or dilation != 1 or stride not in (1, 2):
        return "it has filters of 5x5, steps of 1 or 2 and no dilation; torch is quick at the rest"
    if not x.is_contiguous(memory_format=torch.channels_last):
        return "the map is not in channels-last order: net.to(memory_format=torch.channels_last)"
    if min(x.shape[-2:]) + 2 * padding < _SIDE or x.numel() == 0:
        return "the map is smaller than the filter"
    if torch.is_autocast_enabled("cpu"):
        return "autocast computes in another dtype"
    if named != "numba" and type(x) is not Tensor:
        return f"the map is a {type(x).__name__}"
    return None


choice.register("depthwise_conv", {"numba": _numba, "torch": lambda **facts: None})


@torch.library.custom_op("paragone::depthwise_weight_gradient", mutates_args=())
def weight_gradient(x: Tensor, dy: Tensor, stride: int, padding: int) -> Tensor:
    """Gradient (C, 1, 5, 5) of the filters.

    Args:
        x: (B, C, H, W) float32 in channels-last order.
        dy: Gradient of what the convolution returned.
        stride: 1 or 2.
        padding: Zeros around x.
    """
    from paragone.vision.ops.depthwise._cpu_kernels import Map, settle, weight_sums

    images, size, height, width = x.shape
    dy = dy.contiguous(memory_format=torch.channels_last)
    units = min(images, _UNITS)
    parts, dweight = torch.empty(units, _SIDE * _SIDE, size), torch.empty(size, 1, _SIDE, _SIDE)
    shapes = Map(height, width, dy.shape[2], dy.shape[3], size, stride, padding)
    words = np.array([t.data_ptr() for t in (x, dy, parts, dweight)], np.int64)
    threads = torch.get_num_threads() if dy.numel() > _WORTH else 1
    share(weight_sums, units, words, images, shapes, threads=threads)
    settle(words[2:], units, size)
    return dweight


@weight_gradient.register_fake
def _(x, dy, stride, padding):
    return x.new_empty(x.shape[1], 1, _SIDE, _SIDE)


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, weight, bias, stride, padding = inputs
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(x, weight, bias, stride, padding, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dy, wanted, pair = grads[0], ctx.needs_input_grad, (ctx.stride, ctx.stride)
        dx, _, dbias = torch.ops.aten.convolution_backward(
            dy, x, weight, [x.shape[1]], pair, (ctx.padding, ctx.padding), (1, 1), False, (0, 0),
            x.shape[1], (wanted[0], False, wanted[2]),
        )  # fmt: skip
        dweight = weight_gradient(x, dy, ctx.stride, ctx.padding) if wanted[1] else None
        return dx, dweight, dbias, None, None


def depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0,
    dilation: int = 1, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """Convolution with one filter a channel.

    Prefer it to `functional.conv2d` in training with 5x5 filters on a CPU, in channels-last order:
    torch's gradient of the filters takes several times as long as all else of the layer.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, K, K).
        bias: (C,) or None.
        stride: Step in pixels.
        padding: Zeros around x.
        dilation: Step between the taps of a filter.
        backend: "auto", or a name from `paragone.kernels.choice.backends("depthwise_conv")`.

    Example:
        >>> depthwise_conv(torch.randn(2, 8, 9, 9), torch.randn(8, 1, 5, 5), padding=2).shape
        torch.Size([2, 8, 9, 9])
    """
    served = choice.choose(
        "depthwise_conv", backend, x=x, weight=weight, stride=stride, padding=padding,
        dilation=dilation, named=backend,
    )  # fmt: skip
    if served == "numba" and torch.is_grad_enabled() and weight.requires_grad:
        return _DepthwiseConv.apply(x, weight, bias, stride, padding)  # pyright: ignore
    return functional.conv2d(x, weight, bias, stride, padding, dilation, weight.shape[0])
