r"""The forward kernel of exact attention: one tile of queries goes once over the keys it sees.

With the running maximum $m$ and sum $l$ in powers of two (the online softmax),

$$ m' = \max(m, \max_j z_{ij}), \quad l' = 2^{m - m'} l + \sum_j 2^{z_{ij} - m'}, \quad
   o' = 2^{m - m'} o + \sum_j 2^{z_{ij} - m'} v_j , $$

and at the end $o / l$ and the natural $\mathrm{LSE} = \ln 2\, m + \ln l$. A query that sees
nothing gives 0 and $-\infty$.

Programs go by tiles from the last to the first, all heads of one tile together: under a causal
mask the heavy ones start first, and heads that share keys run side by side. A launch of fewer
programs than tiles has each walk through several.

References:
    Dao (2023), "FlashAttention-2", arXiv:2307.08691, algorithm 1.
    Milakov and Gimelshein (2018), arXiv:1805.02867, algorithm 3.
"""

# Triton's compiler gives these functions their meaning, Python's types do not.
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportArgumentType=false

import triton
import triton.language as tl

from paragone.mixers.ops.attention.attention_triton_parts import (
    BIAS,
    BLOCKS,
    BOTTOM,
    DROP,
    EXACT,
    LEFT,
    LN2,
    MASK,
    PACKED,
    at_row,
    block_of,
    kept,
    key_blocks,
    logits,
    put_block,
    span,
    visited,
)  # fmt: skip

__all__ = ["forward_kernel"]


@triton.jit
def _sweep(
    state, q, k_row, v_row, lo, hi, first, where, steps, terms, order, D: tl.constexpr,
    E: tl.constexpr, WIDTH_D: tl.constexpr, WIDTH_E: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, BAND: tl.constexpr, FLAGS: tl.constexpr, SPECIAL: tl.constexpr,
):  # fmt: skip
    PRECISION: tl.constexpr = "tf32x3" if EXACT & FLAGS else "tf32"
    STRIDE: tl.constexpr = 1 if BLOCKS & FLAGS else COLUMNS
    keys = where[4]
    m, total, o = state
    i = (first + tl.arange(0, ROWS))[:, None]
    for turn in tl.range(lo, hi, STRIDE, warp_specialize=SPECIAL):
        start = visited(turn, order, FLAGS)
        j = (start + tl.arange(0, COLUMNS))[None, :]
        k = block_of(k_row, start, steps.k[2], keys, COLUMNS, D, WIDTH_D, BAND)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        z = logits(s, i, j, where, terms, BAND, FLAGS)[0]
        largest = tl.maximum(m, tl.max(z, 1))
        base = largest
        if BAND or (BIAS | MASK | BLOCKS) & FLAGS:
            base = tl.where(largest == float("-inf"), 0.0, largest)
        p = tl.exp2(z - base[:, None])
        fade = tl.exp2(m - base)
        total = total * fade + tl.sum(p, 1)
        if DROP & FLAGS:
            p = tl.where(kept(i, j, where, terms), p, 0.0)
        v = block_of(v_row, start, steps.v[2], keys, COLUMNS, E, WIDTH_E, BAND)
        o = tl.dot(p.to(v.dtype), v, o * fade[:, None], input_precision=PRECISION)
        m = largest
    return m, total, o


@triton.jit
def forward_kernel(
    q, k, v, out, lse, steps, rows, terms, D: tl.constexpr, E: tl.constexpr,
    WIDTH_D: tl.constexpr, WIDTH_E: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    FLAGS: tl.constexpr, SPECIAL: tl.constexpr,
):  # fmt: skip
    """`steps` has those of q, k, v, out and lse, each of (row, head, token)."""
    tiles = (rows.queries + ROWS - 1) // ROWS
    for work in range(tl.program_id(0), tiles * rows.rows * rows.heads, tl.num_programs(0)):
        head, row = work % rows.heads, (work // rows.heads) % rows.rows
        tile = tiles - 1 - work // (rows.heads * rows.rows)
        first = tile * ROWS
        start_q, queries = span(rows.places_q, row, rows.queries, FLAGS)
        start_k, keys = span(rows.places_k, row, rows.keys, FLAGS)
        shift = (keys - queries) if BOTTOM & FLAGS else keys * 0
        where = (row, head, rows.heads, queries, keys, shift)
        q_row = at_row(q, steps.q, row, head, start_q)
        k_row = at_row(k, steps.k, row, head // rows.group, start_k)
        v_row = at_row(v, steps.v, row, head // rows.group, start_k)
        m = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        state = m, total, tl.zeros([ROWS, WIDTH_E], tl.float32)
        x = block_of(q_row, first, steps.q[2], queries, ROWS, D, WIDTH_D, True)
        if BLOCKS & FLAGS:
            place = at_row(terms.counts, terms.count_steps, row, head, tile)
            state = _sweep(
                state, x, k_row, v_row, 0, tl.load(place).to(tl.int32), first, where, steps, terms,
                at_row(terms.order, terms.order_steps, row, head, tile), D, E, WIDTH_D, WIDTH_E,
                ROWS, COLUMNS, True, FLAGS, SPECIAL,
            )  # fmt: skip
        else:
            lo, inner, outer, hi = key_blocks(first, where, terms, ROWS, COLUMNS, FLAGS)
            if LEFT & FLAGS:
                state = _sweep(
                    state, x, k_row, v_row, lo, inner, first, where, steps, terms, None, D, E,
                    WIDTH_D, WIDTH_E, ROWS, COLUMNS, True, FLAGS, False,
                )  # fmt: skip
            state = _sweep(
                state, x, k_row, v_row, inner, outer, first, where, steps, terms, None, D, E,
                WIDTH_D, WIDTH_E, ROWS, COLUMNS, False, FLAGS, SPECIAL,
            )  # fmt: skip
            state = _sweep(
                state, x, k_row, v_row, outer, hi, first, where, steps, terms, None, D, E,
                WIDTH_D, WIDTH_E, ROWS, COLUMNS, True, FLAGS, False,
            )  # fmt: skip
        m, total, o = state
        i = first + tl.arange(0, ROWS)
        there = (total > 0) & (i < queries)
        sure = tl.where(there, total, 1.0)
        o = tl.where(there[:, None], o * (terms.gain / sure)[:, None], 0.0)
        found = tl.where(there, m * LN2 + tl.log2(sure) * LN2, float("-inf"))
        limit = queries if PACKED & FLAGS else rows.queries
        out_row = at_row(out, steps.out, row, head, start_q)
        put_block(out_row, first, steps.out[2], limit, o, ROWS, E, WIDTH_E)
        tl.store(at_row(lse, steps.lse, row, head, start_q) + i, found, mask=i < limit)
