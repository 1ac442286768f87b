"""Kernels of `running_quantile`: counting by the bits of floats, compaction, and P-square."""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit

__all__ = [
    "INFINITE", "MAGNITUDE", "add_runs", "count_bits", "extremes", "p2_update", "sample",
]  # fmt: skip

MAGNITUDE = np.int64(0x7FFFFFFFFFFFFFFF)
INFINITE = np.int64(0x7FF0000000000000)


@njit(nogil=True, error_model="numpy")
def extremes(bits):
    """(least, greatest, greatest magnitude) of the numbers that the int64 `bits` (n,) spell.

    As integers: a number's bits, those of the magnitude inverted if it is negative, ascend as
    the numbers do. A magnitude above `INFINITE` is that of a NaN.
    """
    least = bits[0] ^ ((bits[0] >> 63) & MAGNITUDE)
    most, largest = least, np.int64(0)
    for i in range(len(bits)):
        size = bits[i] & MAGNITUDE
        order = bits[i] ^ ((bits[i] >> 63) & MAGNITUDE)
        least, most = min(least, order), max(most, order)
        largest = max(largest, size)
    return least, most, largest


@njit(nogil=True, error_model="numpy")
def count_bits(bits, shift, counts, low, special):
    """Counts numbers in buckets until one lies outside them; returns how many it has counted.

    The bucket of a number is the top of its bits: exponent and first digits. counts: (2, w), of
    the keys low to low + w - 1 above zero and below it. special: zero (and what is next to it),
    inf, -inf. There is no NaN among the numbers.
    """
    width = counts.shape[1]
    flat = counts.reshape(-1)
    for i in range(len(bits)):
        key = (bits[i] & MAGNITUDE) >> shift
        place = key - low
        if np.uint64(place) < np.uint64(width):
            flat[place - (bits[i] >> 63) * width] += 1
        elif key == 0:
            special[0] += 1
        elif (bits[i] & MAGNITUDE) == INFINITE:
            special[1 - (bits[i] >> 63)] += 1
        else:
            return i
    return len(bits)


@njit(nogil=True, error_model="numpy")
def _next(state):
    """One step of a 64-bit xorshift generator whose state is a word of an array."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return x * np.uint64(0x2545F4914F6CDD1D)


@njit(nogil=True, error_model="numpy")
def sample(x, group, pending, place, random, picked):
    """One number at random of each `group` consecutive ones; returns how many were picked.

    pending: [candidate]. place: [numbers of the open group seen, which of them is wanted].
    `group` is a power of two.
    """
    n, i, out = len(x), 0, 0
    mask = np.uint64(group - 1)
    while i < n:
        seen = place[0]
        if seen == 0:
            place[1] = np.int64((_next(random) >> np.uint64(20)) & mask)
            pending[0] = x[i]
        step = min(group - seen, n - i)
        wanted = place[1] - seen
        if 0 <= wanted < step:
            pending[0] = x[i + wanted]
        i += step
        if seen + step == group:
            picked[out] = pending[0]
            out += 1
            place[0] = 0
        else:
            place[0] = seen + step
    return out


@njit(nogil=True, error_model="numpy")
def _halve(run, random, out):
    """Every other number of a sorted run, beginning with the first or the second."""
    first = np.int64(_next(random) >> np.uint64(63))
    for i in range(len(out)):
        out[i] = run[2 * i + first]


@njit(nogil=True, error_model="numpy")
def _merge(a, b, out):
    """Merges two sorted runs of the same length n: the lower n numbers upwards, the upper down.

    Neither chain can leave its run, and no branch depends on the numbers.
    """
    n = len(a)
    i, j = 0, 0
    k, m = n - 1, n - 1
    for place in range(n):
        left, right = a[i], b[j]
        first = left <= right
        out[place] = left if first else right
        i += first
        j += not first
        left, right = a[k], b[m]
        first = left > right
        out[2 * n - 1 - place] = left if first else right
        k -= first
        m -= not first


@njit(nogil=True, error_model="numpy")
def add_runs(runs, halved, level, half, half_full, levels, full, random):
    """Adds sorted runs; a full level passes half of its numbers on, with twice the weight.

    runs: (m, B), blocks of the base, to be halved first; or, if `halved`, runs of the level
    `level`. half: (B / 2,), a halved block that waits for another. levels: (L, B), runs of
    weight 2^(i + 1) of the base's; `full` says which are there. The levels must suffice.
    """
    size = levels.shape[1]
    carry, both = np.empty(size), np.empty(2 * size)
    small = np.empty(size // 2)
    for m in range(len(runs)):
        at = level
        if halved:
            carry[:] = runs[m]
        else:
            _halve(runs[m], random, small)
            if not half_full[0]:
                half[:] = small
                half_full[0] = True
                continue
            _merge(half, small, carry)
            half_full[0] = False
        while full[at]:
            _merge(levels[at], carry, both)
            _halve(both, random, carry)
            full[at] = False
            at += 1
        levels[at, :] = carry
        full[at] = True


@njit(nogil=True, error_model="numpy")
def p2_update(x, p, heights, places):
    """Takes the numbers x into the five markers of the quantile p, which hold five already."""
    q0, q1, q2, q3, q4 = heights[0], heights[1], heights[2], heights[3], heights[4]
    n1, n2, n3, n4 = places[1], places[2], places[3], places[4]
    for i in range(len(x)):
        v = x[i]
        if v < q0:
            q0 = v
        elif v > q4:
            q4 = v
        n1 += v < q1
        n2 += v < q2
        n3 += v < q3
        n4 += 1.0
        last = n4 - 1.0
        q1, n1 = _marker(q0, q1, q2, 1.0, n1, n2, 1.0 + last * 0.5 * p)
        q2, n2 = _marker(q1, q2, q3, n1, n2, n3, 1.0 + last * p)
        q3, n3 = _marker(q2, q3, q4, n2, n3, n4, 1.0 + last * 0.5 * (1.0 + p))
    heights[0], heights[1], heights[2], heights[3], heights[4] = q0, q1, q2, q3, q4
    places[1], places[2], places[3], places[4] = n1, n2, n3, n4


@njit(nogil=True, error_model="numpy")
def _marker(below, height, above, left, place, right, desired):
    """Moves a marker by one place where it is off by that much, along a parabola if it can."""
    gap = desired - place
    if (gap >= 1.0 and right - place > 1.0) or (gap <= -1.0 and left - place < -1.0):
        d = 1.0 if gap > 0 else -1.0
        rise, fall = (above - height) / (right - place), (height - below) / (place - left)
        moved = height + d / (right - left) * (
            (place - left + d) * rise + (right - place - d) * fall
        )
        if not below < moved < above:
            moved = height + rise if d > 0 else height - fall
        return moved, place + d
    return height, place
