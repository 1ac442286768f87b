r"""One round of Friedman's boosting: a least-squares tree on -g, then the best step per leaf.

The tree finds where the loss falls alike; how far to go in each leaf is the loss's own matter
(`Loss.leaf_values`). Under monotone constraints the steps must be brought back in order: from
the root down, a split on a constrained column puts the bound

$$ m = \tfrac12 (\bar v_L + \bar v_R) \;\text{ if in order, else }\;
   \frac{W_L \bar v_L + W_R \bar v_R}{W_L + W_R}, $$

with $\bar v$ the weighted means of the steps on either side, between *all* leaves of one side
and all of the other, and every leaf is clipped to the bounds of its path.

References:
    Friedman (2001), "Greedy function approximation", Annals of Statistics 29, algorithm 1.

Shapes: n rows, p columns, N nodes of the tree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paragone.ensemble._binning import bin_features
from paragone.ensemble._cart import grow_cart, rank_columns
from paragone.ensemble._grow import GrowParams, grow_histogram
from paragone.ensemble._predict import apply, pack
from paragone.ensemble._tree import LEAF, Tree

__all__ = ["TreeGrower", "TreeShape", "set_leaves"]


@dataclass(slots=True, kw_only=True)
class TreeShape:
    """How the trees of a fit are grown, in scikit-learn's terms, resolved to numbers.

    Attributes:
        method: "hist" or "exact".
        criterion: Of exact trees: "friedman_mse" or "squared_error".
        max_depth: Levels of splits, or None.
        max_leaf_nodes: Leaves, grown best first, or None.
        max_features: Columns tried at a node.
        min_samples_split: Least rows of a node to split.
        min_samples_leaf: Least rows of a leaf.
        min_weight_leaf: Least weight of a leaf.
        min_gain: Least fall of the weighted sum of squares.
        max_bins: Bins of a column.
        monotone: int8 (p,), or None.
        threads: Threads for large nodes.
    """

    method: str
    criterion: str
    max_depth: int | None
    max_leaf_nodes: int | None
    max_features: int
    min_samples_split: int
    min_samples_leaf: int
    min_weight_leaf: float
    min_gain: float
    max_bins: int
    monotone: np.ndarray | None
    threads: int


class TreeGrower:
    """Grows trees on the same rows: columns are binned (or ranked) once.

    Args:
        values: float32 (n, p).
        categorical: bool (p,).
        weight: float64 (n,), positive; places the bins.
        shape: How trees grow.
    """

    def __init__(
        self, values: np.ndarray, categorical: np.ndarray, weight: np.ndarray, shape: TreeShape
    ) -> None:
        self.values, self.shape = values, shape
        self.ranked = self.binned = None
        if shape.method == "exact":
            self.ranked = rank_columns(values, categorical)
            return
        even = bool(np.all(weight == weight[0]))
        self.binned = bin_features(
            values, categorical, shape.max_bins, None if even else weight, shape.threads
        )
        p = values.shape[1]
        self.params = GrowParams(
            max_leaves=shape.max_leaf_nodes or 0,
            max_depth=shape.max_depth or 0,
            policy="leaf" if shape.max_leaf_nodes else "depth",
            reg_lambda=0.0,
            gamma=shape.min_gain,
            min_child_weight=shape.min_weight_leaf,
            min_samples_leaf=shape.min_samples_leaf,
            min_samples_split=shape.min_samples_split,
            # Half a column more, so that the product is not rounded below the whole number.
            colsample_node=min(1.0, (shape.max_features + 0.5) / p),
            monotone=shape.monotone,
            threads=shape.threads,
        )

    def grow(
        self, gradient: np.ndarray, weight: np.ndarray, rows: np.ndarray, seed: int
    ) -> tuple[Tree, np.ndarray]:
        """Fits -gradient / weight; returns the tree and the node in which every row ends.

        Args:
            gradient: float64 (n,), weights multiplied in.
            weight: float64 (n,), positive in `rows`.
            rows: int32 numbers of the rows to fit, increasing.
            seed: For the choice of columns.
        """
        if self.binned is not None:
            every = None if len(rows) == len(weight) else rows
            return grow_histogram(self.binned, gradient, weight, every, self.params, seed)
        assert self.ranked is not None
        inside = np.zeros(len(weight))
        inside[rows] = weight[rows]
        target = np.divide(-gradient, weight, out=np.zeros_like(gradient), where=weight > 0)
        shape, total = self.shape, inside.sum()
        tree = grow_cart(
            self.ranked, target, inside, criterion=shape.criterion, max_depth=shape.max_depth,
            min_samples_split=shape.min_samples_split, min_samples_leaf=shape.min_samples_leaf,
            min_weight_fraction_leaf=shape.min_weight_leaf / total,
            max_features=shape.max_features, max_leaf_nodes=shape.max_leaf_nodes,
            min_impurity_decrease=shape.min_gain / total, monotone=shape.monotone, seed=seed,
        )  # fmt: skip
        leaf = apply(pack([tree]), self.values, threads=shape.threads)[:, 0]
        return tree, np.ascontiguousarray(leaf)


def set_leaves(tree: Tree, steps: np.ndarray, monotone: np.ndarray | None) -> None:
    """Puts `steps` (N,), one for each node that is a leaf, into the tree, in monotone order.

    Inner nodes get the mean of their leaves, weighted by `cover`.
    """
    inner = np.flatnonzero(tree.feature != LEAF)
    value = np.where(tree.feature == LEAF, steps, 0.0)
    _average(tree, inner, value)
    if monotone is not None and np.any(monotone[tree.feature[inner]]):
        low, high = np.full(len(value), -np.inf), np.full(len(value), np.inf)
        for i in inner:
            left = tree.left[i]
            right = left + 1
            low[left] = low[right] = low[i]
            high[left] = high[right] = high[i]
            sign = monotone[tree.feature[i]]
            if sign == 0:
                continue
            below, above = (left, right) if sign > 0 else (right, left)
            middle = 0.5 * (value[left] + value[right])
            if value[below] > value[above]:
                middle = value[i]
            high[below] = low[above] = min(max(middle, low[i]), high[i])
        value = np.clip(value, low, high)
        _average(tree, inner, value)
    tree.value = value[:, None]


def _average(tree: Tree, inner: np.ndarray, value: np.ndarray) -> None:
    """Sets inner nodes, children before parents."""
    for i in inner[::-1]:
        left = tree.left[i]
        cover = tree.cover[left] + tree.cover[left + 1]
        share = tree.cover[left] / cover if cover > 0 else 0.5
        value[i] = share * value[left] + (1.0 - share) * value[left + 1]
