r"""Norm and gate in plain torch: the definitions that the kernels are tested against.

$$ \mathrm{norm}(x) = g \odot x \, r, \quad r = \big(\tfrac1M \textstyle\sum_i x_i^2 +
   \epsilon\big)^{-1/2}; \qquad \mathrm{gated}(a, u) = a\, \sigma(a) \odot u . $$

References:
    Zhang and Sennrich (2019), arXiv:1910.07467, eq. 4; Shazeer (2020), arXiv:2002.05202, eq. 6.

Shapes: M length of the last axis.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["gated", "rms_norm"]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Statistics in float32 at least, weight in the type of x.

    Args:
        x: (…, M).
        weight: (M,).
        eps: What is added to the mean square.
    """
    if x.dtype in (torch.float32, torch.float64):
        return functional.rms_norm(x, weight.shape, weight, eps)
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) times up.

    Args:
        gate: (…, F).
        up: (…, F).
    """
    return functional.silu(gate) * up
