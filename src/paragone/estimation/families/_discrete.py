r"""Base of the discrete families: sums over distinct values, windows by summation.

Counts repeat, so the data are their distinct values with summed weights, and a step costs what
the distinct values cost. A window (a, b] holds the whole numbers floor(a) + 1 to floor(b); its mass
and derivatives are sums over them,

$$ P = \sum_k f(k), \qquad (\log P)_i = E[\ell_i], \qquad
   (\log P)_{ij} = E[\ell_{ij} + \ell_i \ell_j] - E[\ell_i] E[\ell_j], $$

the mean taken over the window. An open end is summed until nothing is added, or, where more than
half of the mass lies there, is the complement of the finite sum.

Shapes: n values, m windows, p parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.estimation.families._family import Data, Family
from paragone.estimation.families._tails import complement

__all__ = ["Discrete"]

Terms = tuple[np.ndarray, np.ndarray, np.ndarray]
_MOST, _FEW = 1 << 24, 1 << 16


class Discrete(Family):
    """A law on whole numbers.

    A subclass defines `jets`, `start`, `mean`, `var`, `sample`, and where there are formulas
    `logcdf` and `logsf`.

    Attributes:
        lowest: Least value.
    """

    discrete = True
    lowest: float = 0.0

    def jets(self, k: np.ndarray, theta: np.ndarray) -> Terms:
        """Log probability of whole k inside the support (n,), scores (n, p), Hessians."""
        raise NotImplementedError

    def sample(self, random: np.random.Generator, theta: np.ndarray, size: Any) -> np.ndarray:
        """Random values."""
        raise NotImplementedError

    def support(self, theta: np.ndarray) -> tuple[float, float]:
        return self.lowest, (float(theta[0]) if self.names[0] == "trials" else np.inf)

    def limits(self, known: dict[str, float]) -> tuple[float, float, bool]:
        if self.names[0] != "trials":
            return self.lowest, np.inf, False
        if "trials" not in known:
            raise ValueError(
                f"{self.name} does not estimate the number of trials, which data hardly determine: "
                "give it, as fixed={'trials': 10}"
            )
        return self.lowest, known["trials"], False

    def prepare(self, data: Data) -> Data:
        if len(data.x):
            values, at = np.unique(data.x, return_inverse=True)
            data.kept["counts"] = values, np.bincount(at.ravel(), data.w, len(values))
        return data

    def terms(self, data: Data, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        values, counts = data.kept["counts"]
        lower, upper = self.support(theta)
        if values[0] < lower or values[-1] > upper:
            p = len(theta)
            return -np.inf, np.zeros(p), np.zeros((p, p))
        value, score, hessian = self.jets(values, theta)
        return float(counts @ value), counts @ score, np.tensordot(counts, hessian, 1)

    def pointwise(self, x: np.ndarray, theta: np.ndarray) -> Terms:
        lower, upper = self.support(theta)
        outside = ~((x >= lower) & (x <= upper) & (np.floor(x) == x))
        with np.errstate(all="ignore"):
            value, score, hessian = self.jets(np.where(outside, lower, x), theta)
        value = np.where(outside, -np.inf, value)
        return (
            value,
            np.where(outside[:, None], 0.0, score),
            np.where(outside[:, None, None], 0.0, hessian),
        )

    # --- windows --------------------------------------------------------------------------------

    def _sums(self, first: float, last: float, theta: np.ndarray) -> Terms:
        """Log mass of first..last with T_i / T and T_ij / T, as one row each."""
        p = len(theta)
        if last < first:
            return np.full(1, -np.inf), np.zeros((1, p)), np.zeros((1, p, p))
        value, score, hessian = self.jets(np.arange(first, last + 1.0), theta)
        peak = value.max()
        f = np.exp(value - peak)
        total = f.sum()
        one = f @ score / total
        two = (np.tensordot(f, hessian, 1) + (score.T * f) @ score) / total
        return np.array([peak + np.log(total)]), one[None], two[None]

    def _above(self, first: float, theta: np.ndarray) -> Terms:
        """The same of all values from `first` on."""
        lower, upper = self.support(theta)
        first = max(first, lower)
        if np.isfinite(upper):
            return self._sums(first, upper, theta)
        if first - lower < _FEW:
            below = self._sums(lower, first - 1.0, theta)
            if below[0][0] < -0.6931:
                return complement(below)
        parts, width, at = [], 64.0, first
        while width < _MOST:
            part = self._sums(at, at + width - 1.0, theta)
            parts.append(part)
            grown = np.abs(part[2]).max() + 1.0
            if part[0][0] + np.log(grown) < parts[0][0][0] - 40.0 and len(parts) > 1:
                break
            at, width = at + width, 2.0 * width
        logs = np.array([part[0][0] for part in parts])
        share = np.exp(logs - logs.max())
        log_p = logs.max() + np.log(share.sum())
        share /= share.sum()
        one = sum(s * part[1] for s, part in zip(share, parts, strict=True))
        two = sum(s * part[2] for s, part in zip(share, parts, strict=True))
        return np.array([log_p]), np.asarray(one), np.asarray(two)

    def windows(self, lower: np.ndarray, upper: np.ndarray, theta: np.ndarray) -> Terms:
        rows = []
        least, most = self.support(theta)
        for a, b in zip(np.floor(lower), np.floor(upper), strict=True):
            first = max(a + 1.0, least)
            if b >= most:
                rows.append(self._above(first, theta))
            else:
                rows.append(self._sums(first, b, theta))
        log_p, one, two = (np.concatenate(each) for each in zip(*rows, strict=True))
        return log_p, one, two - one[:, :, None] * one[:, None, :]

    # --- values ---------------------------------------------------------------------------------

    def logcdf(self, x: Any, theta: Any) -> np.ndarray:
        return self._tail(x, self.vector(theta), False)

    def logsf(self, x: Any, theta: Any) -> np.ndarray:
        return self._tail(x, self.vector(theta), True)

    def _tail(self, x: Any, theta: np.ndarray, upper: bool) -> np.ndarray:
        x = np.floor(np.asarray(x, np.float64))
        values, at = np.unique(x.ravel(), return_inverse=True)
        result = np.empty(len(values))
        least, most = self.support(theta)
        for i, k in enumerate(values):
            if np.isnan(k):
                result[i] = np.nan
            elif k < least or k >= most:
                result[i] = 0.0 if upper == (k < least) else -np.inf
            elif upper:
                result[i] = self._above(k + 1.0, theta)[0][0]
            elif k - least > _FEW and np.isinf(most):
                result[i] = np.log1p(-np.exp(self._above(k + 1.0, theta)[0][0]))
            else:
                result[i] = self._sums(least, k, theta)[0][0]
        return np.minimum(result, 0.0)[at.ravel()].reshape(x.shape)

    def _formula(self, x: Any, theta: np.ndarray, upper: bool, tail: Any) -> np.ndarray:
        """Log of `tail(k)` inside the support, the constants outside of it."""
        k = np.floor(np.asarray(x, np.float64))
        least, most = self.support(theta)
        inside = (k >= least) & (k < most)
        with np.errstate(all="ignore"):
            value = np.log(tail(np.where(inside, k, least)))
        rest = np.where(np.isnan(k), np.nan, np.where((k < least) == upper, 0.0, -np.inf))
        return np.where(inside, np.minimum(value, 0.0), rest)

    def ppf(self, p: Any, theta: Any) -> np.ndarray:
        return self._quantile(p, theta, False)

    def isf(self, p: Any, theta: Any) -> np.ndarray:
        return self._quantile(p, theta, True)

    def _quantile(self, p: Any, theta: Any, upper: bool) -> np.ndarray:
        """The least k with cdf(k) >= p, or sf(k) <= p, by bisection."""
        p, theta = np.asarray(p, np.float64), self.vector(theta)
        given = p.ravel()
        flat = np.where((given > 0.0) & (given < 1.0), given, 0.5)
        least, most = self.support(theta)
        with np.errstate(all="ignore"):
            below, rest = (
                np.log(1.0 - flat if upper else flat),
                np.log(flat if upper else 1.0 - flat),
            )
            by_lower = below < rest
            slack = 1e-13 + 2.5e-16 / np.exp(rest)

            def reached(k: np.ndarray) -> np.ndarray:
                """Whether k is at or above the quantile, with room for rounding."""
                low = self.logcdf(k, theta) >= below - 1e-13
                return np.where(by_lower, low, self.logsf(k, theta) <= rest + slack)

            low, high = np.full(len(flat), least - 1.0), np.full(len(flat), least + 1.0)
            for _ in range(60):
                short = ~reached(high) & (high < most)
                if not short.any():
                    break
                low = np.where(short, high, low)
                high = np.minimum(np.where(short, least + 2.0 * (high - least), high), most)
            while (high - low > 1.0).any():
                middle = np.floor(0.5 * (low + high))
                hit = reached(middle)
                low, high = (
                    np.where(hit, low, np.minimum(middle, high - 1.0)),
                    np.where(hit, middle, high),
                )
        end = 0.0 if upper else 1.0
        result = np.where(given == 1.0 - end, least - 1.0, high)
        result = np.where(given == end, most, result)
        return np.where((given >= 0.0) & (given <= 1.0), result, np.nan).reshape(p.shape)

    def rvs(self, theta: Any, size: Any = None, random_state: Any = None) -> np.ndarray:
        random = np.random.default_rng(random_state)
        return np.asarray(self.sample(random, self.vector(theta), size), np.float64)
