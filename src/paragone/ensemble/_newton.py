"""The engine of Newton boosting: reads the data, runs the rounds, keeps the best ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from paragone._core.random import RandomState, as_generator
from paragone.ensemble._early_stopping import holdout
from paragone.ensemble._external import FromFiles
from paragone.ensemble._importance import tree_importances
from paragone.ensemble._input import Features, read_features, read_weights
from paragone.ensemble._one_row import raw_of_row
from paragone.ensemble._plan import Plan, check_same, check_shared, unify_features
from paragone.ensemble._predict import apply, pack, predict_raw
from paragone.ensemble._rounds import Training, Watched, linear_raw, newton_loss
from paragone.ensemble._serialize import JsonModel
from paragone.ensemble._shap import linear_shap, shap_interactions, shap_values
from paragone.ensemble._share import ALONE, LostWorkerError, Share
from paragone.ensemble._threads import num_threads
from paragone.ensemble._xgboost_format import XgboostModel

__all__ = ["NewtonBooster"]


class NewtonBooster(FromFiles, JsonModel, XgboostModel, BaseEstimator):
    """What the classifier and the regressor share; see their module for every parameter."""

    _classify = False
    classes_: np.ndarray

    def __init__(
        self,
        *,
        n_estimators: int = 100,
        learning_rate: float = 0.3,
        max_depth: int = 6,
        max_leaves: int = 0,
        grow_policy: str = "depthwise",
        objective: str | Callable | None = None,
        quantile_alpha: float | Sequence[float] = 0.5,
        huber_slope: float = 1.0,
        tweedie_variance_power: float = 1.5,
        base_score: float | None = None,
        booster: str = "gbtree",
        tree_method: str = "hist",
        max_bin: int = 255,
        gradient_bits: int = 0,
        reg_lambda: float = 1.0,
        reg_alpha: float = 0.0,
        gamma: float = 0.0,
        min_child_weight: float = 1.0,
        min_samples_leaf: int = 1,
        max_delta_step: float = 0.0,
        subsample: float = 1.0,
        sampling_method: str = "uniform",
        top_rate: float = 0.2,
        other_rate: float = 0.1,
        colsample_bytree: float = 1.0,
        colsample_bylevel: float = 1.0,
        colsample_bynode: float = 1.0,
        monotone_constraints: Sequence[int] | Mapping[Any, int] | str | None = None,
        interaction_constraints: Sequence[Sequence[Any]] | None = None,
        categorical_features: str | Sequence[Any] | np.ndarray | None = "from_dtype",
        max_cat_to_onehot: int = 4,
        max_cat_threshold: int = 64,
        min_data_per_group: int = 1,
        cat_smooth: float = 10.0,
        rate_drop: float = 0.0,
        skip_drop: float = 0.0,
        one_drop: bool = False,
        sample_type: str = "uniform",
        normalize_type: str = "tree",
        feature_selector: str = "cyclic",
        eval_metric: str | Callable | Sequence[str | Callable] | None = None,
        early_stopping_rounds: int | None = None,
        validation_fraction: float | None = None,
        warm_start: bool = False,
        n_jobs: int | None = None,
        random_state: RandomState = None,
        verbose: int = 0,
    ) -> None:
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.max_depth = max_depth
        self.max_leaves = max_leaves
        self.grow_policy = grow_policy
        self.objective = objective
        self.quantile_alpha = quantile_alpha
        self.huber_slope = huber_slope
        self.tweedie_variance_power = tweedie_variance_power
        self.base_score = base_score
        self.booster = booster
        self.tree_method = tree_method
        self.max_bin = max_bin
        self.gradient_bits = gradient_bits
        self.reg_lambda = reg_lambda
        self.reg_alpha = reg_alpha
        self.gamma = gamma
        self.min_child_weight = min_child_weight
        self.min_samples_leaf = min_samples_leaf
        self.max_delta_step = max_delta_step
        self.subsample = subsample
        self.sampling_method = sampling_method
        self.top_rate = top_rate
        self.other_rate = other_rate
        self.colsample_bytree = colsample_bytree
        self.colsample_bylevel = colsample_bylevel
        self.colsample_bynode = colsample_bynode
        self.monotone_constraints = monotone_constraints
        self.interaction_constraints = interaction_constraints
        self.categorical_features = categorical_features
        self.max_cat_to_onehot = max_cat_to_onehot
        self.max_cat_threshold = max_cat_threshold
        self.min_data_per_group = min_data_per_group
        self.cat_smooth = cat_smooth
        self.rate_drop = rate_drop
        self.skip_drop = skip_drop
        self.one_drop = one_drop
        self.sample_type = sample_type
        self.normalize_type = normalize_type
        self.feature_selector = feature_selector
        self.eval_metric = eval_metric
        self.early_stopping_rounds = early_stopping_rounds
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        return tags

    def _read_y(self, y: Any, reset: bool, share: Share = ALONE) -> np.ndarray:
        raise NotImplementedError

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        eval_set: Any,
        sample_weight_eval_set: Any,
        init_model: Any,
        plan: Plan,
    ) -> None:
        with plan.sharing() as share:
            self._fit_shared(
                X, y, sample_weight, eval_set, sample_weight_eval_set, init_model, plan, share
            )

    def _fit_shared(
        self, X: Any, y: Any, sample_weight: Any, eval_set: Any, sample_weight_eval_set: Any,
        init_model: Any, plan: Plan, share: Share,
    ) -> None:  # fmt: skip
        check_shared(self, share)
        start = init_model
        if start is None and self.warm_start and hasattr(self, "base_score_"):
            start = self
        if start is not None and start is not self:
            check_is_fitted(start, "base_score_")
            self._categories_ = start._categories_
            self._take_labels(start)
        features = share.agree("reading X", lambda: read_features(
            self, X, reset=start is None, categorical_features=self.categorical_features
        ))  # fmt: skip
        unify_features(self, features, share, start is None)
        if start is not None and start is not self:
            self.n_features_in_ = start.n_features_in_
        target = self._read_y(y, start is None, share)
        weight = share.agree(
            "reading y and sample_weight",
            lambda: _weights_of(features.values, target, sample_weight),
        )
        watched = self._read_eval_set(eval_set, sample_weight_eval_set, share)
        seed = self._seed(plan, share)
        if self._holds_out(watched):
            features, target, weight, held = self._hold_out(features, target, weight, seed, share)
            watched = [held]
        features, target, weight = _with_weight(features, target, weight)
        self._train(features, target, weight, watched, seed, start, share, plan)

    def _seed(self, plan: Plan, share: Share) -> int:
        seed = int(as_generator(self.random_state).integers(2**62))

        def known() -> int | None:
            return plan.known_seed() if self.random_state is None else None

        kept = share.objects(share.agree("reading the checkpoint", known))
        return next((one for one in kept if one is not None), share.on_root(lambda: seed))

    def _train(
        self,
        features: Features,
        target: np.ndarray,
        weight: np.ndarray,
        watched: list[Watched],
        seed: int,
        start: Any,
        share: Share,
        plan: Plan,
    ) -> None:
        """Runs the rounds on what was read, and takes over the result."""
        loss = newton_loss(self, len(self.classes_) if self._classify else None)
        share.agree("checking y", lambda: loss.check(target))
        training = Training(
            self, features, target, weight, loss, watched, seed, start, share, plan.journal
        )
        try:
            training.run()
        except LostWorkerError as error:
            training.rounds_kept = error.rounds = len(training.trees)
            self._take(training)
            error.model = self
            raise
        self._take(training)

    def _take(self, training: Training) -> None:
        self._loss = training.loss
        self.base_score_ = training.base
        self.trees_ = training.trees
        self.tree_weights_ = np.array(training.tree_weights)
        self.n_estimators_ = training.rounds_kept
        self.evals_result_ = training.results
        if training.linear:
            self.coef_, self.intercept_ = training.coef, training.intercept
        else:
            for name in ("coef_", "intercept_"):
                vars(self).pop(name, None)
        if training.best_round is not None:
            self.best_iteration_ = training.best_round - 1
            self.best_score_ = training.best_score
        self._repack()

    def _take_labels(self, start: Any) -> None:
        """Takes over the class labels of the model to continue."""

    def _holds_out(self, watched: list[Watched]) -> bool:
        if self.validation_fraction is not None:
            return True
        return self.early_stopping_rounds is not None and not watched

    def _hold_out(
        self, features: Features, target: np.ndarray, weight: np.ndarray, seed: int, share: Share
    ) -> tuple[Features, np.ndarray, np.ndarray, Watched]:
        train, held = self._parted(target, seed, share)
        kept = Features(features.values[train], features.categorical, features.categories)
        apart = Watched("validation_0", features.values[held], target[held], weight[held])
        return kept, target[train], weight[train], apart

    def _parted(self, target: np.ndarray, seed: int, share: Share) -> tuple[np.ndarray, np.ndarray]:
        """Returns which rows of this process to train on and which to watch."""
        part = 0.1 if self.validation_fraction is None else self.validation_fraction
        random = np.random.RandomState(seed % 2**32)
        total = share.total(len(target))
        codes = share.everything(target) if self._classify else None
        rows = []
        for some in holdout(total, part, random, codes):
            inside, first = share.part(some)
            rows.append(some[inside] - first)
        return rows[0], rows[1]

    def _read_eval_set(self, eval_set: Any, weights: Any, share: Share) -> list[Watched]:
        pairs = [eval_set] if isinstance(eval_set, tuple) else list(eval_set or [])
        check_same("number of eval_set tables", len(pairs), share)
        weights = [None] * len(pairs) if weights is None else list(weights)
        if len(weights) != len(pairs):
            raise ValueError(
                f"sample_weight_eval_set has {len(weights)} entries for {len(pairs)} sets"
            )
        watched = []
        for i, ((table, y), weight) in enumerate(zip(pairs, weights, strict=True)):
            name = f"validation_{i}"
            values = share.agree(
                f"reading {name}",
                lambda table=table: read_features(self, table, reset=False).values,
            )
            target = self._read_y(y, False, share)
            weight = share.agree(
                f"reading {name}",
                lambda args=(values, target, weight): _weights_of(*args),
            )
            watched.append(Watched(name, values, target, weight))
        return watched

    def _repack(self) -> None:
        trees = [tree for group in self.trees_ for tree in group]
        outputs = len(self.base_score_)
        group = np.tile(np.arange(outputs, dtype=np.int32), len(self.trees_))
        self._packed = pack(trees, group, np.repeat(self.tree_weights_, outputs), outputs)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())  # pyright: ignore
        state.pop("_packed", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # pyright: ignore[reportAttributeAccessIssue]
        if "trees_" in state:
            self._repack()

    def _row_parts(self) -> Any:
        trees = [tree for group in self.trees_ for tree in group]
        return trees, np.repeat(self.tree_weights_, len(self.base_score_)), self.base_score_

    def _values(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "base_score_")
        return read_features(self, X, reset=False).values

    def _raw(
        self, X: Any, iteration_range: tuple[int, int] | None = None, base: bool = True
    ) -> np.ndarray:
        """Returns the raw score (K, n) of rounds begin to end; (0, 0) is all of them."""
        if iteration_range is None and base:
            row = raw_of_row(self, X, getattr(self, "trees_", None), self._row_parts)
            if row is not None:
                return row
        values = self._values(X)
        start = self.base_score_ if base else np.zeros_like(self.base_score_)
        if hasattr(self, "coef_"):
            if iteration_range not in (None, (0, 0)):
                raise ValueError("iteration_range needs trees; a linear model has no rounds")
            return start[:, None] + linear_raw(values, self.coef_, self.intercept_)
        begin, end = self._range(iteration_range)
        outputs = len(start)
        out = np.repeat(start[:, None], len(values), axis=1)
        return predict_raw(
            self._packed, values, begin=begin * outputs, end=end * outputs, out=out,
            threads=num_threads(self.n_jobs),
        )  # fmt: skip

    def _range(self, iteration_range: tuple[int, int] | None) -> tuple[int, int]:
        rounds = len(self.trees_)
        begin, end = (0, 0) if iteration_range is None else iteration_range
        end = rounds if (begin, end) == (0, 0) else end
        if not 0 <= begin <= end <= rounds:
            raise ValueError(f"iteration_range={iteration_range} is not within {rounds} rounds")
        return begin, end

    def _staged(self, X: Any) -> Iterator[np.ndarray]:
        values = self._values(X)
        if hasattr(self, "coef_"):
            raise ValueError("staged predictions need trees; a linear model has no rounds")
        outputs = len(self.base_score_)
        raw = np.repeat(self.base_score_[:, None], len(values), axis=1)
        for r in range(len(self.trees_)):
            predict_raw(
                self._packed, values, begin=r * outputs, end=(r + 1) * outputs, out=raw,
                threads=num_threads(self.n_jobs),
            )  # fmt: skip
            yield raw

    def apply(self, X: Any) -> np.ndarray:
        """Returns int32 (n, trees): the node of each tree in which each row ends.

        The trees of a round, one per output, stand next to each other.
        """
        values = self._values(X)
        return apply(self._packed, values, threads=num_threads(self.n_jobs))

    def shap_values(self, X: Any) -> np.ndarray:
        """Returns exact Shapley values of the raw score, (n, p + 1) or (n, K, p + 1).

        The last column is the expected value; a row sums to its raw score.
        """
        values = self._values(X)
        if hasattr(self, "coef_"):
            return linear_shap(values, self.coef_, self.base_score_ + self.intercept_)
        return shap_values(
            self.trees_, values, scale=self.tree_weights_, baseline=self.base_score_,
            n_jobs=self.n_jobs,
        )  # fmt: skip

    def shap_interactions(self, X: Any) -> np.ndarray:
        """Returns SHAP interaction values, (n, p + 1, p + 1) or (n, K, p + 1, p + 1)."""
        values = self._values(X)
        if hasattr(self, "coef_"):
            raise ValueError("a linear model has no interactions; use shap_values")
        return shap_interactions(
            self.trees_, values, scale=self.tree_weights_, baseline=self.base_score_,
            n_jobs=self.n_jobs,
        )  # fmt: skip

    @property
    def feature_importances_(self) -> np.ndarray:
        """Share of each column in the total gain of all splits (linear: in sum of |coef|)."""
        check_is_fitted(self, "base_score_")
        if hasattr(self, "coef_"):
            size = np.abs(self.coef_).sum(axis=0)
            return size / size.sum() if size.sum() > 0 else size
        return tree_importances(self.trees_, self.n_features_in_)


def _weights_of(values: np.ndarray, target: np.ndarray, sample_weight: Any) -> np.ndarray:
    check_consistent_length(values, target)
    return read_weights(sample_weight, len(target))


def _with_weight(
    features: Features, target: np.ndarray, weight: np.ndarray
) -> tuple[Features, np.ndarray, np.ndarray]:
    """Leaves out rows of weight 0: they may place no bin edge and count in no leaf."""
    held = weight > 0
    if held.all():
        return features, target, weight
    kept = Features(features.values[held], features.categorical, features.categories)
    return kept, target[held], weight[held]
