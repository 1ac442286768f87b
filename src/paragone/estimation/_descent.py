"""Kernels of `robbins_monro.replicate` and of `gradient_descent.sgd`."""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit

__all__ = [
    "HUBER", "LINEAR", "LOGISTIC", "MEAN", "QUANTILE", "advance", "descend", "move", "replicate",
]  # fmt: skip

MEAN, LINEAR, LOGISTIC, QUANTILE, HUBER = range(5)
_SUMS = {"contract", "nsz"}
_RATIO = 1.02
"""Points of a recorded path lie so far apart."""


@njit(nogil=True, error_model="numpy", fastmath=_SUMS)
def move(w, values, a, k, burn_in, low, high, origin, sums, third):
    """Step k + 1 of replications w (R,), each with its observed value, and its share in sums.

    sums: (3, R), the average less `origin`, and sum s^2 z, sum s^2 z^2 of the averages z.
    """
    offset, first, second = sums[0], sums[1], sums[2]
    s = float(k + 1 - burn_in)
    share, square = 1.0 / s, s * s
    if s > 0:
        third[0] += square
        for r in range(len(w)):
            v = w[r] - a * values[r]
            v = low if v < low else v
            v = high if v > high else v
            w[r] = v
            z = offset[r] + (v - origin - offset[r]) * share
            offset[r] = z
            first[r] += square * z
            second[r] += square * z * z
    else:
        for r in range(len(w)):
            v = w[r] - a * values[r]
            v = low if v < low else v
            w[r] = high if v > high else v


@njit(nogil=True, error_model="numpy")
def replicate(kind, q, w, noise, sizes, k, burn_in, low, high, origin, sums, third):
    """Steps k + 1, ... of the built-in problems, with noise (count, R)."""
    values = np.empty(len(w))
    for i in range(len(sizes)):
        if kind == MEAN:
            for r in range(len(w)):
                values[r] = w[r] - noise[i, r]
        else:
            for r in range(len(w)):
                values[r] = (1.0 - q) if noise[i, r] <= w[r] else -q
        move(w, values, sizes[i], k + i, burn_in, low, high, origin, sums, third)


@njit(nogil=True, error_model="numpy")
def _pull(kind, extra, fitted, target):
    """Derivative of the loss by the fitted value, and the second derivative."""
    gap = fitted - target
    if kind == LINEAR:
        return gap, 1.0
    if kind == LOGISTIC:
        # exp of a negative number only, so that nothing overflows.
        e = np.exp(-abs(fitted))
        chance = 1.0 / (1.0 + e) if fitted >= 0 else e / (1.0 + e)
        return chance - target, chance * (1.0 - chance)
    if kind == QUANTILE:
        return (1.0 - extra) if gap >= 0 else -extra, 0.0
    if gap > extra:
        return extra, 0.0
    if gap < -extra:
        return -extra, 0.0
    return gap, 1.0


@njit(nogil=True, error_model="numpy", inline="always")
def _update(w, a, low, high, burn_in, place, gradient, origin, offset, first, second, third, path):
    scaled = a / place[1]
    place[0] += 1
    place[1] = 0
    k = place[0]
    s = float(k - burn_in)
    share, square = 1.0 / s, s * s
    if s > 0.0:
        third[0] += square
    for j in range(len(w)):
        v = w[j] - gradient[j] * scaled
        v = low[j] if v < low[j] else v
        v = high[j] if v > high[j] else v
        w[j] = v
        gradient[j] = 0.0
        if s > 0.0:
            if s == 1.0:
                origin[j] = v
            z = offset[j] + (v - origin[j] - offset[j]) * share
            offset[j] = z
            first[j] += square * z
            second[j] += square * z * z
    if k == place[2] and place[3] < len(path):
        path[place[3], 0] = k
        path[place[3], 1:] = w
        place[3] += 1
        place[2] = max(k + 1, np.int64(k * _RATIO))


@njit(nogil=True, error_model="numpy")
def advance(w, a, low, high, burn_in, place, sums, third, path):
    """One update of w (d,) by sums[0] / place[1] rows, and its share in the averages.

    place: updates, rows of the open batch, next update to be recorded, rows of the path.
    sums: (5, d), the open gradient, the origin and offset of the average, sum s^2 z, s^2 z^2.
    """
    _update(w, a, low, high, burn_in, place, sums[0], sums[1], sums[2], sums[3], sums[4], third,
            path)  # fmt: skip


@njit(nogil=True, error_model="numpy")
def descend(
    kind, extra, rows, target, order, batch, sizes, w, low, high, burn_in, place, sums, third,
    path, slope, noise, seen,
):  # fmt: skip
    """Takes the rows (n, d) in the given order through batches that may span calls.

    slope, noise: (d, d) sums for the plug-in covariance over the `seen[0]` rows after the
    burn-in, or (0, 0). The last batch may stay open.
    """
    d = len(w)
    gradient, origin, offset, first, second = sums[0], sums[1], sums[2], sums[3], sums[4]
    own = np.empty(d)
    keep = len(slope) > 0
    taken = 0
    for i in range(len(order)):
        at = order[i]
        curve = 1.0
        if kind == MEAN:
            for j in range(d):
                own[j] = w[j] - rows[at, j]
                gradient[j] += own[j]
        else:
            fitted = 0.0
            for j in range(d):
                fitted += w[j] * rows[at, j]
            pull, curve = _pull(kind, extra, fitted, target[at])
            for j in range(d):
                own[j] = pull * rows[at, j]
                gradient[j] += own[j]
        if keep and place[0] >= burn_in:
            seen[0] += 1
            for j in range(d):
                for m in range(d):
                    noise[j, m] += own[j] * own[m]
                    if kind != MEAN:
                        slope[j, m] += curve * rows[at, j] * rows[at, m]
        place[1] += 1
        if place[1] == batch:
            _update(w, sizes[taken], low, high, burn_in, place, gradient, origin, offset, first,
                    second, third, path)  # fmt: skip
            taken += 1
    return taken
