"""Kernels of `running_mean`: moments of a block by two passes, merged by pairwise formulas.

A state is a row of eight numbers (`W, HI, LO, M2, M3, M4, LEAST, MOST`): the total weight, the
mean as an unevaluated sum HI + LO, three central sums, and the range.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit

__all__ = ["BLOCK", "empty", "merge", "rolling", "update", "update_weighted"]

BLOCK = 2048
"""Numbers that a block holds: 16 KiB, which a first-level cache keeps for the second pass."""

W, HI, LO, M2, M3, M4, LEAST, MOST = range(8)
_SUMS = {"reassoc", "contract", "nsz"}


def empty(columns: int) -> np.ndarray:
    """States (columns, 8) that have seen nothing."""
    states = np.zeros((columns, 8))
    states[:, LEAST], states[:, MOST] = np.inf, -np.inf
    return states


@njit(nogil=True, error_model="numpy", fastmath=_SUMS)
def _total(x):
    total = 0.0
    for i in range(len(x)):
        total += x[i]
    return total


@njit(nogil=True, error_model="numpy", fastmath=_SUMS)
def _powers(x, centre):
    """Sums of the first four powers of x - centre."""
    s1, s2, s3, s4 = 0.0, 0.0, 0.0, 0.0
    for i in range(len(x)):
        d = x[i] - centre
        square = d * d
        s1 += d
        s2 += square
        s3 += square * d
        s4 += square * square
    return s1, s2, s3, s4


@njit(nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _range(x):
    """Least and greatest of numbers among which is no NaN: the flag says so."""
    least, most = x[0], x[0]
    for i in range(len(x)):
        least = min(least, x[i])
        most = max(most, x[i])
    return least, most


@njit(nogil=True, error_model="numpy")
def _central(state, w, centre, s1, s2, s3, s4):
    """Writes what power sums about `centre` say about the mean."""
    e = s1 / w
    state[W] = w
    state[HI] = centre + e
    state[LO] = (centre - state[HI]) + e
    state[M2] = max(s2 - e * s1, 0.0) if s2 == s2 else s2
    state[M3] = s3 - 3.0 * e * s2 + 2.0 * e * e * s1
    state[M4] = s4 - 4.0 * e * s3 + 6.0 * e * e * s2 - 3.0 * e * e * e * s1


@njit(nogil=True, error_model="numpy")
def merge(a, b):
    """Adds the state `b` to `a`; both are rows of eight."""
    if b[W] == 0.0:
        return
    if a[W] == 0.0:
        a[:] = b
        return
    total = a[W] + b[W]
    share = b[W] / total
    if not (np.isfinite(a[HI]) and np.isfinite(b[HI])):
        a[HI] += b[HI]
        a[LO] = 0.0
        a[M2], a[M3], a[M4] = np.nan, np.nan, np.nan
    else:
        delta = (b[HI] - a[HI]) + (b[LO] - a[LO])
        other = 1.0 - share
        both = a[W] * share
        cube = 3.0 * (a[W] * b[M2] - b[W] * a[M2]) / total
        a[M4] += (
            b[M4]
            + delta * delta * delta * delta * both * (other * other - other * share + share * share)
            + 6.0 * delta * delta * (other * other * b[M2] + share * share * a[M2])
            + 4.0 * delta * (other * b[M3] - share * a[M3])
        )
        a[M3] += b[M3] + delta * delta * delta * both * (other - share) + delta * cube
        a[M2] += b[M2] + delta * delta * both
        move = delta * share + a[LO]
        moved = a[HI] + move
        a[LO] = (a[HI] - moved) + move
        a[HI] = moved
    a[W] = total
    a[LEAST] = min(a[LEAST], b[LEAST])
    a[MOST] = max(a[MOST], b[MOST])
    if a[HI] != a[HI]:
        a[LEAST], a[MOST] = np.nan, np.nan


@njit(nogil=True, error_model="numpy")
def _odd_block(x, state):
    """A block whose sum is not finite: returns the number of NaN, and leaves them out."""
    kept = np.empty(len(x))
    n, infinite, rising, falling = 0, False, False, False
    for i in range(len(x)):
        if x[i] == x[i]:
            kept[n] = x[i]
            n += 1
            rising |= x[i] == np.inf
            falling |= x[i] == -np.inf
    infinite = rising or falling
    if n == 0:
        return len(x)
    clean = kept[:n]
    if infinite:
        state[W] = n
        state[HI] = np.nan if rising and falling else np.inf if rising else -np.inf
        state[LO] = 0.0
        state[M2], state[M3], state[M4] = np.nan, np.nan, np.nan
    else:
        centre = _total(clean / n)
        s1, s2, s3, s4 = _powers(clean, centre)
        _central(state, n, centre, s1, s2, s3, s4)
    state[LEAST], state[MOST] = _range(clean)
    return len(x) - n


@njit(nogil=True, error_model="numpy")
def update(state, x):
    """Adds the numbers x (n,) but NaN to a state; returns how many NaN there were."""
    part = np.empty(8)
    missing = 0
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        total = _total(block)
        part[W] = 0.0
        if np.isfinite(total):
            n = len(block)
            centre = total / n
            s1, s2, s3, s4 = _powers(block, centre)
            _central(part, n, centre, s1, s2, s3, s4)
            part[LEAST], part[MOST] = _range(block)
        else:
            missing += _odd_block(block, part)
        merge(state, part)
    return missing


@njit(nogil=True, error_model="numpy")
def update_weighted(state, x, weights):
    """The same with a weight for each number; numbers of weight 0 are left out."""
    part = np.empty(8)
    missing = 0
    for start in range(0, len(x), BLOCK):
        stop = min(start + BLOCK, len(x))
        total, centre = 0.0, 0.0
        least, most = np.inf, -np.inf
        for i in range(start, stop):
            if weights[i] > 0.0:
                if x[i] != x[i]:
                    missing += 1
                    continue
                total += weights[i]
                centre += (x[i] - centre) * (weights[i] / total)
                least, most = min(least, x[i]), max(most, x[i])
        if total == 0.0:
            continue
        s1, s2, s3, s4 = 0.0, 0.0, 0.0, 0.0
        for i in range(start, stop):
            if weights[i] > 0.0 and x[i] == x[i]:
                d = x[i] - centre
                first = weights[i] * d
                square = first * d
                s1 += first
                s2 += square
                s3 += square * d
                s4 += square * d * d
        _central(part, total, centre, s1, s2, s3, s4)
        if not np.isfinite(centre):
            part[HI], part[LO] = least + most, 0.0
        part[LEAST], part[MOST] = least, most
        merge(state, part)
    return missing


@njit(nogil=True, error_model="numpy")
def _join(n, mean, square, m, other, more):
    """Count, mean and central square of two parts together."""
    if n == 0:
        return m, other, more
    if m == 0:
        return n, mean, square
    total = n + m
    delta = other - mean
    return total, mean + delta * (m / total), square + more + delta * delta * (n * m / total)


@njit(nogil=True, error_model="numpy")
def rolling(x, window, means, squares):
    """Mean and central square of each full window (n - window + 1,), nothing ever subtracted.

    The array is cut into segments as long as the window; a window is the end of one segment
    and the beginning of the next, whose moments are kept as suffixes and prefixes.
    """
    tail_mean, tail_square = np.zeros(window + 1), np.zeros(window + 1)
    for start in range(0, len(x) - window + 1, window):
        mean, square = 0.0, 0.0
        for i in range(window):
            _, mean, square = _join(1, x[start + window - 1 - i], 0.0, i, mean, square)
            tail_mean[i + 1], tail_square[i + 1] = mean, square
        mean, square = 0.0, 0.0
        for j in range(min(window, len(x) - window + 1 - start)):
            if j > 0:
                _, mean, square = _join(j - 1, mean, square, 1, x[start + window + j - 1], 0.0)
            _, m, s = _join(window - j, tail_mean[window - j], tail_square[window - j],
                            j, mean, square)  # fmt: skip
            means[start + j] = m
            squares[start + j] = s
