r"""Norm and gate on the CPU: each reads its input once forward and once backward.

With $r$ kept for each row and $\bar y$ the gradient of the output,

$$ \bar x = r \big(g \bar y - x\, \tfrac{r^2}{M} \textstyle\sum_i g_i \bar y_i x_i\big), \qquad
   \bar g = \textstyle\sum_n \bar y\, x\, r ; $$

with $s = \sigma(a)$ and a share w of each row (1 but for experts),

$$ \bar u = w \bar y\, a s, \qquad \bar a = w \bar y\, u s (1 + a (1 - s)), \qquad
   \bar w = \textstyle\sum_f \bar y\, a s u . $$

Sums over rows are taken in blocks of `BLOCK`, so that results do not depend on threads.

Shapes: N rows, M length of a row, F hidden units.
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
    total,
    zero,
)

__all__ = ["BLOCK", "gated", "gated_backward", "norm", "norm_backward"]

BLOCK = 16
"""Rows of a work unit."""


@njit(nogil=True, error_model="numpy")
def norm(counter, units, x, weight, eps, y, kept, rows, width):
    """Norms x (N, M) to y (N, M); the factor of each row goes to kept (N,)."""
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for row in range(unit * BLOCK, min(unit * BLOCK + BLOCK, rows)):
            at, sum_ = row * width, zero()
            for m in range(0, width, WIDTH):
                v = load_some(x, at + m, min(WIDTH, width - m))
                sum_ = fma(v, v, sum_)
            r = np.float32(1) / np.sqrt(total(sum_) / np.float32(width) + eps)
            kept[row] = r
            factor = splat(r)
            for m in range(0, width, WIDTH):
                some = min(WIDTH, width - m)
                v = load_some(x, at + m, some) * factor * load_some(weight, m, some)
                store_some(y, at + m, v, some)
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def norm_backward(counter, units, x, weight, kept, dy, dx, parts, rows, width):
    """Gradients of x (N, M), and of the weight as one row of `parts` (units, M) for each block."""
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        home = unit * width
        parts[home : home + width] = np.float32(0)
        for row in range(unit * BLOCK, min(unit * BLOCK + BLOCK, rows)):
            at, r, sum_ = row * width, kept[row], zero()
            factor = splat(r)
            for m in range(0, width, WIDTH):
                some = min(WIDTH, width - m)
                v, d = load_some(x, at + m, some), load_some(dy, at + m, some)
                both = v * d
                sum_ = fma(both, load_some(weight, m, some), sum_)
                store_some(
                    parts, home + m, fma(both, factor, load_some(parts, home + m, some)), some
                )
            back = splat(-r * r * r * total(sum_) / np.float32(width))
            for m in range(0, width, WIDTH):
                some = min(WIDTH, width - m)
                d = load_some(dy, at + m, some) * load_some(weight, m, some) * factor
                store_some(dx, at + m, fma(load_some(x, at + m, some), back, d), some)
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def gated(counter, units, gate, up, stride, share, each, inner, rows, width):
    """From gate and up, rows `stride` apart, to inner (N, F), times share[each * row]."""
    old = flush_denormals()
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for row in range(unit * BLOCK, min(unit * BLOCK + BLOCK, rows)):
            w, at = splat(share[each * row]), row * stride
            for f in range(0, width, WIDTH):
                some = min(WIDTH, width - f)
                a = load_some(gate, at + f, some)
                y = a * sigmoid(a) * load_some(up, at + f, some) * w
                store_some(inner, row * width + f, y, some)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)


@njit(nogil=True, error_model="numpy")
def gated_backward(
    counter, units, gate, up, stride, share, each, dy, inner, dgate, dup, dshare, rows, width
):  # fmt: skip
    """Gradients of gate, up and share; with `each` the inner units go to inner (N, F), maybe dy."""
    one = splat(np.float32(1))
    old = flush_denormals()
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for row in range(unit * BLOCK, min(unit * BLOCK + BLOCK, rows)):
            w, at, dw = splat(share[each * row]), row * stride, zero()
            for f in range(0, width, WIDTH):
                some = min(WIDTH, width - f)
                a, u = load_some(gate, at + f, some), load_some(up, at + f, some)
                d = load_some(dy, row * width + f, some)
                s = sigmoid(a)
                silu = a * s
                if each:
                    y = silu * u
                    dw = fma(d, y, dw)
                    store_some(inner, row * width + f, y * w, some)
                d = d * w
                store_some(dgate, at + f, d * u * fma(silu, one - s, s), some)
                store_some(dup, at + f, d * silu, some)
            if each:
                dshare[row] = total(dw)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)
