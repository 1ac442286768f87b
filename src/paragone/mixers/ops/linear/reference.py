r"""The definition of linear attention, with a gate and a delta rule, one token at a time.

$$ S'_t = \mathrm{diag}(e^{g_t})\, S_{t-1}, \quad
   u_t = v_t \ \text{ or, with } \beta, \ \ \beta_t (v_t - S_t'^\top k_t), \quad
   S_t = S'_t + k_t u_t^\top, \quad o_t = c\, S_t^\top q_t , $$

and with a normaliser $z_t = e^{g_t} \odot z_{t-1} + k_t$ it is $S_t^\top q_t / q_t^\top z_t$.
Features should not be negative then: $o_t$ is a weighted mean of the values however small the
weights are down to `FLOOR`, and nothing is added to their sum. A sum of zero gives zero.

References:
    Katharopoulos et al. (2020), arXiv:2006.16236, eq. 10-12 and 18-20.
    Yang et al. (2024), arXiv:2312.06635, eq. 3 (vector gate); arXiv:2412.06464, eq. 10 (gated
    delta rule).

Shapes: B rows, H heads, T time, D key width, E value width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["FLOOR", "LinearState", "divided", "recurrent", "widened_gate"]

FLOOR = 1e-30
"""What a sum of weights is divided as, at least: its inverse still has a gradient in float32."""


class LinearState(NamedTuple):
    """What is carried on: `memory` S (B, H, D, E) and `norm` z (B, H, D), or (B, H, 0) if none."""

    memory: Tensor
    norm: Tensor


def divided(o: Tensor, total: Tensor) -> Tensor:
    """`o` over the sum of its weights."""
    return o / total.clamp_min(FLOOR)[..., None]


def widened_gate(gate: Tensor | None, like: Tensor) -> Tensor:
    """The gate as (B, H, T, 1 or D), zero if there is none."""
    if gate is None:
        return like.new_zeros(()).expand(*like.shape[:3], 1)
    return gate if gate.ndim == 4 else gate[..., None]


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, beta: Tensor | None,
    state: LinearState, scale: float,
) -> tuple[Tensor, LinearState]:  # fmt: skip
    """Runs the recurrence: q, k (B, H, T, D), v (B, H, T, E), gate (B, H, T[, D]), beta (B, H, T).

    A `state.norm` without channels means: no normaliser.
    """
    memory, norm = state
    decay = widened_gate(gate, q).exp()
    outputs = []
    for t in range(q.shape[2]):
        memory = decay[:, :, t, :, None] * memory
        u = v[:, :, t]
        if beta is not None:
            seen = (k[:, :, t, :, None] * memory).sum(-2)
            u = beta[:, :, t, None] * (u - seen)
        memory = memory + k[:, :, t, :, None] * u[:, :, None]
        o = (q[:, :, t, :, None] * memory).sum(-2)
        if norm.shape[-1]:
            norm = decay[:, :, t] * norm + k[:, :, t]
            o = divided(o, (q[:, :, t] * norm).sum(-1))
        else:
            o = scale * o
        outputs.append(o)
    o = torch.stack(outputs, 2) if outputs else v.new_zeros(v.shape)
    return o, LinearState(memory, norm)
