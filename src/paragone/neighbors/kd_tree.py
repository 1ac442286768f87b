r"""k-d tree: exact nearest neighbours and range search, at SIMD speed.

Halve the points along one column, halve each half, and so on until few are left. A query walks
to its own cell and then only into cells that may hold something nearer: with $d_k$ the k-th
distance so far, a cell is skipped if

$$ \min_{y \in \text{box}} \Bigl( \sum_{j=1}^{d} w_j |x_j - y_j|^p \Bigr)^{1/p} (1 + \varepsilon)
   > d_k . $$

What is particular here: answers are those of a sorted brute-force search in the order of the
columns, bit for bit, ties by the lowest number; points lie eight to a block so that eight
distances or eight boxes are one pass; queries are answered in the order of their cells.
Points are added and removed by rebuilding parts (`_dynamic`); the layout is in `_layout`, the
split rules in `_grow`, the search in `_query` and `_radius`, the definition in `reference`.

Cost: build O(n log n); query O(log n) for small d, towards O(n) as d approaches log n.

References:
    Bentley (1975), "Multidimensional binary search trees used for associative searching".
    Friedman, Bentley and Finkel (1977), "An algorithm for finding best matches in logarithmic
    expected time".
    Bentley and Saxe (1980), "Decomposable searching problems I: static-to-dynamic
    transformation", for `insert`.

Shapes: n points, d columns, k neighbours, ... any leading shape of queries.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from paragone.neighbors._dynamic import Forest
from paragone.neighbors._input import as_points, as_queries, checked_box, checked_weights
from paragone.neighbors._metric import Metric, metric_for
from paragone.neighbors._pairs import Pairs
from paragone.neighbors._search import Rows, count, nearest_in, rows_within
from paragone.neighbors._store import load, save
from paragone.neighbors._threads import num_workers

__all__ = ["KDTree"]


class KDTree(Pairs):
    r"""Points in a k-d tree.

    Prefer it to brute force up to about twenty columns, and to `scipy.spatial.KDTree` wherever
    time counts: the answers are equal, floats of 32 bits stay so, and points may come and go.
    Prefer a graph index (HNSW) in high dimension where most of the neighbours suffice, or
    `query(..., checks=...)` here.

    Args:
        data: Points (n, d), finite; float32 and float64 are kept, others become float64
            (float16: float32). They are copied into the tree.
        leafsize: Most points of a leaf; no answer depends on it. Also accepted: `leaf_size`.
        rule: "median" (balanced) or "midpoint" (cells of good shape, deeper on clustered data).
        boxsize: Length of the periodic box in each column, or one for all; 0 or inf: not
            periodic. Points must lie in [0, boxsize).
        weights: Factor $w_j \ge 0$ of each column.
        workers: Threads of the build; -1 is one for each processor. The tree does not depend on
            it.

    Raises:
        ValueError: A point is not finite or outside the box, or an argument is out of range.

    Example:
        >>> tree = KDTree([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
        >>> tree.query([0.0, 1.0], k=2)[1].tolist()
        [0, 1]
    """

    def __init__(
        self,
        data: Any,
        leafsize: int | None = None,
        *,
        leaf_size: int | None = None,
        rule: str = "median",
        boxsize: Any = None,
        weights: Any = None,
        workers: int = -1,
    ) -> None:
        if leafsize is not None and leaf_size is not None:
            raise ValueError("leafsize and leaf_size are the same: give one of them")
        size = leafsize if leafsize is not None else leaf_size
        size = 32 if size is None else size
        if size != int(size) or size < 1:
            raise ValueError(f"leafsize={size} is no number of points: use 1 and above")
        if rule not in ("median", "midpoint"):
            raise ValueError(f"rule={rule!r} is none of 'median', 'midpoint'")
        points = as_points(data)
        self.leafsize, self.rule = int(size), rule
        self._boxsize = checked_box(boxsize, points)
        self._weights = checked_weights(weights, points)
        self._forest = Forest(points.shape[1], points.dtype, self.leafsize, rule == "midpoint")
        self._forest.insert(points, num_workers(workers))

    @property
    def n(self) -> int:
        """Number of indices given out; the index that stands for "no neighbour"."""
        return self._forest.total

    @property
    def m(self) -> int:
        """Number of columns."""
        return self._forest.d

    @property
    def dtype(self) -> np.dtype:
        """Type of the points and of the distances."""
        return self._forest.dtype

    @property
    def boxsize(self) -> np.ndarray | None:
        """Lengths of the periodic box (d,), inf where a column is not periodic; or None."""
        return self._boxsize

    @property
    def weights(self) -> np.ndarray | None:
        """Factors of the columns (d,), or None."""
        return self._weights

    @property
    def data(self) -> np.ndarray:
        """Points by index (n, d), gathered from the leaves; NaN where one was removed."""
        return self._forest.points()

    @property
    def mins(self) -> np.ndarray:
        """Least coordinate of each column."""
        return np.nanmin(self.data, axis=0)

    @property
    def maxes(self) -> np.ndarray:
        """Greatest coordinate of each column."""
        return np.nanmax(self.data, axis=0)

    @property
    def splits(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(column, threshold, right) of the largest part's nodes in preorder, to be drawn.

        A node's left child follows it; a leaf has column -1.
        """
        if not self._forest.parts:
            return np.empty(0, np.int64), np.empty(0, self.dtype), np.empty(0, np.int64)
        tree = max(self._forest.parts, key=lambda part: part.size).tree
        return tree.column, tree.threshold, tree.right

    def __len__(self) -> int:
        return self._forest.alive

    def __repr__(self) -> str:
        return f"KDTree({len(self)} points, {self.m} columns, {self.dtype})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the tree to a file that `load` can map."""
        save(path, self._forest, {"boxsize": self._boxsize, "weights": self._weights})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mmap: bool = True) -> KDTree:
        """Opens a saved tree.

        Args:
            path: A file that `save` wrote.
            mmap: Map the file: nothing is read before a query touches it. Changes stay in memory.

        Raises:
            ValueError: The file is no tree, or is cut short.
        """
        tree = cls.__new__(cls)
        tree._forest, extra = load(path, mmap)
        tree.leafsize = tree._forest.leafsize
        tree.rule = "midpoint" if tree._forest.midpoint else "median"
        tree._boxsize, tree._weights = extra.get("boxsize"), extra.get("weights")
        return tree

    def insert(self, points: Any, *, workers: int = 1) -> np.ndarray:
        """Adds points (m, d) and returns their indices; those of other points stay as they are.

        Parts of doubling size are rebuilt: O(log^2 n) a point over many calls. Points given
        together cost less than one by one.
        """
        rows = as_points(points, self.dtype, self.m)
        checked_box(self._boxsize, rows)
        first = self.n
        self._forest.insert(rows, num_workers(workers))
        return np.arange(first, self.n)

    def remove(self, indices: Any) -> None:
        """Removes points by index; a part is rebuilt when half of it is gone.

        Raises:
            ValueError: An index was never given out, is repeated, or was removed before.
        """
        self._forest.remove(np.atleast_1d(np.asarray(indices)))

    def _alive(self) -> tuple[np.ndarray, np.ndarray]:
        """The points that are there (m, d) and their indices."""
        data = self.data
        names = np.flatnonzero(~np.isnan(data[:, 0])) if self.n else np.empty(0, np.int64)
        return data[names], names

    def _prepared(self, x: Any, p: float) -> tuple[np.ndarray, tuple[int, ...], Metric]:
        queries, shape = as_queries(x, self.dtype, self.m, self._boxsize)
        return queries, shape, metric_for(p)

    def query(
        self,
        x: Any,
        k: int | Sequence[int] | np.ndarray = 1,
        eps: float = 0.0,
        p: float = 2.0,
        distance_upper_bound: Any = np.inf,
        workers: int = 1,
        *,
        return_distance: bool = True,
        sort_results: bool = True,
        dualtree: bool = False,
        breadth_first: bool = False,
        checks: int | None = None,
    ) -> Any:
        r"""Finds the k nearest points of each query, nearest first, ties by the lowest index.

        Args:
            x: Queries (..., d), finite; taken in the type of the points.
            k: How many; or the ranks wanted, counted from 1, as SciPy has it.
            eps: Distances may exceed the true ones by the factor 1 + eps.
            p: Exponent of the metric: 1, 2, inf or any above 1.
            distance_upper_bound: Only neighbours nearer than this; one, or one a query (...).
            workers: Threads; -1 is one for each processor.
            return_distance: False returns the indices alone.
            sort_results: Results are always sorted; taken so that scikit-learn's calls work.
            dualtree: Taken so that scikit-learn's calls work; it cannot change the answer.
            breadth_first: The same.
            checks: Approximate search by best-bin-first: points that a query may look at.

        Returns:
            (distances, indices), each (..., k), or (...) for k=1. Where there are fewer than k
            neighbours, inf and `n`.

        Raises:
            ValueError: A query is not finite or an argument is out of range.
        """
        queries, shape, metric = self._prepared(x, p)
        most, ranks = _ranks(k)
        if not 0 <= eps < np.inf:
            raise ValueError(f"eps={eps} is no relative error: use 0 or above")
        limit = _limits(distance_upper_bound, shape)
        threads = num_workers(workers)
        if checks is not None:
            from paragone.neighbors import best_bin_first

            distances, indices = best_bin_first.search(self, queries, most, checks, p, threads)
        else:
            distances, indices = nearest_in(
                self._forest, queries, most, metric, self._boxsize, self._weights, float(eps),
                limit, threads,
            )  # fmt: skip
        if ranks is None:
            tail = () if most == 1 else (most,)
        else:
            tail = (len(ranks),)
            distances, indices = distances[:, ranks - 1], indices[:, ranks - 1]
        indices = indices.reshape(shape + tail)
        if not return_distance:
            return indices[()]
        return distances.reshape(shape + tail)[()], indices[()]

    def _rows(
        self, x: Any, r: Any, p: float, workers: int, after: np.ndarray | None = None
    ) -> tuple[Rows, tuple[int, ...]]:
        queries, shape, metric = self._prepared(x, p)
        radius = _radii(r, shape)
        found = rows_within(
            self._forest, queries, radius, metric, self._boxsize, self._weights, after,
            num_workers(workers),
        )  # fmt: skip
        return found, shape

    def query_radius(
        self,
        X: Any,
        r: Any,
        return_distance: bool = False,
        count_only: bool = False,
        sort_results: bool = False,
        *,
        p: float = 2.0,
        workers: int = 1,
        output: str = "arrays",
    ) -> Any:
        """Finds all points at a distance of at most r from each query.

        Args:
            X: Queries (..., d).
            r: Radius, one or one a query (...).
            return_distance: Also return the distances.
            count_only: Return only how many there are (...), as `count` does.
            sort_results: Nearest first (needs `return_distance`); else by ascending index.
            p: Exponent of the metric.
            workers: Threads; -1 is one for each processor.
            output: "arrays": an array (...) of index arrays; "csr": `(indptr, indices)` over the
                queries in order, without an object a query, which takes a fraction of the time.

        Returns:
            indices, or (indices, distances); with "csr" (indptr, indices[, distances]).

        Raises:
            ValueError: A query is not finite, or an argument is out of range.
        """
        if count_only:
            if return_distance or sort_results:
                raise ValueError("count_only has no distances: leave return_distance and sort off")
            return self.count(X, r, p=p, workers=workers)
        if sort_results and not return_distance:
            raise ValueError("sort_results sorts by distance: give return_distance=True as well")
        if output not in ("arrays", "csr"):
            raise ValueError(f"output={output!r} is none of 'arrays', 'csr'")
        rows, shape = self._rows(X, r, p, workers)
        if sort_results:
            rows = rows.by_distance()
        if output == "csr":
            found = (rows.start, rows.indices)
            return (*found, rows.distances) if return_distance else found
        indices = rows.split(rows.indices, shape)
        return (indices, rows.split(rows.distances, shape)) if return_distance else indices

    def count(self, x: Any, r: Any, *, p: float = 2.0, workers: int = 1) -> Any:
        """Counts the points at a distance of at most r from each query.

        Boxes that lie wholly within reach are not looked into, so that a large radius costs no
        more than a small one.

        Returns:
            Number of points, int64 (...).
        """
        queries, shape, metric = self._prepared(x, p)
        radius = _radii(r, shape)
        found = count(
            self._forest, queries, radius, metric, self._boxsize, self._weights,
            num_workers(workers),
        )  # fmt: skip
        return found.reshape(shape)[()]


def _ranks(k: Any) -> tuple[int, np.ndarray | None]:
    """Returns the most neighbours wanted, and the ranks if they were listed."""
    if type(k) is int and k >= 1:
        return k, None
    ranks = np.atleast_1d(np.asarray(k))
    if ranks.dtype.kind not in "iu" or ranks.ndim != 1 or not ranks.size or ranks.min() < 1:
        raise ValueError(f"k={k} is no number of neighbours: use whole numbers from 1")
    return int(ranks.max()), None if np.ndim(k) == 0 else ranks


def _limits(bound: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns the bound of each query (q,), None for none."""
    if type(bound) is float and bound == np.inf:
        return None
    limit = np.broadcast_to(np.asarray(bound, np.float64), shape).reshape(-1)
    if not (limit >= 0).all():
        raise ValueError("distance_upper_bound is negative or NaN: use 0 or above")
    return limit


def _radii(r: Any, shape: tuple[int, ...]) -> np.ndarray:
    radius = np.broadcast_to(np.asarray(r, np.float64), shape).reshape(-1)
    if np.isnan(radius).any():
        raise ValueError("a radius is NaN: use numbers")
    return radius
