"""What both directions of a chunk share: products from tiles, padded copies, decays of a chunk.

Products run over panels of `TILE_COLUMNS` columns; what they read as such is copied into rows of a
multiple of that (`padded`), with zeros behind the end.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH,
    below,
    lanes,
    load,
    load_some,
    splat,
    store,
    store_some,
    zero,
)
from paragone.kernels.tiles import TILE_COLUMNS, tile
from paragone.mixers.ops.scan._decay import decay, spread

__all__ = ["copied", "decays_of", "multiply", "padded", "scaled", "turned", "weights_of", "written"]

_four, _one = tile(4), tile(1)
_INLINED = {
    "nogil": True, "error_model": "numpy", "forceinline": True, "no_cpython_wrapper": True,
}  # fmt: skip
LOG2_E = np.float32(1.4426950408889634)


@njit(**_INLINED)
def padded(size):
    """The next multiple of a panel."""
    return (size + TILE_COLUMNS - 1) // TILE_COLUMNS * TILE_COLUMNS


@njit(nogil=True, error_model="numpy", no_cpython_wrapper=True)
def multiply(a, a_at, a_row, a_k, b, b_row, c, c_row, rows, columns, depth, add, low, high):
    """C (+)= A B; where A is a triangle, `low` skips k > i (and `high` k < i) by tiles of four."""
    for j in range(0, columns, TILE_COLUMNS):
        for i in range(0, rows, 4):
            first = i if high else 0
            last = min(depth, i + 4) if low else depth
            place = a_at + i * a_row + first * a_k
            if i + 4 <= rows:
                _four(a, place, a_row, a_k, b, first * b_row + j, b_row, c, i * c_row + j, c_row,
                      last - first, add)  # fmt: skip
            else:
                for more in range(i, rows):
                    _one(a, place, a_row, a_k, b, first * b_row + j, b_row, c, more * c_row + j,
                         c_row, last - first, add)  # fmt: skip
                    place += a_row


@njit(**_INLINED)
def copied(source, at, row, rows, columns, target):
    """Copies rows of `source` into padded rows."""
    width = padded(columns)
    for i in range(rows):
        for j in range(0, width, WIDTH):
            value = load_some(source, at + i * row + j, max(0, columns - j))
            store(target, i * width + j, value)


@njit(**_INLINED)
def written(source, rows, columns, target, at, row):
    """Copies padded rows to rows of `target`."""
    width = padded(columns)
    for i in range(rows):
        for j in range(0, columns, WIDTH):
            store_some(target, at + i * row + j, load(source, i * width + j), columns - j)


@njit(**_INLINED)
def turned(source, at, row, rows, columns, target):
    """Copies the transpose: (columns, padded rows)."""
    width = padded(rows)
    for j in range(columns):
        for i in range(rows):
            target[j * width + i] = source[at + i * row + j]
        for i in range(rows, width):
            target[j * width + i] = 0


@njit(**_INLINED)
def scaled(source, at, row, rows, columns, factors, target):
    """Copies rows, each times its factor."""
    for i in range(rows):
        factor = factors[i]
        for j in range(columns):
            target[i * columns + j] = factor * source[at + i * row + j]


@njit(**_INLINED)
def decays_of(dt, at, stride, rate, size, steps, sums, since, until):
    """Steps, sums of the log2 decays from the chunk's start, and decays since it and until its end.

    Returns the decay of the whole chunk. Arrays hold a multiple of W lanes; behind the end: 0.
    """
    total = np.float32(0)
    for i in range(size):
        steps[i] = dt[at + i * stride]
        total += steps[i] * (rate * LOG2_E)
        sums[i] = total
    for i in range(size, len(steps)):
        steps[i] = sums[i] = 0
    for i in range(0, size, WIDTH):
        value = load(sums, i)
        store(since, i, decay(value))
        store(until, i, decay(splat(total) - value))
    return since[size - 1]


@njit(**_INLINED)
def weights_of(scores, at, row, size, steps, sums, weights):
    """The masked attention of a chunk: scores x decay from j to i x step of j, 0 for j > i."""
    for i in range(size):
        here, edge = spread(sums, i), splat(np.float32(i + 1))
        for j in range(0, row, WIDTH):
            value = zero()
            if j <= i:
                value = load_some(scores, at + i * row + j, row - j)
                value = value * decay(here - load(sums, j)) * load(steps, j)
                value = below(splat(np.float32(j)) + lanes(), edge, value, zero())
            store(weights, i * padded(row) + j, value)
