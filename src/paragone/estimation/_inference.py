r"""Averages of a path and how sure they are, without a second look at the data.

Random scaling: the average $\bar w_n$ of a path is asymptotically normal with a covariance that
nobody knows, but the path of the averages fluctuates with the same one, so that

$$ t = \frac{\bar w_n - w^*}{\sqrt{V_n / n}}, \qquad
   V_n = \frac{1}{n^2} \sum_{s=1}^n s^2 (\bar w_s - \bar w_n)^2 $$

has a known distribution, that of $W(1) / (\int_0^1 (W(r) - r W(1))^2 dr)^{1/2}$ for a Brownian
motion W. Numerator and bridge are independent, and the Laplace transform of the bridge's integral
is known, so that with Craig's form of the normal tail

$$ P(|t| > c) = \frac{2}{\pi} \int_0^{\pi/2}
   \Bigl( \frac{c / \sin\theta}{\sinh(c / \sin\theta)} \Bigr)^{1/2} d\theta . $$

References:
    Lee, Liao, Seo and Shin (2022), "Fast and robust online inference with stochastic gradient
    descent via random scaling", AAAI, eq. 8-10.
    Abadir and Paruolo (1997), "Two mixed normal densities from cointegration analysis", table 1.
    Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging".
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["Average", "normal_quantile", "scaling_quantile"]


@lru_cache(maxsize=64)
def scaling_quantile(level: float) -> float:
    """The c with P(|t| <= c) = level.

    Example:
        >>> round(scaling_quantile(0.95), 3)
        6.747
    """
    checked_level(level)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    sines = np.sin((nodes + 1) * math.pi / 4)
    low, high = 0.0, 700.0
    for _ in range(80):
        c = 0.5 * (low + high)
        ratio = np.minimum(c / sines, 700.0)
        tail = float(weights @ np.sqrt(ratio / np.sinh(ratio))) / 2
        low, high = (c, high) if tail > 1.0 - level else (low, c)
    return 0.5 * (low + high)


def normal_quantile(level: float) -> float:
    """The c with P(|Z| <= c) = level for a standard normal Z."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + 0.5 * checked_level(level))


def checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level={level} is no confidence: use a number within 0 and 1, as 0.95")
    return level


class Average:
    """Average of a path of vectors, with the sums of random scaling.

    Args:
        shape: Of one vector, or of many at once.
        origin: Near the path; differences from it are summed.
    """

    def __init__(self, shape: tuple[int, ...], origin: Any):
        self.n = 0
        self.origin = np.broadcast_to(np.asarray(origin, np.float64), shape).copy()
        self.offset = np.zeros(shape)
        self.first, self.second, self.third = np.zeros(shape), np.zeros(shape), 0.0

    def add(self, w: np.ndarray) -> None:
        self.n += 1
        self.offset += (w - self.origin - self.offset) / self.n
        square = float(self.n) ** 2
        self.second += square * self.offset * self.offset
        self.first += square * self.offset
        self.third += square

    @property
    def value(self) -> np.ndarray:
        return self.origin + self.offset if self.n else self.offset * np.nan

    def interval(self, level: float) -> np.ndarray:
        """Ends (2, ...) of the intervals of each coordinate."""
        c = scaling_quantile(level)
        if self.n < 2:
            return np.full((2, *self.offset.shape), np.nan)
        spread = self.second - 2 * self.offset * self.first + self.offset**2 * self.third
        half = c * np.sqrt(np.maximum(spread, 0.0) / self.n) / self.n
        return np.stack([self.value - half, self.value + half])
