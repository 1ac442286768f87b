r"""The k nearest seen so far, as a heap whose root is the farthest, and exact distances.

Entries are ordered by (distance, index): of two points at the same distance the lower index is
nearer, so that any order of visits ends with the same k. Distances stand in power space,
$\sum_j |x_j - y_j|^p$ (for $p = \infty$ the maximum), until the root is taken at the end.

They are summed in float64 whatever the points' type. `distances_in_order` sums in the order of the
columns, as a loop over the definition does: every exact search that does so agrees on ties to the
last bit. Four sums run side by side, since one waits for each addition.

References:
    Williams (1964), "Algorithm 232: Heapsort", Communications of the ACM 7.

k neighbours, d dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.kernels.jit import njit

__all__ = [
    "distances_in_order", "offer", "out_of_power", "power_distance", "sort_heap",
    "squared_distance",
]  # fmt: skip

_ONE = np.uint64(1)
_TWO = np.uint64(2)


@njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def squared_distance(x: Any, y: Any) -> float:
    """Sum of squared differences of two rows of any type, in float64."""
    total = 0.0
    for j in range(len(x)):
        gap = np.float64(x[j]) - np.float64(y[j])
        total += gap * gap
    return total


@njit(nogil=True, error_model="numpy")
def distances_in_order(points: Any, rows: Any, count: int, x: Any, out: Any) -> None:
    """Squared distances of x to points[rows[:count]], summed in the order of the columns."""
    last = rows[count - 1]
    for start in range(0, count, 4):
        a = points[rows[start]]
        b = points[rows[start + 1] if start + 1 < count else last]
        c = points[rows[start + 2] if start + 2 < count else last]
        e = points[rows[start + 3] if start + 3 < count else last]
        s = t = u = v = 0.0
        for j in range(len(x)):
            value = np.float64(x[j])
            s += (np.float64(a[j]) - value) * (np.float64(a[j]) - value)
            t += (np.float64(b[j]) - value) * (np.float64(b[j]) - value)
            u += (np.float64(c[j]) - value) * (np.float64(c[j]) - value)
            v += (np.float64(e[j]) - value) * (np.float64(e[j]) - value)
        out[start], out[start + 1], out[start + 2], out[start + 3] = s, t, u, v


@njit(nogil=True, error_model="numpy")
def power_distance(x: Any, y: Any, p: float) -> float:
    """Sum of |difference| ** p, or the largest one for p = inf."""
    if p == 2.0:
        return squared_distance(x, y)
    total = 0.0
    for j in range(len(x)):
        gap = abs(np.float64(x[j]) - np.float64(y[j]))
        if p == 1.0:
            total += gap
        elif p == np.inf:
            total = max(total, gap)
        else:
            total += gap**p
    return total


@njit(nogil=True, error_model="numpy")
def offer(distance: Any, index: Any, d: float, i: Any) -> None:
    """Puts (d, i) into the heap in place of its farthest entry, if it is nearer than that."""
    k = np.uint64(len(distance))
    if d > distance[0] or (d == distance[0] and i >= index[0]):
        return
    at = np.uint64(0)
    while True:
        child = _TWO * at + _ONE
        if child >= k:
            break
        right = child + _ONE
        if right < k and (
            distance[right] > distance[child]
            or (distance[right] == distance[child] and index[right] > index[child])
        ):
            child = right
        if distance[child] < d or (distance[child] == d and index[child] < i):
            break
        distance[at] = distance[child]
        index[at] = index[child]
        at = child
    distance[at] = d
    index[at] = i


@njit(nogil=True, error_model="numpy")
def sort_heap(distance: Any, index: Any) -> None:
    """Turns the heap into ascending (distance, index)."""
    for size in range(len(distance) - 1, 0, -1):
        d, i = distance[size], index[size]
        distance[size] = distance[0]
        index[size] = index[0]
        # The last entry takes the root's place in the heap of the remaining `size` entries.
        distance[0], index[0] = np.inf, np.int64(9223372036854775807)
        offer(distance[:size], index[:size], d, i)


def out_of_power(distance: np.ndarray, p: float) -> np.ndarray:
    """Takes the p-th root of distances in power space, in place."""
    if p == 2.0:
        return np.sqrt(distance, out=distance)
    if 1.0 < p < np.inf:
        distance **= 1.0 / p
    return distance
