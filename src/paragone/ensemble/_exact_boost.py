r"""Exact greedy growth on pre-sorted columns: every cut between two values is tried.

Level by level, each column is walked once in sorted order; a running sum per node gives all cuts
of all nodes of the level. The tree grows to its full depth and is then pruned from the bottom:
a split whose children are leaves and whose gain is below `gamma` is undone. So a weak split
survives above a strong one (an exclusive-or needs that), unlike in `_grow`, which refuses it.

Rows with a missing value are tried on either side; a node that saw none sends them to the child
with more weight. Splits that gain no more than 1e-6 are not made, as in XGBoost.

Cost: one sort per column and fit, then O(n p) per level. It is the yardstick for the histogram
method, and the better choice below a few thousand rows when each threshold matters.

References:
    Chen & Guestrin (2016), "XGBoost", algorithm 1 (exact) and 3 (sparsity-aware).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paragone.ensemble._binning import LAST_THRESHOLD
from paragone.ensemble._grow import GrowParams, set_matrix
from paragone.ensemble._sampling import draw_columns
from paragone.ensemble._split import node_weight, score
from paragone.ensemble._tree import LEAF, Tree
from paragone.kernels.jit import njit

__all__ = ["SortedColumns", "grow_exact", "sort_columns"]

_LEAST_GAIN = 1e-6


@dataclass(slots=True)
class SortedColumns:
    """Columns of a table in sorted order.

    Attributes:
        values: float32 (p, n), column-major values, NaN missing.
        order: int32 (p, n), rows by increasing value, the missing ones last.
        known: int64 (p,), rows with a value.
    """

    values: np.ndarray
    order: np.ndarray
    known: np.ndarray


def sort_columns(values: np.ndarray) -> SortedColumns:
    """Sorts each column of float32 (n, p) once for all trees."""
    columns = np.ascontiguousarray(values.T)
    order = np.argsort(columns, axis=1, kind="stable").astype(np.int32)
    return SortedColumns(columns, order, (~np.isnan(columns)).sum(axis=1))


@njit(nogil=True, error_model="numpy")
def _consider(best, s, left, total, rule, sign, bounds, column, threshold, missing_left):
    """Keeps the cut (threshold, missing side) of node s if it beats the node's best so far."""
    lam, alpha, step, least, rows = rule
    gl, hl, cl = left[0], left[1], left[2]
    gr, hr, cr = total[0] - gl, total[1] - hl, total[2] - cl
    if hl < least or hr < least or cl < rows or cr < rows:
        return
    low, high = bounds[0], bounds[1]
    wl = node_weight(gl, hl, lam, alpha, step, low, high)
    wr = node_weight(gr, hr, lam, alpha, step, low, high)
    if (wr - wl) * sign < 0.0:
        return
    whole = node_weight(total[0], total[1], lam, alpha, step, low, high)
    gain = score(gl, hl, wl, lam, alpha) + score(gr, hr, wr, lam, alpha)
    # Equal partitions by different columns differ in the last bits: float32 makes them tie.
    gain = np.float64(np.float32(gain - score(total[0], total[1], whole, lam, alpha)))
    if gain > best[s, 0]:
        best[s, 0], best[s, 1], best[s, 2] = gain, column, threshold
        best[s, 3] = missing_left
        best[s, 4], best[s, 5] = wl, wr


@njit(nogil=True, error_model="numpy")
def _middle(low, high):
    cut = np.float32(low * np.float32(0.5) + high * np.float32(0.5))
    return low if cut < low or cut >= high else cut


@njit(nogil=True, error_model="numpy")
def _scan_column(
    values, order, known, slot, gradient, hessian, total, allowed, column, rule, sign, bounds, best
):
    m = len(total)
    running, last = np.zeros((m, 3)), np.zeros(m, np.float32)
    back = best.copy()
    # From the top: what runs is the right child, and the missing rows stay on the left.
    for i in range(known - 1, -1, -1):
        row = order[i]
        s = slot[row]
        if s < 0 or allowed[s] == 0:
            continue
        x = values[row]
        if running[s, 2] > 0.0 and x != last[s]:
            _consider(back, s, total[s] - running[s], total[s], rule, sign, bounds[s], column,
                      _middle(x, last[s]), 1.0)  # fmt: skip
        running[s, 0] += gradient[row]
        running[s, 1] += hessian[row]
        running[s, 2] += 1.0
        last[s] = x
    gaps = False
    for s in range(m):
        gaps = gaps or 0.0 < running[s, 2] < total[s, 2]
    if not gaps:
        best[:] = back
        return
    full = running.copy()
    running[:] = 0.0
    for i in range(known):
        row = order[i]
        s = slot[row]
        if s < 0 or allowed[s] == 0 or full[s, 2] == total[s, 2]:
            continue
        x = values[row]
        if running[s, 2] > 0.0 and x != last[s]:
            _consider(best, s, running[s], total[s], rule, sign, bounds[s], column,
                      _middle(last[s], x), 0.0)  # fmt: skip
        running[s, 0] += gradient[row]
        running[s, 1] += hessian[row]
        running[s, 2] += 1.0
        last[s] = x
    for s in range(m):
        if 0.0 < full[s, 2] < total[s, 2]:
            _consider(best, s, full[s], total[s], rule, sign, bounds[s], column,
                      LAST_THRESHOLD, 0.0)  # fmt: skip
        if back[s, 0] > best[s, 0]:
            best[s] = back[s]


class _Growth:
    """Nodes of the tree so far, as growing lists of arrays, one entry a level."""

    def __init__(self, capacity: int, width: int, sets: np.ndarray) -> None:
        self.feature = np.full(capacity, LEAF, np.int32)
        self.threshold = np.zeros(capacity, np.float32)
        self.left = np.zeros(capacity, np.int32)
        self.missing_left = np.zeros(capacity, np.bool_)
        self.gain = np.zeros(capacity)
        self.sums = np.zeros((capacity, 3))
        self.bounds = np.full((capacity, 2), (-np.inf, np.inf))
        self.sets = sets
        held = capacity if len(sets) else 1
        self.open_sets = np.ones((held, len(sets)), np.bool_)
        self.paths = np.zeros((held, width), np.bool_)

    def ensure(self, size: int) -> None:
        for name in ("feature", "threshold", "left", "missing_left", "gain", "sums", "bounds"):
            self._enlarge(name, size)
        if len(self.sets):
            self._enlarge("open_sets", size)
            self._enlarge("paths", size)

    def _enlarge(self, name: str, size: int) -> None:
        array = getattr(self, name)
        if len(array) >= size:
            return
        bigger = np.zeros((2 * size, *array.shape[1:]), array.dtype)
        if name == "feature":
            bigger[:] = LEAF
        bigger[: len(array)] = array
        setattr(self, name, bigger)


def grow_exact(
    table: SortedColumns,
    gradient: np.ndarray,
    hessian: np.ndarray,
    rows: np.ndarray | None,
    params: GrowParams,
    seed: int = 0,
) -> tuple[Tree, np.ndarray]:
    """Grows one tree depth-wise by exact search and prunes it; see `grow_histogram`."""
    p, n = table.values.shape
    inside = np.ones(n, np.bool_)
    if rows is not None:
        inside[:] = False
        inside[rows] = True
    if not (np.isfinite(gradient[inside]).all() and np.isfinite(hessian[inside]).all()):
        raise ValueError("a gradient or hessian is not finite: check the targets and the objective")
    growth = _Growth(64, p, set_matrix(params.interactions, p))
    leaf, slot = np.zeros(n, np.int32), np.where(inside, 0, -1).astype(np.int32)
    level, used, depth = np.zeros(1, np.int64), 1, 0
    limit = params.max_depth if params.max_depth > 0 else n
    while True:
        totals = _totals(slot, gradient, hessian, len(level))
        growth.sums[level] = totals
        best = np.zeros((len(level), 6))
        if depth < limit:
            _search(
                table, growth, level, depth, slot, gradient, hessian, totals, params, seed, best
            )
        split = best[:, 0] > _LEAST_GAIN
        if not split.any():
            break
        parents = level[split]
        growth.ensure(used + 2 * len(parents))
        children = used + 2 * np.arange(len(parents), dtype=np.int64)
        _open(growth, parents, children, best[split], params.monotone)
        leaf, sides = _route(table, growth, leaf, level, split)
        _missing_sides(growth, parents, sides, leaf, inside, hessian, table)
        used += 2 * len(parents)
        level = np.arange(used - 2 * len(parents), used)
        slot = np.where(inside & (leaf >= level[0]), leaf - level[0], -1).astype(np.int32)
        depth += 1
    return _finish(growth, used, leaf, params)


def _totals(slot, gradient, hessian, size):
    held = np.flatnonzero(slot >= 0)
    place = slot[held]
    return np.stack(
        [
            np.bincount(place, gradient[held], minlength=size),
            np.bincount(place, hessian[held], minlength=size),
            np.bincount(place, minlength=size).astype(np.float64),
        ],
        axis=1,
    )


def _search(table, growth, level, depth, slot, gradient, hessian, totals, params, seed, best):
    p = len(table.known)
    columns = np.arange(p, dtype=np.int32) if params.columns is None else params.columns
    allowed = np.zeros((p, len(level)), np.uint8)
    per_level = max(1, int(params.colsample_level * len(columns)))
    per_node = max(1, int(params.colsample_node * per_level))
    for s, node in enumerate(level):
        allowed[:, s] = draw_columns(columns, p, per_level, per_node, seed, depth, int(node))
    if len(growth.sets):
        meets = (growth.open_sets[level].astype(np.int64) @ growth.sets > 0) | growth.paths[level]
        if depth == 0:
            meets[:] = True
        allowed &= meets.T
    step = params.max_delta_step if params.max_delta_step > 0 else np.inf
    rule = (
        float(params.reg_lambda), float(params.reg_alpha), float(step),
        float(params.min_child_weight) * (1 - 1e-9), float(params.min_samples_leaf),
    )  # fmt: skip
    for j in columns:
        if allowed[j].any():
            sign = 0.0 if params.monotone is None else float(params.monotone[j])
            _scan_column(
                table.values[j], table.order[j], int(table.known[j]), slot, gradient, hessian,
                totals, allowed[j], float(j), rule, sign, growth.bounds[level], best,
            )  # fmt: skip


def _open(growth, parents, children, best, monotone):
    growth.gain[parents] = best[:, 0]
    growth.feature[parents] = best[:, 1].astype(np.int32)
    growth.threshold[parents] = best[:, 2].astype(np.float32)
    growth.missing_left[parents] = best[:, 3] > 0
    growth.left[parents] = children
    for side in (0, 1):
        growth.bounds[children + side] = growth.bounds[parents]
    if monotone is not None:
        sign, middle = monotone[growth.feature[parents]], 0.5 * (best[:, 4] + best[:, 5])
        for side, grows in ((0, 1), (1, -1)):
            upper, lower = sign == grows, sign == -grows
            growth.bounds[children[upper] + side, 1] = middle[upper]
            growth.bounds[children[lower] + side, 0] = middle[lower]
    if len(growth.sets):
        for side in (0, 1):
            below = children + side
            growth.paths[below] = growth.paths[parents]
            growth.paths[below, growth.feature[parents]] = True
            held = growth.sets[:, growth.feature[parents]].T > 0
            growth.open_sets[below] = growth.open_sets[parents] & held


def _route(table, growth, leaf, level, split):
    """Moves every row one level down; returns the new nodes and which rows had no value."""
    moving = np.isin(leaf, level[split])
    rows = np.flatnonzero(moving)
    node = leaf[rows]
    x = table.values[growth.feature[node], rows]
    missing = np.isnan(x)
    left = np.where(missing, growth.missing_left[node], x <= growth.threshold[node])
    leaf = leaf.copy()
    leaf[rows] = growth.left[node] + ~left
    return leaf, (rows[missing], node[missing])


def _missing_sides(growth, parents, sides, leaf, inside, hessian, table):
    """Where a node saw no missing row, sends later ones to the child with more weight."""
    rows, node = sides
    seen = np.zeros(len(growth.feature), np.bool_)
    seen[node[inside[rows]]] = True
    held = np.flatnonzero(inside)
    weight = np.bincount(leaf[held], hessian[held], minlength=len(growth.feature))
    fresh = parents[~seen[parents]]
    first = growth.left[fresh]
    growth.missing_left[fresh] = weight[first] >= weight[first + 1]
    outside = ~seen[node]
    leaf[rows[outside]] = growth.left[node[outside]] + ~growth.missing_left[node[outside]]


def _finish(growth, used, leaf, params) -> tuple[Tree, np.ndarray]:
    feature, left = growth.feature[:used].copy(), growth.left[:used].copy()
    for node in range(used - 1, -1, -1):
        if feature[node] == LEAF or growth.gain[node] >= params.gamma:
            continue
        if feature[left[node]] == LEAF and feature[left[node] + 1] == LEAF:
            feature[node], left[node] = LEAF, 0
    # Nodes that are still reached, renumbered with siblings together; others fall to an ancestor.
    place = np.zeros(used, np.int32)
    kept, at = [0], 0
    while at < len(kept):
        node = kept[at]
        if feature[node] != LEAF:
            for child in (left[node], left[node] + 1):
                place[child] = len(kept)
                kept.append(int(child))
        at += 1
    reached = np.zeros(used, np.bool_)
    reached[kept] = True
    for node in range(used):
        first = growth.left[node]
        if first > 0 and not reached[first]:
            place[first : first + 2] = place[node]
    keep = np.array(kept)
    step = params.max_delta_step if params.max_delta_step > 0 else np.inf
    value = np.array(
        [
            node_weight(g, h, float(params.reg_lambda), float(params.reg_alpha), step, low, high)
            for (g, h, _), (low, high) in zip(growth.sums[keep], growth.bounds[keep], strict=True)
        ]
    )
    inner = feature[keep] != LEAF
    tree = Tree(
        feature=feature[keep],
        threshold=np.where(inner, growth.threshold[keep], 0).astype(np.float32),
        left=np.where(inner, place[left[keep]], 0).astype(np.int32),
        missing_left=growth.missing_left[keep] & inner,
        value=params.learning_rate * value[:, None],
        gain=np.where(inner, growth.gain[keep], 0.0),
        cover=growth.sums[keep, 1].copy(),
        count=growth.sums[keep, 2].astype(np.int32),
        category_start=np.full(len(keep), -1, np.int32),
        category_size=np.zeros(len(keep), np.int32),
    )
    return tree, place[leaf]
