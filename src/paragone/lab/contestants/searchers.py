"""Neighbour searches of other libraries behind one interface: `fit(points)`, `query(x, k)`.

Each keeps its maker's defaults for leaves and graphs; only threads are set. Libraries are
imported when an object is made, in the run's own process. An approximate search has `efforts`,
ascending, and takes one as a third argument.

Shapes: points (n, d), queries (m, d); answers are distances and indices, (m, k) each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone._core.lazy import resolve

__all__ = [
    "HNSW", "Auto", "Brute", "Forest", "OurBrute", "PyKDTree", "SciPyTree", "SklearnBallTree",
    "SklearnBrute", "SklearnTree", "Tree",
]  # fmt: skip

Answer = tuple[np.ndarray, np.ndarray]
_BLOCK = 1 << 23


class Tree:
    """paragone's exact tree."""

    exact = True

    def __init__(self, target: str, threads: int = 1):
        self._make, self._threads = resolve(target), threads

    def fit(self, points: np.ndarray) -> None:
        self._tree = self._make(points)

    def query(self, queries: np.ndarray, k: int) -> Answer:
        return _wide(self._tree.query(queries, k=k, workers=self._threads), k)


class _OurForest:
    method = "forest"

    def __init__(self, target: str, threads: int = 1):
        self._make, self._threads = resolve(target), threads

    def fit(self, points: np.ndarray) -> None:
        self._forest = self._make(points, workers=self._threads)
        # It builds what it needs at the first query; that belongs to the build.
        self._ask(points[:1], 1, 1 if self.method == "forest" else None)

    def _ask(self, queries: np.ndarray, k: int, checks: int | None) -> Answer:
        found = self._forest.query(
            queries, k=k, checks=checks, method=self.method, workers=self._threads
        )
        return _wide(found, k)


class Forest(_OurForest):
    """paragone's forest of randomised trees, searched best bin first."""

    efforts = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)

    def query(self, queries: np.ndarray, k: int, checks: int = 256) -> Answer:
        return self._ask(queries, k, checks)


class _OurExact(_OurForest):
    exact = True

    def query(self, queries: np.ndarray, k: int) -> Answer:
        return self._ask(queries, k, None)


class OurBrute(_OurExact):
    """paragone's brute force: a float32 matrix product with a bound on its error."""

    method = "brute"


class Auto(_OurExact):
    """paragone's choice between its exact tree and brute force, by measuring both."""

    method = "auto"


class Brute:
    r"""Brute force by a matrix product: $\lVert x\rVert^2 - 2 x \cdot p + \lVert p\rVert^2$.

    NumPy alone, in blocks of queries; points are centred first, so that an offset of all of
    them costs no digits.
    """

    exact = True

    def fit(self, points: np.ndarray) -> None:
        self._centre = points.mean(axis=0)
        self._points = points - self._centre
        self._squares = np.einsum("nd,nd->n", self._points, self._points)

    def query(self, queries: np.ndarray, k: int) -> Answer:
        asked = queries - self._centre
        distances = np.empty((len(asked), k))
        indices = np.empty((len(asked), k), np.int64)
        step = max(1, _BLOCK // len(self._points))
        # A few more than k are kept and measured by differences, which round less.
        kept = min(2 * k + 8, len(self._points))
        for start in range(0, len(asked), step):
            block = asked[start : start + step]
            scores = block @ self._points.T
            scores *= -2
            scores += self._squares
            near = np.argpartition(scores, kept - 1, axis=1)[:, :kept]
            gaps = self._points[near] - block[:, None, :]
            squares = np.einsum("mkd,mkd->mk", gaps, gaps)
            order = np.argsort(squares, axis=1, kind="stable")[:, :k]
            stop = start + len(block)
            indices[start:stop] = np.take_along_axis(near, order, axis=1)
            distances[start:stop] = np.sqrt(np.take_along_axis(squares, order, axis=1))
        return distances, indices


class SciPyTree:
    """SciPy's cKDTree."""

    exact = True

    def __init__(self, threads: int = 1):
        self._make, self._threads = resolve("scipy.spatial:cKDTree"), threads

    def fit(self, points: np.ndarray) -> None:
        self._tree = self._make(points)

    def query(self, queries: np.ndarray, k: int) -> Answer:
        return _wide(self._tree.query(queries, k=k, workers=self._threads), k)


class _Sklearn:
    exact = True
    algorithm = ""

    def __init__(self, threads: int = 1):
        from sklearn.neighbors import NearestNeighbors

        self._index = NearestNeighbors(algorithm=self.algorithm, n_jobs=threads)

    def fit(self, points: np.ndarray) -> None:
        self._index.fit(points)

    def query(self, queries: np.ndarray, k: int) -> Answer:
        return self._index.kneighbors(queries, k)


class SklearnTree(_Sklearn):
    """scikit-learn's KDTree, through `NearestNeighbors`, which gives it threads."""

    algorithm = "kd_tree"


class SklearnBallTree(_Sklearn):
    """scikit-learn's BallTree, through `NearestNeighbors`."""

    algorithm = "ball_tree"


class SklearnBrute(_Sklearn):
    """scikit-learn's brute force: blocks of a matrix product, kept in cache."""

    algorithm = "brute"


class PyKDTree:
    """pykdtree; it takes its threads from OpenMP."""

    exact = True

    def __init__(self) -> None:
        self._make = resolve("pykdtree.kdtree:KDTree")

    def fit(self, points: np.ndarray) -> None:
        self._tree = self._make(points)

    def query(self, queries: np.ndarray, k: int) -> Answer:
        return _wide(self._tree.query(queries, k=k), k)


class HNSW:
    """hnswlib's navigable graph, float32; approximate, for high dimension."""

    efforts = (10, 20, 40, 80, 160, 320, 640, 1280)

    def __init__(self, threads: int = 1):
        self._make, self._threads = resolve("hnswlib:Index"), threads

    def fit(self, points: np.ndarray) -> None:
        self._graph: Any = self._make(space="l2", dim=points.shape[1])
        self._graph.init_index(max_elements=len(points), random_seed=1)
        self._graph.add_items(points, num_threads=self._threads)

    def query(self, queries: np.ndarray, k: int, ef: int = 100) -> Answer:
        self._graph.set_ef(max(ef, k))
        indices, squares = self._graph.knn_query(queries, k=k, num_threads=self._threads)
        return np.sqrt(squares), indices


def _wide(answer: Any, k: int) -> Answer:
    """SciPy's tradition drops the last axis for k = 1."""
    distances, indices = answer
    return np.reshape(distances, (-1, k)), np.reshape(indices, (-1, k))
