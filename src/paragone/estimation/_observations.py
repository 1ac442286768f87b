"""Reads observations: exact, censored, weighted, truncated.

What one row says is either a value or a window (lower, upper] that holds the value. Rows that say
the same are merged and their weights added, so that a test stopped at one time is one window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["Observations", "read"]

_CODES = {"none": 0, "exact": 0, "right": 1, "left": -1, "interval": 2}


@dataclass
class Observations:
    """Weighted observations.

    Attributes:
        x: Exact values (n,), sorted only by chance.
        w: Their weights (n,), positive.
        lower: Lower ends of windows (m,), -inf for left censoring.
        upper: Upper ends (m,), inf for right censoring.
        window_w: Weights of the windows (m,).
        truncation: The window within which anything could be observed, (-inf, inf) for all.
        discrete: Whether values are whole, so that a window (a, b] begins below the value a.
    """

    x: np.ndarray
    w: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    window_w: np.ndarray
    truncation: tuple[float, float] = (-np.inf, np.inf)
    discrete: bool = False

    @cached_property
    def n(self) -> float:
        """Sum of all weights."""
        return float(self.w.sum() + self.window_w.sum())

    @property
    def truncated(self) -> bool:
        """Whether part of the law could not be observed."""
        return self.truncation != (-np.inf, np.inf)

    @property
    def censored(self) -> bool:
        """Whether any observation is a window."""
        return bool(len(self.lower))

    def truncation_window(self) -> tuple[np.ndarray, np.ndarray]:
        """The window of truncation as (lower (1,), upper (1,)); both ends could be observed."""
        low, high = self.truncation
        return np.array([np.ceil(low) - 1.0 if self.discrete else low]), np.array([high])

    def windows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(lower, upper, weight) of all windows; truncation is one that counts -n times."""
        if not self.truncated:
            return self.lower, self.upper, self.window_w
        low, high = self.truncation_window()
        return (
            np.concatenate((self.lower, low)), np.concatenate((self.upper, high)),
            np.append(self.window_w, -self.n),
        )  # fmt: skip

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest exact value; (inf, -inf) if there is none."""
        if not len(self.x):
            return np.inf, -np.inf
        return float(self.x.min()), float(self.x.max())

    def extent(self) -> tuple[float, float]:
        """The least and the greatest value that is sure to have mass at it or beyond it."""
        low, high = self.ends
        if self.censored:
            low = min([low, *self.upper[np.isfinite(self.upper)].tolist()])
            high = max([high, *self.lower[np.isfinite(self.lower)].tolist()])
        return low, high

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """A value for each row, from which starting values are made, and its weight."""
        if not self.censored:
            return self.x, self.w
        low, high = self.lower, self.upper
        with np.errstate(invalid="ignore"):
            middle = np.where(
                np.isneginf(low), high, np.where(np.isposinf(high), low, low / 2 + high / 2)
            )
        some = np.isfinite(middle)
        weights = np.concatenate((self.w, self.window_w[some]))
        return np.concatenate((self.x, middle[some])), weights


def _column(values: Any, name: str, finite: bool = True) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {array.dtype}, not numbers: convert it to floats")
    array = np.ascontiguousarray(array, np.float64)
    if array.ndim != 1:
        raise ValueError(
            f"{name} has the shape {array.shape}: give one column; intervals are a tuple "
            "(lower, upper)"
        )
    if not np.isfinite(array.sum()):
        bad = ~np.isfinite(array) if finite else np.isnan(array)
        if not bad.any():
            return array
        at = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{name}[{at}]={array[at]} is no number to fit: drop it or impute it")
    return array


def _weights(weights: Any, rows: int) -> np.ndarray:
    if weights is None:
        return np.ones(rows)
    w = _column(weights, "weights")
    if len(w) != rows:
        raise ValueError(f"weights has {len(w)} values for {rows} rows: give one for each")
    if (w < 0).any():
        raise ValueError(f"weights has {w.min()}: a weight counts rows, use 0 or more")
    if not w.any():
        raise ValueError("weights are all 0: nothing is left to fit, give at least one above 0")
    return w


def _codes(censoring: Any, rows: int) -> np.ndarray:
    names = np.asarray(censoring)
    if names.dtype.kind in "OUS":
        strange = sorted({str(name) for name in names.ravel()} - set(_CODES))
        if strange:
            raise ValueError(f"censoring={strange[0]!r} is none of {', '.join(_CODES)}")
        codes = np.array([_CODES[str(name)] for name in names.ravel()])
    elif names.dtype.kind == "b":
        codes = names.astype(np.int64)
    else:
        codes = _column(names, "censoring")
        if not np.isin(codes, (-1, 0, 1, 2)).all():
            raise ValueError("censoring has codes beyond -1 left, 0 exact, 1 right, 2 interval")
    if codes.shape != (rows,):
        raise ValueError(f"censoring has the shape {codes.shape} for {rows} rows: one for each")
    return codes


def _ends(data: Any, censoring: Any, upper: Any) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) of each row; equal for exact values."""
    if hasattr(data, "_uncensored") and hasattr(data, "_interval"):
        exact, left = np.asarray(data._uncensored, float), np.asarray(data._left, float)
        right, between = np.asarray(data._right, float), np.asarray(data._interval, float)
        between = between.reshape(-1, 2)
        low = np.concatenate((exact, np.full(len(left), -np.inf), right, between[:, 0]))
        high = np.concatenate((exact, left, np.full(len(right), np.inf), between[:, 1]))
        return _column(low, "data", False), _column(high, "data", False)
    if isinstance(data, tuple):
        if len(data) != 2 or censoring is not None:
            raise ValueError("data as a tuple is (lower, upper) of intervals, without censoring=")
        low, high = _column(data[0], "lower", False), _column(data[1], "upper", False)
    else:
        low = _column(data, "data")
        high = low
        if censoring is not None:
            codes = _codes(censoring, len(low))
            ends = low if upper is None else _column(upper, "upper", False)
            if (codes == 2).any() and upper is None:
                raise ValueError("interval censoring needs upper=, the upper ends of the intervals")
            if len(ends) != len(low):
                raise ValueError(f"upper has {len(ends)} values for {len(low)} rows: one for each")
            high = np.where(codes == 2, ends, np.where(codes == 1, np.inf, low))
            low = np.where(codes == -1, -np.inf, low)
        elif upper is not None:
            raise ValueError("upper= belongs to interval censoring: give censoring= as well")
    if len(low) != len(high):
        raise ValueError(f"{len(low)} lower and {len(high)} upper ends: give one of each a row")
    if low is not high and (low > high).any():
        at = int(np.flatnonzero(low > high)[0])
        raise ValueError(f"row {at} is the interval ({low[at]}, {high[at]}]: swap its ends")
    return low, high


def _truncation(truncation: Any, low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    if truncation is None:
        return -np.inf, np.inf
    if np.shape(truncation) != (2,):
        raise ValueError(f"truncation={truncation} is not (lower, upper); None is no bound")
    first = -np.inf if truncation[0] is None else float(truncation[0])
    last = np.inf if truncation[1] is None else float(truncation[1])
    if not first < last:
        raise ValueError(f"truncation=({first}, {last}) is empty: the lower end comes first")
    outside = (high < first) | (low > last)
    if outside.any():
        at = int(np.flatnonzero(outside)[0])
        row = low[at] if low[at] == high[at] else f"({low[at]}, {high[at]})"
        raise ValueError(
            f"row {at}, {row}, lies outside truncation=({first}, {last}), where "
            "nothing can be observed: drop it, or censor it instead"
        )
    return first, last


def _exact(
    x: np.ndarray, w: np.ndarray, bounds: tuple[float, float], discrete: bool
) -> Observations:
    if discrete and not (np.floor(x) == x).all():
        strange = x[np.floor(x) != x][0]
        raise ValueError(f"data has {strange}: a discrete family counts, give whole numbers")
    none = np.empty(0)
    return Observations(x, w, none, none, none, bounds, discrete)


def read(
    data: Any,
    *,
    weights: Any = None,
    censoring: Any = None,
    upper: Any = None,
    truncation: Any = None,
    discrete: bool = False,
) -> Observations:
    """Reads what `fit` was given; see there.

    Raises:
        ValueError: There are no rows, or a row cannot be used; it is named.
    """
    low, high = _ends(data, censoring, upper)
    if not len(low):
        raise ValueError("data is empty: fit needs at least one observation")
    w = _weights(weights, len(low))
    bounds = _truncation(truncation, low, high)
    if low is high:
        if weights is not None:
            low, w = low[w > 0], w[w > 0]
        return _exact(low, w, bounds, discrete)
    used = (w > 0) & ~(np.isneginf(low) & np.isposinf(high))
    low, high, w = low[used], high[used], w[used]
    if not len(low):
        raise ValueError("no row says anything: each is (-inf, inf) or has the weight 0")
    exact = low == high
    if not np.isfinite(low[exact]).all():
        raise ValueError("a row is infinite: use (-inf, b) or (a, inf) for a censored value")
    plain = _exact(low[exact], w[exact], bounds, discrete)
    if exact.all():
        return plain
    windows = np.column_stack((low[~exact], high[~exact]))
    lowest = np.ceil(bounds[0]) - 1.0 if discrete else bounds[0]
    windows[:, 0] = np.maximum(windows[:, 0], lowest)
    windows[:, 1] = np.minimum(windows[:, 1], bounds[1])
    kinds, at = np.unique(windows, axis=0, return_inverse=True)
    sums = np.bincount(at.ravel(), w[~exact], len(kinds))
    return Observations(
        plain.x, plain.w, np.ascontiguousarray(kinds[:, 0]), np.ascontiguousarray(kinds[:, 1]),
        sums, bounds, discrete,
    )  # fmt: skip
