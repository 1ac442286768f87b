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
from paragone.kernels.lean import power
from paragone.kernels.simd import (
    WIDTH,
    flush_denormals,
    fma,
    load,
    load_some,
    restore_floats,
    splat,
    store,
    store_some,
    zero,
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

__all__ = ["Back", "Given", "Grads", "backward"]

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


class Given(NamedTuple):
    """Flat arrays that the backward pass reads."""

    q: Any
    dout: Any
    keys_turned: Any
    values_turned: Any
    keys_plain: Any
    lse: Any
    delta: Any


class Grads(NamedTuple):
    """Flat arrays that it writes: `chunks` shares of dq, then the gradients themselves."""

    q: Any
    k: Any
    v: Any
    bias: Any
    slopes: Any


class Scratch(NamedTuple):
    """Buffers of one thread: scores, their gradient, tanh, dropped weights; tiles; intervals."""

    s: Any
    g: Any
    t: Any
    kept: Any
    q_rows: Any
    q_panels: Any
    g_rows: Any
    g_panels: Any
    out: Any
    acc_k: Any
    acc_v: Any
    low: Any
    high: Any
    begin: Any
    end: Any
    slots: Any


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
def _fetch(x, at, time, first, count, whole, width, factor, rows, panels):
    """Packs queries (or output gradients) as rows and as panels, zero from `count` to `whole`."""
    pack_rows(x, at, time, first, count, width, factor, rows, 0, width)
    rows[count * width : whole * width] = 0
    pack_plain(rows, 0, width, 0, whole, count, width, panels, 0, whole)


@njit(nogil=True, error_model="numpy")
def _drop_all(n, kept, plane, first, count, slots, used, s):
    """Dropout of a buffer of scores."""
    for m in range(count):
        for x in range(used):
            drop(n, plane, first + m, slots[x] * PANEL, PANEL, 1 / kept, s,
                 m * COLUMNS + x * PANEL)  # fmt: skip


@njit(nogil=True, error_model="numpy")
def _spread(count, whole, key, used, weights, z):
    """Adds the tile's share to dv and dk; only the queries that see a slot take part."""
    for x in range(used):
        a, b = count, 0
        for m in range(0, count, ROWS):
            if z.begin[m // ROWS] < (x + 1) * PANEL and z.end[m // ROWS] > x * PANEL:
                a, b = min(a, m), min(m + ROWS, count)
        if a < b:
            line = z.slots[x] * PANEL - key
            _turned(a, b, x, weights, z.g_panels, whole, len(z.acc_v) // COLUMNS, z.acc_v, line)
            _turned(a, b, x, z.g, z.q_panels, whole, len(z.acc_k) // COLUMNS, z.acc_k, line)


@njit(nogil=True, error_model="numpy")
def _scratch(n, f):
    most = -(-n.times // ROWS) * ROWS
    wide_k, wide_v = -(-n.width // PANEL) * PANEL, -(-n.value_width // PANEL) * PANEL
    tile = most * COLUMNS
    return Scratch(
        np.empty(tile, np.float32), np.empty(tile, np.float32),
        np.empty(tile if f.cap > 0 else 0, np.float32),
        np.empty(tile if n.threshold else 0, np.float32),
        np.empty(most * n.width, np.float32), np.empty(most * wide_k, np.float32),
        np.empty(most * n.value_width, np.float32), np.empty(most * wide_v, np.float32),
        np.empty(most * wide_k, np.float32),
        np.empty(COLUMNS * wide_k, np.float32), np.empty(COLUMNS * wide_v, np.float32),
        np.empty(most, np.int64), np.empty(most, np.int64),
        np.empty(most, np.int64), np.empty(most, np.int64), np.empty(SLOTS, np.int64),
    )  # fmt: skip


@njit(nogil=True, error_model="numpy")
def _tile(n, w, f, alpha, meta, given, extra, grads, z, chunk, row, head, first, key, most_key):
    """The share of one tile of queries in the gradients of one tile of keys."""
    queries, keys = meta[row, 5], meta[row, 6]
    count = min(n.times, queries - first)
    shift = keys - queries if n.bottom else 0
    lo = max(key, first + shift - n.left) if n.left >= 0 else key
    hi = min(most_key, first + count + shift + n.right) if n.right >= 0 else most_key
    if lo >= hi:
        return
    used, _ = slotted(n, row, head, 1, first, first + count - 1, extra.table, 0, lo, hi, z.slots)
    if used == 0:
        return
    less = visible(n, first, count, count, shift, keys, z.slots, used, z.low, z.high, z.begin,
                   z.end)  # fmt: skip
    whole = -(-count // ROWS) * ROWS
    before = meta[row, 8] * n.group + head // (n.heads // n.group) * meta[row, 7]
    _fetch(given.q, meta[row, 0] + head * n.q_head, n.q_time, first, count, whole, n.width,
           f.factor, z.q_rows, z.q_panels)  # fmt: skip
    _fetch(given.dout, meta[row, 3] + head * w.g_head, w.g_time, first, count, whole,
           n.value_width, 1.0, z.g_rows, z.g_panels)  # fmt: skip
    scores(z.q_rows, whole, n.width, given.keys_turned, before, z.slots, used, z.begin, z.end, z.s)
    scores(z.g_rows, whole, n.value_width, given.values_turned, before, z.slots, used, z.begin,
           z.end, z.g)  # fmt: skip
    if f.cap > 0 or n.biased or n.sloped or n.masked:
        adjust(n, f.cap, row, head, first, count, count, shift, keys, z.slots, used, z.begin, z.end,
               extra, z.s, z.t)  # fmt: skip
    if less:
        hide(count, z.low, z.high, z.begin, z.end, z.s)
    plane, place = row * n.heads + head, meta[row, 4] + head * n.drop_queries + first
    if n.threshold:
        _drop_all(n, f.kept, plane, first, count, z.slots, used, z.g)
    _weigh(count, used, z.begin, z.end, z.s, z.g, given.lse, given.delta, place)
    weights = z.s
    if n.threshold:
        z.kept[: count * COLUMNS] = z.s[: count * COLUMNS]
        _drop_all(n, f.kept, plane, first, count, z.slots, used, z.kept)
        weights = z.kept
    if w.trained or n.sloped:
        _learn(n, w, row, head, first, count, keys, z.slots, used, z.g,
               chunk * n.rows * n.heads + plane, shift, grads.bias, grads.slopes)  # fmt: skip
    if f.cap > 0:
        _bend(count, z.begin, z.end, z.g, z.t)
    wide_k = -(-n.width // PANEL) * PANEL
    _spread(count, whole, key, used, weights, z)
    z.out[: whole * wide_k] = 0
    z.g[count * COLUMNS : whole * COLUMNS] = 0
    gather(whole, z.begin, z.end, z.slots, used, z.g, given.keys_plain, before * PANEL * wide_k,
           meta[row, 7] * PANEL, z.out, wide_k)  # fmt: skip
    _add(z.out, count, wide_k, n.width, alpha, grads.q, chunk * w.parts + place * n.width)


@njit(nogil=True, error_model="numpy")
def backward(counter, units, n, w, f, alpha, meta, given, extra, grads):
    """Adds up the gradients of the tiles of keys that it takes from the counter."""
    wide_k, wide_v = -(-n.width // PANEL) * PANEL, -(-n.value_width // PANEL) * PANEL
    z = _scratch(n, f)
    share = n.heads // n.group
    floats = flush_denormals()
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        chunk, mine = unit // w.groups, unit % w.groups
        unit = fetch_add(counter, 0, 1)
        for pair in range(mine, n.rows * n.group, w.groups):
            row, group = pair // n.group, pair % n.group
            if w.by_row:
                row, group = pair % n.rows, pair // n.rows
            keys = meta[row, 6]
            for turn in range(chunk, -(-keys // COLUMNS), w.chunks):
                key, most_key = turn * COLUMNS, min((turn + 1) * COLUMNS, keys)
                z.acc_k[:], z.acc_v[:] = 0, 0
                for head in range(group * share, (group + 1) * share):
                    for first in range(0, meta[row, 5], n.times):
                        _tile(n, w, f, alpha, meta, given, extra, grads, z, chunk, row, head, first,
                              key, most_key)  # fmt: skip
                place, rows = meta[row, 9] + group * n.drop_keys + key, most_key - key
                _write(z.acc_k, rows, wide_k, n.width, alpha / f.factor, grads.k, place * n.width)
                _write(z.acc_v, rows, wide_v, n.value_width, 1.0, grads.v, place * n.value_width)
    restore_floats(floats)
