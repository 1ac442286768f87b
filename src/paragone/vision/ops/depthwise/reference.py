r"""The definition of a depthwise convolution: one filter a channel, and what its gradient is.

$$ y_{b,c,i,j} = \sum_{u,v} w_{c,u,v}\, x_{b,c,\,si+u-p,\,sj+v-p}, \qquad
   \frac{\partial L}{\partial w_{c,u,v}} = \sum_{b,i,j} \delta_{b,c,i,j}\,
   x_{b,c,\,si+u-p,\,sj+v-p} . $$

References:
    Howard et al. (2017), "MobileNets", arXiv:1704.04861, eq. 3.

Shapes: B batch, C channels, H and W height and width, K side of the filters.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["depthwise_conv_reference", "weight_gradient_reference"]


def _seen(x: Tensor, u: int, v: int, height: int, width: int, stride: int) -> Tensor:
    """What tap (u, v) sees of the padded map."""
    return x[:, :, u : u + stride * (height - 1) + 1 : stride,
             v : v + stride * (width - 1) + 1 : stride]  # fmt: skip


def depthwise_conv_reference(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Returns y of x (B, C, H, W) and weight (C, 1, K, K)."""
    padded = functional.pad(x, [padding] * 4)
    side = weight.shape[-1]
    height, width = ((size - side) // stride + 1 for size in padded.shape[-2:])
    y = x.new_zeros(x.shape[0], x.shape[1], height, width)
    for u in range(side):
        for v in range(side):
            seen = _seen(padded, u, v, height, width, stride)
            y = y + weight[:, 0, u, v, None, None] * seen
    return y


def weight_gradient_reference(
    x: Tensor, dy: Tensor, side: int, stride: int, padding: int
) -> Tensor:  # fmt: skip
    """Returns the gradient (C, 1, K, K) of the filters, of x and the gradient of y."""
    padded = functional.pad(x, [padding] * 4)
    height, width = dy.shape[-2:]
    taps = [
        (dy * _seen(padded, u, v, height, width, stride)).sum((0, 2, 3))
        for u in range(side)
        for v in range(side)
    ]
    return torch.stack(taps, 1).unflatten(1, (1, side, side))
