r"""Attention with positive features: the running maximum of the keys is a gate on the state.

With keys relative to $M_j$, the largest logarithm of a feature up to key j, the sums obey

$$ S_j = e^{M_{j-1} - M_j} S_{j-1} + e^{b_j - M_j} v_j^\top, \qquad
   o_i = \frac{\big(e^{a_i - r_i}\big)^\top S_i\,[v]}{\big(e^{a_i - r_i}\big)^\top S_i\,[1]} , $$

which is linear attention with a gate of one number a token, and runs on its chunk engine. Nothing
that a token is relative to depends on later ones. A query's exponents are held at -60 and above,
far below rounding, so that the denominator is positive whatever comes.

Shapes: B rows, H heads, T time, F features, E value width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paragone.mixers.ops.features.exponentials import NEVER, exp_features
from paragone.mixers.ops.linear.interface import LinearState, linear_attention

__all__ = ["LOWEST", "attend_all", "attend_past"]

LOWEST = -60.0
"""Least exponent of a query's feature below that query's largest."""


def attend_past(
    query: Tensor,
    key: Tensor,
    shift: Tensor,
    v: Tensor,
    state: tuple[Tensor, Tensor, Tensor] | None = None,
    *,
    chunk: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Attends to the past.

    Args:
        query: (B, H, T, F) logarithms of the queries' features, up to a number for each query.
        key: (B, H, T, F) of the keys' features, before `shift` is subtracted.
        shift: (B, H, T); +inf hides a key.
        v: (B, H, T, E).
        state: (B, H, F, E) and (B, H, F) sums of values and of ones, and the (B, H) maximum that
            they are relative to.
        chunk: Tokens taken at once.
        backend: "auto", or a back end of both "exp_features" and "linear_attention".

    Returns:
        (B, H, T, E), and the state behind the last token.
    """
    start = key.new_full(key.shape[:2], NEVER) if state is None else state[2]
    phi_q, _ = exp_features(query, torch.zeros_like(shift), lowest=LOWEST, backend=backend)
    phi_k, level = exp_features(key, shift, start, backend=backend)
    level = level.detach()
    before = torch.cat([start[..., None], level], dim=-1)
    gate = torch.where(before[..., :-1] > NEVER, before[..., :-1] - level, 0)
    kept = None if state is None else LinearState(*state[:2])
    y, kept = linear_attention(
        phi_q, phi_k, v.to(phi_q.dtype), gate=gate, state=kept, normalize=True, chunk=chunk,
        backend=backend,
    )  # fmt: skip
    return y, (kept.memory, kept.norm, before[..., -1])


def attend_all(
    query: Tensor, key: Tensor, shift: Tensor, v: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Attends to every key; arguments as for `attend_past`. Returns (B, H, T, E)."""
    if not v.shape[2]:
        return v
    start = key.new_full(key.shape[:2], NEVER)
    phi_q, _ = exp_features(query, torch.zeros_like(shift), lowest=LOWEST, backend=backend)
    phi_k, level = exp_features(key, shift, start, backend=backend)
    level = level.detach()
    share = torch.exp(level - level[..., -1:])[..., None]
    ones = torch.cat([v.to(share.dtype), torch.ones_like(v[..., :1], dtype=share.dtype)], dim=-1)
    out = phi_q @ (phi_k.mT @ (ones * share))
    total = out[..., -1:]
    return out[..., :-1] / torch.where(total > 0, total, 1)
