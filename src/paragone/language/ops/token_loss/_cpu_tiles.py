r"""The register tile of the head's products, and the weight in panels that it reads.

$C_{ij} \,(+)=\, \sum_k A_{ik} B_{kj}$ for `ROWS` rows and `COLUMNS` columns, with all sums in
registers. Three vectors by eight rows leave room for what is loaded on machines with 32 registers;
an operand that is packed streams from the second cache at the pace of the arithmetic.

References:
    Goto and van de Geijn (2008), ACM TOMS 34(3), article 12, sections 4-5.

Shapes: W (n, k); panels of W^T are (k, wide).
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH
from paragone.kernels.tiles import tile

__all__ = ["COLUMNS", "ROWS", "pack_transposed", "whole_tile"]

_PANELS = 3 if WIDTH == 16 else 2
ROWS = 8 if WIDTH == 16 else 6
"""Rows of a tile: with its columns, as many sums as the registers hold."""
COLUMNS = WIDTH * _PANELS

_product = tile(ROWS, _PANELS)


@njit(nogil=True, error_model="numpy")
def whole_tile(a, a_at, a_row, a_k, b, b_at, b_k, c, c_at, c_row, depth, add):
    """A tile of `ROWS` x `COLUMNS`; arguments as in `paragone.kernels.tiles.tile`."""
    _product(a, a_at, a_row, a_k, b, b_at, b_k, c, c_at, c_row, depth, add)


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
