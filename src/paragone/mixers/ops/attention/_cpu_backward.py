r"""Backward pass of attention on the CPU, in five products a tile and without atomic sums.

With the weights $p_{ij} = e^{s_{ij} - \ell_i}$ computed again, and $m$ what dropout multiplies
them with,

$$ \delta_i = \sum_c do_{ic}\, o_{ic} - d\ell_i, \qquad
   ds_{ij} = p_{ij} \big(m_{ij}\, do_i \cdot v_j - \delta_i\big), $$
$$ dv_j = \sum_i p_{ij} m_{ij}\, do_i, \qquad dk_j = \alpha \sum_i ds_{ij}\, q_i, \qquad
   dq_i = \alpha \sum_j ds_{ij}\, k_j , $$

where ds also takes the slope of the softcap before the last two, and is the bias's gradient as it
stands. A unit of work owns some tiles of keys: it alone writes their dk and dv, and its own share
of dq, added up afterwards in a fixed order. So results do not depend on the number of threads.

References:
    Dao et al. (2022), arXiv:2205.14135, algorithm 4; Dao (2023), arXiv:2307.08691, algorithm 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH, flush_denormals, fma, load, load_some, restore_floats, splat, store, store_some, zero,
)  # fmt: skip
from paragone.kernels.tiles import tile
from paragone.mixers.ops.attention._cpu_parts import (
    COLUMNS,
    LOG2E,
    PANEL,
    ROWS,
    SLOTS,
    adjust,
    drop,
    gather,
    hide,
    pack_plain,
    pack_rows,
    scores,
    slotted,
    tiled,
    visible,
)  # fmt: skip
from paragone.mixers.ops.attention._cpu_vectors import power

__all__ = ["Back", "backward"]

_REST = PANEL % ROWS
_tiled_rest: Any = tile(_REST)


class Back(NamedTuple):
    """Whole numbers of the backward pass beside `Sizes`.

    Work is shared in `units` groups of pairs (row, key head), each in `chunks` of its keys; with
    `by_row` the pairs of a group have the row in common, else the key head.
    """

    groups: int
    chunks: int
    by_row: int
    g_head: int
    g_time: int
    parts: int
    trained: int
    bias_row: int
    bias_head: int
    bias_time: int
    bias_key: int


@njit(nogil=True, error_model="numpy")
def _weigh(count, used, begin, end, s, g, lse, delta, at):
    """Weights in s and the gradient of the scores in g, from those of the dropped weights."""
    for m in range(count):
        line = m * COLUMNS
        a = begin[m // ROWS] // WIDTH * WIDTH
        b = max(-(-end[m // ROWS] // WIDTH) * WIDTH, a)
        base = np.float32(lse[at + m] * LOG2E)
        if base == np.float32(-np.inf):
            base = np.float32(np.inf)
        low, less = splat(base), splat(delta[at + m])
        for j in range(0, a, WIDTH):
            store(s, line + j, zero())
            store(g, line + j, zero())
        for j in range(line + a, line + b, WIDTH):
            p = power(load(s, j) - low)
            store(s, j, p)
            store(g, j, p * (load(g, j) - less))
        for j in range(b, used * PANEL, WIDTH):
            store(s, line + j, zero())
            store(g, line + j, zero())


@njit(nogil=True, error_model="numpy")
def pack_panels(x, at, time, count, whole, width, out):
    """Rows into panels of `PANEL` columns, each `whole` rows long."""
    pack_plain(x, at, time, 0, whole, count, width, out, 0, whole)


@njit(nogil=True, error_model="numpy")
def _turned(first, last, x, s, b, rows, line, acc, row):
    """acc[row …] += the columns of slot x of s, transposed, times the rows of b."""
    depth = last - first
    for c in range(0, line, PANEL):
        at = c * rows + first * PANEL
        column = first * COLUMNS + x * PANEL
        for r in range(0, PANEL - _REST, ROWS):
            tiled(s, column + r, 1, COLUMNS, b, at, PANEL, acc, (row + r) * line + c, line,
                  depth, 1)  # fmt: skip
        r = PANEL - _REST
        _tiled_rest(s, column + r, 1, COLUMNS, b, at, PANEL, acc, (row + r) * line + c, line,
                    depth, 1)  # fmt: skip


@njit(nogil=True, error_model="numpy")
def _learn(n, w, row, head, first, count, keys, slots, used, g, slopes_at, shift, dbias, dslopes):
    """Adds the gradient of the scores to those of the bias and of the slope."""
    moved = 0.0
    for m in range(count):
        for x in range(used):
            at, key = m * COLUMNS + x * PANEL, slots[x] * PANEL
            wide = min(PANEL, keys - key)
            if w.trained:
                place = row * w.bias_row + head * w.bias_head + (first + m) * w.bias_time
                for j in range(wide):
                    dbias[place + (key + j) * w.bias_key] += g[at + j]
            if n.sloped:
                for j in range(wide):
                    moved -= g[at + j] * np.float32(abs(first + m + shift - key - j))
    if n.sloped:
        dslopes[slopes_at] += moved


@njit(nogil=True, error_model="numpy")
def _bend(count, begin, end, g, t):
    """Multiplies by the slope of tanh."""
    one = splat(np.float32(1))
    for m in range(count):
        a = m * COLUMNS + begin[m // ROWS] // WIDTH * WIDTH
        b = m * COLUMNS - (-end[m // ROWS] // WIDTH) * WIDTH
        for j in range(a, b, WIDTH):
            bent = load(t, j)
            store(g, j, load(g, j) * (one - bent * bent))


@njit(nogil=True, error_model="numpy")
def _write(acc, rows, line, width, factor, out, at):
    """Rows of a padded buffer, times a factor, to rows of `width` floats."""
    by = splat(np.float32(factor))
    for i in range(rows):
        for j in range(0, width, WIDTH):
            value = load(acc, i * line + j) * by
            store_some(out, at + i * width + j, value, width - j)


@njit(nogil=True, error_model="numpy")
def _add(acc, rows, line, width, factor, out, at):
    """The same, added to what is there."""
    by = splat(np.float32(factor))
    for i in range(rows):
        for j in range(0, width, WIDTH):
            place = at + i * width + j
            value = fma(load(acc, i * line + j), by, load_some(out, place, width - j))
            store_some(out, place, value, width - j)


@njit(nogil=True, error_model="numpy")
def backward(counter, units, n, w, f, alpha, meta, q, dout, keys_turned, values_turned, keys_plain,
             lse, delta, table, elements, bias, slopes, dq, dk, dv, dbias, dslopes):  # fmt: skip
    """Adds up the gradients of the tiles of keys that it takes from the counter."""
    most = -(-n.times // ROWS) * ROWS
    wide_k, wide_v = -(-n.width // PANEL) * PANEL, -(-n.value_width // PANEL) * PANEL
    s, g = np.empty(most * COLUMNS, np.float32), np.empty(most * COLUMNS, np.float32)
    t = np.empty(most * COLUMNS if f.cap > 0 else 0, np.float32)
    kept = np.empty(most * COLUMNS if n.threshold else 0, np.float32)
    q_rows, q_panels = np.empty(most * n.width, np.float32), np.empty(most * wide_k, np.float32)
    g_rows = np.empty(most * n.value_width, np.float32)
    g_panels = np.empty(most * wide_v, np.float32)
    o = np.empty(most * wide_k, np.float32)
    acc_k, acc_v = np.empty(COLUMNS * wide_k, np.float32), np.empty(COLUMNS * wide_v, np.float32)
    low, high = np.empty(most, np.int64), np.empty(most, np.int64)
    begin, end = np.empty(most, np.int64), np.empty(most, np.int64)
    slots = np.empty(SLOTS, np.int64)
    share = n.heads // n.group
    floats = flush_denormals()
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        chunk, group_of_pairs = unit // w.groups, unit % w.groups
        for pair in range(group_of_pairs, n.rows * n.group, w.groups):
            row, group = pair // n.group, pair % n.group
            if w.by_row:
                row, group = pair % n.rows, pair // n.rows
            queries, keys = meta[row, 5], meta[row, 6]
            shift = keys - queries if n.bottom else 0
            before = meta[row, 8] * n.group + group * meta[row, 7]
            for turn in range(chunk, -(-keys // COLUMNS), w.chunks):
                key, most_key = turn * COLUMNS, min((turn + 1) * COLUMNS, keys)
                acc_k[:], acc_v[:] = 0, 0
                for work in range(share * n.blocks):
                    head, first = group * share + work // n.blocks, work % n.blocks * n.times
                    count = min(n.times, queries - first)
                    if count <= 0:
                        continue
                    lo = max(key, first + shift - n.left) if n.left >= 0 else key
                    hi = most_key
                    if n.right >= 0:
                        hi = min(hi, first + count + shift + n.right)
                    if lo >= hi:
                        continue
                    used, _ = slotted(n, row, head, 1, first, first + count - 1, table, 0, lo, hi,
                                      slots)  # fmt: skip
                    if used == 0:
                        continue
                    less = visible(n, first, count, count, shift, keys, slots, used, low, high,
                                   begin, end)  # fmt: skip
                    whole = -(-count // ROWS) * ROWS
                    at = meta[row, 0] + head * n.q_head
                    pack_rows(q, at, n.q_time, first, count, n.width, f.factor, q_rows, 0, n.width)
                    q_rows[count * n.width : whole * n.width] = 0
                    pack_panels(q_rows, 0, n.width, count, whole, n.width, q_panels)
                    at = meta[row, 3] + head * w.g_head
                    pack_rows(dout, at, w.g_time, first, count, n.value_width, 1.0, g_rows, 0,
                              n.value_width)  # fmt: skip
                    g_rows[count * n.value_width : whole * n.value_width] = 0
                    pack_panels(g_rows, 0, n.value_width, count, whole, n.value_width, g_panels)
                    scores(q_rows, whole, n.width, keys_turned, before, slots, used, begin, end, s)
                    scores(g_rows, whole, n.value_width, values_turned, before, slots, used, begin,
                           end, g)  # fmt: skip
                    if f.cap > 0 or n.biased or n.sloped or n.masked:
                        adjust(n, f.cap, row, head, first, count, count, shift, keys, slots, used,
                               begin, end, table, elements, bias, slopes, s, t)  # fmt: skip
                    if less:
                        hide(count, low, high, begin, end, s)
                    place = meta[row, 4] + head * n.drop_queries + first
                    if n.threshold:
                        for m in range(count):
                            for x in range(used):
                                drop(n, row * n.heads + head, first + m, slots[x] * PANEL, PANEL,
                                     1 / f.kept, g, m * COLUMNS + x * PANEL)  # fmt: skip
                    _weigh(count, used, begin, end, s, g, lse, delta, place)
                    weights = s
                    if n.threshold:
                        kept[: count * COLUMNS] = s[: count * COLUMNS]
                        for m in range(count):
                            for x in range(used):
                                drop(n, row * n.heads + head, first + m, slots[x] * PANEL, PANEL,
                                     1 / f.kept, kept, m * COLUMNS + x * PANEL)  # fmt: skip
                        weights = kept
                    if w.trained or n.sloped:
                        _learn(n, w, row, head, first, count, keys, slots, used, g,
                               (chunk * n.rows + row) * n.heads + head, shift, dbias,
                               dslopes)  # fmt: skip
                    if f.cap > 0:
                        _bend(count, begin, end, g, t)
                    for x in range(used):
                        a, b = count, 0
                        for m in range(0, count, ROWS):
                            if begin[m // ROWS] < (x + 1) * PANEL and end[m // ROWS] > x * PANEL:
                                a, b = min(a, m), min(m + ROWS, count)
                        if a < b:
                            line = slots[x] * PANEL - key
                            _turned(a, b, x, weights, g_panels, whole, wide_v, acc_v, line)
                            _turned(a, b, x, g, q_panels, whole, wide_k, acc_k, line)
                    o[: whole * wide_k] = 0
                    g[count * COLUMNS : whole * COLUMNS] = 0
                    gather(whole, begin, end, slots, used, g, keys_plain, before * PANEL * wide_k,
                           meta[row, 7] * PANEL, o, wide_k)  # fmt: skip
                    place = (
                        chunk * w.parts + (meta[row, 4] + head * n.drop_queries + first) * n.width
                    )
                    _add(o, count, wide_k, n.width, alpha, dq, place)
                place = meta[row, 9] + group * n.drop_keys + key
                rows = most_key - key
                _write(acc_k, rows, wide_k, n.width, alpha / f.factor, dk, place * n.width)
                _write(acc_v, rows, wide_v, n.value_width, 1.0, dv, place * n.value_width)
        unit = fetch_add(counter, 0, 1)
    restore_floats(floats)
