r"""Fits a family of distributions: maximum likelihood, maximum a posteriori, full Bayes.

Of all members of a family the likelihood prefers the one under which the data were most likely,

$$ \hat\theta = \arg\max_\theta \sum_i w_i \log f(x_i; \theta), \qquad
   \hat V = \Bigl( -\sum_i w_i\, \partial^2_\theta \log f(x_i; \hat\theta) \Bigr)^{-1} . $$

One compiled pass gives the log-likelihood with its exact score and Hessian; Newton's method in
coordinates without bounds needs three or four passes over large data. Weights, censoring,
truncation and fixed parameters are taken for every family (`_likelihood`); the result knows its
standard errors, profile intervals, information criteria and predictions (`Fit`).

Cost: 2 to 10 ns a value and pass.

References:
    Fisher (1922), "On the mathematical foundations of theoretical statistics".
    Wald (1943); Wilks (1938) for the intervals, see `_intervals`.
    Burnham and Anderson (2002), "Model selection and multimodel inference", section 2.4, for aicc.

Shapes: n observations, p parameters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from paragone.estimation import families
from paragone.estimation._fit import Fit
from paragone.estimation._information import INFORMATION
from paragone.estimation._likelihood import Problem
from paragone.estimation._observations import Observations, read
from paragone.estimation._optimize import Maximum
from paragone.estimation._search import Found, search
from paragone.estimation.families import Family

__all__ = ["Fit", "fit", "fit_observations"]


def fit(
    data: Any,
    family: str | Family,
    method: str = "mle",
    prior: Any = None,
    weights: Any = None,
    censoring: Any = None,
    truncation: Any = None,
    fixed: dict[str, float] | None = None,
    *,
    upper: Any = None,
    start: dict[str, float] | None = None,
    information: str = "observed",
    **options: Any,
) -> Any:
    r"""Fits a family to data.

    Prefer it to `scipy.stats.<family>.fit`, which knows no weights, no truncation and no standard
    errors, and to a probabilistic program where the law is one of `families.list()`. Prefer
    `rank` if the family is not known, and `Model` for a likelihood of one's own.

    Args:
        data: Values (n,); or a tuple `(lower, upper)` of ends (n,) with lower = upper for an
            exact value, -inf or inf for an open end; or a `scipy.stats.CensoredData`.
        family: Name, alias or SciPy's name (`families.list()`), or a `Family`.
        method: "mle", "map" or "bayes"; the last two need `prior` and give a posterior.
        prior: Prior of "map" and "bayes".
        weights: Frequencies (n,): a weight w is the row repeated w times, 0 drops it.
        censoring: For each row "none" (0), "right" (1: the value is greater), "left" (-1: it is
            at most this) or "interval" (2: it lies in (data, upper]). Booleans: True is right.
        truncation: (lower, upper): nothing outside could have been observed; None is no bound.
        fixed: Values of parameters that are known, as {"loc": 0.0}.
        upper: Upper ends (n,) of interval-censored rows.
        start: Starting values, for those who know better.
        information: "observed", "expected" or "sandwich": where standard errors come from.
        **options: For "map" and "bayes".

    Returns:
        A `Fit`; for "bayes" a `Posterior`.

    Raises:
        ValueError: The data are empty, not numbers or outside the support, or an argument is out
            of range; the message says which and what to do.

    Example:
        >>> result = fit([1.2, 0.7, 2.9, 1.7], "weibull")
        >>> sorted(result.standard_errors)
        ['scale', 'shape']
    """
    law = families.get(family)
    if method not in ("mle", "map", "bayes"):
        raise ValueError(f"method={method!r} is none of 'mle', 'map', 'bayes'")
    if information not in INFORMATION:
        raise ValueError(f"information={information!r} is none of {', '.join(INFORMATION)}")
    known = _known(law, fixed)
    if "loc" in known and "loc" not in law.names:
        law = families.get(law.with_location)
    seen = read(
        data, weights=weights, censoring=censoring, upper=upper, truncation=truncation,
        discrete=law.discrete,
    )  # fmt: skip
    _check_support(law, seen, known)
    if method != "mle":
        from paragone.estimation import _bayes_fit

        run = _bayes_fit.fit_map if method == "map" else _bayes_fit.fit_bayes
        return run(Problem(law, seen, known), prior, **options)
    if prior is not None:
        raise ValueError("method='mle' has no prior: use method='map' or 'bayes' with it")
    if options:
        raise ValueError(f"{next(iter(options))} is no argument of fit with method='mle'")
    return _most_likely(law, seen, known, start, information)


def fit_observations(law: Family, seen: Observations, fixed: dict[str, float]) -> Fit:
    """Maximum likelihood for observations that were read before, as when many families are fitted.

    Raises:
        ValueError: They are outside the support, or not whole and the family is discrete.
    """
    known = _known(law, fixed)
    if law.discrete:
        if not (np.floor(seen.x) == seen.x).all():
            raise ValueError(f"the data are not whole: {law.name} counts")
        seen = replace(seen, discrete=True)
    _check_support(law, seen, known)
    return _most_likely(law, seen, known, None, "observed")


def _known(law: Family, fixed: dict[str, float] | None) -> dict[str, float]:
    known = {name: float(value) for name, value in (fixed or {}).items()}
    domains = {each.name: each for each in law.parameters}
    for name, value in known.items():
        if name == "loc" and "loc" not in domains and law.with_location:
            continue
        if name not in domains:
            raise ValueError(
                f"fixed={name!r} is no parameter of {law.name}: it has {', '.join(law.names)}"
            )
        if not domains[name].lower < value < domains[name].upper:
            raise ValueError(
                f"fixed {name}={value} is outside ({domains[name].lower}, {domains[name].upper})"
            )
    return known


def _check_support(law: Family, seen: Observations, known: dict[str, float]) -> None:
    low, high, is_open = law.limits(known)
    x = seen.x
    least, most = seen.ends
    if least < low or most > high or (is_open and (least == low or most == high)):
        wrong = (x < low) | (x > high) | (is_open & ((x == low) | (x == high)))
        bound = f"({low}, {high})" if is_open else f"[{low}, {high}]"
        remedy = f", or use {law.with_location}" if law.with_location else ""
        raise ValueError(
            f"data has {x[wrong][0]}, outside {bound}, the support of {law.name}: drop such rows, "
            f"or shift and scale them{remedy}"
        )
    if ((seen.upper <= low) | (seen.lower >= high)).any():
        at = int(np.flatnonzero((seen.upper <= low) | (seen.lower >= high))[0])
        raise ValueError(
            f"the window ({seen.lower[at]}, {seen.upper[at]}] has no mass under {law.name}, whose "
            f"support is ({low}, {high}): drop that row or take another family"
        )
    free = [name for name in law.names if name not in known]
    if len(x) and len(free) > 1 and not law.discrete and not seen.censored and least == most:
        raise ValueError(
            f"all observations are {x[0]}: the likelihood of {law.name} grows without limit as the "
            "law shrinks onto this value; fix all parameters but one, or collect distinct values"
        )


def _most_likely(
    law: Family,
    seen: Observations,
    known: dict[str, float],
    start: dict[str, float] | None,
    information: str,
) -> Fit:
    without: dict[str, str] = {}
    held = dict(known)
    if len(seen.x):
        low, high = seen.extent()
        for name, value in law.edge_values(seen.x, known).items():
            if value in (low, high) or (len(seen.x) and not seen.censored):
                held[name] = value
                without[name] = "the maximum is at an end of the support, where no slope vanishes"
    problem = Problem(law, seen, held)
    if not problem.free:
        end = Maximum(np.zeros(0), problem.loglik([]), np.zeros(0), np.zeros((0, 0)), True, "", 1)
        found = Found(np.zeros(0), end, problem, end.hessian, "closed form")
        if not np.isfinite(end.value):
            raise ValueError(f"the data are impossible under {law.name} with {held}")
    else:
        first = None
        if start is not None:
            absent = [name for name in problem.free if name not in start]
            if absent:
                raise ValueError(f"start has no {absent[0]}: give all of {', '.join(problem.free)}")
            first = np.array([float(start[name]) for name in problem.free])
            if not np.isfinite(problem.loglik(first)):
                raise ValueError(
                    f"start={start} makes the data impossible: begin inside the support"
                )
        found = search(problem, first)
        if not np.isfinite(found.maximum.value):
            raise ValueError(
                f"no parameters of {law.name} were found under which the data are possible: check "
                "the family, or give start="
            )
    return Fit(found, known, without, information)
