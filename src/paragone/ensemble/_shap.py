r"""Exact Shapley values of trees: what each column contributed to one prediction.

The game: a set $S$ of columns is known, and $v(S)$ is the tree's mean prediction where a split
on an unknown column sends the row both ways, in proportion to the training cover of the
children (Lundberg's "path dependent" value function). A leaf with value $v$ and unique columns
$1 \dots m$ on its path contributes the product game

$$ v \prod_{i \in S} o_i \prod_{i \notin S} z_i , $$

$o_i \in \{0, 1\}$: the row passes all splits of the path on column $i$; $z_i$: the fraction of
cover that does. The paper expands the product coefficient by coefficient (EXTEND, UNWIND).
Owen's integral gives the same number with no unwinding and hence no cancellation:

$$ \phi_i = v \, (o_i - z_i) \int_0^1 \prod_{j \ne i} \big( (1-q) z_j + q\, o_j \big) \, dq , $$

a polynomial of degree $m - 1$ that Gauss-Legendre integrates exactly with $\lceil m/2 \rceil$
points; every factor is positive. Interactions are the same integral without two columns:

$$ \Phi_{ij} = \tfrac{v}{2} (o_i - z_i)(o_j - z_j) \int_0^1 \prod_{l \ne i,j} (\cdot) \, dq ,
   \qquad \Phi_{ii} = \phi_i - \sum_{j \ne i} \Phi_{ij} . $$

The last column is the expected value $v(\emptyset)$: a row's values sum to its raw prediction.

Cost: $O(T L D^2)$ a row for T trees of L leaves and depth D (interactions: $O(T L D^3)$).

References:
    Lundberg, Erion, Lee (2018), "Consistent individualized feature attribution for tree
    ensembles", arXiv:1802.03888, algorithm 2 and section 4 (interactions).
    Owen (1972), "Multilinear extensions of games", Management Science 18, theorem 5.
    Mitchell, Frank, Holmes (2022), "GPUTreeShap", PeerJ CS 8:e880 (leaf paths as units).

n rows, p columns, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from paragone.ensemble._threads import num_threads
from paragone.ensemble._tree import LEAF, Tree
from paragone.kernels.jit import njit

__all__ = ["linear_shap", "shap_interactions", "shap_values"]

_jit = njit(cache=True, nogil=True, error_model="numpy")


def shap_values(
    trees: Sequence[Tree] | Sequence[Sequence[Tree]],
    values: np.ndarray,
    *,
    scale: float | np.ndarray = 1.0,
    baseline: float | np.ndarray = 0.0,
    n_jobs: int | None = None,
) -> np.ndarray:
    """Returns (n, p+1) for one output or (n, K, p+1); the last column is the expected value.

    Args:
        trees: A list of trees that all add to the same outputs, or a list of rounds of K
            trees with one output each (tree k of a round adds to output k).
        values: float32 (n, p), as the door gives them (categories as codes, NaN missing).
        scale: Factor of every tree, or one for each tree or round: a learning rate, 1/T of a
            forest, the weights of DART. A matrix (rounds, K) weighs each tree of a round.
        baseline: Constant or (K,) that the raw prediction starts from.
        n_jobs: Threads; rows are independent, so the result does not depend on it.
    """
    return _explain(trees, values, scale, baseline, n_jobs, pairs=False)


def shap_interactions(
    trees: Sequence[Tree] | Sequence[Sequence[Tree]],
    values: np.ndarray,
    *,
    scale: float | np.ndarray = 1.0,
    baseline: float | np.ndarray = 0.0,
    n_jobs: int | None = None,
) -> np.ndarray:
    """Returns SHAP interaction values, (n, p+1, p+1) or (n, K, p+1, p+1); see `shap_values`.

    Row i sums to the SHAP value of column i; the last entry is the expected value.
    """
    return _explain(trees, values, scale, baseline, n_jobs, pairs=True)


def linear_shap(
    values: np.ndarray,
    coef: np.ndarray,
    intercept: np.ndarray | float,
    mean: np.ndarray | float = 0.0,
) -> np.ndarray:
    r"""Shapley values of a linear model, $\phi_i = w_i (x_i - \bar x_i)$, in the same layout.

    Args:
        values: (n, p); a missing value counts as 0, as in a linear booster.
        coef: (p,) or (K, p).
        intercept: Number or (K,).
        mean: Background of the columns; 0 gives XGBoost's contributions of `gblinear`.
    """
    weights = np.atleast_2d(np.asarray(coef, np.float64))
    present = np.nan_to_num(np.asarray(values, np.float64), nan=0.0) - mean
    out = np.empty((len(present), len(weights), weights.shape[1] + 1))
    out[:, :, :-1] = present[:, None, :] * weights
    background = np.broadcast_to(np.asarray(mean, np.float64), weights.shape[1])
    out[:, :, -1] = np.asarray(intercept, np.float64) + weights @ background
    return out[:, 0] if len(weights) == 1 else out


def _explain(
    trees: Any, values: np.ndarray, scale: Any, baseline: Any, n_jobs: int | None, *, pairs: bool
) -> np.ndarray:
    rounds = [[item] if isinstance(item, Tree) else list(item) for item in trees]
    base = np.atleast_1d(np.asarray(baseline, np.float64))
    per_round = max((len(group) for group in rounds), default=1)
    width = rounds[0][0].value.shape[1] if rounds and rounds[0] else 1
    outputs = max(per_round, width, len(base))
    factors = np.asarray(scale, np.float64)
    if factors.ndim == 1:
        factors = factors[:, None]
    factors = np.broadcast_to(factors, (len(rounds), per_round))

    n, p = values.shape
    values = np.ascontiguousarray(values, np.float32)
    out = np.zeros((n, outputs, (p + 1) ** 2 if pairs else p + 1))
    for group, weights in zip(rounds, factors, strict=True):
        for k, (tree, weight) in enumerate(zip(group, weights, strict=False)):
            first = k if len(group) > 1 else 0
            _add_tree(tree, values, float(weight), first, pairs, num_threads(n_jobs), out)
    out[:, :, -1] += base
    if pairs:
        out = out.reshape(n, outputs, p + 1, p + 1)
        # Rows sum to the SHAP values, which the kernel left on the diagonal.
        columns = np.arange(p)
        total = out[:, :, columns, columns]
        others = out[:, :, :p, :p].sum(axis=3) - total
        out[:, :, columns, columns] = total - others
    return out[:, 0] if outputs == 1 else out


def _add_tree(
    tree: Tree, values: np.ndarray, weight: float, first: int, pairs: bool, threads: int,
    out: np.ndarray,
) -> None:  # fmt: skip
    """Adds one tree's contributions to outputs `first`, `first + 1`, ... of all rows."""
    paths = _paths(tree.feature, tree.left, tree.cover)
    leaves, slot_start = paths[0], paths[5]
    longest = int(np.diff(slot_start).max())
    points, weights = _quadrature(longest)
    leaf_value = np.ascontiguousarray(tree.value[leaves] * weight)
    view = out[:, first : first + leaf_value.shape[1]]

    def work(start: int, stop: int) -> None:
        _contributions(
            values[start:stop], tree.feature, tree.threshold, tree.missing_left,
            tree.category_start, tree.category_size, tree.category_bits, paths, leaf_value,
            points, weights, pairs, view[start:stop],
        )  # fmt: skip

    n = len(values)
    if threads == 1 or n * len(leaves) < 1 << 16:
        work(0, n)
        return
    edges = np.linspace(0, n, threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))


def _quadrature(longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre points and weights on [0, 1]; row r has r points, exact to degree 2r-1."""
    most = max(1, (longest + 1) // 2)
    points = np.zeros((most + 1, most))
    weights = np.zeros((most + 1, most))
    for r in range(1, most + 1):
        x, w = np.polynomial.legendre.leggauss(r)
        points[r, :r], weights[r, :r] = (x + 1) / 2, w / 2
    return points, weights


@_jit
def _paths(feature, left, cover):
    """The path of every leaf: its steps (node, side) and its unique columns with their z.

    Returns leaf ids, step offsets, step nodes, step sides, step slots, slot offsets, slot
    columns, slot fractions.
    """
    size = len(feature)
    parent = np.full(size, -1, np.int32)
    depth = np.zeros(size, np.int32)
    leaves = 0
    steps = 0
    for node in range(size):
        if feature[node] == LEAF:
            leaves += 1
            steps += depth[node]
        else:
            for child in range(left[node], left[node] + 2):
                parent[child] = node
                depth[child] = depth[node] + 1
    leaf_id = np.empty(leaves, np.int32)
    step_start = np.zeros(leaves + 1, np.int64)
    step_node = np.empty(steps, np.int32)
    step_right = np.empty(steps, np.bool_)
    step_slot = np.empty(steps, np.int32)
    slot_start = np.zeros(leaves + 1, np.int64)
    slot_column = np.empty(steps, np.int32)
    slot_zero = np.empty(steps, np.float64)
    at = 0
    step = 0
    slots = 0
    for node in range(size):
        if feature[node] != LEAF:
            continue
        leaf_id[at] = node
        begin = slots
        child = node
        while parent[child] >= 0:
            above = parent[child]
            first = left[above]
            total = cover[first] + cover[first + 1]
            share = cover[child] / total if total > 0 else 0.5
            slot = begin
            while slot < slots and slot_column[slot] != feature[above]:
                slot += 1
            if slot == slots:
                slot_column[slot] = feature[above]
                slot_zero[slot] = 1.0
                slots += 1
            slot_zero[slot] *= share
            step_node[step] = above
            step_right[step] = child != first
            step_slot[step] = slot - begin
            step += 1
            child = above
        at += 1
        step_start[at] = step
        slot_start[at] = slots
    return (
        leaf_id, step_start, step_node, step_right, step_slot, slot_start,
        slot_column[:slots].copy(), slot_zero[:slots].copy(),
    )  # fmt: skip


@_jit
def _contributions(
    values, feature, threshold, missing_left, category_start, category_size, category_bits,
    paths, leaf_value, points, weights, pairs, out,
):  # fmt: skip
    """Adds phi (or, with `pairs`, the off-diagonal Phi and phi on the diagonal) of each row."""
    _, step_start, step_node, step_right, step_slot, slot_start, slot_column, slot_zero = paths
    n, p = values.shape
    leaves, outputs = leaf_value.shape
    most = points.shape[1] * 2 + 1
    right = np.zeros(len(feature), np.bool_)
    one = np.empty(most, np.float64)
    factor = np.empty(most, np.float64)
    single = np.empty(most, np.float64)
    double = np.empty((most, most), np.float64)
    stride = p + 2 if pairs else 1
    for row in range(n):
        for node in range(len(feature)):
            if feature[node] == LEAF:
                continue
            x = values[row, feature[node]]
            start = category_start[node]
            missing = np.isnan(x)
            if not missing and start >= 0:
                code = np.int64(x)
                missing = code >= 32 * category_size[node]
                if not missing:
                    word = category_bits[start + (code >> 5)]
                    right[node] = (word >> np.uint32(code & 31)) & np.uint32(1) != 0
            elif not missing:
                right[node] = not x <= threshold[node]
            if missing:
                right[node] = not missing_left[node]
        for leaf in range(leaves):
            begin = slot_start[leaf]
            m = slot_start[leaf + 1] - begin
            one[:m] = 1.0
            for step in range(step_start[leaf], step_start[leaf + 1]):
                if right[step_node[step]] != step_right[step]:
                    one[step_slot[step]] = 0.0
            expected = 1.0
            dead = False
            for s in range(m):
                expected *= slot_zero[begin + s]
                dead |= slot_zero[begin + s] == 0.0 and one[s] == 0.0
                single[s] = 0.0
                if pairs:
                    double[s, :m] = 0.0
            for k in range(outputs):
                out[row, k, -1] += leaf_value[leaf, k] * expected
            # With z = o = 0 for one column, this leaf is worth 0 to every coalition.
            if dead:
                continue
            r = (m + 1) // 2
            for q in range(r):
                product = weights[r, q]
                for s in range(m):
                    z = slot_zero[begin + s]
                    factor[s] = z + points[r, q] * (one[s] - z)
                    product *= factor[s]
                for s in range(m):
                    without = product / factor[s]
                    single[s] += without
                    if pairs:
                        for t in range(s):
                            double[s, t] += without / factor[t]
            for s in range(m):
                delta = one[s] - slot_zero[begin + s]
                column = slot_column[begin + s]
                for k in range(outputs):
                    phi = leaf_value[leaf, k] * delta * single[s]
                    out[row, k, column * stride] += phi
                if pairs:
                    for t in range(s):
                        other = slot_column[begin + t]
                        both = 0.5 * delta * (one[t] - slot_zero[begin + t]) * double[s, t]
                        for k in range(outputs):
                            out[row, k, column * (p + 1) + other] += leaf_value[leaf, k] * both
                            out[row, k, other * (p + 1) + column] += leaf_value[leaf, k] * both
