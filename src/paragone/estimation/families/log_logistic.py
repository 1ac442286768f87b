r"""The log-logistic (Fisk) and the Burr XII law.

With $\ell = \log z$ and $p = 1 / (1 + e^{-c \ell})$,

$$ \text{log-logistic: } \log f = (c - 1) \ell - 2 \log(1 + z^c) + \log c - \log \sigma; \qquad
   \text{Burr XII: } \log f = (c - 1) \ell - (d + 1) \log(1 + z^c) + \log c d - \log \sigma . $$

Burr's law with d = 1 is the log-logistic; as d grows with $\sigma^c / d$ fixed it becomes the
Weibull law, so data with a lighter tail than any Burr law have no maximum here: `fit` says so.

References:
    Burr (1942), "Cumulative frequency functions", eq. 20 (type XII).
    Tadikamalla (1980), "A look at the Burr and related distributions".
"""

from __future__ import annotations

import math

import numpy as np

from paragone.estimation._elementary import exp, log1p
from paragone.estimation.families._closed import closed, exponential, logistic
from paragone.estimation.families._family import Data
from paragone.estimation.families._kernels import passes
from paragone.estimation.families._location_scale import LocationScale
from paragone.estimation.families._parameter import positive
from paragone.estimation.families._statistics import quantiles
from paragone.kernels.jit import njit

__all__ = ["FAMILIES", "Burr12", "LogLogistic"]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def _log_logistic(z, log_z, c):
    y, i = c * log_z, 1.0 / z
    q = exp(y)
    j = 1.0 / (1.0 + q)
    soft, p = log1p(q), q * j
    v = p * j
    slope, bend = c - 1.0 - 2.0 * c * p, -2.0 * c * c * v
    return (
        (c - 1.0) * log_z - 2.0 * soft, slope * i, (bend - slope) * i * i,
        log_z * (1.0 - 2.0 * p), (1.0 - 2.0 * p - 2.0 * y * v) * i, -2.0 * log_z * log_z * v,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def _burr12(z, log_z, c, d):
    y, i, k = c * log_z, 1.0 / z, d + 1.0
    q = exp(y)
    j = 1.0 / (1.0 + q)
    soft, p = log1p(q), q * j
    v = p * j
    slope, bend = c - 1.0 - k * c * p, -k * c * c * v
    return (
        (c - 1.0) * log_z - k * soft, slope * i, (bend - slope) * i * i,
        log_z * (1.0 - k * p), (1.0 - k * (p + y * v)) * i, -k * log_z * log_z * v,
        -soft, -c * p * i, -log_z * p, 0.0,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _scaled_log(z, c, b):
    log_z, i = math.log(z), 1.0 / z
    return c * log_z, c * i, -c * i * i, log_z, i, 0.0, 0.0, 0.0, 0.0, 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _soft_power(z, c, d):
    """-log(1 - F) = d log(1 + z^c) with derivatives in z, c and d."""
    log_z, i = math.log(z), 1.0 / z
    y = c * log_z
    e = math.exp(-abs(y))
    j = 1.0 / (1.0 + e)
    soft, p, v = max(y, 0.0) + math.log1p(e), j if y > 0.0 else e * j, e * j * j
    return (
        d * soft, d * c * p * i, d * c * (c * v - p) * i * i,
        d * log_z * p, d * (p + y * v) * i, d * log_z * log_z * v,
        soft, c * p * i, log_z * p, 0.0,
    )  # fmt: skip


class LogLogistic(LocationScale):
    """exp of a logistic variable: `c` (shape) and `scale`, which is the median."""

    name, title, scipy = "log_logistic", "Log-logistic", "fisk"
    aliases = ("fisk", "loglogistic")
    kernels = passes(_log_logistic, 1)
    closed = closed(logistic, _scaled_log, 1)
    shapes = (positive("c"),)
    located, logs = False, True

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        c = shapes[0]
        return math.log(c), np.array([1.0 / c]), np.array([[-1.0 / (c * c)]])

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        low, middle, high = np.log(quantiles(x, w, (0.25, 0.5, 0.75)))
        return self.join([2.0 * math.log(3.0) / max(high - low, 1e-6)], 0.0, math.exp(middle))

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return -np.logaddexp(0.0, -shapes[0] * np.log(z))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return -np.logaddexp(0.0, shapes[0] * np.log(z))

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.exp((np.log(p) - np.log1p(-p)) / shapes[0])

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.exp((np.log1p(-p) - np.log(p)) / shapes[0])

    def standard_mean(self, *shapes: float) -> float:
        t = math.pi / shapes[0]
        return t / math.sin(t) if shapes[0] > 1.0 else math.inf

    def standard_var(self, *shapes: float) -> float:
        t = math.pi / shapes[0]
        if shapes[0] <= 2.0:
            return math.inf
        return 2.0 * t / math.sin(2.0 * t) - (t / math.sin(t)) ** 2


class Burr12(LocationScale):
    """Burr XII (Singh-Maddala): shapes `c`, `d` and `scale`; the tail is x^(-c d)."""

    name, title, scipy = "burr12", "Burr XII", "burr12"
    aliases = ("burr", "singh_maddala")
    kernels = passes(_burr12, 2)
    closed = closed(exponential, _soft_power, 2)
    shapes = (positive("c"), positive("d"))
    located, logs = False, True

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        c, d = shapes
        return (
            math.log(c) + math.log(d),
            np.array([1.0 / c, 1.0 / d]),
            np.diag([-1.0 / (c * c), -1.0 / (d * d)]),
        )

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        low, middle, high = np.log(quantiles(x, w, (0.25, 0.5, 0.75)))
        data = self.prepare(Data(x, w))
        best = -math.inf, np.ones(3)
        for d in (0.2, 0.5, 1.0, 2.0, 8.0):
            odds = np.log(np.expm1(-np.log1p(-np.array([0.25, 0.5, 0.75])) / d))
            c = (odds[2] - odds[0]) / max(high - low, 1e-6)
            theta = self.join([c, d], 0.0, math.exp(middle - odds[1] / c))
            best = max(best, (self.terms(data, theta)[0], theta), key=lambda pair: pair[0])
        return best[1]

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(-np.expm1(self.standard_logsf(z, *shapes)))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return -shapes[1] * np.logaddexp(0.0, shapes[0] * np.log(z))

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.expm1(-np.log1p(-p) / shapes[1]) ** (1.0 / shapes[0])

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.expm1(-np.log(p) / shapes[1]) ** (1.0 / shapes[0])

    def _moment(self, k: float, c: float, d: float) -> float:
        if k >= c * d:
            return math.inf
        return math.exp(math.lgamma(1.0 + k / c) + math.lgamma(d - k / c) - math.lgamma(d))

    def standard_mean(self, *shapes: float) -> float:
        return self._moment(1.0, *shapes)

    def standard_var(self, *shapes: float) -> float:
        second = self._moment(2.0, *shapes)
        return second - self._moment(1.0, *shapes) ** 2 if second < math.inf else math.inf


FAMILIES = (LogLogistic(), Burr12())
