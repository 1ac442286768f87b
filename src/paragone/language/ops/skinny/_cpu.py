"""The product of a few rows on the CPU: a unit of work is a group of panels.

Shapes: n rows, B of them side by side, K inputs, R outputs.
"""

from __future__ import annotations

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, load, store
from paragone.language.ops.decoding._cpu_panels import PANEL
from paragone.language.ops.decoding._cpu_step import multiplied

__all__ = ["skinny_kernel"]


@njit(nogil=True, error_model="numpy")
def skinny_kernel(counter, units, x, weights, scale, bias, out):
    """Out (n / B * B, R) = x (n / B, K, B) times `weights` (R / PANEL, K, PANEL).

    `scale` and `bias` are (R,), or empty.
    """
    blocks, depth, block = x.shape
    panels, row = weights.shape[0], out.shape[1]
    # The micro-kernels take data of one dimension.
    flat_x, flat_w, flat_out = x.reshape(-1), weights.reshape(-1), out.reshape(-1)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for p in range(unit * panels // units, (unit + 1) * panels // units):
            for b in range(blocks):
                at = b * block * row + p * PANEL
                multiplied(block, flat_x, b * depth * block, flat_w, p * depth * PANEL, depth,
                           flat_out, at, row)  # fmt: skip
                for i in range(at, at + block * row, row):
                    for v in range(0, PANEL, WIDTH):
                        if len(scale):
                            store(flat_out, i + v,
                                  load(flat_out, i + v) * load(scale, p * PANEL + v))  # fmt: skip
                        if len(bias):
                            store(flat_out, i + v,
                                  load(flat_out, i + v) + load(bias, p * PANEL + v))  # fmt: skip
        unit = fetch_add(counter, 0, 1)
