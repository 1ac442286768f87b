r"""Rotary positions on the CPU: every vector is read and written once.

$$ y_a = c\, x_a - s\, x_b, \qquad y_b = c\, x_b + s\, x_a ; \qquad
   \text{backward the same with } -s . $$

Shapes: N rows of H heads, D width of a head, of which W coordinates are turned.
"""

from __future__ import annotations

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit

__all__ = ["BLOCK", "turn"]

BLOCK = 16
"""Rows of a work unit."""


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def turn(counter, units, x, stride, cos, sin, period, sign, y, rows, heads, width, turned, half):
    """From x, rows `stride` apart, to y (N, H, D); row n takes row n % period of cos and sin."""
    pairs = turned // 2
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for row in range(unit * BLOCK, min(unit * BLOCK + BLOCK, rows)):
            c, s = cos[row % period], sin[row % period]
            for head in range(heads):
                start = row * stride + head * width
                a = x[start : start + width]
                start = (row * heads + head) * width
                b = y[start : start + width]
                if half:
                    for i in range(pairs):
                        b[i] = c[i] * a[i] - sign * s[i] * a[i + pairs]
                        b[i + pairs] = c[i] * a[i + pairs] + sign * s[i] * a[i]
                else:
                    for i in range(pairs):
                        b[2 * i] = c[i] * a[2 * i] - sign * s[i] * a[2 * i + 1]
                        b[2 * i + 1] = c[i] * a[2 * i + 1] + sign * s[i] * a[2 * i]
                for i in range(turned, width):
                    b[i] = a[i]
        unit = fetch_add(counter, 0, 1)
