r"""Newton boosting: each tree is one Newton step of the whole model in the space of functions.

With the raw score $F$ so far, $g_i$ and $h_i$ the first and second derivatives of the loss in
$F(x_i)$, a new tree $f$ with leaf weights $w_1 \dots w_T$ minimises

$$ \sum_i \big[ g_i f(x_i) + \tfrac12 h_i f(x_i)^2 \big] + \gamma T
   + \tfrac{\lambda}{2} \sum_j w_j^2 + \alpha \sum_j |w_j| , $$

whose leaves are $w_j = -T_\alpha(G_j) / (H_j + \lambda)$ with $G_j, H_j$ the sums over the leaf's
rows and $T_\alpha$ the soft threshold; $F \leftarrow F + \eta f$. A split is worth what it takes
off the objective (`_split`), so structure, leaf values and regularisation follow from one formula
for every twice differentiable loss. (Friedman's boosting, `gradient_boosting`, fits the tree to
$-g$ by least squares and corrects the leaves afterwards.) Absolute, quantile and Huber losses
have no useful second derivative: their leaves are refitted to the residuals' median or quantile.

Columns are binned once (`_binning`), splits are read off integer histograms (`_histogram`), so a
round costs O(n p depth / 2) and gives the same bits for any number of threads.

Choices where peers differ: the softmax's second derivative is $2 p (1 - p)$ (XGBoost); `gamma` is
held against twice the decrease of the objective (XGBoost), at once by `hist` and `approx`, from
the bottom up by `exact`; missing values go to the side that gained more, or, at a node that saw
none in training, to the child with the larger sum of second derivatives.

References:
    Chen & Guestrin (2016), "XGBoost: a scalable tree boosting system", eq. 2-7.
    Ke et al. (2017), "LightGBM" (leaf-wise growth, GOSS). Friedman (2001), "Greedy function
    approximation", algorithm 3 and 4 (leaves of absolute and Huber loss).
    Shi et al. (2022), "Quantized training of gradient boosting decision trees" (few bits).
    Vinayak & Gilad-Bachrach (2015), "DART".

Symbols: n rows, p columns, K outputs, G and H sums of g and h, eta the learning rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin

from paragone.ensemble._input import read_target, read_target_classes
from paragone.ensemble._newton import NewtonBooster
from paragone.ensemble._plan import Plan, unify_classes
from paragone.ensemble._share import ALONE, Share

__all__ = ["NewtonBoostingClassifier", "NewtonBoostingRegressor"]


class NewtonBoostingRegressor(RegressorMixin, NewtonBooster):
    r"""Second-order gradient boosting for numbers, with XGBoost's parameters.

    Prefer it to `RandomForestRegressor` when accuracy matters more than freedom from tuning, and
    to `GradientBoostingRegressor` for speed, regularisation, constraints and missing values.

    Args:
        n_estimators: Rounds (the total, also when continuing).
        learning_rate: Shrinkage eta of each tree.
        max_depth: Splits on a path; 0 for no limit.
        max_leaves: Leaves of a tree; 0 for no limit.
        grow_policy: "depthwise", "lossguide" (largest gain first) or "symmetric".
        objective: "squared", "absolute", "huber", "quantile", "poisson", "gamma", "tweedie",
            XGBoost's names for these, a callable `(y, raw) -> (gradient, hessian)`, or a
            `torch_objective`. None is "squared".
        quantile_alpha: Level of the quantile loss, or several: then predictions are (n, levels)
            and do not cross.
        huber_slope: Where the Huber loss becomes linear.
        tweedie_variance_power: 1 (Poisson) to 2 (gamma).
        base_score: Prediction to start from; None is the best constant.
        booster: "gbtree", "dart" (drops trees while fitting) or "gblinear" (no trees).
        tree_method: "hist", "approx" (bins anew per tree, weighted by h) or "exact".
        max_bin: Bins a column, up to 255.
        gradient_bits: Bits of a row's derivatives in the histograms, 2 to 16, rounded at random
            (Shi et al. 2022); 0 takes as many as fit. Leaves use unrounded sums in any case.
        reg_lambda: L2 penalty on leaf weights (or coefficients).
        reg_alpha: L1 penalty.
        gamma: Least gain of a split.
        min_child_weight: Least sum of second derivatives in a leaf.
        min_samples_leaf: Least number of rows in a leaf, exact.
        max_delta_step: Largest absolute leaf weight before shrinkage; 0 for no limit.
        subsample: Share of rows drawn without replacement for each tree.
        sampling_method: "uniform", or "goss" (keep rows with large gradients).
        top_rate: Share of rows that GOSS keeps.
        other_rate: Share that it draws from the rest.
        colsample_bytree: Share of columns drawn for each tree.
        colsample_bylevel: Share of those drawn for each depth.
        colsample_bynode: Share of those drawn for each node.
        monotone_constraints: +1, -1 or 0 for each column, or a mapping; never violated.
        interaction_constraints: Sets of columns that may meet on a path.
        categorical_features: "from_dtype", None, a mask, indices or names.
        max_cat_to_onehot: Columns with so few categories split one against the rest.
        max_cat_threshold: Most categories on the smaller side of a split.
        min_data_per_group: Least rows of a group of categories.
        cat_smooth: Shrinks the order of rare categories.
        rate_drop: Share of trees dropped (dart).
        skip_drop: Chance of dropping none (dart).
        one_drop: Whether at least one tree is dropped (dart).
        sample_type: "uniform" or "weighted" (dart).
        normalize_type: "tree" or "forest" (dart).
        feature_selector: "cyclic" or "shuffle" (gblinear).
        eval_metric: "rmse", "mae", a callable `(y, prediction)` to be minimised, or several;
            None is the loss. The last one on the last set stops early.
        early_stopping_rounds: Rounds without improvement before the end; the best rounds are
            kept. Without `eval_set` a tenth of the rows is held out.
        validation_fraction: Share of rows to hold out and watch.
        warm_start: Whether a second `fit` adds rounds.
        n_jobs: Threads; None is Numba's setting. Does not change the model.
        random_state: Seed of all sampling.
        verbose: Print every so many rounds.

    Attributes:
        trees_: Trees, by round and output; their values include the learning rate.
        tree_weights_: (rounds,), 1 except for dart.
        base_score_: (K,), raw score to start from.
        coef_: (K, p) of gblinear.
        intercept_: (K,) of gblinear.
        n_estimators_: Rounds kept.
        best_iteration_: Index of the last round kept by early stopping.
        best_score_: Its metric.
        evals_result_: Metric values by set, metric and round.

    Example:
        >>> X = np.linspace(0, 1, 200)[:, None]
        >>> model = NewtonBoostingRegressor(n_estimators=30).fit(X, X[:, 0] > 0.5)
        >>> model.predict([[0.2], [0.8]]).round(2)
        array([0., 1.])
    """

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        eval_set: Any = None,
        sample_weight_eval_set: Any = None,
        init_model: NewtonBooster | None = None,
        process_group: Any = None,
        timeout: float = 60.0,
        checkpoint: str | PathLike[str] | None = None,
    ) -> NewtonBoostingRegressor:
        """Fits the model.

        Args:
            X: Table (n, p): NumPy, pandas, polars, SciPy sparse; NaN is missing.
            y: Targets (n,).
            sample_weight: Weights (n,), >= 0.
            eval_set: A pair (X, y) or a list of pairs to watch.
            sample_weight_eval_set: Weights of each pair.
            init_model: A fitted model to continue.
            process_group: Fit together with other processes, each calling `fit` with its own
                rows: True for all processes of `torch.distributed`, or one of its groups. All
                get the model that one process would fit to all rows, in the order of ranks, bit
                for bit; see `paragone.ensemble.distributed`.
            timeout: Seconds to wait for another process before `LostWorkerError`.
            checkpoint: File that takes every finished round; if it has rounds of this very fit,
                they are taken from it.

        Raises:
            LostWorkerError: A process ended or hangs; its `model` has the finished rounds.
        """
        plan = Plan(process_group, timeout, checkpoint)
        self._fit(X, y, sample_weight, eval_set, sample_weight_eval_set, init_model, plan)
        return self

    def _read_y(self, y: Any, reset: bool, share: Share = ALONE) -> np.ndarray:
        return share.agree("reading y", lambda: read_target(y))

    def predict(
        self,
        X: Any,
        *,
        output_margin: bool = False,
        iteration_range: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """Returns predictions (n,), or (n, K) for several quantiles.

        Args:
            X: Table (n, p).
            output_margin: Return the raw score instead.
            iteration_range: Use rounds begin to end only.
        """
        raw = self._raw(X, iteration_range)
        if output_margin:
            return raw[0] if len(raw) == 1 else np.ascontiguousarray(raw.T)
        return self._loss.transform(raw)

    def staged_predict(self, X: Any) -> Iterator[np.ndarray]:
        """Yields the prediction after each round."""
        for raw in self._staged(X):
            yield self._loss.transform(raw.copy())


class NewtonBoostingClassifier(ClassifierMixin, NewtonBooster):
    r"""Second-order gradient boosting for classes of any labels, with XGBoost's parameters.

    One tree a round for two classes (logistic loss), K trees for K classes (softmax). Prefer it
    to `RandomForestClassifier` when good probabilities and accuracy matter more than freedom from
    tuning, and to `AdaBoostClassifier` when labels are noisy.

    Args:
        n_estimators: Rounds (the total, also when continuing).
        learning_rate: Shrinkage eta of each tree.
        max_depth: Splits on a path; 0 for no limit.
        max_leaves: Leaves of a tree; 0 for no limit.
        objective: "logistic", "softmax", "exponential" (two classes), XGBoost's names for
            these, a callable `(y, raw) -> (gradient, hessian)` on class codes, or a
            `torch_objective`. None is logistic or softmax.
        base_score: Probability (two classes) or raw score to start from.
        eval_metric: "logloss", "error", "auc", a callable, or several; None is the loss.

    All other parameters and attributes: see `NewtonBoostingRegressor`.

    Attributes:
        classes_: Labels, sorted.

    Example:
        >>> X = np.linspace(0, 1, 200)[:, None]
        >>> y = np.where(X[:, 0] > 0.5, "b", "a")
        >>> model = NewtonBoostingClassifier(n_estimators=30).fit(X, y)
        >>> model.predict([[0.2], [0.8]])
        array(['a', 'b'], dtype='<U1')
    """

    _classify = True

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        eval_set: Any = None,
        sample_weight_eval_set: Any = None,
        init_model: NewtonBooster | None = None,
        process_group: Any = None,
        timeout: float = 60.0,
        checkpoint: str | PathLike[str] | None = None,
    ) -> NewtonBoostingClassifier:
        """Fits the model; see `NewtonBoostingRegressor.fit`. `y` holds labels of any type."""
        plan = Plan(process_group, timeout, checkpoint)
        self._fit(X, y, sample_weight, eval_set, sample_weight_eval_set, init_model, plan)
        return self

    def _read_y(self, y: Any, reset: bool, share: Share = ALONE) -> np.ndarray:
        codes, classes = share.agree("reading y", lambda: read_target_classes(y))
        if reset:
            everyone = unify_classes(classes, share)
            if len(everyone) < 2:
                raise ValueError(
                    f"y holds 1 class only, {everyone[0]!r}; a classifier needs at least 2"
                )
            self.classes_ = everyone
        share.agree("reading y", lambda: self._check_known(classes))
        return np.searchsorted(self.classes_, classes)[codes].astype(np.float64)

    def _check_known(self, classes: np.ndarray) -> None:
        known = np.isin(classes, self.classes_)
        if not known.all():
            raise ValueError(f"labels {classes[~known].tolist()} are not among the fitted classes")

    def _take_labels(self, start: Any) -> None:
        self.classes_ = start.classes_

    def predict_proba(
        self, X: Any, *, iteration_range: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Returns class probabilities (n, classes), in the order of `classes_`."""
        raw = self._raw(X, iteration_range)
        return self._loss.transform(raw)

    def predict(
        self,
        X: Any,
        *,
        output_margin: bool = False,
        iteration_range: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """Returns labels (n,), or raw scores (n,) or (n, classes) with `output_margin`."""
        raw = self._raw(X, iteration_range)
        if output_margin:
            return raw[0] if len(raw) == 1 else np.ascontiguousarray(raw.T)
        return self.classes_[self._loss.transform(raw).argmax(axis=1)]

    def decision_function(self, X: Any) -> np.ndarray:
        """Returns raw scores: (n,) for two classes, else (n, classes)."""
        return self.predict(X, output_margin=True)

    def staged_predict_proba(self, X: Any) -> Iterator[np.ndarray]:
        """Yields the probabilities after each round."""
        for raw in self._staged(X):
            yield self._loss.transform(raw.copy())

    def staged_predict(self, X: Any) -> Iterator[np.ndarray]:
        """Yields the labels after each round."""
        for share in self.staged_predict_proba(X):
            yield self.classes_[share.argmax(axis=1)]
