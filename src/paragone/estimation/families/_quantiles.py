"""Quantiles of a standard law whose distribution function has no known inverse.

Bisection in y (z = e^y, or z = sinh(y) on the whole line) on the logarithm of the smaller tail,
then Newton's steps: the answer has the accuracy of that logarithm, however small p is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["invert_positive", "invert_real"]


def invert_positive(family: Any, p: Any, upper: bool, shapes: Any) -> np.ndarray:
    """Z > 0 with tail p, lower or upper, of `family.standard_logcdf` and `standard_logsf`."""
    return _invert(family, p, upper, shapes, np.exp, lambda y: y, 1.0)


def invert_real(family: Any, p: Any, upper: bool, shapes: Any) -> np.ndarray:
    """The same on the whole line."""
    return _invert(family, p, upper, shapes, np.sinh, lambda y: np.log(np.cosh(y)), 0.5)


def _invert(
    family: Any, p: Any, upper: bool, shapes: Any,
    to_z: Callable[..., Any], log_slope: Callable[..., Any], reach: float,
) -> np.ndarray:  # fmt: skip
    p = np.asarray(p, np.float64)
    flat = p.ravel()
    # One tail of the two is at most 1/2, and that one is inverted.
    swap = flat > 0.5
    with np.errstate(all="ignore"):
        goal = np.where(swap, np.log1p(-flat), np.log(flat))
        use_upper = swap != upper

        def tail(y: np.ndarray) -> np.ndarray:
            z = to_z(y)
            result = np.empty_like(z)
            for side, function in ((use_upper, family.standard_logsf),
                                   (~use_upper, family.standard_logcdf)):  # fmt: skip
                if side.any():
                    result[side] = function(z[side], *shapes)
            return result

        low, high = np.full(flat.shape, -700.0 * reach), np.full(flat.shape, 700.0 * reach)
        for _ in range(44):
            middle = 0.5 * (low + high)
            right = (tail(middle) < goal) != use_upper
            low, high = np.where(right, middle, low), np.where(right, high, middle)
        y = 0.5 * (low + high)
        for _ in range(2):
            at = tail(y)
            out, _ = family._jets(to_z(y), np.asarray(shapes, np.float64))
            slope = np.exp(out[:, 0] + log_slope(y) - at) * np.where(use_upper, -1.0, 1.0)
            step = (goal - at) / slope
            y = np.where(np.abs(step) < 1e-6, y + step, y)
        z = to_z(y)
    first, last = to_z(np.array(-np.inf)), np.inf
    z = np.where(
        flat == 0.0, last if upper else first, np.where(flat == 1.0, first if upper else last, z)
    )
    return np.where((flat >= 0.0) & (flat <= 1.0), z, np.nan).reshape(p.shape)
