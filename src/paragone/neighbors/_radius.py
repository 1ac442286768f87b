r"""Everything within a radius: rows of a sparse matrix, or their lengths alone.

The walk is the one of `_query` with a bound that stays: a box is skipped if its nearest corner
is beyond the radius $r$,

$$ \min_{y \in \text{box}} \lVert x - y \rVert_p > r , \qquad \text{and taken whole if} \quad
   \max_{y \in \text{box}} \lVert x - y \rVert_p \le r , $$

for then its points need not be looked at; a count adds their number. Both are sums in the order
of the distance itself, so that rounding cannot make them disagree with it.

A row's numbers come leaf by leaf, and ascend within a leaf: merging these runs sorts the row.

Cost: O(log n + found) a query in low dimension.

References:
    Bentley (1975), "A survey of techniques for fixed radius near neighbor searching".

Shapes: q queries, d columns.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.intrinsics import lowest_bit
from paragone.kernels.jit import njit
from paragone.neighbors._simd import LANES, block_distances, box_bounds, box_reaches

__all__ = ["count_within", "gather", "within"]


@njit(nogil=True, error_model="numpy")
def count_within(
    kind, p, side, weight, d, blocks, leaf_block, live, child, child_leaf, arity, boxes, levels,
    x, order, limit, first, last, out,
):  # fmt: skip
    """Counts the points with p-th power of the distance <= limit[query], into out (q,).

    `live` (L + 1,) is the number of points before each leaf, without removed ones.
    """
    stack = np.empty(levels * LANES + LANES, np.int32)
    scratch = np.empty(LANES, x.dtype)
    for position in range(first, last):
        query = np.int64(order[position])
        x_at, reach = query * d, limit[query]
        count, height, stack[0] = np.int64(0), np.int64(1), 0
        while height > 0:
            height -= 1
            node = stack[np.uint64(height)]
            at = node * d * 2 * LANES
            mask = box_bounds(kind, p, side, weight, boxes, at, x, x_at, d, reach, scratch, 0)
            mask &= (1 << arity[np.uint64(node)]) - 1
            whole = np.int64(0)
            if mask != 0:
                whole = mask & box_reaches(
                    kind, p, side, weight, boxes, at, x, x_at, d, reach, scratch, 0
                )
            mask &= ~whole
            while whole != 0:
                slot = np.uint64(node * LANES + lowest_bit(whole))
                whole &= whole - 1
                count += live[child_leaf[slot, 1]] - live[child_leaf[slot, 0]]
            while mask != 0:
                below = child[np.uint64(node * LANES + lowest_bit(mask))]
                mask &= mask - 1
                if below >= 0:
                    stack[np.uint64(height)] = below
                    height += 1
                    continue
                for block in range(leaf_block[~below], leaf_block[~below + 1]):
                    inside = block_distances(
                        kind, p, side, weight, blocks, block * d * LANES, x, x_at, d, reach,
                        scratch, 0,
                    )  # fmt: skip
                    while inside != 0:
                        lane = lowest_bit(inside)
                        inside &= inside - 1
                        # Empty lanes lie at infinity, which only an infinite radius reaches.
                        at_lane = block * d * LANES + lane
                        count += np.int64(blocks[np.uint64(at_lane)] < np.inf)
        out[query] = count


@njit(nogil=True, error_model="numpy")
def _merge_runs(numbers, distances, start, stop, spare, spare_distances):
    """Sorts numbers[start:stop], a few ascending runs, and the distances with them."""
    size = stop - start
    while True:
        runs, i, to = 0, start, 0
        while i < stop:
            middle = i + 1
            while middle < stop and numbers[middle - 1] < numbers[middle]:
                middle += 1
            end = middle
            if middle < stop:
                end = middle + 1
                while end < stop and numbers[end - 1] < numbers[end]:
                    end += 1
            a, b = i, middle
            while a < middle or b < end:
                take = b >= end or (a < middle and numbers[a] < numbers[b])
                at = a if take else b
                spare[to], spare_distances[to] = numbers[at], distances[at]
                a += np.int64(take)
                b += np.int64(not take)
                to += 1
            runs += 1
            i = end
        for j in range(size):
            numbers[start + j], distances[start + j] = spare[j], spare_distances[j]
        if runs <= 1:
            return


@njit(nogil=True, error_model="numpy")
def _room(numbers, distances, needed):
    larger = np.empty(max(2 * len(numbers), needed), numbers.dtype)
    larger_distances = np.empty(len(larger), distances.dtype)
    for i in range(len(numbers)):
        larger[i], larger_distances[i] = numbers[i], distances[i]
    return larger, larger_distances


@njit(nogil=True, error_model="numpy")
def within(
    kind, p, side, weight, d, blocks, ids, leaf_block, child, arity, boxes, levels, x, order,
    limit, after, first, last, count,
):  # fmt: skip
    """Finds the points with p-th power of the distance <= limit[query].

    Only numbers above `after` (q,) count, -1 for all; `count` (q,) receives how many there are.

    Returns:
        (numbers, p-th powers): the rows of queries order[first:last], one after the other, each
        ascending by number.
    """
    numbers, distances = np.empty(1024, np.int64), np.empty(1024, x.dtype)
    spare, spare_distances = np.empty(64, np.int64), np.empty(64, x.dtype)
    stack = np.empty(levels * LANES + LANES, np.int32)
    scratch = np.empty(LANES, x.dtype)
    found = np.int64(0)
    for position in range(first, last):
        query = np.int64(order[position])
        x_at, reach, least, begin = query * d, limit[query], after[query], found
        height, stack[0] = np.int64(1), 0
        while height > 0:
            height -= 1
            node = stack[np.uint64(height)]
            if node < 0:
                first_block, last_block = leaf_block[~node], leaf_block[~node + 1]
                if found + (last_block - first_block) * LANES > len(numbers):
                    numbers, distances = _room(
                        numbers, distances, found + (last_block - first_block) * LANES
                    )
                for block in range(first_block, last_block):
                    inside = block_distances(
                        kind, p, side, weight, blocks, block * d * LANES, x, x_at, d, reach,
                        scratch, 0,
                    )  # fmt: skip
                    while inside != 0:
                        lane = lowest_bit(inside)
                        inside &= inside - 1
                        number = np.int64(ids[np.uint64(block * LANES + lane)])
                        numbers[np.uint64(found)] = number
                        distances[np.uint64(found)] = scratch[np.uint64(lane)]
                        found += np.int64(number > least)
                continue
            at = node * d * 2 * LANES
            mask = box_bounds(kind, p, side, weight, boxes, at, x, x_at, d, reach, scratch, 0)
            mask &= (1 << arity[np.uint64(node)]) - 1
            while mask != 0:
                stack[np.uint64(height)] = child[np.uint64(node * LANES + lowest_bit(mask))]
                mask &= mask - 1
                height += 1
        count[query] = found - begin
        if found - begin > len(spare):
            spare, spare_distances = _room(spare, spare_distances, found - begin)
        if found - begin > 1:
            _merge_runs(numbers, distances, begin, found, spare, spare_distances)
    return numbers[:found], distances[:found]


@njit(nogil=True, error_model="numpy")
def gather(numbers, distances, order, first, last, start, out, out_distances):
    """Moves the rows of `within` to where the queries' own order wants them, start (q + 1,)."""
    at = 0
    for position in range(first, last):
        query = np.int64(order[position])
        for to in range(start[query], start[query + 1]):
            out[to], out_distances[to] = numbers[at], distances[at]
            at += 1
