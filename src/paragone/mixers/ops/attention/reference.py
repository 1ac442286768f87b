r"""Attention as it is defined, on whole matrices: what every kernel is tested against.

$$ s_{ij} = c \tanh(\alpha\, q_i \cdot k_j / c) + b_{ij} - a\,|p_i - j|, \qquad
   \ell_i = \log \sum_{j \text{ seen}} e^{s_{ij}}, \qquad
   o_i = \sum_{j \text{ seen}} e^{s_{ij} - \ell_i}\, \frac{m_{ij}}{1 - r}\, v_j , $$

with the scale $\alpha$, softcap c, bias b, slope a of ALiBi, and the weights m that dropout at
rate r keeps. A query that sees no key has $o_i = 0$, $\ell_i = -\infty$ and no gradient. Memory
grows with $T_q T_k$; any floating type, derivatives of any order.

References:
    Vaswani et al. (2017), arXiv:1706.03762, eq. 1. Press et al. (2022), arXiv:2108.12409 (ALiBi).

Shapes: B rows, H heads, G key heads, T time, D and E widths of keys and values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paragone.mixers.ops.attention.rule import Rule, kept

__all__ = ["attention_reference", "seen"]


def seen(rule: Rule, queries: int, keys: int, query_lengths: Tensor, key_lengths: Tensor) -> Tensor:
    """(B, 1, Tq, Tk) bool: what lengths, window and causality leave, and the places before it."""
    i = torch.arange(queries, device=query_lengths.device)[:, None]
    j = torch.arange(keys, device=query_lengths.device)
    ends = [n.view(-1, 1, 1, 1) for n in (query_lengths, key_lengths)]
    place = i + (ends[1] - ends[0]) if rule.bottom else i
    open_ = (i < ends[0]) & (j < ends[1])
    if rule.left >= 0:
        open_ = open_ & (j >= place - rule.left)
    if rule.right >= 0:
        open_ = open_ & (j <= place + rule.right)
    return open_


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, rule: Rule, *,
    lengths: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None,
    bias: Tensor | None = None, slopes: Tensor | None = None,
    sizes: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns (B, H, Tq, E) of the type of q, and the (B, H, Tq) logarithms of the sums.

    Args:
        q: (B, H, Tq, D).
        k: (B, G, Tk, D), H a multiple of G.
        v: (B, G, Tk, E).
        rule: The numbers.
        lengths: (B,) queries and (B,) keys that count.
        mask: Bool, broadcast to (B, H, Tq, Tk): True where a query may see a key.
        bias: Added to the scores, broadcast alike.
        slopes: (B or 1, H) of ALiBi.
        sizes: What dropout counts with (None: Tq and Tk).
    """
    (rows, heads, queries, _), keys, given = q.shape, k.shape[2], q.dtype
    wide = torch.promote_types(given, torch.float32)
    full = torch.ones(rows, dtype=torch.int64, device=q.device)
    ends = (full * queries, full * keys) if lengths is None else lengths
    open_ = seen(rule, queries, keys, *ends)
    beyond = [torch.arange(n, device=q.device) >= end[:, None]
              for n, end in zip((queries, keys), ends, strict=True)]  # fmt: skip
    q = q.to(wide).masked_fill(beyond[0][:, None, :, None], 0)
    k, v = (
        x.to(wide).masked_fill(beyond[1][:, None, :, None], 0)
        .repeat_interleave(heads // max(k.shape[1], 1), dim=1) for x in (k, v)
    )  # fmt: skip
    scores = q @ k.mT * rule.scale
    if rule.softcap:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    if bias is not None:
        scores = scores + bias
    if slopes is not None:
        i = torch.arange(queries, device=q.device)[:, None]
        place = i + (ends[1] - ends[0]).view(-1, 1, 1, 1) if rule.bottom else i
        far = (place - torch.arange(keys, device=q.device)).abs()
        scores = scores - slopes[..., None, None] * far
    scores = scores.masked_fill(~(open_ if mask is None else open_ & mask), -torch.inf)
    top = scores.detach().amax(-1, keepdim=True) if keys else scores.new_zeros(*q.shape[:3], 1)
    top = top.masked_fill(top == -torch.inf, 0)
    weights = torch.exp(scores - top)
    total = weights.sum(-1, keepdim=True)
    none = total == 0
    total = total.masked_fill(none, 1)
    lse = (top + torch.log(total)).masked_fill(none, -torch.inf)[..., 0]
    weights = weights / total
    if rule.dropout:
        keep = kept(rule, (rows, heads, queries, keys), sizes or (queries, keys), q.device)
        weights = weights * keep / (1 - rule.dropout)
    return (weights @ v).to(given), lse
