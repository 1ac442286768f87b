r"""Random forests: many full trees, each on a bootstrap sample, with few columns tried a node.

The mean of B equally distributed trees of variance $\sigma^2$ and correlation $\rho$ has variance

$$ \rho \sigma^2 + \frac{1 - \rho}{B} \sigma^2 , $$

so trees are grown to have little bias (no pruning) and made unlike: each sees a bootstrap
sample of the rows and, at every node, a fresh random choice of columns. Rows that a tree did
not see (about 37 %) give an error estimate for free: the out-of-bag score.

Trees by Gini impurity or least squares are grown in the caches (`_cart_grow`), the others by the
plain kernels; a stored forest keeps only what does not follow from its leaves (`_forest_state`).

Cost: fit $O(B\, n\, m \log n)$ with m columns tried a node; predict $O(B \cdot \text{depth})$ a
row; memory $O(B n)$ nodes.

References:
    Breiman (2001), "Random forests", Machine Learning 45, algorithm Forest-RI and section 3.1.
    Geurts, Ernst, Wehenkel (2006), "Extremely randomized trees", for `splitter="random"`.
    Meinshausen (2006), "Quantile regression forests", JMLR 7, eq. 4-6, for `predict_quantiles`.

B (T in shapes) trees, n rows, p columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.validation import check_is_fitted

from paragone._core.random import RandomState
from paragone.ensemble._bootstrap import RowSampler
from paragone.ensemble._cart_model import ClassVotes, Problem, class_weights
from paragone.ensemble._forest import Forest, score_left_out

__all__ = ["RandomForestClassifier", "RandomForestRegressor"]


class RandomForestClassifier(ClassVotes, ClassifierMixin, Forest):
    r"""A random forest for classification; averages class shares, does not vote.

    Prefer it to boosting when nothing should be tuned, when labels are noisy, or when an
    out-of-bag estimate or proximities are wanted; boosting is mostly more exact and smaller.
    It differs from scikit-learn's forest in that columns constant in a node do not count as
    tried, that whole-number weights are frequencies (weight 2 is the row twice), and that
    categories, data frames and histogram search are taken.

    Args:
        n_estimators: Number of trees B.
        criterion: "gini", "entropy" or "log_loss".
        splitter: "best", or "random": one random cut for each column tried.
        max_depth: Levels of questions, or None.
        min_samples_split: Least rows of a node to be split: a number, or a share.
        min_samples_leaf: Least distinct rows of a leaf: a number, or a share.
        min_weight_fraction_leaf: Least share of the weight in a leaf.
        max_features: Columns tried at a node: number, share, "sqrt", "log2", or None (all).
        max_leaf_nodes: Grow best first up to so many leaves, or None.
        min_impurity_decrease: Least weighted decrease of impurity that a split must bring.
        bootstrap: Give each tree a sample drawn with replacement, or all rows.
        max_samples: Size of the sample: None (as many as rows), a number, or a share.
        oob_score: Estimate the accuracy from out-of-bag rows; or a function of (labels,
            predicted labels) to estimate instead.
        class_weight: Factor of each label as a dict, "balanced", or "balanced_subsample" (by
            the counts in each tree's sample).
        ccp_alpha: Price of a leaf, for pruning each tree; 0 prunes nothing.
        monotonic_cst: For each column 1 (the second class likelier as it rises), -1 or 0.
        categorical_features: "from_dtype", None, a mask, indices or names.
        tree_method: "hist" cuts a column at quantiles, or between all values if these are at most
            `max_bins`; it was as good as "exact", which tries every cut, and is the faster.
        max_bins: Bins of a column in "hist", at most 255.
        keep_leaves: Keep the leaf of each training row, `leaves_`, (n, B).
        warm_start: Let `fit` add trees to those there are.
        n_jobs: Threads; None for Numba's setting. The forest does not depend on it.
        random_state: Seed.

    Attributes:
        classes_: Labels.
        trees_: The trees.
        feature_importances_: Mean share of each column in the decrease of impurity.
        oob_score_: Out-of-bag accuracy (or what `oob_score` returned).
        oob_decision_function_: Out-of-bag class shares, (n, K); NaN for a row in all samples.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> RandomForestClassifier(oob_score=True, random_state=0).fit(X, y).oob_score_ > 0.93
        True
    """

    def __init__(
        self,
        n_estimators: int = 100,
        *,
        criterion: str = "gini",
        splitter: str = "best",
        max_depth: int | None = None,
        min_samples_split: int | float = 2,
        min_samples_leaf: int | float = 1,
        min_weight_fraction_leaf: float = 0.0,
        max_features: int | float | str | None = "sqrt",
        max_leaf_nodes: int | None = None,
        min_impurity_decrease: float = 0.0,
        bootstrap: bool = True,
        max_samples: int | float | None = None,
        oob_score: bool | Callable[..., float] = False,
        class_weight: str | Mapping[Any, float] | None = None,
        ccp_alpha: float = 0.0,
        monotonic_cst: Any = None,
        categorical_features: Any = "from_dtype",
        tree_method: str = "hist",
        max_bins: int = 255,
        keep_leaves: bool = False,
        warm_start: bool = False,
        n_jobs: int | None = None,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(
            n_estimators=n_estimators,
            criterion=criterion,
            splitter=splitter,
            max_depth=max_depth,
            min_samples_split=min_samples_split,
            min_samples_leaf=min_samples_leaf,
            min_weight_fraction_leaf=min_weight_fraction_leaf,
            max_features=max_features,
            max_leaf_nodes=max_leaf_nodes,
            min_impurity_decrease=min_impurity_decrease,
            bootstrap=bootstrap,
            max_samples=max_samples,
            oob_score=oob_score,
            ccp_alpha=ccp_alpha,
            monotonic_cst=monotonic_cst,
            categorical_features=categorical_features,
            tree_method=tree_method,
            max_bins=max_bins,
            keep_leaves=keep_leaves,
            warm_start=warm_start,
            n_jobs=n_jobs,
            random_state=random_state,
        )
        self.class_weight = class_weight

    def _row_factor(self, problem: Problem, counts: np.ndarray) -> np.ndarray:
        seen = counts if self.class_weight == "balanced_subsample" else problem.weight
        return class_weights(self.class_weight, self.classes_, problem.target, seen)

    def _score_out_of_bag(self, problem: Problem, sampler: RowSampler) -> None:
        shares = self.oob_decision_function_ = self._out_of_bag(problem, sampler)
        labels = self.classes_[problem.target.astype(np.int64)]
        self.oob_score_ = score_left_out(self, labels, shares, problem.weight, accuracy_score)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the mean class shares, (n, K)."""
        return self._outputs(X)


class RandomForestRegressor(RegressorMixin, Forest):
    r"""A random forest for regression; also predicts quantiles.

    Prefer it to boosting when nothing should be tuned, when the targets hold outliers that the
    mean of many leaves evens out, or when prediction intervals are wanted; boosting is mostly
    more exact and smaller. It cannot predict beyond the targets that it saw. For what differs
    from scikit-learn see `RandomForestClassifier`.

    Args:
        n_estimators: Number of trees B.
        criterion: "squared_error", "absolute_error" or "poisson".
        splitter: "best", or "random": one random cut for each column tried.
        max_depth: Levels of questions, or None.
        min_samples_split: Least rows of a node to be split: a number, or a share.
        min_samples_leaf: Least distinct rows of a leaf: a number, or a share.
        min_weight_fraction_leaf: Least share of the weight in a leaf.
        max_features: Columns tried at a node: number, share, "sqrt", "log2", or None; 1.0 is all.
        max_leaf_nodes: Grow best first up to so many leaves, or None.
        min_impurity_decrease: Least weighted decrease of impurity that a split must bring.
        bootstrap: Give each tree a sample drawn with replacement, or all rows.
        max_samples: Size of the sample: None (as many as rows), a number, or a share.
        oob_score: Estimate $R^2$ from out-of-bag rows; or a function of (targets, predictions).
        ccp_alpha: Price of a leaf, for pruning each tree; 0 prunes nothing.
        monotonic_cst: For each column 1 (the prediction never falls as it rises), -1 or 0.
        categorical_features: "from_dtype", None, a mask, indices or names.
        tree_method: "hist" cuts a column at quantiles, or between all values if these are at most
            `max_bins`; it was as good as "exact", which tries every cut, and is the faster.
        max_bins: Bins of a column in "hist", at most 255.
        keep_leaves: Keep leaves and targets of the training rows, for `predict_quantiles`.
        warm_start: Let `fit` add trees to those there are.
        n_jobs: Threads; None for Numba's setting. The forest does not depend on it.
        random_state: Seed.

    Attributes:
        trees_: The trees.
        feature_importances_: Mean share of each column in the decrease of impurity.
        oob_score_: Out-of-bag $R^2$ (or what `oob_score` returned).
        oob_prediction_: Out-of-bag predictions, (n,); NaN for a row in all samples.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> RandomForestRegressor(oob_score=True, random_state=0).fit(X, y).oob_score_ > 0.35
        True
    """

    def _score_out_of_bag(self, problem: Problem, sampler: RowSampler) -> None:
        means = self._out_of_bag(problem, sampler)
        self.oob_prediction_ = means[:, 0]
        self.oob_score_ = score_left_out(self, problem.target, means, problem.weight, r2_score)

    def predict(self, X: Any) -> np.ndarray:
        """Returns the mean of the trees, (n,)."""
        return self._outputs(X)[:, 0]

    def predict_quantiles(self, X: Any, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> Any:
        """Returns quantiles of the target given X, (n, quantiles); needs `keep_leaves=True`.

        Each tree spreads weight 1 over the training rows in the leaf of x; the quantile is the
        least target below which the mean weight is at least so large.
        """
        check_is_fitted(self)
        levels = np.asarray(quantiles, np.float64)
        if np.any((levels < 0) | (levels > 1)):
            raise ValueError(f"quantiles={quantiles!r} must lie in [0, 1]")
        if not hasattr(self, "leaves_"):
            raise ValueError("predict_quantiles needs the training leaves; set keep_leaves=True")
        order = np.argsort(self._leaf_targets, kind="stable")
        target, weight = self._leaf_targets[order], self._leaf_weights[order]
        members = self._incidence(self.leaves_[order])
        members.data *= np.repeat(weight, len(self.trees_))
        mass = np.asarray(members.sum(axis=0)).ravel()
        leaf_share = np.divide(1.0, mass, out=np.zeros_like(mass), where=mass > 0)
        members.data *= leaf_share[members.indices]
        leaves = self.apply(X)
        turned, asked = members.T.tocsr(), self._incidence(leaves)
        out = np.empty((len(leaves), len(levels)))
        block = max(1, 2**22 // len(target))
        for start in range(0, len(out), block):
            below = np.cumsum((asked[start : start + block] @ turned).toarray(), axis=1)
            for j, level in enumerate(levels):
                # A hair less, since the sums of thirds and the like fall short of their level.
                reached = below >= level * below[:, -1:] - 1e-12 * len(self.trees_)
                reached &= below > 0
                out[start : start + block, j] = target[reached.argmax(axis=1)]
        return out
