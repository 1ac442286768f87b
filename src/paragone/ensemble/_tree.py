"""A decision tree as arrays: the one form in which every grower delivers and every reader reads.

Node 0 is the root. A row stands at node `i` and goes

- left if `x[feature[i]] <= threshold[i]`, compared in float32 (fit and predict both cast);
- for a categorical split (`category_start[i] >= 0`) right if its category is in the node's
  set, else left; a category that the set's bits do not reach is treated as missing;
- to the side of `missing_left[i]` if the value is NaN.

The right child of node `i` is `left[i] + 1`: siblings are neighbours, which lets a packed
node of 64 bits hold a whole split.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["LEAF", "Tree"]

LEAF = -1
"""Value of `feature` at a leaf; its `left` is 0."""


def _empty_bits() -> np.ndarray:
    return np.zeros(0, np.uint32)


def _no_impurity() -> np.ndarray:
    return np.zeros(0, np.float64)


@dataclass(slots=True)
class Tree:
    """One tree of N nodes with K outputs.

    Attributes:
        feature: int32 (N,), column of the split, or `LEAF`.
        threshold: float32 (N,), a row with a value <= it goes left.
        left: int32 (N,), left child; the right one is `left + 1`.
        missing_left: bool (N,), where NaN goes.
        value: float64 (N, K), prediction of the node (also of inner nodes).
        gain: float64 (N,), what the split gained in the grower's own criterion; 0 at leaves.
        cover: float64 (N,), sum of weights (or of second derivatives) of the training rows.
        count: int32 (N,), number of distinct training rows.
        category_start: int32 (N,), offset into `category_bits`, -1 for numeric splits.
        category_bits: uint32, concatenated sets; bit c of node i's set is
            `category_bits[start + c // 32] >> (c % 32) & 1`; category 0 is bit 0.
        category_size: int32 (N,), number of 32-bit words of the node's set (0: numeric).
        impurity: float64 (N,), the criterion's impurity of the node; empty for boosted trees.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    missing_left: np.ndarray
    value: np.ndarray
    gain: np.ndarray
    cover: np.ndarray
    count: np.ndarray
    category_start: np.ndarray
    category_size: np.ndarray
    category_bits: np.ndarray = field(default_factory=_empty_bits)
    impurity: np.ndarray = field(default_factory=_no_impurity)

    @property
    def num_nodes(self) -> int:
        return len(self.feature)

    @property
    def num_leaves(self) -> int:
        return int(np.count_nonzero(self.feature == LEAF))

    @property
    def depth(self) -> int:
        """Splits on the longest path from the root."""
        depth, level = 0, np.zeros(1, np.int64)
        while True:
            level = self.left[level[self.feature[level] != LEAF]]
            if len(level) == 0:
                return depth
            level = np.concatenate((level, level + 1))
            depth += 1
