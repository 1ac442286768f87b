r"""Products of matrices in register tiles, with the operand that is read most kept in panels.

$C\,(+)=\,A B$ in tiles of `ROWS` x `COLUMNS`, each summed over up to `DEEP` terms at a time. Of B a
block that fits the second cache is used by many rows; of A a tile's rows stay in the first. What
a tile computes does not depend on the thread that computes it.

References:
    Goto and van de Geijn (2008), ACM TOMS 34(3), article 12, sections 4-5.

Shapes: A (m, k) of any two strides, C (m, n). B (k, n) in panels of `COLUMNS` columns: row r of
panel p begins at p `b_panel` + r `b_row`.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH
from paragone.kernels.tiles import tile

__all__ = ["COLUMNS", "DEEP", "ROWS", "multiply", "pack_rows", "pack_transposed", "whole_tile"]

_PANELS = 3 if WIDTH == 16 else 2
ROWS = 8 if WIDTH == 16 else 6
"""Rows of a tile: with its columns, as many sums as the registers hold."""
COLUMNS = WIDTH * _PANELS
DEEP = 512
"""Most terms of a sum before it is written."""

_product = tile(ROWS, _PANELS)


@njit(nogil=True, error_model="numpy")
def whole_tile(a, a_at, a_row, a_k, b, b_at, b_k, c, c_at, c_row, depth, add):
    """A tile of `ROWS` x `COLUMNS`; arguments as in `paragone.kernels.tiles.tile`."""
    _product(a, a_at, a_row, a_k, b, b_at, b_k, c, c_at, c_row, depth, add)


@njit(nogil=True, error_model="numpy")
def pack_rows(a, at, a_row, a_k, have, depth, out, out_at):
    """Writes `have` rows of A side by side, (depth, ROWS), those that lack as 0."""
    if a_row == 1 and have == ROWS:
        for k in range(depth):
            for i in range(ROWS):
                out[out_at + k * ROWS + i] = a[at + k * a_k + i]
        return
    for i in range(ROWS):
        for k in range(depth):
            value = np.float32(0)
            if i < have:
                value = a[at + i * a_row + k * a_k]
            out[out_at + k * ROWS + i] = value


@njit(nogil=True, error_model="numpy")
def pack_transposed(counter, units, w, n, k, wide, out):
    """Panels of W^T, (n / wide, k, wide), for a W of (n, k); columns beyond n are 0."""
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        have = min(wide, n - unit * wide)
        base = unit * k * wide
        for k0 in range(0, k, 16):
            deep = min(16, k - k0)
            for j in range(have):
                row = (unit * wide + j) * k + k0
                for r in range(deep):
                    out[base + (k0 + r) * wide + j] = w[row + r]
            for j in range(have, wide):
                for r in range(deep):
                    out[base + (k0 + r) * wide + j] = np.float32(0)
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def _part(sums, rows, columns, c, at, c_row, add):
    """The part of a tile that lies within C."""
    for i in range(rows):
        for j in range(columns):
            value = sums[i * COLUMNS + j]
            place = at + i * c_row + j
            c[place] = c[place] + value if add else value


@njit(nogil=True, error_model="numpy")
def multiply(
    counter, units, a, a_row, a_k, b, b_panel, b_row, tail, c, c_row, m, n, k, add, tall, wide
):
    """C (+)= A B; a unit is `tall` rows by `wide` panels.

    `tail` holds the last panel, (k, COLUMNS) with 0 behind its columns, if B is not padded.
    """
    panels = (n + COLUMNS - 1) // COLUMNS
    across = (panels + wide - 1) // wide
    sums = np.empty(ROWS * COLUMNS, np.float32)
    packed = np.empty(DEEP * ROWS, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        first, last = unit // across * tall, min(m, (unit // across + 1) * tall)
        left, right = unit % across * wide, min(panels, (unit % across + 1) * wide)
        for k0 in range(0, k, DEEP):
            depth = min(DEEP, k - k0)
            more = add if k0 == 0 else 1
            for i in range(first, last, ROWS):
                have = min(ROWS, last - i)
                source, at, row, step = a, i * a_row + k0 * a_k, a_row, a_k
                if a_k != 1 or have < ROWS:
                    pack_rows(a, at, a_row, a_k, have, depth, packed, 0)
                    source, at, row, step = packed, 0, 1, ROWS
                for p in range(left, right):
                    columns = min(COLUMNS, n - p * COLUMNS)
                    panel, b_at, b_k = b, p * b_panel + k0 * b_row, b_row
                    if columns < COLUMNS and len(tail):
                        panel, b_at, b_k = tail, k0 * COLUMNS, COLUMNS
                    c_at = i * c_row + p * COLUMNS
                    if have == ROWS and columns == COLUMNS:
                        whole_tile(
                            source, at, row, step, panel, b_at, b_k, c, c_at, c_row, depth, more
                        )
                    else:
                        whole_tile(
                            source, at, row, step, panel, b_at, b_k, sums, 0, COLUMNS, depth, 0
                        )
                        _part(sums, have, columns, c, c_at, c_row, more)
        unit = fetch_add(counter, 0, 1)
