r"""Gumbel's laws of the largest (`gumbel_r`) and of the smallest (`gumbel_l`) of many values.

$$ \text{largest: } h = -z - e^{-z}; \qquad \text{smallest: } h = z - e^z . $$

The second is the law of the logarithm of a Weibull variable.

References:
    Gumbel (1958), "Statistics of extremes", section 5.2.
"""

from __future__ import annotations

import math

import numpy as np

from paragone.estimation._elementary import exp
from paragone.estimation.families._closed import closed, gumbel, identity
from paragone.estimation.families._kernels import passes
from paragone.estimation.families._location_scale import LocationScale
from paragone.estimation.families._statistics import quantiles
from paragone.kernels.jit import njit

__all__ = ["FAMILIES", "GumbelL", "GumbelR"]


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _largest(z, log_z):
    e = exp(-z)
    return -z - e, e - 1.0, -e


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _smallest(z, log_z):
    e = exp(z)
    return z - e, 1.0 - e, -e


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _minus(z, a, b):
    return -z, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0


def _log_of_one_minus_exp_of_minus(t: np.ndarray) -> np.ndarray:
    """log(1 - exp(-t)) of t > 0."""
    return np.where(t < 0.7, np.log(-np.expm1(-t)), np.log1p(-np.exp(-t)))


class GumbelR(LocationScale):
    """Law of the largest value, with `loc` (mode) and `scale`."""

    name, title, scipy = "gumbel_r", "Gumbel (largest)", "gumbel_r"
    aliases = ("gumbel", "gumbel_max", "extreme_value")
    kernels = passes(_largest)
    closed = closed(gumbel, _minus, falling=True)
    _side = 1.0

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        low, middle, high = self._side * quantiles(self._side * x, w, (0.25, 0.5, 0.75))
        scale = abs(high - low) / 1.5725
        spread = scale if scale > 0.0 else 0.8 * float(np.std(x))
        return np.array([middle - 0.3665 * spread * self._side, spread])

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return -np.exp(-z)

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        # Far out the mass is e^-z itself.
        return np.where(
            z > 700.0, -z, _log_of_one_minus_exp_of_minus(np.exp(-np.minimum(z, 700.0)))
        )

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return -np.log(-np.log(p))

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return -np.log(-np.log1p(-np.asarray(p)))

    def standard_mean(self, *shapes: float) -> float:
        return float(np.euler_gamma)

    def standard_var(self, *shapes: float) -> float:
        return math.pi**2 / 6.0


class GumbelL(GumbelR):
    """Law of the smallest value, with `loc` (mode) and `scale`."""

    name, title, scipy = "gumbel_l", "Gumbel (smallest)", "gumbel_l"
    aliases = ("gumbel_min", "smallest_extreme_value", "sev")
    kernels = passes(_smallest)
    closed = closed(gumbel, identity)
    _side = -1.0

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return super().standard_logsf(-z)

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return super().standard_logcdf(-z)

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return -super().standard_isf(p)

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return -super().standard_ppf(p)

    def standard_mean(self, *shapes: float) -> float:
        return -float(np.euler_gamma)


FAMILIES = (GumbelR(), GumbelL())
"""The families of this module."""
