r"""Weibull's law, with and without a threshold, its inverse (Frechet's law), and Rayleigh's.

$$ h = (k - 1) \log z - z^k + \log k; \qquad
   \text{inverse: } h = -(k + 1) \log z - z^{-k} + \log k; \qquad
   \text{Rayleigh: } h = \log z - \tfrac12 z^2 . $$

With the logarithms of the data computed once, a step is one exponential a value. The likelihood of
the three-parameter form is unbounded: see `_search.threshold`.

References:
    Weibull (1951), "A statistical distribution function of wide applicability".
    Smith (1985), "Maximum likelihood estimation in a class of nonregular cases".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from paragone.estimation._elementary import exp
from paragone.estimation.families._closed import closed, gumbel
from paragone.estimation.families._family import Data
from paragone.estimation.families._kernels import passes
from paragone.estimation.families._location_scale import LocationScale
from paragone.estimation.families._parameter import positive
from paragone.estimation.families._statistics import log_above, mean_and_deviation
from paragone.kernels.jit import njit

__all__ = ["FAMILIES", "InverseWeibull", "Rayleigh", "Weibull", "Weibull3"]

_LOG_2 = 0.6931471805599453


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _weibull(z, log_z, k):
    e = exp(k * log_z)
    i = 1.0 / z
    g = e * log_z
    return (
        (k - 1.0) * log_z - e,
        (k - 1.0 - k * e) * i,
        (1.0 - k) * (1.0 + k * e) * i * i,
        log_z - g,
        (1.0 - e - k * g) * i,
        -g * log_z,
    )


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _inverse(z, log_z, k):
    e = exp(-k * log_z)
    i = 1.0 / z
    g = e * log_z
    return (
        -(k + 1.0) * log_z - e,
        (k * e - k - 1.0) * i,
        (k + 1.0) * (1.0 - k * e) * i * i,
        g - log_z,
        (e - 1.0 - k * g) * i,
        -g * log_z,
    )


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _powers(logs, w, k, shift, out):
    """Weighted sums of z^k, z^k log z and z^k (log z)^2 into out, from log z + shift (n,)."""
    s0 = s1 = s2 = 0.0
    for i in range(len(logs)):
        log_z = logs[i] - shift
        e = w[i] * exp(k * log_z)
        g = e * log_z
        s0 += e
        s1 += g
        s2 += g * log_z
    out[0], out[1], out[2] = s0, s1, s2


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _rayleigh(z, log_z):
    i = 1.0 / z
    return log_z - 0.5 * z * z, i - z, -i * i - 1.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _log_power(z, k, b):
    """Log of z^k, whose exponential -log(1 - F) is."""
    log_z, i = math.log(z), 1.0 / z
    return k * log_z, k * i, -k * i * i, log_z, i, 0.0, 0.0, 0.0, 0.0, 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _log_inverse_power(z, k, b):
    log_z, i = math.log(z), 1.0 / z
    return -k * log_z, -k * i, k * i * i, -log_z, -i, 0.0, 0.0, 0.0, 0.0, 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _log_half_square(z, a, b):
    i = 2.0 / z
    return 2.0 * math.log(z) - _LOG_2, i, -0.5 * i * i, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0


class Weibull(LocationScale):
    """Weibull law with `shape` and `scale`: lifetimes whose hazard is a power of age."""

    name, title, scipy = "weibull", "Weibull", "weibull_min"
    aliases: tuple[str, ...] = ("weibull_2p",)
    kernels = passes(_weibull, 1)
    closed = closed(gumbel, _log_power, 1)
    shapes = (positive("shape"),)
    located, logs = False, True
    with_location = "weibull_3p"
    sign = 1.0

    def sums(
        self, data: Data, logs: np.ndarray, shapes: np.ndarray, loc: float, scale: float, out: Any
    ) -> None:
        if self.located and "loc" not in data.known:
            super().sums(data, logs, shapes, loc, scale, out)
            return
        k, sign, total = float(shapes[0]), self.sign, data.total
        if "sum_logs" not in data.kept:
            data.kept["sum_logs"] = float(data.w @ logs)
        shift = math.log(scale)
        ell = data.kept["sum_logs"] - total * shift
        _powers(logs, data.w, sign * k, shift, out)
        e, le, lle = float(out[0]), float(out[1]), float(out[2])
        s, sk = sign, sign * k
        # The slopes in loc are left at 0: it is no parameter, or known.
        out[:] = 0.0
        out[0] = (sk - 1.0) * ell - e
        out[2] = (sk - 1.0) * total - sk * e
        out[5] = (1.0 - sk) * (total + sk * e)
        out[6], out[8] = s * (ell - le), s * (total - e - sk * le)
        out[9] = -lle

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        k = shapes[0]
        return math.log(k), np.array([1.0 / k]), np.array([[-1.0 / (k * k)]])

    def start_above(self, x: np.ndarray, w: np.ndarray, loc: float) -> np.ndarray:
        centre, spread = mean_and_deviation(log_above(x, loc), w)
        k = 1.2825498 / max(spread, 1e-6)
        return self.join([k], loc, np.exp(centre + np.euler_gamma / k))

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(-np.expm1(-(z ** shapes[0])))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return -(z ** shapes[0])

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return (-np.log1p(-p)) ** (1.0 / shapes[0])

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return (-np.log(p)) ** (1.0 / shapes[0])

    def standard_mean(self, *shapes: float) -> float:
        return float(special.gamma(1.0 + 1.0 / shapes[0]))

    def standard_var(self, *shapes: float) -> float:
        return float(special.gamma(1.0 + 2.0 / shapes[0])) - self.standard_mean(*shapes) ** 2


class Weibull3(Weibull):
    """Weibull law above a threshold `loc`."""

    name, title = "weibull_3p", "Weibull, three parameters"
    aliases = ("weibull_min_3p",)
    located, unbounded = True, True


class InverseWeibull(Weibull):
    """1 / X of a Weibull X, with `shape` and `scale`: maxima of laws with heavy tails."""

    name, title, scipy = "inverse_weibull", "Inverse Weibull", "invweibull"
    aliases = ("frechet", "invweibull_2p")
    kernels = passes(_inverse, 1)
    closed = closed(gumbel, _log_inverse_power, 1, falling=True)
    with_location = ""
    sign = -1.0

    def start_above(self, x: np.ndarray, w: np.ndarray, loc: float) -> np.ndarray:
        shape, scale = super().start_above(1.0 / x, w, loc)
        return np.array([shape, 1.0 / scale])

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return -(z ** -shapes[0])

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return super().standard_logcdf(1.0 / z, *shapes)

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return 1.0 / super().standard_isf(p, *shapes)

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return 1.0 / super().standard_ppf(p, *shapes)

    def standard_mean(self, *shapes: float) -> float:
        return float(special.gamma(1.0 - 1.0 / shapes[0])) if shapes[0] > 1.0 else math.inf

    def standard_var(self, *shapes: float) -> float:
        if shapes[0] <= 2.0:
            return math.inf
        return float(special.gamma(1.0 - 2.0 / shapes[0])) - self.standard_mean(*shapes) ** 2


class Rayleigh(LocationScale):
    """Rayleigh law: the length of a plane vector of two normal components of deviation `scale`."""

    name, title, scipy = "rayleigh", "Rayleigh", "rayleigh"
    kernels = passes(_rayleigh)
    closed = closed(gumbel, _log_half_square)
    located, logs = False, True

    def start_above(self, x: np.ndarray, w: np.ndarray, loc: float) -> np.ndarray:
        return np.array([mean_and_deviation(x, w, 0.0)[1] / math.sqrt(2.0)])

    def closed_form(self, data: Data) -> np.ndarray | None:
        return self.start_above(data.x, data.w, 0.0)

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(-np.expm1(-0.5 * z * z))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return -0.5 * z * z

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.sqrt(-2.0 * np.log1p(-p))

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.sqrt(-2.0 * np.log(p))

    def standard_mean(self, *shapes: float) -> float:
        return math.sqrt(math.pi / 2.0)

    def standard_var(self, *shapes: float) -> float:
        return 2.0 - math.pi / 2.0


FAMILIES = (Weibull(), Weibull3(), InverseWeibull(), Rayleigh())
"""The families of this module."""
