r"""From binary splits to what a search reads: blocks of eight points, nodes of eight children.

A leaf is a run of blocks; a block holds eight points column by column, so that one pass over d
columns gives eight distances. Three levels of binary splits become one node with up to eight
children, whose bounding boxes lie column by column as well, so that one pass bounds them all.
The boxes are those of the points, not of the cells: they are smaller and prune more.

Each child also knows the lowest number of its points. A child at exactly the distance of the
k-th neighbour is entered only if it may hold a lower number: ties go by number, and a million
equal points cost one path.

Cost: O(n d).

Shapes: L leaves, V wide nodes, d columns, W = 8 lanes. blocks: (number, d, W); boxes:
(V, d, 2, W), lower then upper; child: (V, W), a node, or ~leaf below 0.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.intrinsics import prefetch
from paragone.kernels.jit import njit
from paragone.neighbors._reduce import leaf_bounds
from paragone.neighbors._simd import LANES

AHEAD = 32
"""Points between asking the memory for a row and reading it."""

__all__ = ["bound_cells", "bound_nodes", "fill_leaves", "widen"]


@njit(nogil=True, error_model="numpy")
def fill_leaves(
    rows, d, perm, names, leaf_start, first, last, block, leaf_block, blocks, ids, low, high,
    lowest,
):  # fmt: skip
    """Copies the points of leaves first to last into blocks from `block` on and bounds them.

    A leaf holds rows perm[leaf_start[leaf] : leaf_start[leaf + 1]]; row r is point names[r], and
    the points of a leaf ascend. Empty lanes hold infinity and the number -1.
    """
    lanes, one = np.uint64(LANES), np.uint64(1)
    end, block = np.uint64(leaf_start[last]), np.uint64(block)
    for leaf in range(first, last):
        start, stop = np.uint64(leaf_start[leaf]), np.uint64(leaf_start[leaf + 1])
        lowest[leaf], leaf_block[leaf] = names[np.uint64(perm[start])], block
        begin, held = block, lanes
        while start < stop:
            held = min(stop - start, lanes)
            for lane in range(lanes):
                # Lanes without a point repeat the first until the bounds are known.
                row = np.uint64(perm[start + (lane if lane < held else np.uint64(0))])
                ids[block * lanes + lane] = names[row] if lane < held else -1
                at, to = row * d, block * d * lanes + lane
                for j in range(d):
                    blocks[to + j * lanes] = rows[at + j]
                if start + lane + np.uint64(AHEAD) < end:
                    ahead = np.uint64(perm[start + lane + np.uint64(AHEAD)]) * d
                    prefetch(rows, np.int64(ahead))
                    if d > lanes:
                        prefetch(rows, np.int64(ahead + d - one))
            start += held
            block += one
        leaf_bounds(
            blocks, np.int64(d), np.int64(begin), np.int64(block), low, high,
            np.int64(np.uint64(leaf) * d),
        )  # fmt: skip
        for j in range(d if held < lanes else np.uint64(0)):
            to = ((block - one) * d + j) * lanes
            for lane in range(held, lanes):
                blocks[to + lane] = np.inf


@njit(nogil=True, error_model="numpy")
def bound_nodes(
    d, column_of, right_of, leaf_low, leaf_high, leaf_lowest, low, high, lowest, leaf_end
):  # fmt: skip
    """Bounds each binary node by its children, last to first: children follow their parents."""
    for node in range(len(column_of) - 1, -1, -1):
        at = np.uint64(node) * d
        if column_of[node] < 0:
            leaf = right_of[node]
            box = np.uint64(leaf) * d
            for j in range(d):
                low[at + j] = leaf_low[box + j]
                high[at + j] = leaf_high[box + j]
            lowest[node], leaf_end[node] = leaf_lowest[leaf], leaf + 1
        else:
            one, two = np.uint64(node + 1) * d, np.uint64(right_of[node]) * d
            for j in range(d):
                low[at + j] = min(low[one + j], low[two + j])
                high[at + j] = max(high[one + j], high[two + j])
            lowest[node] = min(lowest[node + 1], lowest[right_of[node]])
            leaf_end[node] = leaf_end[right_of[node]]


@njit(nogil=True, error_model="numpy")
def bound_cells(d, column_of, threshold_of, right_of, cells):
    """Writes the cell of each binary node, lower bounds and upper ones: (N, 2, d).

    No other point lies inside a cell. Halves of equal points have an empty cell.
    """
    for j in range(d):
        cells[j], cells[d + j] = -np.inf, np.inf
    for node in range(len(column_of)):
        if column_of[node] < 0:
            continue
        column, at = np.uint64(column_of[node]), np.uint64(node) * np.uint64(2) * d
        left, right = np.uint64(node + 1), np.uint64(right_of[node])
        left, right = left * np.uint64(2) * d, right * np.uint64(2) * d
        for j in range(np.uint64(2) * d):
            cells[left + j] = cells[right + j] = cells[at + j]
        cells[left + d + column] = threshold_of[node]
        cells[right + column] = threshold_of[node]
        if threshold_of[node] == np.inf:
            cells[left + column] = np.inf


@njit(nogil=True, error_model="numpy")
def _children(node, column_of, right_of, leaf_end, found):
    """Fills `found` with up to eight descendants that tile the node, by opening the largest."""
    count = 1
    found[0] = node
    while count < LANES:
        widest, at = 0, -1
        for c in range(count):
            inner = found[c]
            if column_of[inner] >= 0:
                # Leaves below: the end of its range less the start, which its first leaf gives.
                size = leaf_end[inner] - _first_leaf(inner, column_of, right_of)
                if size > widest:
                    widest, at = size, c
        if at < 0:
            break
        opened = found[at]
        for c in range(count, at + 1, -1):
            found[c] = found[c - 1]
        found[at], found[at + 1] = opened + 1, right_of[opened]
        count += 1
    return count


@njit(nogil=True, error_model="numpy")
def _first_leaf(node, column_of, right_of):
    while column_of[node] >= 0:
        node += 1
    return right_of[node]


@njit(nogil=True, error_model="numpy")
def widen(
    d, column_of, right_of, low, high, lowest, leaf_end, boxes, child, child_lowest, child_leaf,
    arity, parent, leaf_parent, source,
):  # fmt: skip
    """Joins binary nodes to wide ones, parents before children; `source` are their tops.

    Returns:
        (number of wide nodes, levels).
    """
    infinity = low.dtype.type(np.inf)
    found = np.empty(LANES, np.int64)
    level = np.empty(len(column_of) // 2 + 1, np.int32)
    source[0], level[0], parent[0] = 0, 1, 0
    made, deepest, node = 1, 1, 0
    while node < made:
        deepest = max(deepest, level[node])
        count = _children(source[node], column_of, right_of, leaf_end, found)
        arity[node] = count
        for c in range(LANES):
            for j in range(d):
                at = np.uint64(node) * d * np.uint64(2 * LANES) + j * np.uint64(2 * LANES)
                at += np.uint64(c)
                if c < count:
                    box = np.uint64(found[c]) * d + j
                    boxes[at] = low[box]
                    boxes[at + np.uint64(LANES)] = high[box]
                else:
                    boxes[at] = infinity
                    boxes[at + np.uint64(LANES)] = -infinity
            slot = node * LANES + c
            if c >= count:
                child[slot], child_lowest[slot] = 0, 0
                child_leaf[slot, 0], child_leaf[slot, 1] = 0, 0
                continue
            inner = found[c]
            child_lowest[slot] = lowest[inner]
            child_leaf[slot, 0] = _first_leaf(inner, column_of, right_of)
            child_leaf[slot, 1] = leaf_end[inner]
            if column_of[inner] < 0:
                child[slot] = ~right_of[inner]
                leaf_parent[right_of[inner]] = node
            else:
                source[made], level[made], parent[made] = inner, level[node] + 1, node
                child[slot] = made
                made += 1
        node += 1
    return made, deepest
