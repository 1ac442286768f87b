"""Nearest code on the CPU: distances stay in registers, six vectors against a panel of codes.

The product $t_j = z^\\top e_j - |e_j|^2 / 2$, largest where the distance is least, is a register
tile in float32. Its rounding is bounded: a code that leads by more than the bound is the nearest so
far, and where one leads by less, both are measured again in float64. The answer is that of the
definition and does not depend on tiles, batches or threads.

Layout: codes in panels of `TILE_COLUMNS`, (panels, D, columns); `halves` are |e|^2 / 2, inf where
there is no code.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, largest, load, maximum
from paragone.kernels.tiles import TILE_COLUMNS, TILE_ROWS, tile

__all__ = ["BLOCK", "PANEL", "nearest"]

PANEL = TILE_COLUMNS
BLOCK = 16 * TILE_ROWS
"""Vectors of a unit of work; with 256 numbers each they stay in the second cache."""

_six: Any = tile(TILE_ROWS)
_one: Any = tile(1)


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def _squared(z, row, codes, code, width):
    """The distance, by definition."""
    found = 0.0
    for i in range(width):
        apart = np.float64(z[row * width + i]) - np.float64(codes[code * width + i])
        found += apart * apart
    return found


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def _best_of(sums, at, halves, first):
    """Largest t of a line of the tile."""
    found = load(sums, at) - load(halves, first)
    for j in range(WIDTH, PANEL, WIDTH):
        found = maximum(load(sums, at + j) - load(halves, first + j), found)
    return largest(found)


@njit(nogil=True, error_model="numpy")
def nearest(counter, units, z, codes, panels, halves, longest, count, width, out):
    """Writes the number of the nearest code of each vector; `least` is its distance, -1 unknown."""
    sums = np.empty(TILE_ROWS * PANEL, np.float32)
    top, least = np.empty(BLOCK, np.float32), np.empty(BLOCK)
    margin = np.empty(BLOCK, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        begin, end = unit * BLOCK, min(count, unit * BLOCK + BLOCK)
        for row in range(begin, end):
            length = 0.0
            for i in range(width):
                length += np.float64(z[row * width + i]) ** 2
            # Twice the bound of what a sum of `width` rounded products may be off.
            margin[row - begin] = 1.2e-7 * (
                (width + 2) * np.sqrt(length) * longest + longest * longest
            )
            top[row - begin], least[row - begin], out[row] = -np.inf, np.inf, 0
        for panel in range(len(halves) // PANEL):
            first, row = panel * PANEL, begin
            while row < end:
                rows = TILE_ROWS if row + TILE_ROWS <= end else 1
                if rows == 1:
                    _one(z, row * width, width, 1, panels, first * width, PANEL, sums, 0, PANEL,
                         width, 0)  # fmt: skip
                else:
                    _six(z, row * width, width, 1, panels, first * width, PANEL, sums, 0, PANEL,
                         width, 0)  # fmt: skip
                for r in range(rows):
                    at, place = row + r - begin, r * PANEL
                    best = _best_of(sums, place, halves, first)
                    limit = max(top[at], best) - margin[at]
                    if not best >= limit or best == -np.inf:
                        continue
                    for j in range(PANEL):
                        t = sums[place + j] - halves[first + j]
                        if not t >= limit or t == -np.inf:
                            continue
                        if t > top[at] + margin[at]:
                            least[at], out[row + r] = -1.0, first + j
                        else:
                            if least[at] < 0.0:
                                least[at] = _squared(z, row + r, codes, out[row + r], width)
                            exact = _squared(z, row + r, codes, first + j, width)
                            if exact < least[at]:
                                least[at], out[row + r] = exact, first + j
                        top[at] = max(top[at], t)
                row += rows
        unit = fetch_add(counter, 0, 1)
