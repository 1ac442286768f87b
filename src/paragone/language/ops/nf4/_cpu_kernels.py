"""Four bits to float32 on the CPU: a byte is a pair of weights, looked up as one.

Shapes: b blocks of 64 weights, g groups of 256 blocks.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit

__all__ = ["dequantize"]


@njit(nogil=True, error_model="numpy")
def dequantize(counter, units, codes, scale, group, mean, first, second, out):
    """One group a unit; `first` and `second` (256,) are a byte's two levels."""
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        step = group[unit] / np.float32(127)
        for block in range(unit * 256, min(unit * 256 + 256, scale.size)):
            s = mean + np.float32(scale[block]) * step
            for i in range(32):
                byte = codes[block * 32 + i]
                out[block * 64 + 2 * i] = first[byte] * s
                out[block * 64 + 2 * i + 1] = second[byte] * s
        unit = fetch_add(counter, 0, 1)
