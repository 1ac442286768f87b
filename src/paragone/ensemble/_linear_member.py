r"""The linear member of a stack or a vote: a penalised linear model on standardised columns.

Trees of any kind share their mistakes, and a mean gains by members that err differently (Krogh &
Vedelsby 1995). So the third of the default members has no trees. Each column is standardised,

$$ z_{ij} = \frac{x_{ij} - m_j}{s_j}, \qquad
   m_j = \frac{\sum_i w_i x_{ij}}{\sum_i w_i}, \qquad
   s_j^2 = \frac{\sum_i w_i (x_{ij} - m_j)^2}{\sum_i w_i} , $$

over the rows in which it is not missing (a missing value then counts as the mean, 0). Each value of
a category first becomes a column of zeros and ones, if there are at most 100. On these,
classification is logistic regression with penalty $\tfrac12 \lVert \beta \rVert^2$ beside the sum
of the losses, regression ridge regression with $\lVert \beta \rVert^2$ beside the sum of squares.

Cost: some four tables of n q numbers of 8 bytes while it is fitted, two in prediction.

References:
    Krogh & Vedelsby (1995), "Neural network ensembles, cross validation, and active learning",
    NIPS 7, eq. 8; Hastie, Tibshirani & Friedman (2009), sections 3.4.1 and 4.4.

Shapes: n rows, p columns, q columns with those of categories, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.validation import check_is_fitted

from paragone.ensemble._any_table import ask
from paragone.ensemble._input import (
    Features,
    read_features,
    read_target,
    read_target_classes,
    read_weights,
)
from paragone.ensemble._serialize import JsonModel

__all__ = ["LinearClassifier", "LinearRegressor"]

_MOST_VALUES = 100
"""A category of more values, such as names or numbers of customers, is left to the trees."""


class _Linear(JsonModel, BaseEstimator):
    """What both kinds share: the columns."""

    n_features_in_: int
    center_: np.ndarray
    scale_: np.ndarray
    model_: Any

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.sparse = True
        return tags

    def _learn(self, model: Any, X: Any, target: np.ndarray, sample_weight: Any) -> Any:
        """Fits the columns, and the model on them; returns the estimator."""
        columns = _columns(read_features(self, X, reset=True))
        weight = read_weights(sample_weight, len(columns))
        present = np.where(np.isnan(columns), 0.0, weight[:, None])
        total = np.maximum(present.sum(axis=0), np.finfo(float).tiny)
        known = np.nan_to_num(columns)
        self.center_ = (present * known).sum(axis=0) / total
        spread = np.sqrt((present * (known - self.center_) ** 2).sum(axis=0) / total)
        # What float32 cannot tell from a constant is one.
        flat = spread <= 1e-6 * np.abs(self.center_)
        self.scale_ = np.where(flat, 1.0, spread)
        self.model_ = model.fit(self._standard(columns), target, sample_weight=weight)
        return self

    def _standard(self, columns: np.ndarray) -> np.ndarray:
        return np.nan_to_num((columns - self.center_) / self.scale_)

    def _seen(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self._standard(_columns(read_features(self, X, reset=False)))


class LinearClassifier(ClassifierMixin, _Linear):
    """Logistic regression on standardised columns; gaps and categories as they come.

    Attributes:
        classes_: Labels.
        model_: scikit-learn's, of the standardised columns.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearClassifier:
        """Fits on X (n, p) and labels y (n,); returns the estimator."""
        codes, self.classes_ = read_target_classes(y)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_[0]!r}; a line needs two or more")
        return self._learn(LogisticRegression(max_iter=1000), X, codes, sample_weight)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns probabilities, (n, K)."""
        return ask(self.model_, "predict_proba", self._seen(X))

    def predict(self, X: Any) -> np.ndarray:
        """Returns labels, (n,)."""
        return self.classes_[ask(self.model_, "predict", self._seen(X))]


class LinearRegressor(RegressorMixin, _Linear):
    """Ridge regression on standardised columns; gaps and categories as they come.

    Attributes:
        model_: scikit-learn's, of the standardised columns.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearRegressor:
        """Fits on X (n, p) and y (n,); returns the estimator."""
        return self._learn(Ridge(), X, read_target(y), sample_weight)

    def predict(self, X: Any) -> np.ndarray:
        """Returns predictions, (n,)."""
        return ask(self.model_, "predict", self._seen(X))


def _columns(features: Features) -> np.ndarray:
    """Numbers as they are, categories as columns of zeros and ones; float64 (n, q)."""
    parts = [features.values[:, ~features.categorical].astype(np.float64)]
    for j in np.flatnonzero(features.categorical):
        known, column = features.categories[j], features.values[:, j : j + 1]
        if known is not None and len(known) <= _MOST_VALUES:
            told = (column == np.arange(len(known))).astype(np.float64)
            parts.append(np.where(np.isnan(column), np.nan, told))
    columns = np.hstack(parts)
    return columns if columns.shape[1] else np.zeros((len(columns), 1))
