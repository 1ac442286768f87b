r"""Reassembly of CARAFE, as it is defined: neighbourhoods are copied, then mixed.

$$ y_{c,\,p} = \sum_{u, v} \mathcal{W}_{g(c),\,uv,\,p}\; x_{c,\,\lfloor p / s \rfloor + (u, v)} , $$

with zeros outside of the map. Cost: $k^2$ copies of the enlarged map.

References:
    Wang et al. (2019), "CARAFE", arXiv:1905.02188, eq. 5.

Shapes: B batch, C channels, H and W input size, s scale, k side of a kernel, G groups.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

__all__ = ["carafe"]


def carafe(x: Tensor, kernels: Tensor, scale: int, groups: int) -> Tensor:
    """Mixes x (B, C, H, W) by kernels (B, G k k, s H, s W); returns (B, C, s H, s W)."""
    batch, channels, height, width = x.shape
    taps, size = kernels.shape[1] // groups, kernels.shape[2:]
    side = math.isqrt(taps)
    near = functional.unfold(x, side, padding=side // 2).view(batch, channels * taps, height, width)
    near = near.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    near = near.view(batch, groups, channels // groups, taps, *size)
    return (near * kernels.view(batch, groups, 1, taps, *size)).sum(3).flatten(1, 2)
