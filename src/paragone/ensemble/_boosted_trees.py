"""The loop of gradient boosting, shared by its classifier and its regressor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from paragone._core.random import RandomState, as_generator
from paragone.ensemble._any_table import fit_member, take_rows
from paragone.ensemble._constraints import read_interactions, read_monotone, settle_leaves
from paragone.ensemble._early_stopping import Patience, holdout
from paragone.ensemble._friedman import TreeGrower, TreeShape, newton_steps
from paragone.ensemble._importance import tree_importances
from paragone.ensemble._input import Features, read_features, read_weights
from paragone.ensemble._losses import Loss
from paragone.ensemble._one_row import raw_of_row
from paragone.ensemble._predict import PackedTrees, apply, pack, predict_raw
from paragone.ensemble._serialize import JsonModel
from paragone.ensemble._shap import shap_values
from paragone.ensemble._shared_bins import in_fold
from paragone.ensemble._threads import num_threads
from paragone.ensemble._tree import Tree

__all__ = ["BoostedTrees"]

_HOLDOUT = 2**31
"""Stream of the seed from which held-out rows are drawn; rounds use 0, 1, 2, ..."""


class BoostedTrees(JsonModel, BaseEstimator):
    """Base of `GradientBoostingClassifier` and `GradientBoostingRegressor`."""

    n_features_in_: int
    classes_: np.ndarray
    oob_scores_: np.ndarray

    def __init__(
        self,
        *,
        loss: str | Callable = "log_loss",
        learning_rate: float = 0.1,
        n_estimators: int = 100,
        subsample: float = 1.0,
        criterion: str = "friedman_mse",
        min_samples_split: int | float = 2,
        min_samples_leaf: int | float = 1,
        min_weight_fraction_leaf: float = 0.0,
        max_depth: int | None = 3,
        min_impurity_decrease: float = 0.0,
        init: Any = None,
        max_features: int | float | str | None = None,
        max_leaf_nodes: int | None = None,
        tree_method: str = "hist",
        max_bins: int = 255,
        monotonic_cst: Any = None,
        interaction_cst: Any = None,
        categorical_features: Any = "from_dtype",
        validation_fraction: float = 0.1,
        n_iter_no_change: int | None = None,
        tol: float = 1e-4,
        warm_start: bool = False,
        n_jobs: int | None = None,
        random_state: RandomState = None,
    ) -> None:
        self.loss = loss
        self.learning_rate = learning_rate
        self.n_estimators = n_estimators
        self.subsample = subsample
        self.criterion = criterion
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.min_weight_fraction_leaf = min_weight_fraction_leaf
        self.max_depth = max_depth
        self.min_impurity_decrease = min_impurity_decrease
        self.init = init
        self.max_features = max_features
        self.max_leaf_nodes = max_leaf_nodes
        self.tree_method = tree_method
        self.max_bins = max_bins
        self.monotonic_cst = monotonic_cst
        self.interaction_cst = interaction_cst
        self.categorical_features = categorical_features
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state

    def _loss(self) -> Loss:
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.sparse = True
        if isinstance(self.init, BaseEstimator):
            given = get_tags(self.init).input_tags
            tags.input_tags.allow_nan, tags.input_tags.sparse = given.allow_nan, given.sparse
        return tags

    def _read(self, X: Any, *, reset: bool) -> Features:
        return read_features(self, X, reset=reset, categorical_features=self.categorical_features)

    def _check_parameters(self) -> None:
        for name in ("learning_rate", "n_estimators"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be > 0")
        if not 0 < self.subsample <= 1:
            raise ValueError(f"subsample={self.subsample} must lie in (0, 1]; 1 uses all rows")
        if self.tree_method not in ("hist", "exact"):
            raise ValueError(f"tree_method={self.tree_method!r} is neither 'hist' nor 'exact'")
        if self.criterion not in ("friedman_mse", "squared_error"):
            raise ValueError(
                f"criterion={self.criterion!r} is neither 'friedman_mse' nor 'squared_error'"
            )
        for name in ("max_depth", "max_leaf_nodes"):
            value, least = getattr(self, name), 1 if name == "max_depth" else 2
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be >= {least}, or None for no limit")

    def _shape(self, weight: np.ndarray, categorical: np.ndarray, outputs: int) -> TreeShape:
        """Resolves shares and names to numbers, for the rows that have these weights."""
        n, p = len(weight), self.n_features_in_

        def rows(value: int | float) -> int:
            return int(np.ceil(value * n)) if isinstance(value, float) else int(value)

        tried = self.max_features
        if isinstance(tried, str):
            if tried not in ("sqrt", "log2"):
                raise ValueError(f"max_features={tried!r} is neither 'sqrt' nor 'log2'")
            tried = int(np.sqrt(p) if tried == "sqrt" else np.log2(p))
        elif tried is None:
            tried = p
        elif isinstance(tried, float):
            tried = int(tried * p)
        names = getattr(self, "feature_names_in_", ())
        monotone = read_monotone(self.monotonic_cst, names, categorical, "monotonic_cst")
        if is_classifier(self) and outputs > 1 and monotone is not None:
            raise ValueError(
                "monotonic_cst holds for two classes only: with more, a rising score does "
                "not mean a rising probability; drop the constraints"
            )
        interactions = read_interactions(self.interaction_cst, names, p, "interaction_cst")
        if interactions is not None and self.tree_method == "exact":
            raise ValueError("interaction_cst needs tree_method='hist', not 'exact'")
        return TreeShape(
            method=self.tree_method, criterion=self.criterion, max_depth=self.max_depth,
            max_leaf_nodes=self.max_leaf_nodes, max_features=min(max(tried, 1), p),
            min_samples_split=max(rows(self.min_samples_split), 2),
            min_samples_leaf=max(rows(self.min_samples_leaf), 1),
            min_weight_leaf=self.min_weight_fraction_leaf * float(weight.sum()),
            min_gain=self.min_impurity_decrease * float(weight.sum()), max_bins=self.max_bins,
            monotone=monotone, interactions=interactions, threads=num_threads(self.n_jobs),
        )  # fmt: skip

    def _fit(
        self, X: Any, features: Features, y: np.ndarray, sample_weight: Any,
        codes: np.ndarray | None,
    ) -> Any:  # fmt: skip
        self._check_parameters()
        values = features.values
        if len(values) != len(y):
            raise ValueError(f"X has {len(values)} rows and y has {len(y)}; they must agree")
        weight = read_weights(sample_weight, len(y))
        loss = self._loss()
        loss.check(y)
        if not (self.warm_start and hasattr(self, "trees_")):
            self._forget()
            self._seed = int(as_generator(self.random_state).integers(2**63))
        elif self.n_estimators < len(self.trees_):
            raise ValueError(
                f"n_estimators={self.n_estimators} is less than the {len(self.trees_)} rounds "
                "there are; raise it, or set warm_start=False"
            )
        # A row of weight 0 is as good as absent: it may not even move a bin's edge.
        train, watch = np.flatnonzero(weight), np.zeros(0, np.int64)
        if self.n_iter_no_change is not None:
            legacy = np.random.RandomState(self._seed % _HOLDOUT)
            part = codes if codes is None else codes[train]
            kept, watched = holdout(len(train), self.validation_fraction, legacy, part)
            train, watch = train[kept], train[watched]
        own, other = self._part(X, train, len(y)), self._part(X, watch, len(y))
        if not hasattr(self, "trees_"):
            self._start(own, y[train], weight[train], loss)
        held = None
        if len(watch):
            some = np.ascontiguousarray(values[watch])
            raw = self._raw_of(some, self._init_raw(other, loss, len(watch)))
            held = (some, y[watch], weight[watch], raw)
        if len(train) < len(y):
            values, y, weight = np.ascontiguousarray(values[train]), y[train], weight[train]
        raw = self._raw_of(values, self._init_raw(own, loss, len(y)))
        shape = self._shape(weight, features.categorical, loss.outputs)
        grower = TreeGrower(values, features.categorical, weight, shape)
        self._boost(loss, grower, y, weight, raw, held)
        return self

    def _part(self, X: Any, rows: np.ndarray, n: int) -> Any:
        """Returns these rows of the user's table, which only an `init` estimator looks at."""
        if not isinstance(self.init, BaseEstimator):
            return None
        return X if len(rows) == n else take_rows(X, rows)

    def _forget(self) -> None:
        for name in list(vars(self)):
            if name in ("trees_", "init_") or name.startswith(("oob_", "validation_score")):
                delattr(self, name)

    def _start(self, X: Any, y: np.ndarray, weight: np.ndarray, loss: Loss) -> None:
        self.trees_: list[list[Tree]] = []
        self.train_score_ = np.zeros(0)
        self.baseline_ = np.zeros(loss.outputs)
        if self.init is None:
            self.baseline_ = loss.initial(y, weight)
        elif isinstance(self.init, BaseEstimator):
            labels = self.classes_[y.astype(np.int64)] if is_classifier(self) else y
            plain = bool(np.all(weight == weight[0]))
            self.init_ = fit_member(clone(self.init), X, labels, None if plain else weight)
        elif self.init != "zero":
            raise ValueError(f"init={self.init!r} is neither None, 'zero', nor an estimator")

    def _init_raw(self, X: Any, loss: Loss, n: int) -> np.ndarray:
        """Returns where rows start, raw (K, n)."""
        raw = np.repeat(self.baseline_[:, None], n, axis=1)
        if hasattr(self, "init_"):
            ask = self.init_.predict_proba if is_classifier(self) else self.init_.predict
            raw += loss.inverse(np.asarray(ask(X), np.float64))
        return raw

    def _boost(self, loss, grower, y, weight, raw, held):
        factor = 2.0 if loss.name in ("squared", "logistic") else 1.0
        patience = Patience(self.n_iter_no_change, self.tol)
        bagging = self.subsample < 1
        gradient, hessian = np.empty((2, *raw.shape))
        every = np.arange(len(y), dtype=np.int32)
        before = len(self.trees_)
        scores = {"train": [], "oob": [], "improvement": [], "validation": []}
        watched = not in_fold()

        def score(part: np.ndarray) -> float:
            if len(part) == len(y):
                return factor * loss.value(y, raw, weight)
            if not len(part):
                return np.nan
            return factor * loss.value(y[part], raw[:, part], weight[part])

        for t in range(before, self.n_estimators):
            random = np.random.default_rng([self._seed, t])
            rows, outside, start = every, every[:0], np.nan
            if bagging:
                order = random.permutation(len(y)).astype(np.int32)
                size = max(1, int(self.subsample * len(y)))
                rows, outside = np.sort(order[:size]), np.sort(order[size:])
                start = score(outside)
            loss.gradients(y, raw, weight, gradient, hessian)
            parts = (y, raw, weight, gradient, hessian)
            trees, raw_step = self._round(loss, grower, parts, rows, random)
            raw += raw_step
            self.trees_.append(trees)
            scores["train"].append(score(rows) if watched else np.nan)
            if bagging:
                scores["oob"].append(score(outside))
                scores["improvement"].append(start - scores["oob"][-1])
            if held is not None and self._watch(loss, trees, held, scores, patience):
                break
        self._keep(scores, before, patience if held is not None else None)

    def _round(self, loss, grower, parts, rows, random):
        """Grows the K trees of a round; returns them and what they add to raw scores."""
        y, raw, weight, gradient, hessian = parts
        inside = weight
        if len(rows) < len(weight):
            inside = np.zeros_like(weight)
            inside[rows] = weight[rows]
        trees, raw_step = [], np.empty_like(raw)
        for k in range(loss.outputs):
            tree, leaf = grower.grow(gradient[k], weight, rows, int(random.integers(2**62)))
            steps = loss.leaf_values(y, raw, inside, leaf, tree.num_nodes, k)
            if steps is None and not loss.constant_hessian:
                steps = newton_steps(gradient[k], hessian[k], rows, leaf, tree.num_nodes)
                steps *= loss.newton_scale
            if steps is not None:
                tree.value = steps[:, None]
                settle_leaves(tree, grower.shape.monotone)
            tree.value = tree.value * self.learning_rate
            raw_step[k] = tree.value[leaf, 0]
            trees.append(tree)
        return trees, raw_step

    def _watch(self, loss, trees, held, scores, patience) -> bool:
        values, y, weight, raw = held
        predict_raw(_packed([trees]), values, out=raw)
        value = loss.value(y, raw, weight)
        if np.isnan(value):
            raise ValueError(
                f"early stopping needs the value of loss {loss.name!r}; give the callable an "
                "attribute `value`, or set n_iter_no_change=None"
            )
        scores["validation"].append(value)
        return patience.stop(len(self.trees_), value)

    def _keep(self, scores: dict[str, list], before: int, patience: Patience | None) -> None:
        rounds = len(self.trees_)
        if patience is not None and rounds > before:
            rounds = patience.best_round
            past = getattr(self, "validation_score_", np.zeros(0))
            self.validation_score_ = np.append(past, scores["validation"])
        self.trees_ = self.trees_[:rounds]
        self.train_score_ = np.append(self.train_score_, scores["train"])[:rounds]
        if scores["oob"]:
            for name, key in (("oob_scores_", "oob"), ("oob_improvement_", "improvement")):
                past = getattr(self, name, np.full(before, np.nan))
                setattr(self, name, np.append(past, scores[key])[:rounds])
            self.oob_score_ = float(self.oob_scores_[-1])
        self.n_estimators_ = rounds

    def _raw_of(self, values: np.ndarray, start: np.ndarray) -> np.ndarray:
        threads = num_threads(self.n_jobs)
        return predict_raw(_packed(self.trees_), values, out=start, threads=threads)

    def _row_parts(self) -> Any:
        return [tree for trees in self.trees_ for tree in trees], None, self.baseline_

    def _raw(self, X: Any) -> np.ndarray:
        """Returns raw scores, (K, n)."""
        # Without an `init` estimator, which reads the table itself.
        owner = None if hasattr(self, "init_") else getattr(self, "trees_", None)
        row = raw_of_row(self, X, owner, self._row_parts)
        if row is not None:
            return row
        check_is_fitted(self)
        values = self._read(X, reset=False).values
        return self._raw_of(values, self._init_raw(X, self._loss(), len(values)))

    def _staged_raw(self, X: Any) -> Iterator[np.ndarray]:
        values = self._read(X, reset=False).values
        raw = self._init_raw(X, self._loss(), len(values))
        packed, width = _packed(self.trees_), len(self.baseline_)
        for t in range(len(self.trees_)):
            predict_raw(packed, values, begin=t * width, end=(t + 1) * width, out=raw)
            yield raw.copy()

    def apply(self, X: Any) -> np.ndarray:
        """Returns the node in which each row ends, (n, T), or (n, T, K) for several outputs."""
        check_is_fitted(self)
        values = self._read(X, reset=False).values
        nodes = apply(_packed(self.trees_), values, threads=num_threads(self.n_jobs))
        width = len(self.baseline_)
        return nodes if width == 1 else nodes.reshape(len(nodes), -1, width)

    @property
    def feature_importances_(self) -> np.ndarray:
        """Share of each column in the gain of all splits, (p,)."""
        check_is_fitted(self)
        return tree_importances(self.trees_, self.n_features_in_)

    def shap_values(self, X: Any) -> np.ndarray:
        """Returns exact Shapley values of the raw score, (n, p + 1) or (n, K, p + 1).

        The last column is the expected value (plus what an `init` estimator predicts); each
        row sums to the raw score.
        """
        check_is_fitted(self)
        values = self._read(X, reset=False).values
        found = shap_values(self.trees_, values, n_jobs=self.n_jobs)
        start = self._init_raw(X, self._loss(), len(values))
        found[..., -1] += start[0] if len(start) == 1 else start.T
        return found


def _packed(rounds: list[list[Tree]]) -> PackedTrees:
    width = len(rounds[0]) if rounds else 1
    trees = [tree for trees in rounds for tree in trees]
    return pack(trees, group=np.tile(np.arange(width), len(rounds)), outputs=width)
