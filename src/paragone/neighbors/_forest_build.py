"""Growing one randomised k-d tree: cut at the mean of a dimension drawn among the widest.

The dimensions are the points' leading principal axes: cuts across them tell more than cuts across
the given coordinates, which share their information (Silpa-Anan & Hartley 2008, section 3).

The rows of a node are a random sample of its points in order, so variances come from its first
hundred rows (Muja & Lowe 2014, section 3.1.1). A mean that leaves one side nearly empty gives way
to the median: the depth stays logarithmic whatever the data, and equal points are simply halved.

A node is four words: dimension (or -1 for a leaf), bits of the cut (float32), right child or
first position, last position. The left child follows its parent.

n points, d dimensions, r axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.kernels.jit import njit
from paragone.neighbors._parallel import one_blas_thread

__all__ = ["grow", "max_nodes", "principal_axes"]

_SAMPLE = 100
_WIDEST = 5
_STACK = 512
_AXES_FROM = 4096

_named = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_named)
def _draw(state):
    """One step of xorshift64*; returns the state and 32 random bits."""
    state ^= state >> np.uint64(12)
    state ^= state << np.uint64(25)
    state ^= state >> np.uint64(27)
    return state, (state * np.uint64(2685821657736338717)) >> np.uint64(32)


@njit(**_named, fastmath={"contract"})
def _moments(points, rows, first, total, square):
    """Sums of (x - x_first) and of its square over a sample of rows, for every dimension."""
    total[:] = np.float32(0)
    square[:] = np.float32(0)
    for row in rows:
        for j in range(len(first)):
            gap = points[row, j] - first[j]
            total[j] += gap
            square[j] += gap * gap


@njit(**_named)
def _widest(total, square, count, chosen):
    """Fills `chosen` with the dimensions of largest variance; returns how many vary at all."""
    found = 0
    least = np.empty(_WIDEST, np.float32)
    inverse = np.float32(1.0 / count)
    for j in range(len(total)):
        variance = square[j] - total[j] * total[j] * inverse
        if variance <= 0.0 or (found == len(chosen) and variance <= least[found - 1]):
            continue
        at = min(found, len(chosen) - 1)
        while at > 0 and least[at - 1] < variance:
            least[at] = least[at - 1]
            chosen[at] = chosen[at - 1]
            at -= 1
        least[at] = variance
        chosen[at] = j
        found = min(found + 1, len(chosen))
    return found


@njit(**_named)
def _split_below(keys, rows, cut):
    """Moves rows whose key is below the cut to the front; returns how many."""
    low, high = 0, len(keys) - 1
    while low <= high:
        if keys[low] < cut:
            low += 1
        else:
            keys[low], keys[high] = keys[high], keys[low]
            rows[low], rows[high] = rows[high], rows[low]
            high -= 1
    return low


@njit(**_named)
def _split_half(keys, rows):
    """Hoare's selection: the lower half of the keys comes first; returns the middle key."""
    middle = len(keys) // 2
    low, high = 0, len(keys) - 1
    while low < high:
        pivot = keys[middle]
        i, j = low, high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                rows[i], rows[j] = rows[j], rows[i]
                i += 1
                j -= 1
        if j < middle:
            low = i
        if middle < i:
            high = j
    return keys[middle]


@njit(**_named)
def _cut(points, rows, keys, first, total, square, chosen, state):
    """Chooses a dimension, orders `rows` by it and returns (dimension, cut, left count, state)."""
    sample = rows[:_SAMPLE]
    for j in range(len(first)):
        first[j] = points[rows[0], j]
    _moments(points, sample, first, total, square)
    varying = _widest(total, square, len(sample), chosen)
    j = 0
    state, bits = _draw(state)
    if varying > 0:
        j = chosen[np.int64(bits) % varying]
    for i in range(len(rows)):
        keys[i] = points[rows[i], j]
    own = keys[: len(rows)]
    cut = np.float32(first[j] + total[j] / np.float32(len(sample)))
    left = _split_below(own, rows, cut)
    if 8 * min(left, len(rows) - left) < len(rows):
        cut = _split_half(own, rows)
        left = len(rows) // 2
    return j, cut, left, state


@njit(**_named)
def grow(points: Any, order: Any, nodes: Any, cuts: Any, leafsize: int, seed: Any) -> int:
    """Grows a tree over the rows in `order` (n,), which it rearranges; returns its node count.

    Args:
        points: (n, d) float32.
        order: Row numbers int32, shuffled.
        nodes: (max_nodes, 4) int32, filled here.
        cuts: The same memory as float32.
        leafsize: Most rows of a leaf.
        seed: Non-zero uint64.
    """
    d = points.shape[1]
    keys = np.empty(len(order), np.float32)
    first, total, square = np.empty(d, np.float32), np.empty(d, np.float32), np.empty(d, np.float32)
    chosen = np.empty(min(_WIDEST, d), np.int64)
    waiting = np.empty((_STACK, 3), np.int64)  # begin, end, the parent whose right child it is
    waiting[0, 0], waiting[0, 1], waiting[0, 2] = 0, len(order), -1
    depth, count = 1, 0
    state = seed
    while depth > 0:
        depth -= 1
        begin, end, parent = waiting[depth, 0], waiting[depth, 1], waiting[depth, 2]
        if parent >= 0:
            nodes[parent, 2] = count
        while end - begin > leafsize:
            j, cut, left, state = _cut(
                points, order[begin:end], keys, first, total, square, chosen, state
            )
            nodes[count, 0] = j
            cuts[count, 1] = cut
            nodes[count, 3] = end
            waiting[depth, 0], waiting[depth, 1], waiting[depth, 2] = begin + left, end, count
            depth += 1
            count += 1
            end = begin + left
        nodes[count, 0] = -1
        nodes[count, 1] = 0
        nodes[count, 2] = begin
        nodes[count, 3] = end
        count += 1
    return count


def max_nodes(n: int, leafsize: int) -> int:
    """Room enough for any tree: a leaf never holds fewer than an eighth of a leaf and a row."""
    least = max(1, leafsize // 8)
    return max(1, 2 * -(-n // least))


def principal_axes(points: np.ndarray, most: int) -> np.ndarray:
    """Returns the leading principal axes (d, r), r = min(d, most), as float32.

    Orthogonal iteration on a few thousand points: the cuts need directions of large spread, not
    digits.
    """
    n, d = points.shape
    r = min(d, most)
    rows = np.linspace(0, n - 1, min(n, _AXES_FROM)).astype(np.int64)
    sample = points[rows].astype(np.float64)
    sample -= sample.mean(axis=0)
    sample /= max(float(np.abs(sample).max()), 1e-300)
    basis = np.random.default_rng(0).normal(size=(d, min(d, r + 8)))
    with one_blas_thread():
        for _ in range(4):
            basis = np.linalg.qr(sample.T @ (sample @ basis))[0]
        values, turn = np.linalg.eigh(basis.T @ (sample.T @ (sample @ basis)))
    leading = turn[:, np.argsort(-values, kind="stable")[:r]]
    return np.ascontiguousarray(basis @ leading, np.float32)
