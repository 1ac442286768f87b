"""Which family with which prior has its posterior in closed form, and its parameters' laws there.

A pair of `conjugate` and a family may name the same thing in two ways: the normal pair has a
variance where the family has a scale. Each entry says how the family's parameters follow from the
pair's unknowns, as powers: scale = variance^(1/2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paragone.estimation import _laws, conjugate
from paragone.estimation._laws import Law
from paragone.estimation._likelihood import Problem
from paragone.estimation.conjugate import Conjugate

__all__ = ["fits", "known_pair", "laws_of", "parameter_draws", "update"]


@dataclass(frozen=True)
class _Match:
    """How a pair is a family.

    Attributes:
        family: Name of the family.
        unknowns: Free parameter to (unknown of the pair, power), or to a function of known that
            gives the power.
        known: Fixed parameter to a function of the pair's known values.
    """

    family: str
    unknowns: dict[str, tuple[str, Any]]
    known: dict[str, Callable[[Mapping[str, Any]], float]]


def _root(known: Mapping[str, Any]) -> float:
    return known["known_variance"] ** 0.5


def _named(key: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda known: known[key]


def _inverse_shape(known: Mapping[str, Any]) -> float:
    return 1 / known["known_shape"]


_SHAPE = {"shape": _named("known_shape")}
_LOC = {"loc": _named("known_loc")}
_MEAN = {"loc": _named("known_mean")}
_MU = {"mu": _named("known_mean")}

_MATCHES: dict[str, _Match] = {
    "normal": _Match("normal", {"loc": ("mean", 1.0), "scale": ("variance", 0.5)}, {}),
    "normal_gamma": _Match("normal", {"loc": ("mean", 1.0), "scale": ("precision", -0.5)}, {}),
    "normal_mean": _Match("normal", {"loc": ("mean", 1.0)}, {"scale": _root}),
    "normal_variance": _Match("normal", {"scale": ("variance", 0.5)}, _MEAN),
    "normal_variance_chi2": _Match("normal", {"scale": ("variance", 0.5)}, _MEAN),
    "normal_precision": _Match("normal", {"scale": ("precision", -0.5)}, _MEAN),
    "half_normal": _Match("half_normal", {"scale": ("precision", -0.5)}, {}),
    "lognormal": _Match("lognormal", {"mu": ("mean", 1.0), "sigma": ("variance", 0.5)}, {}),
    "lognormal_gamma": _Match("lognormal", {"mu": ("mean", 1.0), "sigma": ("precision", -0.5)}, {}),
    "lognormal_mean": _Match("lognormal", {"mu": ("mean", 1.0)}, {"sigma": _root}),
    "lognormal_variance": _Match("lognormal", {"sigma": ("variance", 0.5)}, _MU),
    "lognormal_precision": _Match("lognormal", {"sigma": ("precision", -0.5)}, _MU),
    "exponential": _Match("exponential", {"scale": ("rate", -1.0)}, {}),
    "exponential_scale": _Match("exponential", {"scale": ("scale", 1.0)}, {}),
    "gamma_rate": _Match("gamma", {"scale": ("rate", -1.0)}, _SHAPE),
    "gamma_scale": _Match("gamma", {"scale": ("scale", 1.0)}, _SHAPE),
    "weibull_rate": _Match(
        "weibull", {"scale": ("rate", lambda known: -_inverse_shape(known))}, _SHAPE
    ),
    "weibull_scale": _Match("weibull", {"scale": ("scale_power", _inverse_shape)}, _SHAPE),
    "rayleigh_precision": _Match("rayleigh", {"scale": ("precision", -0.5)}, {}),
    "rayleigh_variance": _Match("rayleigh", {"scale": ("variance", 0.5)}, {}),
    "maxwell_precision": _Match("maxwell", {"scale": ("precision", -0.5)}, {}),
    "maxwell_variance": _Match("maxwell", {"scale": ("variance", 0.5)}, {}),
    "laplace_rate": _Match("laplace", {"scale": ("rate", -1.0)}, _LOC),
    "laplace_scale": _Match("laplace", {"scale": ("scale", 1.0)}, _LOC),
    "pareto_shape": _Match("pareto", {"shape": ("shape", 1.0)}, {"scale": _named("known_minimum")}),
    "poisson": _Match("poisson", {"mu": ("rate", 1.0)}, {}),
    "bernoulli": _Match("bernoulli", {"p": ("p", 1.0)}, {}),
    "binomial": _Match("binomial", {"p": ("p", 1.0)}, {"trials": _named("trials")}),
    "geometric": _Match("geometric", {"p": ("p", 1.0)}, {}),
    "negative_binomial": _Match(
        "negative_binomial", {"p": ("p", 1.0)}, {"n": _named("known_size")}
    ),
}


def _powers(prior: Conjugate) -> dict[str, tuple[str, float]]:
    found: dict[str, tuple[str, float]] = {}
    for name, (unknown, power) in _MATCHES[prior.name].unknowns.items():
        value: Any = power(prior.known) if callable(power) else power
        found[name] = (unknown, float(value))
    return found


def fits(problem: Problem, prior: Conjugate) -> str:
    """Why a conjugate prior is none of this problem; "" if it is one."""
    match = _MATCHES.get(prior.name)
    if match is None or match.family != problem.family.name:
        which = [name for name, each in _MATCHES.items() if each.family == problem.family.name]
        told = f": its pairs are {', '.join(which)}" if which else ", which has no pair"
        return f"the conjugate prior {prior.name!r} is none of {problem.family.name}{told}"
    if set(match.unknowns) != set(problem.free):
        free, fixed = ", ".join(match.unknowns), ", ".join(match.known) or "nothing"
        return f"{prior.name!r} has {free} free and {fixed} fixed; here {problem.free} are free"
    for name, value in match.known.items():
        if not np.isclose(problem.fixed[name], value(prior.known), rtol=1e-12):
            return (
                f"{prior.name!r} knows {name}={value(prior.known):g}, the fit has fixed "
                f"{name}={problem.fixed[name]:g}: give the same"
            )
    seen = problem.observations
    if seen.truncated:
        return f"{prior.name!r} is conjugate to complete data alone, and these are truncated"
    right = np.isposinf(seen.upper).all()
    if seen.censored and not (right and "censored" in conjugate.pair(prior.name).details):
        return f"{prior.name!r} is not conjugate to data censored like these"
    return ""


def update(problem: Problem, prior: Conjugate) -> Conjugate:
    """The posterior in closed form; the problem must fit."""
    seen = problem.observations
    if not seen.censored:
        return prior.update(seen.x, weights=seen.w)
    values = np.concatenate((seen.x, seen.lower))
    censored = np.arange(len(values)) >= len(seen.x)
    return prior.update(values, weights=np.concatenate((seen.w, seen.window_w)), censored=censored)


def laws_of(posterior: Conjugate) -> dict[str, Law]:
    """Family's parameter to its marginal law."""
    found = {}
    for name, (unknown, power) in _powers(posterior).items():
        law = posterior.marginal(unknown)
        found[name] = law if power == 1.0 else _to_power(law, posterior, unknown, power)
    return found


def _to_power(law: Law, posterior: Conjugate, unknown: str, power: float) -> Law:
    """Law of a power of a (inverse) gamma unknown."""
    hyper = posterior.hyper
    if "df" in hyper:
        return _laws.gamma_power(hyper["df"] / 2, hyper["df"] * hyper["scale"] / 2, -power)
    sign = 1.0 if "rate" in hyper else -1.0
    return _laws.gamma_power(hyper["shape"], hyper["rate" if sign > 0 else "scale"], sign * power)


def parameter_draws(posterior: Conjugate, size: int, seed: int) -> dict[str, np.ndarray]:
    """Family's parameter to independent draws (1, size)."""
    drawn = posterior.rvs(size, seed)
    drawn = drawn if isinstance(drawn, dict) else {posterior.parameters[0]: drawn}
    return {
        name: (np.asarray(drawn[unknown]) ** power)[None]
        for name, (unknown, power) in _powers(posterior).items()
    }


def known_pair(problem: Problem, terms: Mapping[str, tuple[Any, ...]]) -> Conjugate | None:
    """The conjugate prior that a dict of priors amounts to, if it does."""
    if len(problem.free) != 1:
        return None
    name, family = problem.free[0], problem.family.name
    word, *numbers = terms[name]
    known = problem.fixed
    found: Conjugate | None = None
    if word == "normal" and (family, name) in (("normal", "loc"), ("lognormal", "mu")):
        spread = known["scale" if family == "normal" else "sigma"] ** 2
        found = conjugate.prior(
            f"{family}_mean", mean=numbers[0], variance=numbers[1] ** 2, known_variance=spread
        )
    elif word == "inverse_gamma" and name == "scale" and family in ("exponential", "gamma"):
        more = {"known_shape": known["shape"]} if family == "gamma" else {}
        found = conjugate.prior(f"{family}_scale", shape=numbers[0], scale=numbers[1], **more)
    elif word == "inverse_gamma" and (family, name) == ("laplace", "scale"):
        found = conjugate.prior(
            "laplace_scale", shape=numbers[0], scale=numbers[1], known_loc=known["loc"]
        )
    elif word == "gamma" and (family, name) == ("poisson", "mu"):
        found = conjugate.prior("poisson", shape=numbers[0], rate=numbers[1])
    elif word == "gamma" and (family, name) == ("pareto", "shape"):
        found = conjugate.prior(
            "pareto_shape", shape=numbers[0], rate=numbers[1], known_minimum=known["scale"]
        )
    elif name == "p" and word in ("beta", "uniform"):
        a, b = numbers if word == "beta" else (1.0, 1.0)
        if word == "uniform" and tuple(numbers) != (0.0, 1.0):
            return None
        more = {"binomial": {"trials": known.get("trials")},
                "negative_binomial": {"known_size": known.get("n")}}  # fmt: skip
        if family in ("bernoulli", "geometric", *more):
            found = conjugate.prior(family, a=a, b=b, **more.get(family, {}))
    return found if found is not None and not fits(problem, found) else None
