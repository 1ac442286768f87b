"""One fit of Newton boosting: the rounds, their randomness, what is watched, what is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logit

from paragone.ensemble._binning import MISSING_BIN
from paragone.ensemble._constraints import read_interactions, read_monotone, settle_leaves
from paragone.ensemble._dart import Dropout, Leaves
from paragone.ensemble._early_stopping import Patience
from paragone.ensemble._grow import GrowParams
from paragone.ensemble._growers import make_grower
from paragone.ensemble._input import Features
from paragone.ensemble._journal import Journal
from paragone.ensemble._linear import descend
from paragone.ensemble._loss_kernels import add_leaves
from paragone.ensemble._losses import Loss, make_loss
from paragone.ensemble._metrics import Metric, find_metric
from paragone.ensemble._predict import pack
from paragone.ensemble._sampling import goss_rows, sample_rows
from paragone.ensemble._share import ALONE, Share
from paragone.ensemble._table_bins import apply_table, score_table
from paragone.ensemble._threads import num_threads
from paragone.ensemble._tree import LEAF, Tree

__all__ = ["Training", "Watched", "linear_raw", "newton_loss"]

_POLICIES = {"depthwise": "depth", "lossguide": "leaf", "symmetric": "symmetric"}
_OBJECTIVES = {
    "reg:squarederror": "squared", "reg:absoluteerror": "absolute", "binary:logistic": "logistic",
    "reg:quantileerror": "quantile", "count:poisson": "poisson", "reg:gamma": "gamma",
    "reg:tweedie": "tweedie", "multi:softprob": "softmax", "multi:softmax": "softmax",
    "squared_error": "squared", "absolute_error": "absolute", "log_loss": "logistic",
}  # fmt: skip
_POSITIVE = {"n_estimators": 0, "max_depth": 0, "max_leaves": 0, "reg_lambda": 0, "reg_alpha": 0,
             "gamma": 0, "min_child_weight": 0, "min_samples_leaf": 1, "max_delta_step": 0,
             "cat_smooth": 0, "max_cat_to_onehot": 0, "max_cat_threshold": 1}  # fmt: skip
_SHARES = ("subsample", "colsample_bytree", "colsample_bylevel", "colsample_bynode")


@dataclass(slots=True)
class Watched:
    """A table whose metrics are taken after each round."""

    name: str
    values: Any
    target: np.ndarray
    weight: np.ndarray


def newton_loss(model: Any, num_classes: int | None) -> Loss:
    """Returns the loss of the model's `objective`; softmax takes XGBoost's 2 p (1 - p)."""
    name = model.objective
    if name is None:
        name = "squared" if num_classes is None else "logistic"
    if callable(name):
        return make_loss(name, num_classes=num_classes)
    name = _OBJECTIVES.get(name, name)
    if name == "logistic" and (num_classes or 2) > 2:
        name = "softmax"
    for_classes = name in ("logistic", "softmax", "exponential")
    if for_classes != (num_classes is not None):
        kind = "class labels" if for_classes else "numbers"
        raise ValueError(f"objective={model.objective!r} is for {kind}; use the other estimator")
    extra: dict[str, Any] = {
        "quantile": {"alpha": model.quantile_alpha},
        "huber": {"delta": model.huber_slope},
        "tweedie": {"power": model.tweedie_variance_power},
        "softmax": {"hessian_scale": 2.0},
    }.get(name, {})
    return make_loss(name, num_classes=num_classes, **extra)


def _base(model: Any, loss: Loss, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns the raw score to start from, (K,)."""
    if model.base_score is None:
        return np.asarray(loss.initial(target, weight), np.float64)
    mean = float(model.base_score)
    if loss.name == "logistic":
        if not 0 < mean < 1:
            raise ValueError(f"base_score={mean} is a probability here and must lie in (0, 1)")
        mean = float(logit(mean))
    elif loss.name in ("poisson", "gamma", "tweedie"):
        if not mean > 0:
            raise ValueError(f"base_score={mean} must be > 0 for objective {loss.name!r}")
        mean = float(np.log(mean))
    return np.full(loss.outputs, mean)


def linear_raw(values: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """Returns (K, n): intercept + coef x, a missing value counting as 0."""
    return intercept[:, None] + coef @ np.nan_to_num(values.astype(np.float64), nan=0.0).T


def _check(model: Any) -> None:
    for name, least in _POSITIVE.items():
        if not getattr(model, name) >= least:
            raise ValueError(f"{name}={getattr(model, name)} must be at least {least}")
    for name in _SHARES:
        if not 0 < getattr(model, name) <= 1:
            raise ValueError(f"{name}={getattr(model, name)} must lie in (0, 1]")
    if model.booster not in ("gbtree", "gblinear", "dart"):
        raise ValueError(f"booster={model.booster!r} is none of 'gbtree', 'gblinear', 'dart'")
    if model.grow_policy not in _POLICIES:
        raise ValueError(f"grow_policy={model.grow_policy!r} is none of {sorted(_POLICIES)}")
    if model.sampling_method not in ("uniform", "goss"):
        raise ValueError(f"sampling_method={model.sampling_method!r} is not 'uniform' or 'goss'")
    if not 2 <= model.max_bin <= MISSING_BIN:
        raise ValueError(f"max_bin={model.max_bin} must lie in 2 to {MISSING_BIN}: bins are bytes")
    if model.gradient_bits != 0 and not 2 <= model.gradient_bits <= 16:
        raise ValueError(f"gradient_bits={model.gradient_bits} must lie in 2 to 16, or be 0")
    if model.gradient_bits and (model.tree_method == "exact" or model.booster == "gblinear"):
        raise ValueError("gradient_bits needs histograms: use tree_method='hist' or 'approx'")
    if not model.learning_rate > 0:
        raise ValueError(f"learning_rate={model.learning_rate} must be > 0")


class Training:
    """The state of one fit; `run` does the rounds."""

    def __init__(
        self,
        model: Any,
        features: Features,
        target: np.ndarray,
        weight: np.ndarray,
        loss: Loss,
        watched: list[Watched],
        seed: int,
        start: Any,
        share: Share = ALONE,
        open_journal: Callable[[Training], Journal | None] = lambda training: None,
    ) -> None:
        _check(model)
        self.share, self.open_journal = share, open_journal
        self.journal: Journal | None = None
        self.total = share.total(len(target))
        self.model, self.features, self.target, self.weight = model, features, target, weight
        self.loss, self.watched, self.seed = loss, watched, seed
        self.threads = num_threads(model.n_jobs)
        self.linear = model.booster == "gblinear"
        metrics = model.eval_metric
        listed = metrics if isinstance(metrics, list | tuple) else [metrics]
        self.metrics = [self._metric(metric) for metric in listed]
        self.results: dict[str, dict[str, list[float]]] = {
            table.name: {metric.name: [] for metric in self.metrics} for table in watched
        }
        self.trees: list[list[Tree]] = []
        self.tree_weights: list[float] = []
        outputs, n = loss.outputs, len(target)
        self.base = share.on_root(
            lambda target, weight: _base(model, loss, target, weight), target, weight
        )
        p = features.values.shape[1]
        self.coef, self.intercept = np.zeros((outputs, p)), np.zeros(outputs)
        if start is not None:
            self._continue_from(start)
        self.first_round = start.n_estimators_ if start is not None else 0
        self.rounds_kept = self.first_round
        self.best_round: int | None = None
        self.best_score = np.nan
        self.raw = self._score(features.values)
        self.watched_raw = [self._score(table.values) for table in watched]
        self.gradient, self.hessian = np.empty((outputs, n)), np.empty((outputs, n))

    def _metric(self, metric: Any) -> Metric:
        if metric is None:
            # The loss sees raw scores; `_measure` hands them over.
            return Metric(self.loss.name, self.loss.value, False)
        return find_metric(metric, self.model._classify)

    def _continue_from(self, start: Any) -> None:
        if hasattr(start, "coef_") != self.linear or len(start.base_score_) != len(self.base):
            raise ValueError("cannot continue a model of another booster or number of outputs")
        self.base = start.base_score_.copy()
        self.trees = [list(group) for group in start.trees_]
        self.tree_weights = list(start.tree_weights_)
        if self.linear:
            self.coef, self.intercept = start.coef_.copy(), start.intercept_.copy()
        if start.n_estimators_ > self.model.n_estimators:
            raise ValueError(
                f"n_estimators={self.model.n_estimators} must be at least the "
                f"{start.n_estimators_} rounds that are there; it is the total"
            )

    def _packed(self, trees: list[list[Tree]], weights: list[float]) -> Any:
        outputs = len(self.base)
        flat = [tree for group in trees for tree in group]
        group = np.tile(np.arange(outputs, dtype=np.int32), len(trees))
        return pack(flat, group, np.repeat(weights, outputs), outputs)

    def _score(self, values: np.ndarray) -> np.ndarray:
        out = np.repeat(self.base[:, None], len(values), axis=1)
        if self.linear:
            return out + linear_raw(values, self.coef, self.intercept)
        if not self.trees:
            return out
        packed = self._packed(self.trees, self.tree_weights)
        return score_table(packed, values, out, self.threads)

    def run(self) -> None:
        """Runs the rounds up to `n_estimators`, stops early if asked, keeps the best prefix."""
        step = self._prepare_linear() if self.linear else self._prepare_trees()
        self.journal = self.open_journal(self)
        patience = Patience(self.model.early_stopping_rounds)
        best: Any = None
        last = self.first_round
        for r in range(self.first_round, self.model.n_estimators):
            step(r)
            last = r + 1
            if self.journal is not None:
                self.journal.write(r, self.trees[-1])
            if not self.watched:
                continue
            value = self._measure(r)
            if self.model.early_stopping_rounds is None:
                continue
            if np.isnan(value):
                raise ValueError(
                    f"early stopping: {self.metrics[-1].name!r} is not a number after round {r}; "
                    "give an eval_metric"
                )
            stop = patience.stop(r + 1, value)
            if patience.best_round == r + 1:
                best = list(self.tree_weights), self.coef.copy(), self.intercept.copy()
            if stop:
                break
        self.rounds_kept = last
        if best is not None:
            self.rounds_kept = self.best_round = patience.best_round
            self.best_score = patience.best * self.metrics[-1].sign
            self.tree_weights, self.coef, self.intercept = best
            self.trees = self.trees[: self.best_round]

    def _measure(self, r: int) -> float:
        value = np.nan
        parts = []
        for table, raw in zip(self.watched, self.watched_raw, strict=True):
            for metric in self.metrics:
                found = self._metric_of(metric, table, raw)
                self.results[table.name][metric.name].append(found)
                value = metric.sign * found
                parts.append(f"{table.name}-{metric.name}: {found:.6g}")
        if self.model.verbose and r % int(self.model.verbose) == 0 and self.share.rank == 0:
            print(f"[{r}] " + "  ".join(parts))
        return value

    def _metric_of(self, metric: Metric, table: Watched, raw: np.ndarray) -> float:
        def compute(target: np.ndarray, raw: np.ndarray, weight: np.ndarray) -> float:
            seen = raw if metric.function == self.loss.value else self.loss.transform(raw)
            return metric(target, seen, weight)

        return self.share.on_root(compute, table.target, raw, table.weight)

    def _prepare_linear(self) -> Any:
        if self.features.categorical.any():
            raise ValueError("booster='gblinear' takes numbers only: encode categories (one-hot)")
        model, total = self.model, self.weight.sum()
        if model.feature_selector not in ("cyclic", "shuffle"):
            raise ValueError(f"feature_selector={model.feature_selector!r}: 'cyclic' or 'shuffle'")
        columns = np.ascontiguousarray(np.nan_to_num(self.features.values, nan=0.0).T)
        order = np.arange(len(columns))

        def step(r: int) -> None:
            turn = order
            if model.feature_selector == "shuffle":
                turn = np.random.default_rng([self.seed, r]).permutation(order)
            self.loss.gradients(self.target, self.raw, self.weight, self.gradient, self.hessian)
            for k in range(len(self.base)):
                self.intercept[k] += descend(
                    columns, turn, self.gradient[k], self.hessian[k], self.coef[k],
                    model.reg_lambda * total, model.reg_alpha * total, float(model.learning_rate),
                )  # fmt: skip
            self.raw = self._score(self.features.values)
            self.watched_raw = [self._score(table.values) for table in self.watched]

        return step

    def _prepare_trees(self) -> Any:
        model = self.model
        names = getattr(model, "feature_names_in_", [])
        width = self.features.values.shape[1]
        self.params = GrowParams(
            max_leaves=model.max_leaves,
            max_depth=model.max_depth,
            policy=_POLICIES[model.grow_policy],
            reg_lambda=model.reg_lambda,
            reg_alpha=model.reg_alpha,
            gamma=model.gamma,
            min_child_weight=model.min_child_weight,
            min_samples_leaf=model.min_samples_leaf,
            max_delta_step=model.max_delta_step,
            max_cat_to_onehot=model.max_cat_to_onehot,
            max_cat_threshold=model.max_cat_threshold,
            min_data_per_group=model.min_data_per_group,
            cat_smooth=model.cat_smooth,
            colsample_level=model.colsample_bylevel,
            colsample_node=model.colsample_bynode,
            monotone=read_monotone(model.monotone_constraints, names, self.features.categorical),
            interactions=read_interactions(model.interaction_constraints, names, width),
            learning_rate=model.learning_rate,
            gradient_bits=model.gradient_bits,
            threads=self.threads,
        )
        self.grower = make_grower(
            model.tree_method, self.features, self.weight, model.max_bin, self.params, self.share
        )
        if model.booster == "gbtree":
            return self._add_round
        self.dropout = Dropout(
            model.rate_drop, model.skip_drop, model.one_drop, model.sample_type,
            model.normalize_type, model.learning_rate,
        )  # fmt: skip
        self.dropout.weights = self.tree_weights
        tables = [self.features.values, *(table.values for table in self.watched)]
        self.memories = [Leaves() for _ in tables]
        for group in self.trees:
            packed = self._packed([group], [1.0])
            for memory, values in zip(self.memories, tables, strict=True):
                memory.remember(group, list(apply_table(packed, values, self.threads).T))
        return self._add_dropout_round

    def _grow(self, r: int, raw: np.ndarray) -> tuple[list[Tree], list[np.ndarray]]:
        """Grows one tree an output on the gradients at `raw`, or takes those of the journal."""
        model, loss = self.model, self.loss
        if self.journal is not None and r in self.journal.kept:
            known = self.journal.kept[r]
            nodes = apply_table(self._packed([known], [1.0]), self.features.values, self.threads)
            return known, list(nodes.T)
        generator: Any = None
        if model.subsample < 1 or model.sampling_method == "goss" or model.colsample_bytree < 1:
            # A generator of one's own costs 50 microseconds, a twentieth of a small tree.
            generator = np.random.default_rng([self.seed, r])
        loss.gradients(self.target, raw, self.weight, self.gradient, self.hessian)
        width = self.features.values.shape[1]
        rows, factor = sample_rows(self.total, model.subsample, generator), None
        if model.sampling_method == "goss":
            strength = self.share.everything(np.abs(self.gradient).sum(axis=0))
            rows, factor = goss_rows(strength, model.top_rate, model.other_rate, generator)
        if rows is not None:
            part, first = self.share.part(rows)
            rows, factor = rows[part] - first, None if factor is None else factor[part]
        trees, leaves = [], []
        for k in range(len(raw)):
            gradient, hessian = self.gradient[k], self.hessian[k]
            if factor is not None:
                gradient, hessian = gradient.copy(), hessian.copy()
                gradient[rows] *= factor
                hessian[rows] *= factor
            if model.colsample_bytree < 1:
                drawn = generator.permutation(width)[: max(1, int(model.colsample_bytree * width))]
                self.params.columns = np.sort(drawn).astype(np.int32)
            seed = (self.seed + r * len(raw) + k) % (1 << 62)
            tree, leaf = self.grower.grow(gradient, hessian, rows, self.params, seed)
            if loss.needs_refit:
                self._refit(tree, leaf, raw, rows, k)
            trees.append(tree)
            leaves.append(leaf)
        return trees, leaves

    def _refit(self, tree: Tree, leaf: np.ndarray, raw: np.ndarray, rows: Any, k: int) -> None:
        weight = self.weight
        if rows is not None:
            weight = np.zeros(len(self.weight))
            weight[rows] = self.weight[rows]

        def compute(target: np.ndarray, raw: np.ndarray, weight: np.ndarray, leaf: np.ndarray):
            return self.loss.leaf_values(target, raw, weight, leaf, tree.num_nodes, k)

        best = self.share.on_root(compute, self.target, raw, weight, leaf)
        if best is None:
            return
        ends = tree.feature == LEAF
        tree.value[ends, 0] = self.model.learning_rate * best[ends]
        settle_leaves(tree, self.params.monotone)

    def _add_round(self, r: int) -> None:
        trees, leaves = self._grow(r, self.raw)
        for k, (tree, leaf) in enumerate(zip(trees, leaves, strict=True)):
            add_leaves(leaf, np.ascontiguousarray(tree.value[:, 0]), self.raw[k])
        self.trees.append(trees)
        self.tree_weights.append(1.0)
        if self.watched:
            packed = self._packed([trees], [1.0])
            for table, raw in zip(self.watched, self.watched_raw, strict=True):
                score_table(packed, table.values, raw, self.threads)

    def _add_dropout_round(self, r: int) -> None:
        generator = np.random.default_rng([self.seed, r, 1])
        dropped = self.dropout.draw(generator)
        weights = list(self.tree_weights)
        scores = [self.raw, *self.watched_raw]
        lost = [
            memory.score(dropped, weights, np.zeros_like(raw))
            for memory, raw in zip(self.memories, scores, strict=True)
        ]
        trees, leaves = self._grow(r, self.raw - lost[0])
        _, factor = self.dropout.rescale(dropped)
        self.trees.append(trees)
        self.memories[0].remember(trees, leaves)
        if self.watched:
            packed = self._packed([trees], [1.0])
            for memory, table in zip(self.memories[1:], self.watched, strict=True):
                found = apply_table(packed, table.values, self.threads)
                memory.remember(trees, list(found.T))
        latest = np.array([len(self.trees) - 1])
        for memory, raw, part in zip(self.memories, scores, lost, strict=True):
            raw -= (1.0 - factor) * part
            memory.score(latest, self.tree_weights, raw)
