r"""Gradient boosting: descend the loss in the space of functions, one tree a step.

Friedman's algorithm. From the best constant $F_0$, round t fits a regression tree to the
negative gradient $-\partial L(y_i, F) / \partial F$ at $F_{t-1}(x_i)$ by least squares, which
parts the rows into leaves $R_{j}$, and then takes the best step of the *loss* in each,

$$ \gamma_j = \arg\min_\gamma \sum_{i \in R_j} w_i L(y_i, F_{t-1}(x_i) + \gamma), \qquad
   F_t(x) = F_{t-1}(x) + \nu \sum_j \gamma_j [x \in R_j] , $$

with shrinkage $\nu$: medians for absolute, quantiles for quantile loss, one Newton step for
logistic, softmax (K trees a round) and exponential loss; see `_losses`. With `subsample` < 1
each tree sees its own share of the rows (stochastic gradient boosting), and the rows left out
estimate what the tree gained.

Unlike `NewtonBoosting...` the tree is chosen by the gradient alone and there is no penalty on
leaves; that makes it robust where second derivatives carry no meaning (absolute, quantile,
Huber). `tree_method="exact"` searches every threshold, as scikit-learn's GradientBoosting
does, with the same training scores; "hist" searches up to 255 quantiles of a column, faster.

Cost: O(n p) a round for "hist" after one binning; O(n p d) for "exact" with depth d.

References:
    Friedman (2001), "Greedy function approximation: a gradient boosting machine", Annals of
    Statistics 29, algorithms 1-6; Friedman (2002), "Stochastic gradient boosting", Comput.
    Stat. Data Anal. 38; Ridgeway (2007), the R package gbm (out-of-bag improvement).

Shapes: n rows, p columns, T rounds, K raw scores a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from paragone._core.random import RandomState
from paragone.ensemble._boosted_trees import BoostedTrees
from paragone.ensemble._input import read_target, read_target_classes
from paragone.ensemble._losses import Loss, make_loss

__all__ = ["GradientBoostingClassifier", "GradientBoostingRegressor"]


class GradientBoostingRegressor(RegressorMixin, BoostedTrees):
    r"""Friedman's gradient boosting for regression.

    Prefer it to `NewtonBoostingRegressor` for absolute, quantile and Huber loss, or where
    scikit-learn's GradientBoosting is to be matched.

    Args:
        loss: "squared_error", "absolute_error", "huber", "quantile", "poisson", "gamma",
            "tweedie", or a callable `(y, raw) -> (gradient, hessian)`; see `torch_objective`.
        learning_rate: Shrinkage $\nu$.
        n_estimators: Rounds T.
        subsample: Share of the rows that each round sees, drawn without replacement.
        criterion: Of exact trees: "friedman_mse" or "squared_error"; both order splits alike.
        min_samples_split: Least rows of a node to be split: a number, or a share of the rows.
        min_samples_leaf: Least rows of a leaf: a number, or a share of the rows.
        min_weight_fraction_leaf: Least share of the weight in a leaf.
        max_depth: Levels of splits, or None.
        min_impurity_decrease: Least fall of the mean squared error that a split must bring.
        init: Start: None (best constant), "zero", or an estimator to improve on.
        max_features: Columns tried at a node: number, share, "sqrt", "log2", or None (all).
        max_leaf_nodes: Grow best first up to so many leaves, or None.
        alpha: Level of "quantile", or several levels (then `predict` gives a column each,
            never crossing); quantile of absolute residual that "huber" treats as an outlier's.
        delta: Fixed threshold of "huber"; None to follow `alpha`.
        power: Of "tweedie", between 1 and 2.
        tree_method: "hist" or "exact".
        max_bins: Bins of a column in "hist", at most 255.
        monotonic_cst: +1 (rising), -1 (falling) or 0 for each column, or a dict by name.
        interaction_cst: Sets of columns (indices or names) that may meet on a path; "hist" only.
        categorical_features: "from_dtype", None, a mask, indices or names.
        validation_fraction: Share of rows held out for early stopping.
        n_iter_no_change: End when the held-out loss has not fallen by `tol` for so many
            rounds, and keep the best round; None uses all rows and rounds.
        tol: Least fall that counts.
        warm_start: Let `fit` add rounds to those there are.
        n_jobs: Threads; None for Numba's setting.
        random_state: Seed.

    Attributes:
        trees_: Trees [round][k]; their values include the learning rate.
        baseline_: $F_0$, (K,).
        n_estimators_: Rounds kept.
        train_score_: Loss on the rows of each round's tree (twice it for squared error and
            log loss: the deviance).
        oob_improvement_: What each round gained on the rows it did not see; `subsample` < 1.
        oob_scores_: Loss on these rows after the round.
        validation_score_: Held-out loss, with early stopping.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> GradientBoostingRegressor(loss="huber").fit(X, y).score(X, y) > 0.6
        True
    """

    def __init__(
        self,
        *,
        loss: str | Callable = "squared_error",
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
        alpha: float | Sequence[float] = 0.9,
        delta: float | None = None,
        power: float = 1.5,
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
        super().__init__(
            loss=loss,
            learning_rate=learning_rate,
            n_estimators=n_estimators,
            subsample=subsample,
            criterion=criterion,
            min_samples_split=min_samples_split,
            min_samples_leaf=min_samples_leaf,
            min_weight_fraction_leaf=min_weight_fraction_leaf,
            max_depth=max_depth,
            min_impurity_decrease=min_impurity_decrease,
            init=init,
            max_features=max_features,
            max_leaf_nodes=max_leaf_nodes,
            tree_method=tree_method,
            max_bins=max_bins,
            monotonic_cst=monotonic_cst,
            interaction_cst=interaction_cst,
            categorical_features=categorical_features,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            warm_start=warm_start,
            n_jobs=n_jobs,
            random_state=random_state,
        )
        self.alpha = alpha
        self.delta = delta
        self.power = power

    def _loss(self) -> Loss:
        parameters: dict[Any, dict[str, Any]] = {
            "huber": {"delta": self.delta, "alpha": self.alpha},
            "quantile": {"alpha": self.alpha},
            "tweedie": {"power": self.power},
        }
        key = self.loss if isinstance(self.loss, str) else None
        if key in ("log_loss", "logistic", "softmax", "exponential"):
            raise ValueError(f"loss={key!r} is for classes; use GradientBoostingClassifier")
        return make_loss(self.loss, **parameters.get(key, {}))

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> GradientBoostingRegressor:
        """Fits T rounds, or adds rounds if `warm_start`; returns the estimator."""
        features = self._read(X, reset=True)
        return self._fit(X, features, read_target(y), sample_weight, None)

    def predict(self, X: Any) -> np.ndarray:
        """Returns predictions (n,), or (n, levels) for several quantiles."""
        raw = self._raw(X)
        return self._loss().transform(raw)

    def staged_predict(self, X: Any):
        """Yields `predict` after 1, 2, ... rounds."""
        check_is_fitted(self)
        loss = self._loss()
        return (loss.transform(raw) for raw in self._staged_raw(X))


class GradientBoostingClassifier(ClassifierMixin, BoostedTrees):
    r"""Friedman's gradient boosting for two and more classes.

    Prefer it to `AdaBoostClassifier` when labels may be wrong or probabilities are wanted, and
    to `NewtonBoostingClassifier` where scikit-learn's GradientBoosting is to be matched.

    Args:
        loss: "log_loss", "exponential" (two classes), or a callable
            `(y, raw) -> (gradient, hessian)`; see `torch_objective`.
        learning_rate: Shrinkage $\nu$.
        n_estimators: Rounds T, of one tree (two classes) or K trees.
        subsample: Share of the rows that each round sees, drawn without replacement.
        criterion: Of exact trees: "friedman_mse" or "squared_error"; both order splits alike.
        min_samples_split: Least rows of a node to be split: a number, or a share of the rows.
        min_samples_leaf: Least rows of a leaf: a number, or a share of the rows.
        min_weight_fraction_leaf: Least share of the weight in a leaf.
        max_depth: Levels of splits, or None.
        min_impurity_decrease: Least fall of the mean squared error that a split must bring.
        init: Start: None (class shares), "zero", or a classifier to improve on.
        max_features: Columns tried at a node: number, share, "sqrt", "log2", or None (all).
        max_leaf_nodes: Grow best first up to so many leaves, or None.
        tree_method: "hist" or "exact".
        max_bins: Bins of a column in "hist", at most 255.
        monotonic_cst: +1 (second class likelier as the column rises), -1 or 0 for each
            column, or a dict by name; two classes only.
        interaction_cst: Sets of columns (indices or names) that may meet on a path; "hist" only.
        categorical_features: "from_dtype", None, a mask, indices or names.
        validation_fraction: Share of each class held out for early stopping.
        n_iter_no_change: End when the held-out loss has not fallen by `tol` for so many
            rounds, and keep the best round; None uses all rows and rounds.
        tol: Least fall that counts.
        warm_start: Let `fit` add rounds to those there are.
        n_jobs: Threads; None for Numba's setting.
        random_state: Seed.

    Attributes:
        classes_: Labels.
        trees_: Trees [round][k]; their values include the learning rate.
        baseline_: $F_0$, (K,).
        n_estimators_: Rounds kept.
        train_score_: Loss on the rows of each round's tree (twice it for two classes' log
            loss: the deviance).
        oob_improvement_: What each round gained on the rows it did not see; `subsample` < 1.
        oob_scores_: Loss on these rows after the round.
        validation_score_: Held-out loss, with early stopping.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> GradientBoostingClassifier(n_estimators=20).fit(X, y).score(X, y) > 0.95
        True
    """

    def _loss(self) -> Loss:
        allowed = ("log_loss", "logistic", "softmax", "exponential")
        if isinstance(self.loss, str) and self.loss not in allowed:
            raise ValueError(f"loss={self.loss!r} is none of {allowed}, nor a callable")
        return make_loss(self.loss, num_classes=len(self.classes_))

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> GradientBoostingClassifier:
        """Fits T rounds, or adds rounds if `warm_start`; returns the estimator."""
        features = self._read(X, reset=True)
        codes, classes = read_target_classes(y)
        if len(classes) < 2:
            raise ValueError(f"y has one class, {classes[0]!r}; boosting needs two or more")
        known = getattr(self, "classes_", classes)
        if self.warm_start and not np.array_equal(known, classes):
            raise ValueError(
                f"warm_start: y has the classes {classes.tolist()}, the rounds so far were "
                f"fitted on {known.tolist()}; set warm_start=False to begin anew"
            )
        self.classes_, self.n_classes_ = classes, len(classes)
        return self._fit(X, features, codes.astype(np.float64), sample_weight, codes)

    def _scores(self, raw: np.ndarray) -> np.ndarray:
        return raw[0] if len(raw) == 1 else raw.T

    def decision_function(self, X: Any) -> np.ndarray:
        """Returns raw scores, (n,) for two classes, else (n, K)."""
        return self._scores(self._raw(X))

    def staged_decision_function(self, X: Any):
        """Yields `decision_function` after 1, 2, ... rounds."""
        check_is_fitted(self)
        return (self._scores(raw) for raw in self._staged_raw(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns probabilities of the classes, (n, classes)."""
        raw = self._raw(X)
        return self._loss().transform(raw)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Returns the logarithm of `predict_proba`."""
        return np.log(np.maximum(self.predict_proba(X), np.finfo(np.float64).tiny))

    def staged_predict_proba(self, X: Any):
        """Yields `predict_proba` after 1, 2, ... rounds."""
        check_is_fitted(self)
        loss = self._loss()
        return (loss.transform(raw) for raw in self._staged_raw(X))

    def predict(self, X: Any) -> np.ndarray:
        """Returns the likeliest label, (n,)."""
        share = self.predict_proba(X)
        return self.classes_[share.argmax(axis=1)]

    def staged_predict(self, X: Any):
        """Yields `predict` after 1, 2, ... rounds."""
        check_is_fitted(self)
        return (self.classes_[p.argmax(axis=1)] for p in self.staged_predict_proba(X))
