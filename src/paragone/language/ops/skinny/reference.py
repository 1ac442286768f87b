r"""Products of a few rows in plain torch: the definition.

$$ y_{ir} = s_r \sum_{k < K} q_{rk}\, x_{ik} + b_r , \qquad
   q = w,\; s = 1 \;\text{(float32)} \quad\text{or}\quad
   s_r = \max_k |w_{rk}| / 127,\; q = \mathrm{round}(w / s) \;\text{(8 bits)} . $$

References:
    Dettmers et al. (2022), "LLM.int8()", arXiv:2208.07339, section 2.1 (a scale for each row).

Shapes: n rows, K inputs, R outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["narrowed", "skinny_reference"]


def narrowed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds (R, K) weights to 8 bits; returns (R, K) int8 and (R,) scales.

    Args:
        weight: Finite floats; a row of zeros has the scale of a row of ones.
    """
    most = weight.abs().amax(1) if weight.shape[1] else weight.new_zeros(len(weight))
    scale = torch.where(most > 0, most, torch.ones_like(most)).float() / 127
    levels = (weight.float() / scale[:, None]).round().clamp(-127, 127)
    return levels.to(torch.int8), scale


def skinny_reference(
    x: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The product, (n, R).

    Args:
        x: (n, K).
        weight: (R, K), floats or int8.
        scale: (R,) of int8 weights.
        bias: (R,).
    """
    y = x @ weight.to(x.dtype).T
    y = y if scale is None else y * scale.to(x.dtype)
    return y if bias is None else y + bias.to(x.dtype)
