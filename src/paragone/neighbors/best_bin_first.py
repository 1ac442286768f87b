r"""Best-bin-first search in a forest of randomised k-d trees: near neighbours in high dimension.

In high dimension a k-d tree's exact search must go back into nearly every bin: the ball around
the query that holds its nearest neighbour cuts across almost all of them. But the neighbour mostly
lies in one of the first few bins, if bins are visited by their distance from the query and not by
their place in the tree. So the search keeps the bins it passed by in a priority queue under

$$ \delta = \sum_{\text{cuts crossed}} \lvert x_j - \text{cut} \rvert^p , $$

opens the nearest one next, and stops after a fixed number of points, `checks`. One bad cut can
hide the neighbour behind a large $\delta$; T trees that cut along dimensions drawn among the
widest are bad in different places, so they share one queue and one list of points seen. What is
lost is recall, never the truth of a distance: all distances are exact, and with `checks` = n so
are the neighbours.

The trees cut along the data's leading principal axes: across a given coordinate of a descriptor,
neighbours fall on both sides almost at random; across an axis of large spread they rarely do.

Cost: build $O(n\,d\,r + T\,n\,(r + \log n))$ with r = 32 axes; a query
$O(d\,r + \text{checks} \cdot (d + \log n))$; memory of T orderings and nodes beside the points.

References:
    Beis and Lowe (1997), "Shape indexing using approximate nearest-neighbour search in
    high-dimensional spaces", CVPR, section 3.
    Silpa-Anan and Hartley (2008), "Optimised KD-trees for fast image descriptor matching", CVPR,
    sections 2 and 3.
    Muja and Lowe (2014), "Scalable nearest neighbor algorithms for high dimensional data", IEEE
    TPAMI 36, section 3.1.

n points, m queries, d dimensions, T trees, k neighbours.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from paragone._core.random import RandomState
from paragone.neighbors._checks import read_count, read_points, read_power, read_queries
from paragone.neighbors._choice import METHODS, Chooser
from paragone.neighbors._forest import Forest

__all__ = ["KDForest", "search"]

_LOCK = threading.Lock()


def search(
    tree: Any, x: np.ndarray, k: int, checks: int, p: float = 2.0, workers: int = -1
) -> tuple[np.ndarray, np.ndarray]:
    """Approximate k nearest neighbours among a tree's points, at most `checks` of them looked at.

    The forest is built at the first call and kept with the tree, until its points change.

    Args:
        tree: A `KDTree`, or any sized object with the points (n, d) as `data`; points removed
            are rows of NaN.
        x: Queries (m, d).
        k: Neighbours.
        checks: Most points whose distance is computed for a query.
        p: Exponent of the distance.
        workers: Threads, -1 for all cores.

    Returns:
        Distances (m, k), ascending, and indices (m, k); inf and n where there are fewer.
    """
    p = read_power(p)
    factor = _factors(tree, p)
    # Indices are never given out twice, so these two numbers change with every change of points.
    state = (getattr(tree, "n", None), len(tree), None if factor is None else p)
    with _LOCK:
        kept = getattr(tree, "_best_bin_first", None)
        if kept is None or kept[0] != state:
            points = np.asarray(tree.data)
            alive = np.flatnonzero(~np.isnan(points).any(axis=1))
            points = points[alive] if factor is None else points[alive] * factor
            kept = state, Forest(read_points(points), workers=workers), alive, len(tree.data)
            tree._best_bin_first = kept
    _, forest, alive, total = kept
    x, _ = read_queries(x if factor is None else np.asarray(x) * factor, forest.points.shape[1])
    distance, index = forest.query(x, read_count(k, "k"), read_count(checks, "checks"), p, workers)
    return distance, np.append(alive, total)[index]


def _factors(tree: Any, p: float) -> np.ndarray | None:
    """Scales of the columns that turn the tree's weighted distance into a plain one."""
    if getattr(tree, "boxsize", None) is not None:
        raise ValueError("best-bin-first knows no periodic box: leave `checks` out, or boxsize")
    weights = getattr(tree, "weights", None)
    if weights is None:
        return None
    return weights if p == np.inf else weights ** (1.0 / p)


class KDForest:
    """Near neighbours in high dimension: by best-bin-first, or exact where that is quicker.

    Prefer it to `KDTree` above some fifteen dimensions, when a few neighbours may be missed and
    many queries come. A graph (hnswlib) finds more in the same time, but its build takes fifty
    times as long; brute force wins for few points or few queries, and with `method="auto"` it is
    then taken.

    Args:
        points: (n, d), finite numbers. Bytes stay bytes: they are compared in integers.
        trees: Trees T that share the search.
        leafsize: Most points of a leaf.
        random_state: Seed; equal seeds give equal answers, on any number of threads.
        workers: Threads for building.

    Attributes:
        method: The method that the last query took: "brute", "tree" or "forest"; None before.

    Example:
        >>> forest = KDForest(np.eye(4))
        >>> distances, indices = forest.query(np.eye(4), k=1, checks=4)
        >>> indices.ravel().tolist()
        [0, 1, 2, 3]
    """

    def __init__(
        self, points: Any, trees: int = 4, leafsize: int = 8, random_state: RandomState = 0,
        workers: int = -1,
    ) -> None:  # fmt: skip
        self.data = read_points(points)
        self._chooser = Chooser(
            self.data, read_count(trees, "trees"), read_count(leafsize, "leafsize"), random_state,
            workers,
        )  # fmt: skip

    @property
    def method(self) -> str | None:
        return self._chooser.method

    def query(
        self, x: Any, k: int = 1, checks: int | None = 200, p: float = 2.0, method: str = "auto",
        workers: int = -1,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Returns distances and indices of the k nearest points found, nearest first.

        Args:
            x: Queries (m, d), or one point (d,).
            k: Neighbours; with k > n the rest is padded with distance inf and index n.
            checks: Most points looked at for a query (at least k are). Twice as many halve the
                misses or so and take twice as long. None asks for exact neighbours.
            p: Exponent of the distance: 1, 2, inf, or above 1.
            method: "forest", "brute", "tree" (exact k-d tree), or "auto": the quickest for the
                queries so far, by measurement; never an approximation if `checks` is None.
            workers: Threads, -1 for all cores; the answer does not depend on it.

        Returns:
            Distances (m, k) and indices (m, k); without the first axis for one point.
        """
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown; use one of {', '.join(METHODS)}")
        if checks is None and method == "forest":
            raise ValueError('method="forest" is approximate: give checks, or method="auto"')
        x, single = read_queries(x, self.data.shape[1])
        budget = None if checks is None else read_count(checks, "checks")
        distance, index = self._chooser.query(
            x, read_count(k, "k"), read_power(p), budget, method, workers
        )
        return (distance[0], index[0]) if single else (distance, index)

    def explain(self) -> str:
        """Says which method the last query took, and what was predicted for the others."""
        return self._chooser.explain()
