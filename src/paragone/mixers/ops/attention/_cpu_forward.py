r"""Forward pass of attention on the CPU: a tile of queries over the panels of keys that it sees.

A unit of work is a row, some heads of one key head, and a tile of their queries. Its scores of
`COLUMNS` keys at a time are turned into weights in place, with the running maximum and sum, and
multiplied by the values as a second tiled product. Late tiles first: under a causal mask they are
the heavy ones.

References:
    Dao (2023), arXiv:2307.08691, algorithm 1.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.lean import power
from paragone.kernels.simd import (
    WIDTH,
    flush_denormals,
    largest,
    load,
    maximum,
    restore_floats,
    splat,
    store,
    store_some,
    total,
    zero,
)  # fmt: skip
from paragone.mixers.ops.attention._cpu_parts import (
    COLUMNS,
    LN2,
    PANEL,
    ROWS,
    SLOTS,
    adjust,
    drop,
    gather,
    hide,
    pack_rows,
    scores,
    slotted,
    visible,
)  # fmt: skip

__all__ = ["forward"]


@njit(nogil=True, error_model="numpy")
def _weigh(count, begin, end, s, top, sums, o, line):
    """Scores to weights against the running maximum; sums and outputs so far are corrected."""
    for m in range(count):
        a = m * COLUMNS + begin[m // ROWS] // WIDTH * WIDTH
        b = m * COLUMNS - (-end[m // ROWS] // WIDTH) * WIDTH
        if b <= a:
            continue
        old = top[m]
        one = two = three = four = splat(old)
        j = a
        while j + 4 * WIDTH <= b:
            one, two = maximum(load(s, j), one), maximum(load(s, j + WIDTH), two)
            three = maximum(load(s, j + 2 * WIDTH), three)
            four = maximum(load(s, j + 3 * WIDTH), four)
            j += 4 * WIDTH
        while j < b:
            one = maximum(load(s, j), one)
            j += WIDTH
        new = largest(maximum(maximum(one, two), maximum(three, four)))
        if new == np.float32(-np.inf):
            for j in range(a, b, WIDTH):
                store(s, j, zero())
            continue
        by = splat(new)
        one = two = three = four = zero()
        j = a
        while j + 4 * WIDTH <= b:
            p, r = power(load(s, j) - by), power(load(s, j + WIDTH) - by)
            t, u = power(load(s, j + 2 * WIDTH) - by), power(load(s, j + 3 * WIDTH) - by)
            store(s, j, p)
            store(s, j + WIDTH, r)
            store(s, j + 2 * WIDTH, t)
            store(s, j + 3 * WIDTH, u)
            one, two, three, four = one + p, two + r, three + t, four + u
            j += 4 * WIDTH
        while j < b:
            p = power(load(s, j) - by)
            store(s, j, p)
            one = one + p
            j += WIDTH
        added = total((one + two) + (three + four))
        if new > old:
            shrink = np.float32(2.0) ** np.float32(old - new)
            sums[m] *= shrink
            by = splat(shrink)
            for j in range(m * line, (m + 1) * line, WIDTH):
                store(o, j, load(o, j) * by)
            top[m] = new
        sums[m] += added


@njit(nogil=True, error_model="numpy")
def _finish(n, kept, meta, row, head, first, count, times, top, sums, o, line, out, lse):
    """Divides by the sums and writes outputs and logarithms."""
    for m in range(count):
        time, mine = first + m % times, head + m // times
        at = meta[row, 4] + mine * n.drop_queries + time
        share = np.float32(0)
        if sums[m] > 0:
            share = np.float32(1.0 / (sums[m] * kept))
            lse[at] = np.float32((top[m] + np.log2(np.float64(sums[m]))) * LN2)
        elif sums[m] == 0:
            lse[at] = np.float32(-np.inf)
        else:
            share = lse[at] = np.float32(np.nan)
        by = splat(share)
        at = meta[row, 3] + mine * n.out_head + time * n.out_time
        for j in range(0, n.value_width, WIDTH):
            value = load(o, m * line + j) * by
            store_some(out, at + j, value, n.value_width - j)


@njit(nogil=True, error_model="numpy")
def forward(counter, units, n, f, meta, q, turned, panels, extra, out, lse):
    """Writes outputs and logarithms of the tiles that it takes from the counter."""
    most = -(-n.times * n.stack // ROWS) * ROWS
    line = -(-n.value_width // PANEL) * PANEL
    s, o = np.empty(most * COLUMNS, np.float32), np.empty(most * line, np.float32)
    t = np.empty(most * COLUMNS if f.cap > 0 else 0, np.float32)
    packed = np.empty(most * n.width, np.float32)
    top, sums = np.empty(most, np.float32), np.empty(most, np.float32)
    low, high = np.empty(most, np.int64), np.empty(most, np.int64)
    begin, end = np.empty(most, np.int64), np.empty(most, np.int64)
    slots = np.empty(SLOTS, np.int64)
    share = n.heads // n.group
    floats = flush_denormals()
    stacks = -(-share // n.stack)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        block, rest = n.blocks - 1 - unit % n.blocks, unit // n.blocks
        stack, rest = rest % stacks, rest // stacks
        group, row = rest % n.group, rest // n.group
        unit = fetch_add(counter, 0, 1)
        queries, keys = meta[row, 5], meta[row, 6]
        first, head = block * n.times, group * share + stack * n.stack
        times = min(n.times, queries - first)
        if times <= 0:
            continue
        high_stack = min(n.stack, share - stack * n.stack)
        count = high_stack * times
        whole = -(-count // ROWS) * ROWS
        for x in range(high_stack):
            pack_rows(q, meta[row, 0] + (head + x) * n.q_head, n.q_time, first, times, n.width,
                      f.factor, packed, x * times * n.width, n.width)  # fmt: skip
        packed[count * n.width : whole * n.width] = 0
        o[: whole * line] = 0
        top[:whole], sums[:whole] = -np.inf, 0
        shift = keys - queries if n.bottom else 0
        lo = max(0, first + shift - n.left) if n.left >= 0 else 0
        hi = min(keys, first + times + shift + n.right) if n.right >= 0 else keys
        before = meta[row, 8] * n.group + group * meta[row, 7]
        panel = 0
        while True:
            used, panel = slotted(n, row, head, high_stack, first, first + times - 1, extra.table,
                                  panel, lo, hi, slots)  # fmt: skip
            if used == 0:
                break
            less = visible(n, first, count, times, shift, keys, slots, used, low, high, begin, end)
            scores(packed, whole, n.width, turned, before, slots, used, begin, end, s)
            if f.cap > 0 or n.biased or n.sloped or n.masked:
                adjust(n, f.cap, row, head, first, count, times, shift, keys, slots, used, begin,
                       end, extra, s, t)  # fmt: skip
            if less:
                hide(count, low, high, begin, end, s)
            _weigh(count, begin, end, s, top, sums, o, line)
            if n.threshold:
                for m in range(count):
                    for x in range(used):
                        drop(n, row * n.heads + head + m // times, first + m % times,
                             slots[x] * PANEL, PANEL, 1.0, s, m * COLUMNS + x * PANEL)  # fmt: skip
            gather(whole, begin, end, slots, used, s, panels, before * PANEL * line,
                    meta[row, 7] * PANEL, o, line)  # fmt: skip
        _finish(n, f.kept, meta, row, head, first, count, times, top, sums, o, line, out, lse)
    restore_floats(floats)
