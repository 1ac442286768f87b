r"""Bernoulli, binomial, Poisson, geometric and zero-inflated Poisson laws.

$$ \text{binomial: } \log f = \log \tbinom nk + k \log p + (n - k) \log(1 - p), \quad
   \text{Poisson: } \log f = k \log \mu - \mu - \log k!, \quad
   \text{geometric: } \log f = (k - 1) \log(1 - p) + \log p; $$
$$ \text{zero-inflated Poisson: } f(0) = \pi + (1 - \pi) e^{-\mu}, \quad
   f(k) = (1 - \pi) e^{-\mu} \mu^k / k! . $$

All but the last have their maximum at a function of the mean. The number of trials of a binomial
law is given, not estimated. With fewer zeros than a Poisson law has, $\pi$ goes to 0, where it has
no standard error: `fit` says so.

References:
    Johnson, Kemp and Kotz (2005), "Univariate discrete distributions", ch. 3-5 and 8.2.
    Lambert (1992), "Zero-inflated Poisson regression", eq. 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from paragone.estimation.families._discrete import Discrete
from paragone.estimation.families._family import Data
from paragone.estimation.families._parameter import positive, unit

__all__ = ["FAMILIES", "Bernoulli", "Binomial", "Geometric", "Poisson", "ZeroInflatedPoisson"]

Terms = tuple[np.ndarray, np.ndarray, np.ndarray]


def _mean(data: Data) -> float:
    return float(data.w @ data.x / data.total)


class Bernoulli(Discrete):
    """One trial with success probability `p`."""

    name, title, scipy = "bernoulli", "Bernoulli", "bernoulli"
    parameters = (unit("p"),)

    def support(self, theta: np.ndarray) -> tuple[float, float]:
        return 0.0, 1.0

    def limits(self, known: dict[str, float]) -> tuple[float, float, bool]:
        return 0.0, 1.0, False

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.array([(float(w @ x) + 0.5) / (w.sum() + 1.0)])

    def closed_form(self, data: Data) -> np.ndarray | None:
        return np.array([_mean(data)])

    def jets(self, k: np.ndarray, theta: np.ndarray) -> Terms:
        p, q = theta[0], 1.0 - theta[0]
        return (
            np.where(k > 0.0, np.log(p), np.log1p(-p)),
            (k / p - (1.0 - k) / q)[:, None],
            (-k / p**2 - (1.0 - k) / q**2)[:, None, None],
        )

    def sample(self, random: np.random.Generator, theta: np.ndarray, size: Any) -> np.ndarray:
        return random.binomial(1, theta[0], size)

    def mean(self, theta: Any) -> float:
        return float(self.vector(theta)[0])

    def var(self, theta: Any) -> float:
        p = self.mean(theta)
        return p * (1.0 - p)


class Binomial(Discrete):
    """Successes in `trials` (known) trials with success probability `p`."""

    name, title, scipy = "binomial", "Binomial", "binom"
    aliases = ("binom",)
    parameters = (positive("trials"), unit("p"))

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        n = float(x.max()) + 1.0
        return np.array([n, (float(w @ x / w.sum()) + 0.5) / (n + 1.0)])

    def closed_form(self, data: Data) -> np.ndarray | None:
        n = data.known["trials"]
        return np.array([n, _mean(data) / n])

    def jets(self, k: np.ndarray, theta: np.ndarray) -> Terms:
        n, p = theta
        q = 1.0 - p
        chosen = special.gammaln(n + 1.0) - special.gammaln(k + 1.0) - special.gammaln(n - k + 1.0)
        value = chosen + special.xlogy(k, p) + special.xlog1py(n - k, -p)
        score, hessian = np.zeros((len(k), 2)), np.zeros((len(k), 2, 2))
        score[:, 1] = k / p - (n - k) / q
        hessian[:, 1, 1] = -k / p**2 - (n - k) / q**2
        return value, score, hessian

    def logcdf(self, x: Any, theta: Any) -> np.ndarray:
        n, p = theta = self.vector(theta)
        return self._formula(x, theta, False, lambda k: special.betaincc(k + 1.0, n - k, p))

    def logsf(self, x: Any, theta: Any) -> np.ndarray:
        n, p = theta = self.vector(theta)
        return self._formula(x, theta, True, lambda k: special.betainc(k + 1.0, n - k, p))

    def sample(self, random: np.random.Generator, theta: np.ndarray, size: Any) -> np.ndarray:
        return random.binomial(int(theta[0]), theta[1], size)

    def mean(self, theta: Any) -> float:
        n, p = self.vector(theta)
        return float(n * p)

    def var(self, theta: Any) -> float:
        n, p = self.vector(theta)
        return float(n * p * (1.0 - p))


class Poisson(Discrete):
    """Counts with mean `mu`."""

    name, title, scipy = "poisson", "Poisson", "poisson"
    parameters = (positive("mu"),)

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.array([max(float(w @ x / w.sum()), 1e-3)])

    def closed_form(self, data: Data) -> np.ndarray | None:
        return np.array([_mean(data)])

    def jets(self, k: np.ndarray, theta: np.ndarray) -> Terms:
        mu = theta[0]
        value = k * np.log(mu) - mu - special.gammaln(k + 1.0)
        return value, (k / mu - 1.0)[:, None], (-k / mu**2)[:, None, None]

    def logcdf(self, x: Any, theta: Any) -> np.ndarray:
        theta = self.vector(theta)
        return self._formula(x, theta, False, lambda k: special.gammaincc(k + 1.0, theta[0]))

    def logsf(self, x: Any, theta: Any) -> np.ndarray:
        theta = self.vector(theta)
        return self._formula(x, theta, True, lambda k: special.gammainc(k + 1.0, theta[0]))

    def sample(self, random: np.random.Generator, theta: np.ndarray, size: Any) -> np.ndarray:
        return random.poisson(theta[0], size)

    def mean(self, theta: Any) -> float:
        return float(self.vector(theta)[0])

    def var(self, theta: Any) -> float:
        return self.mean(theta)


class Geometric(Discrete):
    """Trials up to and with the first success, whose probability is `p`."""

    name, title, scipy = "geometric", "Geometric", "geom"
    aliases = ("geom",)
    parameters = (unit("p"),)
    lowest = 1.0

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.array([1.0 / max(float(w @ x / w.sum()), 1.001)])

    def closed_form(self, data: Data) -> np.ndarray | None:
        return np.array([1.0 / _mean(data)])

    def jets(self, k: np.ndarray, theta: np.ndarray) -> Terms:
        p, q = theta[0], 1.0 - theta[0]
        return (
            (k - 1.0) * np.log1p(-p) + np.log(p),
            (1.0 / p - (k - 1.0) / q)[:, None],
            (-1.0 / p**2 - (k - 1.0) / q**2)[:, None, None],
        )

    def logcdf(self, x: Any, theta: Any) -> np.ndarray:
        theta = self.vector(theta)
        return self._formula(x, theta, False, lambda k: -np.expm1(k * np.log1p(-theta[0])))

    def logsf(self, x: Any, theta: Any) -> np.ndarray:
        p = self.vector(theta)[0]
        k = np.floor(np.asarray(x, np.float64))
        return np.where(k < 1.0, 0.0, k * math.log1p(-p))

    def sample(self, random: np.random.Generator, theta: np.ndarray, size: Any) -> np.ndarray:
        return random.geometric(theta[0], size)

    def mean(self, theta: Any) -> float:
        return float(1.0 / self.vector(theta)[0])

    def var(self, theta: Any) -> float:
        p = float(self.vector(theta)[0])
        return (1.0 - p) / p**2


class ZeroInflatedPoisson(Discrete):
    """A Poisson law with mean `mu`, or 0 with probability `pi`."""

    name, title, scipy = "zero_inflated_poisson", "Zero-inflated Poisson", ""
    aliases = ("zip", "zipoisson")
    parameters = (unit("pi"), positive("mu"))

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        total, some = w.sum(), w[x > 0.0].sum()
        mean = float(w @ x) / max(float(some), 1e-300)
        mu = max(mean - 1.0, 1e-3)
        for _ in range(30):
            mu = mean * -math.expm1(-mu)
        pi = 1.0 - float(some) / float(total) / -math.expm1(-max(mu, 1e-3))
        return np.array([min(max(pi, 0.01), 0.99), max(mu, 1e-3)])

    def jets(self, k: np.ndarray, theta: np.ndarray) -> Terms:
        pi, mu = theta
        rest, e = 1.0 - pi, math.exp(-mu)
        value = math.log(rest) + k * np.log(mu) - mu - special.gammaln(k + 1.0)
        score, hessian = np.empty((len(k), 2)), np.zeros((len(k), 2, 2))
        score[:, 0], score[:, 1] = -1.0 / rest, k / mu - 1.0
        hessian[:, 0, 0], hessian[:, 1, 1] = -1.0 / rest**2, -k / mu**2
        none = k == 0.0
        g = pi + rest * e
        first = np.array([-math.expm1(-mu), -rest * e]) / g
        second = np.array([[0.0, e], [e, rest * e]]) / g
        value[none], score[none] = math.log(g), first
        hessian[none] = second - np.outer(first, first)
        return value, score, hessian

    def logcdf(self, x: Any, theta: Any) -> np.ndarray:
        pi, mu = theta = self.vector(theta)
        return self._formula(
            x, theta, False, lambda k: pi + (1.0 - pi) * special.gammaincc(k + 1.0, mu)
        )

    def logsf(self, x: Any, theta: Any) -> np.ndarray:
        pi, mu = theta = self.vector(theta)
        return self._formula(x, theta, True, lambda k: (1.0 - pi) * special.gammainc(k + 1.0, mu))

    def sample(self, random: np.random.Generator, theta: np.ndarray, size: Any) -> np.ndarray:
        return np.where(random.random(size) < theta[0], 0, random.poisson(theta[1], size))

    def mean(self, theta: Any) -> float:
        pi, mu = self.vector(theta)
        return float((1.0 - pi) * mu)

    def var(self, theta: Any) -> float:
        pi, mu = self.vector(theta)
        return float((1.0 - pi) * mu * (1.0 + pi * mu))


FAMILIES = (Bernoulli(), Binomial(), Poisson(), Geometric(), ZeroInflatedPoisson())
