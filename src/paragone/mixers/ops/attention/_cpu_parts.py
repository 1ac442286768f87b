r"""Parts of the CPU kernels of attention: packing, scores of a tile, exponentials.

Keys are packed once per key head into panels of `TILE_COLUMNS` keys, transposed, so that scores
are register tiles; values into panels of as many columns. A tile of queries meets some panels at
a time, its slots; their scores stand in one buffer of `COLUMNS` columns. Scores are in powers of
two: the factor $\log_2 e$ goes into the queries.

Each row sees an interval [lo, hi) of keys, hence an interval of columns; a group of six rows
computes the columns that any of them sees, and nothing else.

Shapes: a buffer of scores is (rows, `COLUMNS`), flat; `group` are six rows.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.narrow import random_word
from paragone.kernels.simd import (
    WIDTH,
    below,
    exp2,
    fma,
    load,
    load_some,
    splat,
    store,
    store_some,
    zero,
)  # fmt: skip
from paragone.kernels.tiles import TILE_COLUMNS, TILE_ROWS, tile
from paragone.mixers.ops.attention._cpu_vectors import turn

__all__ = [
    "CHUNK", "COLUMNS", "LN2", "LOG2E", "META", "PANEL", "ROWS", "SLOTS", "Extra", "Numbers",
    "Sizes", "adjust", "drop", "gather", "hide", "pack", "pack_plain", "pack_rows", "scores",
    "slotted", "summarize", "tiled", "visible",
]  # fmt: skip

PANEL = TILE_COLUMNS
"""Keys of a panel of scores, and columns of a panel of values."""
COLUMNS = 256
"""Columns of the buffer of scores."""
SLOTS = COLUMNS // PANEL
ROWS = TILE_ROWS
CHUNK = 1024
"""Tokens that one unit of packing takes; a multiple of `PANEL`."""
LOG2E, LN2 = 1.0 / math.log(2.0), math.log(2.0)
META = ("q", "k", "v", "out", "query", "queries", "keys", "panels", "before", "key")
"""Columns of the table of rows: first elements of q, k, v and the output, number of the first query
among all rows and heads, lengths, panels of keys, panels before, number of the first key."""

tiled: Any = tile(ROWS)


class Sizes(NamedTuple):
    """Whole numbers of a call; `*_head` and `*_time` are distances in elements."""

    rows: int
    heads: int
    group: int
    width: int
    value_width: int
    times: int
    stack: int
    blocks: int
    left: int
    right: int
    bottom: int
    q_head: int
    q_time: int
    k_head: int
    k_time: int
    v_head: int
    v_time: int
    out_head: int
    out_time: int
    masked: int
    mask_row: int
    mask_head: int
    mask_wide: int
    mask_line: int
    biased: int
    bias_row: int
    bias_head: int
    bias_time: int
    bias_key: int
    sloped: int
    slope_row: int
    drop_queries: int
    drop_keys: int
    key: int
    threshold: int


class Extra(NamedTuple):
    """Flat arrays beside q, k and v; empty where a call has none."""

    table: Any
    elements: Any
    bias: Any
    slopes: Any


class Numbers(NamedTuple):
    """Fractions of a call: factor of the queries, cap in powers of two, share kept by dropout."""

    factor: float
    cap: float
    kept: float


@njit(nogil=True, error_model="numpy")
def pack_rows(x, at, time, first, count, width, factor, out, out_at, line):
    """Copies rows of x, times a factor, to lines of `line` floats; those behind them are 0."""
    by = splat(np.float32(factor))
    for i in range(count):
        source, target = at + (first + i) * time, out_at + i * line
        j = 0
        while j + WIDTH <= width:
            store(out, target + j, load(x, source + j) * by)
            j += WIDTH
        if j < width:
            store_some(out, target + j, load_some(x, source + j, width - j) * by, line - j)
            j += WIDTH
        while j < line:
            store_some(out, target + j, zero(), line - j)
            j += WIDTH


@njit(nogil=True, error_model="numpy")
def pack_plain(x, at, time, first, count, known, width, out, out_at, rows):
    """Rows first … into panels of `PANEL` columns, each `rows` long; unknown rows are 0."""
    for c in range(0, width, PANEL):
        target = out_at + (c // PANEL) * rows * PANEL
        wide = min(PANEL, width - c)
        for i in range(first, first + count):
            for j in range(0, PANEL, WIDTH):
                value = zero()
                if i < known and j < wide:
                    value = load_some(x, at + i * time + c + j, wide - j)
                store(out, target + i * PANEL + j, value)


@njit(nogil=True, error_model="numpy")
def pack_turned(x, at, time, first, count, known, width, out, out_at):
    """Rows first … into transposed panels (width, `PANEL`); unknown rows are 0."""
    for i in range(first, first + count, WIDTH):
        target = out_at + (i // PANEL) * PANEL * width + i % PANEL
        p = 0
        while i + WIDTH <= known and p + WIDTH <= width:
            turn(x, at + i * time + p, time, out, target + p * PANEL, PANEL)
            p += WIDTH
        while p < width:
            for r in range(WIDTH):
                value = np.float32(0)
                if i + r < known:
                    value = x[at + (i + r) * time + p]
                out[target + p * PANEL + r] = value
            p += 1


@njit(nogil=True, error_model="numpy")
def pack(
    counter, units, chunks, heads, x, meta, origin, known, head_step, time, width, turned, out
):
    """Packs rows of every head; a unit is a row, a head and `CHUNK` of its tokens.

    Columns `origin` and `known` of `meta` name where a row begins and how long it is.
    """
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        chunk, rest = unit % chunks, unit // chunks
        row, head = rest // heads, rest % heads
        panels = meta[row, 7]
        rows = panels * PANEL
        first = chunk * CHUNK
        count = min(CHUNK, rows - first)
        if count > 0:
            before = (meta[row, 8] * heads + head * panels) * PANEL
            at = meta[row, origin] + head * head_step
            if turned:
                pack_turned(x, at, time, first, count, meta[row, known], width, out,
                             before * width)  # fmt: skip
            else:
                wide = -(-width // PANEL) * PANEL
                pack_plain(x, at, time, first, count, meta[row, known], width, out,
                            before * wide, rows)  # fmt: skip
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def visible(n, first, count, times, shift, keys, slots, used, low, high, begin, end):
    """Intervals of columns: of each row in `low` and `high`, of each group in `begin` and `end`.

    Row m stands at the time first + m % times. Returns whether any row sees less than all.
    """
    for x in range(-(-count // ROWS)):
        begin[x], end[x] = used * PANEL, 0
    less = False
    for m in range(count):
        place = first + m % times + shift
        lo = max(0, place - n.left) if n.left >= 0 else 0
        hi = min(keys, place + n.right + 1) if n.right >= 0 else keys
        a, b = used * PANEL, 0
        for x in range(used):
            start = slots[x] * PANEL
            if lo < start + PANEL and hi > start and lo < hi:
                a = min(a, x * PANEL + max(lo - start, 0))
                b = x * PANEL + min(hi - start, PANEL)
        low[m], high[m] = a, b
        less = less or a > 0 or b < used * PANEL
        if a < b:
            begin[m // ROWS] = min(begin[m // ROWS], a)
            end[m // ROWS] = max(end[m // ROWS], b)
    return less


@njit(nogil=True, error_model="numpy")
def scores(q, count, width, turned, before, slots, used, begin, end, s):
    """S = q k^T for the slots that each group of rows sees."""
    for x in range(used):
        panel = (before + slots[x]) * PANEL * width
        for i in range(0, count, ROWS):
            group = i // ROWS
            if begin[group] < (x + 1) * PANEL and end[group] > x * PANEL:
                tiled(q, i * width, width, 1, turned, panel, PANEL, s, i * COLUMNS + x * PANEL,
                      COLUMNS, width, 0)  # fmt: skip


@njit(nogil=True, error_model="numpy")
def hide(count, low, high, begin, end, s):
    """Writes -inf where a row sees nothing in columns that its group computes."""
    nothing = np.float32(-np.inf)
    for m in range(count):
        a = begin[m // ROWS] // WIDTH * WIDTH
        b = -(-end[m // ROWS] // WIDTH) * WIDTH
        for j in range(a, min(low[m], b)):
            s[m * COLUMNS + j] = nothing
        for j in range(max(high[m], a), b):
            s[m * COLUMNS + j] = nothing


@njit(nogil=True, error_model="numpy")
def tanh(x):
    """(vector): hyperbolic tangent; by its series near 0, where the quotient loses digits."""
    y = x * x
    near = fma(y, splat(np.float32(-17.0 / 315.0)), splat(np.float32(2.0 / 15.0)))
    near = fma(y, fma(y, near, splat(np.float32(-1.0 / 3.0))), splat(np.float32(1.0)))
    power = exp2(x * splat(np.float32(2.0 * LOG2E)))
    one = splat(np.float32(1.0))
    far = one - splat(np.float32(2.0)) / (power + one)
    return below(y, splat(np.float32(0.03)), x * near, far)


@njit(nogil=True, error_model="numpy")
def adjust(n, cap, row, head, first, count, times, shift, keys, slots, used, begin, end,
           extra, s, t):  # fmt: skip
    """Softcap, bias, slopes and mask, in this order; t keeps tanh for the way back."""
    for m in range(count):
        time, mine = first + m % times, head + m // times
        for x in range(used):
            if begin[m // ROWS] >= (x + 1) * PANEL or end[m // ROWS] <= x * PANEL:
                continue
            at, key = m * COLUMNS + x * PANEL, slots[x] * PANEL
            if cap > 0:
                for j in range(at, at + PANEL, WIDTH):
                    bent = tanh(load(s, j))
                    store(t, j, bent)
                    store(s, j, bent * splat(np.float32(cap)))
            if n.biased:
                place = row * n.bias_row + mine * n.bias_head + time * n.bias_time
                for j in range(0, min(PANEL, keys - key), WIDTH):
                    more = zero()
                    if n.bias_key:
                        more = load_some(extra.bias, place + key + j, keys - key - j)
                    else:
                        more = splat(extra.bias[place])
                    store(s, at + j, fma(more, splat(np.float32(LOG2E)), load(s, at + j)))
            if n.sloped:
                slope = np.float32(extra.slopes[row * n.slope_row + mine] * LOG2E)
                for j in range(PANEL):
                    s[at + j] -= slope * np.float32(abs(time + shift - key - j))
            if n.masked:
                block = extra.table[row * n.mask_row + mine * n.mask_head
                              + (time // 64) * n.mask_wide + key // 64]  # fmt: skip
                if block >= 0:
                    place = block + (time % 64) * n.mask_line + key % 64
                    for j in range(min(PANEL, keys - key)):
                        s[at + j] = s[at + j] if extra.elements[place + j] else np.float32(-np.inf)
                elif block == -1:
                    for j in range(PANEL):
                        s[at + j] = np.float32(-np.inf)


@njit(nogil=True, error_model="numpy")
def drop(n, plane, time, key, many, factor, s, at):
    """Multiplies the numbers from s[at] on by `factor` where dropout keeps them, else by 0."""
    index = (np.int64(plane) * n.drop_queries + time) * n.drop_keys + key
    for j in range(many):
        word = random_word(np.uint64(n.key), index + j)
        s[at + j] *= np.float32(factor) if word >= n.threshold else np.float32(0)


@njit(nogil=True, error_model="numpy")
def slotted(n, row, head, stack, first, last, table, panel, lo, hi, slots):
    """Fills `slots` with the next panels from `panel` on that are not masked as a whole.

    Returns how many there are, and the panel to go on from. Queries are those of the times
    first … last; the keys lo … hi - 1 are of interest.
    """
    used = 0
    panel = max(panel, lo // PANEL)
    while panel * PANEL < hi and used < SLOTS:
        empty = False
        if n.masked:
            empty = True
            for mine in range(head, head + stack):
                for block in range(first // 64, last // 64 + 1):
                    at = row * n.mask_row + mine * n.mask_head + block * n.mask_wide
                    empty = empty and table[at + panel * PANEL // 64] == -1
        if not empty:
            slots[used] = panel
            used += 1
        panel += 1
    return used, panel


@njit(nogil=True, error_model="numpy")
def gather(count, begin, end, slots, used, s, panels, at, rows, o, line):
    """O += weights times values, over runs of panels that stand side by side."""
    x = 0
    while x < used:
        y = x + 1
        while y < used and slots[y] == slots[y - 1] + 1:
            y += 1
        key = slots[x] * PANEL - x * PANEL
        for c in range(0, line, PANEL):
            from_ = at + c * rows
            for i in range(0, count, ROWS):
                a = max(begin[i // ROWS], x * PANEL)
                b = min(end[i // ROWS], y * PANEL)
                if a < b:
                    tiled(s, i * COLUMNS + a, COLUMNS, 1, panels, from_ + (key + a) * PANEL, PANEL,
                          o, i * line + c, line, b - a, 1)  # fmt: skip
        x = y


@njit(nogil=True, error_model="numpy")
def summarize(elements, rows, heads, queries, keys, row_step, head_step, time_step, table):
    """Writes for each block of 64 x 64 that it is full (-2), empty (-1), or where it begins."""
    at = 0
    for plane in range(rows * heads):
        base = plane // heads * row_step + plane % heads * head_step
        for i in range(0, queries, 64):
            for j in range(0, keys, 64):
                tall, wide = min(64, queries - i), min(64, keys - j)
                count = 0
                for r in range(tall):
                    place = base + (i + r) * time_step + j
                    line = np.int32(0)
                    if wide == 64:
                        for c in range(64):
                            line += np.int32(elements[place + c])
                    else:
                        for c in range(wide):
                            line += np.int32(elements[place + c])
                    count += line
                table[at] = base + i * time_step + j
                if count == 0:
                    table[at] = -1
                elif count == tall * wide:
                    table[at] = -2
                at += 1
