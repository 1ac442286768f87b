r"""Pareto's law, $h = -(b + 1) \log z + \log b$ on $z \ge 1$.

The scale is where the support begins, so its maximum is the least observation, and the shape is
one over the mean of log(x / scale).

References:
    Johnson, Kotz and Balakrishnan (1994), "Continuous univariate distributions 1", ch. 20.
"""

from __future__ import annotations

import math

import numpy as np

from paragone.estimation.families._closed import closed, exponential
from paragone.estimation.families._family import Data
from paragone.estimation.families._kernels import passes
from paragone.estimation.families._location_scale import LocationScale
from paragone.estimation.families._parameter import Parameter, positive
from paragone.kernels.jit import njit

__all__ = ["FAMILIES", "Pareto"]


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _pareto(z, log_z, b):
    i = 1.0 / z
    return -(b + 1.0) * log_z, -(b + 1.0) * i, (b + 1.0) * i * i, -log_z, -i, 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _scaled_log(z, shape, b):
    log_z, i = math.log(z), 1.0 / z
    return shape * log_z, shape * i, -shape * i * i, log_z, i, 0.0, 0.0, 0.0, 0.0, 0.0


class Pareto(LocationScale):
    """Pareto law with `shape` and `scale`, its least value: incomes, sizes of cities."""

    name, title, scipy = "pareto", "Pareto", "pareto"
    aliases = ("pareto_1", "power_law")
    kernels = passes(_pareto, 1)
    closed = closed(exponential, _scaled_log, 1)
    shapes = (positive("shape"),)
    located, logs, edges = False, True, ("scale",)

    def standard_support(self, *shapes: float) -> tuple[float, float]:
        return 1.0, np.inf

    def bounds(self, lowest: float, highest: float) -> tuple[Parameter, ...]:
        shape, scale = self.parameters
        return shape, scale.within(upper=lowest)

    def edge_values(self, x: np.ndarray, known: dict[str, float]) -> dict[str, float]:
        return {} if "scale" in known else {"scale": float(x.min())}

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        b = shapes[0]
        return math.log(b), np.array([1.0 / b]), np.array([[-1.0 / (b * b)]])

    def start_above(self, x: np.ndarray, w: np.ndarray, loc: float) -> np.ndarray:
        scale = float(x.min())
        mean = float(w @ np.log(x / scale)) / w.sum()
        return np.array([1.0 / max(mean, 1e-12), scale])

    def closed_form(self, data: Data) -> np.ndarray | None:
        scale = data.known.get("scale", float(data.x.min()))
        mean = float(data.w @ np.log(data.x / scale)) / data.total
        return np.array([data.known.get("shape", 1.0 / max(mean, 1e-300)), scale])

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(-np.expm1(-shapes[0] * np.log(z)))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return -shapes[0] * np.log(z)

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.exp(-np.log1p(-p) / shapes[0])

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return np.exp(-np.log(p) / shapes[0])

    def standard_mean(self, *shapes: float) -> float:
        b = shapes[0]
        return b / (b - 1.0) if b > 1.0 else math.inf

    def standard_var(self, *shapes: float) -> float:
        b = shapes[0]
        return b / ((b - 1.0) ** 2 * (b - 2.0)) if b > 2.0 else math.inf


FAMILIES = (Pareto(),)
"""The families of this module."""
