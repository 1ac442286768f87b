r"""The uniform law on [lower, upper], log f = -log(upper - lower).

The likelihood grows until both ends stand at observations: these are the estimates, they are no
stationary points, and no curvature gives a standard error.

References:
    Johnson, Kotz and Balakrishnan (1995), "Continuous univariate distributions 2", ch. 26.

Shapes: n observations, m windows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from paragone.estimation.families._family import Data, Family
from paragone.estimation.families._parameter import Parameter, real

__all__ = ["FAMILIES", "Uniform"]

Terms = tuple[np.ndarray, np.ndarray, np.ndarray]


class Uniform(Family):
    """Uniform law on [`lower`, `upper`]."""

    name, title, scipy = "uniform", "Uniform", "uniform"
    aliases = ("rectangular",)
    parameters = (real("lower"), real("upper"))
    edges = ("lower", "upper")

    def support(self, theta: np.ndarray) -> tuple[float, float]:
        return float(theta[0]), float(theta[1])

    def limits(self, known: dict[str, float]) -> tuple[float, float, bool]:
        return known.get("lower", -np.inf), known.get("upper", np.inf), False

    def bounds(self, lowest: float, highest: float) -> tuple[Parameter, ...]:
        low, high = self.parameters
        return low.within(upper=lowest), high.within(lower=highest)

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.array([x.min(), x.max()])

    def edge_values(self, x: np.ndarray, known: dict[str, float]) -> dict[str, float]:
        ends = {"lower": float(x.min()), "upper": float(x.max())}
        return {name: value for name, value in ends.items() if name not in known}

    def closed_form(self, data: Data) -> np.ndarray | None:
        ends = {**self.edge_values(data.x, data.known), **data.known}
        return np.array([ends["lower"], ends["upper"]])

    def terms(self, data: Data, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        if "range" not in data.kept:
            data.kept["range"] = float(data.x.min()), float(data.x.max())
        ends = np.array(data.kept["range"])
        value, score, hessian = self.pointwise(ends, theta)
        total = data.total
        return float(total * value.min()), total * score[0], total * hessian[0]

    def pointwise(self, x: np.ndarray, theta: np.ndarray) -> Terms:
        low, high = theta
        return self._powers(np.where((x >= low) & (x <= high), 1.0, 0.0), theta)

    def _powers(self, mass: np.ndarray, theta: np.ndarray) -> Terms:
        """Derivatives of log(mass / width) where only the width moves."""
        width = theta[1] - theta[0]
        n = len(mass)
        with np.errstate(divide="ignore"):
            value = np.log(mass) - math.log(width) if width > 0 else np.full(n, -np.inf)
        score = np.tile([1.0 / width, -1.0 / width], (n, 1))
        hessian = np.tile([[1.0, -1.0], [-1.0, 1.0]], (n, 1, 1)) / (width * width)
        return value, score, hessian

    def windows(self, lower: np.ndarray, upper: np.ndarray, theta: np.ndarray) -> Terms:
        low, high = theta
        a, b = np.clip(lower, low, high), np.clip(upper, low, high)
        length = b - a
        value, score, hessian = self._powers(length, theta)
        # An end of the window beyond the support moves with the support.
        with np.errstate(divide="ignore", invalid="ignore"):
            moves = np.column_stack((-1.0 * (lower <= low), 1.0 * (upper >= high)))
            slope = np.where(length[:, None] > 0.0, moves / length[:, None], 0.0)
        return value, score + slope, hessian - slope[:, :, None] * slope[:, None, :]

    def logcdf(self, x: Any, theta: Any) -> np.ndarray:
        low, high = self.vector(theta)
        with np.errstate(divide="ignore"):
            return np.log(np.clip((np.asarray(x, float) - low) / (high - low), 0.0, 1.0))

    def logsf(self, x: Any, theta: Any) -> np.ndarray:
        low, high = self.vector(theta)
        with np.errstate(divide="ignore"):
            return np.log(np.clip((high - np.asarray(x, float)) / (high - low), 0.0, 1.0))

    def ppf(self, p: Any, theta: Any) -> np.ndarray:
        low, high = self.vector(theta)
        return low + (high - low) * np.asarray(p, np.float64)

    def mean(self, theta: Any) -> float:
        return float(np.mean(self.vector(theta)))

    def var(self, theta: Any) -> float:
        low, high = self.vector(theta)
        return float((high - low) ** 2 / 12.0)


FAMILIES = (Uniform(),)
"""The families of this module."""
