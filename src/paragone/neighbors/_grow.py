r"""Splits of a k-d tree: the order of the points, the nodes, the leaves.

A node halves its points along the column in which they spread most. By the median rule the
threshold is the median of a sample while the node is large, and the exact rank nearest to the
middle that fills whole blocks of eight once it is small: then only one leaf in several has a
block with empty lanes. By the midpoint rule the threshold is the middle of the widest side of
the points' bounding box; since the box is tight, neither side is ever empty.

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
from paragone.neighbors._simd import LANES

__all__ = ["classify", "count_sort", "grow", "grow_parts", "route", "stitch"]

EXACT_BELOW = 256
"""Points below which a node is split at an exact rank."""

AHEAD = 16
"""Rows between asking the memory for one and reading it."""

SPREAD_SAMPLE = 24
BATCH = 256
"""Rows that walk down the tree together."""

MEDIAN_SAMPLE = 31


@njit(nogil=True, error_model="numpy")
def _spread(rows, d, perm, start, m, step, low, high):
    """Fills the bounds of every step-th point and returns the column of greatest spread, or -1."""
    first = np.uint64(perm[start]) * d
    for j in range(d):
        low[j] = rows[first + j]
        high[j] = rows[first + j]
    for i in range(step, m, step):
        at = np.uint64(perm[start + i]) * d
        for j in range(d):
            value = rows[at + j]
            low[j] = min(low[j], value)
            high[j] = max(high[j], value)
    widest, column = high[0] - low[0], 0
    for j in range(1, d):
        if high[j] - low[j] > widest:
            widest, column = high[j] - low[j], j
    return column if high[column] > low[column] else -1


@njit(nogil=True, error_model="numpy")
def _rank_value(keys, m, rank):
    """Returns the value of this rank among keys[:m], which it reorders."""
    low, high = np.uint64(0), np.uint64(m - np.uint64(1))
    one = np.uint64(1)
    while low < high:
        a, b, c = keys[low], keys[(low + high) >> one], keys[high]
        pivot = max(min(a, b), min(max(a, b), c))
        less = low
        for i in range(low, high + one):
            value = keys[i]
            keys[i] = keys[less]
            keys[less] = value
            less += np.uint64(value < pivot)
        if rank < less:
            high = less - one
            continue
        if less > low:
            low = less
            continue
        # The pivot is the least value left: step over all that equal it.
        for i in range(low, high + one):
            value = keys[i]
            keys[i] = keys[less]
            keys[less] = value
            less += np.uint64(value == pivot)
        if rank < less:
            return pivot
        low = less
    return keys[low]


@njit(nogil=True, error_model="numpy")
def _sample_median(rows, d, perm, start, m, column, sample):
    size = np.uint64(0)
    stride = m // np.uint64(MEDIAN_SAMPLE)
    for i in range(np.uint64(MEDIAN_SAMPLE)):
        # Steps of uneven length, so that data in rows of equal length do not fall in with them.
        at = start + i * stride + (i * np.uint64(0x9E3779B9) >> np.uint64(7)) % stride
        value = rows[np.uint64(perm[at]) * d + column]
        j = size
        while j > np.uint64(0) and sample[j - np.uint64(1)] > value:
            sample[j] = sample[j - np.uint64(1)]
            j -= np.uint64(1)
        sample[j] = value
        size += np.uint64(1)
    return sample[np.uint64(MEDIAN_SAMPLE // 2)]


@njit(nogil=True, error_model="numpy")
def _partition(keys, perm, spare, start, m, threshold, ties):
    """Moves the points below the threshold, and `ties` of those at it, to the front; stable."""
    left, right, tied = np.uint64(0), np.uint64(0), np.uint64(0)
    for i in range(m):
        value, point = keys[i], perm[start + i]
        equal = np.uint64(value == threshold)
        goes = np.uint64(value < threshold) | (equal & np.uint64(tied < ties))
        tied += equal
        perm[start + left] = point
        spare[right] = point
        left += goes
        right += np.uint64(1) - goes
    for i in range(right):
        perm[start + left + i] = spare[i]
    return left


@njit(nogil=True, error_model="numpy")
def _cut(rows, d, perm, start, m, column, keys, select, sampled):
    """Returns (threshold, how many of the points at it go left): the median of keys[:m]."""
    small = m <= np.uint64(EXACT_BELOW)
    if not small:
        return _sample_median(rows, d, perm, start, m, column, select), np.uint64(0)
    lanes, rank = np.uint64(LANES), m // np.uint64(2)
    if not sampled:
        whole = (rank + np.uint64(LANES // 2)) // lanes * lanes
        rank = whole if whole > np.uint64(0) and whole < m else rank
    for i in range(m):
        select[i] = keys[i]
    threshold = _rank_value(select, m, rank)
    less = np.uint64(0)
    for i in range(m):
        less += np.uint64(keys[i] < threshold)
    return threshold, np.uint64(0) if sampled else rank - less


@njit(nogil=True, error_model="numpy")
def _split(rows, d, perm, start, m, column, midpoint, middle, keys, select, spare, sampled):
    """Splits the points; returns (points on the left, threshold)."""
    for i in range(m):
        keys[i] = rows[np.uint64(perm[start + i]) * d + column]
    threshold, ties = middle, np.uint64(0)
    if not midpoint:
        threshold, ties = _cut(rows, d, perm, start, m, column, keys, select, sampled)
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

    `rows` (m * d,) are coordinates, `perm` (m,) row numbers that are put in the order of the
    leaves, `keys` and `spare` (m,) scratch. `sampled` rows are a sample of others: every row must
    lie where its threshold says, and equal ones stay together. Nodes are written in preorder; a
    leaf has column -1 and its number in `right_of`, and `leaf_start` is its first row.

    Returns:
        (number of nodes, number of leaves).
    """
    low, high = np.empty(d, rows.dtype), np.empty(d, rows.dtype)
    select = np.empty(EXACT_BELOW, rows.dtype)
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
            left = (m // np.uint64(2) + np.uint64(LANES // 2)) // np.uint64(LANES)
            left = max(left * np.uint64(LANES), np.uint64(1))
            left = left if left < m else m // np.uint64(2)
            column, threshold = 0, keys.dtype.type(np.inf)
        else:
            least, most = low[column], high[column]
            middle = keys.dtype.type(least / 2 + most / 2)
            middle = middle if middle > least and middle <= most else most
            left, threshold = _split(
                rows, d, perm, start, m, np.uint64(column), midpoint, middle, keys, select, spare,
                sampled,
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
def grow_parts(
    rows, d, perm, part_start, first, last, leafsize, midpoint, sampled, column_of,
    threshold_of, right_of, leaf_start, nodes_of, leaves_of,
):  # fmt: skip
    """Grows parts first to last, each on its own copy of its rows.

    A part that starts at point s writes its nodes from 2 s and its leaves from s, numbered from
    0, and their numbers to `nodes_of` and `leaves_of`.
    """
    most = 0
    for part in range(first, last):
        most = max(most, part_start[part + 1] - part_start[part])
    local, keys = np.empty(most * np.int64(d), rows.dtype), np.empty(most, rows.dtype)
    inside, spare = np.empty(most, perm.dtype), np.empty(most, perm.dtype)
    for part in range(first, last):
        s, e = part_start[part], part_start[part + 1]
        m = np.uint64(e - s)
        for i in range(m):
            inside[i] = i
            if i + np.uint64(AHEAD) < m:
                ahead = np.uint64(perm[np.uint64(s) + i + np.uint64(AHEAD)]) * d
                prefetch(rows, np.int64(ahead))
                if d > np.uint64(8):
                    prefetch(rows, np.int64(ahead + d - np.uint64(1)))
            at, to = np.uint64(perm[np.uint64(s) + i]) * d, i * d
            for j in range(d):
                local[to + j] = rows[at + j]
        nodes_of[part], leaves_of[part] = grow(
            local, d, inside[: e - s], leafsize, midpoint, sampled, keys, spare,
            column_of[2 * s : 2 * e], threshold_of[2 * s : 2 * e], right_of[2 * s : 2 * e],
            leaf_start[s:e],
        )  # fmt: skip
        for i in range(m):
            spare[i] = perm[np.uint64(s) + np.uint64(inside[i])]
        for i in range(m):
            perm[np.uint64(s) + i] = spare[i]


@njit(nogil=True, error_model="numpy")
def stitch(
    top_column, top_threshold, top_right, part_start, nodes_of, leaves_of, part_column,
    part_threshold, part_right, part_leaf, column_of, threshold_of, right_of, leaf_start,
):  # fmt: skip
    """Puts each part's nodes in the place of the top's leaf; all nodes stay in preorder."""
    place = np.empty(len(top_column), np.int64)
    nodes, leaves = 0, 0
    for v in range(len(top_column)):
        place[v] = nodes
        nodes += 1 if top_column[v] >= 0 else nodes_of[top_right[v]]
    for v in range(len(top_column)):
        at = place[v]
        if top_column[v] >= 0:
            column_of[at], threshold_of[at] = top_column[v], top_threshold[v]
            right_of[at] = place[top_right[v]]
            continue
        part = top_right[v]
        s = part_start[part]
        for i in range(nodes_of[part]):
            column_of[at + i] = part_column[2 * s + i]
            threshold_of[at + i] = part_threshold[2 * s + i]
            offset = at if part_column[2 * s + i] >= 0 else leaves
            right_of[at + i] = part_right[2 * s + i] + offset
        for i in range(leaves_of[part]):
            leaf_start[leaves + i] = part_leaf[s + i] + s
        leaves += leaves_of[part]
