r"""Sums of many trees, for many rows: trees outside, a block of rows inside.

A node is packed into 16 bytes (threshold, column, left child, missing side), and leaves point to
themselves, so one step of the walk,

$$ k \leftarrow \text{left}_k
   + [\, x_{f_k} > t_k \lor (x_{f_k}\ \text{missing} \land \text{right}_k) \,], $$

needs no branch. A single walk waits for memory at each step; eight rows walk at once and hide
that. A block of rows is turned once so that a column's values stand together, and stays in cache
while all trees pass over it. Sums run over the trees in order, so the result does not depend on
the number of threads or on which rows are predicted together.

Trees of at most 32 leaves do not walk at all where rows are many, see `_leaf_masks`. Trees with
categorical splits take a plain walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import prange

from paragone.ensemble._leaf_masks import BLOCK, LeafMasks, exit_leaves, mask_trees
from paragone.ensemble._threads import parallel_region, worth_threads
from paragone.ensemble._tree import LEAF, Tree
from paragone.kernels.intrinsics import lowest_bit
from paragone.kernels.jit import njit

__all__ = ["PackedTrees", "apply", "pack", "predict_raw"]

FEW_ROWS = 32
"""Rows of a block below which they walk: masks would ask for all lanes."""

_NODE = np.dtype(
    [
        ("threshold", np.float32),
        ("feature", np.int32),
        ("left", np.int32),
        ("missing_right", np.int32),
    ]
)


@dataclass(slots=True)
class PackedTrees:
    """Trees one behind the other; child numbers count from the first node of all.

    Attributes:
        nodes: Packed nodes of all trees.
        roots: int32 (T + 1,), first node of each tree, and the end.
        depths: int32 (T,), longest path; -1 for a tree with categorical splits.
        group: int32 (T,), output to which the tree's single value is added.
        values: float64 (N, V), node values times the tree's scale.
        outputs: Number of outputs K.
        category_start: int64 (N,), offset of the node's set or -1.
        category_size: int32 (N,), words of the node's set.
        category_bits: uint32, the sets.
        masks: The small trees once more, for rows that are many.
    """

    nodes: np.ndarray
    roots: np.ndarray
    depths: np.ndarray
    group: np.ndarray
    values: np.ndarray
    outputs: int
    category_start: np.ndarray
    category_size: np.ndarray
    category_bits: np.ndarray
    masks: LeafMasks


def pack(
    trees: Sequence[Tree],
    group: np.ndarray | None = None,
    scale: np.ndarray | None = None,
    outputs: int | None = None,
) -> PackedTrees:
    """Packs trees for `predict_raw` and `apply`.

    Args:
        trees: Trees with one value a node, or all with K values.
        group: int (T,), output of each tree; 0 if not given. Not used for K values.
        scale: float (T,), factor of each tree; 1 if not given.
        outputs: K; by default from `group` or from the width of the values.
    """
    count = len(trees)
    sizes = np.array([tree.num_nodes for tree in trees], np.int64)
    roots = np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)
    group = np.zeros(count, np.int32) if group is None else np.asarray(group, np.int32)
    width = trees[0].value.shape[1] if count else 1
    nodes, values = np.empty(roots[-1], _NODE), np.empty((roots[-1], width))
    starts = np.full(roots[-1], -1, np.int64)
    words = np.zeros(roots[-1], np.int32)
    bits: list[np.ndarray] = []
    depths, offset = np.zeros(count, np.int32), 0
    for t, tree in enumerate(trees):
        own, root = slice(roots[t], roots[t + 1]), roots[t]
        leaf = tree.feature == LEAF
        nodes["feature"][own] = np.where(leaf, 0, tree.feature)
        nodes["threshold"][own] = np.where(leaf, np.float32(np.inf), tree.threshold)
        nodes["left"][own] = root + np.where(leaf, np.arange(tree.num_nodes), tree.left)
        nodes["missing_right"][own] = ~(tree.missing_left | leaf)
        values[own] = tree.value if scale is None else tree.value * scale[t]
        depths[t] = _depth(tree.feature, tree.left)
        if len(tree.category_bits):
            depths[t] = -1
            starts[own] = np.where(tree.category_start >= 0, tree.category_start + offset, -1)
            words[own] = tree.category_size
            bits.append(tree.category_bits)
            offset += len(tree.category_bits)
    if outputs is not None:
        total = outputs
    else:
        total = width if width > 1 else int(group.max(initial=0)) + 1
    return PackedTrees(
        nodes, roots, depths, group, values, total, starts, words,
        np.concatenate(bits) if bits else np.zeros(0, np.uint32), mask_trees(list(trees), roots),
    )  # fmt: skip


@njit(nogil=True, error_model="numpy")
def _depth(feature, left):
    """Returns the longest path from node 0."""
    waiting, depths = np.empty(len(left), np.int64), np.empty(len(left), np.int64)
    waiting[0], depths[0], size, deepest = 0, 0, 1, np.int64(0)
    while size > 0:
        size -= 1
        node, depth = waiting[size], depths[size]
        deepest = max(deepest, depth)
        if feature[node] != LEAF:
            for child in range(left[node], left[node] + 2):
                waiting[size], depths[size] = child, depth + 1
                size += 1
    return deepest


def predict_raw(
    packed: PackedTrees,
    values: np.ndarray,
    *,
    begin: int = 0,
    end: int | None = None,
    out: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Returns float64 (K, n): the sum of trees `begin` to `end`, added to `out` if given."""
    end = len(packed.group) if end is None else end
    values = _door(values)
    if out is None:
        out = np.zeros((packed.outputs, len(values)))
    if end > begin and len(values):
        _run(packed, values, begin, end, out, np.empty((0, 0), np.int32), threads)
    return out


def apply(packed: PackedTrees, values: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Returns int32 (n, T): the node in which each row ends, counted within its tree."""
    values = _door(values)
    leaves = np.empty((len(values), len(packed.group)), np.int32)
    if leaves.size:
        _run(packed, values, 0, len(packed.group), np.zeros((0, 0)), leaves, threads)
    return leaves


def _door(values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values, np.float32)
    return values if values.flags.writeable else values.copy()


def _run(packed, values, begin, end, out, leaves, threads) -> None:
    threads = threads if worth_threads(len(values) * (end - begin)) else 1
    arguments = (
        packed.nodes, packed.roots, packed.depths, packed.group, packed.values,
        packed.category_start, packed.category_size, packed.category_bits, packed.masks,
        values, begin, end, out, leaves,
    )  # fmt: skip
    with parallel_region(threads):
        if threads > 1:
            _predict_parallel(*arguments)
        else:
            _predict_rows(*arguments, 0, len(values))


@njit(nogil=True, error_model="numpy", inline="always")
def _step(nodes, lanes, k, lane):
    node = nodes[k]
    x = lanes[(np.uint64(np.uint32(node.feature)) << np.uint64(8)) + lane]
    right = (x > node.threshold) | (np.isnan(x) & (node.missing_right != 0))
    return np.uint64(np.uint32(node.left)) + np.uint64(right)


@njit(nogil=True, error_model="numpy")
def _walk_categorical(nodes, starts, sizes, bits, block, lane, k):
    while True:
        node = nodes[k]
        left = np.uint64(node.left)
        if left == k:
            return k
        x = block[node.feature, lane]
        right = x > node.threshold
        missing = np.isnan(x)
        if starts[k] >= 0 and not missing:
            code = np.int64(x)
            missing = code < 0 or code >= 32 * sizes[k]
            if not missing:
                word = bits[starts[k] + (code >> 5)]
                right = (word >> np.uint32(code & 31)) & np.uint32(1) != 0
        if missing:
            right = node.missing_right != 0
        k = left + np.uint64(right)


@njit(nogil=True, error_model="numpy")
def _walk_eight(nodes, root, depth, lanes, lane, found):
    one = np.uint64(1)
    a, b, c, d = root, root, root, root
    e, f, g, h = root, root, root, root
    lane_b, lane_c, lane_d = lane + one, lane + np.uint64(2), lane + np.uint64(3)
    lane_e, lane_f = lane + np.uint64(4), lane + np.uint64(5)
    lane_g, lane_h = lane + np.uint64(6), lane + np.uint64(7)
    for _ in range(depth):
        before = a + b + c + d + e + f + g + h
        a = _step(nodes, lanes, a, lane)
        b = _step(nodes, lanes, b, lane_b)
        c = _step(nodes, lanes, c, lane_c)
        d = _step(nodes, lanes, d, lane_d)
        e = _step(nodes, lanes, e, lane_e)
        f = _step(nodes, lanes, f, lane_f)
        g = _step(nodes, lanes, g, lane_g)
        h = _step(nodes, lanes, h, lane_h)
        # Children have larger numbers: an equal sum means that all eight rows are in leaves.
        if a + b + c + d + e + f + g + h == before:
            break
    found[lane], found[lane_b], found[lane_c], found[lane_d] = a, b, c, d
    found[lane_e], found[lane_f], found[lane_g], found[lane_h] = e, f, g, h


@njit(nogil=True, error_model="numpy")
def _fill_block(values, low, size, block):
    """Turns rows low to low + size; returns whether one has a missing value."""
    missing = False
    for lane in range(np.uint64(size)):
        for f in range(np.uint64(values.shape[1])):
            x = values[np.uint64(low) + lane, f]
            block[f, lane] = x
            missing |= np.isnan(x)
    return missing


@njit(nogil=True, error_model="numpy")
def _predict_rows(
    nodes, roots, depths, group, tree_values, starts, sizes, bits, masks, values, begin, end, out,
    leaves, first, last,
):  # fmt: skip
    width = tree_values.shape[1]
    block = np.zeros((values.shape[1], BLOCK), np.float32)
    lanes = block.ravel()
    found, state = np.zeros(BLOCK, np.uint64), np.zeros(BLOCK, np.uint32)
    for low in range(first, last, BLOCK):
        size = np.uint64(min(BLOCK, last - low))
        missing = _fill_block(values, low, size, block)
        for t in range(begin, end):
            root = np.uint64(roots[t])
            if masks.small[t] and size >= FEW_ROWS:
                exit_leaves(masks, t, block, missing, state)
                own = np.uint64(masks.first[t])
                for lane in range(size):
                    found[lane] = masks.leaves[own + np.uint64(lowest_bit(state[lane]))]
            elif depths[t] >= 0:
                for lane in range(np.uint64(0), size, np.uint64(8)):
                    _walk_eight(nodes, root, depths[t], lanes, lane, found)
            else:
                for lane in range(size):
                    found[lane] = _walk_categorical(nodes, starts, sizes, bits, block, lane, root)
            if len(leaves) > 0:
                for lane in range(size):
                    leaves[low + lane, t] = found[lane] - root
            elif width == 1:
                scores, own_values = out[group[t], low : low + BLOCK], tree_values.ravel()
                for lane in range(size):
                    scores[lane] += own_values[found[lane]]
            else:
                for lane in range(size):
                    for k in range(width):
                        out[k, low + lane] += tree_values[found[lane], k]


@njit(nogil=True, error_model="numpy", parallel=True)
def _predict_parallel(
    nodes, roots, depths, group, tree_values, starts, sizes, bits, masks, values, begin, end, out,
    leaves,
):  # fmt: skip
    n = len(values)
    size = 8 * BLOCK
    for part in prange((n + size - 1) // size):
        _predict_rows(
            nodes, roots, depths, group, tree_values, starts, sizes, bits, masks, values, begin,
            end, out, leaves, part * size, min(n, part * size + size),
        )  # fmt: skip
