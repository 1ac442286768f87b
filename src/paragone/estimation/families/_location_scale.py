r"""Families of the form $f(x) = e^{h(z; s) + c(s)} / \sigma$ with $z = (x - \mu) / \sigma$.

A family gives its standard density as a compiled jet (`_kernels`) and the constant c(s) with its
derivatives; the chain rule does the rest:

$$ \ell_\mu = -\frac{h_z}{\sigma}, \quad \ell_\sigma = -\frac{1 + z h_z}{\sigma}, \quad
   \ell_{\mu\mu} = \frac{h_{zz}}{\sigma^2}, \quad
   \ell_{\mu\sigma} = \frac{h_z + z h_{zz}}{\sigma^2}, \quad
   \ell_{\sigma\sigma} = \frac{1 + 2 z h_z + z^2 h_{zz}}{\sigma^2}, $$
$$ \ell_s = h_s + c_s, \quad \ell_{\mu s} = -\frac{h_{zs}}{\sigma}, \quad
   \ell_{\sigma s} = -\frac{z h_{zs}}{\sigma} . $$

The order of theta is shapes, location, scale; location or scale may be absent (0 and 1), and the
scale may be given by its logarithm. Cost: one pass of 2 to 10 ns a value for everything.

Shapes: n observations, m windows, k shapes, p parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.estimation.families._family import Data, Family
from paragone.estimation.families._kernels import logs_above
from paragone.estimation.families._parameter import Parameter, positive, real
from paragone.estimation.families._statistics import quantiles
from paragone.estimation.families._windows import log_mass, narrow, shape_derivatives

__all__ = ["LocationScale"]

Terms = tuple[np.ndarray, np.ndarray, np.ndarray]


class LocationScale(Family):
    """Base of the continuous families.

    A subclass sets `kernels` and defines `standard_logcdf`, `standard_logsf`, `standard_ppf`,
    `standard_mean`, `standard_var` and `start`; with shapes also `constant`.

    Args:
        located: Whether the location is a parameter.

    Attributes:
        kernels: `passes(jet, shapes)`.
        closed: Kernel of `_closed` where the distribution function has a closed form, or ().
        shapes: Parameters of the shape.
        scaled: Whether the scale is a parameter.
        log_scale: Name of the parameter log(scale), if that takes the place of the scale.
        logs: Whether the jet reads log z; its support then begins at 0.
        with_location: Name of the same family with a location, or "".
        begins: Lower end of the standard support where it does not depend on shapes, or -inf.
        ends: Upper end, likewise.
    """

    kernels: tuple[Any, Any]
    closed: tuple[Any, ...] = ()
    shapes: tuple[Parameter, ...] = ()
    located: bool = True
    scaled: bool = True
    log_scale: str = ""
    logs: bool = False
    begins: float = -np.inf
    ends: float = np.inf

    def __init__(self) -> None:
        tail = [real("loc")] if self.located else []
        if self.scaled:
            tail.append(real(self.log_scale) if self.log_scale else positive("scale"))
        self.parameters = (*self.shapes, *tail)
        k = len(self.shapes)
        kept = [*range(k), *([k] if self.located else []), *([k + 1] if self.scaled else [])]
        self._kept = np.array(kept, np.int64)

    # --- what a family defines -------------------------------------------------------------

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        """c(s), its gradient (k,) and Hessian (k, k)."""
        k = len(self.shapes)
        return 0.0, np.zeros(k), np.zeros((k, k))

    def standard_support(self, *shapes: float) -> tuple[float, float]:
        """Ends of the support of z."""
        return (0.0 if self.logs else self.begins), self.ends

    def limits(self, known: dict[str, float]) -> tuple[float, float, bool]:
        loc, scale = known.get("loc", 0.0), known.get("scale", 1.0)
        lower, upper = (0.0 if self.logs else self.begins), self.ends
        if self.located and "loc" not in known:
            return -np.inf, np.inf, False
        if self.scaled and "scale" not in known:
            lower, upper = (
                end if end in (0.0, -np.inf, np.inf) else np.inf for end in (lower, upper)
            )
            lower = -np.inf if lower == np.inf else lower
        return loc + scale * lower, loc + scale * upper, self.logs

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        """Log P(Z <= z) for z inside the support."""
        raise NotImplementedError

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        """Log P(Z > z) for z inside the support."""
        raise NotImplementedError

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        """Quantiles of Z."""
        raise NotImplementedError

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        """Quantiles of Z from above."""
        return self.standard_ppf(1.0 - p, *shapes)

    def standard_mean(self, *shapes: float) -> float:
        """Mean of Z."""
        raise NotImplementedError

    def standard_var(self, *shapes: float) -> float:
        """Variance of Z."""
        raise NotImplementedError

    def start_above(self, x: np.ndarray, w: np.ndarray, loc: float) -> np.ndarray:
        """A start of a family on the half line, given where that begins."""
        raise NotImplementedError

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        if not self.located:
            return self.start_above(x, w, 0.0)
        low, middle = x.min(), quantiles(x, w, (0.5,))[0]
        return self.start_above(x, w, low - 0.1 * (middle - low) - 1e-9 * abs(low) - 1e-300)

    # --- theta --------------------------------------------------------------------------------

    def split(self, theta: Any) -> tuple[np.ndarray, float, float]:
        """(shapes (k,), loc, scale) of theta."""
        theta = np.asarray(theta, np.float64)
        k = len(self.shapes)
        loc = float(theta[k]) if self.located else 0.0
        scale = float(theta[-1]) if self.scaled else 1.0
        return theta[:k], loc, float(np.exp(min(scale, 700.0))) if self.log_scale else scale

    def join(self, shapes: Any, loc: float, scale: float) -> np.ndarray:
        """Theta from its parts; what this family does not have is left out."""
        last = np.log(scale) if self.log_scale else scale
        return np.array([*shapes, loc, last], np.float64)[self._kept]

    def support(self, theta: np.ndarray) -> tuple[float, float]:
        shapes, loc, scale = self.split(theta)
        lower, upper = self.standard_support(*shapes)
        return loc + scale * lower, loc + scale * upper

    def bounds(self, lowest: float, highest: float) -> tuple[Parameter, ...]:
        if not (self.located and (self.logs or self.begins == 0.0)):
            return self.parameters
        return tuple(
            each.within(upper=lowest) if each.name == "loc" else each for each in self.parameters
        )

    # --- derivatives --------------------------------------------------------------------------

    def _finished(self, value: Any, score: np.ndarray, hessian: np.ndarray, scale: float) -> Any:
        """Keeps the parameters that there are, and turns the scale into its logarithm."""
        score, hessian = score[..., self._kept], hessian[..., self._kept[:, None], self._kept]
        if self.log_scale:
            hessian[..., :, -1] *= scale
            hessian[..., -1, :] *= scale
            score[..., -1] *= scale
            hessian[..., -1, -1] += score[..., -1]
        return value, score, hessian

    def _chained(self, z: Any, hz: Any, zhz: Any, second: Any, shape: Any, scale: float) -> Any:
        """Score and Hessian (..., k + 2) of log f from derivatives or sums of derivatives.

        Args:
            z: The weight itself: 1, or the sum of weights.
            hz: h_z.
            zhz: z h_z.
            second: h_zz, z h_zz and z^2 h_zz.
            shape: (h_s (..., k), h_zs (..., k), z h_zs (..., k), h_st (..., k, k)).
            scale: Sigma.
        """
        hs, hzs, zhzs, hst = shape
        k = hs.shape[-1]
        score, hessian = (
            np.empty((*hs.shape[:-1], k + 2)),
            np.empty((*hs.shape[:-1], k + 2, k + 2)),
        )
        score[..., :k] = hs
        score[..., k], score[..., k + 1] = -hz / scale, -(z + zhz) / scale
        hessian[..., :k, :k] = hst
        hessian[..., :k, k] = hessian[..., k, :k] = -hzs / scale
        hessian[..., :k, k + 1] = hessian[..., k + 1, :k] = -zhzs / scale
        square = scale * scale
        hessian[..., k, k] = second[0] / square
        hessian[..., k, k + 1] = hessian[..., k + 1, k] = (hz + second[1]) / square
        hessian[..., k + 1, k + 1] = (z + 2.0 * zhz + second[2]) / square
        return score, hessian

    def prepare(self, data: Data) -> Data:
        if self.logs and (not self.located or "loc" in data.known):
            data.kept["logs"] = np.empty_like(data.x)
            logs_above(data.x, data.known.get("loc", 0.0), data.kept["logs"])
        elif self.logs:
            data.kept["buffer"] = np.empty_like(data.x)
        if len(data.x) and "range" not in data.kept:
            data.kept["range"] = float(data.x.min()), float(data.x.max())
        return data

    def terms(self, data: Data, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        shapes, loc, scale = self.split(theta)
        k = len(shapes)
        lower, upper = self.support(theta)
        least, most = data.kept["range"]
        inside = least > lower if self.logs and lower == loc else least >= lower
        if not (inside and most <= upper and scale > 0.0):
            p = len(theta)
            return -np.inf, np.zeros(p), np.zeros((p, p))
        logs = data.kept.get("logs", data.x)
        if "buffer" in data.kept:
            logs = data.kept["buffer"]
            logs_above(data.x, loc, logs)
        out = np.empty(6 + 3 * k + k * (k + 1) // 2)
        padded = shapes if k else np.zeros(1)
        self.sums(data, logs, padded, loc, scale, out)
        total = data.total
        shape = np.zeros(k), np.zeros(k), np.zeros(k), np.zeros((k, k))
        value = out[0] - total * np.log(scale)
        if k:
            c, cs, cst = self.constant(*shapes)
            rows = out[6 : 6 + 3 * k].reshape(k, 3)
            hst = out[6 + 3 * k :][[[0]] if k == 1 else [[0, 1], [1, 2]]]
            shape = rows[:, 0] + total * cs, rows[:, 1], rows[:, 2], hst + total * cst
            value += total * c
        elif self._constant0:
            value += total * self._constant0
        score, hessian = self._chained(total, out[1], out[2], out[3:6], shape, scale)
        return self._finished(float(value), score, hessian, scale)

    def sums(
        self, data: Data, logs: np.ndarray, shapes: np.ndarray, loc: float, scale: float, out: Any
    ) -> None:
        """The sums of `_kernels` into out; overridden where some of them are sufficient."""
        self.kernels[0](data.x, logs, data.w, shapes, loc, scale, out)

    @property
    def _constant0(self) -> float:
        return self.constant()[0] if not self.shapes else 0.0

    def _jets(self, z: np.ndarray, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Jets (n, 3), (n, 6) or (n, 10), constants included, and h_st (n, k, k)."""
        k = len(shapes)
        out = np.empty((len(z), (3, 6, 10)[k]))
        self.kernels[1](np.ascontiguousarray(z), shapes if k else np.zeros(1), out)
        c, cs, cst = self.constant(*shapes)
        out[:, 0] += c
        hst = np.empty((len(z), k, k))
        if k == 1:
            out[:, 3] += cs[0]
            hst[:, 0, 0] = out[:, 5] + cst[0, 0]
        elif k == 2:
            out[:, 3] += cs[0]
            out[:, 6] += cs[1]
            hst[:, 0, 0], hst[:, 1, 1] = out[:, 5] + cst[0, 0], out[:, 9] + cst[1, 1]
            hst[:, 0, 1] = hst[:, 1, 0] = out[:, 8] + cst[0, 1]
        return out, hst

    def pointwise(self, x: np.ndarray, theta: np.ndarray) -> Terms:
        shapes, loc, scale = self.split(theta)
        k = len(shapes)
        z = (x - loc) / scale
        lower, upper = self.standard_support(*shapes)
        outside = ~((z >= lower) & (z <= upper))
        inside = 0.5 * (max(lower, -1e3) + min(upper, max(lower, -1e3) + 2.0))
        z = np.where(outside, inside, z)
        with np.errstate(all="ignore"):
            out, hst = self._jets(z, shapes)
            at = [3, 6][:k]
            hs, hzs = out[:, at], out[:, [i + 1 for i in at]]
            hz, hzz = out[:, 1], out[:, 2]
            second = hzz, z * hzz, z * z * hzz
            shape = hs, hzs, z[:, None] * hzs, hst
            score, hessian = self._chained(1.0, hz, z * hz, second, shape, scale)
        value = out[:, 0] - np.log(scale)
        value[outside], score[outside], hessian[outside] = -np.inf, 0.0, 0.0
        return self._finished(value, score, hessian, scale)

    def _closed_rows(self, lower: Any, upper: Any, theta: Any) -> tuple[Any, Any, int]:
        """Rows (m, c) of `_closed`, which windows are narrow (m,), and how many."""
        shapes, loc, scale = self.split(theta)
        k = len(shapes)
        rows = np.empty((len(lower), 6 + 3 * k + k * (k + 1) // 2))
        padded = np.zeros(2)
        padded[:k] = shapes
        begin, end = self.standard_support(*shapes)
        few = np.zeros(len(lower), np.bool_)
        count = self.closed[0](lower, upper, padded, begin, end, loc, scale, rows, few)
        return rows, few, count

    def _from_rows(self, rows: np.ndarray, scale: float) -> Any:
        """Log masses, scores and Hessians of rows (..., c), or of their sum."""
        k, columns = len(self.shapes), rows.T
        thirds = rows[..., 6 : 6 + 3 * k].reshape(*rows.shape[:-1], k, 3)
        bends = rows[..., 6 + 3 * k :]
        bends = bends[..., [[0, 1], [1, 2]]] if k == 2 else bends.reshape(*rows.shape[:-1], k, k)
        shape = thirds[..., 0], thirds[..., 1], thirds[..., 2], bends
        score, hessian = self._chained(0.0, columns[1], columns[2], columns[3:6], shape, scale)
        return self._finished(columns[0], score, hessian, scale)

    def windows(self, lower: np.ndarray, upper: np.ndarray, theta: np.ndarray) -> Terms:
        if not self.closed:
            return self._integrated(lower, upper, theta)
        lower, upper = (np.ascontiguousarray(x, np.float64) for x in (lower, upper))
        rows, few, count = self._closed_rows(lower, upper, theta)
        value, score, hessian = self._from_rows(rows, self.split(theta)[2])
        if count and not self.kinks:
            some = np.flatnonzero(few)
            value[some], score[some], hessian[some] = narrow(
                self.pointwise, lower[some], upper[some], theta
            )
        return value, score, hessian

    def window_sums(
        self, lower: np.ndarray, upper: np.ndarray, w: np.ndarray, theta: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        if self.closed:
            rows, _, count = self._closed_rows(lower, upper, theta)
            if self.kinks or not count:
                value, score, hessian = self._from_rows(w @ rows, self.split(theta)[2])
                return float(value), score, hessian
        return super().window_sums(lower, upper, w, theta)

    def _integrated(self, lower: np.ndarray, upper: np.ndarray, theta: np.ndarray) -> Terms:
        """Windows by quadrature, for laws without closed tails."""
        shapes, loc, scale = self.split(theta)
        k = len(shapes)
        ends = self.standard_support(*shapes)
        a, b = (np.clip((np.asarray(x, float) - loc) / scale, *ends) for x in (lower, upper))
        mass = log_mass(
            a, b,
            lambda z: self._log_tail(z, shapes, False), lambda z: self._log_tail(z, shapes, True),
            lambda z: self._jets(z, shapes)[0][:, 0],
        )  # fmt: skip
        at = [3, 6][:k]
        ls, lst = np.zeros((len(a), k)), np.zeros((len(a), k, k))
        possible = np.isfinite(mass)
        if k and possible.any():

            def jets(t: np.ndarray) -> Terms:
                out, hst = self._jets(t, shapes)
                return out[:, 0], out[:, at], hst

            ls[possible], lst[possible] = shape_derivatives(
                a[possible], b[possible], mass[possible], ends,
                lambda p: self.standard_ppf(p, *shapes), lambda p: self.standard_isf(p, *shapes),
                jets,
            )  # fmt: skip
        first, cross, mixed = np.zeros((2, len(a))), np.zeros((2, len(a))), np.zeros((2, len(a), k))
        for i, (z, sign) in enumerate(((a, -1.0), (b, 1.0))):
            # An end at the end of the support does not move mass.
            open_end = (z > ends[0]) & (z < ends[1]) & possible
            out, _ = self._jets(z[open_end], shapes)
            ratio = np.exp(np.minimum(out[:, 0] - mass[open_end], 300.0))
            first[i, open_end] = sign * ratio
            cross[i, open_end] = sign * ratio * out[:, 1] - ratio * ratio
            mixed[i, open_end] = sign * ratio[:, None] * (out[:, at] - ls[open_end])
        a, b = np.where(first[0] != 0.0, a, 0.0), np.where(first[1] != 0.0, b, 0.0)
        both = -first[0] * first[1]
        second = (
            cross[0] + 2.0 * both + cross[1],
            a * cross[0] + (a + b) * both + b * cross[1],
            a * a * cross[0] + 2.0 * a * b * both + b * b * cross[1],
        )
        shape = ls, mixed[0] + mixed[1], a[:, None] * mixed[0] + b[:, None] * mixed[1], lst
        hz, zhz = first[0] + first[1], a * first[0] + b * first[1]
        score, hessian = self._chained(0.0, hz, zhz, second, shape, scale)
        return self._finished(mass, score, hessian, scale)

    # --- values ---------------------------------------------------------------------------------

    def _log_tail(self, z: np.ndarray, shapes: np.ndarray, upper: bool) -> np.ndarray:
        lower_end, upper_end = self.standard_support(*shapes)
        result = np.where(z <= lower_end, -np.inf, 0.0)
        if upper:
            result = np.where(z >= upper_end, -np.inf, 0.0)
        inside = (z > lower_end) & (z < upper_end)
        tail = self.standard_logsf if upper else self.standard_logcdf
        with np.errstate(all="ignore"):
            result[inside] = np.minimum(tail(z[inside], *shapes), 0.0)
        return np.where(np.isnan(z), np.nan, result)

    def _standardised(self, x: Any, theta: Any, upper: bool) -> np.ndarray:
        shapes, loc, scale = self.split(self.vector(theta))
        x = np.asarray(x, np.float64)
        return self._log_tail((x.ravel() - loc) / scale, shapes, upper).reshape(x.shape)

    def logcdf(self, x: Any, theta: Any) -> np.ndarray:
        return self._standardised(x, theta, False)

    def logsf(self, x: Any, theta: Any) -> np.ndarray:
        return self._standardised(x, theta, True)

    def ppf(self, p: Any, theta: Any) -> np.ndarray:
        shapes, loc, scale = self.split(self.vector(theta))
        with np.errstate(all="ignore"):
            return loc + scale * self.standard_ppf(np.asarray(p, np.float64), *shapes)

    def isf(self, p: Any, theta: Any) -> np.ndarray:
        shapes, loc, scale = self.split(self.vector(theta))
        with np.errstate(all="ignore"):
            return loc + scale * self.standard_isf(np.asarray(p, np.float64), *shapes)

    def standard_sample(self, random: Any, size: Any, *shapes: float) -> np.ndarray:
        """Random values of Z; by inversion where nothing quicker is known."""
        return self.standard_ppf(random.random(size), *shapes)

    def rvs(self, theta: Any, size: Any = None, random_state: Any = None) -> np.ndarray:
        shapes, loc, scale = self.split(self.vector(theta))
        random = np.random.default_rng(random_state)
        with np.errstate(all="ignore"):
            return loc + scale * self.standard_sample(random, size, *shapes)

    def mean(self, theta: Any) -> float:
        shapes, loc, scale = self.split(self.vector(theta))
        return float(loc + scale * self.standard_mean(*shapes))

    def var(self, theta: Any) -> float:
        shapes, _, scale = self.split(self.vector(theta))
        return float(scale * scale * self.standard_var(*shapes))
