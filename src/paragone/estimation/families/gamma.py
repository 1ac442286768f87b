r"""The gamma law, with and without a threshold, and the exponential.

$$ h = (a - 1) \log z - z - \log \Gamma(a); \qquad \text{exponential: } h = -z . $$

With a known threshold the sums of x and log x are sufficient, so that a step costs nothing; the
exponential has its maximum in closed form, with a threshold at the least observation.

References:
    Choi and Wette (1969), "Maximum likelihood estimation of the parameters of the gamma
    distribution and their bias".
    Minka (2002), "Estimating a gamma distribution", for the start.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from paragone.estimation.families._closed import closed, exponential, identity
from paragone.estimation.families._family import Data
from paragone.estimation.families._kernels import passes
from paragone.estimation.families._location_scale import LocationScale
from paragone.estimation.families._parameter import positive
from paragone.estimation.families._statistics import log_above
from paragone.kernels.jit import njit

__all__ = ["FAMILIES", "Exponential", "Exponential2", "Gamma", "Gamma3"]


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _gamma(z, log_z, a):
    i = 1.0 / z
    return (a - 1.0) * log_z - z, (a - 1.0) * i - 1.0, (1.0 - a) * i * i, log_z, i, 0.0


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _exponential(z, log_z):
    return -z, -1.0, 0.0


def _log_upper(z: np.ndarray, a: float) -> np.ndarray:
    """Log of the upper tail by Legendre's continued fraction, for z > a + 1."""
    b = z + 1.0 - a
    c, d = np.full_like(z, 1e300), 1.0 / b
    value = d.copy()
    for i in range(1, 100):
        step = -i * (i - a)
        b = b + 2.0
        d = 1.0 / (step * d + b)
        c = b + step / c
        value *= c * d
    return a * np.log(z) - z - special.gammaln(a) + np.log(value)


class Gamma(LocationScale):
    """Gamma law with `shape` and `scale`: waiting times, sums of exponentials."""

    name, title, scipy = "gamma", "Gamma", "gamma"
    aliases: tuple[str, ...] = ("erlang", "gamma_2p")
    kernels = passes(_gamma, 1)
    shapes = (positive("shape"),)
    located, logs = False, True
    with_location = "gamma_3p"

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        a = shapes[0]
        first, second = special.digamma(a), special.zeta(2.0, a)
        return -float(special.gammaln(a)), np.array([-first]), np.array([[-second]])

    def prepare(self, data: Data) -> Data:
        data = super().prepare(data)
        if "logs" in data.kept:
            loc = data.known.get("loc", 0.0)
            data.kept["sums"] = float(data.w @ (data.x - loc)), float(data.w @ data.kept["logs"])
        return data

    def sums(
        self, data: Data, logs: np.ndarray, shapes: np.ndarray, loc: float, scale: float, out: Any
    ) -> None:
        if "sums" not in data.kept:
            super().sums(data, logs, shapes, loc, scale, out)
            return
        # What only the derivatives in the known location need stays 0.
        total, a = data.total, shapes[0]
        z, log_z = data.kept["sums"][0] / scale, data.kept["sums"][1] - total * math.log(scale)
        out[:] = 0.0
        out[0], out[2], out[5] = (a - 1.0) * log_z - z, (a - 1.0) * total - z, (1.0 - a) * total
        out[6], out[8] = log_z, total

    def start_above(self, x: np.ndarray, w: np.ndarray, loc: float) -> np.ndarray:
        total = w.sum()
        mean = max(float(w @ (x - loc) / total), 1e-300)
        s = max(math.log(mean) - float(w @ log_above(x, loc) / total), 1e-10)
        a = (3.0 - s + math.sqrt((s - 3.0) ** 2 + 24.0 * s)) / (12.0 * s)
        return self.join([a], loc, mean / a)

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        a = shapes[0]
        value = special.gammainc(a, z)
        far = a * np.log(z) - z - special.gammaln(a + 1.0) - np.log1p(-z / (a + 1.0))
        upper = np.log1p(-special.gammaincc(a, z))
        return np.where(value > 1e-290, np.where(z > a, upper, np.log(value)), far)

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        a = shapes[0]
        value = special.gammaincc(a, z)
        result = np.where(z < a, np.log1p(-special.gammainc(a, z)), np.log(value))
        far = (value < 1e-290) & (z > a + 1.0)
        result[far] = _log_upper(z[far], a)
        return result

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return special.gammaincinv(shapes[0], p)

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return special.gammainccinv(shapes[0], p)

    def standard_sample(self, random: Any, size: Any, *shapes: float) -> np.ndarray:
        return random.standard_gamma(shapes[0], size)

    def standard_mean(self, *shapes: float) -> float:
        return shapes[0]

    def standard_var(self, *shapes: float) -> float:
        return shapes[0]


class Gamma3(Gamma):
    """Gamma law above a threshold `loc`; known to hydrologists as Pearson's type III."""

    name, title = "gamma_3p", "Gamma, three parameters"
    aliases = ("pearson_type_3",)
    located, unbounded = True, True


class Exponential(LocationScale):
    """Exponential law with `scale` (mean): waiting times without memory."""

    name, title, scipy = "exponential", "Exponential", "expon"
    aliases: tuple[str, ...] = ("exp", "expon_1p")
    kernels = passes(_exponential)
    closed = closed(exponential, identity)
    located, begins = False, 0.0
    with_location = "exponential_2p"

    def start_above(self, x: np.ndarray, w: np.ndarray, loc: float) -> np.ndarray:
        return self.join([], loc, max(float(w @ (x - loc) / w.sum()), 1e-300))

    def closed_form(self, data: Data) -> np.ndarray | None:
        loc = data.known.get("loc", float(data.x.min()) if self.located else 0.0)
        theta = self.start_above(data.x, data.w, loc)
        theta[-1] = data.known.get("scale", theta[-1])
        return theta

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return np.log(-np.expm1(-z))

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return -z

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return -np.log1p(-p)

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return -np.log(p)

    def standard_mean(self, *shapes: float) -> float:
        return 1.0

    def standard_var(self, *shapes: float) -> float:
        return 1.0


class Exponential2(Exponential):
    """Exponential law above a threshold `loc`, which is estimated by the least observation."""

    name, title = "exponential_2p", "Exponential, two parameters"
    aliases = ("expon_2p",)
    located, edges = True, ("loc",)

    def edge_values(self, x: np.ndarray, known: dict[str, float]) -> dict[str, float]:
        return {} if "loc" in known else {"loc": float(x.min())}


FAMILIES = (Exponential(), Exponential2(), Gamma(), Gamma3())
"""The families of this module."""
