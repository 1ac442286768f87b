"""Small calls that lead through every compiled kernel of the family, for `paragone warmup`.

A kernel is compiled for the types of its arguments: for each float of the points, and once more
where a tree has a periodic box or weights, since these are None elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from paragone.neighbors.best_bin_first import KDForest
from paragone.neighbors.brute import BruteForce
from paragone.neighbors.kd_tree import KDTree
from paragone.neighbors.matching import match

__all__ = ["CALLS"]


def _points(n: int, d: int, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(0).random((n, d)).astype(dtype)


def _trees() -> None:
    for dtype in (np.float64, np.float32):
        points = _points(20_000, 3, dtype)
        kinds: list[dict[str, Any]] = [{}, {"boxsize": 1.0}, {"weights": [1.0, 2.0, 1.0]}]
        for options in kinds:
            # Large trees are grown in parts, small ones at once.
            for some in (points[:300], points):
                tree = KDTree(some, workers=1, **options)
                tree.query(points[:40], k=2)
                tree.query(points[:2], k=2)
            tree.query_radius(points[:40], 0.05, return_distance=True)
            tree.count(points[:40], 0.2)
        tree.query_pairs(0.01)
        tree = KDTree(points[:300], rule="midpoint")
        tree.remove(tree.insert(points[300:400])[::2])
        tree.query(points[:40], k=2)
        tree.count(points[:40], 0.2)
        tree.query(points[:40], k=2, checks=32)


def _forests() -> None:
    for dtype in (np.float64, np.float32, np.uint8):
        points = (100 * _points(600, 40)).astype(dtype)
        for method in ("forest", "tree", "brute"):
            KDForest(points, trees=2).query(points[:8], k=3, checks=64, method=method)
        for p in (1.0, 2.0, np.inf):
            BruteForce(points).query(points[:8], k=3, p=p)


def _matches() -> None:
    descriptors = (100 * _points(300, 32)).astype(np.uint8)
    match(descriptors[:200], descriptors[100:])
    match(descriptors[:200], descriptors[100:], metric="hamming")
    floats = descriptors.astype(np.float32)
    match(floats[:200], floats[100:])


CALLS: dict[str, tuple[Callable[[], None], ...]] = {"kd_tree": (_trees, _forests, _matches)}
