r"""AdaBoost: each learner works on what the ones before it got wrong.

**Classification** (SAMME, K classes). Weights $w$ start uniform; round t fits a classifier
$T_t$ under $w$ and has the error $e_t = \sum_i w_i [T_t(x_i) \ne y_i] / \sum_i w_i$. Then

$$ \alpha_t = \eta \Big( \log \frac{1 - e_t}{e_t} + \log(K - 1) \Big), \qquad
   w_i \leftarrow w_i \, e^{\alpha_t [T_t(x_i) \ne y_i]} , $$

and the ensemble votes, class k getting $\sum_t \alpha_t$ over the learners that say k. It ends
at $e_t = 0$ (that learner stays, with weight 1) and at $e_t \ge 1 - 1/K$, no better than a coin
(that learner goes, unless it is the only one). Weights are kept as logarithms.

**Regression** (AdaBoost.R2). With the errors $d_i = |T_t(x_i) - y_i| / \max_j |T_t(x_j) - y_j|$,
as they are, squared, or $1 - e^{-d_i}$, and $\bar d = \sum_i w_i d_i$,

$$ \beta_t = \bar d / (1 - \bar d), \qquad \alpha_t = \eta \log(1 / \beta_t), \qquad
   w_i \leftarrow w_i \, \beta_t^{\eta (1 - d_i)} . $$

The prediction is the weighted median of the learners'. It ends at $\bar d \ge 1/2$.

Learners are fitted under the weights or, `sampling="resample"`, on a bootstrap drawn by them
(which R2 was published with). Without `estimator=` they are shallow trees on bins made once
(`_shallow`), so T stumps cost O(T n p): no sorting.

References:
    Freund & Schapire (1997), J. Comput. Syst. Sci. 55; Zhu, Zou, Rosset & Hastie (2009),
    "Multi-class AdaBoost", Stat. Interface 2, algorithm 2 and eq. 15; Drucker (1997),
    "Improving regressors using boosting techniques", ICML, section 3.

Shapes: n rows, p columns, T learners, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.extmath import softmax
from sklearn.utils.validation import check_is_fitted

from paragone._core.random import RandomState
from paragone.ensemble._adaboost_members import (
    MemberBooster,
    Members,
    legacy_state,
    weighted_medians,
)  # fmt: skip
from paragone.ensemble._early_stopping import Patience, holdout
from paragone.ensemble._input import read_target, read_target_classes, read_weights

__all__ = ["AdaBoostClassifier", "AdaBoostRegressor"]


class AdaBoostClassifier(ClassifierMixin, MemberBooster):
    r"""AdaBoost for two and more classes (SAMME).

    Prefer it to gradient boosting when labels are clean and the model must be small and easy
    to explain; it is the first to suffer from wrong labels.

    Args:
        estimator: Learner to boost, any classifier; None for trees of `max_depth` on bins.
        n_estimators: Most learners, T.
        learning_rate: $\eta$; smaller needs more learners.
        sampling: "weights" fits under the weights, "resample" on a bootstrap drawn by them
            (for learners without `sample_weight`).
        max_depth: Levels of the default trees; above 6 they are grown exactly, not on bins.
        max_bins: Bins of a column for the default trees, at most 255.
        n_iter_no_change: End when held-out error has not fallen for so many rounds, and keep
            the best; None uses all rows and all rounds.
        validation_fraction: Share of rows held out for that.
        tol: Least fall that counts.
        categorical_features: Columns that are categories, for the default trees: "from_dtype",
            None, a mask, indices or names. With any, trees are grown exactly.
        n_jobs: Threads for binning and prediction; None for Numba's setting.
        random_state: Seed for resampling, held-out rows and random learners.

    Attributes:
        classes_: Labels.
        estimators_: Fitted learners (or `trees_`, for the default ones).
        estimator_weights_: $\alpha_t$.
        estimator_errors_: $e_t$.
        n_estimators_: Learners kept.
        validation_score_: Held-out error after each round, with early stopping.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> AdaBoostClassifier().fit(X, y).score(X, y) > 0.9
        True
    """

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        *,
        n_estimators: int = 50,
        learning_rate: float = 1.0,
        sampling: str = "weights",
        max_depth: int = 1,
        max_bins: int = 255,
        n_iter_no_change: int | None = None,
        validation_fraction: float = 0.1,
        tol: float = 0.0,
        categorical_features: Any = "from_dtype",
        n_jobs: int | None = None,
        random_state: RandomState = None,
    ) -> None:
        self.estimator = estimator
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.sampling = sampling
        self.max_depth = max_depth
        self.max_bins = max_bins
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
        self.tol = tol
        self.categorical_features = categorical_features
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> AdaBoostClassifier:
        """Fits up to `n_estimators` learners; returns the estimator."""
        self._check_parameters()
        table = self._read(X, reset=True)
        codes, self.classes_ = read_target_classes(y)
        self._check_rows(table, len(codes))
        self.n_classes_ = len(self.classes_)
        weight = read_weights(sample_weight, len(codes))
        random = legacy_state(self.random_state)
        # A row of weight 0 is as good as absent: it may not even move a bin's edge.
        train, watch = np.flatnonzero(weight), np.zeros(0, np.int64)
        if self.n_iter_no_change is not None:
            kept, watched = holdout(len(train), self.validation_fraction, random, codes[train])
            train, watch = train[kept], train[watched]
        members = Members(
            table, train, weight[train], codes, self.classes_[codes], self.n_classes_, self
        )
        self._boost(members, codes, weight, train, watch, random)
        return self

    def _default_tree(self, categorical: np.ndarray) -> BaseEstimator:
        from paragone.ensemble.decision_tree import DecisionTreeClassifier

        return DecisionTreeClassifier(max_depth=self.max_depth, categorical_features=categorical)

    def _member_says(self, member: Any, X: Any) -> np.ndarray:
        return np.searchsorted(self.classes_, member.predict(X))

    def _boost(self, members, codes, weight, train, watch, random):
        votes = np.zeros((len(watch), self.n_classes_))
        patience = Patience(self.n_iter_no_change, self.tol)
        alphas, errors, scores = [], [], []
        # A hair below, so that rounding does not decide what a coin is.
        chance = (1.0 - 1.0 / self.n_classes_) * (1.0 - 1e-10)
        y = codes[train]
        log_weight = np.log(weight[train])
        for t in range(self.n_estimators):
            log_weight -= log_weight.max()
            w = np.exp(log_weight)
            w /= w.sum()
            wrong = members.grow(w, random) != y
            error = float(np.average(wrong, weights=w))
            if self.n_classes_ > 1 and error >= chance and t > 0:
                members.fitted.pop()
                break
            alpha = 1.0
            if 0 < error < chance:
                alpha = self.learning_rate * (
                    np.log((1.0 - error) / error) + np.log(self.n_classes_ - 1.0)
                )
            alphas.append(alpha)
            errors.append(error)
            if len(watch):
                votes[np.arange(len(watch)), members.last_says(watch)] += alpha
                miss = votes.argmax(axis=1) != codes[watch]
                scores.append(float(np.average(miss, weights=weight[watch])))
                if patience.stop(t + 1, scores[-1]):
                    break
            if not 0 < error < chance:
                break
            log_weight = log_weight + alpha * wrong
        kept = patience.best_round if len(watch) else len(alphas)
        self._finish(members, alphas, errors, kept, scores)

    def _votes(self, X: Any) -> Iterator[tuple[np.ndarray, float]]:
        """Yields the sum of votes (n, K) and of weights after each learner."""
        votes: np.ndarray | None = None
        total = 0.0
        for alpha, codes in zip(self.estimator_weights_, self._staged_says(X), strict=True):
            if votes is None:
                votes = np.zeros((len(codes), self.n_classes_))
            votes[np.arange(len(codes)), codes] += alpha
            total += alpha
            yield votes, total

    def _decision(self, votes: np.ndarray, total: float) -> np.ndarray:
        rest = max(self.n_classes_ - 1, 1)
        scores = (votes - (total - votes) / rest) / total
        return scores[:, 1] - scores[:, 0] if self.n_classes_ == 2 else scores

    def staged_decision_function(self, X: Any) -> Iterator[np.ndarray]:
        """Yields `decision_function` with 1, 2, ... learners."""
        check_is_fitted(self)
        return (self._decision(votes, total) for votes, total in self._votes(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """Returns mean votes: (n,) in [-2, 2] for two classes, else (n, K) in [-1/(K-1), 1]."""
        check_is_fitted(self)
        *_, (votes, total) = self._votes(X)
        return self._decision(votes, total)

    def _probabilities(self, decision: np.ndarray) -> np.ndarray:
        if self.n_classes_ == 1:
            return np.ones((len(decision), 1))
        if self.n_classes_ == 2:
            return softmax(np.column_stack([-decision, decision]) / 2)
        return softmax(decision / (self.n_classes_ - 1))

    def staged_predict_proba(self, X: Any) -> Iterator[np.ndarray]:
        """Yields `predict_proba` with 1, 2, ... learners."""
        return (self._probabilities(decision) for decision in self.staged_decision_function(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns softmax of the mean votes / (K - 1), (n, K): Zhu et al., eq. 15."""
        return self._probabilities(self.decision_function(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Returns the logarithm of `predict_proba`."""
        return np.log(self.predict_proba(X))

    def staged_predict(self, X: Any) -> Iterator[np.ndarray]:
        """Yields `predict` with 1, 2, ... learners."""
        check_is_fitted(self)
        return (self.classes_[votes.argmax(axis=1)] for votes, _ in self._votes(X))

    def predict(self, X: Any) -> np.ndarray:
        """Returns the class with the most votes, (n,)."""
        check_is_fitted(self)
        *_, (votes, _) = self._votes(X)
        return self.classes_[votes.argmax(axis=1)]

    def staged_score(self, X: Any, y: Any, sample_weight: Any = None) -> Iterator[float]:
        """Yields the accuracy with 1, 2, ... learners."""
        for said in self.staged_predict(X):
            yield float(accuracy_score(y, said, sample_weight=sample_weight))


class AdaBoostRegressor(RegressorMixin, MemberBooster):
    r"""AdaBoost for regression (AdaBoost.R2).

    Prefer it to gradient boosting for a median-like prediction that no single learner can
    pull away; for accuracy, gradient boosting mostly wins.

    Args:
        estimator: Learner to boost, any regressor; None for trees of `max_depth` on bins.
        n_estimators: Most learners, T.
        learning_rate: $\eta$; smaller needs more learners.
        loss: What an error counts: "linear", "square" or "exponential".
        sampling: "resample" fits on a bootstrap drawn by the weights, which is Drucker's
            algorithm; "weights" under the weights: not random, mostly a little less accurate.
        max_depth: Levels of the default trees; above 6 they are grown exactly, not on bins.
        max_bins: Bins of a column for the default trees, at most 255.
        n_iter_no_change: End when held-out mean absolute error has not fallen for so many
            rounds, and keep the best; None uses all rows and all rounds.
        validation_fraction: Share of rows held out for that.
        tol: Least fall that counts.
        categorical_features: Columns that are categories, for the default trees: "from_dtype",
            None, a mask, indices or names. With any, trees are grown exactly.
        n_jobs: Threads for binning and prediction; None for Numba's setting.
        random_state: Seed for resampling, held-out rows and random learners.

    Attributes:
        estimators_: Fitted learners (or `trees_`, for the default ones).
        estimator_weights_: $\alpha_t$.
        estimator_errors_: Mean errors $\bar d$.
        n_estimators_: Learners kept.
        validation_score_: Held-out mean absolute error by round, with early stopping.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> AdaBoostRegressor(random_state=0).fit(X, y).score(X, y) > 0.5
        True
    """

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        *,
        n_estimators: int = 50,
        learning_rate: float = 1.0,
        loss: str = "linear",
        sampling: str = "resample",
        max_depth: int = 3,
        max_bins: int = 255,
        n_iter_no_change: int | None = None,
        validation_fraction: float = 0.1,
        tol: float = 0.0,
        categorical_features: Any = "from_dtype",
        n_jobs: int | None = None,
        random_state: RandomState = None,
    ) -> None:
        self.estimator = estimator
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.loss = loss
        self.sampling = sampling
        self.max_depth = max_depth
        self.max_bins = max_bins
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
        self.tol = tol
        self.categorical_features = categorical_features
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> AdaBoostRegressor:
        """Fits up to `n_estimators` learners; returns the estimator."""
        self._check_parameters()
        if self.loss not in ("linear", "square", "exponential"):
            raise ValueError(f"loss={self.loss!r} is none of 'linear', 'square', 'exponential'")
        table = self._read(X, reset=True)
        y = read_target(y)
        self._check_rows(table, len(y))
        weight = read_weights(sample_weight, len(y))
        random = legacy_state(self.random_state)
        train, watch = np.flatnonzero(weight), np.zeros(0, np.int64)
        if self.n_iter_no_change is not None:
            kept, watched = holdout(len(train), self.validation_fraction, random)
            train, watch = train[kept], train[watched]
        members = Members(table, train, weight[train], y, y, None, self)
        self._boost(members, y, weight, train, watch, random)
        return self

    def _default_tree(self, categorical: np.ndarray) -> BaseEstimator:
        from paragone.ensemble.decision_tree import DecisionTreeRegressor

        return DecisionTreeRegressor(max_depth=self.max_depth, categorical_features=categorical)

    def _member_says(self, member: Any, X: Any) -> np.ndarray:
        return np.asarray(member.predict(X), np.float64)

    def _boost(self, members, y, weight, train, watch, random):
        patience = Patience(self.n_iter_no_change, self.tol)
        watched = np.empty((len(watch), self.n_estimators))
        alphas, errors, scores = [], [], []
        w = weight[train] / weight[train].sum()
        for t in range(self.n_estimators):
            miss = np.abs(members.grow(w, random) - y[train])
            error, shape = self._member_error(miss, w, 1e-12 * float(np.abs(y[train]).max()))
            if error >= 0.5 and t > 0:
                members.fitted.pop()
                break
            beta = error / (1.0 - error)
            fair = 0 < error < 0.5
            alphas.append(self.learning_rate * float(np.log(1.0 / beta)) if fair else 1.0)
            errors.append(error)
            if len(watch):
                watched[:, t] = members.last_says(watch)
                median = weighted_medians(watched[:, : t + 1], np.array(alphas))
                miss = np.abs(median - y[watch])
                scores.append(float(np.average(miss, weights=weight[watch])))
                if patience.stop(t + 1, scores[-1]):
                    break
            if not fair:
                break
            w = w * beta ** ((1.0 - shape) * self.learning_rate)
            w /= w.sum()
        kept = patience.best_round if len(watch) else len(alphas)
        self._finish(members, alphas, errors, kept, scores)

    def _member_error(
        self, miss: np.ndarray, w: np.ndarray, rounding: float
    ) -> tuple[float, np.ndarray]:
        """Returns the mean error and the error of every row, in [0, 1]."""
        largest = miss[w > 0].max()
        shape = np.zeros_like(miss)
        if largest > rounding:
            shape = np.minimum(miss / largest, 1.0)
        if self.loss == "square":
            shape **= 2
        elif self.loss == "exponential":
            shape = 1.0 - np.exp(-shape)
        # Not a BLAS product, whose order of summation depends on the number of threads.
        return float((w * shape).sum()), shape

    def staged_predict(self, X: Any) -> Iterator[np.ndarray]:
        """Yields `predict` with 1, 2, ... learners."""
        check_is_fitted(self)
        values = np.column_stack(list(self._staged_says(X)))
        for t in range(1, self.n_estimators_ + 1):
            yield weighted_medians(values[:, :t], self.estimator_weights_[:t])

    def predict(self, X: Any) -> np.ndarray:
        """Returns the weighted median of the learners' predictions, (n,)."""
        check_is_fitted(self)
        return weighted_medians(
            np.column_stack(list(self._staged_says(X))), self.estimator_weights_
        )

    def staged_score(self, X: Any, y: Any, sample_weight: Any = None) -> Iterator[float]:
        """Yields R^2 with 1, 2, ... learners."""
        for said in self.staged_predict(X):
            yield float(r2_score(y, said, sample_weight=sample_weight))
