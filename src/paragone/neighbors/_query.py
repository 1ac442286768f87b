r"""The k nearest neighbours of many queries, exactly.

Queries are sorted by the leaf in which they fall, so that one finds in the cache what the one
before it has read. A query first scans its own leaf; the k-th distance $d_k$ found there often
fits into the leaf's cell, or into that of a node not far above. From the lowest such node it
walks down and skips every child whose box is farther,

$$ \min_{y \in \text{box}} \lVert x - y \rVert_p \; (1 + \varepsilon) > d_k , $$

nearest child first. Eight boxes are bounded at once, and eight points of a leaf. A neighbour is
a pair (distance, number), compared in that order, so that the answer is the one of a sorted
brute-force search also where distances are equal; the number of a bound is the child's lowest.

Distances are compared as p-th powers. Rounding cannot lose a neighbour: see `_simd`.

Before the first leaf is scanned, the k-th distance is bounded: for k <= 4 by the least distances
in it, else by the answer r of the query before, as no point is lost within

$$ d_k \le r + \lVert x - x' \rVert . $$

Cost: O(k + log n) a query in low dimension; O(n) when d is of the order of log n.

References:
    Friedman, Bentley and Finkel (1977), "An algorithm for finding best matches in logarithmic
        expected time", section 2.
    Arya and Mount (1993), "Approximate nearest neighbor queries in fixed dimensions", for eps.

Shapes: q queries, d columns, k neighbours.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.intrinsics import lowest_bit, prefetch
from paragone.kernels.jit import njit
from paragone.neighbors._reduce import lanes_at_most, lower_lanes, ranked_lane
from paragone.neighbors._simd import LANES, block_distances, box_bounds

__all__ = ["HEAP_FROM", "climb", "nearest"]

HEAP_FROM = 40
"""Neighbours from which a heap is quicker than a sorted list."""


KEPT = 16
"""Blocks of a leaf whose distances are kept."""

TINY = 1e-30
"""Powers from which underflow is less than the other roundings."""

AHEAD = 6
"""Queries between asking the memory for a leaf and scanning it."""


@njit(nogil=True, error_model="numpy", inline="always")
def _before(distance, number, other_distance, other_number):
    return distance < other_distance or (distance == other_distance and number < other_number)


@njit(nogil=True, error_model="numpy")
def _insert(best, best_id, k, distance, number):
    """Takes the pair into the sorted list in place of its last."""
    i = np.uint64(k - 1)
    one = np.uint64(1)
    while i > np.uint64(0) and _before(distance, number, best[i - one], best_id[i - one]):
        best[i], best_id[i] = best[i - one], best_id[i - one]
        i -= one
    best[i], best_id[i] = distance, number


@njit(nogil=True, error_model="numpy")
def _sink(best, best_id, k, distance, number):
    """Takes the pair into the heap of the k first in place of its last, which is on top."""
    i = 0
    while True:
        c = 2 * i + 1
        if c >= k:
            break
        if c + 1 < k and _before(best[c], best_id[c], best[c + 1], best_id[c + 1]):
            c += 1
        if not _before(distance, number, best[c], best_id[c]):
            break
        best[i], best_id[i] = best[c], best_id[c]
        i = c
    best[i], best_id[i] = distance, number


@njit(nogil=True, error_model="numpy")
def _unheap(best, best_id, k):
    for size in range(k - 1, 0, -1):
        distance, number = best[size], best_id[size]
        best[size], best_id[size] = best[0], best_id[0]
        _sink(best, best_id, size, distance, number)


@njit(nogil=True, error_model="numpy")
def _scan_leaf(
    kind, p, side, weight, blocks, ids, first_block, last_block, x, x_at, d, k, best, best_id,
    scratch,
):  # fmt: skip
    """Offers every point of a leaf; returns nothing, `best` holds the k first."""
    heap = k >= HEAP_FROM
    last = np.uint64(0) if heap else np.uint64(k - 1)
    for block in range(first_block, last_block):
        mask = block_distances(
            kind, p, side, weight, blocks, block * d * LANES, x, x_at, d, best[last], scratch, 0
        )
        while mask != 0:
            lane = lowest_bit(mask)
            mask &= mask - 1
            number = np.int64(ids[np.uint64(block * LANES + lane)])
            distance = scratch[np.uint64(lane)]
            if number >= 0 and _before(distance, number, best[last], best_id[last]):
                if heap:
                    _sink(best, best_id, k, distance, number)
                else:
                    _insert(best, best_id, k, distance, number)


@njit(nogil=True, error_model="numpy")
def _first_bound(
    kind, p, side, weight, blocks, first_block, last_block, x, x_at, d, k, limit, kept, least
):  # fmt: skip
    """Returns a power that at least k <= 4 points of the leaf stay below, or `limit`.

    It is just above the k-th least value among the eight lanes' minima. Without it, most points
    of the first blocks would enter the list only to be pushed out again. The distances are kept.
    """
    infinity = x.dtype.type(np.inf)
    for lane in range(LANES):
        least[lane] = infinity
    for block in range(first_block, last_block):
        at = block * d * LANES
        to = (block - first_block) * LANES
        mask = block_distances(kind, p, side, weight, blocks, at, x, x_at, d, infinity, kept, to)
        if mask == (1 << LANES) - 1:
            lower_lanes(least, kept, to)
    bound = np.nextafter(ranked_lane(least, np.int64(k)), infinity)
    return bound if bound < limit else limit


@njit(nogil=True, error_model="numpy")
def _take_kept(kept, ids, first_block, last_block, k, best, best_id):
    """Offers every point of a leaf whose distances are known."""
    last = np.uint64(k - 1)
    for block in range(first_block, last_block):
        at = (block - first_block) * LANES
        mask = lanes_at_most(kept, at, best[last])
        while mask != 0:
            lane = lowest_bit(mask)
            mask &= mask - 1
            number = np.int64(ids[np.uint64(block * LANES + lane)])
            distance = kept[np.uint64(at + lane)]
            if number >= 0 and _before(distance, number, best[last], best_id[last]):
                _insert(best, best_id, k, distance, number)


@njit(nogil=True, error_model="numpy")
def _push(mask, base, child, child_lowest, scratch, stack, stack_bound, stack_lowest, height):
    """Pushes the children of the mask, the nearest on top; equal ones in their own order."""
    bottom, one = height, np.uint64(1)
    while mask != 0:
        lane = lowest_bit(mask)
        mask &= mask - 1
        bound, slot = scratch[np.uint64(lane)], np.uint64(base + lane)
        i = np.uint64(height)
        while i > np.uint64(bottom) and not stack_bound[i - one] > bound:
            stack[i], stack_bound[i] = stack[i - one], stack_bound[i - one]
            stack_lowest[i] = stack_lowest[i - one]
            i -= one
        stack[i], stack_bound[i], stack_lowest[i] = child[slot], bound, child_lowest[slot]
        height += 1
    return height


@njit(nogil=True, error_model="numpy")
def _fetch_leaf(home, d, blocks, ids, leaf_block):
    """Asks the memory for a leaf that a later query will scan."""
    first, last = leaf_block[home], leaf_block[home + 1]
    start = first * d * LANES
    for line in range(start, min(last * d * LANES, start + 16 * LANES), LANES):
        prefetch(blocks, line)
    for block in range(first, min(last, first + 4), 2):
        prefetch(ids, block * LANES)


@njit(nogil=True, error_model="numpy")
def climb(euclid, d, cells, parent, node, x, x_at, reach):
    """Returns the lowest node from `node` up whose cell holds all points with power <= reach.

    The power of one column's difference is at most that of all, after rounding too: a point
    beyond a face is farther than the face.
    """
    while node > 0:
        at, margin = np.int64(node) * 2 * d, x.dtype.type(np.inf)
        for j in range(d):
            value = x[np.uint64(x_at + j)]
            below, above = value - cells[np.uint64(at + j)], cells[np.uint64(at + d + j)] - value
            margin = below if below < margin else margin
            margin = above if above < margin else margin
        if margin > 0 and (margin * margin if euclid else margin) > reach:
            break
        node = np.int64(parent[np.uint64(node)])
    return node


@njit(nogil=True, error_model="numpy")
def _bound_from(x, x_at, other_at, d, reach, slack):
    """Returns a power above that of the k-th neighbour of x, given the `reach` of another query.

    By the triangle inequality, the k points within sqrt(reach) of the other lie within
    sqrt(reach) + |x - other| of x; `slack` is more than all roundings.
    """
    apart = x.dtype.type(0)
    for j in range(d):
        gap = x[np.uint64(x_at + j)] - x[np.uint64(other_at + j)]
        apart += gap * gap
    sum_ = np.sqrt(reach) + np.sqrt(apart)
    return x.dtype.type(sum_ * sum_ * slack)


@njit(nogil=True, error_model="numpy")
def nearest(
    kind, p, side, weight, shrink, d, k, blocks, ids, leaf_block, child, child_lowest, arity,
    boxes, levels, cells, parent, x, order, target, limit, first, last, out, out_id,
):  # fmt: skip
    """Answers queries order[first:last] into out and out_id (q, k), ascending.

    Queries `x` (q * d,) carry their leaf `target` and the p-th power `limit` that a distance must
    stay below; `shrink` is 1 / (1 + eps)^p. `side` and `weight` are arrays (d,) or None. The
    results are p-th powers and numbers, `limit` and -1 where there are fewer neighbours.
    """
    best, best_id = np.empty(k, x.dtype), np.empty(k, np.int64)
    scratch, least = np.empty(LANES, x.dtype), np.empty(LANES, x.dtype)
    kept = np.empty(KEPT * LANES, x.dtype)
    room = levels * LANES + LANES
    stack, stack_lowest = np.empty(room, np.int32), np.empty(room, np.int64)
    stack_bound = np.empty(room, x.dtype)
    wide = np.int64(len(arity))
    climbs = len(cells) > 0 and kind != 3 and side is None and weight is None
    heap = k >= HEAP_FROM
    worst = np.uint64(0) if heap else np.uint64(k - 1)
    # Bounds change the order of the search, on which answers depend if they are approximate.
    chains = kind == 0 and side is None and weight is None and shrink == 1
    slack = x.dtype.type(1) + x.dtype.type(8 * (d + 8)) * x.dtype.type(np.finfo(x.dtype).eps)
    before, reach_before = np.int64(0), x.dtype.type(0)
    for position in range(first, last):
        query = np.int64(order[position])
        x_at = query * d
        home = target[query]
        if position + AHEAD < last:
            later = order[position + AHEAD]
            prefetch(x, np.int64(later) * d)
            if target[later] != home:
                _fetch_leaf(target[later], d, blocks, ids, leaf_block)
        bound, first_block, last_block = limit[query], leaf_block[home], leaf_block[home + 1]
        keeps = k <= 4 and d <= LANES and side is None and last_block - first_block <= KEPT
        if keeps:
            bound = _first_bound(
                kind, p, side, weight, blocks, first_block, last_block, x, x_at, d, k, bound, kept,
                least,
            )  # fmt: skip
        elif chains and reach_before > TINY:
            bound = min(bound, _bound_from(x, x_at, before, d, reach_before, slack))
        for i in range(k):
            best[i], best_id[i] = bound, -1
        if keeps:
            _take_kept(kept, ids, first_block, last_block, k, best, best_id)
        else:
            _scan_leaf(
                kind, p, side, weight, blocks, ids, first_block, last_block, x, x_at, d, k, best,
                best_id, scratch,
            )  # fmt: skip
        start = np.int64(0)
        if climbs:
            start = climb(kind == 0, d, cells, parent, wide + home, x, x_at, best[worst])
        stack[0], stack_bound[0], stack_lowest[0] = start, 0, -1
        height = np.int64(start < wide)
        while height > 0:
            height -= 1
            node, bound = stack[np.uint64(height)], stack_bound[np.uint64(height)]
            reach = best[worst] * shrink
            if bound > reach:
                continue
            if bound == reach and stack_lowest[np.uint64(height)] >= best_id[worst]:
                continue
            if node < 0:
                leaf = ~node
                if leaf != home:
                    _scan_leaf(
                        kind, p, side, weight, blocks, ids, leaf_block[leaf], leaf_block[leaf + 1],
                        x, x_at, d, k, best, best_id, scratch,
                    )  # fmt: skip
                continue
            at = node * d * 2 * LANES
            mask = box_bounds(kind, p, side, weight, boxes, at, x, x_at, d, reach, scratch, 0)
            mask &= (1 << arity[np.uint64(node)]) - 1
            height = _push(
                mask, node * LANES, child, child_lowest, scratch, stack, stack_bound,
                stack_lowest, height,
            )  # fmt: skip
        if heap:
            _unheap(best, best_id, k)
        before = x_at
        last_place = np.uint64(k - 1)
        reach_before = best[last_place] if best_id[last_place] >= 0 else x.dtype.type(0)
        for i in range(k):
            out[query, i], out_id[query, i] = best[i], best_id[i]
