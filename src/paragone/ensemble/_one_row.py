r"""One row through many trees in microseconds: the latency of a served model.

A prediction of one row is a walk of a dozen steps in each tree, about two microseconds in all;
what makes it cost a thousand is everything around it. So a row that needs no reading, a clean
array (1, p) of float64 or float32 given to a model without column names and categories, goes
past the door straight to one kernel, which rounds it to float32 and refuses infinities itself.
Whatever is not so plain, and every error, takes the usual way.

Within a row there is nothing to interleave but trees: eight walk at once, so that the processor
need not wait for one tree's node before it asks for the next tree's. Trees of like depth walk
together, leaves point to themselves; the leaf values are then added in the order of the trees,
so the result equals that of a batch to the last bit.

Cost: $O(T \cdot \text{depth})$ a row; 16 bytes a node, made at a model's first single row.

T trees, N nodes of all trees, p columns, K outputs, V values a node (1 or K).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from paragone.ensemble._tree import LEAF, Tree
from paragone.kernels.jit import njit

__all__ = ["raw_of_row"]

LANES = 8
"""Trees that walk at once."""

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
Parts: TypeAlias = tuple[Sequence[Tree], np.ndarray | None, np.ndarray]
_PLANS: WeakKeyDictionary[Any, Plan] = WeakKeyDictionary()
"""Not part of an estimator's state: predicting changes nothing that can be seen or pickled."""


@dataclass(slots=True, frozen=True)
class Plan:
    """The trees of one model, laid out for single rows.

    Attributes:
        owner: The fitted object that the plan stands for; a new fit makes another one.
        shape: (1, p), or None if this model's rows must take the usual way.
        nodes: int64 (N, 2): the threshold's bits below and 2 column + (missing goes right)
            above; the left child.
        values: float64 (N, V).
        roots: int64 (T + 1,), first node of each tree, and N.
        order: int64, trees by depth, filled up to whole groups of `LANES`.
        depths: int64 (groups,), the longest path in each group.
        group: int64 (T,), output to which a tree's single value is added.
        start: float64 (K, 1), where the sums begin.
    """

    owner: Any
    shape: tuple[int, int] | None
    nodes: np.ndarray
    values: np.ndarray
    roots: np.ndarray
    order: np.ndarray
    depths: np.ndarray
    group: np.ndarray
    start: np.ndarray


def raw_of_row(model: Any, X: Any, owner: Any, parts: Callable[[], Parts]) -> np.ndarray | None:
    """Returns the raw scores (K, 1) of a clean row, or None if X must take the usual way.

    Args:
        model: The estimator.
        X: What the user gave to predict.
        owner: The fitted object that holds the trees, None before a fit; another one makes
            another plan.
        parts: Gives the trees, those of a round's outputs side by side, their factors, and
            where the sums begin, (K,).
    """
    if type(X) is not np.ndarray or X.shape[:1] != (1,) or owner is None:
        return None
    plan = _PLANS.get(model)
    if plan is None or plan.owner is not owner:
        plan = _PLANS[model] = _plan(model, owner, *parts())
    if X.shape != plan.shape:
        return None
    if X.dtype is not _FLOAT64 or not X.flags.carray:
        if X.dtype is not _FLOAT64 and X.dtype is not _FLOAT32:
            return None
        X = np.array(X, np.float64, order="C")
    out = plan.start.copy()
    clean = _add_row(
        X, plan.nodes, plan.values, plan.roots, plan.order, plan.depths, plan.group, out
    )
    return out if clean else None


def _plan(
    model: Any, owner: Any, trees: Sequence[Tree], scale: np.ndarray | None, start: np.ndarray
) -> Plan:
    plain = not hasattr(model, "feature_names_in_") and all(c is None for c in model._categories_)
    if not plain or not len(trees) or any(len(tree.category_bits) for tree in trees):
        none = np.zeros(0, np.int64)
        return Plan(owner, None, none, none, none, none, none, none, start)
    sizes = [tree.num_nodes for tree in trees]
    roots = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    nodes = np.empty((roots[-1], 2), np.int64)
    values = np.empty((roots[-1], trees[0].value.shape[1]))
    depths = np.empty(len(trees), np.int64)
    for t, tree in enumerate(trees):
        own, leaf = slice(roots[t], roots[t + 1]), tree.feature == LEAF
        threshold = np.where(leaf, np.float32(np.inf), tree.threshold).astype(np.float32)
        column = np.where(leaf, 0, tree.feature).astype(np.int64)
        right = ~(tree.missing_left | leaf)
        nodes[own, 0] = (2 * column + right) << 32 | threshold.view(np.uint32).astype(np.int64)
        nodes[own, 1] = roots[t] + np.where(leaf, np.arange(len(leaf)), tree.left)
        values[own] = tree.value if scale is None else tree.value * scale[t]
        depths[t] = tree.depth
    order = np.argsort(depths, kind="stable")
    order = np.concatenate((order, np.repeat(order[-1:], -len(order) % LANES)))
    return Plan(
        owner, (1, model.n_features_in_), nodes, values, roots, order,
        depths[order].reshape(-1, LANES).max(axis=1), np.arange(len(trees)) % len(start),
        np.array(start, np.float64)[:, None],
    )  # fmt: skip


@njit(nogil=True, error_model="numpy", inline="always")
def _step(nodes, x, k):
    word = np.uint64(nodes[k, 0])
    value = x[word >> np.uint64(33)]
    threshold = np.uint32(word & np.uint64(0xFFFFFFFF)).view(np.float32)
    missing_right = (word >> np.uint64(32)) & np.uint64(1)
    right = np.uint64(value > threshold) | (np.uint64(np.isnan(value)) & missing_right)
    return np.uint64(nodes[k, 1]) + right


@njit(nogil=True, error_model="numpy")
def _add_row(row, nodes, values, roots, order, depths, group, out):
    """Adds the trees' values at row 0; False, and nothing added, if it holds an infinity."""
    x = np.empty(row.shape[1], np.float32)
    for f in range(len(x)):
        x[f] = np.float32(row[0, f])
        if np.isinf(x[f]):
            return False
    trees = len(roots) - 1
    found = np.empty(trees, np.uint64)
    for g in range(np.uint64(len(depths))):
        first = g * np.uint64(8)
        t_a, t_b, t_c, t_d = (
            order[first], order[first + np.uint64(1)], order[first + np.uint64(2)],
            order[first + np.uint64(3)],
        )  # fmt: skip
        t_e, t_f, t_g, t_h = (
            order[first + np.uint64(4)], order[first + np.uint64(5)],
            order[first + np.uint64(6)], order[first + np.uint64(7)],
        )  # fmt: skip
        a, b, c, d = (
            np.uint64(roots[t_a]), np.uint64(roots[t_b]), np.uint64(roots[t_c]),
            np.uint64(roots[t_d]),
        )  # fmt: skip
        e, f, h, i = (
            np.uint64(roots[t_e]), np.uint64(roots[t_f]), np.uint64(roots[t_g]),
            np.uint64(roots[t_h]),
        )  # fmt: skip
        for _ in range(depths[g]):
            a, b, c, d = (
                _step(nodes, x, a), _step(nodes, x, b), _step(nodes, x, c), _step(nodes, x, d),
            )  # fmt: skip
            e, f, h, i = (
                _step(nodes, x, e), _step(nodes, x, f), _step(nodes, x, h), _step(nodes, x, i),
            )  # fmt: skip
        found[t_a], found[t_b], found[t_c], found[t_d] = a, b, c, d
        found[t_e], found[t_f], found[t_g], found[t_h] = e, f, h, i
    if values.shape[1] == 1:
        for t in range(trees):
            out[group[t], 0] += values[found[t], 0]
    else:
        for t in range(trees):
            for k in range(values.shape[1]):
                out[k, 0] += values[found[t], k]
    return True
