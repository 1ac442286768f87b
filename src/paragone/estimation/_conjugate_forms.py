r"""What a conjugate pair is made of, and the forms with one unknown number.

Most pairs with one unknown are one formula. If $\log p(x \mid \lambda) = c \log\lambda -
\lambda T(x) + \log h(x)$ and $\lambda$ is gamma with shape a and rate b, then

$$ a_n = a + \sum c, \quad b_n = b + \sum T(x_i), \quad \log p(x) = \log\frac{\Gamma(a_n)\, b^a}
   {\Gamma(a)\, b_n^{a_n}} + \sum \log h(x_i), \quad T(x_{n+1}) / b_n \sim \beta'(c, a_n) , $$

so an exponential, a Weibull or a Laplace law differ by c, T and h alone; with $\theta = 1/\lambda$
the prior is inverse gamma. Counts of successes and failures give the beta form in the same way,
and sums the normal form.

References:
    Raiffa and Schlaifer (1961), Applied Statistical Decision Theory, chapters 3 and 7-11.
    Diaconis and Ylvisaker (1979), "Conjugate priors for exponential families", section 2.
    Fink (1997), "A compendium of conjugate priors".

Shapes: n observations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import integrate, special

from paragone.estimation import _laws
from paragone.estimation._laws import Law

__all__ = [
    "Joint", "Pair", "beta_pair", "checked", "from_law", "gamma_pair", "mean_pair",
    "rate_predictive", "renamed", "sample", "weigh",
]  # fmt: skip

Values = dict[str, Any]
Known = Mapping[str, Any]
Function = Callable[..., Any]


@dataclass(frozen=True)
class Joint:
    """The law of all unknowns of a pair.

    Attributes:
        log_density: Log density of the unknowns, in their order.
        draw: `(generator, size)` to a tuple of arrays, one an unknown.
        marginals: Unknown to its law, or to an object array of laws (None: no closed form).
        mean: Unknown to its mean, shaped as the unknown.
        var: The same of the variance.
        mode: The same of the joint mode; NaN where it is not unique or lies at the boundary.
    """

    log_density: Function
    draw: Callable[[np.random.Generator, Any], tuple[Any, ...]]
    marginals: dict[str, Any]
    mean: dict[str, Any]
    var: dict[str, Any]
    mode: dict[str, Any]


def from_law(name: str, law: Law) -> Joint:
    """The joint law of one unknown number."""
    return Joint(
        law.logpdf, lambda rng, size: (law.draw(rng, size),), {name: law}, {name: law.mean},
        {name: law.var}, {name: law.mode},
    )  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A likelihood and its conjugate prior, as functions of hyper-parameters and statistics.

    Attributes:
        name: Key of `conjugate.prior`.
        likelihood: Law of the data, in words.
        prior: Law of the unknowns, in words.
        parameters: The unknowns.
        hyper: Hyper-parameter to the kind of value it takes; see `checked`.
        known: The same of what is known.
        sufficient: Names of the statistics that `absorb` needs.
        count: `(data, known, weights, **details)` to the statistics.
        absorb: `(hyper, statistics, known)` to the new hyper-parameters.
        evidence: `(hyper, statistics, known)` to the log evidence, without `log_base`.
        joint: `(hyper, known)` to the law of the unknowns.
        predictive: `(hyper, known, **details)` to the law of the next observation.
        details: What `update` may be given beside the data.
        defaults: Values of hyper-parameters and knowns that may be left out.
        log_likelihood: `(x, known, *unknowns)` to the log density of one observation.
        width: Hyper-parameter whose length is the width of a row; `count` is then told it.
    """

    name: str
    likelihood: str
    prior: str
    parameters: tuple[str, ...]
    hyper: dict[str, str]
    known: dict[str, str]
    sufficient: tuple[str, ...]
    count: Function
    absorb: Callable[[Values, Values, Known], Values]
    evidence: Callable[[Values, Values, Known], float]
    joint: Callable[[Values, Known], Joint]
    predictive: Function
    details: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    log_likelihood: Function | None = None
    width: str = ""


def checked(kind: str, name: str, value: Any) -> Any:
    """Returns a hyper-parameter or known value in its type.

    Raises:
        ValueError: It is not of its kind; the message says what is expected.
    """
    array = np.asarray(value, np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}={value} is not finite: use finite numbers")
    if kind in ("real", "positive", "count", "nonnegative"):
        if array.ndim:
            raise ValueError(f"{name} has shape {array.shape}: one number is expected")
        number = float(array)
        if kind == "positive" and number <= 0:
            raise ValueError(f"{name}={number:g} must be above 0")
        if kind == "nonnegative" and number < 0:
            raise ValueError(f"{name}={number:g} must not be negative")
        if kind == "count" and (number < 1 or number != math.floor(number)):
            raise ValueError(f"{name}={number:g} must be a whole number from 1")
        return number
    if kind in ("vector", "positive_vector"):
        if array.ndim != 1 or not array.size or (kind == "positive_vector" and array.min() <= 0):
            raise ValueError(f"{name}={value} must be a vector{' above 0' * (kind != 'vector')}")
        return array
    assert kind == "matrix"
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not np.allclose(array, array.T):
        raise ValueError(f"{name} of shape {array.shape} must be a symmetric matrix")
    if np.linalg.eigvalsh(array)[0] <= 0:
        raise ValueError(f"{name} must be positive definite: its least eigenvalue is not above 0")
    return array


def sample(
    data: Any, weights: Any, low: float, high: float, *, whole: bool = False, open: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns observations (n,) and weights (n,), checked.

    Raises:
        ValueError: Empty, not finite, outside the support, or bad weights.
    """
    x = np.atleast_1d(np.asarray(data, np.float64))
    if x.ndim != 1 or not x.size:
        raise ValueError(f"data of shape {np.shape(data)}: a vector of observations is expected")
    bad = ~np.isfinite(x) | (x < low) | (x > high)
    if open:
        bad |= (x == low) | (x == high)
    if whole:
        bad |= x != np.floor(x)
    if bad.any():
        at = int(np.argmax(bad))
        kind = "whole numbers" if whole else "numbers"
        ends = f"({low:g}, {high:g})" if open else f"[{low:g}, {high:g}]"
        raise ValueError(
            f"data[{at}]={x[at]:g} is outside the support, {kind} in {ends}: "
            "remove it or take another pair"
        )
    return x, weigh(weights, len(x))


def weigh(weights: Any, n: int) -> np.ndarray:
    """Returns checked weights (n,), ones without any."""
    w = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    if w.shape != (n,) or not np.isfinite(w).all() or w.min() < 0 or not w.any():
        raise ValueError(f"weights must be {n} numbers from 0 on, not all 0; got {w}")
    return w


def renamed(
    pair: Pair, name: str, prior: str, hyper: dict[str, str], into: Function, back: Function
) -> Pair:
    """The same pair with other hyper-parameters: `into` the pair's own, `back` from them."""
    return replace(
        pair, name=name, prior=prior, hyper=hyper,
        absorb=lambda h, s, k: back(pair.absorb(into(h), s, k)),
        evidence=lambda h, s, k: pair.evidence(into(h), s, k),
        joint=lambda h, k: pair.joint(into(h), k),
        predictive=lambda h, k, **more: pair.predictive(into(h), k, **more),
    )  # fmt: skip


def _same(value: Any) -> Any:
    return value


# Gamma form.


def gamma_pair(
    name: str, likelihood: str, parameter: str, *, log_base: Function, statistic: Function,
    power: Function | None, back: Function, support: Any = (0.0, math.inf),
    known: Mapping[str, str] | None = None, defaults: Mapping[str, Any] | None = None,
    side: str = "increasing", center: Function | None = None, inverse: bool = False,
    moments: Function | None = None, open: bool = True, censoring: bool = False,
) -> Pair:  # fmt: skip
    r"""A likelihood $\lambda^c e^{-\lambda T(x)} h(x)$ with a gamma prior on $\lambda$.

    Args:
        name: Key of the pair.
        likelihood: Law of the data, in words.
        parameter: Name of the unknown.
        log_base: $\log h(x)$ of (x, known).
        statistic: $T(x)$ of (x, known).
        power: $c$ of known; None is 1.
        back: Inverse of T on its side of the centre, of (T, known).
        support: (low, high), or a function of known.
        side: Where T grows: "increasing", "decreasing", "symmetric" about the centre, or
            "log_symmetric" about it.
        center: Of known; where a symmetric T is 0.
        known: What is known, with the kinds of value.
        defaults: Values of what may be left out.
        inverse: The unknown is $1/\lambda$, its prior inverse gamma.
        moments: (mean, variance) of the predictive, of (a, b, c, known); None integrates.
        open: Whether the ends of the support are excluded.
        censoring: Whether the survival function is $e^{-\lambda T}$.
    """
    rate = "scale" if inverse else "rate"
    sign = -1.0 if inverse else 1.0

    def exponent(known: Known) -> float:
        return 1.0 if power is None else power(known)

    def ends(known: Known) -> tuple[float, float]:
        found: Any = support(known) if callable(support) else support
        return found

    def count(data: Any, known: Known, weights: Any = None, censored: Any = None) -> Values:
        x, w = sample(data, weights, *ends(known), open=open)
        seen = np.ones(len(x), bool)
        if censored is not None:
            seen = ~np.broadcast_to(np.asarray(censored, bool), x.shape)
        total = float(w @ statistic(x, known))
        base = float((w * seen) @ log_base(x, known)) if seen.any() else 0.0
        return {"count": float(w @ seen), "total": total, "n": float(w.sum()), "log_base": base}

    def absorb(hyper: Values, s: Values, known: Known) -> Values:
        return {"shape": hyper["shape"] + exponent(known) * s["count"],
                rate: hyper[rate] + s["total"]}  # fmt: skip

    def evidence(hyper: Values, s: Values, known: Known) -> float:
        a, b, more = hyper["shape"], hyper[rate], exponent(known) * s["count"]
        return _gamma_evidence(a, b, more, s["total"])

    def predictive(hyper: Values, known: Known) -> Law:
        return rate_predictive(
            hyper["shape"], hyper[rate], exponent(known),
            lambda x: statistic(x, known), lambda t: back(t, known),
            lambda x: log_base(x, known), ends(known), side,
            0.0 if center is None else center(known),
            None if moments is None else _with_known(moments, known),
        )  # fmt: skip

    def log_likelihood(x: Any, known: Known, unknown: float) -> Any:
        value = unknown**sign
        log = exponent(known) * math.log(value) - value * statistic(x, known)
        return log + log_base(x, known)

    return Pair(
        name, likelihood, "inverse gamma" if inverse else "gamma", (parameter,),
        {"shape": "positive", rate: "positive"}, dict(known or {}), ("count", "total"),
        count, absorb, evidence,
        lambda hyper, known: from_law(
            parameter, _laws.gamma_power(hyper["shape"], hyper[rate], sign)
        ),
        predictive, ("censored",) if censoring else (), dict(defaults or {}), log_likelihood,
    )  # fmt: skip


def _with_known(moments: Function, known: Known) -> Function:
    return lambda a, b, c: moments(a, b, c, known)


def _gamma_evidence(a: float, b: float, more: float, total: float) -> float:
    value = special.gammaln(a + more) - special.gammaln(a)
    return float(value - more * math.log(b) - (a + more) * math.log1p(total / b))


def rate_predictive(
    a: float, b: float, c: float, statistic: Function, back: Function, log_base: Function,
    support: tuple[float, float], side: str, center: float,
    moments: Function | None,
) -> Law:  # fmt: skip
    r"""The next observation: $p(x) = h(x)\, \Gamma(a + c) b^a / (\Gamma(a) (b + T(x))^{a+c})$."""
    norm = special.gammaln(a + c) - special.gammaln(a) - c * math.log(b)

    def below(x: np.ndarray) -> np.ndarray:
        t = statistic(x)
        return special.betainc(c, a, 1 / (1 + b / t))

    def above(x: np.ndarray) -> np.ndarray:
        t = statistic(x)
        return special.betaincc(c, a, 1 / (1 + b / t))

    def of_share(u: np.ndarray) -> np.ndarray:
        return back(b * u / (1 - u))

    def cumulative(x: np.ndarray) -> np.ndarray:
        if side == "increasing":
            return below(x)
        if side == "decreasing":
            return above(x)
        return 0.5 + 0.5 * np.sign(x - center) * below(x)

    def mirrored(x: np.ndarray, left: np.ndarray) -> np.ndarray:
        other = center**2 / x if side == "log_symmetric" else 2 * center - x
        return np.where(left, other, x)

    def inverse(q: np.ndarray) -> np.ndarray:
        if side == "increasing":
            return of_share(special.betaincinv(c, a, q))
        if side == "decreasing":
            return of_share(special.betainccinv(c, a, q))
        far = of_share(special.betaincinv(c, a, np.abs(2 * q - 1)))
        return mirrored(far, q < 0.5)

    def draw(rng: np.random.Generator, size: Any) -> np.ndarray:
        x = back(rng.gamma(c, 1.0, size) / rng.gamma(a, 1 / b, size))
        return mirrored(x, rng.random(size) < 0.5) if side.endswith("symmetric") else x

    def integrated() -> tuple[float, float]:
        def expected(power: int) -> float:
            def inner(u: float) -> float:
                log = special.xlogy(c - 1, u) + special.xlog1py(a - 1, -u) - special.betaln(c, a)
                return float(of_share(np.asarray(u))) ** power * math.exp(log)

            return integrate.quad(inner, 0, 1, limit=200)[0]

        mean = expected(1)
        return mean, expected(2) - mean**2

    given = None if moments is None else lambda: moments(a, b, c)
    return Law(
        "predictive", support, lambda x: norm + log_base(x) - (a + c) * np.log1p(statistic(x) / b),
        cumulative, inverse, draw, given or integrated,
    )  # fmt: skip


# Beta form.


def beta_pair(
    name: str, likelihood: str, *, counts: Function, log_base: Function, support: Function,
    trials: Function, next_law: Function, known: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None, details: tuple[str, ...] = (),
) -> Pair:  # fmt: skip
    """A likelihood $p^s (1-p)^f h(x)$ with a beta prior on p.

    Args:
        name: Key of the pair.
        likelihood: Law of the data, in words.
        counts: (successes, failures) of (x, known).
        log_base: $\\log h(x)$ of (x, known).
        support: (low, high) of known.
        trials: Gives known, completed by the details of a call.
        next_law: Predictive law of (a, b, known).
        known: What is known, with the kinds of value.
        defaults: Values of what may be left out.
        details: What a call may give beside the data.
    """

    def count(data: Any, known: Known, weights: Any = None, **more: Any) -> Values:
        facts = trials(known, more)
        low, high = support(facts)
        x, w = sample(data, weights, low, np.max(high), whole=True)
        if (x > high).any():
            raise ValueError(f"{x[x > high][0]:g} successes are more than the trials")
        hits, misses = (np.broadcast_to(v, x.shape) for v in counts(x, facts))
        return {
            "successes": float(w @ hits), "failures": float(w @ misses), "n": float(w.sum()),
            "log_base": float(w @ np.broadcast_to(log_base(x, facts), x.shape)),
        }  # fmt: skip

    def absorb(hyper: Values, s: Values, known: Known) -> Values:
        return {"a": hyper["a"] + s["successes"], "b": hyper["b"] + s["failures"]}

    def evidence(hyper: Values, s: Values, known: Known) -> float:
        a, b = hyper["a"], hyper["b"]
        value = special.betaln(a + s["successes"], b + s["failures"])
        return float(value - special.betaln(a, b))

    def log_likelihood(x: Any, known: Known, p: float) -> Any:
        hits, misses = counts(x, known)
        value = special.xlogy(hits, p) + special.xlog1py(misses, -p)
        return value + log_base(x, known)

    return Pair(
        name, likelihood, "beta", ("p",), {"a": "positive", "b": "positive"}, dict(known or {}),
        ("successes", "failures"), count, absorb, evidence,
        lambda hyper, known: from_law("p", _laws.beta(hyper["a"], hyper["b"])),
        lambda hyper, known, **more: next_law(hyper["a"], hyper["b"], trials(known, more)),
        details, dict(defaults or {}), log_likelihood,
    )  # fmt: skip


# Normal form.


def mean_pair(
    name: str, likelihood: str, *, into: Function, back: Function, log_slope: Function,
    support: tuple[float, float], moments: Function,
) -> Pair:  # fmt: skip
    """Observations that are normal after `into`, with known variance and a normal prior.

    Args:
        name: Key of the pair.
        likelihood: Law of the data, in words.
        into: Of x.
        back: Inverse of `into`.
        log_slope: Log of the derivative of `into`.
        support: (low, high) of x, open.
        moments: (mean, variance) of `back` of a normal with the given mean and variance.
    """

    def count(data: Any, known: Known, weights: Any = None) -> Values:
        x, w = sample(data, weights, *support, open=True)
        y, n = into(x), float(w.sum())
        mean = float(w @ y) / n
        return {"n": n, "mean": mean, "squares": float(w @ (y - mean) ** 2),
                "log_base": float(w @ log_slope(x))}  # fmt: skip

    def absorb(hyper: Values, s: Values, known: Known) -> Values:
        share = s["n"] * hyper["variance"] / (s["n"] * hyper["variance"] + known["known_variance"])
        mean = hyper["mean"] + share * (s["mean"] - hyper["mean"])
        return {"mean": mean, "variance": known["known_variance"] * share / s["n"]}

    def evidence(hyper: Values, s: Values, known: Known) -> float:
        v, n = known["known_variance"], s["n"]
        wide = hyper["variance"] + v / n
        log = -0.5 * n * math.log(2 * math.pi * v) - s["squares"] / (2 * v)
        log += 0.5 * math.log(v / n / wide)
        return log - 0.5 * (s["mean"] - hyper["mean"]) ** 2 / wide

    def predictive(hyper: Values, known: Known) -> Law:
        mean, variance = hyper["mean"], hyper["variance"] + known["known_variance"]
        law = _laws.normal(mean, variance)
        if into is _same:
            return law
        return _laws.changed(
            law, likelihood, support, into, back, log_slope, lambda: moments(mean, variance)
        )

    def log_likelihood(x: Any, known: Known, mean: float) -> Any:
        law = _laws.normal(mean, known["known_variance"])
        return law.logpdf(into(x)) + log_slope(x)

    return Pair(
        name, likelihood, "normal", ("mean",), {"mean": "real", "variance": "positive"},
        {"known_variance": "positive"}, ("n", "mean", "squares"), count, absorb, evidence,
        lambda hyper, known: from_law("mean", _laws.normal(hyper["mean"], hyper["variance"])),
        predictive, (), {}, log_likelihood,
    )  # fmt: skip
