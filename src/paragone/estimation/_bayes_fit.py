r"""Maximum a posteriori and full Bayes for a family of distributions.

With $\ell$ the log-likelihood (weights, censoring and truncation included) and a prior $\pi$,

$$ \hat\theta_{\text{MAP}} = \arg\max_\theta\; \ell(\theta) + \log \pi(\theta), \qquad
   p(\theta \mid x) \propto e^{\ell(\theta)}\, \pi(\theta) . $$

A mode is not invariant: in coordinates $u = u(\theta)$ the density is that of $\theta$ times the
Jacobian $|d\theta/du|$, and peaks elsewhere. So MAP says in which space it is a mode:
"constrained" is the density of the parameters themselves (no Jacobian; a flat prior gives the
MLE), "unconstrained" that of u, logs of positive parameters (with the Jacobian). Its covariance is
Laplace's, the inverse curvature in that space, mapped back to the parameters.

Full Bayes is exact where family and prior are a conjugate pair; else it draws by NUTS in
coordinates $u = \hat u + L z$, in which the curvature at the mode is one (three or seven steps a
draw suffice), or from a normal that was fitted to the posterior. The evidence of drawn posteriors
is by importance sampling from a t with 5 degrees of freedom that has their mean and covariance in
u, with the Pareto k that says whether it can be trusted.

References:
    Gelman et al. (2013), Bayesian Data Analysis, sections 4.1, 10.4, 12.5 and 13.3-13.5.
    MacKay (1998), "Choice of basis for Laplace approximation", for the space of a mode.
    Tierney and Kadane (1986), "Accurate approximations for posterior moments".

Shapes: p free parameters, S draws.
"""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from paragone._core.random import RandomState, as_generator
from paragone.estimation import _bayes_conjugate, _laws
from paragone.estimation._fit import Fit
from paragone.estimation._likelihood import Problem
from paragone.estimation._optimize import Maximum
from paragone.estimation._priors import Prior, read_prior, weak
from paragone.estimation._search import Found, _best, _found, _simplex, _starts
from paragone.estimation.conjugate import Conjugate
from paragone.estimation.posterior import Posterior

__all__ = ["MapFit", "Penalised", "fit_bayes", "fit_map"]

ENGINES = ("auto", "conjugate", "nuts", "laplace", "variational")
_INDEPENDENT = 10_000
_TAIL = 5.0


class Penalised(Problem):
    """Log posterior in place of the log-likelihood, with the same derivatives.

    Args:
        problem: The likelihood.
        prior: Density of the free parameters.
        jacobian: 1 adds log |d theta/du| in `unconstrained`; 0 does not.
    """

    def __init__(self, problem: Problem, prior: Prior, jacobian: float) -> None:
        self.__dict__.update(copy.copy(problem).__dict__)
        self.prior, self.jacobian = prior, jacobian

    def loglik_score_hessian(self, theta: Any) -> tuple[float, np.ndarray, np.ndarray]:
        """Log posterior, unnormalised, with gradient and Hessian in theta."""
        theta = np.asarray(theta, np.float64)
        value, score, hessian = super().loglik_score_hessian(theta)
        if not math.isfinite(value):
            return value, score, hessian
        more, slope, curvature = self.prior.slopes(theta)
        if not math.isfinite(more):
            return -math.inf, 0 * score, 0 * hessian
        return value + more, score + slope, hessian + curvature

    def unconstrained(self, u: Any) -> tuple[float, np.ndarray, np.ndarray]:
        """The same in u, with the Jacobian if it counts."""
        value, score, hessian = super().unconstrained(u)
        more, slope, curvature = self.log_jacobian(u)
        size = self.jacobian
        return value + size * more, score + size * slope, hessian + size * np.diag(curvature)

    def rows(self, u: np.ndarray) -> np.ndarray:
        """Log posterior density of each row (S, p) of u, Jacobian included."""
        found = np.empty(len(u))
        for i, row in enumerate(u):
            value = self.loglik_score_hessian(self.from_unconstrained(row)[0])[0]
            found[i] = value + self.log_jacobian(row)[0]
        return np.where(np.isfinite(found), found, -np.inf)


class MapFit(Fit):
    """A posterior mode, with Laplace's covariance.

    Attributes:
        space: "constrained" or "unconstrained": the space whose density peaks here.
        log_posterior: Log-likelihood plus log prior (plus log Jacobian) at the mode.
        log_evidence: Laplace's approximation, always in the unconstrained space of this mode; NaN
            in the constrained one and with an improper prior.
        loglik: The log-likelihood alone.
    """

    def __init__(self, found: Found, known: dict[str, float], penalised: Penalised) -> None:
        super().__init__(found, known, {}, "observed")
        self.space = "unconstrained" if penalised.jacobian else "constrained"
        self.log_posterior, self.log_evidence = float(found.maximum.value), math.nan
        if not penalised.jacobian or not penalised.free:
            return
        u = penalised.to_unconstrained(found.theta)
        curvature = -penalised.unconstrained(u)[2]
        sign, log_det = np.linalg.slogdet(curvature)
        if sign > 0 and not self.reasons:
            slope = penalised.from_unconstrained(u)[1]
            at = [self.family.names.index(name) for name in penalised.free]
            mapped = np.linalg.inv(curvature) * np.outer(slope, slope)
            self.covariance[np.ix_(at, at)] = mapped
            if penalised.prior.proper:
                self.log_evidence = self.log_posterior + 0.5 * float(
                    len(u) * math.log(2 * math.pi) - log_det
                )

    def interval(self, level: float = 0.95, kind: str = "wald") -> dict[str, tuple[float, float]]:
        """Intervals of Laplace's normal: "wald", or "transformed" in coordinates without bounds.

        Raises:
            ValueError: Another kind; a profile belongs to the likelihood.
        """
        if kind not in ("wald", "transformed"):
            raise ValueError(
                f"kind={kind!r}: a MAP has 'wald' and 'transformed' intervals; use method='mle' "
                "for profiles, method='bayes' for highest posterior density"
            )
        return super().interval(level, kind)


def _read(problem: Problem, prior: Any) -> Prior:
    if prior is None:
        raise ValueError(
            "prior=None: this method needs a prior; give one density a parameter, such as "
            "{'loc': ('normal', 0, 10), 'scale': ('half_normal', 5)}, a prior of "
            "`conjugate.prior`, or prior='weak' for wide priors in units of the data"
        )
    if isinstance(prior, str):
        if prior != "weak":
            raise ValueError(f"prior={prior!r}: the only prior with a name is 'weak'")
        prior = weak(problem)
    domains = {each.name: (each.lower, each.upper) for each in problem.family.parameters}
    return read_prior(prior, problem.free, [domains[name] for name in problem.free])


def _from_conjugate(problem: Problem, prior: Conjugate) -> Prior:
    """A conjugate prior as a density of the family's parameters."""
    laws = _bayes_conjugate.laws_of(prior)
    raise ValueError(
        f"the prior {prior.name!r} over {', '.join(laws)} is for method='bayes' with the engine "
        "'conjugate'; give MAP and samplers one density a parameter"
    )


def fit_map(
    problem: Problem,
    prior: Any,
    *,
    space: str = "constrained",
    start: dict[str, float] | None = None,
) -> MapFit:
    """The posterior mode of a family's parameters.

    Args:
        problem: The likelihood.
        prior: See `paragone.estimation._priors`.
        space: "constrained": mode of the density of the parameters; "unconstrained": mode of the
            density of their logs and logits, Jacobian included.
        start: Where to climb from, by name.

    Raises:
        ValueError: No prior, another space, or a posterior without a peak inside.
    """
    if space not in ("constrained", "unconstrained"):
        raise ValueError(f"space={space!r} is none of 'constrained', 'unconstrained'")
    if not problem.free:
        raise ValueError("all parameters are fixed: nothing is left to estimate")
    if isinstance(prior, Conjugate):
        _from_conjugate(problem, prior)
    at_edge = [name for name in problem.family.edges if name in problem.free]
    if at_edge:
        raise ValueError(
            f"the posterior of {at_edge[0]} peaks at an end of its domain, where no slope "
            "vanishes: use method='bayes', or fix it"
        )
    penalised = Penalised(problem, _read(problem, prior), float(space == "unconstrained"))
    end = _climb(penalised, start)
    if not math.isfinite(end.value):
        raise ValueError(
            f"no parameters of {problem.family.name} have a finite posterior density: check that "
            "prior and data do not contradict each other"
        )
    if penalised.jacobian:
        # The curvature in theta is that of the posterior without the Jacobian.
        plain = Penalised(problem, penalised.prior, 0.0)
        _, score, hessian = plain.unconstrained(end.u)
        end = replace(end, score=score, hessian=hessian)
    found = _found(penalised, end, f"maximum a posteriori in the {space} space")
    found.likelihood = problem
    return MapFit(found, problem.fixed, penalised)


def _climb(penalised: Penalised, start: dict[str, float] | None) -> Maximum:
    given = None
    if start is not None:
        absent = [name for name in penalised.free if name not in start]
        if absent:
            raise ValueError(f"start has no {absent[0]}: give all of {', '.join(penalised.free)}")
        given = np.array([float(start[name]) for name in penalised.free])
    end = _best(penalised, _starts(penalised, given))
    return end if end.converged else _simplex(penalised, end)


def fit_bayes(
    problem: Problem,
    prior: Any,
    *,
    engine: str = "auto",
    chains: int = 4,
    draws: int = 500,
    tune: int = 200,
    target: float = 0.8,
    random_state: RandomState = 0,
) -> Posterior:
    """The posterior of a family's parameters.

    Args:
        problem: The likelihood.
        prior: One density a parameter, a prior of `conjugate.prior`, "weak", or a function.
        engine: "auto" (closed form where there is one, else NUTS), "conjugate", "nuts", "laplace"
            or "variational", normals in the unconstrained space: the dearer the data, the more
            these save, and their Pareto k tells when not to trust them.
        chains: Chains of NUTS.
        draws: Draws of each chain.
        tune: Draws before them, dropped.
        target: Acceptance that NUTS tunes its step for.
        random_state: Seed or generator.

    Raises:
        ValueError: No prior, another engine, or a prior that does not fit the data.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is none of {', '.join(ENGINES)}")
    if not problem.free:
        raise ValueError("all parameters are fixed: nothing is left to estimate")
    generator = as_generator(random_state)
    if isinstance(prior, Conjugate):
        why = _bayes_conjugate.fits(problem, prior)
        if why:
            raise ValueError(why)
        if engine not in ("auto", "conjugate"):
            _from_conjugate(problem, prior)
        return _closed(problem, prior, prior, generator)
    density = _read(problem, prior)
    if engine in ("auto", "conjugate"):
        pair = _bayes_conjugate.known_pair(problem, density.terms) if density.terms else None
        if pair is not None:
            return _closed(problem, pair, density, generator)
        if engine == "conjugate":
            raise ValueError(
                f"{problem.family.name} with {density} is no conjugate pair: use engine='nuts', or "
                "give a prior of `conjugate.prior`"
            )
    penalised = Penalised(problem, density, 1.0)
    if engine in ("laplace", "variational"):
        return _normal(penalised, engine, generator)
    return _drawn(penalised, generator, (chains, draws, tune, target))


def _closed(
    problem: Problem, prior: Conjugate, given: Any, generator: np.random.Generator
) -> Posterior:
    posterior = _bayes_conjugate.update(problem, prior)
    seed = int(generator.integers(2**31))
    predictive: Any = posterior.predictive()
    return Posterior(
        problem.family, problem.fixed,
        _bayes_conjugate.parameter_draws(posterior, _INDEPENDENT, seed), engine="conjugate",
        log_evidence=posterior.log_evidence, laws=_bayes_conjugate.laws_of(posterior),
        predictive=predictive, conjugate=posterior, prior=given, n=problem.n,
    )  # fmt: skip


def _model(penalised: Penalised, place: np.ndarray, factor: np.ndarray) -> Any:
    """The posterior of z with u = place + factor z, a cloud of about unit width."""
    from paragone.estimation.model import Model, Parameter

    def density(z: np.ndarray) -> tuple[float, np.ndarray]:
        u = place + factor @ z
        theta, first, _ = penalised.from_unconstrained(u)
        value, score, _ = penalised.loglik_score_hessian(theta)
        more, slope, _ = penalised.log_jacobian(u)
        return value + more, factor.T @ (score * first + slope)

    return Model(density, [Parameter("z", (len(place),))])


def _mode(penalised: Penalised) -> tuple[np.ndarray, np.ndarray]:
    """Mode (p,) in u, and a factor (p, p) of the inverse curvature there."""
    end = _climb(penalised, None)
    if not math.isfinite(end.value):
        raise ValueError(
            f"no parameters of {penalised.family.name} have a finite posterior density: check "
            "that prior and data do not contradict each other"
        )
    values, vectors = np.linalg.eigh(-end.hessian)
    return end.u, vectors / np.sqrt(np.maximum(np.abs(values), 1e-8))


def _drawn(
    penalised: Penalised, generator: np.random.Generator, sizes: tuple[int, int, int, float]
) -> Posterior:
    from paragone.estimation.diagnostics import ess_bulk, ess_tail, rhat

    chains, draws, tune, target = sizes
    place, factor = _mode(penalised)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # divergences are told by `warnings` of the result
        found = _model(penalised, place, factor).sample(
            chains=chains, draws=draws, tune=tune, target=target, random_state=generator,
            workers=1,
        )  # fmt: skip
    u = place + found.unconstrained.reshape(-1, len(place)) @ factor.T
    theta = np.stack([penalised.from_unconstrained(row)[0] for row in u])
    theta = theta.reshape(*found.unconstrained.shape)
    each = {name: theta[..., i] for i, name in enumerate(penalised.free)}
    evidence, k = _evidence(penalised, u, generator)
    names = {"rhat": rhat, "ess_bulk": ess_bulk, "ess_tail": ess_tail}
    told: dict[str, Any] = {
        key: {name: float(of(values)) for name, values in each.items()} for key, of in names.items()
    }
    told |= {"divergences": found.divergences, "pareto_k": k}
    return Posterior(
        penalised.family, penalised.fixed, each, engine="nuts", log_evidence=evidence,
        diagnostics=told, prior=penalised.prior, n=penalised.n, warnings=found.problems,
    )  # fmt: skip


def _evidence(
    penalised: Penalised, u: np.ndarray, generator: np.random.Generator, size: int = 1000
) -> tuple[float, float]:
    """Log evidence by importance sampling from a t about draws u (S, p), and Pareto k."""
    from paragone.estimation.diagnostics import psis

    if not penalised.prior.proper:
        return math.nan, math.nan
    p, mean = u.shape[1], u.mean(axis=0)
    lower = np.linalg.cholesky(np.atleast_2d(np.cov(u.T)) + 1e-300 * np.eye(p))
    mixing = np.sqrt(_TAIL / generator.chisquare(_TAIL, size))[:, None]
    z = generator.standard_normal((size, p)) * mixing
    log_q = special.gammaln((_TAIL + p) / 2) - special.gammaln(_TAIL / 2)
    log_q = log_q - 0.5 * p * math.log(_TAIL * math.pi) - np.log(np.diag(lower)).sum()
    log_q = log_q - 0.5 * (_TAIL + p) * np.log1p((z * z).sum(axis=1) / _TAIL)
    ratios = penalised.rows(mean + z @ lower.T) - log_q
    return float(np.asarray(special.logsumexp(ratios))) - math.log(size), float(psis(ratios)[1])


def _normal(penalised: Penalised, engine: str, generator: np.random.Generator) -> Posterior:
    """A normal in u: Laplace's at the mode, or the one that is nearest."""
    from paragone.estimation.diagnostics import psis

    place, factor = _mode(penalised)
    if engine == "variational":
        near = _model(penalised, place, factor).variational(
            init=np.zeros(len(place)), random_state=generator
        )
        place, factor = place + factor @ near.mean, factor @ near.factor
    z = generator.standard_normal((4000, len(place)))
    u = place + z @ factor.T
    log_q = -0.5 * (z * z).sum(axis=1) - 0.5 * len(place) * math.log(2 * math.pi)
    log_q = log_q - np.linalg.slogdet(factor)[1]
    ratios = penalised.rows(u[:1000]) - log_q[:1000]
    k = float(psis(ratios)[1])
    evidence = float(np.asarray(special.logsumexp(ratios))) - math.log(len(ratios))
    theta = np.stack([penalised.from_unconstrained(row)[0] for row in u])
    notes: tuple[str, ...] = ()
    if k > 0.7:
        notes = (f"Pareto k is {k:.2f}: a normal does not stand for this posterior; use 'nuts'",)
    return Posterior(
        penalised.family, penalised.fixed,
        {name: theta[None, :, i] for i, name in enumerate(penalised.free)}, engine=engine,
        log_evidence=evidence if penalised.prior.proper else math.nan,
        laws=_normal_laws(penalised, place, factor), diagnostics={"pareto_k": k},
        prior=penalised.prior, n=penalised.n, warnings=notes,
    )  # fmt: skip


def _normal_laws(penalised: Penalised, place: np.ndarray, factor: np.ndarray) -> Any:
    """Exact marginals of unbounded parameters; those of the others come from draws."""
    spread = (factor**2).sum(axis=1)
    return {
        name: _laws.normal(float(place[i]), float(spread[i]))
        for i, (name, each) in enumerate(zip(penalised.free, penalised.parameters, strict=True))
        if math.isinf(each.lower) and math.isinf(each.upper)
    }
