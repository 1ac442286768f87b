r"""Attention with positive features by its definition: all pairs, logarithms, any precision.

$$ w_{ij} = \sum_f e^{a_{if} + b_{jf}}, \qquad o_i = \sum_j w_{ij} v_j \Big/ \sum_j w_{ij} . $$

References:
    Choromanski et al. (2021), arXiv:2009.14794, eq. 4.

Shapes: ... rows and heads, T time, F features, E value width.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["feature_attention", "pair_weights", "softmax_weights"]


def pair_weights(a: Tensor, b: Tensor, causal: bool = False) -> Tensor:
    """Returns (..., T, S) weights that sum to one, by a log-sum-exp over features for each pair.

    Args:
        a: (..., T, F) logarithms of the queries' features.
        b: (..., S, F) those of the keys' features; -inf hides a key.
        causal: Whether query i sees keys j <= i only.
    """
    logs = torch.logsumexp(a[..., :, None, :] + b[..., None, :, :], dim=-1)
    if causal:
        hidden = torch.ones(logs.shape[-2:], dtype=torch.bool, device=logs.device).triu(1)
        logs = logs.masked_fill(hidden, -torch.inf)
    return torch.softmax(logs, dim=-1)


def feature_attention(a: Tensor, b: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """Returns (..., T, E) for values v (..., S, E); a and b as in `pair_weights`."""
    return pair_weights(a, b, causal) @ v


def softmax_weights(q: Tensor, k: Tensor) -> Tensor:
    """Returns (..., T, S): softmax of q k / sqrt(D), what the features estimate."""
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
