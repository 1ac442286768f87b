r"""The decode kernel: keys and values pass through the cache of the core once, for all queries.

A unit of work is one row, one key head and one span of keys. Its queries (all heads of the group
times all new tokens) meet a tile of keys while it is in the core's own cache: products, the
running maximum and sum, and the product with the values. The spans of a row are joined by whoever
finishes the last one, in their order, so that nothing depends on the number of threads:

$$ m = \max_s m_s, \quad \ell = \sum_s 2^{m_s - m} \ell_s, \quad
   o = \sum_s 2^{m_s - m} o_s / \ell . $$

Narrow types, tails and widths that are no multiple of a vector are widened or padded into a tile
of floats first; what the inner loops see is always whole vectors.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from paragone.kernels.atomics import fetch_add, pointer
from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH,
    below,
    exp,
    exp2,
    flush_denormals,
    fma,
    largest,
    load,
    load_bf16,
    load_bf16_some,
    load_fp16,
    load_fp16_some,
    load_some,
    log2,
    maximum,
    restore_floats,
    splat,
    store,
    store_some,
    total,
    zero,
)
from paragone.kernels.tiles import TILE_COLUMNS, tile
from paragone.mixers.ops.decode._cpu_dots import dots, fetch

__all__ = ["FACTS", "decode_kernel"]

FACTS = (
    "q", "k", "v", "out", "lse", "lengths", "queries", "table", "sinks", "partial", "done",
    "rows", "heads", "groups", "time", "depth", "values",
    "q_row", "q_head", "q_time", "k_row", "k_head", "k_key", "v_row", "v_head", "v_key",
    "kind", "tile", "splits", "span", "window", "causal", "page", "pages", "shared", "use_sinks",
)  # fmt: skip
"""Names of the int64 numbers that the kernel takes; the first eleven are addresses."""

_dots4, _dots1 = dots(4), dots(1)
_tile4, _tile1 = tile(4), tile(1)
carray: Any = vars(numba)["carray"]
_LN2 = np.float32(0.6931471805599453)
_NONE = np.float32(-np.inf)
_inlined = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}


@njit(**_inlined)
def _widened(kind, singles, halves, at, row, count, full, width, into, padded):
    """Rows of any type to rows of floats, padded with zeros to whole vectors and `full` rows."""
    whole = width - width % WIDTH
    for j in range(count):
        source, target = at + j * row, j * padded
        if kind == 0:
            for c in range(0, whole, WIDTH):
                store(into, target + c, load(singles, source + c))
            if whole < width:
                store(into, target + whole, load_some(singles, source + whole, width - whole))
        elif kind == 1:
            for c in range(0, whole, WIDTH):
                store(into, target + c, load_bf16(halves, source + c))
            if whole < width:
                store(into, target + whole, load_bf16_some(halves, source + whole, width - whole))
        else:
            for c in range(0, whole, WIDTH):
                store(into, target + c, load_fp16(halves, source + c))
            if whole < width:
                store(into, target + whole, load_fp16_some(halves, source + whole, width - whole))
    for j in range(count, full):
        for c in range(0, padded, WIDTH):
            store(into, j * padded + c, zero())


@njit(**_inlined)
def _products(queries, padded_rows, padded, keys, at, row, count, scores, width,
              coming, k_at, k_row, k_width, values, v_at, v_row, v_width):  # fmt: skip
    """Scores of all queries and `count` keys, a multiple of WIDTH.

    Meanwhile it asks for what comes next: the values of this tile, and the keys of the next one.
    """
    vectors, step = padded // WIDTH, WIDTH if padded_rows == 1 else WIDTH // 4
    for j in range(0, count, step):
        for i in range(j, j + step):
            fetch(values, v_at + i * v_row, v_width)
            fetch(coming, k_at + i * k_row, k_width)
        if padded_rows == 1:
            _dots1(queries, 0, padded, keys, at + j * row, row, vectors, scores, j, width)
        else:
            for r in range(0, padded_rows, 4):
                _dots4(queries, r * padded, padded, keys, at + j * row, row, vectors,
                       scores, r * width + j, width)  # fmt: skip


@njit(**_inlined)
def _capped(scores, count, factor):
    """tanh(x) of every score x, times the factor; a series spares small x a cancellation."""
    one, edge = splat(np.float32(1.0)), splat(np.float32(0.0625))
    for j in range(0, count, WIDTH):
        x = load(scores, j)
        square = x * x
        small = fma(square, splat(np.float32(62.0 / 2835.0)), splat(np.float32(-17.0 / 315.0)))
        small = fma(square, small, splat(np.float32(2.0 / 15.0)))
        small = fma(square, small, splat(np.float32(-1.0 / 3.0)))
        small = fma(square * x, small, x)
        size = maximum(x, -x)
        decay = exp(-(size + size))
        large = (one - decay) / (one + decay)
        large = below(x, zero(), -large, large)
        store(scores, j, below(square, edge, small, large) * splat(factor))


@njit(**_inlined)
def _softened(scores, r, width, count, sums, at, padded):
    """Scores to weights against the running maximum; what was summed before is scaled to it."""
    high = splat(sums[2 * r])
    for j in range(0, count, WIDTH):
        high = maximum(load(scores, r * width + j), high)
    top = largest(high)
    if top == _NONE:
        for j in range(0, count, WIDTH):
            store(scores, r * width + j, zero())
        return
    if top != sums[2 * r]:
        scale = exp2(splat(sums[2 * r] - top))
        for c in range(0, padded, WIDTH):
            store(at, r * padded + c, load(at, r * padded + c) * scale)
        sums[2 * r + 1] *= largest(scale)
        sums[2 * r] = top
    shift, more = splat(top), zero()
    for j in range(0, count, WIDTH):
        weight = exp2(load(scores, r * width + j) - shift)
        store(scores, r * width + j, weight)
        more = more + weight
    sums[2 * r + 1] += total(more)


@njit(**_inlined)
def _hidden(scores, rows, width, first, count, low, high):
    """Takes out the keys that a query does not see."""
    for r in range(rows):
        for j in range(count):
            if first + j < low[r] or first + j >= high[r]:
                scores[r * width + j] = _NONE


@njit(**_inlined)
def _mixed(weights, width, rows, count, values, at, row, sums, padded):
    """Adds the weighted values of a tile to the sums."""
    for c in range(0, padded, TILE_COLUMNS):
        if rows == 1:
            _tile1(weights, 0, width, 1, values, at + c, row, sums, c, padded, count, 1)
        else:
            for r in range(0, rows, 4):
                _tile4(weights, r * width, width, 1, values, at + c, row,
                       sums, r * padded + c, padded, count, 1)  # fmt: skip


@njit(**_inlined)
def _joined(partial, base, splits, size, width, out, at, step, lse, lse_at, sink):
    """Joins the spans of one query; `size` floats a span: maxima and sums, then the outputs."""
    top = _NONE
    for s in range(splits):
        top = max(top, partial[base + s * size])
    if top == _NONE:
        for c in range(width):
            out[at + c] = np.float32(0.0)
        lse[lse_at] = _NONE
        return
    weight = np.float32(0.0)
    for s in range(splits):
        share = largest(exp2(splat(partial[base + s * size] - top)))
        weight += share * partial[base + s * size + 1]
    found = _LN2 * (top + largest(log2(splat(weight))))
    lse[lse_at] = found
    left = np.float32(1.0) / (np.float32(1.0) + largest(exp(splat(sink - found))))
    for c in range(0, width, WIDTH):
        value = zero()
        for s in range(splits):
            share = exp2(splat(partial[base + s * size] - top))
            value = fma(share, load(partial, base + s * size + step + c), value)
        store_some(out, at + c, value * splat(left / weight), width - c)


@njit(**_inlined)
def _begun(facts, row, group, scale, queries, k_pad, sums, low, high):
    """Fetches the queries of a unit and the keys that each sees; returns what any of them sees."""
    q = carray(pointer(facts[0]), (1,), np.float32)
    length = carray(pointer(facts[5]), (1,), np.int64)[row]
    each, time, depth = facts[12] // facts[13], facts[14], facts[15]
    window, causal = facts[30], facts[31]
    count = carray(pointer(facts[6]), (1,), np.int64)[row] if facts[6] else time
    first_seen, last_seen = np.int64(1) << 62, np.int64(0)
    for r in range(len(low)):
        low[r], high[r] = 0, 0
        sums[2 * r], sums[2 * r + 1] = _NONE, np.float32(0.0)
        head, t = r // time, r % time
        if head >= each:
            continue
        source = row * facts[17] + (group * each + head) * facts[18] + t * facts[19]
        for d in range(depth):
            queries[r * k_pad + d] = q[source + d] * scale
        if t < count:
            place = length - count + t
            high[r] = max(place + 1, 0) if causal else length
            low[r] = max(place - window + 1, 0) if window else 0
            first_seen, last_seen = min(first_seen, low[r]), max(last_seen, high[r])
    return first_seen, last_seen


@njit(**_inlined)
def _finished(facts, pair, padded_rows, v_pad, partial):
    """Writes the outputs of a row and key head all of whose spans are done."""
    out = carray(pointer(facts[3]), (1,), np.float32)
    lse = carray(pointer(facts[4]), (1,), np.float32)
    sinks = carray(pointer(facts[8]), (1,), np.float32)
    heads, groups, time, values, splits = facts[12], facts[13], facts[14], facts[16], facts[28]
    row, group, each = pair // groups, pair % groups, heads // groups
    size = 2 * padded_rows + padded_rows * v_pad
    for r in range(each * time):
        head, t = group * each + r // time, r % time
        sink = sinks[head] if facts[35] else _NONE
        at = ((row * time + t) * heads + head) * values
        _joined(partial, pair * splits * size + 2 * r, splits, size, values, out, at,
                2 * (padded_rows - r) + r * v_pad, lse, (row * heads + head) * time + t,
                sink)  # fmt: skip


@njit(**_inlined)
def _kept(partial, base, sums, mixed):
    """Puts what a span came to where the spans of its row are joined from."""
    for r in range(len(sums)):
        partial[base + r] = sums[r]
    for c in range(0, len(mixed), WIDTH):
        store(partial, base + len(sums) + c, load(mixed, c))


@njit(**_inlined)
def _cut(scores, rows, width, first, full, some, low, high):
    """Takes out unseen keys, if the tile has any."""
    edge = full != some
    for r in range(rows):
        edge = edge or low[r] > first or high[r] < first + some
    if edge:
        _hidden(scores, rows, width, first, full, low, high)


@njit(nogil=True, error_model="numpy")
def decode_kernel(counter, units, facts, scale, cap):
    """Attention of a few queries to their caches; `facts` are the numbers that `FACTS` names.

    `scale` multiplies the queries: to scores in powers of 2, or where `cap` is not 0 to what
    tanh takes, and `cap` turns that into powers of 2.
    """
    one = (1,)
    k_singles = carray(pointer(facts[1]), one, np.float32)
    k_halves = carray(pointer(facts[1]), one, np.uint16)
    v_singles = carray(pointer(facts[2]), one, np.float32)
    v_halves = carray(pointer(facts[2]), one, np.uint16)
    table = carray(pointer(facts[7]), one, np.int64)
    partial = carray(pointer(facts[9]), one, np.float32)
    done = carray(pointer(facts[10]), one, np.int64)
    heads, groups, time, depth, values = facts[12], facts[13], facts[14], facts[15], facts[16]
    k_row, k_head, k_key, v_row, v_head, v_key = (
        facts[20], facts[21], facts[22], facts[23], facts[24], facts[25],
    )  # fmt: skip
    kind, width, splits, span = facts[26], facts[27], facts[28], facts[29]
    page, pages, shared = facts[32], facts[33], facts[34]
    rows = heads // groups * time
    padded_rows = 1 if rows == 1 else rows + -rows % 4
    k_pad, v_pad = depth + -depth % WIDTH, values + -values % TILE_COLUMNS
    queries = np.zeros(padded_rows * k_pad, np.float32)
    scores = np.zeros(padded_rows * width, np.float32)
    sums = np.zeros(2 * padded_rows, np.float32)
    mixed = np.zeros(padded_rows * v_pad, np.float32)
    low, high = np.zeros(padded_rows, np.int64), np.zeros(padded_rows, np.int64)
    k_tile = np.zeros(width * k_pad + TILE_COLUMNS, np.float32)
    v_tile = np.zeros(width * v_pad, np.float32)
    k_ahead, v_ahead = depth, 0 if shared else values
    old = flush_denormals()
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        part, pair = unit % splits, unit // splits
        row, group = pair // groups, pair % groups
        first_seen, last_seen = _begun(facts, row, group, scale, queries, k_pad, sums, low, high)
        for c in range(0, padded_rows * v_pad, WIDTH):
            store(mixed, c, zero())
        first = max(part * span, first_seen - first_seen % width)
        end = min((part + 1) * span, last_seen)
        for tile_at in range(first, end, width):
            some = min(width, end - tile_at)
            full = some + -some % WIDTH
            if page:
                number = table[row * pages + tile_at // page]
                k_at = number * k_row + group * k_head + (tile_at % page) * k_key
                v_at = number * v_row + group * v_head + (tile_at % page) * v_key
            else:
                k_at = row * k_row + group * k_head + tile_at * k_key
                v_at = row * v_row + group * v_head + tile_at * v_key
            k_next = k_at + full * k_key
            packed = kind != 0 or depth != k_pad or full != some
            if packed:
                _widened(kind, k_singles, k_halves, k_at, k_key, some, full, depth, k_tile, k_pad)
                _products(queries, padded_rows, k_pad, k_tile, 0, k_pad, full, scores, width,
                          k_halves, k_next, k_key, k_ahead,
                          v_halves, v_at, v_key, v_ahead)  # fmt: skip
            else:
                _products(queries, padded_rows, k_pad, k_singles, k_at, k_key, full, scores, width,
                          k_singles, k_next, k_key, k_ahead,
                          v_singles, v_at, v_key, v_ahead)  # fmt: skip
            if cap != 0:
                _capped(scores, padded_rows * width, np.float32(cap))
            _cut(scores, rows, width, tile_at, full, some, low, high)
            for r in range(rows):
                _softened(scores, r, width, full, sums, mixed, v_pad)
            if kind != 0 and shared:
                _mixed(scores, width, padded_rows, some, k_tile, 0, k_pad, mixed, v_pad)
            elif kind != 0 or values != v_pad:
                _widened(kind, v_singles, v_halves, v_at, v_key, some, some, values, v_tile, v_pad)
                _mixed(scores, width, padded_rows, some, v_tile, 0, v_pad, mixed, v_pad)
            else:
                _mixed(scores, width, padded_rows, some, v_singles, v_at, v_key, mixed, v_pad)
        _kept(partial, unit * (len(sums) + len(mixed)), sums, mixed)
        if fetch_add(done, pair, 1) == splits - 1:
            _finished(facts, pair, padded_rows, v_pad, partial)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)
