r"""Linear maps on the CPU: a register tile, and its end while the sums are in the nearest cache.

A unit is a block of rows. For each panel of `COLUMNS` columns of the weight, tiles of `ROWS` rows
are summed over the whole depth and then finished: bias and shortcut are added, or GELU is taken,
or its slope multiplied in,

$$ g = \sigma(2 c (h + a h^3)), \qquad
   \mathrm{gelu}'(h) = g + 2 c\, h\, g (1 - g) (1 + 3 a h^2) . $$

A row's sums are taken in the order of the depth, wherever it stands: they do not depend on other
rows or on threads. The last unit takes rows of the one before it, with the same results, where it
would have fewer than a tile.

References:
    Goto and van de Geijn (2008), ACM TOMS 34(3), article 12, sections 4-5.

Shapes: L rows, K depth, N columns.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.lean import sigmoid
from paragone.kernels.simd import (
    WIDTH,
    flush_denormals,
    fma,
    load_some,
    restore_floats,
    splat,
    store_some,
)
from paragone.kernels.tiles import tile

__all__ = [
    "ADD",
    "BLOCK",
    "COLUMNS",
    "FEED",
    "GELU",
    "KEEP",
    "ROWS",
    "SLOPE",
    "feed",
    "pack",
    "product",
    "turn",
]  # fmt: skip

_PANELS = 3 if WIDTH == 16 else 2
ROWS = 8 if WIDTH == 16 else 6
"""Rows of a tile: with its columns, as many sums as the registers hold."""
COLUMNS = WIDTH * _PANELS
BLOCK = 24 * ROWS
"""Rows of a work unit."""
FEED = 12 * ROWS
"""The same for `feed`, whose hidden units stay in the second cache."""

ADD, GELU, KEEP, SLOPE = 1, 2, 3, 4
"""Ends: add `other`; GELU; GELU, with its argument kept in `other`; multiply by GELU's slope at
`other`, without a bias, and write GELU itself to `second`."""

_product = tile(ROWS, _PANELS)
_TWICE_C = np.float32(2 * np.sqrt(2 / np.pi))
_CUBE = np.float32(0.044715)


@njit(nogil=True, error_model="numpy")
def pack(counter, units, w, n, k, n_step, k_step, out):
    """Panels (N / COLUMNS, K, COLUMNS) of the matrix w[n n_step + k k_step]; 0 beyond N."""
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        have = min(COLUMNS, n - unit * COLUMNS)
        for r in range(k):
            at, start = (unit * k + r) * COLUMNS, unit * COLUMNS * n_step + r * k_step
            for j in range(have):
                out[at + j] = w[start + j * n_step]
            for j in range(have, COLUMNS):
                out[at + j] = np.float32(0)
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def _gate(h):
    """GELU over its argument, and the square that it was made of."""
    square = splat(_CUBE) * h * h
    return sigmoid(splat(_TWICE_C) * fma(square, h, h)), square


@njit(nogil=True, error_model="numpy")
def _finish(c, skip, bias, column, other, second, other_at, out, out_at, columns, end):
    """A tile at its end, without its first `skip` rows; one branch for all its vectors."""
    have = min(COLUMNS, columns - column)
    for i in range(skip, ROWS):
        at, there, to = i * COLUMNS, other_at + i * columns + column, out_at + i * columns + column
        if end == 0:
            for j in range(0, have, WIDTH):
                some = min(WIDTH, have - j)
                v = load_some(c, at + j, some) + load_some(bias, column + j, some)
                store_some(out, to + j, v, some)
        elif end == ADD:
            for j in range(0, have, WIDTH):
                some = min(WIDTH, have - j)
                v = load_some(c, at + j, some) + load_some(bias, column + j, some)
                store_some(out, to + j, v + load_some(other, there + j, some), some)
        elif end == SLOPE:
            one, three = splat(np.float32(1)), splat(np.float32(3))
            for j in range(0, have, WIDTH):
                some = min(WIDTH, have - j)
                h = load_some(other, there + j, some)
                g, square = _gate(h)
                store_some(second, there + j, h * g, some)
                rest = splat(_TWICE_C) * h * g * (one - g)
                slope = fma(rest, fma(three, square, one), g)
                store_some(out, to + j, load_some(c, at + j, some) * slope, some)
        else:
            for j in range(0, have, WIDTH):
                some = min(WIDTH, have - j)
                h = load_some(c, at + j, some) + load_some(bias, column + j, some)
                if end == KEEP:
                    store_some(other, there + j, h, some)
                store_some(out, to + j, h * _gate(h)[0], some)


@njit(nogil=True, error_model="numpy")
def _block(
    x, x_at, panels, bias, other, second, other_at, out, out_at, rows, depth, columns, end, c
):  # fmt: skip
    """The product of `rows` rows, at least `ROWS`, from `x_at` on; c holds a tile."""
    for column in range(0, columns, COLUMNS):
        for row in range(0, rows, ROWS):
            at = min(row, rows - ROWS)
            _product(
                x, x_at + at * depth, depth, 1, panels, column * depth, COLUMNS, c, 0, COLUMNS,
                depth, 0,
            )  # fmt: skip
            _finish(
                c, row - at, bias, column, other, second, other_at + at * columns, out,
                out_at + at * columns, columns, end,
            )  # fmt: skip


@njit(nogil=True, error_model="numpy")
def product(counter, units, x, panels, bias, other, second, out, rows, depth, columns, end):
    """From x (L, K) to out (L, N) with an end; L is at least `ROWS`."""
    old = flush_denormals()
    c = np.empty(ROWS * COLUMNS, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        first, last = min(unit * BLOCK, rows - ROWS), min(unit * BLOCK + BLOCK, rows)
        at = first * columns
        _block(
            x, first * depth, panels, bias, other, second, at, out, at, last - first, depth,
            columns, end, c,
        )  # fmt: skip
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)


@njit(nogil=True, error_model="numpy")
def feed(
    counter, units, x, panels0, bias0, panels1, bias1, shortcut, kept, end, out, rows, width, inner
):  # fmt: skip
    """Both products and the shortcut, from x (L, M) to out (L, M); L is at least `ROWS`.

    With the end `KEEP` of the first product, arguments of GELU go to kept (L, F).
    """
    old = flush_denormals()
    c = np.empty(ROWS * COLUMNS, np.float32)
    hidden = np.empty((FEED + ROWS) * inner, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        first, last = min(unit * FEED, rows - ROWS), min(unit * FEED + FEED, rows)
        at, count = first * width, last - first
        _block(
            x, at, panels0, bias0, kept, c, first * inner, hidden, 0, count, width, inner, end, c
        )  # fmt: skip
        _block(hidden, 0, panels1, bias1, shortcut, c, at, out, at, count, inner, width, ADD, c)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def turn(counter, units, x, cos, sin, sign, y, rows, heads, width, rest):
    """Turns the first `heads` of each row and copies `rest` numbers behind them (0: leaves them).

    x and y may be the same. All rows are (3 H D,), cos and sin (L, D / 2).
    """
    half, line = width // 2, heads * width * 3 // 2
    t = np.empty(width, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for row in range(unit * ROWS, min(unit * ROWS + ROWS, rows)):
            c, s = cos[row * half : row * half + half], sin[row * half : row * half + half]
            for head in range(heads):
                start = row * line + head * width
                a, b = x[start : start + width], y[start : start + width]
                for i in range(half):
                    even, odd = a[2 * i], a[2 * i + 1]
                    t[2 * i] = c[i] * even - sign * s[i] * odd
                    t[2 * i + 1] = c[i] * odd + sign * s[i] * even
                for i in range(width):
                    b[i] = t[i]
            start = row * line + heads * width
            for i in range(start, start + rest):
                y[i] = x[i]
        unit = fetch_add(counter, 0, 1)
