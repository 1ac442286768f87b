r"""How the maximum of a likelihood is found: start, few rows, Newton, other starts, thresholds.

Large data are first gathered in some thousand bins (`_thinning`): Newton on these ends so near
that one or two passes over all rows remain. A family with several maxima is started from several
points. With a threshold (`loc`) that the density may pile up at, the likelihood of a
three-parameter family grows without limit as loc nears the least observation (Smith 1985; Cheng
and Iles 1990): there `threshold` walks along the profile in loc, returns the interior maximum if
there is one, and otherwise the maximum-spacing estimate, that of

$$ \max_\theta \sum_i \log \bigl( F(x_{(i+1)}) - F(x_{(i)}) \bigr) , $$

which is bounded, consistent and as efficient as maximum likelihood.

References:
    Smith (1985), "Maximum likelihood estimation in a class of nonregular cases".
    Cheng and Amin (1983), "Estimating parameters in continuous univariate distributions with a
    shifted origin", eq. 1.
    Cheng and Iles (1990), "Embedded models in three-parameter distributions and their estimation".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from paragone.estimation._likelihood import Problem
from paragone.estimation._observations import Observations
from paragone.estimation._optimize import Maximum, maximise
from paragone.estimation._thinning import binned, sampled
from paragone.estimation.families._statistics import quantiles

__all__ = ["Found", "search"]

_THIN, _MANY = 12_288, 5_000
_ROUGH = 1e-3
"""A gain on few rows that need not be seen."""
_FINE = 1e-5
"""A gain whose Newton step leaves less than the square of it: 0.005 standard errors."""


@dataclass
class Found:
    """What the search ends with.

    Attributes:
        theta: Free parameters (p,).
        maximum: Where Newton ended.
        problem: The objective that was maximised: the likelihood, or the spacings.
        rule: "maximum likelihood", "closed form", "interior local maximum" or
            "maximum spacing".
        warnings: What the user must know.
        hessian: Second derivatives of the objective in theta (p, p).
        limits: Reasons why parameters have no standard error, by name.
        likelihood: The likelihood, if that is not what was maximised.
    """

    theta: np.ndarray
    maximum: Maximum
    problem: Problem
    hessian: np.ndarray
    rule: str = "maximum likelihood"
    warnings: list[str] = field(default_factory=list)
    limits: dict[str, str] = field(default_factory=dict)
    likelihood: Problem | None = None


def _found(problem: Problem, end: Maximum, rule: str = "maximum likelihood", *notes: str) -> Found:
    """The end of a climb, in the parameters themselves."""
    theta, first, second = problem.from_unconstrained(end.u)
    hessian = (end.hessian - np.diag(end.score / first * second)) / np.outer(first, first)
    return Found(theta, end, problem, hessian, rule, [*notes])


def _thinned(problem: Problem, most: int) -> Problem:
    """The problem on about `most` of the exact rows, with the bounds of all rows."""
    seen = problem.observations
    if len(seen.x) < 4 * most:
        return problem
    x, w = sampled(seen.x, most), sampled(seen.w, most)
    return _replaced(problem, x, w, seen.window_w * (len(x) / len(seen.x)))


def _condensed(problem: Problem) -> Problem:
    """The problem on bins of many exact rows."""
    seen = problem.observations
    if len(seen.x) < _MANY:
        return problem
    if seen.discrete:
        return _thinned(problem, _THIN)
    centre, (least, most) = 0.0, seen.ends
    if "loc" in problem.free or least <= 0.0:
        middle = float(np.median(sampled(seen.x, 512)))
        centre = least if problem.family.unbounded else middle
    x, w = binned(seen.x, seen.w, (least, most), centre)
    return _replaced(problem, x, w, seen.window_w)


def _replaced(problem: Problem, x: np.ndarray, w: np.ndarray, window_w: np.ndarray) -> Problem:
    """The problem with other exact rows and weights, and the bounds of the old ones."""
    seen = problem.observations
    other = Observations(x, w, seen.lower, seen.upper, window_w, seen.truncation, seen.discrete)
    result = Problem(problem.family, other, problem.fixed)
    result.parameters = problem.parameters
    return result


def _inside(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Theta moved into the open domains, by a little."""
    theta = np.array(theta, float)
    for i, each in enumerate(problem.parameters):
        width = each.upper - each.lower
        room = 1e-3 * width if np.isfinite(width) else 1e-3 * max(abs(theta[i]), 1e-3)
        if not theta[i] > each.lower:
            theta[i] = each.lower + room
        if not theta[i] < each.upper:
            theta[i] = each.upper - room
    return theta


def _starts(problem: Problem, given: np.ndarray | None) -> list[np.ndarray]:
    if given is not None:
        return [given]
    x, w = problem.observations.points()
    with np.errstate(all="ignore"):
        full = problem.family.starts(x, w)
    at = [problem.family.names.index(name) for name in problem.free]
    return [_inside(problem, theta[at]) for theta in full]


def climb(problem: Problem, theta: np.ndarray, most: int = 200, enough: float = 0.0) -> Maximum:
    """Newton from theta in coordinates without bounds."""
    start = problem.to_unconstrained(theta)
    return maximise(problem.unconstrained, start, problem.n, most=most, enough=enough)


def _enough(problem: Problem, thin: Problem) -> float:
    """The gain at which the last Newton step needs no pass that proves it."""
    return 0.0 if thin is problem else _FINE


def _widened(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Theta with a scale so large that every observation is possible, if that helps."""
    for name in ("scale", "sigma"):
        if name in problem.free and not np.isfinite(problem.loglik(theta)):
            at = problem.free.index(name)
            for _ in range(60):
                theta = theta.copy()
                theta[at] *= 1.5
                if np.isfinite(problem.loglik(theta)):
                    break
    return theta


def _best(problem: Problem, starts: list[np.ndarray], enough: float = 0.0) -> Maximum:
    few = problem if enough else _thinned(problem, 512)
    if len(starts) > 1 and few is not problem:
        # Which basin is best is seen on few rows; how good, on more.
        tried = [climb(few, _widened(few, theta)).u for theta in starts]
        places = [_widened(problem, problem.from_unconstrained(u)[0]) for u in tried]
        starts = [max(places, key=problem.loglik)]
    ends = [climb(problem, _widened(problem, theta), enough=enough) for theta in starts]
    return max(ends, key=lambda end: (np.isfinite(end.value), end.value))


def _simplex(problem: Problem, end: Maximum) -> Maximum:
    """Nelder-Mead where derivatives lead nowhere (a kink), then Newton once more."""
    from scipy.optimize import minimize

    def cost(u: np.ndarray) -> float:
        return -problem.loglik(problem.from_unconstrained(u)[0])

    most = 300 * len(end.u)
    options = {"xatol": 1e-11, "fatol": 1e-12, "maxiter": most, "maxfev": most}
    found = minimize(cost, end.u, method="Nelder-Mead", options=options)
    again = maximise(problem.unconstrained, found.x, problem.n)
    best = max((end, again), key=lambda each: each.value)
    converged = best.converged or bool(found.success)
    return replace(best, converged=converged, message="simplex, then Newton")


def search(problem: Problem, start: np.ndarray | None = None) -> Found:
    """Maximises the likelihood of a problem with at least one free parameter."""
    seen = problem.observations
    if start is None and problem.data is not None and not (seen.censored or seen.truncated):
        full = problem.family.closed_form(problem.data)
        if full is not None:
            theta = full[[problem.family.names.index(name) for name in problem.free]]
            value, score, hessian = problem.loglik_score_hessian(theta)
            if np.isfinite(value):
                end = Maximum(theta, value, score, hessian, True, "closed form", 1)
                return Found(theta, end, problem, hessian, "closed form")
    if problem.family.unbounded and "loc" in problem.free and len(seen.x):
        return threshold(problem)
    thin = _condensed(problem)
    starts = _starts(thin, start)
    end = _best(thin, starts, 0.0 if thin is problem else _ROUGH)
    if thin is not problem:
        theta = _widened(problem, _inside(problem, thin.from_unconstrained(end.u)[0]))
        end = climb(problem, theta, enough=_enough(problem, thin))
        if not end.converged:
            end = max((end, _best(problem, starts)), key=lambda each: each.value)
    if problem.family.cusp(problem.full(problem.from_unconstrained(end.u)[0])):
        return pointed(problem, end)
    if not end.converged:
        end = _simplex(problem, end)
    return _found(problem, end)


def pointed(problem: Problem, end: Maximum) -> Found:
    """The estimate where the density has a point: loc is an observation, the likelihood's own.

    Every observation is a local maximum in loc then. Those that are best with the other parameters
    as they are get their own search; the others stay behind.
    """
    found = _found(problem, end)
    if "loc" not in problem.free or problem.data is None:
        return found
    at = problem.free.index("loc")
    x = np.unique(problem.data.x)
    middle = int(np.searchsorted(x, found.theta[at]))
    near = x[max(middle - 200, 0) : middle + 200]
    heights = [problem.loglik(_with(found.theta, at, loc)) for loc in near]
    best = found
    for loc in near[np.argsort(heights)[::-1][:64]]:
        held = problem.with_fixed({"loc": float(loc)})
        rest = np.delete(found.theta, at)
        if held.free:
            rest = held.from_unconstrained(climb(held, rest).u)[0]
        theta = np.insert(rest, at, loc)
        value, score, hessian = problem.loglik_score_hessian(theta)
        if value > best.maximum.value:
            place = Maximum(problem.to_unconstrained(theta), value, score, hessian, True, "", 0)
            place.message = "loc is an observation"
            best = Found(theta, place, problem, hessian)
            best.limits["loc"] = "the density has a point here, so there is no information of loc"
    smooth = _simplex(problem, best.maximum)
    return _found(problem, smooth) if smooth.value > best.maximum.value + 1e-9 else best


def _with(theta: np.ndarray, at: int, value: float) -> np.ndarray:
    theta = theta.copy()
    theta[at] = value
    return theta


def _profile(problem: Problem, gaps: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Log-likelihood maximised at each loc = least - gap, and where (p,)."""
    at, names = problem.free.index("loc"), problem.family.names
    least = problem.parameters[at].upper
    x, w = problem.observations.points()
    seen = problem.observations
    heights, places = np.full(len(gaps), -np.inf), []
    path: list[np.ndarray] = []
    end: Any = None
    for i, gap in enumerate(gaps):
        held = problem.with_fixed({"loc": least - gap})
        free = [names.index(name) for name in held.free]
        with np.errstate(all="ignore"):
            full = None
            if held.data is not None and not (seen.censored or seen.truncated):
                full = problem.family.closed_form(held.data)
            if full is None:
                full = problem.family.start_above(x, w, least - gap)
        here = full[free]
        if held.free:
            start = held.to_unconstrained(_inside(held, here))
            if path:
                # The maxima lie on a smooth curve: the next one is where the last ones point.
                ahead = path[-1]
                if len(path) > 2:
                    ahead = 3.0 * path[-1] - 3.0 * path[-2] + path[-3]
                elif len(path) > 1:
                    ahead = 2.0 * path[-1] - path[-2]
                if len(path) < 3:
                    ahead = max(start, ahead, key=lambda u: held.unconstrained(u)[0])
                end = maximise(held.unconstrained, ahead, held.n, enough=_ROUGH)
            if not (path and end.converged):
                end = maximise(held.unconstrained, start, held.n, enough=_ROUGH)
            path.append(end.u)
            here, heights[i] = held.from_unconstrained(end.u)[0], end.value
        else:
            heights[i] = held.loglik(here)
        places.append(np.insert(here, at, least - gap))
        if _passed(heights[: i + 1]):
            return heights[: i + 1], places
    return heights, places


def _passed(heights: np.ndarray) -> bool:
    """Whether a peak lies three steps or more behind, and far above."""
    if len(heights) < 6 or not (np.diff(heights[-4:]) < 0.0).all():
        return False
    return bool(_peaks(heights)) and heights[_peaks(heights)].max() - heights[-1] > 50.0


def _peaks(heights: np.ndarray) -> list[int]:
    inner = range(1, len(heights) - 1)
    return [i for i in inner if heights[i - 1] <= heights[i] > heights[i + 1]]


def threshold(problem: Problem) -> Found:
    """The estimate of a family with a threshold, by the profile of its location."""
    thin = _condensed(problem)
    at = problem.free.index("loc")
    x, w = thin.observations.points()
    least = problem.parameters[at].upper
    spread = float(quantiles(x, w, (0.5,))[0] - least) or float(x.max() - least)
    gaps = spread * np.logspace(-6, 2.5, 18)
    heights, places = _profile(thin, gaps)
    if not _peaks(heights):
        # A heavy lower end, as of a lognormal with sigma of 3, lies nearer than a millionth.
        nearer = spread * np.logspace(-12, -6.5, 12)
        closer = _profile(thin, nearer[nearer > 1e-12 * abs(least)])
        gaps = np.concatenate((nearer[len(nearer) - len(closer[0]) :], gaps))
        heights, places = np.concatenate((closer[0], heights)), closer[1] + places
    inner = _peaks(heights)
    best: Maximum | None = None
    tops: list[np.ndarray] = []
    for i in sorted(inner, key=lambda i: -heights[i]):
        place = places[i]
        if thin is not problem:
            top = climb(thin, _inside(thin, place), enough=_ROUGH).u
            if any(np.allclose(top, other, 1e-4, 1e-4) for other in tops):
                continue
            tops.append(top)
            place = thin.from_unconstrained(top)[0]
        end = climb(problem, _inside(problem, place), enough=_enough(problem, thin))
        gap = least - problem.from_unconstrained(end.u)[0][at]
        sound = end.converged and np.linalg.eigvalsh(end.hessian)[-1] < 0.0 and gap > 1e-13 * spread
        if sound and (best is None or end.value > best.value):
            best = end
    if best is not None:
        if not heights[0] > heights[1]:
            return _found(problem, best)
        note = (
            "the likelihood is unbounded as loc nears the least observation; this is its interior "
            "local maximum"
        )
        return _found(problem, best, "interior local maximum", note)
    if heights[-1] >= heights[-2]:
        end = climb(problem, _inside(problem, places[-1]), 40)
        found = _found(problem, end)
        if not end.converged or least - found.theta[at] > 1e3 * spread:
            far, ends = _profile(problem, spread * np.logspace(4, 7, 4))
            theta = max(zip(far, ends, strict=True), key=lambda pair: pair[0])[1]
            if far.max() > end.value:
                value, score, hessian = problem.loglik_score_hessian(theta)
                end = Maximum(problem.to_unconstrained(theta), value, score, hessian, True, "", 0)
                found = Found(theta, end, problem, hessian)
            end.converged, end.message = True, "loc goes to -inf"
            found.limits = dict.fromkeys(problem.free, "the estimate stands for a limit")
            found.warnings.append(
                "the likelihood grows as loc goes to -inf, where this family turns into one "
                "without a threshold: take that one (for Weibull gumbel_l, else normal)"
            )
        return found
    return spacing(problem, places[int(np.searchsorted(gaps, 0.9e-3 * spread))])


def spacing(problem: Problem, theta: np.ndarray) -> Found:
    """The maximum-spacing estimate; ties count by their density."""
    seen = problem.observations
    x, at = np.unique(seen.x, return_inverse=True)
    w = np.bincount(at, seen.w)
    low, high = seen.truncation
    lower, upper = np.concatenate(([low], x, seen.lower)), np.concatenate((x, [high], seen.upper))
    weights = np.concatenate((np.ones(len(x) + 1), seen.window_w))
    tied = w > 1.0
    spaced = Problem(
        problem.family,
        Observations(x[tied], w[tied] - 1.0, lower, upper, weights, seen.truncation),
        problem.fixed,
    )
    spaced.parameters = problem.parameters
    end = climb(spaced, _inside(spaced, theta))
    if not end.converged:
        end = _simplex(spaced, end)
    note = (
        "the likelihood is unbounded as loc nears the least observation and has no interior "
        "maximum; this is the maximum-spacing estimate"
    )
    found = _found(spaced, end, "maximum spacing", note)
    found.likelihood = problem
    return found
