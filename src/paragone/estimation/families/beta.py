r"""The beta law, from its two sufficient statistics.

$$ \ell = (a - 1) \sum w \log x + (b - 1) \sum w \log(1 - x) - W \log B(a, b) . $$

Two sums are taken once; each Newton step then costs the same for ten values and for a million.
A proportion measured as exactly 0 or 1 has no place here: it needs censoring or another family.

References:
    Johnson, Kotz and Balakrishnan (1995), "Continuous univariate distributions 2", ch. 25.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from paragone.estimation._incomplete import beta_logs_jet
from paragone.estimation.families._family import Data
from paragone.estimation.families._kernels import passes
from paragone.estimation.families._location_scale import LocationScale
from paragone.estimation.families._parameter import positive
from paragone.estimation.families._statistics import mean_and_deviation
from paragone.estimation.families._tails import window
from paragone.kernels.jit import njit

__all__ = ["FAMILIES", "Beta"]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def _beta(z, log_z, a, b):
    i, j = 1.0 / z, 1.0 / (1.0 - z)
    log_y = math.log1p(-z)
    p, q = a - 1.0, b - 1.0
    return (
        p * log_z + q * log_y, p * i - q * j, -p * i * i - q * j * j,
        log_z, i, 0.0, log_y, -j, 0.0, 0.0,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _tail_jets(x, theta, out):
    for i in range(len(x)):
        rows = beta_logs_jet(theta[0], theta[1], x[i], 1.0 - x[i])
        for j in range(2):
            for k in range(6):
                out[i, j, k] = rows[j][k]


class Beta(LocationScale):
    """Proportions between 0 and 1: shapes `a` and `b`."""

    name, title, scipy = "beta", "Beta", "beta"
    aliases = ("beta_distribution",)
    kernels = passes(_beta, 2)
    shapes = (positive("a"), positive("b"))
    located, scaled, logs, ends = False, False, True, 1.0

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        a, b = shapes
        both = special.digamma(a + b), special.polygamma(1, a + b)
        return (
            -float(special.betaln(a, b)),
            both[0] - special.digamma(np.array([a, b])),
            both[1] - np.diag(special.polygamma(1, np.array([a, b]))),
        )

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        mean, deviation = mean_and_deviation(x, w)
        count = max(mean * (1.0 - mean) / max(deviation * deviation, 1e-12) - 1.0, 0.05)
        return np.array([mean * count, (1.0 - mean) * count])

    def prepare(self, data: Data) -> Data:
        if len(data.x) and data.x.min() > 0.0 and data.x.max() < 1.0:
            data.kept["sums"] = np.array([data.w @ np.log(data.x), data.w @ np.log1p(-data.x)])
        return data

    def terms(self, data: Data, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        if "sums" not in data.kept:
            return -np.inf, np.zeros(2), np.zeros((2, 2))
        c, first, second = self.constant(*theta)
        sums, total = data.kept["sums"], data.total
        return float(sums @ (theta - 1.0) + total * c), sums + total * first, total * second

    def windows(self, lower: np.ndarray, upper: np.ndarray, theta: np.ndarray) -> Any:
        ends = []
        for x in (lower, upper):
            out = np.empty((len(x), 2, 6))
            _tail_jets(np.clip(x, 0.0, 1.0), theta, out)
            second = out[:, :, [3, 4, 4, 5]].reshape(-1, 2, 2, 2)
            ends.append(tuple((out[:, i, 0], out[:, i, 1:3], second[:, i]) for i in (0, 1)))
        return window(*ends)

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(special.betainc(*shapes, z))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(special.betaincc(*shapes, z))

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return special.betaincinv(*shapes, p)

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return special.betainccinv(*shapes, p)

    def standard_sample(self, random: Any, size: Any, *shapes: float) -> np.ndarray:
        return random.beta(*shapes, size)

    def standard_mean(self, *shapes: float) -> float:
        return shapes[0] / (shapes[0] + shapes[1])

    def standard_var(self, *shapes: float) -> float:
        a, b = shapes
        return a * b / ((a + b) ** 2 * (a + b + 1.0))


FAMILIES = (Beta(),)
