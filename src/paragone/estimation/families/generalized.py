r"""The generalized gamma and the generalized normal law, and two of their special cases.

$$ \text{generalized gamma: } \log f = (c a - 1) \log z - z^c + \log c - \log \Gamma(a)
   - \log \sigma; \quad \text{generalized normal: } \log f = -|z|^\beta + \log \tfrac{\beta}{2}
   - \log \Gamma(1 / \beta) - \log \sigma . $$

The generalized gamma holds the gamma (c = 1), the Weibull (a = 1) and, as a grows, the lognormal;
Maxwell's law (c = 2, a = 3/2) and Nakagami's (c = 2, written with its own scale) are families of
their own here, with closed maxima. The generalized normal holds Laplace ($\beta = 1$) and normal
($\beta = 2$).

For $\beta < 2$ the second derivative of $|z|^\beta$ is unbounded at 0: it is taken no nearer than
|z| = 0.02, so that information in `loc` is that of a density rounded there. For $\beta < 1$ every
observation is a cusp of the likelihood, and `loc` is the best of them.

References:
    Stacy (1962), "A generalization of the gamma distribution", eq. 1.
    Nadarajah (2005), "A generalized normal distribution".
    Nakagami (1960), "The m-distribution, a general formula of intensity distribution".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from paragone.estimation._elementary import exp, log
from paragone.estimation.families._family import Data
from paragone.estimation.families._kernels import passes
from paragone.estimation.families._location_scale import LocationScale
from paragone.estimation.families._parameter import positive
from paragone.estimation.families._statistics import quantiles
from paragone.estimation.families.inverse import gamma_shape
from paragone.kernels.jit import njit

__all__ = ["FAMILIES", "GeneralizedGamma", "GeneralizedNormal", "Maxwell", "Nakagami"]

_HALF_LOG_HALF_PI = 0.22579135264472744
_LOG_NEAR = -3.912023005428146


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def _generalized_gamma(z, log_z, a, c):
    q, i = exp(c * log_z), 1.0 / z
    slope = c * a - 1.0 - c * q
    lq = log_z * q
    return (
        (c * a - 1.0) * log_z - q, slope * i, (-c * c * q - slope) * i * i,
        c * log_z, c * i, 0.0,
        a * log_z - lq, (a - q - c * lq) * i, log_z, -log_z * lq,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def _generalized_normal(z, log_z, beta):
    size = max(abs(z), 1e-120)
    sign = 1.0 if z > 0.0 else -1.0
    ell = log(size)
    q = exp(beta * ell)
    lq = ell * q
    r = sign / size
    near = _LOG_NEAR if beta < 2.0 else -1e3
    bend = q * r * r if ell > near else exp((beta - 2.0) * _LOG_NEAR)
    return (
        -q, -beta * q * r, -beta * (beta - 1.0) * bend,
        -lq, -(q + beta * lq) * r, -ell * lq,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def _maxwell(z, log_z):
    i = 1.0 / z
    return 2.0 * log_z - 0.5 * z * z, 2.0 * i - z, -2.0 * i * i - 1.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def _nakagami(z, log_z, nu):
    i, m = 1.0 / z, 2.0 * nu - 1.0
    return (
        m * log_z - nu * z * z, m * i - 2.0 * nu * z, -m * i * i - 2.0 * nu,
        2.0 * log_z - z * z, 2.0 * (i - z), 0.0,
    )  # fmt: skip


class GeneralizedGamma(LocationScale):
    """Stacy's law: shapes `a` and `c` > 0, and `scale`; x^c has a gamma law with shape a."""

    name, title, scipy = "generalized_gamma", "Generalized gamma", "gengamma"
    aliases = ("gengamma", "stacy")
    kernels = passes(_generalized_gamma, 2)
    shapes = (positive("a"), positive("c"))
    located, logs = False, True

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        a, c = shapes
        return (
            math.log(c) - math.lgamma(a),
            np.array([-special.digamma(a), 1.0 / c]),
            np.diag([-special.polygamma(1, a), -1.0 / (c * c)]),
        )

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """The best of a grid over c, where a and the scale are a gamma fit of x^c."""
        total, logs = w.sum(), np.log(x)
        centre = float(w @ logs / total)
        logs = logs - centre
        spread = math.sqrt(max(float(w @ logs**2 / total), 1e-300))
        best = -math.inf, np.ones(3)
        for exponent in (0.1, 0.25, 0.5, 1.0, 2.0):
            c = exponent / spread
            mean = float(w @ np.exp(c * logs) / total)
            a = gamma_shape(max(math.log(mean), 1e-10))
            value = math.log(c) - math.lgamma(a) - a * (math.log(mean / a) + 1.0)
            if value > best[0]:
                best = value, self.join([a, c], 0.0, math.exp(centre + math.log(mean / a) / c))
        return best[1]

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(special.gammainc(shapes[0], z ** shapes[1]))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(special.gammaincc(shapes[0], z ** shapes[1]))

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return special.gammaincinv(shapes[0], p) ** (1.0 / shapes[1])

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return special.gammainccinv(shapes[0], p) ** (1.0 / shapes[1])

    def standard_sample(self, random: Any, size: Any, *shapes: float) -> np.ndarray:
        return random.standard_gamma(shapes[0], size) ** (1.0 / shapes[1])

    def standard_mean(self, *shapes: float) -> float:
        a, c = shapes
        return math.exp(math.lgamma(a + 1.0 / c) - math.lgamma(a))

    def standard_var(self, *shapes: float) -> float:
        a, c = shapes
        first = math.lgamma(a + 1.0 / c) - math.lgamma(a)
        gap = math.lgamma(a + 2.0 / c) - math.lgamma(a) - 2.0 * first
        return math.exp(2.0 * first) * math.expm1(gap)


class GeneralizedNormal(LocationScale):
    """The exponential power law: `beta` (shape), `loc` and `scale`."""

    name, title, scipy = "generalized_normal", "Generalized normal", "gennorm"
    aliases = ("gennorm", "exponential_power", "generalized_gaussian")
    kernels = passes(_generalized_normal, 1)
    shapes = (positive("beta"),)

    def cusp(self, theta: np.ndarray) -> bool:
        return bool(theta[0] < 1.05)

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        b, i = shapes[0], 1.0 / shapes[0]
        psi, psi1 = float(special.digamma(i)), float(special.polygamma(1, i))
        return (
            math.log(0.5 * b) - math.lgamma(i),
            np.array([i + psi * i * i]),
            np.array([[-i * i - psi1 * i**4 - 2.0 * psi * i**3]]),
        )

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """The best of a grid over beta about the median, where the scale is a formula."""
        loc = float(quantiles(x, w, (0.5,))[0])
        total = w.sum()
        with np.errstate(divide="ignore"):
            logs = np.log(np.abs(x - loc))
        best = -math.inf, np.ones(3)
        for beta in (0.5, 0.75, 1.0, 1.4, 2.0, 4.0, 10.0):
            scale = (beta * max(float(w @ np.exp(beta * logs) / total), 1e-300)) ** (1.0 / beta)
            value = self.constant(beta)[0] - math.log(scale) - 1.0 / beta
            if value > best[0]:
                best = value, self.join([beta], loc, scale)
        return best[1]

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        i, q = 1.0 / shapes[0], np.abs(z) ** shapes[0]
        lower = np.log(0.5 * special.gammaincc(i, q))
        return np.where(z < 0.0, lower, np.log1p(-np.exp(lower)))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return self.standard_logcdf(-z, *shapes)

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        p = np.asarray(p, np.float64)
        tail = 2.0 * np.minimum(p, 1.0 - p)
        return np.sign(p - 0.5) * special.gammainccinv(1.0 / shapes[0], tail) ** (1.0 / shapes[0])

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return -self.standard_ppf(p, *shapes)

    def standard_sample(self, random: Any, size: Any, *shapes: float) -> np.ndarray:
        size_of = random.standard_gamma(1.0 / shapes[0], size) ** (1.0 / shapes[0])
        return np.where(random.random(size) < 0.5, -size_of, size_of)

    def standard_mean(self, *shapes: float) -> float:
        return 0.0

    def standard_var(self, *shapes: float) -> float:
        return math.exp(math.lgamma(3.0 / shapes[0]) - math.lgamma(1.0 / shapes[0]))


class Maxwell(LocationScale):
    """The speed of a particle in a gas: `scale`."""

    name, title, scipy = "maxwell", "Maxwell", "maxwell"
    aliases = ("maxwell_boltzmann",)
    kernels = passes(_maxwell)
    located, logs = False, True

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        return -_HALF_LOG_HALF_PI, np.zeros(0), np.zeros((0, 0))

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.array([math.sqrt(float(w @ (x * x) / w.sum()) / 3.0)])

    def closed_form(self, data: Data) -> np.ndarray | None:
        return self.start(data.x, data.w)

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(special.gammainc(1.5, 0.5 * z * z))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(special.gammaincc(1.5, 0.5 * z * z))

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.sqrt(2.0 * special.gammaincinv(1.5, p))

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.sqrt(2.0 * special.gammainccinv(1.5, p))

    def standard_sample(self, random: Any, size: Any, *shapes: float) -> np.ndarray:
        return np.sqrt(2.0 * random.standard_gamma(1.5, size))

    def standard_mean(self, *shapes: float) -> float:
        return 2.0 * math.sqrt(2.0 / math.pi)

    def standard_var(self, *shapes: float) -> float:
        return 3.0 - 8.0 / math.pi


class Nakagami(LocationScale):
    """The root of a gamma variable: `nu` (shape) and `scale`, the root mean square."""

    name, title, scipy = "nakagami", "Nakagami", "nakagami"
    aliases = ("nakagami_m",)
    kernels = passes(_nakagami, 1)
    shapes = (positive("nu"),)
    located, logs = False, True

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        nu = shapes[0]
        return (
            math.log(2.0) + nu * math.log(nu) - math.lgamma(nu),
            np.array([math.log(nu) + 1.0 - special.digamma(nu)]),
            np.array([[1.0 / nu - special.polygamma(1, nu)]]),
        )

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        total = w.sum()
        square = float(w @ (x * x) / total)
        gap = math.log(square) - 2.0 * float(w @ np.log(x) / total)
        return self.join([gamma_shape(max(gap, 1e-12))], 0.0, math.sqrt(square))

    def closed_form(self, data: Data) -> np.ndarray | None:
        return None if data.known else self.start(data.x, data.w)

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(special.gammainc(shapes[0], shapes[0] * z * z))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(special.gammaincc(shapes[0], shapes[0] * z * z))

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.sqrt(special.gammaincinv(shapes[0], p) / shapes[0])

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.sqrt(special.gammainccinv(shapes[0], p) / shapes[0])

    def standard_sample(self, random: Any, size: Any, *shapes: float) -> np.ndarray:
        return np.sqrt(random.standard_gamma(shapes[0], size) / shapes[0])

    def standard_mean(self, *shapes: float) -> float:
        nu = shapes[0]
        return math.exp(math.lgamma(nu + 0.5) - math.lgamma(nu)) / math.sqrt(nu)

    def standard_var(self, *shapes: float) -> float:
        return 1.0 - self.standard_mean(*shapes) ** 2


FAMILIES = (GeneralizedGamma(), GeneralizedNormal(), Maxwell(), Nakagami())
