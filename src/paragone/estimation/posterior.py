r"""A posterior over the parameters of a family: what full Bayes returns, however it was found.

In closed form the parameters have known laws; else draws stand for them, by NUTS, or from a normal
in the unconstrained space. Either way the same questions are answered: where the parameters lie,
$P(\theta_j \in I \mid x) = \text{level}$, and what comes next,

$$ p(x_{n+1} \mid x) = \int p(x_{n+1} \mid \theta)\, p(\theta \mid x)\, d\theta
   \approx \frac1S \sum_s p(x_{n+1} \mid \theta_s) . $$

Cost: closed form a few microseconds an answer; else O(S) laws for a prediction.

References:
    Gelman et al. (2013), Bayesian Data Analysis, sections 1.3, 2.3 and 10.1.
    Vehtari, Gelman, Simpson, Carpenter and Burkner (2021), "Rank-normalization, folding, and
    localization: an improved R-hat", for the diagnostics.

Shapes: S draws, p free parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special

from paragone._core.random import RandomState, as_generator
from paragone.estimation import _laws
from paragone.estimation._fit import Prediction
from paragone.estimation._laws import Law
from paragone.estimation.conjugate import Conjugate
from paragone.estimation.families import Family

__all__ = ["Posterior"]

_MIXED = 250
"""Draws, evenly thinned, that a predictive density is averaged over."""


class Posterior:
    """A posterior of named parameters.

    Attributes:
        family: The family of the data.
        engine: "conjugate", "nuts", "laplace" or "variational".
        fixed: Parameters that were known.
        log_evidence: Log density of the data with the parameters integrated out; exact in closed
            form, by importance sampling else; NaN with an improper prior.
        diagnostics: With draws: "rhat", "ess_bulk" and "ess_tail" by parameter and "divergences"
            (NUTS), "pareto_k" of the importance weights; empty in closed form.
        conjugate: The posterior in closed form, which can be updated with more data; else None.
        prior: The prior as given.
        n: Sum of the weights of the data.
        warnings: What one must know before using the result.
    """

    def __init__(
        self, family: Family, fixed: Mapping[str, float], draws: Mapping[str, np.ndarray], *,
        engine: str, log_evidence: float, laws: Mapping[str, Law] | None = None,
        predictive: Law | None = None, conjugate: Conjugate | None = None,
        diagnostics: Mapping[str, Any] | None = None, prior: Any = None, n: float = math.nan,
        warnings: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.family, self.fixed, self.engine = family, dict(fixed), engine
        self.log_evidence, self.conjugate = log_evidence, conjugate
        self.diagnostics, self.prior, self.n = dict(diagnostics or {}), prior, n
        self.warnings = list(warnings)
        self._draws = {name: np.asarray(each, np.float64) for name, each in draws.items()}
        self._given = dict(laws or {})
        self._predictive = predictive

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v:.6g}" for k, v in self.params.items())
        return f"Posterior({self.family.name}: {values}; {self.engine}, n={self.n:g})"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the free parameters."""
        return tuple(self._draws)

    @property
    def draws(self) -> dict[str, np.ndarray]:
        """Parameter to draws (chains, draws)."""
        return dict(self._draws)

    @cached_property
    def _laws(self) -> dict[str, Law]:
        return {
            name: self._given.get(name) or _laws.from_draws(each.ravel())
            for name, each in self._draws.items()
        }

    def marginal(self, name: str) -> Law:
        """Law of one parameter, with density, quantiles and intervals.

        Raises:
            ValueError: No free parameter has this name.
        """
        if name not in self._laws:
            raise ValueError(f"{name!r} is no free parameter: use {', '.join(self.parameters)}")
        return self._laws[name]

    @cached_property
    def mean(self) -> dict[str, float]:
        """Posterior mean of each free parameter."""
        return {name: law.mean for name, law in self._laws.items()}

    @cached_property
    def sd(self) -> dict[str, float]:
        """Posterior standard deviation of each free parameter."""
        return {name: law.sd for name, law in self._laws.items()}

    @property
    def median(self) -> dict[str, float]:
        """Posterior median of each free parameter."""
        return {name: law.median for name, law in self._laws.items()}

    @property
    def mode(self) -> dict[str, float]:
        """Mode of each parameter's own marginal; of draws a rough one.

        The joint mode is another point: `fit(..., method="map")`.
        """
        return {name: law.mode for name, law in self._laws.items()}

    @property
    def params(self) -> dict[str, float]:
        """Posterior means by name, fixed parameters included."""
        found = {**self.fixed, **self.mean}
        return {name: found[name] for name in self.family.names if name in found}

    @property
    def standard_errors(self) -> dict[str, float]:
        """Posterior standard deviations by name; 0 for fixed parameters."""
        return {name: self.sd.get(name, 0.0) for name in self.params}

    @cached_property
    def covariance(self) -> np.ndarray:
        """Posterior covariance (q, q) in the order of `params`, from draws; 0 for fixed ones."""
        names = list(self.params)
        found = np.zeros((len(names), len(names)))
        at = [names.index(name) for name in self.parameters]
        rows = np.stack([each.ravel() for each in self._draws.values()])
        found[np.ix_(at, at)] = np.atleast_2d(np.cov(rows))
        return found

    def quantile(self, q: float) -> dict[str, float]:
        """Quantile of each free parameter."""
        return {name: float(law.quantile(q)) for name, law in self._laws.items()}

    def interval(self, level: float = 0.95, kind: str = "hpd") -> dict[str, tuple[float, float]]:
        """Credible interval of each free parameter.

        Args:
            level: Posterior probability, between 0 and 1.
            kind: "hpd", the shortest interval, or "equal_tailed".

        Raises:
            ValueError: The level or the kind is none.
        """
        return {name: law.interval(level, kind) for name, law in self._laws.items()}

    @cached_property
    def _thetas(self) -> list[np.ndarray]:
        """Evenly thinned draws as theta of the family."""
        flat = {name: each.ravel() for name, each in self._draws.items()}
        size = len(next(iter(flat.values())))
        at = np.unique(np.linspace(0, size - 1, min(size, _MIXED)).astype(np.int64))
        columns = [
            flat[name][at] if name in flat else np.full(len(at), self.fixed[name])
            for name in self.family.names
        ]
        return list(np.stack(columns, axis=-1))

    @cached_property
    def predictive(self) -> Law:
        """Law of the next observation: `logpdf`, `cdf`, `quantile`, `interval`, `rvs`.

        In closed form where the pair is known, else a mixture over 250 draws.
        """
        return self._predictive or _mixture(self.family, self._thetas)

    def predict(self, what: str = "mean", at: Any = None, level: float = 0.95) -> Prediction:
        """Posterior of a quantity of the law: its mean, sd and equal-tailed interval.

        Args:
            what: "mean", "var", "cdf", "sf", "pdf" or "quantile".
            at: Where: values for "cdf", "sf", "pdf", probabilities for "quantile".
            level: Posterior probability of the interval.

        Raises:
            ValueError: `what` is none of these, or `at` is missing.
        """
        if what not in ("mean", "var", "cdf", "sf", "pdf", "quantile"):
            raise ValueError(f"what={what!r} is none of mean, var, cdf, sf, pdf, quantile")
        if (at is None) != (what in ("mean", "var")):
            raise ValueError(f"what={what!r} " + ("needs at=" if at is None else "takes no at="))
        if not 0 < level < 1:
            raise ValueError(f"level={level} must lie between 0 and 1, such as 0.95")
        of = getattr(self.family, "ppf" if what == "quantile" else what)
        rows = np.array(
            [
                of(theta) if at is None else of(np.asarray(at, float), theta)
                for theta in self._thetas
            ]
        )
        low, high = np.quantile(rows, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return Prediction(rows.mean(axis=0), rows.std(axis=0, ddof=1), low, high)

    def rvs(self, size: Any = None, random_state: RandomState = None) -> Any:
        """Draws of the next observation; those of parameters are `draws`."""
        return self.predictive.rvs(size, random_state)

    def summary(self, level: float = 0.95) -> str:
        """A table: mean, standard deviation and shortest interval of each parameter."""
        lines = [
            f"{self.family.title}, full Bayes ({self.engine}), n = {self.n:g}",
            f"log evidence {self.log_evidence:.6g}",
            f"{'':12}{'mean':>13}{'sd':>13}{'low':>13}{'high':>13}",
        ]
        intervals = self.interval(level)
        for name, value in self.params.items():
            if name in self.fixed:
                lines.append(f"{name:12}{value:13.6g}{'fixed':>13}")
                continue
            low, high = intervals[name]
            line = f"{name:12}{value:13.6g}{self.sd[name]:13.6g}{low:13.6g}{high:13.6g}"
            if "rhat" in self.diagnostics:
                rhat, ess = (self.diagnostics[key][name] for key in ("rhat", "ess_bulk"))
                line += f"   R-hat {rhat:.3f}, ESS {ess:.0f}"
            lines.append(line)
        return "\n".join([*lines, *(f"warning: {note}" for note in self.warnings)])


def _mixture(family: Family, thetas: list[np.ndarray]) -> Law:
    """The average of the laws of all thetas."""
    count = len(thetas)

    def log_density(x: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            rows = np.array([family.logpdf(x, theta) for theta in thetas])
        return np.asarray(special.logsumexp(rows, axis=0)) - math.log(count)

    def cumulative(x: np.ndarray) -> np.ndarray:
        return np.mean([family.cdf(x, theta) for theta in thetas], axis=0)

    inverse = _searched_counts if family.discrete else _interpolated

    def draw(rng: np.random.Generator, size: Any) -> np.ndarray:
        rng = as_generator(rng)
        picked, p = rng.integers(count, size=size), rng.random(size)
        found = np.empty(np.shape(p))
        for i in np.unique(picked):
            found[picked == i] = family.ppf(np.asarray(p)[picked == i], thetas[i])
        return found[()]

    def moments() -> tuple[float, float]:
        means = np.array([family.mean(theta) for theta in thetas], float)
        spreads = np.array([family.var(theta) for theta in thetas], float)
        with np.errstate(invalid="ignore"):
            return float(means.mean()), float(spreads.mean() + means.var())

    ends = np.array([family.support(theta) for theta in thetas])
    return Law(
        "predictive", (float(ends[:, 0].min()), float(ends[:, 1].max())), log_density, cumulative,
        inverse(family, thetas, cumulative, log_density), draw, moments, math.nan, family.discrete,
    )  # fmt: skip


def _searched_counts(family: Family, thetas: list[np.ndarray], cumulative: Any, _: Any) -> Any:
    """Quantiles of a mixture on whole numbers, between those of its members."""

    def inverse(q: np.ndarray) -> np.ndarray:
        ends = np.array([family.ppf(q, theta) for theta in thetas])
        low, high = ends.min(axis=0) - 1.0, ends.max(axis=0)
        while (high - low > 1).any():
            middle = np.floor((low + high) / 2)
            below = cumulative(middle) < q
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return high

    return inverse


def _interpolated(family: Family, thetas: list[np.ndarray], cumulative: Any, log_density: Any):
    """Quantiles of a continuous mixture: a table of its distribution function, then Newton."""
    logits = np.linspace(-25.0, 25.0, 201)
    ends = np.array([family.ppf(special.expit(logits[[0, -1]]), theta) for theta in thetas[::8]])
    inner = np.mean([family.ppf(special.expit(logits), theta) for theta in thetas[::8]], axis=0)
    x = np.unique(np.clip(inner, ends[:, 0].min(), ends[:, 1].max()))
    held = np.clip(cumulative(x), 1e-300, 1 - 1e-16)

    def inverse(q: np.ndarray) -> np.ndarray:
        q = np.asarray(q, np.float64)
        at = np.interp(special.logit(q), special.logit(held), x)
        for _ in range(3):
            step = (cumulative(at) - q) / np.maximum(np.exp(log_density(at)), 1e-300)
            room = np.interp(special.logit(q), special.logit(held), np.gradient(x))
            at = np.clip(at - np.clip(step, -room, room), x[0], x[-1])
        return at

    return inverse
