r"""Sums that do not depend on the order of the rows: fixed point on one grid for all of them.

A float sum changes with the order of its terms, so a model would change with the way its rows
are shared among threads, processes or machines. Here a number $x$ with $|x| \le 2^e$ is split
into two whole numbers on grids that only the largest magnitude and the number of rows m decide,

$$ x \approx \frac{1}{u}\Big(a + \frac{b}{v}\Big), \qquad
   a = \lfloor u x \rceil, \quad b = \lfloor v (u x - a) \rceil, \qquad
   u = 2^{62 - \lceil \log_2 (m+1) \rceil - e}, \quad v = 2^{62 - \lceil \log_2 (m+1) \rceil} , $$

so that no sum of a's or b's can leave 64 bits. Scaling by powers of two and $u x - a$ are exact;
what is lost is below $2^{-124} m^2$ of the largest magnitude (m = 2^20: $2^{-84}$), far less than
a float sum loses. Integer addition is associative: any split of the rows gives the same bits.

Cost: two passes over the derivatives for the grid (both vectorise), and one more rounding for
each row where leaves are summed.

Symbols: g and h, first and second derivatives; m rows; u and v the coarse and the fine grid.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from paragone.ensemble._share import ALONE, Share

__all__ = ["Grid", "measure", "node_sums", "sum_leaves"]


class Grid(NamedTuple):
    """The grids of g and h, and the sums of |g| and h on them.

    Attributes:
        unit_g: u of g.
        unit_h: u of h.
        fine: v of both.
        size_g: Sum of |g| over all rows, of all processes.
        size_h: Sum of h.
        rows: m.
    """

    unit_g: float
    unit_h: float
    fine: float
    size_g: float
    size_h: float
    rows: int


def measure(
    gradient: np.ndarray, hessian: np.ndarray, index: np.ndarray, share: Share = ALONE
) -> Grid:
    """Chooses the grid for the rows of `index` (of all processes together).

    Raises:
        ValueError: A derivative is not finite.
    """
    rows, tops = np.array([len(index)], np.int64), np.array(_largest(gradient, hessian, index))
    share.reduce(rows, tops)
    room = 62 - int(rows[0]).bit_length()
    # An exponent below -900 would ask for a unit beyond the range of floats.
    exponents = [max(math.frexp(top)[1], -900) if math.isfinite(top) else 0 for top in tops]
    unit_g, unit_h = (math.ldexp(1.0, room - e) for e in exponents)
    whole = np.zeros(2, np.int64)
    if np.isfinite(tops).all():
        _magnitudes(gradient, hessian, index, unit_g, unit_h, whole)
    share.reduce(whole)
    size_g, size_h = float(whole[0]) / unit_g, float(whole[1]) / unit_h
    if not (np.isfinite(tops).all() and math.isfinite(size_g) and math.isfinite(size_h)):
        raise ValueError("a gradient or hessian is not finite: check the targets and the objective")
    return Grid(unit_g, unit_h, math.ldexp(1.0, room), size_g, size_h, int(rows[0]))


def node_sums(whole: np.ndarray, left: np.ndarray, grid: Grid, share: Share = ALONE) -> np.ndarray:
    """Turns the whole numbers of the leaves, (nodes, 4), into sums of g and h for every node.

    Args:
        whole: int64: a and b of g, a and b of h, filled for leaves and zero for inner nodes.
        left: Left child of each node, 0 for a leaf; children stand behind their parent.
        grid: Where the numbers live.
        share: Whose rows count.
    """
    share.reduce(whole)
    for k in np.flatnonzero(left)[::-1]:
        whole[k] = whole[left[k]] + whole[left[k] + 1]
    coarse, fine = whole[:, ::2].astype(np.float64), whole[:, 1::2].astype(np.float64)
    return (coarse + fine / grid.fine) / np.array([grid.unit_g, grid.unit_h])


@njit(cache=True, nogil=True, error_model="numpy")
def _largest(gradient, hessian, index):
    top_g, top_h, odd = 0.0, 0.0, 0
    for k in range(np.uint64(len(index))):
        row = np.uint64(index[k])
        g, h = abs(gradient[row]), abs(hessian[row])
        top_g, top_h = max(top_g, g), max(top_h, h)
        odd += 0 if g < np.inf and h < np.inf else 1
    return (np.inf, np.inf) if odd > 0 else (top_g, top_h)


@njit(cache=True, nogil=True, error_model="numpy")
def _magnitudes(gradient, hessian, index, unit_g, unit_h, whole):
    total_g, total_h = np.int64(0), np.int64(0)
    for k in range(np.uint64(len(index))):
        row = np.uint64(index[k])
        total_g += np.int64(np.rint(abs(gradient[row]) * unit_g))
        total_h += np.int64(np.rint(hessian[row] * unit_h))
    whole[0], whole[1] = total_g, total_h


@njit(cache=True, nogil=True, error_model="numpy")
def sum_leaves(nodes, index, gradient, hessian, unit_g, unit_h, fine, leaf, whole):
    """Notes the leaf of each row of `index` in `leaf`, and sums a and b by leaf in `whole`."""
    for k in range(len(nodes)):
        if nodes[k].left != 0:
            continue
        a, b, c, d = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
        for i in range(np.uint64(nodes[k].begin), np.uint64(nodes[k].end)):
            row = np.uint64(index[i])
            leaf[row] = k
            x, y = gradient[row] * unit_g, hessian[row] * unit_h
            near_x, near_y = np.rint(x), np.rint(y)
            a += np.int64(near_x)
            b += np.int64(np.rint((x - near_x) * fine))
            c += np.int64(near_y)
            d += np.int64(np.rint((y - near_y) * fine))
        whole[k, 0], whole[k, 1], whole[k, 2], whole[k, 3] = a, b, c, d
