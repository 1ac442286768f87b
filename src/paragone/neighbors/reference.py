r"""What a k-d tree answers, by definition: every distance, then a sort.

$$ D_i = \Bigl( \sum_{j=1}^{d} w_j \, a_{ij}^p \Bigr)^{1/p}, \quad a_{ij} = |x_j - y_{ij}|
   \;\text{ or, in a box of side } L_j, \; \min(a_{ij}, L_j - a_{ij}) . $$

The sum runs over the columns in their order, in the type of the points, so that the tree can be
held to the same bits. Neighbours are sorted by distance, then by index.

References:
    Friedman, Bentley and Finkel (1977), "An algorithm for finding best matches in logarithmic
        expected time", section 1.

Shapes: n points and q queries of d columns.
"""

from __future__ import annotations

import numpy as np

__all__ = ["distances", "neighbours", "within"]


def distances(
    points: np.ndarray, queries: np.ndarray, p: float = 2.0, weights: np.ndarray | None = None,
    boxsize: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Returns all distances (q, n) in the type of the points."""
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
    if p == 2:
        return np.sqrt(total)
    return total if p in (1, np.inf) else total ** scalar(1.0 / p)


def neighbours(all_distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k least distances of each row and their columns, ties by column."""
    order = np.argsort(all_distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(all_distances, order, 1), order


def within(all_distances: np.ndarray, radius: float) -> list[np.ndarray]:
    """Returns the columns of each row at a distance of at most `radius`, ascending."""
    return [np.flatnonzero(row <= radius) for row in all_distances]
