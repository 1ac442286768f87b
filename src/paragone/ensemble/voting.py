r"""Voting: the members' answers are averaged, or counted.

$$ p(k \mid x) = \frac{\sum_m w_m \, p_m(k \mid x)}{\sum_m w_m} \;\text{(soft)}, \qquad
   \hat y(x) = \arg\max_k \sum_m w_m [f_m(x) = k] \;\text{(hard)}, \qquad
   \hat y(x) = \frac{\sum_m w_m f_m(x)}{\sum_m w_m} \;\text{(numbers)} . $$

Errors that the members do not share cancel: the squared error of the mean is the members' mean
squared error less their variance about their mean (the ambiguity).

Cost: one fit a member.

References:
    Krogh & Vedelsby (1995), "Neural network ensembles, cross validation, and active learning",
    NIPS 7, eq. 8; Kuncheva (2004), "Combining pattern classifiers", chapters 4 and 5.

Shapes: n rows, M members, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples, check_is_fitted

from paragone._core.random import RandomState
from paragone.ensemble._any_table import fit_member, read_table
from paragone.ensemble._composite import Composite, fit_all
from paragone.ensemble._input import read_target, read_target_classes, read_weights

__all__ = ["VotingClassifier", "VotingRegressor"]


class _Voting(Composite):
    """What both kinds of votes do."""

    weights: Sequence[float] | None

    def _fit(self, table: Any, y: np.ndarray, sample_weight: Any) -> Any:
        n = _num_samples(table)
        if n != len(y):
            raise ValueError(f"X has {n} rows and y has {len(y)}; they must agree")
        weight = None if sample_weight is None else read_weights(sample_weight, n)
        members = self._members()
        self.names_ = [name for name, _ in members]
        self.weights_ = self._shares()
        jobs = [(fit_member, (clone(member), table, y, weight)) for _, member in members]
        self.estimators_ = fit_all(jobs, self.n_jobs)
        return self

    def _shares(self) -> np.ndarray:
        """Returns the weights of the members in use; they sum to 1."""
        if self.weights is None:
            return np.full(len(self.names_), 1 / len(self.names_))
        shares = np.asarray(self.weights, np.float64)
        given = self.names_ if self.estimators is None else [name for name, _ in self.estimators]
        if shares.shape != (len(given),):
            raise ValueError(
                f"weights has {shares.size} numbers for {len(given)} members; give one each"
            )
        shares = shares[[given.index(name) for name in self.names_]]
        if not (np.all(shares >= 0) and shares.sum() > 0):
            raise ValueError(f"weights={self.weights!r} must be >= 0 and not all 0")
        return shares / shares.sum()


def _soft(self: Any) -> bool:
    if self.voting != "soft":
        raise AttributeError("predict_proba needs voting='soft', not 'hard'")
    return True


class VotingClassifier(ClassifierMixin, _Voting):
    """Mean of the members' probabilities, or a count of their votes.

    Prefer it to stacking when data are few or time is short: nothing is learned about the
    members, so nothing can be overfitted.

    Args:
        estimators: Members as (name, estimator); "drop" in place of one leaves it out. None
            for a random forest, boosted trees and a linear model on standardised columns.
        voting: "soft" averages probabilities (scikit-learn's default is "hard"); "hard"
            counts labels, ties to the first in order.
        weights: Weight of each member; None for equal ones.
        n_jobs: Threads over members.
        random_state: Seed of the default members.

    Attributes:
        classes_: Labels.
        estimators_: Fitted members; they see class codes, not labels.
        weights_: Weights of the members in use, summing to 1.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> VotingClassifier(random_state=0).fit(X, y).score(X, y) > 0.9
        True
    """

    def __init__(
        self,
        estimators: list[tuple[str, Any]] | None = None,
        *,
        voting: str = "soft",
        weights: Sequence[float] | None = None,
        n_jobs: int | None = None,
        random_state: RandomState = None,
    ) -> None:
        self.estimators = estimators
        self.voting = voting
        self.weights = weights
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> VotingClassifier:
        """Fits every member on all rows; returns the estimator."""
        if self.voting not in ("soft", "hard"):
            raise ValueError(f"voting={self.voting!r} is neither 'soft' nor 'hard'")
        table = read_table(self, X, reset=True)
        codes, self.classes_ = read_target_classes(y)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_[0]!r}; voting needs two or more")
        return self._fit(table, codes, sample_weight)

    def _scores(self, X: Any) -> np.ndarray:
        """Returns mean probabilities or shares of votes, (n, K)."""
        check_is_fitted(self)
        table = read_table(self, X, reset=False)
        total = np.zeros((_num_samples(table), len(self.classes_)))
        for member, weight in zip(self.estimators_, self.weights_, strict=True):
            if self.voting == "soft":
                total += weight * member.predict_proba(table)
            else:
                codes = np.asarray(member.predict(table), np.int64)
                total[np.arange(len(total)), codes] += weight
        return total

    def predict(self, X: Any) -> np.ndarray:
        """Returns the label with the greatest mean probability or most votes, (n,)."""
        check_is_fitted(self)
        return self.classes_[self._scores(X).argmax(axis=1)]

    @available_if(_soft)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns mean probabilities, (n, K)."""
        return self._scores(X)

    def transform(self, X: Any) -> np.ndarray:
        """Returns each member's probabilities side by side (n, M K), or labels (n, M)."""
        check_is_fitted(self)
        table = read_table(self, X, reset=False)
        if self.voting == "soft":
            return np.hstack([member.predict_proba(table) for member in self.estimators_])
        codes = [np.asarray(m.predict(table), np.int64) for m in self.estimators_]
        return self.classes_[np.column_stack(codes)]

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Returns names of `transform`'s columns: member's name, and class number if soft."""
        check_is_fitted(self)
        if self.voting == "hard":
            return np.array(self.names_, dtype=object)
        codes = range(len(self.classes_))
        return np.array([f"{name}_{k}" for name in self.names_ for k in codes], dtype=object)


class VotingRegressor(RegressorMixin, _Voting):
    """Weighted mean of the members' predictions.

    Prefer it to stacking when data are few or time is short.

    Args:
        estimators: Members as (name, estimator); "drop" in place of one leaves it out. None
            for a random forest, boosted trees and a linear model on standardised columns.
        weights: Weight of each member; None for equal ones.
        n_jobs: Threads over members.
        random_state: Seed of the default members.

    Attributes:
        estimators_: Fitted members.
        weights_: Weights of the members in use, summing to 1.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> VotingRegressor(random_state=0).fit(X, y).score(X, y) > 0.5
        True
    """

    def __init__(
        self,
        estimators: list[tuple[str, Any]] | None = None,
        *,
        weights: Sequence[float] | None = None,
        n_jobs: int | None = None,
        random_state: RandomState = None,
    ) -> None:
        self.estimators = estimators
        self.weights = weights
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> VotingRegressor:
        """Fits every member on all rows; returns the estimator."""
        table = read_table(self, X, reset=True)
        return self._fit(table, read_target(y), sample_weight)

    def transform(self, X: Any) -> np.ndarray:
        """Returns each member's predictions, (n, M)."""
        check_is_fitted(self)
        table = read_table(self, X, reset=False)
        return np.column_stack([member.predict(table) for member in self.estimators_])

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Returns names of `transform`'s columns: the members'."""
        check_is_fitted(self)
        return np.array(self.names_, dtype=object)

    def predict(self, X: Any) -> np.ndarray:
        """Returns the weighted mean of the members' predictions, (n,)."""
        return (self.transform(X) * self.weights_).sum(axis=1)
