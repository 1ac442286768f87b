"""What both k-neighbour models share: reading a table, one metric, the search, the graph.

n rows, d columns, m queries, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, MultiOutputMixin, is_regressor
from sklearn.utils.validation import check_is_fitted, validate_data

from paragone._core.random import RandomState
from paragone.neighbors._checks import read_count, read_points
from paragone.neighbors._choice import Chooser

__all__ = ["NeighborsBase", "neighbor_weights"]

_ALGORITHMS = {"auto": "auto", "kd_tree": "tree", "brute": "brute", "kd_forest": "forest"}
_POWERS = {"euclidean": 2.0, "manhattan": 1.0, "chebyshev": np.inf, "cosine": 2.0}
_ALIASES = {"l2": "euclidean", "l1": "manhattan", "cityblock": "manhattan"}
_MOST_DENSE = 1 << 27


def neighbor_weights(distances: np.ndarray, weights: Any) -> np.ndarray:
    """Returns the weights (m, k) of neighbours at these distances (m, k)."""
    if weights in (None, "uniform"):
        return np.ones_like(distances)
    if weights == "distance":
        with np.errstate(divide="ignore", over="ignore"):
            inverse = 1.0 / distances
        infinite = np.isinf(inverse)
        own = infinite.any(axis=1)
        inverse[own] = infinite[own]
        return inverse
    found = np.asarray(weights(distances), np.float64)
    if found.shape != distances.shape:
        raise ValueError(
            f"`weights` returned shape {found.shape} for distances of shape {distances.shape}; "
            "it must return one weight for each distance"
        )
    return found


class NeighborsBase(MultiOutputMixin, BaseEstimator):
    """Reads, holds and searches the rows of a k-neighbour model."""

    n_features_in_: int
    _y: np.ndarray

    def __init__(
        self,
        n_neighbors: int = 5,
        *,
        weights: str | Callable[..., Any] | None = "uniform",
        algorithm: str = "auto",
        checks: int = 200,
        p: float = 2,
        metric: str = "minkowski",
        metric_params: Mapping[str, Any] | None = None,
        n_jobs: int | None = None,
        random_state: RandomState = 0,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.algorithm = algorithm
        self.checks = checks
        self.p = p
        self.metric = metric
        self.metric_params = metric_params
        self.n_jobs = n_jobs
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _read_fit(self, X: Any, y: Any) -> tuple[np.ndarray, Any]:
        self._check_settings()
        X, y = validate_data(
            self, X, y, multi_output=True, accept_sparse="csr", dtype="numeric", order="C",
            y_numeric=is_regressor(self),
        )  # fmt: skip
        return self._rows(X), y

    def _check_settings(self) -> None:
        read_count(self.n_neighbors, "n_neighbors")
        read_count(self.checks, "checks")
        if self.algorithm not in _ALGORITHMS:
            raise ValueError(
                f"algorithm={self.algorithm!r} is unknown; use one of {', '.join(_ALGORITHMS)}"
            )
        if not (self.weights in (None, "uniform", "distance") or callable(self.weights)):
            raise ValueError(
                f"weights={self.weights!r} is unknown; use 'uniform', 'distance' or a function"
            )
        metric = _ALIASES.get(self.metric, self.metric)
        if metric == "minkowski":
            if not self.p >= 1:
                raise ValueError(f"p={self.p!r} is no distance's exponent: use 1 or above")
            names = {1.0: "manhattan", 2.0: "euclidean", np.inf: "chebyshev"}
            metric = names.get(float(self.p), "minkowski")
        elif metric not in _POWERS:
            raise ValueError(
                f"metric={self.metric!r} is unknown; use one of minkowski, {', '.join(_POWERS)}"
            )
        self.effective_metric_ = metric
        self._power = float(_POWERS.get(metric, self.p))

    def _rows(self, X: Any) -> np.ndarray:
        """Rows as the search takes them: dense, scaled so that the metric is a plain one."""
        if sp.issparse(X):
            if X.shape[0] * X.shape[1] > _MOST_DENSE:
                raise ValueError(
                    f"the sparse X of shape {X.shape} has more than {_MOST_DENSE} cells to fill; "
                    "reduce its columns first, e.g. by sklearn.decomposition.TruncatedSVD"
                )
            X = X.toarray()
        X = read_points(X, "X")
        factor = self._column_factors(X.shape[1])
        if self.effective_metric_ == "cosine":
            length = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))
            return X / np.where(length > 0.0, length, 1.0)[:, None]
        return X if factor is None else np.ascontiguousarray(X * factor)

    def _column_factors(self, d: int) -> np.ndarray | None:
        """Factors w ** (1/p), since sum w |x - y|^p is a plain distance of scaled columns."""
        params = dict(self.metric_params or {})
        weights = params.pop("w", None)
        if params:
            raise ValueError(f'metric_params has unknown keys {sorted(params)}; it takes only "w"')
        if weights is None:
            return None
        if self.metric != "minkowski":
            raise ValueError(f'metric_params["w"] needs metric="minkowski", not {self.metric!r}')
        w = np.asarray(weights, np.float64)
        if w.shape != (d,) or not np.isfinite(w).all() or (w < 0).any():
            raise ValueError(f'metric_params["w"] must hold {d} finite weights >= 0, one a column')
        return w ** (1.0 / self._power) if np.isfinite(self._power) else (w > 0).astype(np.float64)

    def _keep(self, X: np.ndarray) -> Any:
        self.n_samples_fit_ = len(X)
        self._fit_rows = X
        self._chooser = Chooser(X, random_state=self.random_state, workers=self.n_jobs or 1)
        return self

    @property
    def search_(self) -> str:
        """What the last query was searched with, and why."""
        check_is_fitted(self, "_chooser")
        return self._chooser.explain()

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> Any:
        """Returns the nearest rows of each query, nearest first, ties by lowest row.

        Args:
            X: Queries (m, d); None for the rows fitted, which are not their own neighbours.
            n_neighbors: How many; None for the estimator's.
            return_distance: Also return the distances.

        Returns:
            distances (m, k) and rows (m, k), or the rows alone.
        """
        check_is_fitted(self, "_chooser")
        k = read_count(self.n_neighbors if n_neighbors is None else n_neighbors, "n_neighbors")
        own = X is None
        if own:
            queries = self._fit_rows
        else:
            checked: Any = validate_data(
                self, X, reset=False, accept_sparse="csr", dtype="numeric", order="C"
            )
            queries = self._rows(checked)
        if k + own > self.n_samples_fit_:
            raise ValueError(
                f"Expected n_neighbors {'<' if own else '<='} n_samples_fit, but n_neighbors = "
                f"{k}, n_samples_fit = {self.n_samples_fit_}; lower n_neighbors"
            )
        method = _ALGORITHMS[self.algorithm]
        checks = self.checks if method == "forest" else None
        workers = 1 if self.n_jobs is None else self.n_jobs
        distance, rows = self._chooser.query(queries, k + own, self._power, checks, method, workers)
        if own:
            distance, rows = _without_self(distance, rows)
        if self.effective_metric_ == "cosine":
            # The angle's cosine from the chord between unit vectors; a zero row is at right angles.
            distance = distance * distance / 2.0
        return (distance, rows) if return_distance else rows

    def kneighbors_graph(
        self, X: Any = None, n_neighbors: int | None = None, mode: str = "connectivity"
    ) -> sp.csr_matrix:
        """Returns the graph of nearest rows as a sparse matrix (m, n).

        Args:
            X: Queries (m, d); None for the rows fitted.
            n_neighbors: How many; None for the estimator's.
            mode: "connectivity" (ones) or "distance".
        """
        if mode not in ("connectivity", "distance"):
            raise ValueError(f'mode={mode!r} is unknown; use "connectivity" or "distance"')
        distance, rows = self.kneighbors(X, n_neighbors)
        m, k = rows.shape
        data = distance.ravel() if mode == "distance" else np.ones(m * k)
        start = np.arange(0, m * k + 1, k)
        return sp.csr_matrix((data, rows.ravel(), start), shape=(m, self.n_samples_fit_))


def _without_self(distance: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Takes each row out of its own neighbours; the last one where equal rows crowded it out."""
    m, k = rows.shape
    drop = rows == np.arange(m)[:, None]
    drop[~drop.any(axis=1), -1] = True
    return distance[~drop].reshape(m, k - 1), rows[~drop].reshape(m, k - 1)
