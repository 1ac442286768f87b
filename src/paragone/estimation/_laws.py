r"""Distributions of one number as results: posteriors, predictives, marginals.

A `Law` is a density, a distribution function, its inverse and a sampler; intervals follow:
equal-tailed from two quantiles, and the shortest one, which for a density with one peak holds the
points of highest density, $f(a) = f(b)$, $F(b) - F(a) = \text{level}$.

The continuous laws here come from three: a power of a gamma variable ($X = Y^p$: gamma, inverse
gamma, chi, scale of a normal), beta, and the location-scale normal and t.

References:
    Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., appendix A.
    Hyndman (1996), "Computing and graphing highest density regions", section 2.

Shapes: functions take and return arrays of any shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special
from scipy.optimize import brentq

from paragone._core.random import RandomState, as_generator

__all__ = [
    "Law", "beta", "changed", "counts", "from_draws", "gamma_power", "integrated", "normal",
    "searched", "student_t",
]  # fmt: skip

Real = tuple[float, float]
_EDGE = 1e-12
_MOST = 1 << 24


@dataclass(frozen=True)
class Law:
    """A distribution of one number, continuous or on the whole numbers.

    Attributes:
        name: What it is, such as "gamma".
        support: Least and greatest value.
        log_density: Log density, or log probability of a whole number.
        cumulative: Probability of at most x.
        inverse: Quantile function.
        draw: `(generator, size)` to draws.
        moments: Returns (mean, variance); inf or NaN where they are not finite.
        peak: Point of highest density; NaN if it is not unique.
        discrete: Whether it lives on whole numbers.
    """

    name: str
    support: Real
    log_density: Callable[[np.ndarray], np.ndarray]
    cumulative: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]
    draw: Callable[[np.random.Generator, Any], np.ndarray]
    moments: Callable[[], Real]
    peak: float = math.nan
    discrete: bool = False

    def __repr__(self) -> str:
        return f"Law({self.name}, mean={self.mean:.6g}, sd={self.sd:.6g})"

    @cached_property
    def _moments(self) -> Real:
        return self.moments()

    @property
    def mean(self) -> float:
        """Mean; inf if it diverges, NaN if there is none."""
        return float(self._moments[0])

    @property
    def var(self) -> float:
        """Variance; inf if it diverges, NaN if there is none."""
        return float(self._moments[1])

    @property
    def sd(self) -> float:
        """Standard deviation."""
        return math.sqrt(self.var)

    @property
    def mode(self) -> float:
        """Point of highest density; NaN if it is not unique."""
        return float(self.peak)

    @property
    def median(self) -> float:
        """Median."""
        return float(self.quantile(0.5))

    def logpdf(self, x: Any) -> Any:
        """Log density at x (of a discrete law: log probability), -inf outside the support."""
        x = np.asarray(x, np.float64)
        low, high = self.support
        inside = (x >= low) & (x <= high)
        if self.discrete:
            inside &= x == np.floor(x)
        start = 0.0 if low == -np.inf else low + 1.0
        start = min(start, high) if self.discrete else _middle(low, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = self.log_density(np.where(inside, x, start))
        return np.where(inside, value, np.where(np.isnan(x), np.nan, -np.inf))[()]

    logpmf = logpdf

    def pdf(self, x: Any) -> Any:
        """Density at x (of a discrete law: probability)."""
        return np.exp(self.logpdf(x))

    pmf = pdf

    def cdf(self, x: Any) -> Any:
        """Probability of at most x."""
        x = np.asarray(x, np.float64)
        low, high = self.support
        if self.discrete:
            x = np.floor(x)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            value = self.cumulative(np.clip(x, low, high))
        return np.where(x < low, 0.0, np.where(x >= high, 1.0, value))[()]

    def quantile(self, q: Any) -> Any:
        """Least x with `cdf(x) >= q`.

        Raises:
            ValueError: q is outside [0, 1].
        """
        q = np.asarray(q, np.float64)
        if not ((q >= 0) & (q <= 1)).all():
            raise ValueError(f"quantile {q} is no probability: use 0 to 1")
        low, high = self.support
        inner = (q > 0) & (q < 1)
        value = self.inverse(np.where(inner, q, 0.5))
        return np.where(inner, value, np.where(q <= 0, low, high))[()]

    def interval(self, level: float = 0.95, kind: str = "hpd") -> Real:
        """Interval that holds `level` of the probability.

        Args:
            level: Between 0 and 1, open.
            kind: "hpd", the shortest one (highest density, if there is one peak), or
                "equal_tailed".

        Returns:
            (low, high). Of a discrete law both ends belong to it, and it holds at least `level`.
        """
        if not 0 < level < 1:
            raise ValueError(f"level={level} must lie between 0 and 1, such as 0.95")
        if kind == "equal_tailed":
            low, high = self.quantile([(1 - level) / 2, (1 + level) / 2])
            return float(low), float(high)
        if kind != "hpd":
            raise ValueError(f"kind={kind!r} is none of 'hpd', 'equal_tailed'")
        return self._shortest_count(level) if self.discrete else self._shortest(level)

    def _shortest(self, level: float) -> Real:
        def gap(p: float) -> float:
            left, right = self.logpdf(self.quantile([p, p + level]))
            return left - right

        p = (1 - level) * np.linspace(0, 1, 101)
        low, high = self.quantile(p), self.quantile(np.minimum(p + level, 1.0))
        at = int(np.argmin(high - low))
        left, right = p[max(at - 1, 0)] + _EDGE, p[min(at + 1, 100)] - _EDGE
        if gap(left) < 0 < gap(right):
            best: Any = brentq(gap, left, right, xtol=1e-14)
            ends = self.quantile([best, best + level])
            return float(ends[0]), float(ends[1])
        return float(low[at]), float(high[at])

    def _shortest_count(self, level: float) -> Real:
        start = int(self.mode) if math.isfinite(self.mode) else int(self.median)
        low = high = start
        held = float(self.pmf(start))
        left, right = float(self.pmf(low - 1)), float(self.pmf(high + 1))
        while held < level and (left > 0 or right > 0):
            if left >= right:
                low, held = low - 1, held + left
                left = float(self.pmf(low - 1))
            else:
                high, held = high + 1, held + right
                right = float(self.pmf(high + 1))
        return float(low), float(high)

    def rvs(self, size: Any = None, random_state: RandomState = None) -> Any:
        """Draws; one number, or an array of shape `size`."""
        return self.draw(as_generator(random_state), size)


def _middle(low: float, high: float) -> float:
    if math.isinf(low):
        return 0.0 if math.isinf(high) else high - 1.0
    return low + 1.0 if math.isinf(high) else (low + high) / 2


def gamma_power(shape: float, rate: float, power: float = 1.0) -> Law:
    r"""Law of $Y^p$ with $Y$ gamma of a shape and a rate; $p = -1$ is the inverse gamma."""
    a, b, p = float(shape), float(rate), float(power)
    norm = a * math.log(b) - special.gammaln(a) - math.log(abs(p))

    def log_density(x: np.ndarray) -> np.ndarray:
        return norm + special.xlogy(a / p - 1, x) - b * x ** (1 / p)

    def cumulative(x: np.ndarray) -> np.ndarray:
        y = b * x ** (1 / p)
        return special.gammainc(a, y) if p > 0 else special.gammaincc(a, y)

    def inverse(q: np.ndarray) -> np.ndarray:
        return ((special.gammaincinv if p > 0 else special.gammainccinv)(a, q) / b) ** p

    def moment(k: float) -> float:
        if a + k * p <= 0:
            return math.inf
        return math.exp(special.gammaln(a + k * p) - special.gammaln(a) - k * p * math.log(b))

    def moments() -> Real:
        if p == 1:
            return a / b, a / b**2
        mean, square = moment(1), moment(2)
        if p == -1 and a > 2:
            return mean, mean**2 / (a - 2)
        return mean, square - mean**2 if math.isfinite(square) else math.inf

    names = {1.0: "gamma", -1.0: "inverse gamma", -0.5: "root of an inverse gamma"}
    peak = ((a - p) / b) ** p if a > p else 0.0
    return Law(
        names.get(p, f"gamma to the power {p:g}"), (0.0, math.inf), log_density, cumulative,
        inverse, lambda rng, size: rng.gamma(a, 1 / b, size) ** p, moments, peak,
    )  # fmt: skip


def beta(a: float, b: float) -> Law:
    """Beta law on (0, 1)."""
    norm, total = special.betaln(a, b), a + b
    if a > 1 and b > 1:
        peak = (a - 1) / (total - 2)
    else:
        peak = math.nan if (a < 1 and b < 1) or a == b else (0.0 if a < b else 1.0)
    return Law(
        "beta", (0.0, 1.0),
        lambda x: special.xlogy(a - 1, x) + special.xlog1py(b - 1, -x) - norm,
        lambda x: special.betainc(a, b, x), lambda q: special.betaincinv(a, b, q),
        lambda rng, size: rng.beta(a, b, size),
        lambda: (a / total, a * b / (total**2 * (total + 1))), peak,
    )  # fmt: skip


def normal(mean: float, variance: float) -> Law:
    """Normal law of a mean and a variance."""
    sd = math.sqrt(variance)
    norm = -0.5 * math.log(2 * math.pi * variance)
    return Law(
        "normal", (-math.inf, math.inf), lambda x: norm - 0.5 * ((x - mean) / sd) ** 2,
        lambda x: special.ndtr((x - mean) / sd), lambda q: mean + sd * special.ndtri(q),
        lambda rng, size: rng.normal(mean, sd, size), lambda: (mean, variance), mean,
    )  # fmt: skip


def student_t(df: float, loc: float, scale: float) -> Law:
    """Student's t of degrees of freedom, location and scale."""
    norm = special.gammaln((df + 1) / 2) - special.gammaln(df / 2)
    norm -= 0.5 * math.log(df * math.pi) + math.log(scale)

    def moments() -> Real:
        var = scale**2 * df / (df - 2) if df > 2 else math.inf if df > 1 else math.nan
        return (loc if df > 1 else math.nan), var

    return Law(
        "t", (-math.inf, math.inf),
        lambda x: norm - (df + 1) / 2 * np.log1p(((x - loc) / scale) ** 2 / df),
        lambda x: special.stdtr(df, (x - loc) / scale),
        lambda q: loc + scale * special.stdtrit(df, q),
        lambda rng, size: loc + scale * rng.standard_t(df, size), moments, loc,
    )  # fmt: skip


def changed(
    law: Law, name: str, support: Real, into: Callable[[np.ndarray], np.ndarray],
    back: Callable[[np.ndarray], np.ndarray], log_slope: Callable[[np.ndarray], np.ndarray],
    moments: Callable[[], Real], peak: float = math.nan,
) -> Law:  # fmt: skip
    """Law of `back(Y)` for an increasing `back`; `into` is its inverse, with log derivative."""
    return Law(
        name, support, lambda x: law.log_density(into(x)) + log_slope(x),
        lambda x: law.cumulative(into(x)), lambda q: back(law.inverse(q)),
        lambda rng, size: back(law.draw(rng, size)), moments, peak,
    )  # fmt: skip


def integrated(
    log_density: Callable[[np.ndarray], np.ndarray], low: float, high: float, panels: int = 400
) -> Callable[[np.ndarray], np.ndarray]:
    """Integral from `low` of a density on [low, high], by ten Gauss nodes a panel."""
    nodes, weights = np.polynomial.legendre.leggauss(10)
    width = (high - low) / panels

    def part(start: np.ndarray, length: Any) -> np.ndarray:
        x = start[..., None] + 0.5 * np.asarray(length)[..., None] * (nodes + 1)
        return 0.5 * length * (np.exp(log_density(x)) @ weights)

    whole = np.concatenate([[0.0], np.cumsum(part(low + width * np.arange(panels), width))])

    def cumulative(x: np.ndarray) -> np.ndarray:
        x = np.clip(np.asarray(x, np.float64), low, high)
        at = np.minimum(((x - low) / width).astype(np.int64), panels - 1)
        start = low + width * at
        return np.minimum(whole[at] + part(start, x - start), 1.0)

    return cumulative


def searched(cumulative: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> Any:
    """Quantile function by bisection of a distribution function on [low, high]."""

    def inverse(q: np.ndarray) -> np.ndarray:
        q = np.asarray(q, np.float64)
        a, b = np.full(q.shape, low), np.full(q.shape, high)
        for _ in range(100):
            middle = 0.5 * (a + b)
            below = cumulative(middle) < q
            a, b = np.where(below, middle, a), np.where(below, b, middle)
        return 0.5 * (a + b)

    return inverse


def counts(
    name: str, support: Real, log_probability: Callable[[np.ndarray], np.ndarray],
    draw: Callable[[np.random.Generator, Any], np.ndarray], moments: Callable[[], Real],
    cumulative: Callable[[np.ndarray], np.ndarray] | None = None, peak: float | None = None,
) -> Law:  # fmt: skip
    """Law on whole numbers; without a distribution function its probabilities are summed up."""
    low = int(support[0])

    def table(most: float) -> np.ndarray:
        if most - low > _MOST:
            raise ValueError(
                f"{name}: the sum up to {most:.3g} is longer than {_MOST} terms: ask nearer"
            )
        return np.cumsum(np.exp(log_probability(np.arange(low, most + 1, dtype=np.float64))))

    def summed(x: np.ndarray) -> np.ndarray:
        held = table(float(np.max(x)))
        return held[(np.asarray(x) - low).astype(np.int64)]

    total = cumulative or summed

    def inverse(q: np.ndarray) -> np.ndarray:
        q = np.asarray(q, np.float64)
        step = 1
        most = float(np.max(q))
        while low + step < support[1] and total(np.asarray(float(low + step))) < most:
            step *= 2
        a, b = np.full(q.shape, low - 1), np.full(q.shape, int(min(low + step, support[1])))
        while (b - a > 1).any():
            middle = (a + b) // 2
            below = total(np.maximum(middle, low).astype(np.float64)) < q * (1 - 1e-14)
            below |= middle < low
            a, b = np.where(below, middle, a), np.where(below, b, middle)
        return b.astype(np.float64)

    if peak is None:
        peak = math.nan
    return Law(name, support, log_probability, total, inverse, draw, moments, peak, discrete=True)


def from_draws(draws: np.ndarray, discrete: bool = False) -> Law:
    """Law of draws (n,): empirical quantiles; density by a kernel of Silverman's width."""
    ordered = np.sort(np.asarray(draws, np.float64))
    n = len(ordered)
    spread = ordered.std()
    quarter = (ordered[int(0.75 * (n - 1))] - ordered[int(0.25 * (n - 1))]) / 1.349
    width = 0.9 * (min(spread, quarter) or spread or 1.0) * n**-0.2

    def log_density(x: np.ndarray) -> np.ndarray:
        if discrete:
            hits = np.searchsorted(ordered, x, "right") - np.searchsorted(ordered, x, "left")
            return np.log(hits / n)
        z = (np.asarray(x)[..., None] - ordered[:: max(1, n // 4000)]) / width
        log = np.asarray(special.logsumexp(-0.5 * z * z, axis=-1)) - math.log(z.shape[-1])
        return log - math.log(width * math.sqrt(2 * math.pi))

    return _Empirical(
        "draws", (float(ordered[0]), float(ordered[-1])), log_density,
        lambda x: np.searchsorted(ordered, x, "right") / n,
        lambda q: np.quantile(ordered, q, method="inverted_cdf" if discrete else "linear"),
        lambda rng, size: rng.choice(ordered, size),
        lambda: (float(ordered.mean()), float(ordered.var(ddof=1))), math.nan, discrete,
        ordered,
    )  # fmt: skip


@dataclass(frozen=True, repr=False)
class _Empirical(Law):
    """Draws: the shortest interval is the shortest run of ordered draws that holds enough."""

    ordered: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def _shortest(self, level: float) -> Real:
        n = len(self.ordered)
        held = min(n - 1, math.ceil(level * n))
        at = int(np.argmin(self.ordered[held:] - self.ordered[: n - held]))
        return float(self.ordered[at]), float(self.ordered[at + held])

    _shortest_count = _shortest

    @property
    def mode(self) -> float:
        """Middle of the shortest interval that holds a tenth of the draws: a rough mode."""
        low, high = self._shortest(0.1)
        return (low + high) / 2
