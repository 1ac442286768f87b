r"""Building: a sample cuts the space, every part grows on its own, is laid out from the cache.

Halving a million points twenty times moves each of them twenty times through memory. Instead
a sample of some thousand points grows the top of the tree; one pass sends every point down
these splits, which fit the first-level cache, and one counting sort brings the points of a
part together. A part of some thousand points is copied to where the cache holds it, grows there
and is laid out from there, one part after the other, or several at once on several threads: the
number of its points alone says how many nodes, leaves and blocks it will have.

Cost: O(n log n) comparisons, but only two passes over the points in main memory.

References:
    Frazer and McKellar (1970), "Samplesort: a sampling approach to minimal storage tree
        sorting", for the first pass.

Shapes: n points, d columns, L leaves, N = 2 L - 1 binary nodes, V wide nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paragone.neighbors._grow import (
    classify,
    count_sort,
    grow,
    grow_parts,
    part_sizes,
    place_top,
    route,
)
from paragone.neighbors._layout import bound_cells, bound_nodes, fill_leaves, widen
from paragone.neighbors._simd import LANES
from paragone.neighbors._threads import spread

__all__ = ["Tree", "build"]

PART = 2048
"""Points of a part; with 16 columns of float64 they fill half a second-level cache."""

SAMPLE_PER_PART = 24

CELLS_UNTIL = 8
"""Columns up to which a neighbourhood often lies within a cell, so that cells are kept."""


@dataclass(frozen=True, eq=False)
class Tree:
    """A k-d tree as flat arrays; `_layout` says how blocks and boxes lie.

    Attributes:
        column, threshold, right: Binary nodes in preorder (N,); a leaf has column -1 and its
            number in `right`.
        path_column, path_next: The same for `classify`, which walks without branching.
        leaf_start: First position of each leaf in the order of the points (L + 1,).
        leaf_block: First block of each leaf (L + 1,).
        blocks: Coordinates (blocks * d * W,).
        ids: Number of the point in each lane (blocks * W,), -1 where there is none.
        child, child_lowest, child_leaf, arity, boxes: Wide nodes.
        levels: Levels of wide nodes.
        parent: The wide node above each wide node and each leaf (V + L,); the root has itself.
        cells: Their cells (V + L, 2, d), flat; none from `CELLS_UNTIL` columns on.
        low, high: Bounds of all points (d,).
    """

    column: np.ndarray
    threshold: np.ndarray
    right: np.ndarray
    path_column: np.ndarray
    path_next: np.ndarray
    leaf_start: np.ndarray
    leaf_block: np.ndarray
    blocks: np.ndarray
    ids: np.ndarray
    child: np.ndarray
    child_lowest: np.ndarray
    child_leaf: np.ndarray
    arity: np.ndarray
    boxes: np.ndarray
    levels: int
    parent: np.ndarray
    cells: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def num_leaves(self) -> int:
        return len(self.leaf_block) - 1


@dataclass(frozen=True, eq=False)
class _Splits:
    column: np.ndarray
    threshold: np.ndarray
    right: np.ndarray
    leaf_start: np.ndarray


def _grow(
    rows: np.ndarray, d: int, perm: np.ndarray, leafsize: int, midpoint: bool, sampled: bool
) -> _Splits:
    m = len(perm)
    most = max(1, 2 * m - 1)
    column, right = np.empty(most, np.int32), np.empty(most, np.int32)
    threshold, leaf_start = np.empty(most, rows.dtype), np.empty(m + 1, np.int64)
    nodes, leaves = grow(
        rows, np.uint64(d), perm, np.uint64(leafsize), midpoint, sampled,
        np.empty(m + LANES, rows.dtype), np.empty_like(perm), column, threshold, right, leaf_start,
    )  # fmt: skip
    return _Splits(
        column[:nodes].copy(), threshold[:nodes].copy(), right[:nodes].copy(),
        leaf_start[:leaves].copy(),
    )  # fmt: skip


def _sample(points: np.ndarray, size: int) -> np.ndarray:
    n = len(points)
    # One point from each of `size` runs, at an uneven place: images and sorted data have periods.
    start = np.arange(size, dtype=np.uint64) * np.uint64(n) // np.uint64(size)
    jitter = (np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return points[start + jitter % np.uint64(max(1, n // size))]


def _padded(rows: np.ndarray) -> np.ndarray:
    """The coordinates (m * d + W,): whole lanes are read where the last row ends."""
    return np.append(rows.reshape(-1), np.zeros(LANES, rows.dtype))


def _parts(
    points: np.ndarray, kind: np.dtype, workers: int
) -> tuple[_Splits, np.ndarray, np.ndarray]:
    """Returns the top of the tree, the points by part, and where each part starts."""
    n, d = points.shape
    if n < 4 * PART:
        nothing = np.zeros(1, points.dtype)
        top = _Splits(np.full(1, -1, np.int32), nothing, np.zeros(1, np.int32), np.zeros(1, int))
        return top, np.arange(n, dtype=kind), np.array([0, n])
    sample = _sample(points, n // PART * SAMPLE_PER_PART)
    order = np.arange(len(sample), dtype=kind)
    top = _grow(_padded(sample), d, order, SAMPLE_PER_PART, False, True)
    parts = len(top.leaf_start)
    column, following = route(top.column, top.right)
    place = np.empty(n, np.int32)

    def send(first: int, last: int) -> None:
        classify(
            points.reshape(-1), d, column, top.threshold, following, top.right, first, last, place
        )

    spread(send, n, workers, 1 << 15)
    perm, start = np.empty(n, kind), np.empty(parts + 1, np.int64)
    count_sort(place, parts, perm, start)
    return top, perm, start


@dataclass(frozen=True, eq=False)
class _Leaves:
    """The points in their blocks, and the bounds of the leaves; shapes as in `Tree`."""

    start: np.ndarray
    block: np.ndarray
    blocks: np.ndarray
    ids: np.ndarray
    low: np.ndarray
    high: np.ndarray
    lowest: np.ndarray


def _leaves(n: int, d: int, leaves: int, blocks: int, real: np.dtype, kind: np.dtype) -> _Leaves:
    start, block = np.empty(leaves + 1, np.int64), np.empty(leaves + 1, np.int64)
    start[leaves], block[leaves] = n, blocks
    return _Leaves(
        start, block, np.empty(blocks * d * LANES, real), np.empty(blocks * LANES, kind),
        np.empty(leaves * d, real), np.empty(leaves * d, real), np.empty(leaves, kind),
    )  # fmt: skip


def _by_median(
    points: np.ndarray, kind: np.dtype, leafsize: int, workers: int
) -> tuple[_Splits, _Leaves]:
    n, d = points.shape
    top, perm, start = _parts(points, kind, workers)
    parts = len(start) - 1
    node_at, leaf_at, block_at = (np.empty(parts + 1, np.int64) for _ in range(3))
    part_sizes(start, np.uint64(leafsize), leaf_at, block_at)
    leaves = _leaves(n, d, int(leaf_at[-1]), int(block_at[-1]), points.dtype, kind)
    nodes = 2 * int(leaf_at[-1]) - 1
    splits = _Splits(
        np.empty(nodes, np.int32), np.empty(nodes, points.dtype), np.empty(nodes, np.int32),
        leaves.start,
    )  # fmt: skip
    place_top(
        top.column, top.threshold, top.right, leaf_at, splits.column, splits.threshold,
        splits.right, node_at,
    )  # fmt: skip

    def several(first: int, last: int) -> None:
        grow_parts(
            points.reshape(-1), np.uint64(d), perm, start, first, last, np.uint64(leafsize),
            node_at, leaf_at, block_at, splits.column, splits.threshold, splits.right,
            leaves.start, leaves.block, leaves.blocks, leaves.ids, leaves.low, leaves.high,
            leaves.lowest,
        )  # fmt: skip

    spread(several, parts, workers, 4)
    return splits, leaves


def _by_midpoint(points: np.ndarray, kind: np.dtype, leafsize: int) -> tuple[_Splits, _Leaves]:
    n, d = points.shape
    names = np.arange(n, dtype=kind)
    perm, rows = names.copy(), _padded(points)
    splits = _grow(rows, d, perm, leafsize, True, False)
    start = np.append(splits.leaf_start, n)
    blocks = int((-(-np.diff(start) // LANES)).sum())
    leaves = _leaves(n, d, len(splits.leaf_start), blocks, points.dtype, kind)
    leaves.start[:] = start
    fill_leaves(
        rows, np.uint64(d), perm, names, start, 0, len(start) - 1, 0, leaves.block, leaves.blocks,
        leaves.ids, leaves.low, leaves.high, leaves.lowest,
    )  # fmt: skip
    return splits, leaves


def build(points: np.ndarray, leafsize: int, midpoint: bool, workers: int) -> Tree:
    """Builds the tree of `points` (n, d), C-contiguous float32 or float64, n and d at least 1."""
    n, d = points.shape
    kind = np.dtype(np.int32 if n < 2**31 - 1 else np.int64)
    if midpoint:
        return _finish(d, *_by_midpoint(points, kind, leafsize))
    return _finish(d, *_by_median(points, kind, leafsize, workers))


def _first(array: np.ndarray, count: int) -> np.ndarray:
    """The array cut to its first `count` rows, in place: the memory behind them is given back."""
    array.resize((count, *array.shape[1:]), refcheck=False)
    return array


def _finish(d: int, splits: _Splits, leaves: _Leaves) -> Tree:
    nodes, kind, real = len(splits.column), leaves.ids.dtype, leaves.blocks.dtype
    low, high = (np.empty(nodes * d, real) for _ in range(2))
    lowest, leaf_end = np.empty(nodes, kind), np.empty(nodes, np.int32)
    bound_nodes(
        np.uint64(d), splits.column, splits.right, leaves.low, leaves.high, leaves.lowest, low,
        high, lowest, leaf_end,
    )  # fmt: skip
    most = nodes // 2 + 1
    boxes = np.empty(most * d * 2 * LANES, real)
    child, child_lowest = np.empty(most * LANES, np.int32), np.empty(most * LANES, kind)
    child_leaf, arity = np.empty((most * LANES, 2), np.int32), np.empty(most, np.int64)
    parent, leaf_parent = np.empty(most, np.int32), np.empty(len(leaves.start) - 1, np.int32)
    source = np.empty(most, np.int64)
    made, levels = widen(
        np.uint64(d), splits.column, splits.right, low, high, lowest, leaf_end, boxes, child,
        child_lowest, child_leaf, arity, parent, leaf_parent, source,
    )  # fmt: skip
    cells = np.empty(0, real)
    if d <= CELLS_UNTIL:
        every = np.empty(nodes * 2 * d, real)
        bound_cells(np.uint64(d), splits.column, splits.threshold, splits.right, every)
        every = every.reshape(nodes, 2 * d)
        owners = np.concatenate([source[:made], np.flatnonzero(splits.column < 0)])
        cells = every[owners].reshape(-1)
    path_column, path_next = route(splits.column, splits.right)
    return Tree(
        splits.column, splits.threshold, splits.right, path_column, path_next,
        leaves.start, leaves.block, leaves.blocks, leaves.ids, _first(child, made * LANES),
        _first(child_lowest, made * LANES), _first(child_leaf, made * LANES),
        _first(arity, made), _first(boxes, made * d * 2 * LANES), levels,
        np.concatenate([parent[:made], leaf_parent]), cells, low[:d].copy(), high[:d].copy(),
    )  # fmt: skip
