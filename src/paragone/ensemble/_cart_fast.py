r"""Full trees at the speed of the caches: the same CART, for the criteria that forests use.

Takes Gini impurity and least squares on numeric columns, grown depth first, with every other
option of `grow_cart`; the rest (`takes` says what) is for `grow_cart`, which is the reference
that the tests hold this against.

What a node is worth follows from its leaves, so only leaves are measured and inner nodes are
completed from them, level by level: counts and covers add up, a mean is the mean of the
children's means, and a split's fall of impurity is

$$ \Delta_t = \frac{1}{W} \frac{W_L W_R}{W_t} \sum_k (v_{Lk} - v_{Rk})^2 $$

with v the class shares (Gini) or the mean (least squares).

N nodes, K classes, n rows, p columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from paragone.ensemble._binning import LAST_THRESHOLD
from paragone.ensemble._cart_grow import WAITING, grow_fast
from paragone.ensemble._cart_rows import LOCAL, MISSING, Desk, Limits, Nodes, Rows, Sheet
from paragone.ensemble._cart_vectors import LANES
from paragone.ensemble._tree import LEAF, Tree
from paragone.kernels.jit import njit

__all__ = ["FastTable", "complete", "fast_table", "fill_means", "grow_fast_cart", "takes"]


def takes(
    criterion: str, splitter: str, max_leaf_nodes: int | None, monotone: np.ndarray | None,
    categorical: np.ndarray,
) -> bool:  # fmt: skip
    """Whether `grow_fast_cart` grows such trees."""
    return (
        criterion in ("gini", "squared_error", "friedman_mse")
        and splitter == "best"
        and max_leaf_nodes is None
        and (monotone is None or not np.any(monotone))
        and not np.any(categorical)
    )


_SHARED = 2048
"""Most histograms, of 4 KiB each, that are kept to be subtracted from."""


@dataclass(slots=True)
class FastTable:
    """Columns as codes, shared by all trees of an ensemble.

    Attributes:
        sheet: The codes.
        lower, upper: float32, least and greatest value of each code, column after column.
        offset: int64 (p + 1,), where a column's codes begin.
        spare: Scratch space that no tree uses now, one for each thread that grew one.
    """

    sheet: Sheet
    lower: np.ndarray
    upper: np.ndarray
    offset: np.ndarray
    spare: list[tuple[Rows, Nodes, Desk]] = field(default_factory=list, repr=False)


def fast_table(
    codes: np.ndarray, lower: np.ndarray, upper: np.ndarray, offset: np.ndarray
) -> FastTable:
    """Makes a table of `Columns`' codes, int32 (p, n), -1 where missing; bytes if they fit."""
    sizes = np.diff(offset).astype(np.int64)
    if np.any(sizes > MISSING):
        narrow, wide = np.zeros(codes.shape, np.uint8), codes
        for f in np.flatnonzero(sizes <= MISSING):
            narrow[f] = codes[f]
    else:
        # -1 becomes 255 in a byte.
        narrow, wide = codes.astype(np.uint8), np.zeros((1, 0), np.int32)
    return FastTable(Sheet(narrow, wide, sizes), lower, upper, offset)


def grow_fast_cart(
    table: FastTable, target: np.ndarray, weight: np.ndarray, *, classes: int, max_depth: int,
    min_samples_split: int, min_samples_leaf: int, min_weight_leaf: float, max_features: int,
    shuffle: bool, min_impurity_decrease: float, seed: int,
) -> Tree:  # fmt: skip
    """Grows one tree on the rows of positive weight; see `grow_cart`, 0 classes: regression."""
    n, p = table.sheet.narrow.shape[1], len(table.sheet.num_codes)
    several = classes if classes > 2 else 0
    limits = Limits(
        several, max_depth, max(min_samples_split, 2), max(min_samples_leaf, 1),
        max(max_features, 1), shuffle, float(min_weight_leaf), float(min_impurity_decrease),
    )  # fmt: skip
    # Making some forty arrays takes as long as a small tree; `pop` and `append` are atomic.
    try:
        rows, nodes, desk = table.spare.pop()
    except IndexError:
        rows, nodes, desk = _rows(n), _nodes(2 * n, max(several, 1)), _desk(p, n, several)
    if len(desk.totals) != max(several, 1):
        nodes, desk = _nodes(2 * n, max(several, 1)), _desk(p, n, several)
    # Histograms of all columns pay where all are looked at in every node.
    levels = 3 + (n // LOCAL).bit_length()
    if several or max_features < p or table.sheet.wide.size or p * levels > _SHARED:
        levels = 0
    if len(desk.bins) != levels:
        desk = desk._replace(bins=np.empty((levels, p, 2 * MISSING + 2)))
    used = grow_fast(
        table.sheet, limits, rows, nodes, desk, target, weight, classes, np.uint64(seed)
    )  # fmt: skip
    tree = _as_tree(table, nodes, used, classes)
    table.spare.append((rows, nodes, desk))
    return tree


def _rows(n: int) -> Rows:
    return Rows(
        np.empty(n, np.int32), np.empty(n), np.empty(2 * n),
        np.empty(n, np.int32), np.empty(n), np.empty(2 * n),
    )  # fmt: skip


def _nodes(room: int, width: int) -> Nodes:
    return Nodes(
        feature=np.empty(room, np.int32),
        left=np.empty(room, np.int32),
        missing_left=np.empty(room, np.bool_),
        low=np.empty(room, np.int32),
        high=np.empty(room, np.int32),
        count=np.empty(room, np.int32),
        cover=np.empty(room),
        value=np.empty((room, width)),
        threshold=np.empty(0, np.float32),
        impurity=np.empty(room),
    )


def _desk(p: int, n: int, classes: int) -> Desk:
    wide, long = 256 + LANES, max(n, LOCAL + 1, classes + 1)
    ones = np.ones(2 * wide)
    return Desk(
        local=np.empty((p, LOCAL + 1), np.uint8),
        held=np.zeros(p + 1, np.int64),
        ids=np.empty(LOCAL + 1, np.uint8),
        spare_ids=np.empty(LOCAL + 1, np.uint8),
        code=np.empty(wide, np.uint8),
        cuts=np.empty(wide, np.uint8),
        weight=np.empty(wide),
        left=np.empty(wide),
        right=np.empty(wide),
        gain=np.empty(wide),
        count=np.empty(wide),
        sums=np.empty(1024),
        ones=ones,
        key=np.empty(long, np.int64),
        key2=np.empty(long, np.int64),
        digit=np.empty(256, np.int64),
        totals=np.empty(max(classes, 1)),
        part=np.empty(max(classes, 1)),
        order=np.arange(p, dtype=np.int32),
        swaps=np.empty(p, np.int32),
        best=np.empty(2),
        cut=np.empty(3, np.int64),
        stream=np.empty(1, np.uint64),
        waiting=np.empty((WAITING, 4), np.int64),
        numbers=np.empty((WAITING + 3, 4)),
        seeds=np.empty(WAITING, np.uint64),
        constants=np.zeros((WAITING + 1, (p + 63) // 64), np.uint64),
        opened=np.empty(2, np.bool_),
        bins=np.empty((0, p, 2 * MISSING + 2)),
    )


@njit(nogil=True, error_model="numpy")
def _finish(nodes, classes, lower, upper, offset, last, order, out, gain):
    """Writes the nodes level by level, siblings together, with thresholds and shares."""
    order[0] = 0
    used = 1
    for at in range(len(order)):
        node = order[at]
        cover = nodes.cover[node]
        out.cover[at], out.count[at] = cover, nodes.count[node]
        # The kernel hands over W times the sum of squares, half the Gini impurity.
        scale = 1.0 if classes > 2 else (2.0 if classes == 2 else 1.0) / cover
        out.impurity[at] = scale * nodes.impurity[node]
        if classes > 2:
            for k in range(classes):
                out.value[at, k] = nodes.value[node, k] / cover
        elif classes == 2:
            out.value[at, 0], out.value[at, 1] = 1.0 - nodes.value[node, 0], nodes.value[node, 0]
        else:
            out.value[at, 0] = 1.0 if classes == 1 else nodes.value[node, 0]
        f = nodes.feature[node]
        out.feature[at], out.left[at], out.threshold[at] = f, 0, 0.0
        out.missing_left[at] = False
        if f < 0:
            continue
        order[used], order[used + 1] = nodes.left[node], nodes.left[node] + 1
        out.left[at], out.missing_left[at] = used, nodes.missing_left[node]
        used += 2
        if nodes.high[node] < 0:
            out.threshold[at] = last
            continue
        low, high = upper[offset[f] + nodes.low[node]], lower[offset[f] + nodes.high[node]]
        middle = np.float32(np.float64(low) * 0.5 + np.float64(high) * 0.5)
        # Never as large as the right value.
        out.threshold[at] = middle if middle < high else low
    if classes == 0:
        fill_means(out.left, out.cover, out.value)
    _fill_gains(out.feature, out.left, out.cover, out.value, gain)


def _as_tree(table: FastTable, nodes: Nodes, used: int, classes: int) -> Tree:
    # `low`, `high` are not written; they are there so that one type serves both.
    out = Nodes(
        feature=np.empty(used, np.int32), left=np.empty(used, np.int32),
        missing_left=np.empty(used, np.bool_), low=nodes.low, high=nodes.high,
        count=np.empty(used, np.int32), cover=np.empty(used),
        value=np.empty((used, max(classes, 1))), threshold=np.empty(used, np.float32),
        impurity=np.empty(used),
    )  # fmt: skip
    gain = np.empty(used)
    _finish(
        nodes, classes, table.lower, table.upper, table.offset, LAST_THRESHOLD,
        np.empty(used, np.int32), out, gain,
    )  # fmt: skip
    return Tree(
        feature=out.feature, threshold=out.threshold, left=out.left,
        missing_left=out.missing_left, value=out.value, gain=gain, cover=out.cover,
        count=out.count, category_start=np.full(used, -1, np.int32),
        category_size=np.zeros(used, np.int32), impurity=out.impurity,
    )  # fmt: skip


@njit(nogil=True, error_model="numpy")
def fill_means(left, cover, value):
    """Makes each inner node's value the weighted mean of its children's, from the leaves up."""
    for node in range(len(left) - 1, -1, -1):
        one = left[node]
        if one > 0:
            for k in range(value.shape[1]):
                value[node, k] = (
                    cover[one] * value[one, k] + cover[one + 1] * value[one + 1, k]
                ) / cover[node]


def complete(tree: Tree) -> None:
    """Fills the gains of a tree of this file from its covers and values."""
    _fill_gains(tree.feature, tree.left, tree.cover, tree.value, tree.gain)


@njit(nogil=True, error_model="numpy")
def _fill_gains(feature, left, cover, value, gain):
    for node in range(len(feature)):
        gain[node] = 0.0
        if feature[node] == LEAF:
            continue
        one = left[node]
        squares = 0.0
        for k in range(value.shape[1]):
            away = value[one, k] - value[one + 1, k]
            squares += away * away
        gain[node] = cover[one] * cover[one + 1] / cover[node] * squares / cover[0]
