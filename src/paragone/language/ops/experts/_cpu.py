"""Experts on the CPU: sorting rows by counting, and adding up what experts gave each token.

The gate between the products is that of `ops.stream`, with a share for each row.

Shapes: R rows, N tokens, K experts of each, E experts, M model width.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, load_some, store_some, zero

__all__ = ["BLOCK", "collect", "sort_rows"]

BLOCK = 16
"""Rows of a work unit."""


@njit(nogil=True, error_model="numpy")
def sort_rows(chosen, order, place, ends):
    """Fills order (R,) and place (R,) and ends (E,) from chosen (R,); what is E or more is last."""
    experts, rows = len(ends), len(chosen)
    starts = np.zeros(experts + 2, np.int64)
    for row in range(rows):
        starts[min(chosen[row], experts) + 1] += 1
    for e in range(experts + 1):
        starts[e + 1] += starts[e]
    for e in range(experts):
        ends[e] = starts[e + 1]
    for row in range(rows):
        e = min(chosen[row], experts)
        order[starts[e]] = row
        place[row] = starts[e]
        starts[e] += 1


@njit(nogil=True, error_model="numpy")
def collect(counter, units, rows, place, y, tokens, most, width):
    """Adds up a token's K rows, in the order of k: rows (R, M) at place (N, K) to y (N, M)."""
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for token in range(unit * BLOCK, min(unit * BLOCK + BLOCK, tokens)):
            for m in range(0, width, WIDTH):
                some = min(WIDTH, width - m)
                sum_ = zero()
                for k in range(most):
                    sum_ = sum_ + load_some(rows, place[token * most + k] * width + m, some)
                store_some(y, token * width + m, sum_, some)
        unit = fetch_add(counter, 0, 1)
