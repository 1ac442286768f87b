r"""Extreme values: the generalized extreme value law of maxima, the generalized Pareto of excesses.

Both are written with one function, smooth through $\xi = 0$,

$$ g(z, \xi) = \frac{\log(1 + \xi z)}{\xi}, \qquad g(z, 0) = z; \qquad
   \text{GEV: } \log f = -(1 + \xi) g - e^{-g} - \log \sigma, \quad F = e^{-e^{-g}}; \qquad
   \text{GPD: } \log f = -(1 + \xi) g - \log \sigma, \quad 1 - F = e^{-g} . $$

Near $\xi z = 0$ the function and its derivatives are their series, so that nothing jumps where the
Gumbel and the exponential law lie. $\xi > 0$ is a power tail; SciPy's `genextreme` has c = -xi.

The support ends at $\mu - \sigma / \xi$, a function of the parameters: for $\xi \le -1/2$ the
maximum is not asymptotically normal, and for $\xi < -1$ the likelihood is unbounded, so the domain
here is $\xi > -1$; data that drive xi there have no maximum inside, which `fit` reports.

References:
    Coles (2001), "An introduction to statistical modeling of extreme values", eq. 3.2 and 4.2.
    Hosking, Wallis and Wood (1985), "Estimation of the generalized extreme-value distribution by
    the method of probability-weighted moments", eq. 14, for the start.
    Smith (1985), "Maximum likelihood estimation in a class of nonregular cases".
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from paragone.estimation._elementary import exp, log1p
from paragone.estimation.families._closed import closed, exponential, gumbel
from paragone.estimation.families._kernels import passes
from paragone.estimation.families._location_scale import LocationScale
from paragone.estimation.families._parameter import Parameter
from paragone.estimation.families._statistics import mean_and_deviation
from paragone.kernels.jit import njit

__all__ = ["FAMILIES", "GeneralizedExtremeValue", "GeneralizedPareto"]

_EULER = 0.5772156649015329


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def _g(z, xi):
    """G and its derivatives in z, zz, xi, z xi, xi xi."""
    u = xi * z
    i = 1.0 / (1.0 + u)
    r = z * i
    # Both forms are computed and one is taken: a branch would keep the loop scalar.
    t, a, b, c = min(max(u, -0.03), 0.03), 0.0, 0.0, 0.0
    for k in range(9, -1, -1):
        a = 1.0 / (k + 1) - t * a
        b = (k + 1.0) / (k + 2) - t * b
        c = (k + 1.0) * (k + 2) / (k + 3) - t * c
    near = abs(u) < 0.03
    g = z * a if near else log1p(u) / xi
    g1 = -z * z * b if near else (r - g) / xi
    g2 = z * z * z * c if near else -(r * r + 2.0 * g1) / xi
    return g, i, -xi * i * i, g1, -r * i, g2


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def _gev(z, log_z, xi):
    g, gz, gzz, ga, gza, gaa = _g(z, xi)
    e = exp(-g)
    s = e - 1.0 - xi
    return (
        -(1.0 + xi) * g - e, s * gz, s * gzz - e * gz * gz,
        s * ga - g, s * gza - e * gz * ga - gz, s * gaa - e * ga * ga - 2.0 * ga,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def _gpd(z, log_z, xi):
    g, gz, gzz, ga, gza, gaa = _g(z, xi)
    s = -1.0 - xi
    return s * g, s * gz, s * gzz, s * ga - g, s * gza - gz, s * gaa - 2.0 * ga


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _growth_jet(z, xi, b):
    g, gz, gzz, ga, gza, gaa = _g(z, xi)
    return g, gz, gzz, ga, gza, gaa, 0.0, 0.0, 0.0, 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _minus_growth_jet(z, xi, b):
    g, gz, gzz, ga, gza, gaa = _g(z, xi)
    return -g, -gz, -gzz, -ga, -gza, -gaa, 0.0, 0.0, 0.0, 0.0


def _growth(z: np.ndarray, xi: float) -> np.ndarray:
    return np.log1p(xi * z) / xi if xi else z


def _inverse(g: np.ndarray, xi: float) -> np.ndarray:
    return np.expm1(xi * g) / xi if xi else g


def _weighted_moments(x: np.ndarray, w: np.ndarray) -> tuple[float, float, float]:
    """Probability-weighted moments of order 0, 1, 2."""
    order = np.argsort(x, kind="stable")
    x, w = x[order], w[order]
    total = w.sum()
    p = (np.cumsum(w) - 0.5 * w) / total
    return tuple(float(w @ (x * p**k) / total) for k in range(3))  # pyright: ignore[reportReturnType]


class GeneralizedExtremeValue(LocationScale):
    """Maxima of blocks: `xi` (shape), `loc`, `scale`; Gumbel at xi = 0, Frechet above it."""

    name, title, scipy = "generalized_extreme_value", "Generalized extreme value", "genextreme"
    aliases = ("genextreme", "gev")
    kernels = passes(_gev, 1)
    closed = closed(gumbel, _minus_growth_jet, 1, falling=True)
    shapes = (Parameter("xi", -1.0),)

    def standard_support(self, *shapes: float) -> tuple[float, float]:
        xi = shapes[0]
        return (-1.0 / xi if xi > 0.0 else -np.inf), (-1.0 / xi if xi < 0.0 else np.inf)

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        mean, deviation = mean_and_deviation(x, w)
        b0, b1, b2 = _weighted_moments(x, w)
        with np.errstate(all="ignore"):
            c = (2.0 * b1 - b0) / (3.0 * b2 - b0) - math.log(2.0) / math.log(3.0)
            xi = -(7.8590 * c + 2.9554 * c * c)
        if 1e-3 < abs(xi) < 0.9:
            scale = (2.0 * b1 - b0) * xi / (math.gamma(1.0 - xi) * (2.0**xi - 1.0))
            theta = np.array([xi, b0 - scale * (math.gamma(1.0 - xi) - 1.0) / xi, scale])
            lower, upper = self.support(theta)
            if scale > 0.0 and lower < x.min() and x.max() < upper:
                return theta
        scale = deviation * math.sqrt(6.0) / math.pi
        return np.array([0.0, mean - _EULER * scale, scale])

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return -np.exp(-_growth(z, shapes[0]))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(-np.expm1(-np.exp(-_growth(z, shapes[0]))))

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return _inverse(-np.log(-np.log(p)), shapes[0])

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return _inverse(-np.log(-np.log1p(-p)), shapes[0])

    def standard_mean(self, *shapes: float) -> float:
        xi = shapes[0]
        if xi >= 1.0:
            return math.inf
        if abs(xi) < 1e-5:
            return _EULER + 0.5 * xi * (_EULER**2 + math.pi**2 / 6.0)
        return math.expm1(math.lgamma(1.0 - xi)) / xi

    def standard_var(self, *shapes: float) -> float:
        xi = shapes[0]
        if xi >= 0.5:
            return math.inf
        first = math.exp(2.0 * math.lgamma(1.0 - xi))
        if abs(xi) < 0.02:
            # log Gamma(1 - 2 xi) - 2 log Gamma(1 - xi) = sum of zeta(k) (2^k - 2) xi^k / k.
            orders = np.arange(2.0, 12.0)
            gap = float(
                (special.zeta(orders) * (2.0**orders - 2.0) / orders) @ xi ** (orders - 2.0)
            )
            return first * (gap if xi == 0.0 else math.expm1(gap * xi * xi) / (xi * xi))
        return (math.gamma(1.0 - 2.0 * xi) - first) / (xi * xi)


class GeneralizedPareto(LocationScale):
    """Excesses over a threshold, which is subtracted before: `xi` (shape), `scale`."""

    name, title, scipy = "generalized_pareto", "Generalized Pareto", "genpareto"
    aliases = ("genpareto", "gpd")
    kernels = passes(_gpd, 1)
    closed = closed(exponential, _growth_jet, 1)
    shapes = (Parameter("xi", -1.0),)
    located, begins = False, 0.0

    def standard_support(self, *shapes: float) -> tuple[float, float]:
        return 0.0, (-1.0 / shapes[0] if shapes[0] < 0.0 else np.inf)

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        b0, b1, _ = _weighted_moments(x, w)
        second = 2.0 * b1 - b0
        xi = 2.0 - b0 / second if second > 0.0 else 0.0
        xi = min(max(xi, -0.5), 0.9)
        scale = b0 * (1.0 - xi)
        if xi < 0.0 and x.max() >= -scale / xi:
            xi, scale = 0.0, b0
        return np.array([xi, scale])

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(-np.expm1(-_growth(z, shapes[0])))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return -_growth(z, shapes[0])

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return _inverse(-np.log1p(-p), shapes[0])

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return _inverse(-np.log(p), shapes[0])

    def standard_mean(self, *shapes: float) -> float:
        return 1.0 / (1.0 - shapes[0]) if shapes[0] < 1.0 else math.inf

    def standard_var(self, *shapes: float) -> float:
        xi = shapes[0]
        return 1.0 / ((1.0 - xi) ** 2 * (1.0 - 2.0 * xi)) if xi < 0.5 else math.inf


FAMILIES = (GeneralizedExtremeValue(), GeneralizedPareto())
