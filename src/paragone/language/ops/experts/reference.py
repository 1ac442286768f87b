r"""Experts in a few lines: the definition that the grouped form is tested against.

$$ y_n = \sum_{k} w_{nk}\, D_{e}\big(\mathrm{silu}(G_{e} x_n) \odot U_{e} x_n\big),
   \qquad e = e_{nk} . $$

References:
    Shazeer et al. (2017), arXiv:1701.06538, eq. 1; Shazeer (2020), arXiv:2002.05202, eq. 6.

Shapes: N tokens, K experts of each, E experts, F hidden units, M model width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["routed_experts"]


def routed_experts(
    x: Tensor, chosen: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """Every token through every expert, then what was chosen: E / K times the work.

    Args:
        x: (N, M).
        chosen: (N, K) numbers of experts; one that is E or more has no effect.
        weights: (N, K).
        gate_up: (E, 2 F, M), G above U.
        down: (E, M, F).

    Returns:
        (N, M).
    """
    gate, up = torch.einsum("nm,efm->enf", x, gate_up).chunk(2, -1)
    each = torch.einsum("enf,emf->enm", functional.silu(gate) * up, down)
    share = functional.one_hot(chosen, len(down) + 1)[..., :-1].to(weights.dtype)
    return torch.einsum("nke,nk,enm->nm", share, weights, each)
