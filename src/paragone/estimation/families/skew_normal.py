r"""Azzalini's skew-normal law, $h = -\tfrac12 z^2 + \log \Phi(\alpha z) + \log 2$.

With Mills' ratio $r = \varphi / \Phi$ at $\alpha z$, whose derivative is $-r (\alpha z + r)$, all
derivatives need one exponential, one logarithm and one polynomial. At $\alpha = 0$ the score is 0
and the information singular, and in small samples the likelihood may grow for
$\alpha \to \pm\infty$ (all of z on one side): the search starts on both sides, and a fit at such an
end says so.

References:
    Azzalini (1985), "A class of distributions which includes the normal ones".
    Azzalini and Capitanio (1999), "Statistical applications of the multivariate skew normal
    distribution", section 5.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from paragone.estimation._elementary import erfcx, exp, log
from paragone.estimation.families._kernels import passes
from paragone.estimation.families._location_scale import LocationScale
from paragone.estimation.families._parameter import real
from paragone.estimation.families._quantiles import invert_real
from paragone.estimation.families._statistics import mean_and_deviation
from paragone.kernels.jit import njit

__all__ = ["FAMILIES", "SkewNormal"]

_LOG_2 = 0.6931471805599453
_HALF_LOG_2PI = 0.9189385332046727
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_ENDS = np.array([0.0, 1.0, 3.0, 8.0, 20.0, 45.0])
_T = ((_ENDS[:-1] + _ENDS[1:]) / 2)[:, None] + (np.diff(_ENDS) / 2)[:, None] * _NODES
_W = (np.diff(_ENDS) / 2)[:, None] * _WEIGHTS


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _skew(z, log_z, alpha):
    t = alpha * z
    square = 0.5 * t * t
    # Phi(-|t|) / phi(t), and phi itself.
    mills = 1.2533141373155003 * erfcx(0.7071067811865476 * abs(t))
    phi = 0.3989422804014327 * exp(-square)
    below = 1.0 if t < 0.0 else 0.0
    rest = below * mills + (1.0 - below) * (1.0 - phi * mills)
    log_phi = log(rest) - below * (square + _HALF_LOG_2PI)
    r = (below + (1.0 - below) * phi) / rest
    bend = r * (t + r)
    return (
        log_phi - 0.5 * z * z,
        alpha * r - z,
        -1.0 - alpha * alpha * bend,
        z * r,
        r - t * bend,
        -z * z * bend,
    )


class SkewNormal(LocationScale):
    """Skew-normal law with `shape` (0 is normal), `loc` and `scale`."""

    name, title, scipy = "skew_normal", "Skew normal", "skewnorm"
    aliases = ("skewnormal", "azzalini")
    kernels = passes(_skew, 1)
    shapes = (real("shape"),)
    several = True

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        return _LOG_2 - _HALF_LOG_2PI, np.zeros(1), np.zeros((1, 1))

    def _from_skewness(self, mean: float, deviation: float, skew: float) -> np.ndarray:
        g = abs(skew) ** (2.0 / 3.0)
        delta = math.copysign(math.sqrt(math.pi / 2 * g / (g + (2 - math.pi / 2) ** (2 / 3))), skew)
        scale = deviation / math.sqrt(1.0 - 2.0 / math.pi * delta * delta)
        loc = mean - scale * delta * math.sqrt(2.0 / math.pi)
        return np.array([delta / math.sqrt(1.0 - delta * delta), loc, scale])

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        mean, deviation = mean_and_deviation(x, w)
        z = (x - mean) / deviation
        skew = float(w @ (z * z * z)) / w.sum()
        return self._from_skewness(mean, deviation, math.copysign(min(abs(skew), 0.95), skew))

    def starts(self, x: np.ndarray, w: np.ndarray) -> list[np.ndarray]:
        mean, deviation = mean_and_deviation(x, w)
        likely = self.start(x, w)
        sign = math.copysign(1.0, likely[0])
        others = [self._from_skewness(mean, deviation, s * sign) for s in (0.9, 0.15, -0.15)]
        return [likely, *others]

    def _thin(self, z: np.ndarray, alpha: float) -> np.ndarray:
        """Log P(Z <= z) for z < 0 < alpha, where the density falls quickest."""
        rate = -z * (1.0 + alpha * alpha) + math.sqrt(1.0 + alpha * alpha)
        t = z[..., None] - _T.ravel() / rate[..., None]
        h = _LOG_2 - _HALF_LOG_2PI - 0.5 * t * t + special.log_ndtr(alpha * t)
        peak = h[..., :1]
        value = peak[..., 0] + np.log(np.exp(h - peak) @ _W.ravel() / rate)
        return np.where(np.isfinite(value), value, -np.inf)

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        alpha = shapes[0]
        thin = (z < 0.0) & (alpha > 0.0)
        result = np.empty_like(z)
        result[thin] = self._thin(z[thin], alpha)
        rest = z[~thin]
        # What is left: alpha <= 0, where both terms have one sign, or z >= 0.
        mass = np.maximum(special.ndtr(rest) - 2.0 * special.owens_t(rest, alpha), 1e-300)
        share = -2.0 * special.owens_t(rest, alpha) / special.ndtr(rest)
        share = np.where(np.isfinite(share), share, 1.0 if alpha < 0.0 else 0.0)
        low = special.log_ndtr(rest) + np.log1p(np.maximum(share, -0.5))
        result[~thin] = np.where(rest < 0.0, low, np.log(mass))
        return result

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return self.standard_logcdf(-z, -shapes[0])

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return invert_real(self, p, False, shapes)

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return invert_real(self, p, True, shapes)

    def rvs(self, theta: Any, size: Any = None, random_state: Any = None) -> np.ndarray:
        random = np.random.default_rng(random_state)
        (alpha,), loc, scale = self.split(self.vector(theta))
        delta = alpha / math.sqrt(1.0 + alpha * alpha)
        u, v = random.standard_normal(size), random.standard_normal(size)
        return loc + scale * (delta * np.abs(u) + math.sqrt(1.0 - delta * delta) * v)

    def standard_mean(self, *shapes: float) -> float:
        return math.sqrt(2.0 / math.pi) * shapes[0] / math.sqrt(1.0 + shapes[0] ** 2)

    def standard_var(self, *shapes: float) -> float:
        return 1.0 - self.standard_mean(*shapes) ** 2


FAMILIES = (SkewNormal(),)
"""The families of this module."""
