r"""k-nearest-neighbour models: a query is answered by the labels of the rows nearest to it.

$$ \hat P(c \mid x) = \frac{\sum_{i \in N_k(x)} w_i\,[y_i = c]}{\sum_{i \in N_k(x)} w_i}, \qquad
   \hat f(x) = \frac{\sum_{i \in N_k(x)} w_i\, y_i}{\sum_{i \in N_k(x)} w_i}, $$

with $w_i = 1$, $w_i = 1 / \lVert x - x_i \rVert$, or any function of the distances. Nothing is
learnt; all work is the search. As n grows, the error of one neighbour is at most twice the least
possible one (Cover & Hart, eq. 18), and k that grows more slowly than n reaches it. Distances mix
columns, so scale them first; in many dimensions all rows are about equally far, and the method
loses its ground.

Neighbours at the same distance are taken by lowest row, on every algorithm; of classes with the
same weight the first in `classes_` wins.

Cost: fit O(n d), or the build of a tree at the first query; a query is that of the search.

References:
    Fix and Hodges (1951), "Discriminatory analysis: nonparametric discrimination".
    Cover and Hart (1967), "Nearest neighbor pattern classification", IEEE Trans. Inf. Theory 13,
    eq. 18.
    Dudani (1976), "The distance-weighted k-nearest-neighbor rule", IEEE Trans. SMC 6.

n rows, d columns, m queries, k neighbours, q outputs, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, column_or_1d

from paragone.neighbors._neighbors_base import NeighborsBase, neighbor_weights

__all__ = ["KNeighborsClassifier", "KNeighborsRegressor"]


class KNeighborsClassifier(ClassifierMixin, NeighborsBase):
    """Classification by the k nearest rows.

    Prefer it to scikit-learn's for speed at equal answers, and for `algorithm="kd_forest"` in
    high dimension. Prefer trees (`paragone.ensemble`) where columns have unlike units or many
    say nothing.

    Args:
        n_neighbors: k.
        weights: "uniform", "distance" (inverse; rows at distance 0 then decide alone), or a
            function from distances (m, k) to weights (m, k).
        algorithm: "auto" (exact: tree or brute force, whichever is quicker), "kd_tree", "brute",
            or "kd_forest" (approximate, best bin first).
        checks: Rows looked at for a query by "kd_forest".
        p: Exponent of metric "minkowski".
        metric: "minkowski", "euclidean", "manhattan", "chebyshev" or "cosine".
        metric_params: {"w": weights of the columns} for "minkowski".
        n_jobs: Threads; None for one, -1 for all cores. No answer depends on it.
        random_state: Seed of "kd_forest".

    Attributes:
        classes_: Labels, or a list of them, one an output.
        n_samples_fit_: Rows n.
        effective_metric_: The metric after "minkowski" was resolved.
        outputs_2d_: Whether y had columns.

    Example:
        >>> model = KNeighborsClassifier(n_neighbors=1).fit([[0.0], [1.0]], ["low", "high"])
        >>> model.predict([[0.9]]).tolist()
        ['high']
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any) -> KNeighborsClassifier:
        """Keeps the rows X (n, d) and labels y, (n,) or (n, q); returns the estimator."""
        X, y = self._read_fit(X, y)
        y = np.asarray(y)
        self.outputs_2d_ = y.ndim == 2 and y.shape[1] > 1
        if not self.outputs_2d_:
            y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        columns = y.reshape(len(y), -1)
        coded = [np.unique(column, return_inverse=True) for column in columns.T]
        classes = [labels for labels, _ in coded]
        self.classes_ = classes if self.outputs_2d_ else classes[0]
        self._y = np.stack([codes.ravel() for _, codes in coded], axis=1)
        return self._keep(X)

    def _probabilities(self, X: Any) -> list[np.ndarray]:
        distances, rows = self.kneighbors(X)
        weights = neighbor_weights(distances, self.weights)
        if not np.all(weights.any(axis=1)):
            raise ValueError(
                "all neighbours of some query have weight zero; let `weights` give one of them more"
            )
        classes = self.classes_ if self.outputs_2d_ else [self.classes_]
        every, found = np.arange(len(rows)), []
        for output, labels in enumerate(classes):
            votes = np.zeros((len(rows), len(labels)))
            codes = self._y[:, output][rows]
            for j in range(rows.shape[1]):
                votes[every, codes[:, j]] += weights[:, j]
            found.append(votes / votes.sum(axis=1, keepdims=True))
        return found

    def predict_proba(self, X: Any) -> Any:
        """Returns the share of each class, (m, C), or a list of them, one an output.

        With X=None, of each row that was fitted, from its neighbours without itself.
        """
        found = self._probabilities(X)
        return found if self.outputs_2d_ else found[0]

    def predict(self, X: Any) -> np.ndarray:
        """Returns the labels (m,) or (m, q); with X=None those of the rows fitted, left out."""
        found = self._probabilities(X)
        if not self.outputs_2d_:
            return self.classes_[found[0].argmax(axis=1)]
        labels = [
            names[votes.argmax(axis=1)] for names, votes in zip(self.classes_, found, strict=True)
        ]
        return np.stack(labels, axis=1)


class KNeighborsRegressor(RegressorMixin, NeighborsBase):
    """Regression by the mean of the k nearest rows.

    Prefer it to scikit-learn's for speed at equal answers; prefer a forest or boosting where
    columns have unlike units, or where the target must be extrapolated.

    Args:
        n_neighbors: k.
        weights: "uniform", "distance" (inverse; rows at distance 0 then decide alone), or a
            function from distances (m, k) to weights (m, k).
        algorithm: "auto" (exact: tree or brute force, whichever is quicker), "kd_tree", "brute",
            or "kd_forest" (approximate, best bin first).
        checks: Rows looked at for a query by "kd_forest".
        p: Exponent of metric "minkowski".
        metric: "minkowski", "euclidean", "manhattan", "chebyshev" or "cosine".
        metric_params: {"w": weights of the columns} for "minkowski".
        n_jobs: Threads; None for one, -1 for all cores. No answer depends on it.
        random_state: Seed of "kd_forest".

    Attributes:
        n_samples_fit_: Rows n.
        effective_metric_: The metric after "minkowski" was resolved.

    Example:
        >>> model = KNeighborsRegressor(n_neighbors=2).fit([[0.0], [1.0], [9.0]], [0.0, 2.0, 7.0])
        >>> model.predict([[0.4]]).tolist()
        [1.0]
    """

    def fit(self, X: Any, y: Any) -> KNeighborsRegressor:
        """Keeps the rows X (n, d) and targets y, (n,) or (n, q); returns the estimator."""
        X, y = self._read_fit(X, y)
        kind: Any = np.float64
        self._y = check_array(y, dtype=kind, ensure_2d=False, input_name="y")
        return self._keep(X)

    def predict(self, X: Any) -> np.ndarray:
        """Returns the (weighted) means (m,) or (m, q); with X=None of the rows fitted, left out."""
        distances, rows = self.kneighbors(X)
        values = self._y[rows]
        if self.weights in (None, "uniform"):
            return values.mean(axis=1)
        weights = neighbor_weights(distances, self.weights)
        total = weights.sum(axis=1)
        if values.ndim == 2:
            return (values * weights).sum(axis=1) / total
        return np.einsum("mkq,mk->mq", values, weights) / total[:, None]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_y")
