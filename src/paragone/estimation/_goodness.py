r"""Goodness of fit after estimation: distances of distribution functions, and their bootstrap.

With $F_n$ the weighted empirical distribution function and F the fitted one,

$$ D = \sup |F_n - F|, \qquad W^2 = n \int (F_n - F)^2 dF, \qquad
   A^2 = n \int \frac{(F_n - F)^2}{F (1 - F)} dF . $$

Between two observations $F_n$ is a constant c, and the integrals have primitives in u = F:
$(u - c)^3 / 3$, and $c^2 \log u - (1 - c)^2 \log(1 - u) - u$ with both logarithms taken from the
tails themselves.

Tables of these statistics hold for a law known beforehand. A fitted law lies nearer to the data
than the true one, so such a table would hardly ever reject (Lilliefors 1967). The parametric
bootstrap has no such error: data are drawn from the fitted law, *the law is fitted again to each
draw*, and

$$ p = \frac{1 + \#\{T^*_b \ge T\}}{B + 1} . $$

Cost: one fit a draw, begun at the fitted parameters.

References:
    Anderson and Darling (1954), "A test of goodness of fit".
    Stute, Gonzalez Manteiga and Presedo Quindimil (1993), "Bootstrap based goodness-of-fit tests".
    Davison and Hinkley (1997), "Bootstrap methods and their application", eq. 4.11.

Shapes: n observations, B draws.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from paragone.estimation._fit import Fit
from paragone.estimation._likelihood import Problem
from paragone.estimation._observations import Observations
from paragone.estimation._search import climb, search
from paragone.estimation.families._family import Family
from paragone.kernels.jit import njit

__all__ = ["STATISTICS", "bootstrap_p", "statistics"]

STATISTICS = {"ks": 0, "cvm": 1, "ad": 2}
_MOST_CELLS = 100_000


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _continuous(log_u, log_v, steps, out):
    """(D, W^2, A^2) of sorted observations with log F, log(1 - F) and cumulated weights."""
    n, total = len(log_u), steps[-1]
    greatest = square = ratio = 0.0
    c, u, lu, lv = 0.0, 0.0, -np.inf, 0.0
    for i in range(n + 1):
        # The next end of a constant piece of the empirical function.
        nu, nlu, nlv = 1.0, 0.0, -np.inf
        if i < n:
            nlu, nlv = log_u[i], log_v[i]
            nu = math.exp(nlu)
        greatest = max(greatest, abs(c - u), abs(c - nu))
        square += ((nu - c) ** 3 - (u - c) ** 3) / 3.0
        piece = u - nu
        if c > 0.0:
            piece += c * c * (nlu - lu)
        if c < 1.0:
            piece -= (1.0 - c) * (1.0 - c) * (nlv - lv)
        ratio += piece
        if i < n:
            c = steps[i] / total if i < n - 1 else 1.0
        u, lu, lv = nu, nlu, nlv
    out[0], out[1], out[2] = greatest, total * square, total * ratio


def _discrete(x: np.ndarray, w: np.ndarray, family: Family, theta: np.ndarray) -> np.ndarray:
    """The same sums over the whole numbers between the least and the greatest observation."""
    first, last = float(x.min()), float(x.max())
    cells = np.unique(x) if last - first > _MOST_CELLS else np.arange(first, last + 1.0)
    total = w.sum()
    at = np.searchsorted(cells, x)
    gap = np.cumsum(np.bincount(at, w, len(cells))) / total - family.cdf(cells, theta)
    f = family.pdf(cells, theta)
    spread = family.cdf(cells, theta) * family.sf(cells, theta)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(spread > 0.0, gap * gap * f / spread, 0.0)
    return np.array([np.abs(gap).max(), total * (gap * gap) @ f, total * ratio.sum()])


def statistics(x: np.ndarray, w: np.ndarray, family: Family, theta: np.ndarray) -> np.ndarray:
    """(D, W^2, A^2) of observations x (n,) in ascending order with weights w (n,)."""
    if family.discrete:
        return _discrete(x, w, family, theta)
    if family.edges:
        # An observation at an end of the support that it sets says nothing about the shape.
        lower, upper = family.support(theta)
        inside = (x > lower) & (x < upper)
        x, w = x[inside], w[inside]
    # Each observation by the tail that is small there; the other is its complement.
    middle = len(x) // 2
    low, high = 0, len(x)
    while middle < high and low < high:
        half = math.exp(float(family.logcdf(x[middle], theta)))
        if 0.01 < half < 0.99:
            break
        low, high = (middle + 1, high) if half < 0.5 else (low, middle)
        middle = (low + high) // 2
    lower, upper = family.logcdf(x[:middle], theta), family.logsf(x[middle:], theta)
    out = np.empty(3)
    with np.errstate(divide="ignore"):
        log_u = np.concatenate((lower, np.log1p(-np.exp(upper))))
        log_v = np.concatenate((np.log1p(-np.exp(lower)), upper))
    _continuous(log_u, log_v, np.cumsum(w), out)
    return out


def _refit(family: Family, x: np.ndarray, known: dict[str, float], theta: np.ndarray) -> np.ndarray:
    """All parameters fitted to a draw, the search beginning at theta."""
    empty = np.zeros(0)
    seen = Observations(x, np.ones(len(x)), empty, empty, empty, discrete=family.discrete)
    problem = Problem(family, seen, {**known, **family.edge_values(x, known)})
    if not problem.free:
        return problem.full(empty)
    if problem.data is not None:
        full = family.closed_form(problem.data)
        if full is not None:
            return full
    if not (family.unbounded and "loc" in problem.free) and not family.kinks:
        first = theta[[family.names.index(name) for name in problem.free]]
        if np.isfinite(problem.loglik(first)):
            end = climb(problem, first)
            if end.converged:
                return problem.full(problem.from_unconstrained(end.u)[0])
    return problem.full(search(problem).theta)


def bootstrap_p(
    fitted: Fit, observed: float, which: int, known: dict[str, float], draws: int, random: Any
) -> tuple[float, int]:
    """P-value of one statistic, and how many draws gave one.

    Args:
        fitted: The fit.
        observed: The statistic of the data.
        which: Which of the three, see `STATISTICS`.
        known: Parameters that were not estimated.
        draws: B.
        random: A `numpy.random.Generator`.
    """
    family = fitted.family
    theta = np.array([fitted.params[name] for name in family.names])
    n = int(fitted.n)
    ones = np.ones(n)
    above = made = 0
    for _ in range(draws):
        x = np.sort(np.asarray(family.rvs(theta, n, random), np.float64))
        with np.errstate(all="ignore"):
            value = statistics(x, ones, family, _refit(family, x, known, theta))[which]
        if not math.isfinite(value):
            continue
        made += 1
        above += bool(value >= observed)
    return ((1.0 + above) / (made + 1.0) if made else math.nan), made
