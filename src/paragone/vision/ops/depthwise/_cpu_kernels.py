r"""Gradient of 5x5 depthwise filters over maps in channels-last order.

One vector holds as many channels as it has lanes. For a row u of the filter its five sums stay in
registers while a window of five places slides along the rows of x: each place is loaded once and
multiplied five times,

$$ \partial w_{c,u,v} = \sum_{i,j} \delta_{i,j,c}\, x_{si+u-p,\,sj+v-p,\,c}, \;\; v = 0 \dots 4 . $$

Sums are taken in float32 over at most 4096 places, then added up in float64. What they are cut
into depends on the shapes alone, hence results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray  # pyright: ignore[reportPrivateImportUsage]

from paragone.kernels.atomics import fetch_add, pointer
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, fma, load_some, store_some, zero

__all__ = ["SIDE", "Map", "settle", "weight_sums"]

SIDE = 5
"""Side of the filters."""
_PLACES = 4096
_options: Any = {"nogil": True, "error_model": "numpy"}
_inner: Any = {**_options, "no_cpython_wrapper": True, "forceinline": True}


class Map(NamedTuple):
    """Sizes of a call: rows and columns of x, of y, channels, step and zeros around."""

    height: int
    width: int
    high: int
    wide: int
    size: int
    stride: int
    padding: int


@njit(**_inner)
def _floats(address):
    return carray(pointer(address), (1 << 40,), np.float32)


@njit(**_inner)
def _place(x, row, column, width, size, n):
    if 0 <= column < width:
        return load_some(x, row + column * size, n)
    return zero()


@njit(**_inner)
def _add(sums, at, value, n):
    store_some(sums, at, load_some(sums, at, n) + value, n)


@njit(**_inner)
def _filter_row(x, x_at, dy, dy_at, u, first, last, map, sums, at, n):
    """Adds the five sums of filter row u over the output rows `first` to `last`."""
    a, b, c, d, e = zero(), zero(), zero(), zero(), zero()
    width, size, left = map.width, map.size, -map.padding
    for i in range(first, last):
        y = i * map.stride + u - map.padding
        if y < 0 or y >= map.height:
            continue
        row, out = x_at + y * width * size, dy_at + i * map.wide * size
        p = _place(x, row, left, width, size, n)
        q = _place(x, row, left + 1, width, size, n)
        r = _place(x, row, left + 2, width, size, n)
        s = _place(x, row, left + 3, width, size, n)
        for j in range(map.wide):
            t = _place(x, row, left + j * map.stride + 4, width, size, n)
            g = load_some(dy, out + j * size, n)
            a, b, c = fma(g, p, a), fma(g, q, b), fma(g, r, c)
            d, e = fma(g, s, d), fma(g, t, e)
            if map.stride == 1:
                p, q, r, s = q, r, s, t
            else:
                p, q, r = r, s, t
                s = _place(x, row, left + 2 * j + 5, width, size, n)
    for v, value in enumerate((a, b, c, d, e)):
        _add(sums, at + v * size, value, n)


@njit(**_options)
def weight_sums(counter, units, words, images, map):
    """Sums over each unit's images, (units, 5, 5, C); words: x, dy, parts."""
    x, dy, parts = _floats(words[0]), _floats(words[1]), _floats(words[2])
    size = map.size
    taps, whole = SIDE * SIDE * size, size - size % WIDTH
    rows = max(_PLACES // map.wide, 1)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for k in range(unit * taps, (unit + 1) * taps):
            parts[k] = 0.0
        for image in range(unit * images // units, (unit + 1) * images // units):
            x_at = image * map.height * map.width * size
            dy_at = image * map.high * map.wide * size
            for first in range(0, map.high, rows):
                last = min(first + rows, map.high)
                for c in range(0, whole, WIDTH):
                    for u in range(SIDE):
                        _filter_row(x, x_at + c, dy, dy_at + c, u, first, last, map, parts,
                                    unit * taps + u * SIDE * size + c, WIDTH)  # fmt: skip
                for u in range(SIDE if whole < size else 0):
                    _filter_row(x, x_at + whole, dy, dy_at + whole, u, first, last, map, parts,
                                unit * taps + u * SIDE * size + whole, size - whole)  # fmt: skip
        unit = fetch_add(counter, 0, 1)


@njit(**_options)
def settle(words, units, size):
    """Adds up the units; words: parts, dweight (C, 5, 5)."""
    parts, dweight = _floats(words[0]), _floats(words[1])
    sums = np.empty(size)
    for tap in range(SIDE * SIDE):
        sums[:] = 0.0
        for unit in range(units):
            at = (unit * SIDE * SIDE + tap) * size
            for c in range(size):
                sums[c] += parts[at + c]
        for c in range(size):
            dweight[c * SIDE * SIDE + tap] = sums[c]
