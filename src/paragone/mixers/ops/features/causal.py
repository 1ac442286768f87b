r"""Causal attention with positive features, in chunks, stabilised by a maximum that only runs on.

The keys' reference is the running maximum $M_j = \max_{l \le j} \max_f b_{lf}$. It depends on the
past alone, and its growth is a gate on the state, so that it cancels without a remainder:

$$ S_j = e^{M_{j-1} - M_j} S_{j-1} + e^{b_j - M_j} v_j^\top, \qquad
   o_i = \frac{\big(e^{a_i - r_i}\big)^\top S_i\,[v]}{\big(e^{a_i - r_i}\big)^\top S_i\,[1]} . $$

In a chunk, pair $(i, j)$ has the weight $e^{a_i - r_i} \cdot e^{b_j - M_j}\, e^{M_j - M_i}$; all
exponents are at most 0. A query's exponents are held at -60 and above, which is far below
rounding, so that the denominator is positive whatever comes.

Shapes: B rows, H heads, T time, F features, E value width, C chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LOWEST", "NEVER", "causal_features", "quotient", "step_features"]

NEVER = -1e30
"""The running maximum before the first key."""

LOWEST = -60.0
"""Least exponent of a query's feature below that query's largest."""


def causal_features(
    a: Tensor,
    b: Tensor,
    v: Tensor,
    sums: Tensor | None = None,
    peak: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attends to the past, and returns the state behind it.

    Args:
        a: (B, H, T, F) logarithms of the queries' features.
        b: (B, H, T, F) of the keys' features; -inf hides a key.
        v: (B, H, T, E).
        sums: (B, H, F, E + 1) state: values and, last, ones, weighted by the features.
        peak: (B, H) the running maximum that `sums` is relative to.
        chunk: Tokens C that are taken at once.

    Returns:
        (B, H, T, E), and the new `sums` and `peak`.
    """
    rows, heads, time, features = b.shape
    ones = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    if sums is None or peak is None:
        sums = v.new_zeros(rows, heads, features, v.shape[-1] + 1)
        peak = v.new_full((rows, heads), NEVER)
    highest = b.detach().amax(-1).clamp(min=NEVER)
    running = torch.maximum(torch.cummax(highest, dim=-1).values, peak[..., None])
    query = torch.exp((a - a.detach().amax(-1, keepdim=True)).clamp(min=LOWEST))
    key = torch.exp(b - running[..., None])
    parts = []
    for start in range(0, time, chunk):
        part = slice(start, start + chunk)
        level, q, k = running[..., part], query[:, :, part], key[:, :, part]
        values = ones[:, :, part]
        last = level[..., -1]
        gate = (level[..., None, :] - level[..., :, None]).clamp(max=0).exp()
        inside = (q @ k.mT * gate).tril() @ values
        carried = torch.exp(peak[..., None] - level)[..., None] * (q @ sums)
        parts.append(inside + carried)
        kept = torch.exp(level - last[..., None])[..., None]
        sums = torch.exp(peak - last)[..., None, None] * sums + (k * kept).mT @ values
        peak = last
    return quotient(torch.cat(parts, dim=2) if parts else ones), sums, peak


def step_features(
    a: Tensor, b: Tensor, v: Tensor, sums: Tensor, peak: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One token of `causal_features`: a, b (B, H, F), v (B, H, E)."""
    level = torch.maximum(peak, b.detach().amax(-1))
    query = torch.exp((a - a.detach().amax(-1, keepdim=True)).clamp(min=LOWEST))
    key = torch.exp(b - level[..., None])
    ones = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    sums = torch.exp(peak - level)[..., None, None] * sums + key[..., :, None] * ones[..., None, :]
    return quotient((query[..., None, :] @ sums).squeeze(-2)), sums, level


def quotient(out: Tensor) -> Tensor:
    """Returns (..., E): sums over the last column; 0 where no key was seen."""
    total = out[..., -1:]
    return out[..., :-1] / torch.where(total > 0, total, 1)
