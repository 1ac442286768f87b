"""Searching the forest: best bin first, one queue for all trees, a bound on checked points.

A bin waits in the queue under the sum of the squared gaps between the query and the cuts that were
crossed to reach it (Silpa-Anan & Hartley 2008, section 2). The sum orders the visits only: an axis
crossed twice is counted twice, so it bounds nothing and excludes nothing. Hence a search that may
check every point is exact, for any distance.

A queue entry is one word, the float32 gap above the node: unsigned comparison orders by gap,
then by node, which makes the visits the same on every run.

n points, m queries, d dimensions, r axes, T trees, k neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from paragone.kernels.intrinsics import prefetch
from paragone.kernels.jit import njit
from paragone.neighbors._nearest_so_far import offer, power_distance, sort_heap, squared_distance

__all__ = ["search_run"]

_named = {"cache": True, "nogil": True, "error_model": "numpy"}
_LINE = 64


@njit(**_named)
def _squared_bytes(x, y):
    """Squared distance of two rows of bytes in 32-bit integers: exact up to 33,000 dimensions."""
    total = np.int32(0)
    for j in range(np.uint64(len(x))):
        gap = np.int32(np.int16(np.int16(x[j]) - np.int16(y[j])))
        total = np.int32(total + np.int32(gap * gap))
    return np.float64(total)


def _squared(x: Any, y: Any) -> float:
    """Squared distance of two rows of one type."""
    return float(np.sum((x.astype(float) - y) ** 2))


@overload(_squared)
def _squared_of_type(x, y):
    if x.dtype == types.uint8 and y.dtype == types.uint8:
        return lambda x, y: _squared_bytes(x, y)
    return lambda x, y: squared_distance(x, y)


@njit(**_named, fastmath={"contract"})
def _onto(axes, origin, x, z):
    """Coordinates z = axes^T (x - origin), in one order of summation whatever the batch."""
    z[:] = np.float32(0)
    for j in range(len(x)):
        value = np.float32(x[j] - origin[j])
        for a in range(len(z)):
            z[a] += value * axes[j, a]


@njit(**_named)
def _push(queue, size, word):
    at = np.uint64(size)
    while at > np.uint64(0):
        parent = (at - np.uint64(1)) >> np.uint64(1)
        if queue[parent] <= word:
            break
        queue[at] = queue[parent]
        at = parent
    queue[at] = word


@njit(**_named)
def _pop(queue, size):
    """Takes the least word out of a queue of `size` words."""
    least = queue[0]
    last = queue[size - 1]
    end = np.uint64(size - 1)
    at = np.uint64(0)
    while True:
        child = np.uint64(2) * at + np.uint64(1)
        if child >= end:
            break
        if child + np.uint64(1) < end and queue[child + np.uint64(1)] < queue[child]:
            child += np.uint64(1)
        if last <= queue[child]:
            break
        queue[at] = queue[child]
        at = child
    queue[at] = last
    return least


@njit(**_named)
def _descend(nodes, cuts, node, gap, z, queue, size, bits):
    """Walks down to z's leaf and queues every branch not taken; returns (leaf, queue size)."""
    at = np.uint64(node)
    word = bits.view(np.uint32)
    while nodes[at, 0] >= 0:
        offset = z[np.uint64(nodes[at, 0])] - cuts[at, 1]
        left, right = at + np.uint64(1), np.uint64(nodes[at, 2])
        near = left if offset < np.float32(0.0) else right
        other = left + right - near
        bits[0] = gap + offset * offset
        _push(queue, size, (np.uint64(word[0]) << np.uint64(32)) | other)
        size += 1
        at = near
    return at, size


@njit(**_named)
def search_run(
    points: Any, axes: Any, origin: Any, order: Any, nodes: Any, cuts: Any, roots: Any,
    queries: Any, checks: int, p: float, distance: Any, index: Any,
) -> None:  # fmt: skip
    """Approximate k nearest points of each query.

    Args:
        points: (n, d) uint8, float32 or float64.
        axes: Directions that the trees cut across (d, r) float32.
        origin: Where the axes cross (d,) float64.
        order: Row numbers by tree, then by leaf (T * n,) int32.
        nodes: All trees' nodes (N, 4) int32; children and positions count from the start.
        cuts: The same memory as float32.
        roots: First node of each tree (T,).
        queries: (m, d) bytes for bytes, else float64.
        checks: Most points whose distance is computed for a query.
        p: Exponent of the distance.
        distance: Heaps (m, k) in power space, filled here and sorted.
        index: Heaps (m, k).
    """
    n = points.shape[0]
    lines = np.uint64((points.shape[1] * points.itemsize + _LINE - 1) // _LINE)
    step = np.uint64(_LINE // points.itemsize)
    width = np.uint64(points.shape[1])
    seen = np.zeros((n >> 6) + 1, np.uint64)
    touched = np.empty(checks, np.int32)
    queue = np.empty(len(nodes) + 1, np.uint64)
    bits = np.empty(1, np.float32)
    flat = points.reshape(-1)
    z = np.empty(axes.shape[1], np.float32)
    for q in range(queries.shape[0]):
        x, best, name = queries[q], distance[q], index[q]
        _onto(axes, origin, x, z)
        size = 0
        for t in range(len(roots)):
            queue[t] = np.uint64(roots[t])
            size += 1
        checked = 0
        while size > 0 and checked < checks:
            word = _pop(queue, size)
            bits.view(np.uint32)[0] = np.uint32(word >> np.uint64(32))
            node = word & np.uint64(0xFFFFFFFF)
            leaf, size = _descend(nodes, cuts, node, bits[0], z, queue, size - 1, bits)
            begin = checked
            for at in range(np.uint64(nodes[leaf, 2]), np.uint64(nodes[leaf, 3])):
                i = np.uint64(order[at])
                mask = np.uint64(1) << (i & np.uint64(63))
                if seen[i >> np.uint64(6)] & mask or checked >= checks:
                    continue
                seen[i >> np.uint64(6)] |= mask
                touched[checked] = i
                checked += 1
                for line in range(min(lines, np.uint64(8))):
                    prefetch(flat, i * width + line * step)
            for at in range(begin, checked):
                i = np.uint64(touched[at])
                gap = _squared(points[i], x) if p == 2.0 else power_distance(points[i], x, p)
                if gap <= best[0]:
                    offer(best, name, gap, np.int64(i))
        for at in range(checked):
            seen[np.uint64(touched[at]) >> np.uint64(6)] = np.uint64(0)
        sort_heap(best, name)
