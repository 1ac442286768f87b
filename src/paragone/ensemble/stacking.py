r"""Stacking: a last model learns from what the others say of rows they have not seen.

Members $f_1 \dots f_M$ are fitted on the folds of a cross-validation, so that row i has the
out-of-fold features

$$ z_i = \big( f_1^{-\kappa(i)}(x_i), \dots, f_M^{-\kappa(i)}(x_i) \big) , $$

with $f^{-\kappa}$ fitted without the fold $\kappa(i)$ of the row: no member has seen the target
that its feature is about to explain. The last model g is fitted on $(z_i, y_i)$, the members
once more on all rows, and a new row is predicted by $g(f_1(x), \dots, f_M(x))$.

Where a row is predicted by several folds (repeated cross-validation) its features are averaged;
a row that none predicts (the first block of a time series) is left out of g's rows.

Cost: (folds + 1) fits of every member, one of g.

References:
    Wolpert (1992), "Stacked generalization", Neural Networks 5; Breiman (1996), "Stacked
    regressions", Machine Learning 24, eq. 3; Ting & Witten (1999), "Issues in stacked
    generalization", JAIR 10 (probabilities as features).

Shapes: n rows, p columns, M members, K classes, q columns of meta-features.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    RegressorMixin,
    clone,
)  # fmt: skip
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import check_cv
from sklearn.utils.validation import _num_samples, check_is_fitted

from paragone._core.random import RandomState
from paragone.ensemble._any_table import ask, fit_member, read_table, take_rows
from paragone.ensemble._composite import Composite, aligned, fit_all
from paragone.ensemble._input import read_target, read_target_classes, read_weights
from paragone.ensemble._shared_bins import SharedTable, shared_table, using_rows

__all__ = ["StackingClassifier", "StackingRegressor", "out_of_fold"]

_METHODS = ("predict_proba", "decision_function", "predict")


def out_of_fold(
    members: list[Any],
    methods: list[str],
    X: Any,
    y: np.ndarray,
    splits: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    weight: np.ndarray | None = None,
    num_classes: int | None = None,
    n_jobs: int | None = None,
    shared: SharedTable | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the meta-features of rows that some fold predicted, and these rows' numbers.

    Args:
        members: Unfitted estimators.
        methods: What to ask of each: "predict_proba", "decision_function" or "predict".
        X: The table, (n, p).
        y: Class codes or numbers.
        splits: Pairs of training and test rows; test rows may repeat, and need not cover all.
        weight: Weights of the rows, or None.
        num_classes: K; None for regression.
        n_jobs: Threads over members and folds.
        shared: Offers the bins of all rows to members that are boosted histogram trees.
    """
    splits = [(np.asarray(train), np.asarray(test)) for train, test in splits]
    jobs = [
        (_fold, (member, method, X, y, weight, num_classes, train, test, shared))
        for member, method in zip(members, methods, strict=True)
        for train, test in splits
    ]
    found = iter(fit_all(jobs, n_jobs))
    n = _num_samples(X)
    columns, times = [], np.zeros(n)
    for _, test in splits:
        np.add.at(times, test, 1.0)
    seen = np.flatnonzero(times)
    if not len(seen):
        raise ValueError("the cross-validation predicts no row; choose another cv")
    for _ in members:
        total: np.ndarray | None = None
        for _, test in splits:
            part = next(found)
            total = np.zeros((n, part.shape[1])) if total is None else total
            np.add.at(total, test, part)
        assert total is not None
        columns.append(total[seen] / times[seen, None])
    return np.hstack(columns), seen


def _fold(member, method, X, y, weight, num_classes, train, test, shared):
    part = None if weight is None else weight[train]
    fitted = _fit_sharing(shared, train, clone(member), take_rows(X, train), y[train], part)
    return _says(fitted, method, take_rows(X, test), num_classes)


def _fit_sharing(shared, rows, member, X, y, weight):
    with using_rows(shared, rows):
        return fit_member(member, X, y, weight)


def _says(member: Any, method: str, X: Any, num_classes: int | None) -> np.ndarray:
    """Returns a fitted member's columns of the meta-features, (n, 1) or (n, K)."""
    output = np.asarray(getattr(member, method)(X))
    if num_classes is None:
        return output.reshape(len(output), -1).astype(np.float64)
    if method == "predict":
        codes = output.astype(np.int64)
        if num_classes <= 2:
            return codes[:, None].astype(np.float64)
        return np.eye(num_classes)[codes]
    if output.ndim == 1:
        return output[:, None]
    full = aligned(member, output, num_classes, "zero" if method == "predict_proba" else "least")
    # With two classes one column says it all; both together are collinear.
    return full[:, 1:] if num_classes == 2 else full


class _Prefit:
    """A member fitted elsewhere, whose answers are turned into class codes."""

    def __init__(self, member: Any, classes: np.ndarray) -> None:
        self.member, self.classes = member, classes
        known = np.asarray(member.classes_)
        lost = np.setdiff1d(known, classes)
        if len(lost):
            raise ValueError(
                f"prefit {type(member).__name__} knows the classes {lost.tolist()}, which y "
                "has not; fit it on the same labels"
            )
        self.classes_ = np.searchsorted(classes, known)

    def __getattr__(self, name: str) -> Any:
        if name in ("predict_proba", "decision_function"):
            return getattr(self.member, name)
        raise AttributeError(name)

    def predict(self, X: Any) -> np.ndarray:
        return np.searchsorted(self.classes, self.member.predict(X))


class _Stacking(Composite):
    """What both kinds of stacks do."""

    final_estimator: BaseEstimator | None
    cv: Any
    passthrough: bool
    share_bins: bool
    stack_method: str
    n_features_in_: int

    def _method(self, name: str, member: Any) -> str:
        if self.stack_method != "auto":
            if not hasattr(member, self.stack_method):
                raise ValueError(f"member {name!r} has no {self.stack_method}; use 'auto'")
            return self.stack_method
        return next(method for method in _METHODS if hasattr(member, method))

    def _fit(self, table, y, sample_weight, groups, classes):
        n = _num_samples(table)
        if n != len(y):
            raise ValueError(f"X has {n} rows and y has {len(y)}; they must agree")
        weight = None if sample_weight is None else read_weights(sample_weight, n)
        members = self._members()
        num_classes = None if classes is None else len(classes)
        self.names_ = [name for name, _ in members]
        self.stack_method_ = [self._method(name, member) for name, member in members]
        unfitted = [member for _, member in members]
        if isinstance(self.cv, str) and self.cv == "prefit":
            for member in unfitted:
                check_is_fitted(member)
            self.estimators_ = unfitted
            meta, rows = self._meta(table, classes), np.arange(n)
        else:
            given: Any = self.cv
            cv: Any = check_cv(given, y, classifier=classes is not None)
            shared = shared_table(table) if self.share_bins else None
            meta, rows = out_of_fold(
                unfitted, self.stack_method_, table, y, cv.split(table, y, groups),
                weight=weight, num_classes=num_classes, n_jobs=self.n_jobs, shared=shared,
            )  # fmt: skip
            jobs = [
                (_fit_sharing, (shared, None, clone(member), table, y, weight))
                for member in unfitted
            ]
            self.estimators_ = fit_all(jobs, self.n_jobs)
        if classes is not None and len(np.unique(y[rows])) < len(classes):
            raise ValueError("some class is in no row that the folds predict; choose another cv")
        self._num_meta = meta.shape[1]
        if self.passthrough:
            meta = _beside(meta, take_rows(table, rows) if len(rows) < n else table)
        final = self._default_final() if self.final_estimator is None else self.final_estimator
        part = None if weight is None else weight[rows]
        self.final_estimator_ = fit_member(clone(final), meta, y[rows], part)
        return self

    def _default_final(self) -> Any:
        raise NotImplementedError

    def _meta(self, table: Any, classes: np.ndarray | None) -> np.ndarray:
        """Returns the fitted members' meta-features, (n, q)."""
        prefit = isinstance(self.cv, str) and self.cv == "prefit"
        columns = []
        for member, method in zip(self.estimators_, self.stack_method_, strict=True):
            if prefit and classes is not None:
                member = _Prefit(member, classes)
            columns.append(_says(member, method, table, None if classes is None else len(classes)))
        return np.hstack(columns)

    def transform(self, X: Any) -> Any:
        """Returns what the members say of X (n, q), with X's columns after if `passthrough`.

        They were fitted on all training rows, so on those rows this is not out-of-fold.
        """
        check_is_fitted(self)
        table = read_table(self, X, reset=False)
        meta = self._meta(table, getattr(self, "classes_", None))
        return _beside(meta, table) if self.passthrough else meta

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Returns names of `transform`'s columns: member's name, class number, then X's."""
        check_is_fitted(self, "n_features_in_")
        each = self._num_meta // len(self.names_)
        names = [name if each == 1 else f"{name}_{k}" for name in self.names_ for k in range(each)]
        if self.passthrough:
            given = getattr(self, "feature_names_in_", None) if input_features is None else None
            given = input_features if given is None else given
            names += list(given) if given is not None else [
                f"x{j}" for j in range(self.n_features_in_)
            ]  # fmt: skip
        return np.array(names, dtype=object)


def _beside(meta: np.ndarray, table: Any) -> Any:
    if sp.issparse(table):
        return sp.hstack([meta, table], format="csr")
    return np.hstack([meta, np.asarray(table, np.float64)])


class StackingClassifier(ClassifierMixin, _Stacking):
    """Stacking of classifiers.

    Prefer it to the best single model when some hundredths matter more than the time of
    (folds + 1) x members fits; prefer `VotingClassifier` when data are too few to learn from.

    Args:
        estimators: Members as (name, estimator); "drop" in place of one leaves it out. None
            for a random forest, boosted trees and a linear model on standardised columns.
        final_estimator: g; None for logistic regression, or, with `passthrough`, a forest.
        cv: Folds: a number, a splitter, an iterable of row numbers, or "prefit" for members
            that are fitted already (on other rows, or g learns their over-confidence).
        stack_method: "auto", "predict_proba", "decision_function" or "predict".
        n_jobs: Threads over members and folds.
        passthrough: Whether g also sees X.
        share_bins: Take the bins of gradient boosting members from all training rows, once for
            all folds (edges are quantiles of the columns and see no target).
        random_state: Seed of the default members.

    Attributes:
        classes_: Labels.
        estimators_: Members fitted on all rows; they see class codes, not labels.
        final_estimator_: g, fitted.
        stack_method_: What each member is asked.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> StackingClassifier(cv=3, random_state=0).fit(X, y).score(X, y) > 0.9
        True
    """

    def __init__(
        self,
        estimators: list[tuple[str, Any]] | None = None,
        final_estimator: BaseEstimator | None = None,
        *,
        cv: Any = None,
        stack_method: str = "auto",
        n_jobs: int | None = None,
        passthrough: bool = False,
        share_bins: bool = True,
        random_state: RandomState = None,
    ) -> None:
        self.estimators = estimators
        self.final_estimator = final_estimator
        self.cv = cv
        self.stack_method = stack_method
        self.n_jobs = n_jobs
        self.passthrough = passthrough
        self.share_bins = share_bins
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None
    ) -> StackingClassifier:
        """Fits members and final model; `groups` go to the splitter. Returns the estimator."""
        if self.stack_method not in ("auto", *_METHODS):
            raise ValueError(f"stack_method={self.stack_method!r} is none of {('auto', *_METHODS)}")
        table = read_table(self, X, reset=True)
        codes, self.classes_ = read_target_classes(y)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_[0]!r}; stacking needs two or more")
        return self._fit(table, codes, sample_weight, groups, self.classes_)

    def _default_final(self) -> Any:
        if not self.passthrough:
            # The second derivatives of a few columns cost little and end the search in four steps.
            two = len(self.classes_) == 2
            return LogisticRegression(max_iter=1000, solver="newton-cholesky" if two else "lbfgs")
        from paragone.ensemble.random_forest import RandomForestClassifier

        return RandomForestClassifier(random_state=self.random_state)

    def _codes(self, X: Any, method: str) -> Any:
        check_is_fitted(self)
        return ask(self.final_estimator_, method, self.transform(X))

    def predict(self, X: Any) -> np.ndarray:
        """Returns the final model's labels, (n,)."""
        check_is_fitted(self)
        return self.classes_[np.asarray(self._codes(X, "predict"), np.int64)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the final model's probabilities, (n, K)."""
        return self._codes(X, "predict_proba")

    def decision_function(self, X: Any) -> np.ndarray:
        """Returns the final model's scores, (n,) or (n, K)."""
        return self._codes(X, "decision_function")


class StackingRegressor(RegressorMixin, _Stacking):
    """Stacking of regressors.

    Prefer it to the best single model when accuracy matters more than the time of
    (folds + 1) x members fits; for time series pass `cv=TimeSeriesSplit(...)`.

    Args:
        estimators: Members as (name, estimator); "drop" in place of one leaves it out. None
            for a random forest, boosted trees and a linear model on standardised columns.
        final_estimator: g; None for ridge regression, or, with `passthrough`, a forest.
        cv: Folds: a number, a splitter, an iterable of row numbers, or "prefit" for members
            that are fitted already (on other rows, or g learns their over-confidence).
        n_jobs: Threads over members and folds.
        passthrough: Whether g also sees X.
        share_bins: Take the bins of gradient boosting members from all training rows, once for
            all folds (edges are quantiles of the columns and see no target).
        random_state: Seed of the default members.

    Attributes:
        estimators_: Members fitted on all rows.
        final_estimator_: g, fitted.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> StackingRegressor(cv=3, random_state=0).fit(X, y).score(X, y) > 0.5
        True
    """

    stack_method = "predict"

    def __init__(
        self,
        estimators: list[tuple[str, Any]] | None = None,
        final_estimator: BaseEstimator | None = None,
        *,
        cv: Any = None,
        n_jobs: int | None = None,
        passthrough: bool = False,
        share_bins: bool = True,
        random_state: RandomState = None,
    ) -> None:
        self.estimators = estimators
        self.final_estimator = final_estimator
        self.cv = cv
        self.n_jobs = n_jobs
        self.passthrough = passthrough
        self.share_bins = share_bins
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None
    ) -> StackingRegressor:
        """Fits members and final model; `groups` go to the splitter. Returns the estimator."""
        table = read_table(self, X, reset=True)
        return self._fit(table, read_target(y), sample_weight, groups, None)

    def _default_final(self) -> Any:
        if not self.passthrough:
            return RidgeCV()
        from paragone.ensemble.random_forest import RandomForestRegressor

        return RandomForestRegressor(random_state=self.random_state)

    def predict(self, X: Any) -> np.ndarray:
        """Returns the final model's predictions, (n,)."""
        check_is_fitted(self)
        return np.asarray(ask(self.final_estimator_, "predict", self.transform(X)))
