r"""Exact CART: classification and regression trees on sorted columns.

Greedy recursive partition: each node takes the split that lowers the impurity $i$ most,

$$ \Delta = \frac{W_t}{W} \Big( i(t) - \frac{W_L}{W_t} i(L) - \frac{W_R}{W_t} i(R) \Big), $$

where $W_t$ is the weight of the rows in node t and $W$ that of all rows. Every column is first
turned into the ranks of its distinct float32 values, once for all trees of an ensemble; a tree
then only handles integers (see `_cart_search`). With fewer codes than values (`max_bins`) the
same kernel is a histogram search.

A threshold lies midway between two values that occur in the node, rounded in float32 and
below the right one. Columns are tried in order, so that equal splits are decided by the lowest
column, then the lowest threshold, then missing values on the right; with `shuffle` the order
is random in each node, which a forest needs. Values never seen missing in a node go where most
rows go. A class of the target with $K > 2$ has no single optimal order of categories: each of
the K orders "share of class k" is scanned (optimal for $K = 2$ and regression but for the
absolute error, where ordering by the mean is a heuristic).

References:
    Breiman, Friedman, Olshen, Stone (1984), "Classification and Regression Trees", ch. 2-4, 8-9.

n rows, p columns, N nodes, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from paragone.ensemble import _cart_kernels as node
from paragone.ensemble._binning import MISSING_BIN, bin_features, numeric_edges
from paragone.ensemble._cart_data import ABSOLUTE, CRITERIA, Rules, Table, Work
from paragone.ensemble._cart_fast import FastTable, fast_table, grow_fast_cart, takes
from paragone.ensemble._tree import LEAF, Tree
from paragone.kernels.jit import njit

__all__ = ["CLASS_CRITERIA", "Columns", "grow_cart", "rank_columns", "take_columns"]

CLASS_CRITERIA = ("gini", "entropy", "log_loss")

_SHALLOW = 8
"""Exact trees this shallow are all large nodes, for which `grow_nodes` has the better bins."""


@dataclass(slots=True)
class Columns:
    """A table as ranks, ready for any number of trees.

    Attributes:
        codes: int32 (p, n), rank of the value in its column, -1 where missing.
        lower: float32, smallest value of each code, columns one after the other.
        upper: float32, largest value of each code.
        offset: int64 (p + 1,), where the codes of a column begin in `lower` and `upper`.
        categorical: bool (p,).
    """

    codes: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    offset: np.ndarray
    categorical: np.ndarray
    _fast: FastTable | None = field(default=None, repr=False)

    def fast(self) -> FastTable:
        """The same columns for `grow_fast_cart`, made once."""
        if self._fast is None:
            self._fast = fast_table(self.codes, self.lower, self.upper, self.offset)
        return self._fast


def rank_columns(
    values: np.ndarray,
    categorical: np.ndarray | None = None,
    max_bins: int | None = None,
    threads: int = 1,
    weight: np.ndarray | None = None,
) -> Columns:
    """Replaces every value by the rank of its distinct value (or by its quantile bin).

    Args:
        values: float32 (n, p); categories as codes 0..c-1; NaN where missing.
        categorical: bool (p,), which columns hold category codes.
        max_bins: None for exact ranks, else at most this many codes in a numeric column.
        threads: Threads for the bins of large tables.
        weight: float64 (n,), for the bins; rows of weight 0 place none.
    """
    n, p = values.shape
    is_category = np.zeros(p, bool) if categorical is None else np.array(categorical, bool)
    if max_bins is not None and not is_category.any():
        return _all_bins(np.ascontiguousarray(values), max_bins, threads, weight)
    codes = np.empty((p, n), np.int32)
    lower, upper = [], []
    for j in range(p):
        column = np.ascontiguousarray(values[:, j])
        if is_category[j]:
            codes[j] = np.nan_to_num(column, nan=-1.0)
            low = high = np.arange(codes[j].max(initial=-1) + 1, dtype=np.float32)
        else:
            codes[j], low, high = _rank(column) if max_bins is None else _bin(column, max_bins)
        lower.append(low)
        upper.append(high)
    offset = np.concatenate(([0], np.cumsum([len(part) for part in lower]))).astype(np.int64)
    return Columns(codes, np.concatenate(lower), np.concatenate(upper), offset, is_category)


def take_columns(columns: Columns, chosen: np.ndarray) -> Columns:
    """Returns these columns, in this order; a column may come twice."""
    parts = [slice(columns.offset[j], columns.offset[j + 1]) for j in chosen]
    sizes = [part.stop - part.start for part in parts]
    return Columns(
        columns.codes[chosen],
        np.concatenate([columns.lower[part] for part in parts]),
        np.concatenate([columns.upper[part] for part in parts]),
        np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        columns.categorical[chosen],
    )


def _rank(column: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, known = len(column), len(column) - int(np.count_nonzero(np.isnan(column)))
    # One word (value, row) sorts faster than an argsort; adding 0 makes both zeros equal.
    bits = np.where(np.isnan(column), np.float32(np.nan), column + np.float32(0)).view(np.uint32)
    sign = np.where(bits >> np.uint32(31), np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    words = ((bits ^ sign).astype(np.uint64) << np.uint64(32)) | np.arange(n, dtype=np.uint64)
    words.sort()
    order = (words[:known] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    ordered = column[order]
    new = np.empty(known, bool)
    new[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    codes = np.full(n, -1, np.int32)
    codes[order] = np.cumsum(new) - 1
    distinct = ordered[new]
    return codes, distinct, distinct


def _all_bins(
    values: np.ndarray, max_bins: int, threads: int, weight: np.ndarray | None
) -> Columns:
    p = values.shape[1]
    even = weight is None or bool(np.all(weight == weight[0]))
    binned = bin_features(values, np.zeros(p, bool), max_bins, None if even else weight, threads)
    offset = np.concatenate(([0], np.cumsum(np.maximum(binned.num_bins, 1)))).astype(np.int64)
    lower, upper = np.full(offset[-1], np.inf, np.float32), np.full(offset[-1], -np.inf, np.float32)
    _limits(values, binned.columns, np.ones(1) if weight is None else weight, offset, lower, upper)
    codes = binned.columns.astype(np.int32)
    codes[codes == MISSING_BIN] = -1
    return Columns(codes, lower, upper, offset, np.zeros(p, bool))


@njit(nogil=True, error_model="numpy")
def _limits(values, columns, weight, offset, lower, upper):
    """Least and greatest value in each bin, of the rows that weigh something."""
    for j in range(len(columns)):
        for i in range(len(values)):
            code = columns[j, i]
            if code != MISSING_BIN and (len(weight) == 1 or weight[i] > 0.0):
                at = offset[j] + code
                lower[at] = min(lower[at], values[i, j])
                upper[at] = max(upper[at], values[i, j])


def _bin(column: np.ndarray, max_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    edges = numeric_edges(column, max_bins)
    codes = np.searchsorted(edges, column).astype(np.int32)
    codes[np.isnan(column)] = -1
    if len(edges) == 0:
        edge = np.zeros(1, np.float32)
        return codes, edge, edge
    # A cut between bins a < b lies on an edge: middle of upper[a] and lower[b] when b = a + 1.
    return codes, np.append(edges[:1], edges), np.append(edges, edges[-1:])


def _rank_targets(target: np.ndarray) -> np.ndarray:
    return np.unique(target, return_inverse=True)[1].astype(np.int32)


def grow_cart(
    values: np.ndarray | Columns,
    target: np.ndarray,
    weight: np.ndarray,
    *,
    criterion: str = "squared_error",
    num_classes: int | None = None,
    max_depth: int | None = None,
    min_samples_split: int = 2,
    min_samples_leaf: int = 1,
    min_weight_fraction_leaf: float = 0.0,
    max_features: int | None = None,
    max_leaf_nodes: int | None = None,
    min_impurity_decrease: float = 0.0,
    monotone: np.ndarray | None = None,
    categorical: np.ndarray | None = None,
    splitter: str = "best",
    shuffle: bool = False,
    target_rank: np.ndarray | None = None,
    seed: int = 0,
    fast: bool = True,
) -> Tree:
    """Grows one tree on the rows of positive weight.

    Args:
        values: float32 (n, p), or the result of `rank_columns` to share it between trees.
        target: Class codes 0..K-1 or numbers, (n,).
        weight: float64 (n,), >= 0.
        criterion: "gini", "entropy", "log_loss", "squared_error", "friedman_mse" (for one
            output the same order of splits), "poisson" or "absolute_error".
        num_classes: K, for a classification criterion; None: the highest code and one.
        max_depth: A node this deep is a leaf; None for no limit.
        min_samples_split: A node with fewer rows is a leaf.
        min_samples_leaf: Both sides of a split have at least so many rows.
        min_weight_fraction_leaf: Both sides have at least this share of the total weight.
        max_features: Columns looked at in each node, constant ones not counted.
        max_leaf_nodes: Grow best first up to this many leaves; None grows depth first.
        min_impurity_decrease: In units of the weighted decrease above.
        monotone: int8 (p,), 1: not falling, -1: not rising (the value, or the share of class 1).
        categorical: bool (p,), if `values` is a matrix.
        splitter: "best", or "random": one random cut for each column tried.
        shuffle: Try the columns in random order; set by `max_features` < p.
        target_rank: int32 (n,), ranks of the targets, to share between trees; only the
            absolute error uses them.
        seed: Seeds the random choices of this tree.
        fast: Leave trees that `grow_fast_cart` can grow to it.
    """
    columns = values if isinstance(values, Columns) else rank_columns(values, categorical)
    p = len(columns.codes)
    kind = CRITERIA[criterion]
    classes = 0
    if criterion in CLASS_CRITERIA:
        classes = int(target.max()) + 1 if num_classes is None else num_classes
    features = p if max_features is None else min(max_features, p)
    shuffle = bool(shuffle or features < p)
    depth = 2**31 if max_depth is None else max_depth
    if (
        fast
        and takes(criterion, splitter, max_leaf_nodes, monotone, columns.categorical)
        and (depth > _SHALLOW or np.diff(columns.offset).max(initial=0) <= MISSING_BIN)
    ):
        return grow_fast_cart(
            columns.fast(), target, weight, classes=classes, max_depth=depth,
            min_samples_split=min_samples_split, min_samples_leaf=min_samples_leaf,
            min_weight_leaf=float(min_weight_fraction_leaf * weight.sum()),
            max_features=features, shuffle=shuffle, min_impurity_decrease=min_impurity_decrease,
            seed=seed,
        )  # fmt: skip
    inside = np.flatnonzero(weight > 0)
    rules = Rules(
        criterion=kind,
        num_classes=classes,
        max_depth=depth,
        min_samples_split=max(min_samples_split, 2),
        min_samples_leaf=max(min_samples_leaf, 1),
        max_features=max(features, 1),
        max_leaves=max_leaf_nodes or 0,
        random_cuts=splitter == "random",
        shuffle=shuffle,
        min_weight_leaf=float(min_weight_fraction_leaf * weight.sum()),
        min_gain=float(min_impurity_decrease),
    )
    if target_rank is None:
        target_rank = _rank_targets(target) if kind == ABSOLUTE else np.zeros(0, np.int32)
    if monotone is None:
        monotone = np.zeros(p, np.int8)
    table = Table(
        columns.codes, columns.lower, columns.upper, columns.offset, columns.categorical,
        np.array(monotone, np.int8), target_rank,
    )  # fmt: skip
    sizes = np.diff(columns.offset)[columns.categorical]
    most = int(sizes.max(initial=0))
    words = (most + 31) // 32
    work = _workspace(inside, target, weight, classes, most, kind == ABSOLUTE, seed)
    whole, real, bits = node.grow_nodes(table, rules, work, words)
    return _as_tree(whole, real, bits, np.diff(columns.offset), classes)


def _workspace(
    inside: np.ndarray, target: np.ndarray, weight: np.ndarray, classes: int, categories: int,
    medians: bool, seed: int,
) -> Work:  # fmt: skip
    m = len(inside)
    wide = max(m, categories)
    ranked = m if medians else 0
    return Work(
        row=inside.astype(np.int32),
        target=target[inside].astype(np.float64),
        weight=weight[inside].astype(np.float64),
        response=np.zeros(m),
        code=np.zeros(m, np.int32),
        key=np.zeros(m, np.int64),
        key2=np.zeros(m, np.int64),
        digit=np.zeros(256, np.int64),
        bins=np.zeros(max(4 * m + 16, 2 * categories)),
        bin_count=np.zeros(max(4 * m + 16, 2 * categories), np.int32),
        total=np.zeros(max(classes, 1)),
        left=np.zeros(max(classes, 1)),
        missing=np.zeros(max(classes, 1)),
        position=np.zeros(categories, np.int32),
        score=np.zeros(wide),
        sorted_target=np.zeros(ranked),
        sequence=np.zeros(wide, np.int32),
        rank=np.zeros(ranked, np.int32),
        error=np.zeros((2, ranked)),
        median=np.zeros((2, ranked)),
        fenwick=np.zeros((2, ranked + 1)),
        random=np.array([seed % 2**64], np.uint64),
    )


def _as_tree(
    whole: np.ndarray, real: np.ndarray, bits: np.ndarray, num_codes: np.ndarray, classes: int
) -> Tree:
    """Cuts the kernel's tables into the arrays of a `Tree`; unused splits become leaves."""
    inner = whole[:, node.LEFT] > 0
    feature = np.where(inner, whole[:, node.FEATURE], LEAF).astype(np.int32)
    sets = inner & (whole[:, node.CATEGORY] >= 0)
    size = np.where(sets, (num_codes[feature] + 31) // 32, 0).astype(np.int32)
    start = np.where(sets, whole[:, node.CATEGORY] * bits.shape[1], -1).astype(np.int32)
    return Tree(
        feature=feature,
        threshold=np.where(inner & ~sets, real[:, node.THRESHOLD], 0.0).astype(np.float32),
        left=whole[:, node.LEFT].astype(np.int32),
        missing_left=inner & (whole[:, node.MISSING_LEFT] == 1),
        value=real[:, node.VALUE : node.VALUE + max(classes, 1)].copy(),
        gain=np.where(inner, real[:, node.GAIN], 0.0),
        cover=real[:, node.COVER].copy(),
        count=whole[:, node.COUNT].astype(np.int32),
        category_start=start,
        category_size=size,
        category_bits=bits.ravel(),
        impurity=real[:, node.IMPURITY].copy(),
    )
