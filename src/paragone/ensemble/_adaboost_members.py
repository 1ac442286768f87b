"""What both AdaBoosts do with a learner: fit it under weights, keep it, ask it again.

Three kinds of learners hide behind the same few methods: trees of few levels on bins made once
(the default), decision trees on categories (the default where there are any), and any estimator
of the user's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from paragone._core.random import RandomState, as_generator
from paragone.ensemble._any_table import (
    fit_member,
    inherit_tags,
    read_table,
    seeded_clone,
    take_rows,
)  # fmt: skip
from paragone.ensemble._binning import bin_features
from paragone.ensemble._bootstrap import RowSampler, count_hits, row_keys
from paragone.ensemble._input import Features, read_features
from paragone.ensemble._predict import apply, pack
from paragone.ensemble._serialize import JsonModel
from paragone.ensemble._shallow import MAX_DEPTH, ShallowGrower
from paragone.ensemble._threads import num_threads
from paragone.ensemble._tree import Tree

__all__ = ["MemberBooster", "Members", "legacy_state", "weighted_medians"]


def legacy_state(random_state: RandomState) -> np.random.RandomState:
    """Returns the state that scikit-learn's own AdaBoost would draw from."""
    if isinstance(random_state, np.random.Generator):
        return np.random.RandomState(int(as_generator(random_state).integers(2**31 - 1)))
    return check_random_state(random_state)


def weighted_medians(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns for each row of `values` (n, T) the least value with half the weight at or below.

    Example:
        >>> weighted_medians(np.array([[3.0, 1.0, 2.0]]), np.array([1.0, 1.0, 5.0]))
        array([2.])
    """
    found = np.empty(len(values))
    # Blocks, because the order and the running sums are as large as the values again.
    for start in range(0, len(values), 8192):
        block = values[start : start + 8192]
        order = np.argsort(block, axis=1, kind="stable")
        mass = np.cumsum(weight[order], axis=1)
        place = (mass >= 0.5 * mass[:, -1:]).argmax(axis=1)
        rows = np.arange(len(block))
        found[start : start + 8192] = block[rows, order[rows, place]]
    return found


class Members:
    """The learners of one fit: grown one by one under weights, the last one asked or dropped.

    A bootstrap for the default trees is drawn along an order given by the rows' content (see
    `_bootstrap`), so that weights are frequencies; for the user's learner it is drawn as
    scikit-learn draws it.

    Args:
        table: What passed the door: `Features` or the user's own table.
        train: Numbers of the rows to fit on.
        weight: Weights of these rows, positive.
        target: Class codes or numbers of all rows.
        labels: Targets of all rows as the user's learners see them.
        num_classes: None for regression.
        owner: The estimator whose parameters say how to grow.
    """

    def __init__(
        self,
        table: Any,
        train: np.ndarray,
        weight: np.ndarray,
        target: np.ndarray,
        labels: np.ndarray,
        num_classes: int | None,
        owner: MemberBooster,
    ) -> None:
        self.owner, self.fitted, self.num_classes = owner, [], num_classes
        self.resample = owner.sampling == "resample"
        self.grower: ShallowGrower | None = None
        self.base = owner.estimator
        self.table = table.values if isinstance(table, Features) else table
        self.sampler: RowSampler | None = None
        if isinstance(table, Features):
            keys = row_keys(self.table[train], target[train])
            self.sampler = RowSampler(keys, weight, None, True) if self.resample else None
            if not table.categorical.any() and owner.max_depth <= MAX_DEPTH:
                rows = np.ascontiguousarray(table.values[train])
                none, threads = np.zeros(rows.shape[1], bool), num_threads(owner.n_jobs)
                even = None if np.all(weight == weight[0]) else weight
                binned = bin_features(rows, none, owner.max_bins, even, threads)
                self.grower = ShallowGrower(binned, target[train], num_classes, owner.max_depth)
                return
            self.base = owner._default_tree(np.flatnonzero(table.categorical))
        whole = len(train) == len(labels)
        self.rows = self.table if whole else take_rows(self.table, train)
        self.labels = labels[train]

    def grow(self, weight: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """Fits one more learner; returns what it says of its training rows."""
        if self.grower is not None:
            tree, node = self.grower.grow(self._counts(weight, random))
            self.fitted.append(tree)
            return node_says(tree, self.num_classes)[node]
        assert self.base is not None
        member = seeded_clone(self.base, random)
        if self.resample and self.sampler is None:
            every = np.arange(len(weight))
            drawn = random.choice(every, size=len(weight), replace=True, p=weight)
            member = fit_member(member, take_rows(self.rows, drawn), self.labels[drawn], None)
        else:
            weight = self._counts(weight, random)
            member = fit_member(member, self.rows, self.labels, weight)
        self.fitted.append(member)
        return self.owner._member_says(member, self.rows)

    def _counts(self, weight: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """Returns how often each row is drawn by its weight; the weights if none are drawn."""
        if self.sampler is None:
            return weight
        order = self.sampler.order
        counts = np.zeros(len(weight))
        count_hits(np.cumsum(weight[order]), random.random_sample(self.sampler.size), order, counts)
        return counts

    def last_says(self, rows: np.ndarray) -> np.ndarray:
        """Returns what the last learner says of these rows of the table."""
        last, some = self.fitted[-1], take_rows(self.table, rows)
        if isinstance(last, Tree):
            return node_says(last, self.num_classes)[
                apply(pack([last]), np.ascontiguousarray(some))[:, 0]
            ]
        return self.owner._member_says(last, some)


def node_says(tree: Tree, num_classes: int | None) -> np.ndarray:
    """Returns each node's class code, or its number in regression."""
    if num_classes is None:
        return tree.value[:, 0]
    # Classes that tie but for rounding: the first.
    return (tree.value >= tree.value.max(axis=1, keepdims=True) - 1e-9).argmax(axis=1)


class MemberBooster(JsonModel, BaseEstimator):
    """Base of `AdaBoostClassifier` and `AdaBoostRegressor`."""

    estimator: BaseEstimator | None
    n_estimators: int
    learning_rate: float
    sampling: str
    max_depth: int
    max_bins: int
    categorical_features: Any
    n_jobs: int | None
    n_features_in_: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if self.estimator is not None:
            return inherit_tags(tags, [self.estimator])
        tags.input_tags.allow_nan = tags.input_tags.sparse = True
        return tags

    def _default_tree(self, categorical: np.ndarray) -> BaseEstimator:
        raise NotImplementedError

    def _member_says(self, member: Any, X: Any) -> np.ndarray:
        raise NotImplementedError

    def _check_parameters(self) -> None:
        if self.n_estimators < 1:
            raise ValueError(f"n_estimators={self.n_estimators} must be >= 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be > 0; 1.0 is plain")
        if self.sampling not in ("weights", "resample"):
            raise ValueError(f"sampling={self.sampling!r} is neither 'weights' nor 'resample'")
        if self.max_depth < 1:
            raise ValueError(f"max_depth={self.max_depth} must be >= 1; 1 is a stump")

    def _read(self, X: Any, *, reset: bool) -> Any:
        if self.estimator is not None:
            return read_table(self, X, reset=reset)
        return read_features(self, X, reset=reset, categorical_features=self.categorical_features)

    def _check_rows(self, table: Any, n: int) -> None:
        rows = _num_samples(table.values if isinstance(table, Features) else table)
        if rows != n:
            raise ValueError(f"X has {rows} rows and y has {n}; they must agree")

    def _finish(
        self, members: Members, alphas: list, errors: list, kept: int, scores: list
    ) -> None:
        """Stores the first `kept` learners."""
        self.estimator_weights_ = np.array(alphas[:kept])
        self.estimator_errors_ = np.array(errors[:kept])
        self.n_estimators_ = kept
        for name in ("trees_", "estimators_", "validation_score_"):
            vars(self).pop(name, None)
        if members.grower is None:
            self.estimators_ = members.fitted[:kept]
        else:
            self.trees_ = members.fitted[:kept]
        if scores:
            self.validation_score_ = np.array(scores)

    def _staged_says(self, X: Any) -> Iterator[np.ndarray]:
        """Yields the class codes or numbers that each learner gives, (n,)."""
        table = self._read(X, reset=False)
        if isinstance(table, Features):
            table = table.values
        if hasattr(self, "trees_"):
            nodes = apply(pack(self.trees_), table)
            for t, tree in enumerate(self.trees_):
                yield node_says(tree, getattr(self, "n_classes_", None))[nodes[:, t]]
        else:
            for member in self.estimators_:
                yield self._member_says(member, table)

    @property
    def feature_importances_(self) -> np.ndarray:
        """Share of each column in the learners' gain, weighted as they vote, (p,)."""
        check_is_fitted(self)
        if hasattr(self, "estimators_"):
            try:
                shares = [member.feature_importances_ for member in self.estimators_]
            except AttributeError as error:
                raise AttributeError(
                    f"{type(self.estimators_[0]).__name__} has no feature_importances_"
                ) from error
        else:
            shares = [_gain_shares(tree, self.n_features_in_) for tree in self.trees_]
        total = np.average(shares, axis=0, weights=self.estimator_weights_)
        return total / total.sum() if total.sum() > 0 else total


def _gain_shares(tree: Tree, num_features: int) -> np.ndarray:
    split = tree.feature >= 0
    gain = np.bincount(tree.feature[split], tree.gain[split], minlength=num_features)
    return gain / gain.sum() if gain.sum() > 0 else gain
