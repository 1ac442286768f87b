"""The forest itself: axes, orders and nodes of T randomised trees, and their search in threads.

n points, m queries, d dimensions, r axes, T trees, k neighbours.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from paragone._core.random import RandomState, as_generator, spawn_seeds
from paragone.neighbors._forest_build import grow, max_nodes, principal_axes
from paragone.neighbors._forest_search import search_run
from paragone.neighbors._nearest_so_far import out_of_power
from paragone.neighbors._parallel import in_runs, one_blas_thread
from paragone.neighbors._threads import num_workers

__all__ = ["Forest"]

_RUN, _BLOCK, _AXES = 256, 4096, 32


class Forest:
    """T randomised trees over checked points; the bare engine of `KDForest`.

    Args:
        points: (n, d) uint8, float32 or float64, finite; kept, not copied.
        trees: Number of trees T.
        leafsize: Most points of a leaf.
        random_state: Seed of the orders and of the dimensions drawn.
        workers: Threads of the build; the forest does not depend on it.
    """

    def __init__(
        self, points: np.ndarray, trees: int = 4, leafsize: int = 8,
        random_state: RandomState = 0, workers: int | None = -1,
    ) -> None:  # fmt: skip
        points = np.ascontiguousarray(points)
        self.points, self.leafsize = points, leafsize
        seeds = spawn_seeds(as_generator(random_state), trees)
        threads = min(num_workers(workers), trees)
        with one_blas_thread(), np.errstate(over="ignore", under="ignore"):
            self.origin = points.mean(axis=0, dtype=np.float64) if len(points) else 0.0
            self.origin = np.broadcast_to(self.origin, points.shape[1]).astype(np.float64)
            self.axes = _axes(points)
            along = np.empty((len(points), self.axes.shape[1]), np.float32)
            for start in range(0, len(points), _BLOCK):
                moved = (points[start : start + _BLOCK] - self.origin).astype(np.float32)
                np.matmul(moved, self.axes, out=along[start : start + _BLOCK])
        with ThreadPoolExecutor(threads) as pool:
            grown = list(pool.map(lambda seed: _plant(along, leafsize, seed), seeds.tolist()))
        self._join(grown)

    def _join(self, grown: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Lays the trees end to end, with children and positions counted from the start."""
        roots, first, rows = [], 0, 0
        for order, nodes in grown:
            roots.append(first)
            leaf = nodes[:, 0] < 0
            nodes[~leaf, 2] += first
            nodes[leaf, 2:] += rows
            first += len(nodes)
            rows += len(order)
        self.roots = np.array(roots, np.int64)
        self.order = np.concatenate([order for order, _ in grown])
        self.nodes = np.concatenate([nodes for _, nodes in grown])

    def query(
        self, x: np.ndarray, k: int, checks: int, p: float = 2.0, workers: int | None = -1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns distances (m, k) and indices (m, k) of checked queries x (m, d)."""
        n = len(self.points)
        found = np.full((len(x), k), np.inf), np.full((len(x), k), n, np.int64)
        bytewise = p == 2.0 and x.dtype == self.points.dtype == np.uint8 and x.shape[1] < 2**15
        x = np.ascontiguousarray(x, np.uint8 if bytewise else np.float64)
        budget = min(max(checks, k), n)
        cuts = self.nodes.view(np.float32)

        def run(start: int, stop: int) -> None:
            search_run(
                self.points, self.axes, self.origin, self.order, self.nodes, cuts, self.roots,
                x[start:stop], budget, p, found[0][start:stop], found[1][start:stop],
            )  # fmt: skip

        if n and k and len(x):
            threads = num_workers(workers)
            in_runs(run, len(x), threads, min(_RUN, -(-len(x) // threads)))
        return out_of_power(found[0], p), found[1]


def _plant(along: np.ndarray, leafsize: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grows one tree over the points' coordinates along the axes; returns its order and nodes."""
    order = np.random.default_rng(seed).permutation(len(along)).astype(np.int32)
    nodes = np.empty((max_nodes(len(along), leafsize), 4), np.int32)
    if not len(along):
        nodes[0] = (-1, 0, 0, 0)
        return order, nodes[:1]
    count = grow(along, order, nodes, nodes.view(np.float32), leafsize, np.uint64(seed | 1))
    return order, nodes[:count].copy()


def _axes(points: np.ndarray) -> np.ndarray:
    if len(points) < 2:
        return np.eye(points.shape[1], min(points.shape[1], _AXES), dtype=np.float32)
    return principal_axes(points, _AXES)
