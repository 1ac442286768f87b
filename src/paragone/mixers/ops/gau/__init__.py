r"""Squared-ReLU attention: the weights are positive, sparse and need no normaliser of their own.

References:
    Hua et al. (2022), arXiv:2202.10447, section 2.2; So et al. (2021), arXiv:2109.08668
    (squared ReLU).

Shapes: B rows, T queries, S keys, D key width, E value width.
"""

from __future__ import annotations

from torch import Tensor

from paragone.mixers.ops.gau.reference import relu2_attention as relu2_reference

__all__ = ["relu2_attention"]


def relu2_attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, backend: str = "auto"
) -> Tensor:
    """Returns (B, T, E): squares of the positive part of q k, times v; not divided by anything.

    Args:
        q: (B, T, D).
        k: (B, S, D).
        v: (B, S, E).
        causal: Whether query i sees keys j <= i only.
        backend: "auto" or a name from `paragone.kernels.choice.backends("relu2_attention")`.
    """
    return relu2_reference(q, k, v, causal=causal)
