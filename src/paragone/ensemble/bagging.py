r"""Bagging: the same learner on many bootstrap samples, averaged.

$$ \hat f(x) = \frac1B \sum_{b=1}^B f\big(x;\, D_b\big), \qquad D_b \text{ drawn from } D
   \text{ with replacement} . $$

Averaging leaves the bias and takes off variance, most from learners that a few rows can turn
around (full trees, not straight lines). Drawing columns too makes the members less alike
("random subspaces"; with rows, "random patches"). Rows that a member did not see give an error
estimate for free: the out-of-bag score.

With this package's own trees the table is read and ranked once for all members, samples are
weights, and predictions walk all trees at once. Any other learner is cloned and fitted, with
the counts as `sample_weight` if it takes them, else on the rows drawn.

Cost: B fits; memory of B members.

References:
    Breiman (1996), "Bagging predictors", Machine Learning 24, sections 1 and 4.
    Ho (1998), "The random subspace method", IEEE TPAMI 20; Louppe & Geurts (2012), "Ensembles
    on random patches".

B members, n rows, p columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples, check_is_fitted, has_fit_parameter

from paragone._core.random import RandomState, as_generator
from paragone.ensemble._any_table import inherit_tags, read_table, seeded_clone, take_rows
from paragone.ensemble._bootstrap import RowSampler, row_keys
from paragone.ensemble._cart import Columns, grow_cart, rank_columns, take_columns
from paragone.ensemble._cart_model import ClassVotes, Problem, class_weights
from paragone.ensemble._composite import aligned
from paragone.ensemble._forest import (
    in_threads,
    left_out_means,
    mean_left_out,
    score_left_out,
    tree_means,
)
from paragone.ensemble._input import (
    Features,
    read_features,
    read_target,
    read_target_classes,
    read_weights,
)
from paragone.ensemble._pruning import prune
from paragone.ensemble._serialize import JsonModel
from paragone.ensemble._threads import PARALLEL_WORK, num_threads
from paragone.ensemble._tree import LEAF, Tree
from paragone.ensemble.decision_tree import DecisionTreeClassifier, DecisionTreeRegressor

__all__ = ["BaggingClassifier", "BaggingRegressor"]


class _Bagging(JsonModel, BaseEstimator):
    _own_tree: type
    n_features_in_: int

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        n_estimators: int = 10,
        *,
        max_samples: int | float | None = None,
        max_features: int | float = 1.0,
        bootstrap: bool = True,
        bootstrap_features: bool = False,
        oob_score: bool | Callable[..., float] = False,
        warm_start: bool = False,
        n_jobs: int | None = None,
        random_state: RandomState = None,
    ) -> None:
        self.estimator = estimator
        self.n_estimators = n_estimators
        self.max_samples = max_samples
        self.max_features = max_features
        self.bootstrap = bootstrap
        self.bootstrap_features = bootstrap_features
        self.oob_score = oob_score
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        return inherit_tags(super().__sklearn_tags__(), [self._base()])

    def _base(self) -> Any:
        return self._own_tree() if self.estimator is None else self.estimator

    def _shares_table(self) -> bool:
        """Whether the members are our trees, which need only one reading of the table."""
        base = self._base()
        return type(base) is self._own_tree and base.monotonic_cst is None

    def _read(self, X: Any, *, reset: bool = False) -> Any:
        if self._shares_table():
            return read_features(
                self, X, reset=reset, categorical_features=self._base().categorical_features
            )
        return read_table(self, X, reset=reset)

    def _random(self, t: int) -> np.random.Generator:
        """The stream of member t: its rows, then its columns, then its own seed."""
        return np.random.default_rng([self._seed, t])

    def _fit(self, X: Any, y: np.ndarray, sample_weight: Any, num_classes: int) -> Any:
        table = self._read(X, reset=True)
        plain = table.values if isinstance(table, Features) else table
        n = _num_samples(plain)
        if n != len(y):
            raise ValueError(f"X has {n} rows and y has {len(y)}; they must agree")
        old = self._kept_members()
        weight = read_weights(sample_weight, n)
        sampler = RowSampler(row_keys(plain, y), weight, self.max_samples, self.bootstrap)
        if isinstance(table, Features):
            problem = Problem(table, y.astype(np.float64), weight, num_classes)
            member = self._tree_grower(problem, sampler)
        else:
            member = self._member_fitter(table, y, sampler)
        # Trees of ours are small steps, members of any other kind are not.
        count = self.n_estimators - len(old)
        work = plain.size * count if isinstance(table, Features) else PARALLEL_WORK
        made = in_threads(member, range(len(old), self.n_estimators), self.n_jobs, work)
        self.estimators_ = old + [estimator for estimator, _ in made]
        features = self.estimators_features_ if old else []
        self.estimators_features_ = features + [columns for _, columns in made]
        if self.oob_score:
            self._score_out_of_bag(plain, y, weight, sampler, num_classes)
        return self

    def _kept_members(self) -> list[Any]:
        if self.n_estimators != int(self.n_estimators) or self.n_estimators < 1:
            raise ValueError(f"n_estimators={self.n_estimators!r} must be a whole number >= 1")
        if self.oob_score and not self.bootstrap:
            raise ValueError("oob_score needs rows left out; set bootstrap=True")
        for name in ("oob_score_", "oob_decision_function_", "oob_prediction_"):
            self.__dict__.pop(name, None)
        old = getattr(self, "estimators_", []) if self.warm_start else []
        if self.n_estimators < len(old):
            raise ValueError(
                f"n_estimators={self.n_estimators} is less than the {len(old)} members there "
                "are; raise it, or set warm_start=False"
            )
        if not old:
            self._seed = int(as_generator(self.random_state).integers(2**63))
        return old

    def _draw_features(self, random: np.random.Generator) -> np.ndarray:
        p, value = self.n_features_in_, self.max_features
        if isinstance(value, float | np.floating) and 0.0 < value <= 1.0:
            count = max(1, int(value * p))
        elif isinstance(value, int | np.integer) and 1 <= value <= p:
            count = int(value)
        else:
            raise ValueError(
                f"max_features={value!r} must be a whole number from 1 to {p}, or a share in (0, 1]"
            )
        if self.bootstrap_features:
            return np.sort(random.integers(0, p, count))
        return np.arange(p) if count == p else np.sort(random.permutation(p)[:count])

    def _tree_grower(self, problem: Problem, sampler: RowSampler) -> Callable[[int], Any]:
        """Returns the function that makes member t of a bagging of our trees."""
        base, features = self._base(), problem.features
        bins = base.max_bins if base.tree_method == "hist" else None
        threads = num_threads(self.n_jobs)
        columns = rank_columns(features.values, features.categorical, bins, threads, problem.weight)
        ranks = np.unique(problem.target, return_inverse=True)[1].astype(np.int32)
        classes = np.arange(problem.num_classes)

        def grow(t: int) -> tuple[Any, np.ndarray]:
            random = self._random(t)
            weight = sampler.counts(random)
            chosen = self._draw_features(random)
            tree: Any = clone(base)
            seed = int(random.integers(2**31))
            tree.set_params(random_state=seed, categorical_features=features.categorical[chosen])
            tree.n_features_in_ = len(chosen)
            tree._categories_ = [features.categories[j] for j in chosen]
            if problem.num_classes:
                tree.classes_, tree.n_classes_ = classes, len(classes)
                weight = weight * class_weights(base.class_weight, classes, problem.target, weight)
            options = tree._growth(problem)
            tree.max_features_ = options["max_features"]
            own: Columns = columns
            if len(chosen) < self.n_features_in_ or self.bootstrap_features:
                own = take_columns(columns, chosen)
            grown = grow_cart(
                own, problem.target, weight, shuffle=True, target_rank=ranks, seed=seed, **options
            )
            tree.tree_ = prune(grown, base.ccp_alpha)
            return tree, chosen

        return grow

    def _member_fitter(
        self, table: Any, y: np.ndarray, sampler: RowSampler
    ) -> Callable[[int], Any]:
        """Returns the function that fits member t, of any kind."""
        base = self._base()
        takes_weights = has_fit_parameter(base, "sample_weight")

        def fit(t: int) -> tuple[Any, np.ndarray]:
            random = self._random(t)
            counts = sampler.counts(random)
            chosen = self._draw_features(random)
            legacy = np.random.RandomState(int(random.integers(2**32)))
            member = seeded_clone(base, legacy)
            X = self._columns(table, chosen)
            if takes_weights:
                return member.fit(X, y, sample_weight=counts), chosen
            if not np.all(counts == np.floor(counts)):
                raise ValueError(
                    f"{type(base).__name__} takes no sample_weight; give whole-number weights, "
                    "or set bootstrap=True so that rows are drawn by their weight"
                )
            rows = np.repeat(np.arange(len(y)), counts.astype(np.int64))
            return member.fit(take_rows(X, rows), y[rows]), chosen

        return fit

    def _columns(self, table: Any, chosen: np.ndarray) -> Any:
        if not self.bootstrap_features and len(chosen) == self.n_features_in_:
            return table
        return _safe_indexing(table, chosen, axis=1)

    def _trees(self) -> list[Tree]:
        """Returns the members' trees with the columns of the whole table."""
        trees = []
        for member, chosen in zip(self.estimators_, self.estimators_features_, strict=True):
            feature = member.tree_.feature
            whole = np.where(feature == LEAF, LEAF, chosen[feature]).astype(np.int32)
            trees.append(replace(member.tree_, feature=whole))
        return trees

    def _member_says(self, t: int, table: Any) -> np.ndarray:
        """Returns member t's class shares (n, K), or numbers (n, 1)."""
        member = self.estimators_[t]
        X = self._columns(table, self.estimators_features_[t])
        if not hasattr(self, "classes_"):
            return np.asarray(member.predict(X), np.float64)[:, None]
        count = len(self.classes_)  # pyright: ignore[reportAttributeAccessIssue]
        if hasattr(member, "predict_proba"):
            return aligned(member, member.predict_proba(X), count, "zero")
        return np.eye(count)[np.asarray(member.predict(X), np.int64)]

    def _outputs(self, X: Any) -> np.ndarray:
        """Returns the mean over the members, (n, K)."""
        check_is_fitted(self)
        table = self._read(X)
        count = len(self.estimators_)
        if isinstance(table, Features):
            return tree_means(self, self.estimators_, self._trees, table.values)
        answers = in_threads(lambda t: self._member_says(t, table), range(count), self.n_jobs)
        return np.add.reduce(answers) / count

    def _score_out_of_bag(
        self, table: Any, y: np.ndarray, weight: np.ndarray, sampler: RowSampler, num_classes: int
    ) -> None:
        draws = (sampler.counts(self._random(t)) for t in range(len(self.estimators_)))
        outputs = max(num_classes, 1)
        if self._shares_table():
            means = left_out_means(
                self, self.estimators_, self._trees, table,
                lambda t: np.packbits(sampler.counts(self._random(t)) == 0), weight, outputs,
            )  # fmt: skip
        else:
            means = mean_left_out(
                draws, lambda t, rows: self._member_says(t, take_rows(table, rows)), weight, outputs
            )
        if num_classes:
            labels = self.classes_[y]  # pyright: ignore[reportAttributeAccessIssue]
            self.oob_decision_function_ = means
            self.oob_score_ = score_left_out(self, labels, means, weight, accuracy_score)
        else:
            self.oob_prediction_ = means[:, 0]
            self.oob_score_ = score_left_out(self, y, means, weight, r2_score)


class BaggingClassifier(ClassVotes, ClassifierMixin, _Bagging):
    """Bootstrap aggregating of any classifier; averages probabilities (votes if there are none).

    Prefer it to a random forest when the members are not trees, or when columns should be drawn
    once for each member instead of at each node.

    Args:
        estimator: Learner, any classifier; None for a full decision tree.
        n_estimators: Number of members B.
        max_samples: Rows drawn for each: None (as many as there are), a number, or a share.
        max_features: Columns drawn for each: a number, or a share.
        bootstrap: Draw rows with replacement.
        bootstrap_features: Draw columns with replacement.
        oob_score: Estimate the accuracy from rows left out; or a function of (labels, predicted
            labels) to estimate instead.
        warm_start: Let `fit` add members to those there are.
        n_jobs: Threads; None for Numba's setting. The result does not depend on it.
        random_state: Seed.

    Attributes:
        classes_: Labels.
        estimators_: Fitted members; they see class codes, not labels.
        estimators_features_: Columns of each member.
        oob_score_: Out-of-bag accuracy (or what `oob_score` returned).
        oob_decision_function_: Out-of-bag probabilities, (n, K); NaN for a row in all samples.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> BaggingClassifier(n_estimators=50, oob_score=True).fit(X, y).oob_score_ > 0.9
        True
    """

    _own_tree = DecisionTreeClassifier

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> BaggingClassifier:
        """Fits the members, or adds members if `warm_start`; returns the estimator."""
        codes, classes = read_target_classes(y)
        known = getattr(self, "classes_", classes) if self.warm_start else classes
        if not np.array_equal(known, classes):
            raise ValueError(
                f"warm_start: y has the classes {classes.tolist()}, the members so far were "
                f"fitted for {known.tolist()}; set warm_start=False to begin anew"
            )
        self.classes_, self.n_classes_ = classes, len(classes)
        return self._fit(X, codes, sample_weight, len(classes))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the mean probabilities, (n, K)."""
        return np.ascontiguousarray(self._outputs(X))


class BaggingRegressor(RegressorMixin, _Bagging):
    """Bootstrap aggregating of any regressor.

    Prefer it to a random forest when the members are not trees; for trees the two differ only
    in where columns are drawn.

    Args:
        estimator: Learner, any regressor; None for a full decision tree.
        n_estimators: Number of members B.
        max_samples: Rows drawn for each: None (as many as there are), a number, or a share.
        max_features: Columns drawn for each: a number, or a share.
        bootstrap: Draw rows with replacement.
        bootstrap_features: Draw columns with replacement.
        oob_score: Estimate R^2 from rows left out; or a function of (targets, predictions).
        warm_start: Let `fit` add members to those there are.
        n_jobs: Threads; None for Numba's setting. The result does not depend on it.
        random_state: Seed.

    Attributes:
        estimators_: Fitted members.
        estimators_features_: Columns of each member.
        oob_score_: Out-of-bag R^2 (or what `oob_score` returned).
        oob_prediction_: Out-of-bag predictions, (n,); NaN for a row in all samples.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> BaggingRegressor(n_estimators=50, random_state=0).fit(X, y).score(X, y) > 0.85
        True
    """

    _own_tree = DecisionTreeRegressor

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> BaggingRegressor:
        """Fits the members, or adds members if `warm_start`; returns the estimator."""
        return self._fit(X, read_target(y), sample_weight, 0)

    def predict(self, X: Any) -> np.ndarray:
        """Returns the mean of the members, (n,)."""
        return self._outputs(X)[:, 0]
