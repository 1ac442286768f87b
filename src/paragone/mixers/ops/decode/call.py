r"""`decode_attention`: a few queries a row, a long cache, the result by the back end that serves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paragone.kernels import choice
from paragone.mixers.ops.decode.reference import decode_reference

__all__ = ["MOST_QUERIES", "decode_attention"]

MOST_QUERIES = 8
"""Queries of a row up to which the decode kernel is the one to take."""


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    *,
    queries: Tensor | None = None,
    table: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    causal: bool = True,
    sinks: Tensor | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Any:
    """Attention of the last few tokens of each row to all of its keys in a cache.

    Prefer it to `attention` for decoding and for checking drafts: keys and values are read once,
    for all heads of a group and all queries together. No gradient flows through it.

    Args:
        q: (B, H, T, D), T small.
        k: (B, G, C, D) keys with room for C, H a multiple of G; or (P, G, page, D) with `table`.
        v: (B, G, C, E) values; a view of the first E columns of k is read only once.
        lengths: (B,) keys that count in each row; what lies behind them may be anything.
        queries: (B,) queries that count (None: all T). The last one stands at the last key.
        table: (B, pages) numbers of the pages of each row; entries behind a row's end may be wild.
        scale: Factor of the scores (None: 1 / sqrt(D)).
        softcap: c in `c tanh(scores / c)`.
        window: Keys up to the query's place that it sees, itself included.
        causal: Whether a query sees only the keys up to its own place.
        sinks: (H,) logits of a key without value.
        return_lse: Whether to return the (B, H, T) natural logarithms, too (without the sinks).
        backend: "auto", or a name from `paragone.kernels.choice.backends("decode_attention")`.

    Returns:
        (B, H, T, E) of the type of q, or a pair; 0 and -inf where a query sees no key.

    Raises:
        ValueError: Shapes that do not fit.

    Example:
        >>> q, cache = torch.randn(1, 8, 1, 16), torch.randn(1, 2, 100, 16)
        >>> decode_attention(q, cache, cache, torch.tensor([70])).shape
        torch.Size([1, 8, 1, 16])
    """
    _checked(q, k, v, lengths, table)
    name = choice.choose("decode_attention", backend, device=q.device.type, dtype=q.dtype)
    assert name == "torch"
    out, lse = decode_reference(
        q, k, v, lengths, queries=queries, table=table, scale=scale, softcap=softcap,
        window=window, causal=causal, sinks=sinks,
    )  # fmt: skip
    return (out, lse) if return_lse else out


def _checked(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, table: Tensor | None) -> None:
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4 or k.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"q of shape {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: (B, H, T, D), "
            "(B, G, C, D) and (B, G, C, E) are expected"
        )
    rows, heads, _, width = q.shape
    if k.shape[3] != width or k.shape[1] == 0 or heads % k.shape[1]:
        raise ValueError(
            f"q has {heads} heads of width {width}, k {k.shape[1]} of {k.shape[3]}: widths must "
            "agree, and the heads be a multiple of the key heads"
        )
    held = rows if table is not None else k.shape[0]
    if lengths.shape != (rows,) or held != rows or (table is not None and len(table) != rows):
        raise ValueError(
            f"q has {rows} rows, the cache {held}, lengths has shape {tuple(lengths.shape)}: they "
            "must agree"
        )


choice.register("decode_attention", {"torch": lambda device, dtype: None})
