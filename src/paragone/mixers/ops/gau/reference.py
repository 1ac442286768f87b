r"""Squared-ReLU attention by its definition.

$$ o_i = \sum_j \mathrm{relu}(q_i^\top k_j + b_{ij})^2\, v_j $$

References:
    Hua et al. (2022), arXiv:2202.10447, section 2.2.

Shapes: B rows, T queries, S keys, D key width, E value width.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["relu2_attention"]


def relu2_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    visible: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Returns (B, T, E).

    Args:
        q: (B, T, D).
        k: (B, S, D).
        v: (B, S, E).
        causal: Whether query i sees keys j <= i only.
        visible: (B or 1, T, S) which pairs count.
        bias: (B or 1, T, S) added to the products.
    """
    scores = q @ k.mT
    if bias is not None:
        scores = scores + bias
    weights = scores.relu().square()
    if visible is not None:
        weights = torch.where(visible, weights, 0)
    elif causal:
        weights = weights.tril()
    return weights @ v
