r"""Weak trees by the thousand: bins are made once, each tree reads only the weights anew.

AdaBoost fits the same rows again and again with other weights $w$. Sorting them each time is
waste: with bins $b_{ij}$ fixed, one pass per level fills the histograms

$$ H_{mjbc} = \sum_{i \in m, \, b_{ij} = b, \, y_i = c} w_i $$

for node $m$, column $j$, bin $b$ and class $c$ (for numbers, $c$ is 0 for $\sum w$ and 1 for
$\sum w y$), and a scan over b finds the split of greatest
$\sum_c L_c^2 / L + \sum_c R_c^2 / R$, which is the Gini criterion (or least squares). Sums are
float64: weights in AdaBoost span too many orders for quantised ones. Missing values are tried
on both sides.

Cost: O(n p) a level and O(p B C) a node.

References:
    Breiman et al. (1984), "Classification and regression trees", sections 4.2 and 8.4.

Shapes: n rows, p columns, M nodes of a level, B = 256 bins, C classes (or 2 moments).
"""

from __future__ import annotations

import numpy as np

from paragone.ensemble._binning import MISSING_BIN, Binned
from paragone.ensemble._cart_vectors import add_pair
from paragone.ensemble._tree import LEAF, Tree
from paragone.kernels.jit import njit

__all__ = ["MAX_DEPTH", "ShallowGrower"]

MAX_DEPTH = 6
"""Histograms of all nodes of a level are held at once: 2^5 nodes x p x 2 KiB x C."""


@njit(nogil=True, error_model="numpy")
def _fill(columns, node, code, mass, histogram):
    """Adds mass[i] to histogram[node[i], j, columns[j, i], code[i]]; node -1 is settled."""
    for j in range(np.uint64(columns.shape[0])):
        for i in range(np.uint64(columns.shape[1])):
            if node[i] >= 0:
                m = np.uint64(node[i])
                histogram[m, j, np.uint64(columns[j, i]), np.uint64(code[i])] += mass[i]


@njit(nogil=True, error_model="numpy")
def _fill_root(columns, code, mass, histogram, turns):
    """`_fill` where all rows are in one node.

    Two histograms take turns: two equal bins in a row would wait for each other's store.
    """
    classes = np.uint64(histogram.shape[3])
    n, one = np.uint64(columns.shape[1]), np.uint64(1)
    size = np.uint64(256) * classes
    for j in range(np.uint64(columns.shape[0])):
        column = columns[j]
        for b in range(np.uint64(2) * size):
            turns[b] = 0.0
        i = np.uint64(0)
        while i + one < n:
            turns[np.uint64(column[i]) * classes + np.uint64(code[i])] += mass[i]
            at = np.uint64(column[i + one]) * classes + np.uint64(code[i + one])
            turns[size + at] += mass[i + one]
            i += np.uint64(2)
        if i < n:
            turns[np.uint64(column[i]) * classes + np.uint64(code[i])] += mass[i]
        for b in range(np.uint64(256)):
            for c in range(classes):
                at = b * classes + c
                histogram[0, j, b, c] = turns[at] + turns[size + at]


@njit(nogil=True, error_model="numpy")
def _fill_moments(columns, node, pairs, sums):
    """Adds row i's pair of `pairs` to that of (node[i], j, columns[j, i]) in `sums`, flat."""
    p = np.uint64(columns.shape[0])
    for j in range(p):
        column = columns[j]
        for i in range(np.uint64(columns.shape[1])):
            if node[i] >= 0:
                at = (np.uint64(node[i]) * p + j) << np.uint64(8)
                add_pair(sums, at + np.uint64(column[i]), pairs, i)


@njit(nogil=True, error_model="numpy")
def _side(moments, regression):
    """Returns (mass, score) of one side: sum_c L_c^2 / L, or (sum w y)^2 / sum w."""
    mass, square = 0.0, 0.0
    for c in range(len(moments)):
        mass += moments[c]
        square += moments[c] * moments[c]
    if regression:
        mass, square = moments[0], moments[1] * moments[1]
    return mass, square / mass if mass > 0.0 else 0.0


@njit(nogil=True, error_model="numpy")
def _best_split(histogram, num_bins, regression):
    """Returns (gain, column, bin, missing_left) of one node's histogram (p, 256, C)."""
    p, _, num_codes = histogram.shape
    best_gain, best_column, best_bin, best_left = 0.0, -1, 0, False
    left, right, total = np.empty(num_codes), np.empty(num_codes), np.empty(num_codes)
    for j in range(p):
        missing = histogram[j, 255]
        for c in range(num_codes):
            total[c] = missing[c]
            for b in range(num_bins[j]):
                total[c] += histogram[j, b, c]
        whole, parent = _side(total, regression)
        # Equal splits must not be told apart by rounding, or the order of rows would decide.
        least, noise = 1e-12 * whole, 1e-10 * parent
        holes = _side(missing, regression)[0] > 0.0
        for missing_left in range(2 if holes else 1):
            for c in range(num_codes):
                left[c] = missing[c] * missing_left
                right[c] = total[c] - left[c]
            for b in range(num_bins[j]):
                for c in range(num_codes):
                    left[c] += histogram[j, b, c]
                    right[c] -= histogram[j, b, c]
                if b == num_bins[j] - 1 and (missing_left or not holes):
                    break
                left_mass, left_score = _side(left, regression)
                right_mass, right_score = _side(right, regression)
                gain = left_score + right_score - parent
                if left_mass > least and right_mass > least and gain > best_gain + noise:
                    best_gain, best_column, best_bin = gain, j, b
                    # Without missing values here, NaN follows the heavier side.
                    best_left = missing_left == 1 if holes else left_mass >= right_mass
    return best_gain, best_column, best_bin, best_left


@njit(nogil=True, error_model="numpy")
def _descend(columns, first, column, cut, missing_left, child, node, place):
    """Moves the rows of a level: `node` to the next level's number, `place` to the tree's."""
    for i in range(np.uint64(len(node))):
        m = node[i]
        if m < 0:
            continue
        if column[m] < 0:
            node[i] = -1
            continue
        b = columns[column[m], i]
        left = missing_left[m] if b == 255 else b <= cut[m]
        place[i] = child[m] + (0 if left else 1)
        node[i] = place[i] - first


class ShallowGrower:
    """Grows trees of few levels on the same binned rows under changing weights.

    Args:
        binned: The rows as bins; numeric columns only.
        y: Class codes, or numbers if `num_classes` is None.
        num_classes: C; None for regression.
        max_depth: Levels of splits, at most `MAX_DEPTH`.
    """

    def __init__(
        self, binned: Binned, y: np.ndarray, num_classes: int | None, max_depth: int
    ) -> None:
        if binned.categorical.any():
            raise ValueError("shallow trees take numeric columns only; use a DecisionTree")
        self.binned, self.max_depth = binned, max_depth
        self.regression = num_classes is None
        self.center = 0.0
        n = len(y)
        if num_classes is None:
            # Least squares on y - center loses no digits when y sits on a large offset.
            self.center = float(np.mean(y))
            self.y = np.ascontiguousarray(y, np.float64) - self.center
            self.codes, self.num_codes = np.zeros(n, np.int32), 2
        else:
            self.codes, self.num_codes = y.astype(np.int32), num_classes

    def _histograms(
        self, columns: np.ndarray, node: np.ndarray, weight: np.ndarray, nodes: int
    ) -> np.ndarray:
        shape = (nodes, len(columns), MISSING_BIN + 1, self.num_codes)
        histogram = np.zeros(shape)
        if self.regression:
            _fill_moments(columns, node, self._pairs(weight), histogram.reshape(-1))
        elif nodes == 1:
            turns = np.empty(2 * (MISSING_BIN + 1) * self.num_codes)
            _fill_root(columns, self.codes, weight, histogram, turns)
        else:
            _fill(columns, node, self.codes, weight, histogram)
        return histogram

    def _pairs(self, weight: np.ndarray) -> np.ndarray:
        pairs = np.empty(2 * len(weight))
        pairs[0::2] = weight
        np.multiply(weight, self.y, out=pairs[1::2])
        return pairs

    def grow(self, weight: np.ndarray) -> tuple[Tree, np.ndarray]:
        """Returns the tree for these weights (float64, n) and the node where each row ends."""
        n = len(weight)
        node, place = np.zeros(n, np.int32), np.zeros(n, np.int32)
        levels: list[tuple[np.ndarray, ...]] = []
        moments, first, width = [], 0, 1
        for depth in range(self.max_depth + 1):
            last = depth == self.max_depth
            # Leaves need only their sums, and any one column has them.
            columns = self.binned.columns[:1] if last else self.binned.columns
            histogram = self._histograms(columns, node, weight, width)
            moments.append(histogram[:, 0].sum(axis=1))
            gain, column = np.zeros(width), np.full(width, LEAF, np.int32)
            cut, to_left = np.zeros(width, np.int32), np.zeros(width, bool)
            for m in range(0 if last else width):
                total = moments[-1][m]
                if not self.regression and np.count_nonzero(total > 0) < 2:
                    continue
                gain[m], column[m], cut[m], to_left[m] = _best_split(
                    histogram[m], self.binned.num_bins, self.regression
                )
            split = column >= 0
            child = np.zeros(width, np.int32)
            child[split] = first + width + 2 * np.arange(np.count_nonzero(split))
            levels.append((gain, column, cut, to_left, child))
            if not split.any():
                break
            _descend(self.binned.columns, first + width, column, cut, to_left, child, node, place)
            first, width = first + width, 2 * int(np.count_nonzero(split))
        return self._tree(levels, np.concatenate(moments), place), place

    def _tree(
        self, levels: list[tuple[np.ndarray, ...]], moments: np.ndarray, place: np.ndarray
    ) -> Tree:
        gain, column, cut, to_left, child = map(np.concatenate, zip(*levels, strict=True))
        cover = moments[:, 0].copy() if self.regression else moments.sum(axis=1)
        sums = moments[:, 1:] if self.regression else moments
        value = np.divide(sums, cover[:, None], out=np.zeros_like(sums), where=cover[:, None] > 0)
        count = np.bincount(place, minlength=len(cover)).astype(np.int32)
        for i in range(len(cover) - 1, -1, -1):
            if column[i] >= 0:
                count[i] = count[child[i]] + count[child[i] + 1]
        cuts = zip(column, cut, strict=True)
        threshold = [self.binned.threshold(j, b) if j >= 0 else 0.0 for j, b in cuts]
        return Tree(
            feature=column, threshold=np.array(threshold, np.float32), left=child,
            missing_left=to_left, value=value + self.center, gain=gain, cover=cover, count=count,
            category_start=np.full(len(cover), -1, np.int32),
            category_size=np.zeros(len(cover), np.int32),
        )  # fmt: skip
