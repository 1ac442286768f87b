r"""Parts of a network that only answers, over maps in channels-last order.

A convolution of one pixel is a product of matrices, places x inputs times inputs x outputs. Six
places and up to 64 outputs are computed at a time, all sums in registers, and get offset, shortcut
and activation while they are still in the nearest cache:

$$ y_{ij} = \phi\Big(\sum_k x_{ik} w_{kj} + b_j + r_{ij}\Big) . $$

Squeeze and excitation is one call: means over the places, two small products, and the scaling of
the map, in place.

Weights come in panels of `TILE_COLUMNS` outputs, input by input; the last panel is as many vectors
wide as it needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray  # pyright: ignore[reportPrivateImportUsage]

from paragone.kernels.atomics import fetch_add, pointer
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, fma, load_some, splat, store_some
from paragone.kernels.tiles import TILE_COLUMNS, TILE_ROWS, tile
from paragone.vision.ops.norm_act._cpu_kernels import activated

__all__ = ["activate_map", "interleave", "pointwise", "squeeze_excite"]

_options: Any = {"nogil": True, "error_model": "numpy"}
_inner: Any = {**_options, "no_cpython_wrapper": True, "forceinline": True}
_four, _three, _two, _one = (tile(TILE_ROWS, n) for n in (4, 3, 2, 1))
_row_four, _row_three, _row_two, _row_one = (tile(1, n) for n in (4, 3, 2, 1))


@njit(**_inner)
def _floats(address):
    return carray(pointer(address), (1 << 40,), np.float32)


@njit(nogil=True, error_model="numpy", no_cpython_wrapper=True)
def _product(x, x_at, x_row, w, w_at, c, depth, many, panels):
    """C (many x panels vectors) = rows of x times a panel; many is `TILE_ROWS` or 1."""
    step, whole = panels * WIDTH, many > 1
    if panels == 4:
        if whole:
            _four(x, x_at, x_row, 1, w, w_at, step, c, 0, step, depth, 0)
        else:
            _row_four(x, x_at, x_row, 1, w, w_at, step, c, 0, step, depth, 0)
    elif panels == 3:
        if whole:
            _three(x, x_at, x_row, 1, w, w_at, step, c, 0, step, depth, 0)
        else:
            _row_three(x, x_at, x_row, 1, w, w_at, step, c, 0, step, depth, 0)
    elif panels == 2:
        if whole:
            _two(x, x_at, x_row, 1, w, w_at, step, c, 0, step, depth, 0)
        else:
            _row_two(x, x_at, x_row, 1, w, w_at, step, c, 0, step, depth, 0)
    elif whole:
        _one(x, x_at, x_row, 1, w, w_at, step, c, 0, step, depth, 0)
    else:
        _row_one(x, x_at, x_row, 1, w, w_at, step, c, 0, step, depth, 0)


@njit(**_inner)
def _finish(c, c_at, offset, at, shortcut, y, y_at, adds, family, times, low, high, n):
    z = load_some(c, c_at, n) + load_some(offset, at, n)
    if adds:
        z = z + load_some(shortcut, y_at, n)
    store_some(y, y_at, activated(z, family, times, low, high), n)


@njit(**_options)
def pointwise(counter, units, words, rows, x_row, inner, outer, block, family, times, low, high):
    """Words: x, panels, offset, shortcut or 0, y."""
    x, w, offset = _floats(words[0]), _floats(words[1]), _floats(words[2])
    shortcut, y, adds = _floats(words[3]), _floats(words[4]), words[3] != 0
    c = np.empty(TILE_ROWS * TILE_COLUMNS, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        first, last = unit * block, min((unit + 1) * block, rows)
        for j in range(0, outer, TILE_COLUMNS):
            columns = min(TILE_COLUMNS, outer - j)
            panels, whole = (columns + WIDTH - 1) // WIDTH, columns - columns % WIDTH
            i = first
            while i < last:
                many = TILE_ROWS if last - first >= TILE_ROWS else 1
                # The last tile begins earlier, over places that are there already.
                i = min(i, last - many)
                _product(x, i * x_row, x_row, w, j * inner, c, inner, many, panels)
                for r in range(many):
                    at, row = (i + r) * outer + j, r * panels * WIDTH
                    for v in range(0, whole, WIDTH):
                        _finish(c, row + v, offset, j + v, shortcut, y, at + v, adds, family, times,
                                low, high, WIDTH)  # fmt: skip
                    if whole < columns:
                        _finish(c, row + whole, offset, j + whole, shortcut, y, at + whole, adds,
                                family, times, low, high, columns - whole)  # fmt: skip
                i += many
        unit = fetch_add(counter, 0, 1)


@njit(**_options)
def activate_map(counter, units, words, size, block, family, times, low, high):
    """Applies an activation in place; words: x."""
    x = _floats(words[0])
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        first, last = unit * block, min((unit + 1) * block, size)
        whole = first + (last - first) // WIDTH * WIDTH
        for k in range(first, whole, WIDTH):
            z = load_some(x, k, WIDTH)
            store_some(x, k, activated(z, family, times, low, high), WIDTH)
        if whole < last:
            z = load_some(x, whole, last - whole)
            store_some(x, whole, activated(z, family, times, low, high), last - whole)
        unit = fetch_add(counter, 0, 1)


@njit(**_options)
def interleave(counter, units, words, rows, size, block, a_row, b_row):
    """Channels of two maps in turn, a_0 b_0 a_1 b_1 ...; words: a, b, y."""
    a, b, y = _floats(words[0]), _floats(words[1]), _floats(words[2])
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for row in range(unit * block, min((unit + 1) * block, rows)):
            for c in range(size):
                y[(row * size + c) * 2] = a[row * a_row + c]
                y[(row * size + c) * 2 + 1] = b[row * b_row + c]
        unit = fetch_add(counter, 0, 1)


@njit(**_inner)
def _dense(x, w, offset, y, inner, outer, family, times, low, high):
    """Y = phi(x W + offset) for one row; W is inner x outer."""
    for j in range(0, outer, WIDTH):
        n = min(WIDTH, outer - j)
        z = load_some(offset, j, n)
        for k in range(inner):
            z = fma(splat(x[k]), load_some(w, k * outer + j, n), z)
        store_some(y, j, activated(z, family, times, low, high), n)


@njit(**_options)
def squeeze_excite(counter, units, words, places, size, small, forms, low, high):
    """A unit is an image; words: x, both weights as inputs x outputs, each with its offset.

    `forms` holds family and times of both activations, `low` and `high` the ends of clamps.
    """
    x, first, second = _floats(words[0]), _floats(words[1]), _floats(words[3])
    first_offset, second_offset = _floats(words[2]), _floats(words[4])
    mean, gate = np.empty(size, np.float32), np.empty(size, np.float32)
    squeezed = np.empty(small, np.float32)
    share = splat(np.float32(1.0) / np.float32(places))
    image = fetch_add(counter, 0, 1)
    while image < units:
        at = image * places * size
        mean[:] = 0.0
        for place in range(places):
            for c in range(0, size, WIDTH):
                n = min(WIDTH, size - c)
                total = load_some(mean, c, n) + load_some(x, at + place * size + c, n)
                store_some(mean, c, total, n)
        for c in range(0, size, WIDTH):
            n = min(WIDTH, size - c)
            store_some(mean, c, load_some(mean, c, n) * share, n)
        _dense(
            mean, first, first_offset, squeezed, size, small, forms[0], forms[1], low[0], high[0]
        )
        _dense(squeezed, second, second_offset, gate, small, size, forms[2], forms[3], low[1],
               high[1])  # fmt: skip
        for place in range(places):
            for c in range(0, size, WIDTH):
                n = min(WIDTH, size - c)
                k = at + place * size + c
                store_some(x, k, load_some(x, k, n) * load_some(gate, c, n), n)
        image = fetch_add(counter, 0, 1)
