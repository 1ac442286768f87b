r"""One round of Friedman's boosting: a least-squares tree on -g, then the best step per leaf.

The tree finds where the loss falls alike; how far to go in each leaf is the loss's own matter
(`Loss.leaf_values`). Under monotone constraints the steps
are brought back in order by `settle_leaves`.

References:
    Friedman (2001), "Greedy function approximation", Annals of Statistics 29, algorithm 1.

Shapes: n rows, p columns, N nodes of the tree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from paragone.ensemble._binning import bin_features
from paragone.ensemble._cart import grow_cart, rank_columns
from paragone.ensemble._grow import GrowParams, Room, grow_histogram
from paragone.ensemble._loss_kernels import sums
from paragone.ensemble._predict import apply, pack
from paragone.ensemble._shared_bins import find_binned
from paragone.ensemble._tree import Tree

__all__ = ["TreeGrower", "TreeShape", "newton_steps"]


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
        interactions: Sets of columns that may meet on a path ("hist" only), or None.
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
    interactions: list[list[int]] | None
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
        if even and not categorical.any():
            self.binned = find_binned(values, shape.max_bins, shape.threads)
        if self.binned is None:
            self.binned = bin_features(
                values, categorical, shape.max_bins, None if even else weight, shape.threads
            )
        p, self.room = values.shape[1], Room()
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
            interactions=shape.interactions,
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
            seed: For the choice of columns, and (histograms) for their order, which decides
                between equal splits: with the lowest column always first, boosting on small
                tables repeats one choice in every tree, and predicts new rows clearly worse.
        """
        if self.binned is not None:
            every = None if len(rows) == len(weight) else rows
            order = np.random.default_rng(seed).permutation(len(self.binned.num_bins))
            params = replace(self.params, columns=order.astype(np.int32))
            return grow_histogram(
                self.binned, gradient, weight, every, params, seed, room=self.room
            )
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
            min_impurity_decrease=shape.min_gain / total, monotone=shape.monotone,
            seed=seed,
        )  # fmt: skip
        leaf = apply(pack([tree]), self.values, threads=shape.threads)[:, 0]
        return tree, np.ascontiguousarray(leaf)


def newton_steps(
    gradient: np.ndarray, hessian: np.ndarray, rows: np.ndarray, leaf: np.ndarray, nodes: int
) -> np.ndarray:
    """Returns -sum(g) / sum(h) over the rows of each node, (N,); 0 where sum(h) is 0."""
    if len(rows) < len(leaf):
        gradient, hessian, leaf = gradient[rows], hessian[rows], leaf[rows]
    top, bottom = sums(gradient, leaf, nodes), sums(hessian, leaf, nodes)
    return np.divide(-top, bottom, out=np.zeros(nodes), where=bottom > 1e-150)
