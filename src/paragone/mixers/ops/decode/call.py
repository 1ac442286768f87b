"""`decode_attention`: a few queries a row and a long cache, by the back end that serves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.kernels import choice
from paragone.kernels.launch import serves
from paragone.kernels.teams import share
from paragone.mixers.ops.decode.reference import decode_reference

__all__ = ["MOST_QUERIES", "decode_attention"]

MOST_QUERIES = 8
"""Queries of a row up to which the decode kernel is the one to take."""
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_SPAN = 1024
_MANY_PAIRS = 64
_LOG2E = 1.4426950408889634


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
    span: int | None = None,
    backend: str = "auto",
) -> Any:
    """Attention of the last few tokens of each row to all of its keys in a cache.

    Prefer it to `attention` for decoding and for checking drafts: keys and values are read once,
    for all heads of a group and all queries together. No gradient flows through it.

    Args:
        q: (B, H, T, D), T small.
        k: (B, G, C, D) keys with room for C, H a multiple of G; or (P, G, page, D) with `table`.
            Of any type, whatever that of q; the sums are in float32.
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
        span: Keys that a unit of work takes at most, a multiple of 64 (None: by the sizes).
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
    kind = k.dtype if k.dtype == v.dtype else None
    name = choice.choose(
        "decode_attention",
        backend,
        device=q.device.type,
        dtype=q.dtype,
        stored=kind,
        named=backend,
        page=0 if table is None else k.shape[2],
    )
    if name in ("numba", "triton"):
        form = _by_kernel
        if name == "triton":
            from paragone.mixers.ops.attention.attention_triton_decode import decode_call as form
        out, lse = form(
            q, k, v, lengths, queries, table, q.shape[3] ** -0.5 if scale is None else scale,
            softcap or 0.0, window or 0, causal, sinks, span,
        )  # fmt: skip
    else:
        out, lse = decode_reference(
            q, k, v, lengths, queries=queries, table=table, scale=scale, softcap=softcap,
            window=window, causal=causal, sinks=sinks,
        )  # fmt: skip
    return (out, lse) if return_lse else out


def _by_kernel(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, queries: Tensor | None,
    table: Tensor | None, scale: float, softcap: float, window: int, causal: bool,
    sinks: Tensor | None, span: int | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    from paragone.mixers.ops.decode._cpu_kernel import decode_kernel

    given = q.dtype
    q = q.detach().float()
    q, k, v = (x if x.stride(3) == 1 or x.shape[3] == 1 else x.contiguous() for x in (q, k, v))
    lengths = lengths.to(torch.int64).contiguous()
    queries = None if queries is None else queries.to(torch.int64).contiguous()
    table = None if table is None else table.to(torch.int64).contiguous()
    sinks = None if sinks is None else sinks.detach().float().contiguous()
    rows, heads, time, depth = q.shape
    groups, held, values = v.shape[1:]
    page = 0 if table is None else held
    keys = held if table is None else held * table.shape[1]
    kind = _KINDS[k.dtype]
    shared = k.data_ptr() == v.data_ptr() and k.stride() == v.stride() and values <= depth
    width = _tile_width(depth, narrow=kind > 0)
    pairs = rows * groups
    if span is None:
        span = _SPAN if pairs < _MANY_PAIRS else max(64, keys + -keys % 64)
    splits = max(1, -(-keys // span))
    out = torch.empty(rows, time, heads, values)
    lse = torch.empty(rows, heads, time)
    queries_of_pair = heads // groups * time
    padded = queries_of_pair + (-queries_of_pair % 4 if queries_of_pair > 1 else 0)
    partial = torch.empty(pairs * splits * padded * (2 + values + -values % 64))
    done = torch.zeros(max(pairs, 1), dtype=torch.int64)
    facts = np.array([
        q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), lse.data_ptr(),
        lengths.data_ptr(), 0 if queries is None else queries.data_ptr(),
        0 if table is None else table.data_ptr(), 0 if sinks is None else sinks.data_ptr(),
        partial.data_ptr(), done.data_ptr(), rows, heads, groups, time, depth, values,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        kind, width, splits, span, window, causal, page, 0 if table is None else table.shape[1],
        shared, sinks is not None,
    ], np.int64)  # fmt: skip
    before, after = (scale / softcap, softcap * _LOG2E) if softcap else (scale * _LOG2E, 0.0)
    work = pairs * keys * (depth + values)
    threads = torch.get_num_threads() if work > 1 << 18 else 1
    units = pairs * splits if time else 0
    share(decode_kernel, units, facts, before, after, threads=threads)
    return out.transpose(1, 2).to(given), lse


def _tile_width(depth: int, narrow: bool) -> int:
    """Keys of a tile: what stays in the core's first cache; a divisor of 64."""
    room = (16384 if narrow else 32768) // (4 * depth)
    return 64 if room >= 64 else 32 if room >= 32 else 16


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


def _on_gpu(
    device: str, dtype: torch.dtype, stored: torch.dtype | None, named: str = "auto", page: int = 0
) -> str | None:
    return serves(device, dtype, named) or serves(device, stored, named)


def _on_cpu(
    device: str, dtype: torch.dtype, stored: torch.dtype | None, named: str = "auto", page: int = 0
) -> str | None:
    if device != "cpu":
        return f"runs on the CPU, and the tensors are on {device}"
    if dtype not in _KINDS or stored not in _KINDS:
        return f"sums in float32, and the tensors are {dtype} and {stored}"
    if page % 64:
        return f"reads 64 keys at once, and pages have {page}: a multiple of 64 is needed"
    return None


choice.register("decode_attention", {
    "triton": _on_gpu, "numba": _on_cpu,
    "torch": lambda device, dtype, stored, named="auto", page=0: None,
})  # fmt: skip
