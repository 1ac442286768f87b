r"""Decoding in Triton: a few queries a row, a long cache, split along the keys.

One program holds all queries of a key head, $T$ of each of its heads, and goes over one span of
keys, so that keys and values are read once whatever the group. Each span $s$ leaves its own
softmax, put together afterwards by the logarithms of the sums:

$$ m = \max_s \ell_s, \quad w_s = e^{\ell_s - m}, \quad
   o = \frac{\sum_s w_s o_s}{\sum_s w_s + e^{z - m}}, \quad \ell = m + \ln \sum_s w_s , $$

with the logit z of a sink, if there is one. Keys lie in a row of their own or in pages that a
table names; entries behind a row's end are never looked at. A width that is no power of two is
taken as the largest one in it and a rest, 576 as 512 + 64; values that are a view of the first
columns of the keys are not read again (the latent of MLA).

References:
    Dao et al. (2023), "Flash-Decoding for long-context inference".
    Kwon et al. (2023), arXiv:2309.06180 (pages). DeepSeek-AI (2024), arXiv:2405.04434 (the latent).

Shapes: B rows, H heads, G key heads, T queries, C capacity, D and E widths, P pages, S spans.
"""

# Triton's compiler gives these functions their meaning, Python's types do not.
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from paragone.kernels.device import tanh
from paragone.kernels.launch import check, grid, interpreting, power_of_two, processors, start
from paragone.mixers.ops.attention.attention_triton_parts import LN2, LOG2E, long

__all__ = ["combine_kernel", "decode_call", "decode_kernel"]

_QUERIES = tl.constexpr(1)
_PAGED = tl.constexpr(2)
_CAP = tl.constexpr(4)
_WINDOW = tl.constexpr(8)
_CAUSAL = tl.constexpr(16)
_SHARED = tl.constexpr(32)
_EXACT = tl.constexpr(64)
_SINK = tl.constexpr(128)
_LEAST_SPAN = 256
_WIDEST = 1024


@triton.jit
def _columns(places, inside, FIRST: tl.constexpr, END: tl.constexpr, WIDTH: tl.constexpr):
    """(keys, WIDTH) of the columns from FIRST on, zero from END on."""
    c = FIRST + tl.arange(0, WIDTH)
    mask = inside[:, None] & (c < END)[None, :]
    return tl.load(places[:, None] + c[None, :], mask=mask, other=0.0).to(places.dtype.element_ty)


@triton.jit
def decode_kernel(
    q, k, v, lengths, queries, table, parts, sums, q_steps, k_steps, v_steps, table_step, groups,
    group, time, page, span, scale, cap, window, D: tl.constexpr, E: tl.constexpr,
    MAIN: tl.constexpr, REST: tl.constexpr, WIDTH_E: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, FLAGS: tl.constexpr,
):  # fmt: skip
    """One span of one key head: parts (S, B, H, T, E) and sums (S, B, H, T), both contiguous."""
    PRECISION: tl.constexpr = "tf32x3" if _EXACT & FLAGS else "tf32"
    row, key_head = tl.program_id(0) // groups, tl.program_id(0) % groups
    keys = tl.load(lengths + row).to(tl.int32)
    own = tl.full([], time, tl.int32)
    if _QUERIES & FLAGS:
        own = tl.load(queries + row).to(tl.int32)
    r = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    head, t = key_head * group + r // time, r % time
    there = (r < group * time) & (t < own)
    q_places = q + long(row) * q_steps[0] + head.to(tl.int64) * q_steps[1] + t * q_steps[2]
    x = _columns(q_places, there, 0, D, MAIN).to(k.dtype.element_ty)
    if REST > 0:
        x_rest = _columns(q_places, there, MAIN, D, REST).to(k.dtype.element_ty)
    place = (keys - own + t)[:, None]
    lo = tl.program_id(1) * span
    hi = tl.minimum(lo + span, keys)
    if _WINDOW & FLAGS:
        lo = tl.maximum(lo, tl.maximum(keys - own + 1 - window, 0) // COLUMNS * COLUMNS)
    m = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    o = tl.zeros([ROWS, WIDTH_E], tl.float32)
    for front in tl.range(lo, hi, COLUMNS):
        j = front + tl.arange(0, COLUMNS)
        inside = j < hi
        if _PAGED & FLAGS:
            at = tl.load(table + long(row) * table_step + j // page, mask=inside, other=0)
            k_places = at.to(tl.int64) * k_steps[0] + (j % page).to(tl.int64) * k_steps[2]
            v_places = at.to(tl.int64) * v_steps[0] + (j % page).to(tl.int64) * v_steps[2]
        else:
            k_places = long(row) * k_steps[0] + j.to(tl.int64) * k_steps[2]
            v_places = long(row) * v_steps[0] + j.to(tl.int64) * v_steps[2]
        k_places = k + long(key_head) * k_steps[1] + k_places
        y = _columns(k_places, inside, 0, D, MAIN)
        s = tl.dot(x, tl.trans(y), input_precision=PRECISION)
        if REST > 0:
            y_rest = _columns(k_places, inside, MAIN, D, REST)
            s = tl.dot(x_rest, tl.trans(y_rest), s, input_precision=PRECISION)
        z = tanh(s * (scale / cap)) * (cap * LOG2E) if _CAP & FLAGS else s * (scale * LOG2E)
        visible = inside[None, :] & there[:, None]
        if _CAUSAL & FLAGS:
            visible = visible & (j[None, :] <= place)
        if _WINDOW & FLAGS:
            visible = visible & (j[None, :] > place - window)
        z = tl.where(visible, z, float("-inf"))
        largest = tl.maximum(m, tl.max(z, 1))
        base = tl.where(largest == float("-inf"), 0.0, largest)
        p = tl.exp2(z - base[:, None])
        fade = tl.exp2(m - base)
        total = total * fade + tl.sum(p, 1)
        if _SHARED & FLAGS:
            w = y
        else:
            v_places = v + long(key_head) * v_steps[1] + v_places
            w = _columns(v_places, inside, 0, E, WIDTH_E)
        o = tl.dot(p.to(w.dtype), w, o * fade[:, None], input_precision=PRECISION)
        m = largest
    sure = tl.where(total > 0, total, 1.0)
    heads, rows = groups * group, tl.num_programs(0) // groups
    index = (long(tl.program_id(1)) * rows + row) * heads + head
    index = index * time + t
    stored = r < group * time
    tl.store(sums + index, tl.where(total > 0, m * LN2 + tl.log2(sure) * LN2, float("-inf")),
             mask=stored)  # fmt: skip
    c = tl.arange(0, WIDTH_E)
    mask = stored[:, None] & (c < E)[None, :]
    tl.store(parts + index[:, None] * E + c[None, :], o / sure[:, None], mask=mask)


@triton.jit
def combine_kernel(
    parts, sums, sinks, out, lse, spans, heads, time, E: tl.constexpr, WIDTH_E: tl.constexpr,
    SPANS: tl.constexpr, FLAGS: tl.constexpr,
):  # fmt: skip
    """One query of one head; out (B, H, T, E) and lse (B, H, T), both contiguous."""
    index, all_of_them = long(tl.program_id(0)), long(tl.num_programs(0))
    s, c = tl.arange(0, SPANS), tl.arange(0, WIDTH_E)
    each = tl.load(sums + s * all_of_them + index, mask=s < spans, other=float("-inf"))
    each = each.to(tl.float32)
    m = tl.max(each, 0)
    base = tl.where(m == float("-inf"), 0.0, m)
    total = tl.sum(tl.exp(each - base), 0)
    whole = total
    if _SINK & FLAGS:
        sink = tl.load(sinks + (index // time) % heads).to(tl.float32)
        # Beyond e^80 of the rest the sink takes all that float32 can tell.
        whole = total + tl.exp(tl.minimum(sink - base, 80.0))
    o = tl.zeros([WIDTH_E], tl.float32)
    for span in range(spans):
        place = span * all_of_them + index
        one = tl.load(sums + place).to(tl.float32)
        part = tl.load(parts + place * E + c, mask=c < E, other=0.0).to(tl.float32)
        o += tl.exp(one - base) * part
    seen = total > 0
    o = tl.where(seen, o / tl.where(seen, whole, 1.0), 0.0)
    tl.store(out + index * E + c, o.to(out.dtype.element_ty), mask=c < E)
    found = base + tl.log(tl.where(seen, total, 1.0))
    tl.store(lse + index, tl.where(seen, found, float("-inf")))


def decode_call(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, queries: Tensor | None,
    table: Tensor | None, scale: float, softcap: float, window: int, causal: bool,
    sinks: Tensor | None, span: int | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns (B, H, T, E) of the type of q, and (B, H, T) logarithms without the sinks.

    Args:
        q: (B, H, T, D), T small.
        k: (B, G, C, D), or (P, G, page, D) with a table.
        v: (B, G, C, E) likewise.
        lengths: (B,) keys that count.
        queries: (B,) queries that count, or None for all.
        table: (B, pages) of a row's pages, or None.
        scale: Factor of the scores.
        softcap: c, or 0 for none.
        window: Keys that a query sees up to its own place, or 0 for all.
        causal: Whether it sees none behind its place.
        sinks: (H,) logits, or None.
        span: Keys of a program, a multiple of 64 (None: by the sizes and the device).

    Raises:
        ValueError: A device, dtype or width that no kernel takes.
        RuntimeError: The tensors are on the CPU, and Triton's interpreter is not switched on.
    """
    check("decode_attention", q=q)
    check("decode_attention", k=k, v=v)
    (rows, heads, time, depth), (groups, held, values) = q.shape, v.shape[1:]
    if max(depth, values) > _WIDEST:
        raise ValueError(
            f"decode_attention: heads are {max(depth, values)} wide, at most {_WIDEST}"
        )
    q, k, v = (x if x.stride(3) == 1 or x.shape[3] == 1 else x.contiguous() for x in (q, k, v))
    out = q.new_empty(rows, heads, time, values)
    lse = torch.empty(rows, heads, time, dtype=torch.float32, device=q.device)
    capacity = held if table is None else held * table.shape[1]
    group = heads // groups
    main = 1 << (depth.bit_length() - 1) if depth > 16 else 16
    rest = 0 if depth <= main else power_of_two(depth - main)
    tall = min(power_of_two(group * time), 32 if depth > 256 else 64)
    shared = k.data_ptr() == v.data_ptr() and k.stride() == v.stride() and values == main <= depth
    span = span or _span(rows * groups * -(-group * time // tall), capacity, q.device)
    spans = max(1, -(-capacity // span))
    if not rows * heads * time:
        return out, lse
    flags = sum(flag.value for flag, wanted in (
        (_QUERIES, queries is not None), (_PAGED, table is not None), (_CAP, softcap),
        (_WINDOW, window), (_CAUSAL, causal), (_SHARED, shared), (_SINK, sinks is not None),
        (_EXACT, torch.get_float32_matmul_precision() == "highest"),
    ) if wanted)  # fmt: skip
    parts = torch.empty(spans, rows, heads, time, values, dtype=torch.float32, device=q.device)
    sums = torch.empty(spans, rows, heads, time, dtype=torch.float32, device=q.device)
    given = [x if x is None else x.to(q.device).contiguous() for x in (lengths, queries, table)]
    places = [lse if x is None else x for x in given]
    programs = grid("decode_attention", rows * groups, spans, -(-group * time // tall))
    start(decode_kernel, programs, q, k, v, *places, parts, sums, q.stride()[:3], k.stride()[:3],
            v.stride()[:3], 0 if table is None else table.shape[1], groups, group, time,
            held if table is not None else 1, span, scale, softcap, window, D=depth, E=values,
            MAIN=main, REST=rest, WIDTH_E=power_of_two(values), ROWS=tall,
            COLUMNS=64 if depth <= 256 else 32, FLAGS=flags,
            num_warps=4 if depth <= 128 else 8, num_stages=2)  # fmt: skip
    sink = sums if sinks is None else sinks.to(q.device).contiguous()
    start(combine_kernel, grid("decode_attention", rows * heads * time), parts, sums, sink, out,
            lse, spans, heads, time, E=values, WIDTH_E=power_of_two(values),
            SPANS=power_of_two(spans), FLAGS=flags, num_warps=4)  # fmt: skip
    return out, lse


def _span(programs: int, capacity: int, device: torch.device) -> int:
    """So many keys that two programs fall on each multiprocessor, a multiple of 64."""
    if interpreting():
        return 64 * max(1, -(-capacity // 128))
    wanted = max(1, 2 * processors(device) // max(programs, 1))
    each = max(_LEAST_SPAN, -(-capacity // wanted))
    return each + -each % 64
