r"""Classification and regression trees (CART): one tree that can be read and drawn.

A tree splits the rows again and again by one question on one column, the one that lowers the
impurity $i$ most, and predicts the mean (median, class shares) of the leaf:

$$ \Delta(t) = \frac{W_t}{W} \Big( i(t) - \frac{W_L}{W_t} i(L) - \frac{W_R}{W_t} i(R) \Big) . $$

A full tree fits noise; it is made smaller by limits while growing, or afterwards by minimal
cost-complexity pruning, which keeps the subtree that minimises impurity + $\alpha$ leaves.
Missing values go to the side that lowers the impurity more; categories are split into two sets.

Cost: fit $O(n p \log n)$ for a balanced tree, predict $O(\text{depth})$ a row, memory of n x p
ranks (4 bytes each) while fitting.

References:
    Breiman, Friedman, Olshen, Stone (1984), "Classification and Regression Trees".
    Geurts, Ernst, Wehenkel (2006), "Extremely randomized trees", for `splitter="random"`.

n rows, p columns, K classes; $W$: sums of weights of all rows, of node t and its two sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from paragone._core.random import RandomState, as_generator, spawn_seeds
from paragone.ensemble._cart import grow_cart, rank_columns
from paragone.ensemble._cart_model import CartModel, ClassVotes, Problem, class_weights
from paragone.ensemble._forest import packed_once
from paragone.ensemble._importance import tree_importances
from paragone.ensemble._one_row import raw_of_row
from paragone.ensemble._predict import PackedTrees, apply, predict_raw
from paragone.ensemble._pruning import prune, pruning_path
from paragone.ensemble._shap import shap_values
from paragone.ensemble._tree import LEAF, Tree

__all__ = ["DecisionTreeClassifier", "DecisionTreeRegressor"]


class _DecisionTree(CartModel):
    tree_: Tree

    def __init__(
        self,
        *,
        criterion: str = "squared_error",
        splitter: str = "best",
        max_depth: int | None = None,
        min_samples_split: int | float = 2,
        min_samples_leaf: int | float = 1,
        min_weight_fraction_leaf: float = 0.0,
        max_features: int | float | str | None = None,
        random_state: RandomState = None,
        max_leaf_nodes: int | None = None,
        min_impurity_decrease: float = 0.0,
        ccp_alpha: float = 0.0,
        monotonic_cst: Any = None,
        categorical_features: Any = "from_dtype",
        tree_method: str = "exact",
        max_bins: int = 255,
    ) -> None:
        self.criterion = criterion
        self.splitter = splitter
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.min_weight_fraction_leaf = min_weight_fraction_leaf
        self.max_features = max_features
        self.random_state = random_state
        self.max_leaf_nodes = max_leaf_nodes
        self.min_impurity_decrease = min_impurity_decrease
        self.ccp_alpha = ccp_alpha
        self.monotonic_cst = monotonic_cst
        self.categorical_features = categorical_features
        self.tree_method = tree_method
        self.max_bins = max_bins

    def _grow(self, problem: Problem, ccp_alpha: float) -> None:
        options = self._growth(problem)
        self.max_features_ = options["max_features"]
        seed = int(spawn_seeds(as_generator(self.random_state), 1)[0])
        features = problem.features
        bins = self.max_bins if self.tree_method == "hist" else None
        columns = rank_columns(features.values, features.categorical, bins, weight=problem.weight)
        tree = grow_cart(columns, problem.target, problem.weight, seed=seed, **options)
        self.tree_ = prune(tree, ccp_alpha)

    def _weigh_classes(self, problem: Problem) -> None:
        """A classifier multiplies its class weights in."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Grows and prunes the tree; returns the estimator."""
        problem = self._problem(X, y, sample_weight)
        self._weigh_classes(problem)
        self._grow(problem, self.ccp_alpha)
        return self

    def cost_complexity_pruning_path(self, X: Any, y: Any, sample_weight: Any = None) -> Bunch:
        """Returns the alphas at which pruning cuts a branch, and the impurity after each cut.

        Returns:
            A Bunch of `ccp_alphas` (increasing, from 0) and `impurities`.
        """
        model = type(self)(**self.get_params())
        alphas, impurities = pruning_path(
            model.set_params(ccp_alpha=0.0).fit(X, y, sample_weight).tree_
        )
        return Bunch(ccp_alphas=alphas, impurities=impurities)

    def _packed(self) -> PackedTrees:
        return packed_once(self, self.tree_, lambda: [self.tree_])

    def _row_parts(self) -> Any:
        return [self.tree_], None, np.zeros(self.tree_.value.shape[1])

    def _outputs(self, X: Any) -> np.ndarray:
        """Returns leaf values, (K, n)."""
        row = raw_of_row(self, X, getattr(self, "tree_", None), self._row_parts)
        if row is not None:
            return row
        values = self._read(X).values
        return predict_raw(self._packed(), values)

    def apply(self, X: Any) -> np.ndarray:
        """Returns the number of the node in which each row ends, int32 (n,)."""
        check_is_fitted(self)
        return apply(self._packed(), self._read(X).values)[:, 0]

    def get_depth(self) -> int:
        """Returns the number of questions on the longest path."""
        check_is_fitted(self)
        return self.tree_.depth

    def get_n_leaves(self) -> int:
        """Returns the number of leaves."""
        check_is_fitted(self)
        return self.tree_.num_leaves

    @property
    def feature_importances_(self) -> np.ndarray:
        """Share of each column in the decrease of impurity of all splits, (p,)."""
        check_is_fitted(self)
        return tree_importances([self.tree_], self.n_features_in_)

    def shap_values(self, X: Any) -> np.ndarray:
        """Returns exact Shapley values, (n, p + 1), or (n, K, p + 1) of class shares.

        The last column is the expected value; each row sums to the prediction.
        """
        check_is_fitted(self)
        return shap_values([self.tree_], self._read(X).values)

    def export_text(self, feature_names: Sequence[str] | None = None, decimals: int = 3) -> str:
        """Returns the tree as indented text, one question or leaf a line.

        Args:
            feature_names: Names of the columns; by default those seen in fit.
            decimals: Digits behind the point.
        """
        check_is_fitted(self)
        names = feature_names
        if names is None:
            names = getattr(self, "feature_names_in_", None)
        if names is None:
            names = [f"column {j}" for j in range(self.n_features_in_)]
        if len(names) != self.n_features_in_:
            raise ValueError(
                f"feature_names has {len(names)} names for {self.n_features_in_} columns"
            )
        lines: list[str] = []
        waiting = [(0, 0, "")]
        while waiting:
            node, depth, lead = waiting.pop()
            lines.append(f"{'|   ' * depth}{lead}{self._describe(node, decimals)}")
            if self.tree_.feature[node] != LEAF:
                left = int(self.tree_.left[node])
                yes, no = self._question(node, names, decimals)
                waiting += [(left + 1, depth + 1, f"{no}: "), (left, depth + 1, f"{yes}: ")]
        return "\n".join(lines) + "\n"

    def _question(self, node: int, names: Sequence[str], decimals: int) -> tuple[str, str]:
        tree, feature = self.tree_, int(self.tree_.feature[node])
        also = (" or missing", "") if tree.missing_left[node] else ("", " or missing")
        name = names[feature]
        if tree.category_start[node] < 0:
            limit = f"{tree.threshold[node]:.{decimals}f}"
            return f"{name} <= {limit}{also[0]}", f"{name} > {limit}{also[1]}"
        start = tree.category_start[node]
        words = tree.category_bits[start : start + tree.category_size[node]]
        values: Any = self._categories_[feature]  # pyright: ignore[reportAttributeAccessIssue]
        codes = np.arange(len(values))
        right = (words[codes >> 5] >> (codes & 31).astype(np.uint32)) & 1
        sides = [", ".join(str(v) for v in values[right == side].tolist()) for side in (0, 1)]
        return f"{name} in {{{sides[0]}}}{also[0]}", f"{name} in {{{sides[1]}}}{also[1]}"

    def _describe(self, node: int, decimals: int) -> str:
        value = self.tree_.value[node]
        if len(value) == 1 and not hasattr(self, "classes_"):
            shown = f"{value[0]:.{decimals}f}"
        else:
            shares = ", ".join(f"{share:.{decimals}f}" for share in value)
            shown = f"{self.classes_[np.argmax(value)]} [{shares}]"  # pyright: ignore[reportAttributeAccessIssue]
        return f"{shown} ({self.tree_.count[node]} rows)"


class DecisionTreeClassifier(ClassVotes, ClassifierMixin, _DecisionTree):
    r"""A classification tree.

    Prefer it to the ensembles when a person must read the model, or as their building block;
    a forest or boosting predicts better. It differs from scikit-learn's tree in taking
    categories and data frames, and in deciding equal splits by the lowest column, so that the
    tree does not depend on `random_state` unless `max_features` or `splitter` need it.

    Args:
        criterion: "gini" $1 - \sum_k p_k^2$, or "entropy" (also "log_loss")
            $-\sum_k p_k \log_2 p_k$.
        splitter: "best", or "random": one random cut for each column tried.
        max_depth: Levels of questions, or None.
        min_samples_split: Least rows of a node to be split: a number, or a share.
        min_samples_leaf: Least rows of a leaf: a number, or a share.
        min_weight_fraction_leaf: Least share of the weight in a leaf.
        max_features: Columns tried at a node: number, share, "sqrt", "log2", or None (all).
        random_state: Seed of the columns tried and of random cuts.
        max_leaf_nodes: Grow best first up to so many leaves, or None.
        min_impurity_decrease: Least $\Delta(t)$ that a split must bring.
        class_weight: Factor of each label as a dict, or "balanced".
        ccp_alpha: Price $\alpha$ of a leaf, for pruning; 0 prunes nothing.
        monotonic_cst: For each column 1 (the second class likelier as it rises), -1 or 0, or a
            dict by name; two classes only.
        categorical_features: "from_dtype", None, a mask, indices or names.
        tree_method: "exact" searches every threshold, "hist" at most `max_bins` quantiles of a
            column, which is faster on large tables.
        max_bins: Bins of a column in "hist", at most 255.

    Attributes:
        classes_: Labels.
        tree_: The nodes; `tree_.value` holds class shares.
        feature_importances_: Share of each column in the decrease of impurity.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> DecisionTreeClassifier(max_depth=2).fit(X, y).get_n_leaves()
        3
    """

    def __init__(
        self,
        *,
        criterion: str = "gini",
        splitter: str = "best",
        max_depth: int | None = None,
        min_samples_split: int | float = 2,
        min_samples_leaf: int | float = 1,
        min_weight_fraction_leaf: float = 0.0,
        max_features: int | float | str | None = None,
        random_state: RandomState = None,
        max_leaf_nodes: int | None = None,
        min_impurity_decrease: float = 0.0,
        class_weight: str | Mapping[Any, float] | None = None,
        ccp_alpha: float = 0.0,
        monotonic_cst: Any = None,
        categorical_features: Any = "from_dtype",
        tree_method: str = "exact",
        max_bins: int = 255,
    ) -> None:
        super().__init__(
            criterion=criterion,
            splitter=splitter,
            max_depth=max_depth,
            min_samples_split=min_samples_split,
            min_samples_leaf=min_samples_leaf,
            min_weight_fraction_leaf=min_weight_fraction_leaf,
            max_features=max_features,
            random_state=random_state,
            max_leaf_nodes=max_leaf_nodes,
            min_impurity_decrease=min_impurity_decrease,
            ccp_alpha=ccp_alpha,
            monotonic_cst=monotonic_cst,
            categorical_features=categorical_features,
            tree_method=tree_method,
            max_bins=max_bins,
        )
        self.class_weight = class_weight

    def _weigh_classes(self, problem: Problem) -> None:
        problem.weight = problem.weight * class_weights(
            self.class_weight, self.classes_, problem.target, problem.weight
        )

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the class shares of each row's leaf, (n, K)."""
        return np.ascontiguousarray(self._outputs(X).T)


class DecisionTreeRegressor(RegressorMixin, _DecisionTree):
    r"""A regression tree.

    Prefer it to the ensembles when a person must read the model, or as their building block;
    a forest or boosting predicts better. See `DecisionTreeClassifier` for what differs from
    scikit-learn.

    Args:
        criterion: "squared_error" (also "friedman_mse": with one output it orders splits
            alike), "absolute_error" (leaves predict medians), or "poisson" (half the deviance,
            for counts and frequencies).
        splitter: "best", or "random": one random cut for each column tried.
        max_depth: Levels of questions, or None.
        min_samples_split: Least rows of a node to be split: a number, or a share.
        min_samples_leaf: Least rows of a leaf: a number, or a share.
        min_weight_fraction_leaf: Least share of the weight in a leaf.
        max_features: Columns tried at a node: number, share, "sqrt", "log2", or None (all).
        random_state: Seed of the columns tried and of random cuts.
        max_leaf_nodes: Grow best first up to so many leaves, or None.
        min_impurity_decrease: Least $\Delta(t)$ that a split must bring.
        ccp_alpha: Price $\alpha$ of a leaf, for pruning; 0 prunes nothing.
        monotonic_cst: For each column 1 (the prediction never falls as it rises), -1 or 0, or
            a dict by name.
        categorical_features: "from_dtype", None, a mask, indices or names.
        tree_method: "exact" searches every threshold, "hist" at most `max_bins` quantiles of a
            column, which is faster on large tables.
        max_bins: Bins of a column in "hist", at most 255.

    Attributes:
        tree_: The nodes.
        feature_importances_: Share of each column in the decrease of impurity.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> DecisionTreeRegressor(max_depth=3).fit(X, y).score(X, y) > 0.45
        True
    """

    def predict(self, X: Any) -> np.ndarray:
        """Returns the value of each row's leaf, (n,)."""
        return self._outputs(X)[0]
