r"""Experts on the CPU: what stands between the matrix products, each in one pass over memory.

Sorting is by counting, since experts are few. The hidden units of a row are read once forward and
once backward; with $s = \sigma(g)$ and the row's share w,

$$ a = w\, g s u, \qquad \bar u = w \bar a\, g s, \qquad \bar g = w \bar a\, u s (1 + g (1 - s)),
   \qquad \bar w = \textstyle\sum_f \bar a\, g s u . $$

Shapes: R rows, N tokens, K experts of each, E experts, F hidden units, M model width.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.lean import sigmoid
from paragone.kernels.simd import (
    WIDTH,
    flush_denormals,
    load_some,
    restore_floats,
    splat,
    store_some,
    total,
    zero,
)  # fmt: skip

__all__ = ["BLOCK", "collect", "gated", "gated_backward", "sort_rows"]

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
def gated(counter, units, hidden, share, inner, rows, width):
    """Hidden (R, 2 F) to inner (R, F), times share (R,)."""
    old = flush_denormals()
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for row in range(unit * BLOCK, min(unit * BLOCK + BLOCK, rows)):
            w, at = splat(share[row]), 2 * row * width
            for f in range(0, width, WIDTH):
                some = min(WIDTH, width - f)
                g = load_some(hidden, at + f, some)
                u = load_some(hidden, at + width + f, some)
                store_some(inner, row * width + f, g * sigmoid(g) * u * w, some)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)


@njit(nogil=True, error_model="numpy")
def gated_backward(counter, units, hidden, share, dinner, dhidden, dshare, rows, width):
    """Gradients of hidden and share; `dinner` (R, F) is replaced by the inner units themselves."""
    one = splat(np.float32(1))
    old = flush_denormals()
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for row in range(unit * BLOCK, min(unit * BLOCK + BLOCK, rows)):
            w, at, dw = splat(share[row]), 2 * row * width, zero()
            for f in range(0, width, WIDTH):
                some = min(WIDTH, width - f)
                g = load_some(hidden, at + f, some)
                u = load_some(hidden, at + width + f, some)
                d = load_some(dinner, row * width + f, some)
                s = sigmoid(g)
                silu = g * s
                inner = silu * u
                dw = dw + d * inner
                d = d * w
                store_some(dinner, row * width + f, inner * w, some)
                store_some(dhidden, at + f, d * u * (s + silu * (one - s)), some)
                store_some(dhidden, at + width + f, d * silu, some)
            dshare[row] = total(dw)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)


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
