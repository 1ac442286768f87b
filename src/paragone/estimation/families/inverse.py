r"""The inverse Gaussian and the inverse gamma law.

$$ \text{inverse Gaussian: } \log f = -\tfrac32 \log z - \frac{(z - \mu)^2}{2 \mu^2 z}
   - \tfrac12 \log 2\pi - \log \sigma; \qquad
   \text{inverse gamma: } \log f = -(a + 1) \log z - \frac1z - \log \Gamma(a) - \log \sigma . $$

The inverse Gaussian is the first passage of Brownian motion with drift: its mean is $\mu \sigma$,
Wald's $\lambda$ is $\sigma$. Both maxima are known given sums of $x$, $1/x$ and $\log x$: the
first is a formula, the second one equation for a.

References:
    Tweedie (1957), "Statistical properties of inverse Gaussian distributions 1", eq. 10, 15.
    Minka (2002), "Estimating a gamma distribution", eq. 10, for the Newton step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from paragone.estimation._optimize import maximise
from paragone.estimation.families._family import Data
from paragone.estimation.families._kernels import passes
from paragone.estimation.families._location_scale import LocationScale
from paragone.estimation.families._parameter import Parameter, positive
from paragone.estimation.families._quantiles import invert_positive
from paragone.estimation.families._statistics import mean_and_deviation, quantiles
from paragone.kernels.jit import njit

__all__ = ["FAMILIES", "InverseGamma", "InverseGaussian", "InverseGaussian3", "gamma_shape"]

_HALF_LOG_2PI = 0.9189385332046727


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def _inverse_gaussian(z, log_z, mu):
    i, m = 1.0 / z, 1.0 / mu
    s = z * m * m
    return (
        -1.5 * log_z - 0.5 * (s + i), 0.5 * (i * i - m * m) - 1.5 * i, (1.5 - i) * i * i,
        s * m, m * m * m, -3.0 * s * m * m,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def _inverse_gamma(z, log_z, a):
    i = 1.0 / z
    return -(a + 1.0) * log_z - i, (i - a - 1.0) * i, (a + 1.0 - 2.0 * i) * i * i, -log_z, -i, 0.0


class InverseGaussian(LocationScale):
    """First passage times: `mu` (mean over scale) and `scale` (Wald's lambda)."""

    name, title, scipy = "inverse_gaussian", "Inverse Gaussian", "invgauss"
    aliases: tuple[str, ...] = ("invgauss", "wald")
    kernels = passes(_inverse_gaussian, 1)
    shapes = (positive("mu"),)
    located, logs = False, True
    with_location = "inverse_gaussian_3p"

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        m = 1.0 / shapes[0]
        return m - _HALF_LOG_2PI, np.array([-m * m]), np.array([[2.0 * m**3]])

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return self._from_sums(x, w, 0.0)

    def _from_sums(self, x: np.ndarray, w: np.ndarray, loc: float) -> np.ndarray:
        t = x - loc
        mean = float(w @ t / w.sum())
        # 1/x - 1/mean = (x - mean)^2 / (x mean^2) + linear terms that sum to 0.
        inverse = float(w @ ((t - mean) ** 2 / t) / w.sum()) / mean**2
        scale = 1.0 / max(inverse, 1e-12 / mean)
        return self.join([mean / scale], loc, scale)

    def closed_form(self, data: Data) -> np.ndarray | None:
        if {"mu", "scale"} & set(data.known) or (self.located and "loc" not in data.known):
            return None
        return self._from_sums(data.x, data.w, data.known.get("loc", 0.0))

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        r, m = 1.0 / np.sqrt(z), 1.0 / shapes[0]
        return np.logaddexp(
            special.log_ndtr((z * m - 1.0) * r), 2.0 * m + special.log_ndtr(-(z * m + 1.0) * r)
        )

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        r, m = 1.0 / np.sqrt(z), 1.0 / shapes[0]
        a, b = (z * m - 1.0) * r, (z * m + 1.0) * r
        near = special.log_ndtr(-a)
        near += np.log(-np.expm1(np.minimum(2.0 * m + special.log_ndtr(-b) - near, -1e-300)))
        # Far out the two terms are alike: exp(-a^2 / 2) (R(a) - R(b)), R(t) = e^(t^2/2) Phi(-t).
        scaled = special.erfcx(a / math.sqrt(2.0)), special.erfcx(b / math.sqrt(2.0))
        gap = np.where(z * m < 1e6, scaled[0] - scaled[1], scaled[0] * 2.0 / (z * m))
        return np.where(a > 3.0, np.log(0.5 * gap) - 0.5 * a * a, near)

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return invert_positive(self, p, False, shapes)

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return invert_positive(self, p, True, shapes)

    def standard_sample(self, random: Any, size: Any, *shapes: float) -> np.ndarray:
        return random.wald(shapes[0], 1.0, size)

    def standard_mean(self, *shapes: float) -> float:
        return shapes[0]

    def standard_var(self, *shapes: float) -> float:
        return shapes[0] ** 3


class InverseGaussian3(InverseGaussian):
    """Inverse Gaussian above a threshold `loc`; its likelihood stays bounded as loc nears min x."""

    name, title = "inverse_gaussian_3p", "Inverse Gaussian, three parameters"
    aliases = ("invgauss_3p", "shifted_inverse_gaussian")
    located, with_location = True, ""
    shapes = (Parameter("mu", 1e-5),)

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Moments, then Newton in mean, deviation and mu, in which the likelihood has no ridge.

        The skewness of the law is 3 sqrt(mu), its deviation mu^1.5 scale, its mean mu scale.
        """
        mean, deviation = mean_and_deviation(x, w)
        low, middle, high = quantiles(x, w, (0.1, 0.5, 0.9))
        away = x - mean
        skew = float(w @ (away * away * away) / w.sum()) / deviation**3
        skew = max(skew, 2.0 * (high + low - 2.0 * middle) / max(high - low, 1e-300), 0.05)
        loc = min(mean - 3.0 * deviation / skew, x.min() - 0.05 * deviation)
        first = self._from_sums(x, w, loc)
        data = self.prepare(Data(x, w))

        def objective(u: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            mu, scale = math.exp(u[0]), math.exp(u[2] - 1.5 * u[0])
            if not mu > self.shapes[0].lower:
                return -math.inf, np.zeros(3), np.zeros((3, 3))
            value, score, hessian = self.terms(data, np.array([mu, u[1] - mu * scale, scale]))
            # loc = mean - deviation / sqrt(mu), scale = deviation / mu^1.5.
            gap = mu * scale
            chain = np.array([[mu, 0.0, 0.0], [0.5 * gap, 1.0, -gap], [-1.5 * scale, 0.0, scale]])
            bend = np.zeros((3, 3))
            bend[0, 0] = mu * score[0] - 0.25 * gap * score[1] + 2.25 * scale * score[2]
            bend[0, 2] = bend[2, 0] = 0.5 * gap * score[1] - 1.5 * scale * score[2]
            bend[2, 2] = scale * score[2] - gap * score[1]
            return value, chain.T @ score, chain.T @ hessian @ chain + bend

        mu, scale = first[0], first[2]
        begin = np.array([math.log(mu), loc + mu * scale, math.log(scale) + 1.5 * math.log(mu)])
        u = maximise(objective, begin, data.total, most=25).u
        mu, scale = math.exp(u[0]), math.exp(u[2] - 1.5 * u[0])
        return self.join([mu], u[1] - mu * scale, scale)


class InverseGamma(LocationScale):
    """The reciprocal of a gamma variable: `a` (shape) and `scale`."""

    name, title, scipy = "inverse_gamma", "Inverse gamma", "invgamma"
    aliases = ("invgamma",)
    kernels = passes(_inverse_gamma, 1)
    shapes = (positive("a"),)
    located, logs = False, True

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        a = shapes[0]
        return (
            -math.lgamma(a),
            np.array([-special.digamma(a)]),
            np.array([[-special.polygamma(1, a)]]),
        )

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        total = w.sum()
        mean = float(w @ (1.0 / x) / total)
        gap = max(math.log(mean) + float(w @ np.log(x) / total), 1e-12)
        a = gamma_shape(gap)
        return self.join([a], 0.0, a / mean)

    def closed_form(self, data: Data) -> np.ndarray | None:
        return None if data.known else self.start(data.x, data.w)

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(special.gammaincc(shapes[0], 1.0 / z))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(special.gammainc(shapes[0], 1.0 / z))

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return 1.0 / special.gammainccinv(shapes[0], p)

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return 1.0 / special.gammaincinv(shapes[0], p)

    def standard_sample(self, random: Any, size: Any, *shapes: float) -> np.ndarray:
        return 1.0 / random.standard_gamma(shapes[0], size)

    def standard_mean(self, *shapes: float) -> float:
        return 1.0 / (shapes[0] - 1.0) if shapes[0] > 1.0 else math.inf

    def standard_var(self, *shapes: float) -> float:
        a = shapes[0]
        return 1.0 / ((a - 1.0) ** 2 * (a - 2.0)) if a > 2.0 else math.inf


def gamma_shape(gap: float) -> float:
    """The a with log a - digamma(a) = gap > 0, by Newton's method on 1/a."""
    a = (3.0 - gap + math.sqrt((gap - 3.0) ** 2 + 24.0 * gap)) / (12.0 * gap)
    for _ in range(20):
        error = math.log(a) - float(special.digamma(a)) - gap
        step = error / (a * a * (1.0 / a - float(special.polygamma(1, a))))
        a, last = 1.0 / (1.0 / a + step), a
        if abs(a - last) <= 1e-15 * a:
            break
    return a


FAMILIES = (InverseGaussian(), InverseGaussian3(), InverseGamma())
