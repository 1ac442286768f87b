"""Neighbours: exact search in a k-d tree, approximate search in a forest, models on both.

`KDTree` for low dimension, `KDForest` for high; `match` pairs descriptors of two images;
`KNeighborsClassifier` and `KNeighborsRegressor` are scikit-learn estimators.
"""

from paragone._core.lazy import lazy_exports

_TARGETS = {
    "KDTree": "paragone.neighbors.kd_tree:KDTree",
    "KDForest": "paragone.neighbors.best_bin_first:KDForest",
    "match": "paragone.neighbors.matching:match",
    "KNeighborsClassifier": "paragone.neighbors.k_neighbors:KNeighborsClassifier",
    "KNeighborsRegressor": "paragone.neighbors.k_neighbors:KNeighborsRegressor",
}

__getattr__, __dir__ = lazy_exports(__name__, _TARGETS)

__all__ = [*_TARGETS]  # pyright: ignore[reportUnsupportedDunderAll]
