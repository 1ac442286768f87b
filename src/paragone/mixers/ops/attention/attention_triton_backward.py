r"""The backward kernels of exact attention: two passes without atomics, and one for the bias.

Probabilities are made again from the stored log-sum-exp. With $\Delta_i = \mathrm{d}o_i^\top o_i -
\mathrm{d}\mathrm{LSE}_i$ in float32 and the dropout factor $r_{ij} \in \{0, 1/(1-\rho)\}$,

$$ p_{ij} = 2^{z_{ij} - \log_2 e\,\mathrm{LSE}_i}, \quad
   \mathrm{d}v_j = \sum_i r_{ij} p_{ij}\,\mathrm{d}o_i, \quad
   g_{ij} = p_{ij}\,(r_{ij}\,\mathrm{d}o_i^\top v_j - \Delta_i), $$
$$ \mathrm{d}k_j = \tau \sum_i g_{ij} t'_{ij} q_i, \quad
   \mathrm{d}q_i = \tau \sum_j g_{ij} t'_{ij} k_j, \quad \mathrm{d}b_{ij} = g_{ij} , $$

where $t' = 1 - \tanh^2$ under a softcap. `keys_kernel` holds a tile of keys and goes over all
queries of all heads that share them (the sum over the group is in float32), `queries_kernel` holds
a tile of queries; each number is written once, so results are the same in every run.
`bias_kernel` sums $g$ over whatever axes the bias is broadcast along.

References:
    Dao (2023), "FlashAttention-2", arXiv:2307.08691, algorithm 2.
"""

# Triton's compiler gives these functions their meaning, Python's types do not.
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportArgumentType=false

import triton
import triton.language as tl

from paragone.mixers.ops.attention.attention_triton_parts import (
    ALIBI,
    BLOCKS,
    BOTTOM,
    CAP,
    DROP,
    EXACT,
    LEFT,
    LOG2E,
    PACKED,
    RIGHT,
    at_row,
    block_of,
    column,
    kept,
    key_blocks,
    logits,
    long,
    put_block,
    query_blocks,
    span,
    visited,
)  # fmt: skip

__all__ = ["bias_kernel", "delta_kernel", "keys_kernel", "queries_kernel"]


@triton.jit
def delta_kernel(
    out, dout, dlse, delta, steps, rows, heads, queries, E: tl.constexpr, WIDTH_E: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Delta of a tile of one row and head; dlse has the steps of lse."""
    head, row = tl.program_id(0) % heads, (tl.program_id(0) // heads) % rows
    first = tl.program_id(0) // (heads * rows) * ROWS
    start = long(0)
    out_row = at_row(out, steps.out, row, head, start)
    dout_row = at_row(dout, steps.dout, row, head, start)
    o = block_of(out_row, first, steps.out[2], queries, ROWS, E, WIDTH_E, True)
    do = block_of(dout_row, first, steps.dout[2], queries, ROWS, E, WIDTH_E, True)
    place = at_row(0, steps.lse, row, head, start)
    found = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    found = found - column(dlse + place, first, queries, 0.0, ROWS)
    i = first + tl.arange(0, ROWS)
    tl.store(delta + place + i, found, mask=i < queries)


@triton.jit
def _gradient(s, dp, i, j, lse, delta, where, terms, BAND: tl.constexpr, FLAGS: tl.constexpr):
    """(r p, g, g t'): what dv, the bias and the products s get."""
    z, t = logits(s, i, j, where, terms, BAND, FLAGS)
    # A row that saw nothing has -inf; against +inf nothing of it is left, and no NaN is made.
    p = tl.exp2(z - tl.where(lse == float("-inf"), float("inf"), lse * LOG2E))
    shown = p
    if DROP & FLAGS:
        stays = kept(i, j, where, terms)
        shown = tl.where(stays, p * terms.gain, 0.0)
        dp = tl.where(stays, dp * terms.gain, 0.0)
    g = p * (dp - delta)
    inner = g
    if CAP & FLAGS:
        inner = g * (1.0 - t * t)
    return shown, g, inner


@triton.jit
def _over_queries(
    sums, k, v, q_row, do_row, lse_row, delta_row, lo, hi, first, where, steps, terms, order,
    D: tl.constexpr, E: tl.constexpr, WIDTH_D: tl.constexpr, WIDTH_E: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BAND: tl.constexpr, FLAGS: tl.constexpr,
):  # fmt: skip
    PRECISION: tl.constexpr = "tf32x3" if EXACT & FLAGS else "tf32"
    STRIDE: tl.constexpr = 1 if BLOCKS & FLAGS else ROWS
    dk, dv = sums
    queries = where[3]
    j = (first + tl.arange(0, COLUMNS))[:, None]
    for turn in tl.range(lo, hi, STRIDE):
        start = visited(turn, order, FLAGS)
        i = (start + tl.arange(0, ROWS))[None, :]
        q = block_of(q_row, start, steps.q[2], queries, ROWS, D, WIDTH_D, True)
        do = block_of(do_row, start, steps.dout[2], queries, ROWS, E, WIDTH_E, True)
        lse = column(lse_row, start, queries, float("-inf"), ROWS)[None, :]
        delta = column(delta_row, start, queries, 0.0, ROWS)[None, :]
        s = tl.dot(k, tl.trans(q), input_precision=PRECISION)
        dp = tl.dot(v, tl.trans(do), input_precision=PRECISION)
        shown, _g, inner = _gradient(s, dp, i, j, lse, delta, where, terms, BAND, FLAGS)
        dv = tl.dot(shown.to(do.dtype), do, dv, input_precision=PRECISION)
        dk = tl.dot(inner.to(q.dtype), q, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit
def keys_kernel(
    q, k, v, dout, lse, delta, dk, dv, steps, rows, terms, D: tl.constexpr, E: tl.constexpr,
    WIDTH_D: tl.constexpr, WIDTH_E: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    FLAGS: tl.constexpr,
):  # fmt: skip
    """Dk and dv of one tile of keys; under a causal mask the first tiles are the heavy ones."""
    kv_heads = rows.heads // rows.group
    kv_head, row = tl.program_id(0) % kv_heads, (tl.program_id(0) // kv_heads) % rows.rows
    tile = tl.program_id(0) // (kv_heads * rows.rows)
    first = tile * COLUMNS
    start_q, queries = span(rows.places_q, row, rows.queries, FLAGS)
    start_k, keys = span(rows.places_k, row, rows.keys, FLAGS)
    shift = (keys - queries) if BOTTOM & FLAGS else keys * 0
    k_row = at_row(k, steps.k, row, kv_head, start_k)
    v_row = at_row(v, steps.v, row, kv_head, start_k)
    mine = block_of(k_row, first, steps.k[2], keys, COLUMNS, D, WIDTH_D, True)
    values = block_of(v_row, first, steps.v[2], keys, COLUMNS, E, WIDTH_E, True)
    sum_k = tl.zeros([COLUMNS, WIDTH_D], tl.float32)
    sum_v = tl.zeros([COLUMNS, WIDTH_E], tl.float32)
    for member in range(rows.group):
        head = kv_head * rows.group + member
        where = (row, head, rows.heads, queries, keys, shift)
        q_row = at_row(q, steps.q, row, head, start_q)
        do_row = at_row(dout, steps.dout, row, head, start_q)
        lse_row = at_row(lse, steps.lse, row, head, start_q)
        delta_row = at_row(delta, steps.lse, row, head, start_q)
        if BLOCKS & FLAGS:
            count = tl.load(at_row(terms.counts, terms.count_steps, row, head, tile)).to(tl.int32)
            sum_k, sum_v = _over_queries(
                (sum_k, sum_v), mine, values, q_row, do_row, lse_row, delta_row, 0, count, first,
                where, steps, terms, at_row(terms.order, terms.order_steps, row, head, tile), D, E,
                WIDTH_D, WIDTH_E, ROWS, COLUMNS, True, FLAGS,
            )  # fmt: skip
        else:
            lo, inner, outer, hi = query_blocks(first, where, terms, ROWS, COLUMNS, FLAGS)
            if RIGHT & FLAGS:
                sum_k, sum_v = _over_queries(
                    (sum_k, sum_v), mine, values, q_row, do_row, lse_row, delta_row, lo, inner,
                    first, where, steps, terms, None, D, E, WIDTH_D, WIDTH_E, ROWS, COLUMNS, True,
                    FLAGS,
                )  # fmt: skip
            sum_k, sum_v = _over_queries(
                (sum_k, sum_v), mine, values, q_row, do_row, lse_row, delta_row, inner, outer,
                first, where, steps, terms, None, D, E, WIDTH_D, WIDTH_E, ROWS, COLUMNS, False,
                FLAGS,
            )  # fmt: skip
            if LEFT & FLAGS:
                sum_k, sum_v = _over_queries(
                    (sum_k, sum_v), mine, values, q_row, do_row, lse_row, delta_row, outer, hi,
                    first, where, steps, terms, None, D, E, WIDTH_D, WIDTH_E, ROWS, COLUMNS, True,
                    FLAGS,
                )  # fmt: skip
    limit = keys if PACKED & FLAGS else rows.keys
    beyond = (first + tl.arange(0, COLUMNS) >= keys)[:, None]
    sum_k = tl.where(beyond, 0.0, sum_k * terms.scale)
    sum_v = tl.where(beyond, 0.0, sum_v)
    dk_row = at_row(dk, steps.dk, row, kv_head, start_k)
    dv_row = at_row(dv, steps.dv, row, kv_head, start_k)
    put_block(dk_row, first, steps.dk[2], limit, sum_k, COLUMNS, D, WIDTH_D)
    put_block(dv_row, first, steps.dv[2], limit, sum_v, COLUMNS, E, WIDTH_E)


@triton.jit
def _over_keys(
    sums, q, do, lse, delta, k_row, v_row, lo, hi, first, where, steps, terms, order,
    D: tl.constexpr, E: tl.constexpr, WIDTH_D: tl.constexpr, WIDTH_E: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BAND: tl.constexpr, FLAGS: tl.constexpr,
):  # fmt: skip
    PRECISION: tl.constexpr = "tf32x3" if EXACT & FLAGS else "tf32"
    STRIDE: tl.constexpr = 1 if BLOCKS & FLAGS else COLUMNS
    dq, pull = sums
    keys, shift = where[4], where[5]
    i = (first + tl.arange(0, ROWS))[:, None]
    for turn in tl.range(lo, hi, STRIDE):
        start = visited(turn, order, FLAGS)
        j = (start + tl.arange(0, COLUMNS))[None, :]
        k = block_of(k_row, start, steps.k[2], keys, COLUMNS, D, WIDTH_D, BAND)
        v = block_of(v_row, start, steps.v[2], keys, COLUMNS, E, WIDTH_E, BAND)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
        _shown, g, inner = _gradient(s, dp, i, j, lse, delta, where, terms, BAND, FLAGS)
        if ALIBI & FLAGS:
            pull += tl.sum(g * tl.abs(i + shift - j).to(tl.float32), 1)
        dq = tl.dot(inner.to(k.dtype), k, dq, input_precision=PRECISION)
    return dq, pull


@triton.jit
def queries_kernel(
    q, k, v, dout, lse, delta, dq, pull, steps, rows, terms, D: tl.constexpr, E: tl.constexpr,
    WIDTH_D: tl.constexpr, WIDTH_E: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    FLAGS: tl.constexpr,
):  # fmt: skip
    """Dq of one tile of queries, the last tiles first; pull is what each does to its slope."""
    tiles = (rows.queries + ROWS - 1) // ROWS
    head, row = tl.program_id(0) % rows.heads, (tl.program_id(0) // rows.heads) % rows.rows
    tile = tiles - 1 - tl.program_id(0) // (rows.heads * rows.rows)
    first = tile * ROWS
    start_q, queries = span(rows.places_q, row, rows.queries, FLAGS)
    start_k, keys = span(rows.places_k, row, rows.keys, FLAGS)
    shift = (keys - queries) if BOTTOM & FLAGS else keys * 0
    where = (row, head, rows.heads, queries, keys, shift)
    k_row = at_row(k, steps.k, row, head // rows.group, start_k)
    v_row = at_row(v, steps.v, row, head // rows.group, start_k)
    q_row = at_row(q, steps.q, row, head, start_q)
    do_row = at_row(dout, steps.dout, row, head, start_q)
    x = block_of(q_row, first, steps.q[2], queries, ROWS, D, WIDTH_D, True)
    do = block_of(do_row, first, steps.dout[2], queries, ROWS, E, WIDTH_E, True)
    lse_row = at_row(lse, steps.lse, row, head, start_q)
    delta_row = at_row(delta, steps.lse, row, head, start_q)
    sure = column(lse_row, first, queries, float("-inf"), ROWS)[:, None]
    part = column(delta_row, first, queries, 0.0, ROWS)[:, None]
    sums = tl.zeros([ROWS, WIDTH_D], tl.float32), tl.zeros([ROWS], tl.float32)
    if BLOCKS & FLAGS:
        count = tl.load(at_row(terms.counts, terms.count_steps, row, head, tile)).to(tl.int32)
        sums = _over_keys(
            sums, x, do, sure, part, k_row, v_row, 0, count, first, where, steps, terms,
            at_row(terms.order, terms.order_steps, row, head, tile), D, E, WIDTH_D, WIDTH_E, ROWS,
            COLUMNS, True, FLAGS,
        )  # fmt: skip
    else:
        lo, inner, outer, hi = key_blocks(first, where, terms, ROWS, COLUMNS, FLAGS)
        if LEFT & FLAGS:
            sums = _over_keys(
                sums, x, do, sure, part, k_row, v_row, lo, inner, first, where, steps, terms, None,
                D, E, WIDTH_D, WIDTH_E, ROWS, COLUMNS, True, FLAGS,
            )  # fmt: skip
        sums = _over_keys(
            sums, x, do, sure, part, k_row, v_row, inner, outer, first, where, steps, terms, None,
            D, E, WIDTH_D, WIDTH_E, ROWS, COLUMNS, False, FLAGS,
        )  # fmt: skip
        sums = _over_keys(
            sums, x, do, sure, part, k_row, v_row, outer, hi, first, where, steps, terms, None,
            D, E, WIDTH_D, WIDTH_E, ROWS, COLUMNS, True, FLAGS,
        )  # fmt: skip
    limit = queries if PACKED & FLAGS else rows.queries
    dq_row = at_row(dq, steps.dq, row, head, start_q)
    put_block(dq_row, first, steps.dq[2], limit, sums[0] * terms.scale, ROWS, D, WIDTH_D)
    if ALIBI & FLAGS:
        i = first + tl.arange(0, ROWS)
        tl.store(at_row(pull, steps.lse, row, head, start_q) + i, -sums[1], mask=i < limit)


@triton.jit
def bias_kernel(
    q, k, v, dout, lse, delta, dbias, dbias_steps, own_rows, own_heads, steps, rows, terms,
    D: tl.constexpr, E: tl.constexpr, WIDTH_D: tl.constexpr, WIDTH_E: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, OVER_I: tl.constexpr, OVER_J: tl.constexpr,
    FLAGS: tl.constexpr,
):  # fmt: skip
    """The bias's gradient in one tile, summed over the rows and heads that share it.

    Where the bias is the same for all queries (OVER_I) or keys (OVER_J), the tile's own sum is
    written, one for each tile.
    """
    PRECISION: tl.constexpr = "tf32x3" if EXACT & FLAGS else "tf32"
    first_i, first_j = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    own_row, own_head = tl.program_id(2) // own_heads, tl.program_id(2) % own_heads
    i = (first_i + tl.arange(0, ROWS))[:, None]
    j = (first_j + tl.arange(0, COLUMNS))[None, :]
    shared = rows.heads // own_heads
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for work in range((rows.rows // own_rows) * shared):
        row = own_row + work // shared
        head = own_head + work % shared
        start_q, queries = span(rows.places_q, row, rows.queries, FLAGS)
        start_k, keys = span(rows.places_k, row, rows.keys, FLAGS)
        shift = (keys - queries) if BOTTOM & FLAGS else keys * 0
        where = (row, head, rows.heads, queries, keys, shift)
        q_row = at_row(q, steps.q, row, head, start_q)
        do_row = at_row(dout, steps.dout, row, head, start_q)
        k_row = at_row(k, steps.k, row, head // rows.group, start_k)
        v_row = at_row(v, steps.v, row, head // rows.group, start_k)
        x = block_of(q_row, first_i, steps.q[2], queries, ROWS, D, WIDTH_D, True)
        do = block_of(do_row, first_i, steps.dout[2], queries, ROWS, E, WIDTH_E, True)
        y = block_of(k_row, first_j, steps.k[2], keys, COLUMNS, D, WIDTH_D, True)
        w = block_of(v_row, first_j, steps.v[2], keys, COLUMNS, E, WIDTH_E, True)
        lse_row = at_row(lse, steps.lse, row, head, start_q)
        delta_row = at_row(delta, steps.lse, row, head, start_q)
        sure = column(lse_row, first_i, queries, float("-inf"), ROWS)[:, None]
        part = column(delta_row, first_i, queries, 0.0, ROWS)[:, None]
        s = tl.dot(x, tl.trans(y), input_precision=PRECISION)
        dp = tl.dot(do, tl.trans(w), input_precision=PRECISION)
        total += _gradient(s, dp, i, j, sure, part, where, terms, True, FLAGS)[1]
    base = at_row(dbias, dbias_steps, own_row, own_head, long(0))
    at_i, at_j = first_i + tl.arange(0, ROWS), first_j + tl.arange(0, COLUMNS)
    if OVER_I and OVER_J:
        place = long(tl.program_id(0)) * dbias_steps[2] + tl.program_id(1)
        tl.store(base + place, tl.sum(tl.sum(total, 1), 0))
    elif OVER_I:
        place = long(tl.program_id(0)) * dbias_steps[2] + at_j
        tl.store(base + place, tl.sum(total, 0), mask=at_j < rows.keys)
    elif OVER_J:
        place = at_i.to(tl.int64) * dbias_steps[2] + tl.program_id(1)
        tl.store(base + place, tl.sum(total, 1), mask=at_i < rows.queries)
    else:
        place = i.to(tl.int64) * dbias_steps[2] + j
        tl.store(base + place, total, mask=(i < rows.queries) & (j < rows.keys))
