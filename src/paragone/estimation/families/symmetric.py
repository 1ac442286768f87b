r"""Laws symmetric about `loc`: logistic, Laplace, Cauchy and Student's t.

$$ \text{logistic: } h = -|z| - 2 \log(1 + e^{-|z|}), \quad \text{Laplace: } h = -|z|, \quad
   \text{t: } h = -\tfrac{\nu + 1}{2} \log\bigl(1 + z^2 / \nu\bigr), $$

and Cauchy is t with $\nu = 1$. Laplace has its maximum in closed form (weighted median, mean
distance from it), at a kink. Towards $\nu \to \infty$ the law is normal: a fit
that ends there says so.

References:
    Johnson, Kotz and Balakrishnan (1995), "Continuous univariate distributions 2", ch. 23-28.
    Lange, Little and Taylor (1989), "Robust statistical modeling using the t distribution".
    Copas (1975), "On the unimodality of the likelihood for the Cauchy distribution".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from paragone.estimation._elementary import exp, log, log1p
from paragone.estimation.families._closed import cauchy, closed, identity, laplace, logistic
from paragone.estimation.families._family import Data
from paragone.estimation.families._kernels import passes
from paragone.estimation.families._location_scale import LocationScale
from paragone.estimation.families._parameter import positive
from paragone.estimation.families._statistics import mean_and_deviation, quantiles
from paragone.kernels.jit import njit

__all__ = ["FAMILIES", "Cauchy", "Laplace", "Logistic", "StudentT"]

_HALF_LOG_2PI = 0.9189385332046727


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _logistic(z, log_z):
    e = exp(-abs(z))
    i = 1.0 / (1.0 + e)
    sign = -1.0 if z > 0.0 else 1.0
    return -abs(z) - 2.0 * log1p(e), sign * (1.0 - e) * i, -2.0 * e * i * i


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _laplace(z, log_z):
    return -abs(z), -1.0 if z > 0.0 else (1.0 if z < 0.0 else 0.0), 0.0


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _cauchy(z, log_z):
    i = 1.0 / (1.0 + z * z)
    return log(i), -2.0 * z * i, 2.0 * (z * z - 1.0) * i * i


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _student(z, log_z, v):
    square = z * z
    i = 1.0 / (v + square)
    logs = log1p(square / v)
    t = square * i
    return (
        -0.5 * (v + 1.0) * logs,
        -(v + 1.0) * z * i,
        (v + 1.0) * (square - v) * i * i,
        0.5 * ((v + 1.0) / v * t - logs),
        z * (1.0 - square) * i * i,
        0.5 / v * t * (1.0 - (v * v + 2.0 * v + square) / v * i),
    )


class _Symmetric(LocationScale):
    """Starts from the median and the distance between quartiles."""

    quartile = 1.0

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        low, middle, high = quantiles(x, w, (0.25, 0.5, 0.75))
        scale = 0.5 * (high - low) / self.quartile
        return np.array([middle, scale if scale > 0.0 else mean_and_deviation(x, w, middle)[1]])

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return self.standard_logsf(-z, *shapes)

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return -self.standard_ppf(p, *shapes)

    def standard_mean(self, *shapes: float) -> float:
        return 0.0


class Logistic(_Symmetric):
    """Logistic law with `loc` and `scale`; its deviation is pi / sqrt 3 times the scale."""

    name, title, scipy = "logistic", "Logistic", "logistic"
    kernels = passes(_logistic)
    closed = closed(logistic, identity)
    quartile = math.log(3.0)

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return -np.logaddexp(0.0, z)

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return special.logit(p)

    def standard_var(self, *shapes: float) -> float:
        return math.pi**2 / 3.0


class Laplace(_Symmetric):
    """Laplace's double exponential law with `loc` (median) and `scale` (mean distance)."""

    name, title, scipy = "laplace", "Laplace", "laplace"
    aliases = ("double_exponential",)
    kernels = passes(_laplace)
    closed = closed(laplace, identity)
    kinks = ("loc",)
    quartile = math.log(2.0)

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        return -math.log(2.0), np.zeros(0), np.zeros((0, 0))

    def closed_form(self, data: Data) -> np.ndarray | None:
        loc = data.known.get("loc")
        if loc is None:
            low, high = quantiles(data.x, data.w, (0.5, 0.5 + 1e-11))
            loc = 0.5 * (low + high)
        scale = float(data.w @ np.abs(data.x - loc)) / data.total
        return np.array([loc, data.known.get("scale", scale)])

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.where(z > 0.0, -math.log(2.0) - z, np.log1p(-0.5 * np.exp(np.minimum(z, 0.0))))

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.where(p < 0.5, np.log(2.0 * p), -np.log(2.0 * (1.0 - p)))

    def standard_var(self, *shapes: float) -> float:
        return 2.0


class Cauchy(_Symmetric):
    """Cauchy law with `loc` (median) and `scale` (half the distance between quartiles)."""

    name, title, scipy = "cauchy", "Cauchy", "cauchy"
    aliases = ("lorentz",)
    kernels = passes(_cauchy)
    closed = closed(cauchy, identity)
    several = True

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        return -math.log(math.pi), np.zeros(0), np.zeros((0, 0))

    def starts(self, x: np.ndarray, w: np.ndarray) -> list[np.ndarray]:
        scale = self.start(x, w)[1]
        return [np.array([loc, scale]) for loc in quantiles(x, w, (0.5, 0.25, 0.75))]

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        # arctan 1/z keeps the digits of the tail.
        upper = np.arctan2(1.0, z) / math.pi
        return np.where(z > 0.0, np.log(upper), np.log1p(-np.arctan2(1.0, -z) / math.pi))

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        p = np.asarray(p)
        return np.where(p < 0.25, -1.0 / np.tan(math.pi * p), np.tan(math.pi * (p - 0.5)))

    def standard_mean(self, *shapes: float) -> float:
        return math.nan

    def standard_var(self, *shapes: float) -> float:
        return math.nan


class StudentT(_Symmetric):
    """Student's t with `df` degrees of freedom, `loc` and `scale`: a location with heavy tails."""

    name, title, scipy = "student_t", "Student t", "t"
    aliases = ("student", "students_t")
    kernels = passes(_student, 1)
    shapes = (positive("df"),)
    several = True

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        v = shapes[0]
        a = 0.5 * v
        if a > 100.0:
            # log Gamma(a + 1/2) - log Gamma(a) - log(a) / 2 as a series: no cancellation.
            r = 1.0 / a
            q = r * r
            value = r * (-1 / 8 + q * (1 / 192 + q * (-1 / 640 + q * 17 / 14336)))
            first = q * (1 / 8 + q * (-1 / 64 + q * (1 / 128 - q * 17 / 2048)))
            second = q * r * (-1 / 4 + q * (1 / 16 + q * (-3 / 64 + q * 17 / 256)))
            return value - _HALF_LOG_2PI, np.array([0.5 * first]), np.array([[0.25 * second]])
        value = special.gammaln(a + 0.5) - special.gammaln(a) - 0.5 * math.log(v * math.pi)
        first = 0.5 * (special.digamma(a + 0.5) - special.digamma(a) - 1.0 / v)
        second = 0.25 * (special.zeta(2.0, a + 0.5) - special.zeta(2.0, a)) + 0.5 / (v * v)
        return float(value), np.array([first]), np.array([[second]])

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.array([5.0, *super().start(x, w)])

    def starts(self, x: np.ndarray, w: np.ndarray) -> list[np.ndarray]:
        _, loc, scale = self.start(x, w)
        return [np.array([df, loc, scale]) for df in (5.0, 1.2, 40.0)]

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        v = shapes[0]
        square = z * z
        near = special.betaincc(0.5, 0.5 * v, square / (v + square))
        half = 0.5 * np.where(square < v, near, special.betainc(0.5 * v, 0.5, v / (v + square)))
        tail = np.log(half)
        # Beyond the least number: the first term of the series in v / (v + z^2).
        far = -0.5 * v * np.log1p(square / v) - np.log(v) - special.betaln(0.5 * v, 0.5)
        tail = np.where(half > 1e-290, tail, far)
        return np.where(z >= 0.0, tail, np.log1p(-half))

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return special.stdtrit(shapes[0], p)

    def standard_sample(self, random: Any, size: Any, *shapes: float) -> np.ndarray:
        return random.standard_t(shapes[0], size)

    def standard_mean(self, *shapes: float) -> float:
        return 0.0 if shapes[0] > 1.0 else math.nan

    def standard_var(self, *shapes: float) -> float:
        v = shapes[0]
        return v / (v - 2.0) if v > 2.0 else (math.inf if v > 1.0 else math.nan)


FAMILIES = (Logistic(), Laplace(), Cauchy(), StudentT())
"""The families of this module."""
