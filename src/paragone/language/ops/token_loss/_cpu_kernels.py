r"""The head on a CPU: tiles of logits with their sums, and the two products of the gradient.

Logits stand in groups of `GROUP` columns, (V / GROUP, C, GROUP), so that each of the three products
reads them as one of its packed operands and nothing is copied in between:

$$ Z = H W^\top, \qquad P_{nv} = s_n\, e^{Z_{nv} - \log \sum_u e^{Z_{nu}}}, \qquad
   \mathrm{d}W^\top \mathrel{+}= H^\top P, \qquad \mathrm{d}H = P W . $$

References:
    Milakov and Gimelshein (2018), arXiv:1805.02867, section 2.

Shapes: C rows of a chunk, a multiple of ROWS; M width, as (M / COLUMNS) panels and padded to it in
dH; V vocabulary, padded to GROUP.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, exp, largest, load, maximum, splat, store, total, zero
from paragone.language.ops.token_loss._cpu_tiles import COLUMNS, ROWS, whole_tile

__all__ = ["GROUP", "head_logits", "head_rows", "head_weights"]

GROUP = 4 * COLUMNS
"""Columns of a group of logits."""


@njit(nogil=True, error_model="numpy")
def head_logits(counter, units, h, w, z, tops, sums, rows, width, vocabulary):
    """Logits of each group, and for each row the group's maximum and sum of exponentials.

    h is (C, M), w the packed W^T, (groups, M, GROUP); z, tops and sums are written.
    """
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        base = unit * rows * GROUP
        have = min(GROUP, vocabulary - unit * GROUP)
        for i in range(0, rows, ROWS):
            for p in range(0, GROUP, COLUMNS):
                whole_tile(
                    h, i * width, width, 1, w, unit * width * GROUP + p, GROUP,
                    z, base + i * GROUP + p, GROUP, width, 0,
                )  # fmt: skip
            for r in range(i, i + ROWS):
                at = base + r * GROUP
                for j in range(have, GROUP):
                    z[at + j] = np.float32(-1e30)
                top = load(z, at)
                for j in range(WIDTH, GROUP, WIDTH):
                    top = maximum(top, load(z, at + j))
                highest = largest(top)
                shift, added = splat(highest), zero()
                for j in range(0, GROUP, WIDTH):
                    added = added + exp(load(z, at + j) - shift)
                tops[unit * rows + r], sums[unit * rows + r] = highest, total(added)
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def head_weights(counter, units, h, lse, scale, z, dw, rows, width, wanted):
    """Turns logits into s p, and adds H^T P to each group of dW^T where it is wanted.

    h is H^T in tiles, (M / ROWS, C, ROWS); dw is (groups, M padded to ROWS, GROUP).
    """
    tall = (width + ROWS - 1) // ROWS * ROWS
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        base = unit * rows * GROUP
        for r in range(rows):
            shift, factor = splat(lse[r]), splat(scale[r])
            for j in range(base + r * GROUP, base + (r + 1) * GROUP, WIDTH):
                store(z, j, exp(load(z, j) - shift) * factor)
        if wanted:
            for p in range(0, GROUP, COLUMNS):
                for i in range(0, tall, ROWS):
                    whole_tile(
                        h, i * rows, 1, ROWS, z, base + p, GROUP,
                        dw, (unit * tall + i) * GROUP + p, GROUP, rows, 1,
                    )  # fmt: skip
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def head_rows(counter, units, z, w, dh, rows, width, vocabulary, tall):
    """DH = P W for `tall` rows a unit; w is (V, width) with width a multiple of COLUMNS."""
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        first, last = unit * tall, min(rows, (unit + 1) * tall)
        for v in range(0, vocabulary, GROUP):
            depth, base = min(GROUP, vocabulary - v), v * rows
            for i in range(first, last, ROWS):
                for p in range(0, width, COLUMNS):
                    whole_tile(
                        z, base + i * GROUP, GROUP, 1, w, v * width + p, width,
                        dh, i * width + p, width, depth, 1 if v else 0,
                    )  # fmt: skip
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def unpack_weights(counter, units, dw, out, width, vocabulary):
    """Writes (groups, M padded, GROUP) as the (V, M) gradient."""
    tall = (width + ROWS - 1) // ROWS * ROWS
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        have = min(GROUP, vocabulary - unit * GROUP)
        for k0 in range(0, width, 16):
            deep = min(16, width - k0)
            for j in range(have):
                row = (unit * GROUP + j) * width + k0
                for r in range(deep):
                    out[row + r] = dw[(unit * tall + k0 + r) * GROUP + j]
        unit = fetch_add(counter, 0, 1)
