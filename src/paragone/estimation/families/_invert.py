"""Quantiles of a law that has only its two log tails: bisection, all quantiles at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["inverted"]

Tail = Callable[[np.ndarray], np.ndarray]


def inverted(
    p: np.ndarray, upper: bool, logcdf: Tail, logsf: Tail, low: float, high: float
) -> np.ndarray:
    """Z with P(Z <= z) = p, or P(Z > z) = p if `upper`, for a support of the whole line.

    Args:
        p: Probabilities (...).
        upper: Which tail p is.
        logcdf: Log of the lower tail.
        logsf: Log of the upper tail.
        low: A point with little mass below it; the bracket grows from here.
        high: The same above.
    """
    p = np.asarray(p, np.float64)
    goal = np.atleast_1d(p).ravel()
    # Small probabilities by their own tail, large ones by the other.
    tail = (goal > 0.5) ^ upper
    with np.errstate(divide="ignore"):
        level = np.where(goal > 0.5, np.log1p(-goal), np.log(goal))

    def above(z: np.ndarray) -> np.ndarray:
        """Whether z lies above the quantile."""
        return np.where(tail, logsf(z) < level, logcdf(z) > level)

    a, b = np.full(len(goal), low), np.full(len(goal), high)
    for _ in range(12):
        width = b - a
        a = np.where(above(a), a - width, a)
        b = np.where(above(b), b, b + width)
    for _ in range(64):
        middle = 0.5 * (a + b)
        up = above(middle)
        a, b = np.where(up, a, middle), np.where(up, middle, b)
    z = np.where(np.isneginf(level), np.where(tail, np.inf, -np.inf), 0.5 * (a + b))
    return z.reshape(p.shape)
