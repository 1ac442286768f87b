r"""What a k-d tree answers, by definition: every distance, then a sort.

$$ D_i = \Bigl( \sum_{j=1}^{d} w_j \, a_{ij}^p \Bigr)^{1/p}, \quad a_{ij} = |x_j - y_{ij}|
   \;\text{ or, in a box of side } L_j, \; \min(a_{ij}, L_j - a_{ij}) . $$

The sum runs over the columns in their order, in the type of the points, so that the tree can be
held to the same bits. Neighbours are sorted by the p-th power, then by index: two powers that
differ in the last bit may have one root.

References:
    Friedman, Bentley and Finkel (1977), "An algorithm for finding best matches in logarithmic
        expected time", section 1.

Shapes: n points and q queries of d columns.
"""

from __future__ import annotations

import numpy as np

__all__ = ["neighbours", "powers", "root", "within"]


def powers(
    points: np.ndarray, queries: np.ndarray, p: float = 2.0, weights: np.ndarray | None = None,
    boxsize: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Returns all D^p (q, n) in the type of the points; D itself for p = inf."""
    total = np.zeros((len(queries), len(points)), points.dtype)
    scalar = points.dtype.type
    for j in range(points.shape[1]):
        a = np.abs(queries[:, j, None] - points[None, :, j])
        if boxsize is not None:
            a = np.minimum(a, scalar(boxsize[j]) - a)
        term = a * a if p == 2 else a if p in (1, np.inf) else a ** scalar(p)
        if weights is not None:
            term = term * scalar(weights[j])
        total = np.maximum(total, term) if p == np.inf else total + term
    return total


def root(power: np.ndarray, p: float = 2.0) -> np.ndarray:
    """Returns D of D^p."""
    if p == 2:
        return np.sqrt(power)
    return power if p in (1, np.inf) else power ** power.dtype.type(1.0 / p)


def neighbours(power: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k least of each row and their columns, ties by column."""
    order = np.argsort(power, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(power, order, 1), order


def within(distances: np.ndarray, radius: float) -> list[np.ndarray]:
    """Returns the columns of each row at a distance of at most `radius`, ascending."""
    return [np.flatnonzero(row <= radius) for row in distances]
