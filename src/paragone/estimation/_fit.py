"""What `fit` returns: estimates, how sure they are, and what they predict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from paragone.estimation._information import covariance_of
from paragone.estimation._intervals import normal_quantile, profile_interval, wald_interval
from paragone.estimation._search import Found
from paragone.estimation.families._family import Family

__all__ = ["Fit", "Prediction"]

_FLAT = 25.0
"""Standard errors of u beyond which a bounded parameter is not told from the end of its domain."""


@dataclass
class Prediction:
    """A quantity of the fitted law with its uncertainty.

    Attributes:
        value: Estimate, in the shape of `at`.
        standard_error: By the delta method.
        lower: Lower end of the interval.
        upper: Upper end.
    """

    value: np.ndarray
    standard_error: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


class Fit:
    """A fitted family.

    Attributes:
        family: The family.
        params: Estimates by name, fixed ones included.
        covariance: Covariance matrix (p, p) in the order of `params`; 0 for fixed parameters, NaN
            where there is none, see `reasons`.
        standard_errors: Their roots by name.
        reasons: Why a standard error is NaN, by name.
        loglik: Log-likelihood at the estimate.
        n: Sum of the weights.
        converged: Whether the search ended at a maximum.
        message: How it ended.
        rule: "maximum likelihood", "closed form", "interior local maximum", "maximum spacing".
        warnings: What one must know before using the result.
    """

    def __init__(
        self, found: Found, known: dict[str, float], edges: dict[str, str], information: str
    ) -> None:
        problem = found.problem
        self.family: Family = problem.family
        self.params: dict[str, float] = problem.named(found.theta)
        self._known, self._edges, self._found = dict(known), dict(edges), found
        self.information, self.rule = information, found.rule
        self.converged, self.message = found.maximum.converged, found.maximum.message
        self.warnings: list[str] = list(found.warnings)
        self._problem = found.likelihood or problem
        self.loglik = float(found.maximum.value)
        if found.likelihood is not None:
            self.loglik = found.likelihood.loglik(found.theta)
        self.n = self._problem.n
        if not self.converged:
            self.warnings.append(f"the search did not converge: {self.message}")
        self.covariance, self.reasons = covariance_of(
            problem,
            found.theta,
            found.hessian,
            {**edges, **self._ends(), **found.limits},
            information,
        )

    def _ends(self) -> dict[str, str]:
        """Parameters at a kink or at an end of their domain, with the reason."""
        problem, theta = self._found.problem, self._found.theta
        reasons = {
            name: "the log-likelihood has a kink here, so there is no observed information; "
            "information='expected' gives the asymptotic error"
            for name in self.family.kinks
            if name in problem.free
        }
        if not problem.free:
            return reasons
        first = problem.from_unconstrained(problem.to_unconstrained(theta))[1]
        curvature = -np.diag(self._found.hessian) * first**2
        for i, (name, each) in enumerate(zip(problem.free, problem.parameters, strict=True)):
            bounded = math.isfinite(each.lower) or math.isfinite(each.upper)
            if name in reasons or name in self._found.limits or not bounded:
                continue
            if not curvature[i] > _FLAT**-2:
                reasons[name] = (
                    f"the likelihood is flat towards an end of the domain of {name}: the estimate "
                    "stands for a limit, not for a value"
                )
                self.warnings.append(f"{name}={theta[i]:.6g}: {reasons[name]}")
        return reasons

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard errors by name."""
        roots = np.sqrt(np.diag(self.covariance))
        return dict(zip(self.family.names, roots.tolist(), strict=True))

    @property
    def free(self) -> int:
        """Number of estimated parameters."""
        return len(self.family.names) - len(self._known)

    @property
    def aic(self) -> float:
        """Akaike's criterion, 2 p - 2 loglik."""
        return 2.0 * self.free - 2.0 * self.loglik

    @property
    def aicc(self) -> float:
        """The same, corrected for few observations; inf where n <= p + 1."""
        p, rest = self.free, self.n - self.free - 1.0
        return self.aic + 2.0 * p * (p + 1.0) / rest if rest > 0.0 else math.inf

    @property
    def bic(self) -> float:
        """Schwarz's criterion, p log n - 2 loglik."""
        return self.free * math.log(self.n) - 2.0 * self.loglik

    def interval(self, level: float = 0.95, kind: str = "wald") -> dict[str, tuple[float, float]]:
        """Confidence intervals of the free parameters by name.

        Args:
            level: Coverage.
            kind: "wald": estimate and standard errors to both sides; "transformed": the same in
                coordinates without bounds, so that no end leaves the domain; "profile": values
                that the likelihood ratio does not reject, the most accurate and the dearest.

        Raises:
            ValueError: The level or the kind is none, or no profile exists for the rule.
        """
        normal_quantile(level)
        if kind not in ("wald", "transformed", "profile"):
            raise ValueError(f"kind={kind!r} is none of 'wald', 'transformed', 'profile'")
        problem, errors = self._problem, self.standard_errors
        if kind == "profile" and self.rule in ("maximum spacing", "interior local maximum"):
            raise ValueError(
                f"no profile interval: the estimate is the {self.rule} of an unbounded likelihood, "
                "which has no ratio to it; use kind='wald'"
            )
        result: dict[str, tuple[float, float]] = {}
        for name in self.family.names:
            if name in self._known:
                continue
            if name not in problem.free:
                result[name] = (math.nan, math.nan)
            elif kind == "profile":
                result[name] = profile_interval(problem, self._found.theta, name, level)
            else:
                each = problem.parameters[problem.free.index(name)]
                result[name] = wald_interval(
                    each, self.params[name], errors[name], level, kind == "transformed"
                )
        return result

    def predict(self, what: str = "mean", at: Any = None, level: float = 0.95) -> Prediction:
        """A quantity of the fitted law, with a delta-method interval.

        Args:
            what: "mean", "var", "cdf", "sf", "pdf" or "quantile".
            at: Where: values for "cdf", "sf", "pdf", probabilities for "quantile".
            level: Coverage of the interval; that of a probability is made on the logit scale.

        Raises:
            ValueError: `what` is none of these, or `at` is missing or no probability.
        """
        z = normal_quantile(level)
        if what not in ("mean", "var", "cdf", "sf", "pdf", "quantile"):
            raise ValueError(f"what={what!r} is none of mean, var, cdf, sf, pdf, quantile")
        if (at is None) != (what in ("mean", "var")):
            raise ValueError(f"what={what!r} " + ("needs at=" if at is None else "takes no at="))
        points = None if at is None else np.asarray(at, np.float64)
        if what == "quantile" and not np.all((np.asarray(at) >= 0) & (np.asarray(at) <= 1)):
            raise ValueError(f"at={at} holds no probability: quantiles are at 0 to 1")
        name = "ppf" if what == "quantile" else what

        def value_at(theta: np.ndarray) -> np.ndarray:
            of = getattr(self.family, name)
            return np.asarray(of(theta) if points is None else of(points, theta), np.float64)

        theta = np.array([self.params[key] for key in self.family.names])
        value = value_at(theta)
        slopes = [self._slope(value_at, theta, i) for i in range(len(theta))]
        slope = np.stack(slopes, axis=-1)
        moving = np.diag(self.covariance) != 0.0
        with np.errstate(invalid="ignore"):
            part = slope[..., moving]
            square = np.einsum("...i,ij,...j", part, self.covariance[np.ix_(moving, moving)], part)
            error = np.sqrt(np.maximum(square, 0.0))
        if what in ("cdf", "sf"):
            with np.errstate(all="ignore"):
                logit = np.log(value) - np.log1p(-value)
                spread = z * error / (value * (1.0 - value))
                low, high = (1.0 / (1.0 + np.exp(-(logit + s))) for s in (-spread, spread))
            low, high = (np.where(error == 0.0, value, end) for end in (low, high))
        else:
            low, high = value - z * error, value + z * error
        return Prediction(value, error, low, high)

    def _slope(self, value_at: Any, theta: np.ndarray, i: int) -> np.ndarray:
        """Derivative in parameter i by a central difference of fourth order."""
        if self.covariance[i, i] == 0.0:
            return np.zeros_like(value_at(theta))
        domain = self.family.parameters[i]
        room = min(theta[i] - domain.lower, domain.upper - theta[i])
        error = float(np.sqrt(self.covariance[i, i]))
        size = error if np.isfinite(error) else max(abs(theta[i]), 1.0)
        h = min(1e-3 * max(size, 1e-6 * abs(theta[i])), 0.2 * room)
        step = np.zeros(len(theta))
        step[i] = h
        one = value_at(theta + step) - value_at(theta - step)
        two = value_at(theta + 2.0 * step) - value_at(theta - 2.0 * step)
        return (8.0 * one - two) / (12.0 * h)

    def rvs(self, size: Any = None, random_state: Any = None) -> np.ndarray:
        """Random values of the fitted law."""
        return self.family.rvs(self.params, size, random_state)

    def summary(self, level: float = 0.95) -> str:
        """A table of the estimates, as text."""
        low, high = 50.0 - 50.0 * level, 50.0 + 50.0 * level
        lines = [
            f"{self.family.title}, {self.rule}, n = {self.n:g}",
            f"loglik {self.loglik:.6g}  aic {self.aic:.6g}  aicc {self.aicc:.6g}  "
            f"bic {self.bic:.6g}",
            f"{'':12}{'estimate':>13}{'std. error':>13}{f'{low:g} %':>13}{f'{high:g} %':>13}",
        ]
        intervals, errors = self.interval(level), self.standard_errors
        for name, value in self.params.items():
            if name in self._known:
                lines.append(f"{name:12}{value:13.6g}{'fixed':>13}")
                continue
            ends = "".join(f"{end:13.6g}" for end in intervals[name])
            lines.append(f"{name:12}{value:13.6g}{errors[name]:13.6g}{ends}")
        lines += [f"{name}: {why}" for name, why in self.reasons.items()]
        lines += [f"warning: {note}" for note in self.warnings]
        return "\n".join(lines)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.6g}" for name, value in self.params.items())
        return f"Fit({self.family.name}: {values}; loglik={self.loglik:.6g}, n={self.n:g})"
