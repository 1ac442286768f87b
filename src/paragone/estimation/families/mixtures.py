r"""Counts that vary more than binomial or Poisson ones, and two power series.

$$ \text{negative binomial: } \log f = \log \frac{\Gamma(k + n)}{\Gamma(n)\, k!} + n \log p
   + k \log(1 - p); \qquad
   \text{beta-binomial: } \log f = \log \tbinom nk + \log \frac{B(k + a, n - k + b)}{B(a, b)}; $$
$$ \text{logarithmic: } \log f = k \log p - \log k - \log(-\log(1 - p)); \qquad
   \text{zeta: } \log f = -a \log k - \log \zeta(a) . $$

The negative binomial nears the Poisson law as n grows: data whose variance is not above their mean
have their maximum there, at no finite n, and a huge n stands for that limit. The tail of
the zeta law and its derivatives in a are Euler's and Maclaurin's sums,

$$ \zeta(a, q) = \sum_{j < N} (q + j)^{-a} + \frac{M^{1 - a}}{a - 1} + \frac{M^{-a}}{2}
   + \sum_{r \ge 1} \frac{B_{2r}}{(2r)!} a (a + 1) \cdots (a + 2r - 2)\, M^{-a - 2r + 1},
   \quad M = q + N . $$

References:
    Johnson, Kemp and Kotz (2005), "Univariate discrete distributions", ch. 5-7 and 11.2.20.
    NIST Digital Library of Mathematical Functions, 25.11.5.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from paragone.estimation.families._discrete import Discrete
from paragone.estimation.families._family import Data
from paragone.estimation.families._parameter import Parameter, positive, unit
from paragone.estimation.families._statistics import mean_and_deviation

__all__ = ["FAMILIES", "BetaBinomial", "Logarithmic", "NegativeBinomial", "Zeta"]

Terms = tuple[np.ndarray, np.ndarray, np.ndarray]
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)


class NegativeBinomial(Discrete):
    """Failures before success number `n` (any positive number); `p` is that of success."""

    name, title, scipy = "negative_binomial", "Negative binomial", "nbinom"
    aliases = ("nbinom", "polya")
    parameters = (positive("n"), unit("p"))

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        mean, deviation = mean_and_deviation(x, w)
        mean = max(mean, 1e-3)
        extra = max(deviation * deviation - mean, 0.01 * mean)
        return np.array([mean * mean / extra, mean / (mean + extra)])

    def jets(self, k: np.ndarray, theta: np.ndarray) -> Terms:
        n, p = theta
        q = 1.0 - p
        # Gamma(k + n) / Gamma(n) / k! = 1 / (k B(n, k)), which does not cancel for large n.
        some = np.maximum(k, 1.0)
        chosen = np.where(k > 0.0, -special.betaln(n, some) - np.log(some), 0.0)
        value = chosen + n * math.log(p) + k * math.log1p(-p)
        score, hessian = np.empty((len(k), 2)), np.empty((len(k), 2, 2))
        score[:, 0] = special.digamma(k + n) - special.digamma(n) + math.log(p)
        score[:, 1] = n / p - k / q
        hessian[:, 0, 0] = special.polygamma(1, k + n) - special.polygamma(1, n)
        hessian[:, 0, 1] = hessian[:, 1, 0] = 1.0 / p
        hessian[:, 1, 1] = -n / p**2 - k / q**2
        return value, score, hessian

    def logcdf(self, x: Any, theta: Any) -> np.ndarray:
        n, p = theta = self.vector(theta)
        return self._formula(x, theta, False, lambda k: special.betainc(n, k + 1.0, p))

    def logsf(self, x: Any, theta: Any) -> np.ndarray:
        n, p = theta = self.vector(theta)
        return self._formula(x, theta, True, lambda k: special.betaincc(n, k + 1.0, p))

    def sample(self, random: np.random.Generator, theta: np.ndarray, size: Any) -> np.ndarray:
        return random.negative_binomial(theta[0], theta[1], size)

    def mean(self, theta: Any) -> float:
        n, p = self.vector(theta)
        return float(n * (1.0 - p) / p)

    def var(self, theta: Any) -> float:
        n, p = self.vector(theta)
        return float(n * (1.0 - p) / p**2)


class BetaBinomial(Discrete):
    """Binomial with `trials` (known) and a beta(`a`, `b`) success probability."""

    name, title, scipy = "beta_binomial", "Beta-binomial", "betabinom"
    aliases = ("betabinom",)
    parameters = (positive("trials"), positive("a"), positive("b"))

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        n = float(x.max()) + 1.0
        mean = (float(w @ x / w.sum()) + 0.5) / (n + 1.0)
        return np.array([n, 2.0 * mean, 2.0 * (1.0 - mean)])

    def jets(self, k: np.ndarray, theta: np.ndarray) -> Terms:
        n, a, b = theta
        rest, total = n - k, a + b
        value = special.betaln(k + a, rest + b) - special.betaln(a, b)
        value -= np.log(n + 1.0) + special.betaln(k + 1.0, rest + 1.0)
        score, hessian = np.zeros((len(k), 3)), np.zeros((len(k), 3, 3))
        shift = special.digamma(total) - special.digamma(n + total)
        score[:, 1] = special.digamma(k + a) - special.digamma(a) + shift
        score[:, 2] = special.digamma(rest + b) - special.digamma(b) + shift
        bend = special.polygamma(1, total) - special.polygamma(1, n + total)
        hessian[:, 1:, 1:] = bend
        hessian[:, 1, 1] += special.polygamma(1, k + a) - special.polygamma(1, a)
        hessian[:, 2, 2] += special.polygamma(1, rest + b) - special.polygamma(1, b)
        return value, score, hessian

    def sample(self, random: np.random.Generator, theta: np.ndarray, size: Any) -> np.ndarray:
        return random.binomial(int(theta[0]), random.beta(theta[1], theta[2], size))

    def mean(self, theta: Any) -> float:
        n, a, b = self.vector(theta)
        return float(n * a / (a + b))

    def var(self, theta: Any) -> float:
        n, a, b = self.vector(theta)
        s = a + b
        return float(n * a * b * (s + n) / (s * s * (s + 1.0)))


class Logarithmic(Discrete):
    """Fisher's log series: numbers of individuals by species; `p`."""

    name, title, scipy = "logarithmic", "Logarithmic", "logser"
    aliases = ("logser", "log_series")
    parameters = (unit("p"),)
    lowest = 1.0

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        mean = max(float(w @ x / w.sum()), 1.0 + 1e-9)
        low, high, u = -40.0, 40.0, 0.0
        for _ in range(60):
            u = 0.5 * (low + high)
            low, high = (u, high) if math.exp(u) / _soft(u) < mean else (low, u)
        return np.array([1.0 / (1.0 + math.exp(-u))])

    def closed_form(self, data: Data) -> np.ndarray | None:
        return self.start(data.x, data.w) if data.x.max() > 1.0 else None

    def jets(self, k: np.ndarray, theta: np.ndarray) -> Terms:
        p, q = theta[0], 1.0 - theta[0]
        size = -math.log1p(-p)
        slope = 1.0 / (q * size)
        return (
            k * math.log(p) - np.log(k) - math.log(size),
            (k / p - slope)[:, None],
            (-k / p**2 - 1.0 / (q * q * size) + slope * slope)[:, None, None],
        )

    def sample(self, random: np.random.Generator, theta: np.ndarray, size: Any) -> np.ndarray:
        return random.logseries(theta[0], size)

    def mean(self, theta: Any) -> float:
        p = float(self.vector(theta)[0])
        return p / ((1.0 - p) * -math.log1p(-p))

    def var(self, theta: Any) -> float:
        p, mean = float(self.vector(theta)[0]), self.mean(theta)
        return mean * (1.0 / (1.0 - p) - mean)


def _soft(u: float) -> float:
    """-log(1 - p) at the logit u of p."""
    return max(u, 0.0) + math.log1p(math.exp(-abs(u)))


class Zeta(Discrete):
    """Zipf's law without an end: P(k) ~ k^-`a`, a > 1."""

    name, title, scipy = "zeta", "Zeta (Zipf)", "zipf"
    aliases = ("zipf",)
    parameters = (Parameter("a", 1.0),)
    lowest = 1.0

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        logs = max(float(w @ np.log(x) / w.sum()), 1e-9)
        low, high, u = -25.0, 6.0, 0.0
        for _ in range(50):
            u = 0.5 * (low + high)
            value, first, _ = hurwitz(1.0 + math.exp(u), 1.0)
            low, high = (u, high) if -first / value > logs else (low, u)
        return np.array([1.0 + math.exp(u)])

    def closed_form(self, data: Data) -> np.ndarray | None:
        return self.start(data.x, data.w) if data.x.max() > 1.0 else None

    def jets(self, k: np.ndarray, theta: np.ndarray) -> Terms:
        value, first, second = hurwitz(theta[0], 1.0)
        r, logs = first / value, np.log(k)
        bend = np.full((len(k), 1, 1), r * r - second / value)
        return -theta[0] * logs - math.log(value), (-logs - r)[:, None], bend

    def _above(self, first: float, theta: np.ndarray) -> Terms:
        value, slope, bend = hurwitz(theta[0], 1.0)
        tail, tail1, tail2 = hurwitz(theta[0], max(first, 1.0))
        r, s = slope / value, tail1 / tail
        log_p = math.log(tail) - math.log(value)
        second = tail2 / tail - 2.0 * r * s + 2.0 * r * r - bend / value
        return np.array([log_p]), np.array([[s - r]]), np.array([[[second]]])

    def logsf(self, x: Any, theta: Any) -> np.ndarray:
        theta = self.vector(theta)
        whole = math.log(special.zeta(theta[0], 1.0))
        return self._formula(
            x, theta, True, lambda k: special.zeta(theta[0], k + 1.0) * math.exp(-whole)
        )

    def logcdf(self, x: Any, theta: Any) -> np.ndarray:
        upper = np.exp(self.logsf(x, theta))
        with np.errstate(divide="ignore"):
            return np.log1p(-upper)

    def sample(self, random: np.random.Generator, theta: np.ndarray, size: Any) -> np.ndarray:
        return random.zipf(theta[0], size)

    def mean(self, theta: Any) -> float:
        a = float(self.vector(theta)[0])
        return float(special.zeta(a - 1.0, 1.0) / special.zeta(a, 1.0)) if a > 2.0 else math.inf

    def var(self, theta: Any) -> float:
        a = float(self.vector(theta)[0])
        if a <= 3.0:
            return math.inf
        return float(special.zeta(a - 2.0, 1.0) / special.zeta(a, 1.0)) - self.mean(theta) ** 2


def hurwitz(a: float, q: float) -> tuple[float, float, float]:
    """zeta(a, q) for a > 1, q >= 1, with its first and second derivative in a."""
    n = 12
    head = q + np.arange(n)
    logs, powers = np.log(head), head**-a
    total = np.array([powers.sum(), -(powers @ logs), powers @ logs**2])
    m = q + n
    log_m, power = math.log(m), m**-a
    # Each term is c(a) m^-a; (c, c', c'') carried along.
    b = 1.0 / (a - 1.0)
    terms = [(m * b, -m * b * b, 2.0 * m * b**3), (0.5, 0.0, 0.0)]
    c, c1, c2, scale = 1.0, 0.0, 0.0, 1.0
    for r, number in enumerate(_BERNOULLI, 1):
        for shift in range(max(2 * r - 3, 0), 2 * r - 1):
            c, c1, c2 = c * (a + shift), c1 * (a + shift) + c, c2 * (a + shift) + 2.0 * c1
        scale /= m * (1.0 if r == 1 else m) * (2 * r - 1) * (2 * r)
        terms.append((c * number * scale, c1 * number * scale, c2 * number * scale))
    for c, c1, c2 in terms:
        second = c2 - 2.0 * c1 * log_m + c * log_m * log_m
        total += power * np.array([c, c1 - c * log_m, second])
    return tuple(total.tolist())  # pyright: ignore[reportReturnType]


FAMILIES = (NegativeBinomial(), BetaBinomial(), Logarithmic(), Zeta())
