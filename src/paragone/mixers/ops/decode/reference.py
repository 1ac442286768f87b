r"""Attention of a few queries to a cache as it is defined: what the kernel is tested against.

The T queries of row b stand at its end: query t at the place $n_b - T_b + t$ among the $n_b$ keys,

$$ o_{bht} = \sum_{j \text{ seen}} \frac{e^{s_{tj}}}{e^{z_h} + \sum_{i \text{ seen}} e^{s_{ti}}}
   \, v_{bj}, \qquad s_{tj} = c \tanh(\alpha\, q_{bht} \cdot k_{bj} / c) , $$

with the scale $\alpha$, softcap c and the logit z of a sink, if there are any.

Shapes: B rows, H heads, G key heads, T queries, C capacity, D and E widths, P pages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paragone.mixers.ops.attention.reference import attention_reference
from paragone.mixers.ops.attention.rule import Rule

__all__ = ["decode_reference", "gathered"]


def gathered(part: Tensor, table: Tensor, lengths: Tensor) -> Tensor:
    """(P, G, page, W) and (B, pages of a row) to (B, G, C, W); places behind the lengths are 0."""
    page = part.shape[2]
    known = torch.arange(table.shape[1], device=table.device) * page < lengths[:, None]
    found = part[torch.where(known, table.to(torch.int64), 0)].transpose(1, 2).flatten(2, 3)
    beyond = torch.arange(found.shape[2], device=table.device) >= lengths[:, None]
    return found.masked_fill(beyond[:, None, :, None], 0)


def decode_reference(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, *, queries: Tensor | None = None,
    table: Tensor | None = None, scale: float | None = None, softcap: float | None = None,
    window: int | None = None, causal: bool = True, sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns (B, H, T, E) of the type of q, and (B, H, T) logarithms without the sinks."""
    if table is not None:
        k, v = gathered(k, table, lengths), gathered(v, table, lengths)
    rows, _, time, width = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    rule = Rule(
        scale=width**-0.5 if scale is None else scale, softcap=softcap or 0.0,
        left=-1 if window is None else window - 1, right=0 if causal else -1,
    )  # fmt: skip
    full = torch.full((rows,), time, dtype=torch.int64, device=q.device)
    ends = (full if queries is None else queries, lengths)
    out, lse = attention_reference(q.to(wide), k.to(wide), v.to(wide), rule, lengths=ends)
    if sinks is not None:
        none = lse == -torch.inf
        left = torch.sigmoid(lse.masked_fill(none, 0) - sinks.to(lse.dtype)[:, None])
        out = out * left.masked_fill(none, 0)[..., None]
    return out.to(q.dtype), lse
