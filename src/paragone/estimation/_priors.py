r"""Priors of a fit, one density a parameter: normalised, with first and second derivatives.

A prior is written as `{"loc": ("normal", 0, 10), "scale": ("half_normal", 5)}`: name of a density
and its numbers. Each is cut to the domain of its parameter and normalised there,
$p(\theta) = f(\theta) / (F(b) - F(a))$, so that evidences are comparable.

    normal (mean, sd)          student_t (df, loc, scale)    cauchy (loc, scale)
    half_normal (scale)        half_t (df, scale)            half_cauchy (scale)
    lognormal (mu, sigma)      gamma (shape, rate)           inverse_gamma (shape, scale)
    exponential (rate)         beta (a, b)                   uniform (low, high)
    flat ()                    1 everywhere: no density, and no evidence

References:
    Gelman (2006), "Prior distributions for variance parameters in hierarchical models", section 3,
    for the half-t.
    Gelman, Jakulin, Pittau and Su (2008), "A weakly informative default prior distribution", for
    weak priors in units of the data.

Shapes: p free parameters.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paragone.estimation import _laws
from paragone.estimation._laws import Law

__all__ = ["NAMES", "Prior", "read_prior", "weak"]

Three = tuple[float, float, float]


@dataclass(frozen=True)
class Density:
    """Log density of one parameter with its two derivatives, and its law."""

    slopes: Callable[[float], Three]
    law: Law | None


def _t_slopes(df: float, loc: float, scale: float) -> Callable[[float], Three]:
    law = _laws.student_t(df, loc, scale)

    def slopes(x: float) -> Three:
        z = (x - loc) / scale
        below = df + z * z
        first = -(df + 1) * z / below / scale
        second = -(df + 1) * (df - z * z) / (below * scale) ** 2
        return float(law.log_density(np.asarray(x))), first, second

    return slopes


def _normal(mean: float, sd: float) -> Density:
    norm = -0.5 * math.log(2 * math.pi) - math.log(sd)
    return Density(
        lambda x: (norm - 0.5 * ((x - mean) / sd) ** 2, (mean - x) / sd**2, -(sd**-2)),
        _laws.normal(mean, sd * sd),
    )


def _student(df: float, loc: float, scale: float) -> Density:
    return Density(_t_slopes(df, loc, scale), _laws.student_t(df, loc, scale))


def _gamma(shape: float, rate: float) -> Density:
    norm = shape * math.log(rate) - math.lgamma(shape)
    return Density(
        lambda x: (
            norm + (shape - 1) * math.log(x) - rate * x, (shape - 1) / x - rate, (1 - shape) / x**2
        ),
        _laws.gamma_power(shape, rate),
    )  # fmt: skip


def _inverse_gamma(shape: float, scale: float) -> Density:
    norm = shape * math.log(scale) - math.lgamma(shape)
    return Density(
        lambda x: (
            norm - (shape + 1) * math.log(x) - scale / x, (scale / x - shape - 1) / x,
            (shape + 1 - 2 * scale / x) / x**2,
        ),
        _laws.gamma_power(shape, scale, -1.0),
    )  # fmt: skip


def _lognormal(mu: float, sigma: float) -> Density:
    norm = -0.5 * math.log(2 * math.pi) - math.log(sigma)

    def slopes(x: float) -> Three:
        z = (math.log(x) - mu) / sigma**2
        value = norm - 0.5 * (z * sigma) ** 2 - math.log(x)
        return value, -(1 + z) / x, (1 + z - sigma**-2) / x**2

    law = _laws.changed(
        _laws.normal(mu, sigma**2), "lognormal", (0.0, math.inf), np.log, np.exp,
        lambda x: -np.log(x), lambda: (math.nan, math.nan),
    )  # fmt: skip
    return Density(slopes, law)


def _beta(a: float, b: float) -> Density:
    law = _laws.beta(a, b)

    def slopes(x: float) -> Three:
        first = (a - 1) / x - (b - 1) / (1 - x)
        second = -(a - 1) / x**2 - (b - 1) / (1 - x) ** 2
        return float(law.log_density(np.asarray(x))), first, second

    return Density(slopes, law)


def _uniform(low: float, high: float) -> Density:
    if not low < high:
        raise ValueError(f"a uniform prior on ({low:g}, {high:g}) is empty: use low < high")
    value, width = -math.log(high - low), high - low
    law = Law(
        "uniform", (low, high), lambda x: np.full(np.shape(x), value),
        lambda x: (x - low) / width, lambda q: low + width * q,
        lambda rng, size: rng.uniform(low, high, size), lambda: (low + width / 2, width**2 / 12),
    )  # fmt: skip
    return Density(lambda x: (value if low < x < high else -math.inf, 0.0, 0.0), law)


_DENSITIES: dict[str, tuple[Callable[..., Density], str]] = {
    "normal": (_normal, "r+"),
    "student_t": (_student, "+r+"),
    "cauchy": (lambda loc, scale: _student(1.0, loc, scale), "r+"),
    "half_normal": (lambda scale: _normal(0.0, scale), "+"),
    "half_t": (lambda df, scale: _student(df, 0.0, scale), "++"),
    "half_cauchy": (lambda scale: _student(1.0, 0.0, scale), "+"),
    "lognormal": (_lognormal, "r+"),
    "gamma": (_gamma, "++"),
    "inverse_gamma": (_inverse_gamma, "++"),
    "exponential": (lambda rate: _gamma(1.0, rate), "+"),
    "beta": (_beta, "++"),
    "uniform": (_uniform, "rr"),
    "flat": (lambda: Density(lambda x: (0.0, 0.0, 0.0), None), ""),
}
NAMES = tuple(_DENSITIES)


class Prior:
    """The product of one density a parameter, or a density of all of them.

    Attributes:
        terms: Parameter to (name, numbers), as given; empty for a callable.
        proper: Whether it integrates to one, so that there is an evidence.
    """

    def __init__(
        self, slopes: Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]],
        terms: Mapping[str, tuple[Any, ...]], proper: bool, note: str = "",
    ) -> None:  # fmt: skip
        self.slopes, self.terms, self.proper, self.note = slopes, dict(terms), proper, note

    def __repr__(self) -> str:
        return f"Prior({self.terms or 'a function'})"


def _of(name: str, term: Any, low: float, high: float) -> tuple[Density, float, bool]:
    """(density, log of its mass in the domain, whether it is one)."""
    if isinstance(term, str):
        term = (term,)
    if not isinstance(term, tuple | list) or not term or term[0] not in _DENSITIES:
        word = term[0] if isinstance(term, tuple | list) and term else term
        near = difflib.get_close_matches(str(word), NAMES) or NAMES
        raise ValueError(
            f"the prior of {name} is {term!r}: use (name, numbers) such as ('normal', 0, 10), "
            f"with a name of {', '.join(near)}"
        )
    make, kinds = _DENSITIES[term[0]]
    numbers = [float(value) for value in term[1:]]
    good = len(numbers) == len(kinds) and all(
        math.isfinite(v) and (kind == "r" or v > 0) for v, kind in zip(numbers, kinds, strict=True)
    )
    if not good:
        raise ValueError(
            f"the prior of {name} is {term!r}: {term[0]} takes {len(kinds)} finite numbers, "
            "scales and shapes above 0"
        )
    density = make(*numbers)
    if density.law is None:
        return density, 0.0, math.isfinite(low) and math.isfinite(high)
    start, end = density.law.support
    half = term[0].startswith("half_")
    start = 0.0 if half else start
    low, high = max(low, start), min(high, end)
    mass = float(density.law.cdf(high) - density.law.cdf(low)) if low < high else 0.0
    if not mass > 0:
        raise ValueError(
            f"the prior {term!r} gives no mass to the domain of {name}: take one that does"
        )
    if not half:
        return density, math.log(mass), True

    def slopes(x: float) -> Three:
        return density.slopes(x) if x > 0 else (-math.inf, 0.0, 0.0)

    return Density(slopes, density.law), math.log(mass), True


def read_prior(prior: Any, names: tuple[str, ...], domains: Any) -> Prior:
    """Returns a prior of the free parameters.

    Args:
        prior: A mapping from parameter to (name, numbers), or a function of a dict of values that
            returns (log density, gradient by name or in the order of `names`).
        names: The free parameters.
        domains: Their (lower, upper), by family; not narrowed by data.

    Raises:
        ValueError: A parameter has no prior, or a prior is none.
    """
    if callable(prior):
        return Prior(_from_function(prior, names), {}, True, "a function; taken as normalised")
    if not isinstance(prior, Mapping):
        raise ValueError(
            f"prior={prior!r}: give a dict such as {_example(names)}, a prior of "
            "`conjugate.prior`, 'weak', or a function"
        )
    absent, strange = set(names) - set(prior), set(prior) - set(names)
    if absent or strange:
        what = f"none for {min(absent)}" if absent else f"one for {min(strange)}, which is not free"
        raise ValueError(
            f"the prior has {what}: the free parameters are {', '.join(names)}; fix those that "
            "are known with fixed="
        )
    found = [_of(name, prior[name], *domain) for name, domain in zip(names, domains, strict=True)]
    total = sum(mass for _, mass, _ in found)

    def slopes(theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        rows = np.array([
            each.slopes(x) for (each, _, _), x in zip(found, theta.tolist(), strict=True)
        ]).reshape(-1, 3)  # fmt: skip
        return float(rows[:, 0].sum()) - total, rows[:, 1], np.diag(rows[:, 2])

    terms = {name: _told(prior[name]) for name in names}
    flat = [name for name, (each, _, _) in zip(names, found, strict=True) if each.law is None]
    note = f"flat in {', '.join(flat)}: no evidence" if flat else ""
    return Prior(slopes, terms, not flat, note)


def _told(term: Any) -> tuple[Any, ...]:
    return (term,) if isinstance(term, str) else tuple(term)


def _example(names: tuple[str, ...]) -> str:
    return "{" + ", ".join(f"'{name}': ('normal', 0, 10)" for name in names) + "}"


def _from_function(prior: Callable[..., Any], names: tuple[str, ...]) -> Any:
    """Hessian by central differences of the gradient: it only shapes MAP's steps and errors."""

    def gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = prior(dict(zip(names, theta.tolist(), strict=True)))
        if isinstance(slope, Mapping):
            slope = [slope[name] for name in names]
        slope = np.asarray(slope, np.float64)
        if slope.shape != theta.shape:
            raise ValueError(
                f"the prior's gradient has shape {slope.shape}: return (value, gradient) with one "
                f"slope for each of {', '.join(names)}"
            )
        return float(value), slope

    def slopes(theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        value, slope = gradient(theta)
        hessian = np.zeros((len(theta), len(theta)))
        for i in range(len(theta)):
            step = np.zeros(len(theta))
            step[i] = 1e-5 * max(abs(theta[i]), 1e-3)
            gap = gradient(theta + step)[1] - gradient(theta - step)[1]
            hessian[i] = gap / (2 * step[i])
        return value, slope, (hessian + hessian.T) / 2

    return slopes


def weak(problem: Any) -> dict[str, tuple[Any, ...]]:
    """Weak priors in units of the data: they say little more than the order of magnitude.

    Location-like parameters: normal about the median, ten times the spread. Scales: half-t with 3
    degrees of freedom and ten times the spread. Probabilities: uniform. Shapes, rates and other
    positive parameters: lognormal about 1 (a mean count: about that of the data), sigma 2.
    """
    x, w = problem.observations.points()
    order = np.argsort(x)
    share = np.cumsum(w[order]) / w.sum()
    low, middle, high = (float(x[order][np.searchsorted(share, q)]) for q in (0.25, 0.5, 0.75))
    spread = (high - low) / 1.349 or float(np.std(x)) or abs(middle) or 1.0
    found: dict[str, tuple[Any, ...]] = {}
    domains = {each.name: each for each in problem.family.parameters}
    for name in problem.free:
        lower, upper = domains[name].lower, domains[name].upper
        if math.isfinite(lower) and math.isfinite(upper):
            found[name] = ("uniform", lower, upper)
        elif not math.isfinite(lower):
            log = name == "mu"
            place = math.log(middle) if log and middle > 0 else middle
            found[name] = ("normal", place, 10.0 if log else 10 * spread)
        elif name == "scale":
            found[name] = ("half_t", 3.0, 10 * max(spread, abs(middle)))
        else:
            about = max(float(w @ x / w.sum()), 0.1) if name == "mu" else 1.0
            found[name] = ("lognormal", math.log(about), 2.0)
    return found
