r"""The normal and lognormal laws.

$$ \log f = -\tfrac12 z^2 - \log \sigma - \tfrac12 \log 2\pi; \qquad
   \text{lognormal: } z = \frac{\log(x - \gamma) - m}{\sigma},\quad - \log(x - \gamma) . $$

Without censoring both have closed maxima: mean and root mean square (of the logarithms).

References:
    Johnson, Kotz and Balakrishnan (1994), "Continuous univariate distributions 1", ch. 13-14.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from paragone.estimation.families._closed import closed, half_normal, identity, normal
from paragone.estimation.families._family import Data
from paragone.estimation.families._kernels import passes
from paragone.estimation.families._location_scale import LocationScale
from paragone.estimation.families._parameter import positive
from paragone.estimation.families._statistics import log_above, mean_and_deviation
from paragone.kernels.jit import njit

__all__ = ["FAMILIES", "HalfNormal", "LogNormal", "LogNormal3", "Normal"]

_HALF_LOG_2PI = 0.9189385332046727
_HALF_LOG_HALF_PI = 0.22579135264472744


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _normal(z, log_z):
    return -0.5 * z * z, -z, -1.0


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _lognormal(z, log_z, s):
    i = 1.0 / z
    q = log_z / (s * s)
    t = q * log_z
    return (
        -0.5 * t - log_z, -(q + 1.0) * i, (q + 1.0 - 1.0 / (s * s)) * i * i,
        t / s, 2.0 * q * i / s, -3.0 * t / (s * s),
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _normal_score(z, s, b):
    """Log z / s with derivatives in z and s."""
    log_z, i, j = math.log(z), 1.0 / z, 1.0 / s
    y = log_z * j
    return y, i * j, -i * i * j, -y * j, -i * j * j, 2.0 * y * j * j, 0.0, 0.0, 0.0, 0.0


class Normal(LocationScale):
    """Normal law with `loc` (mean) and `scale` (standard deviation)."""

    name, title, scipy = "normal", "Normal", "norm"
    aliases = ("norm", "gaussian", "gauss")
    kernels = passes(_normal)
    closed = closed(normal, identity)

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        return -_HALF_LOG_2PI, np.zeros(0), np.zeros((0, 0))

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.array(mean_and_deviation(x, w))

    def closed_form(self, data: Data) -> np.ndarray | None:
        loc, scale = mean_and_deviation(data.x, data.w, data.known.get("loc"))
        return np.array([loc, data.known.get("scale", scale)])

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return special.log_ndtr(z)

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return special.log_ndtr(-z)

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return special.ndtri(p)

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return -special.ndtri(p)

    def standard_sample(self, random: Any, size: Any, *shapes: float) -> np.ndarray:
        return random.standard_normal(size)

    def standard_mean(self, *shapes: float) -> float:
        return 0.0

    def standard_var(self, *shapes: float) -> float:
        return 1.0


class HalfNormal(LocationScale):
    """|Z| times `scale`; with `loc` where the half line begins elsewhere."""

    name, title, scipy = "half_normal", "Half-normal", "halfnorm"
    aliases = ("halfnorm", "halfnormal")
    kernels = passes(_normal)
    closed = closed(half_normal, identity)
    located, begins = False, 0.0

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        return -_HALF_LOG_HALF_PI, np.zeros(0), np.zeros((0, 0))

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.array([mean_and_deviation(x, w, 0.0)[1]])

    def closed_form(self, data: Data) -> np.ndarray | None:
        return self.start(data.x, data.w)

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(special.erf(z / np.sqrt(2.0)))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(2.0) + special.log_ndtr(-z)

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.sqrt(2.0) * special.erfinv(p)

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return -special.ndtri(0.5 * np.asarray(p))

    def standard_mean(self, *shapes: float) -> float:
        return float(np.sqrt(2.0 / np.pi))

    def standard_var(self, *shapes: float) -> float:
        return 1.0 - 2.0 / np.pi


class LogNormal(LocationScale):
    """exp of a normal law with mean `mu` and deviation `sigma`; the median is exp(mu)."""

    name, title, scipy = "lognormal", "Lognormal", "lognorm"
    aliases: tuple[str, ...] = ("lognorm", "log_normal", "galton")
    kernels = passes(_lognormal, 1)
    closed = closed(normal, _normal_score, 1)
    shapes = (positive("sigma"),)
    located, logs, log_scale = False, True, "mu"
    with_location = "lognormal_3p"

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        s = shapes[0]
        return -np.log(s) - _HALF_LOG_2PI, np.array([-1.0 / s]), np.array([[1.0 / (s * s)]])

    def start_above(self, x: np.ndarray, w: np.ndarray, loc: float) -> np.ndarray:
        mu, sigma = mean_and_deviation(log_above(x, loc), w)
        return self.join([max(sigma, 1e-6)], loc, np.exp(mu))

    def closed_form(self, data: Data) -> np.ndarray | None:
        if self.located and "loc" not in data.known:
            return None
        loc = data.known.get("loc", 0.0)
        mu, sigma = mean_and_deviation(np.log(data.x - loc), data.w, data.known.get("mu"))
        return self.join([data.known.get("sigma", sigma)], loc, np.exp(mu))

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return special.log_ndtr(np.log(z) / shapes[0])

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return special.log_ndtr(-np.log(z) / shapes[0])

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.exp(shapes[0] * special.ndtri(p))

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.exp(-shapes[0] * special.ndtri(p))

    def standard_mean(self, *shapes: float) -> float:
        return float(np.exp(0.5 * shapes[0] ** 2))

    def standard_var(self, *shapes: float) -> float:
        return float(np.expm1(shapes[0] ** 2) * np.exp(shapes[0] ** 2))


class LogNormal3(LogNormal):
    """Lognormal above a threshold `loc`."""

    name, title = "lognormal_3p", "Lognormal, three parameters"
    aliases = ("lognorm_3p", "shifted_lognormal")
    located, unbounded = True, True


FAMILIES = (Normal(), HalfNormal(), LogNormal(), LogNormal3())
"""The families of this module."""
