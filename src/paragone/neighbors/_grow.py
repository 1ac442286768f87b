r"""Splits of a k-d tree: the order of the points, the nodes, the leaves.

A node halves its points along the column in which a sample of them spreads most. By the median
rule the threshold is such that the rank nearest to the middle that fills whole blocks of eight
lies below it, so that of all leaves of a part one has a block with empty lanes, and the number of
points alone says how many nodes and blocks there will be. The threshold is found by counting:
eight keys are compared at once, and with $c(t)$ keys below $t$ the next guess for rank $r$ is

$$ t = a + (b - a) \frac{r - c(a)}{c(b) - c(a)} , $$

or the middle of $(a, b)$ where the guess before did not halve the count. By the midpoint rule the
threshold is the middle of the widest side of the points' bounding box; since the box is tight,
neither side is ever empty.

Only numbers of points move, and they move stably: within a node they ascend. Points that are
all equal are halved by number, so that ties can be settled by visiting one path.

Cost: O(n log n), no recursion.

References:
    Bentley (1975), "Multidimensional binary search trees used for associative searching".
    Maneewongvatana and Mount (1999), "It's okay to be skinny, if your friends are fat".

Shapes: m points, d columns; nodes in preorder: the left child of node v is v + 1.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.intrinsics import prefetch
from paragone.kernels.jit import njit
from paragone.neighbors._layout import fill_leaves
from paragone.neighbors._reduce import count_below, row_bounds
from paragone.neighbors._simd import LANES

__all__ = ["classify", "count_sort", "grow", "grow_parts", "part_sizes", "place_top", "route"]

AHEAD = 16
"""Rows between asking the memory for one and reading it."""

SPREAD_SAMPLE = 24
BATCH = 256
"""Rows that walk down the tree together."""

GUESSES = 6
"""Thresholds tried before each further one is a key."""


@njit(nogil=True, error_model="numpy", inline="always")
def _half(m):
    """Returns how many of m points go left."""
    rank, lanes = m // np.uint64(2), np.uint64(LANES)
    whole = (rank + np.uint64(LANES // 2)) // lanes * lanes
    return whole if whole > np.uint64(0) and whole < m else rank


@njit(nogil=True, error_model="numpy")
def _spread(rows, d, perm, start, m, step, low, high):
    """Fills the bounds of every step-th point and returns the column of greatest spread, or -1."""
    row_bounds(
        rows, np.int64(d), perm, np.int64(start), np.int64(start + m), np.int64(step), low, high
    )
    widest, column = high[0] - low[0], 0
    for j in range(1, d):
        if high[j] - low[j] > widest:
            widest, column = high[j] - low[j], j
    return column if high[column] > low[column] else -1


@njit(nogil=True, error_model="numpy", inline="always")
def _move(keys, perm, spare, start, begin, end, threshold, left):
    """Moves those of points begin to end below the threshold to the front, others to `spare`."""
    for i in range(begin, end):
        point = perm[start + i]
        perm[start + left] = point
        spare[i - left] = point
        left += np.uint64(keys[i] < threshold)
    return left


@njit(nogil=True, error_model="numpy")
def _partition(keys, perm, spare, start, m, threshold, ties):
    """Moves the points below the threshold, and `ties` of those at it, to the front; stable."""
    # Up to the last of these ties, equal points go left: there the threshold is one step higher.
    until, tied = np.uint64(0), np.uint64(0)
    while tied < ties:
        tied += np.uint64(keys[until] == threshold)
        until += np.uint64(1)
    above = np.nextafter(threshold, keys.dtype.type(np.inf))
    left = _move(keys, perm, spare, start, np.uint64(0), until, above, np.uint64(0))
    left = _move(keys, perm, spare, start, until, m, threshold, left)
    for i in range(m - left):
        perm[start + left + i] = spare[i]
    return left


@njit(nogil=True, error_model="numpy")
def _guessed(keys, m, rank, least, most):
    """Returns (found, low, high): a threshold `low` with `rank` keys below it, or an interval.

    The key of this rank lies in [low, high).
    """
    kind, size, wanted = keys.dtype.type, np.int64(m), np.int64(rank)
    low, high, below, above, halve = least, most, np.int64(0), size, False
    for _ in range(GUESSES):
        part = kind(0.5) if halve else kind(wanted - below) / kind(above - below)
        guess = kind(low + (high - low) * part)
        if not (guess > low and guess < high):
            break
        count, between = count_below(keys, size, guess), above - below
        if count == wanted:
            return True, guess, guess
        if count < wanted:
            low, below = guess, count
        else:
            high, above = guess, count
        halve = not halve and 2 * (above - below) > between
    # The first bounds are those of a sample.
    low = low if below > 0 else kind(-np.inf)
    return False, low, high if above < size else kind(np.inf)


@njit(nogil=True, error_model="numpy")
def _cut(keys, m, rank, least, most):
    """Returns (threshold, ties): `rank` of keys[:m] are below it, or among the ties first at it."""
    kind, size, wanted = keys.dtype.type, np.int64(m), np.int64(rank)
    found, low, high = _guessed(keys, m, rank, least, most)
    if found:
        return low, np.uint64(0)
    i = m // np.uint64(2)
    while True:
        # Equal keys, most likely: try one of those left, and whether it is the one.
        while not (keys[i] >= low and keys[i] < high):
            i = i + np.uint64(1) if i + np.uint64(1) < m else np.uint64(0)
        key = keys[i]
        count, beyond = count_below(keys, size, key), np.nextafter(key, kind(np.inf))
        if count > wanted:
            high = key
        elif count_below(keys, size, beyond) >= wanted:
            return key, np.uint64(wanted - count)
        else:
            low = beyond


@njit(nogil=True, error_model="numpy")
def _split(rows, d, perm, start, m, column, midpoint, least, most, keys, spare, sampled):
    """Splits the points; returns (points on the left, threshold)."""
    for i in range(m):
        keys[i] = rows[np.uint64(perm[start + i]) * d + column]
    for i in range(m, m + np.uint64(LANES)):
        keys[i] = np.inf
    threshold, ties = keys.dtype.type(least / 2 + most / 2), np.uint64(0)
    if not midpoint:
        threshold, ties = _cut(keys, m, _half(m), least, most)
        ties = np.uint64(0) if sampled else ties
    elif not (threshold > least and threshold <= most):
        threshold = most
    left = np.uint64(0)
    while True:
        left = _partition(keys, perm, spare, start, m, threshold, ties)
        if left > np.uint64(0):
            return left, threshold
        # The threshold is the least value: the points at it go left, the others right.
        threshold = np.nextafter(threshold, keys.dtype.type(np.inf))


@njit(nogil=True, error_model="numpy")
def grow(
    rows, d, perm, leafsize, midpoint, sampled, keys, spare, column_of, threshold_of, right_of,
    leaf_start,
):  # fmt: skip
    """Splits the points `perm` until at most `leafsize` are together.

    `rows` (m * d + W,) are coordinates, `perm` (m,) row numbers that are put in the order of the
    leaves, `keys` (m + W,) and `spare` (m,) scratch. `sampled` rows are a sample of others: every
    row must lie where its threshold says, and equal ones stay together. Nodes are written in
    preorder; a leaf has column -1 and its number in `right_of`, and `leaf_start` is its first row.

    Returns:
        (number of nodes, number of leaves).
    """
    padded = d + np.uint64(LANES)
    low, high = np.empty(padded, rows.dtype), np.empty(padded, rows.dtype)
    stack = np.empty((64, 4), np.int64)
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = 0, len(perm), -1, 0
    height, nodes, leaves = np.int64(1), np.int64(0), np.int64(0)
    while height > 0:
        height -= 1
        start, stop = np.uint64(stack[height, 0]), np.uint64(stack[height, 1])
        parent, equal = stack[height, 2], stack[height, 3]
        if parent >= 0:
            right_of[parent] = nodes
        m = stop - start
        node = nodes
        nodes += 1
        column = -1
        if m > leafsize and not equal:
            step = np.uint64(1) if midpoint else max(m // np.uint64(SPREAD_SAMPLE), np.uint64(1))
            while True:
                column = _spread(rows, d, perm, start, m, step, low, high)
                if column >= 0 or step == np.uint64(1):
                    break
                step = np.uint64(1)
            equal = np.int64(column < 0)
        if m <= leafsize or (equal and sampled):
            column_of[node], threshold_of[node], right_of[node] = -1, 0, leaves
            leaf_start[leaves] = start
            leaves += 1
            continue
        if equal:
            left, column, threshold = _half(m), 0, keys.dtype.type(np.inf)
        else:
            left, threshold = _split(
                rows, d, perm, start, m, np.uint64(column), midpoint, low[column], high[column],
                keys, spare, sampled,
            )  # fmt: skip
        column_of[node], threshold_of[node] = column, threshold
        if height + 2 > len(stack):
            larger = np.empty((2 * len(stack), 4), np.int64)
            for i in range(height):
                for j in range(4):
                    larger[i, j] = stack[i, j]
            stack = larger
        stack[height, 0], stack[height, 1] = np.int64(start + left), np.int64(stop)
        stack[height, 2], stack[height, 3] = node, equal
        stack[height + 1, 0], stack[height + 1, 1] = np.int64(start), np.int64(start + left)
        stack[height + 1, 2], stack[height + 1, 3] = -1, equal
        height += 2
    return nodes, leaves


@njit(nogil=True, error_model="numpy")
def route(column_of, right_of):
    """Returns (column, next): node v goes to next[2 v + (x[column] < threshold)].

    A leaf goes to itself, so that a walk may take more steps than it needs.
    """
    column, following = np.empty(len(column_of), np.int32), np.empty(2 * len(column_of), np.int32)
    for node in range(len(column_of)):
        inner = column_of[node] >= 0
        column[node] = column_of[node] if inner else 0
        following[2 * node] = right_of[node] if inner else node
        following[2 * node + 1] = node + 1 if inner else node
    return column, following


@njit(nogil=True, error_model="numpy")
def classify(rows, d, column, threshold, following, right_of, first, last, place):
    """Writes the leaf in which rows first to last end, going left where x < threshold.

    Which side a row takes cannot be predicted, so the next node is looked up, not branched to,
    and many rows take each step together: none waits for the memory of another.
    """
    node, two, none = np.empty(BATCH, np.uint32), np.uint64(2), np.uint32(0)
    for begin in range(np.uint64(first), np.uint64(last), np.uint64(BATCH)):
        count = min(np.uint64(BATCH), np.uint64(last) - begin)
        for i in range(count):
            node[i] = none
        moved = np.uint32(1)
        while moved != none:
            moved = none
            for i in range(count):
                at = np.uint64(node[i])
                value = rows[(begin + i) * np.uint64(d) + np.uint64(column[at])]
                to = np.uint32(following[at * two + np.uint64(value < threshold[at])])
                moved |= to ^ node[i]
                node[i] = to
        for i in range(count):
            place[begin + i] = right_of[np.uint64(node[i])]


@njit(nogil=True, error_model="numpy")
def count_sort(place, groups, order, start):
    """Sorts stably by `place` (0 to groups - 1): the order, and where each group starts."""
    for g in range(groups + 1):
        start[g] = 0
    for i in range(np.uint64(len(place))):
        start[np.uint64(place[i]) + np.uint64(1)] += 1
    for g in range(groups):
        start[g + 1] += start[g]
    for i in range(np.uint64(len(place))):
        g = np.uint64(place[i])
        order[np.uint64(start[g])] = i
        start[g] += 1
    for g in range(groups, 0, -1):
        start[g] = start[g - 1]
    start[0] = 0


@njit(nogil=True, error_model="numpy")
def part_sizes(part_start, leafsize, leaf_at, block_at):
    """Counts leaves and blocks from the number of points: where those of each part begin."""
    stack = np.empty(64, np.uint64)
    leaf_at[0], block_at[0] = 0, 0
    for part in range(len(part_start) - 1):
        leaves, blocks, height = 0, 0, 1
        stack[0] = part_start[part + 1] - part_start[part]
        while height > 0:
            m = stack[height - 1]
            if m <= leafsize:
                leaves += 1
                blocks += np.int64((m + np.uint64(LANES - 1)) // np.uint64(LANES))
                height -= 1
                continue
            left = _half(m)
            stack[height - 1], stack[height] = m - left, left
            height += 1
        leaf_at[part + 1] = leaf_at[part] + leaves
        block_at[part + 1] = block_at[part] + blocks


@njit(nogil=True, error_model="numpy")
def place_top(
    top_column, top_threshold, top_right, leaf_at, column_of, threshold_of, right_of, node_at
):  # fmt: skip
    """Writes the nodes of the top where they stand once each leaf of it is a part's nodes."""
    place, nodes = np.empty(len(top_column), np.int64), 0
    for v in range(len(top_column)):
        place[v] = nodes
        part = top_right[v]
        nodes += 1 if top_column[v] >= 0 else 2 * (leaf_at[part + 1] - leaf_at[part]) - 1
    for v in range(len(top_column)):
        at = place[v]
        if top_column[v] >= 0:
            column_of[at], threshold_of[at] = top_column[v], top_threshold[v]
            right_of[at] = place[top_right[v]]
        else:
            node_at[top_right[v]] = at


@njit(nogil=True, error_model="numpy")
def _gather(rows, d, perm, s, m, local, inside):
    """Copies rows perm[s : s + m]; `inside` counts them."""
    for i in range(m):
        inside[i] = i
        if i + np.uint64(AHEAD) < m:
            ahead = np.uint64(perm[s + i + np.uint64(AHEAD)]) * d
            prefetch(rows, np.int64(ahead))
            if d > np.uint64(8):
                prefetch(rows, np.int64(ahead + d - np.uint64(1)))
        at, to = np.uint64(perm[s + i]) * d, i * d
        for j in range(d):
            local[to + j] = rows[at + j]


@njit(nogil=True, error_model="numpy")
def grow_parts(
    rows, d, perm, part_start, first, last, leafsize, node_at, leaf_at, block_at, column_of,
    threshold_of, right_of, leaf_start, leaf_block, blocks, ids, leaf_low, leaf_high, leaf_lowest,
):  # fmt: skip
    """Grows parts first to last and fills their leaves, each from its own copy of its rows."""
    most = 0
    for part in range(first, last):
        most = max(most, part_start[part + 1] - part_start[part])
    local = np.empty(most * np.int64(d) + LANES, rows.dtype)
    keys, starts = np.empty(most + LANES, rows.dtype), np.empty(most + 1, np.int64)
    inside, spare = np.empty(most, perm.dtype), np.empty(most, perm.dtype)
    for part in range(first, last):
        s, e, node, leaf = part_start[part], part_start[part + 1], node_at[part], leaf_at[part]
        _gather(rows, d, perm, np.uint64(s), np.uint64(e - s), local, inside)
        nodes, leaves = grow(
            local, d, inside[: e - s], leafsize, False, False, keys, spare, column_of[node:],
            threshold_of[node:], right_of[node:], starts,
        )  # fmt: skip
        starts[leaves] = e - s
        for v in range(node, node + nodes):
            right_of[v] += node if column_of[v] >= 0 else leaf
        for i in range(leaves):
            leaf_start[leaf + i] = starts[i] + s
        box = leaf * np.int64(d)
        fill_leaves(
            local, d, inside, perm[s:], starts, 0, leaves, block_at[part], leaf_block[leaf:],
            blocks, ids, leaf_low[box:], leaf_high[box:], leaf_lowest[leaf:],
        )  # fmt: skip
