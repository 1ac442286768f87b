r"""Log masses of windows of a standard density, and how they change with its shapes.

For a window $(a, b)$ of the standard law with log density $h(t; s)$, the log mass
$L = \log \int_a^b e^{h}\,dt$ has, with the mean over the window $E[g] = \int_a^b g\, e^{h - L} dt$,

$$ L_s = E[h_s], \qquad L_{st} = E[h_{st} + h_s h_t] - L_s L_t . $$

These hold in the farthest tail, since nothing is subtracted from 1. The means are integrals by
Gauss-Legendre panels in a coordinate y in which tails are smooth ($t = \sinh y$ on the line,
$e^y$ above a bound), cut at quantiles, one decade of probability or a few to a panel.

Cost: some thousand evaluations of h a call, and 40 a window.

Shapes: m windows, k shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["log_mass", "narrow", "shape_derivatives"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_DECADES = np.concatenate((np.arange(1.0, 17.0), np.arange(20.0, 301.0, 4.0)))
_TAIL = 10.0**-_DECADES
_MIDDLE = np.array([0.25, 0.5])


def log_mass(
    a: np.ndarray,
    b: np.ndarray,
    logcdf: Callable[..., np.ndarray],
    logsf: Callable[..., np.ndarray],
    log_density: Callable[..., np.ndarray],
) -> np.ndarray:
    """Log of the mass of (a, b], each (m,), by the tail in which both ends are small numbers."""
    below_a, below_b, above_a, above_b = logcdf(a), logcdf(b), logsf(a), logsf(b)
    upper = above_a < below_a
    large = np.where(upper, above_a, below_b)
    small = np.where(upper, above_b, below_a)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = small - large
        result = large + np.log(-np.expm1(gap))
    result[np.isnan(result)] = -np.inf
    # The difference of two almost equal masses has no digits; the density between them has.
    narrow = np.isfinite(a) & np.isfinite(b) & (a < b) & ~(gap < -0.02)
    if narrow.any():
        middle, half = (a[narrow] + b[narrow]) / 2, (b[narrow] - a[narrow]) / 2
        h = log_density((middle[:, None] + half[:, None] * _NODES).ravel()).reshape(-1, 20)
        peak = h.max(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = peak + np.log(np.exp(h - peak[:, None]) @ _WEIGHTS * half)
        result[narrow] = np.where(np.isfinite(inside), inside, result[narrow])
    return result


def narrow(
    pointwise: Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]],
    lower: np.ndarray,
    upper: np.ndarray,
    theta: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log mass, score and Hessian of windows within which the density hardly changes.

    They are means over nodes in x, which do not move with theta, so that nothing cancels.

    Args:
        pointwise: Log f of each x with score and Hessian.
        lower: Lower ends (m,), finite.
        upper: Upper ends (m,), finite.
        theta: Parameters (p,).
    """
    half = (upper - lower) / 2
    x = (lower + half)[:, None] + half[:, None] * _NODES
    value, score, hessian = pointwise(x.ravel(), theta)
    p = score.shape[1]
    value, score = value.reshape(x.shape), score.reshape(*x.shape, p)
    peak = value.max(axis=1, keepdims=True)
    share = np.exp(value - peak) * _WEIGHTS
    total = share.sum(axis=1, keepdims=True)
    share /= total
    first = np.einsum("mn,mnp->mp", share, score)
    spread = score - first[:, None, :]
    second = np.einsum("mn,mnpq->mpq", share, hessian.reshape(*x.shape, p, p))
    second += np.einsum("mn,mnp,mnq->mpq", share, spread, spread)
    return (peak + np.log(total))[:, 0] + np.log(half), first, second


def _coordinate(lower: float, upper: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Functions t -> y and y -> (t, log dt/dy)."""
    if np.isfinite(lower) and np.isfinite(upper):
        width = upper - lower

        def logistic(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            log_p, log_q = -np.logaddexp(0.0, -y), -np.logaddexp(0.0, y)
            return lower + width * np.exp(log_p), np.log(width) + log_p + log_q

        return lambda t: np.log(t - lower) - np.log(upper - t), logistic
    if np.isfinite(lower):
        return lambda t: np.log(t - lower), lambda y: (lower + np.exp(y), y)
    if np.isfinite(upper):
        return lambda t: -np.log(upper - t), lambda y: (upper - np.exp(-y), -y)
    return np.arcsinh, lambda y: (np.sinh(y), np.log(np.cosh(y)))


def shape_derivatives(
    a: np.ndarray,
    b: np.ndarray,
    mass: np.ndarray,
    support: tuple[float, float],
    ppf: Callable[..., np.ndarray],
    isf: Callable[..., np.ndarray],
    jets: Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """(L_s (m, k), L_st (m, k, k)) of windows (a, b).

    Args:
        a: Lower ends, at or above the lower end of the support.
        b: Upper ends, likewise.
        mass: Their log masses (m,).
        support: Ends of the support.
        ppf: Quantile function of the standard law.
        isf: Quantile of 1 - p.
        jets: t (n,) -> h (n,), h_s (n, k), h_st (n, k, k), constants included.
    """
    to_y, from_y = _coordinate(*support)
    with np.errstate(all="ignore"):
        # What lies e^-50 times deeper than the smallest window adds nothing to its means.
        tail = _TAIL[_DECADES * np.log(10.0) < 55.0 - mass.min()]
        low, high = ppf(np.append(tail[::-1], _MIDDLE)), isf(np.append(0.25, tail))
        cuts = to_y(np.concatenate((low, high)))
        cuts = np.unique(cuts[np.isfinite(cuts)])
        start, stop = to_y(a), to_y(b)
    if not len(cuts):
        # A shape so extreme that no quantile is finite: nothing can be said of its slopes.
        return np.full(1, np.nan), np.full(1, np.nan)
    # An end at the end of the support stands for the outermost quantile.
    start = np.where(np.isfinite(start), start, np.minimum(cuts[0], stop))
    stop = np.where(np.isfinite(stop), stop, np.maximum(cuts[-1], start))
    cuts = cuts[np.searchsorted(cuts, start.min()) : np.searchsorted(cuts, stop.max(), "right")]

    def integrals(left: np.ndarray, right: np.ndarray, scale: Any) -> np.ndarray:
        """Integrals of e^(h - scale) (1, h_s, h_st + h_s h_t), (panels, 1 + k + k^2)."""
        half = (right - left) / 2
        y = ((left + right) / 2)[:, None] + half[:, None] * _NODES
        t, slope = from_y(y)
        h, hs, hst = jets(t.ravel())
        k = hs.shape[1]
        h = h.reshape(y.shape) + slope
        scale = h.max(axis=1) if scale is None else scale
        g = np.exp(np.minimum(h - np.reshape(scale, (-1, 1)), 700.0))
        g *= _WEIGHTS * half[:, None]
        second = (hst + hs[:, :, None] * hs[:, None, :]).reshape(-1, k * k)
        values = np.column_stack((np.ones(len(hs)), hs, second))
        values[~np.isfinite(values)] = 0.0
        return np.einsum("ij,ijk->ik", g, values.reshape(*y.shape, -1))

    first = np.searchsorted(cuts, start)
    last = np.searchsorted(cuts, stop, "right") - 1
    within = last < first
    total = integrals(start, np.where(within, stop, cuts[np.minimum(first, len(cuts) - 1)])
                      if len(cuts) else stop, mass)  # fmt: skip
    if not within.all():
        some = np.flatnonzero(~within)
        total[some] += integrals(cuts[last[some]], stop[some], mass[some])
        panels = integrals(cuts[:-1], cuts[1:], 0.0) if len(cuts) > 1 else total[:0]
        runs = np.zeros((len(cuts), len(cuts), total.shape[1]))
        for i in range(len(cuts) - 1):
            runs[i, i + 1 :] = np.cumsum(panels[i:], axis=0)
        total[some] += (
            runs[first[some], last[some]] * np.exp(np.minimum(-mass[some], 700.0))[:, None]
        )
    empty = ~(total[:, 0] > 0.0)
    if empty.any():
        # Deeper than numbers go the mass sits at the near end.
        total[empty] = integrals(start[empty], start[empty] + 1e-3, None)
    mean = total[:, 1:] / total[:, :1]
    k = int((np.sqrt(4 * mean.shape[1] + 1) - 1) / 2 + 0.5)
    ls = mean[:, :k]
    return ls, mean[:, k:].reshape(-1, k, k) - ls[:, :, None] * ls[:, None, :]
