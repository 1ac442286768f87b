"""Weighted moments and quantiles, from which starting values are made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["log_above", "mean_and_deviation", "quantiles"]


def mean_and_deviation(
    x: np.ndarray, w: np.ndarray, about: float | None = None
) -> tuple[float, float]:
    """Weighted mean and root mean square distance from it, or both about a known centre."""
    total = w.sum()
    centre = float(w @ x / total) if about is None else float(about)
    if about is None:
        # A second pass takes out what rounding left in the mean.
        centre += float(w @ (x - centre) / total)
    away = x - centre
    return centre, float(np.sqrt(w @ (away * away) / total))


def quantiles(x: np.ndarray, w: np.ndarray, p: Sequence[float]) -> np.ndarray:
    """Weighted quantiles: repeating a row w times gives the same."""
    if w[0] == w[-1] and np.all(w == w[0]):
        ranks = np.ceil(np.asarray(p) * len(x) * (1.0 - 1e-12)).astype(np.int64) - 1
        ranks = np.clip(ranks, 0, len(x) - 1)
        return np.partition(x, np.unique(ranks))[ranks]
    order = np.argsort(x, kind="stable")
    steps = np.cumsum(w[order])
    at = np.searchsorted(steps, np.asarray(p) * steps[-1] * (1.0 - 1e-12), "left")
    return x[order[np.minimum(at, len(x) - 1)]]


def log_above(x: np.ndarray, loc: float) -> np.ndarray:
    """log(x - loc); a censored value at or below loc counts as just above it."""
    away = x - loc
    return np.log(np.maximum(away, 1e-9 * max(float(np.abs(away).max()), 1e-290)))
