r"""The log-likelihood of a family on weighted, censored and truncated observations.

$$ \ell(\theta) = \sum_i w_i \log f(x_i) + \sum_j w_j \log P(a_j < X \le b_j)
   - W \log P(\tau_0 < X \le \tau_1), $$

over exact observations $x_i$, censored ones known to lie in $(a_j, b_j]$, and, if nothing outside
$(\tau_0, \tau_1]$ could be observed, the mass of that window for each of the W observations.
`Problem` gives it with exact derivatives, in the parameters that are free and in coordinates
without bounds.

Shapes: n exact values, m windows, p free parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.estimation._observations import Observations
from paragone.estimation.families._family import Data, Family
from paragone.estimation.families._parameter import Parameter

__all__ = ["Problem"]


class Problem:
    """A log-likelihood as a function of the free parameters.

    Args:
        family: The family.
        observations: What was observed.
        fixed: Values of parameters that are not estimated.

    Attributes:
        family: The family.
        observations: What was observed; `n` is the sum of weights.
        fixed: Values of the fixed parameters by name.
        free: Names of the free parameters, the order of theta here.
        parameters: Their domains, within which the support can hold the data.
    """

    def __init__(
        self, family: Family, observations: Observations, fixed: dict[str, float] | None = None
    ) -> None:
        self.family, self.observations = family, observations
        self.fixed = dict(fixed or {})
        names = family.names
        self.free = tuple(name for name in names if name not in self.fixed)
        self._at = np.array([names.index(name) for name in self.free], np.int64)
        self._base = np.array([self.fixed.get(name, np.nan) for name in names])
        self._mesh = np.ix_(self._at, self._at)
        domains = family.bounds(*observations.extent())
        self.parameters: tuple[Parameter, ...] = tuple(domains[i] for i in self._at)
        self.data: Data | None = None
        if len(observations.x):
            kept = {"range": observations.ends}
            self.data = family.prepare(Data(observations.x, observations.w, self.fixed, kept))
        self._windows = observations.windows()
        self.evaluations = 0

    @property
    def n(self) -> float:
        """Number of observations: the sum of the weights."""
        return self.observations.n

    def full(self, theta: Any) -> np.ndarray:
        """All parameters of the family, the fixed ones included."""
        values = self._base.copy()
        values[self._at] = theta
        return values

    def named(self, theta: Any) -> dict[str, float]:
        """All parameters by name."""
        return dict(zip(self.family.names, self.full(theta).tolist(), strict=True))

    def with_fixed(self, fixed: dict[str, float]) -> Problem:
        """The same problem with more parameters fixed."""
        return Problem(self.family, self.observations, {**self.fixed, **fixed})

    def loglik(self, theta: Any) -> float:
        """Log-likelihood of the free parameters; -inf where an observation is impossible."""
        return self.loglik_score_hessian(theta)[0]

    def loglik_score_hessian(self, theta: Any) -> tuple[float, np.ndarray, np.ndarray]:
        """Log-likelihood with score (p,) and Hessian (p, p) in the free parameters."""
        value, score, hessian = self._all(self.full(theta))
        if not self.fixed:
            return value, score, hessian
        return value, score[self._at], hessian[self._mesh]

    def _all(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        self.evaluations += 1
        p = len(theta)
        value, score, hessian = 0.0, np.zeros(p), np.zeros((p, p))
        with np.errstate(all="ignore"):
            if self.data is not None:
                value, score, hessian = self.family.terms(self.data, theta)
            if len(self._windows[0]) and value > -np.inf:
                one, first, second = self.family.window_sums(*self._windows, theta)
                value, score, hessian = value + one, score + first, hessian + second
        if not (np.isfinite(value) and np.isfinite(score).all() and np.isfinite(hessian).all()):
            return -np.inf, np.zeros(p), np.zeros((p, p))
        return value, score, hessian

    def scores(self, theta: Any) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the single observations (n + m, p) and their weights (n + m,)."""
        seen, values = self.observations, self.full(theta)
        rows = self.family.pointwise(seen.x, values)[1]
        if len(seen.lower):
            rows = np.concatenate((rows, self.family.windows(seen.lower, seen.upper, values)[1]))
        if seen.truncated:
            rows = rows - self.family.windows(*seen.truncation_window(), values)[1]
        return rows[:, self._at], np.concatenate((seen.w, seen.window_w))

    def to_unconstrained(self, theta: Any) -> np.ndarray:
        """U of the free parameters (p,)."""
        pairs = zip(self.parameters, np.asarray(theta, float).tolist(), strict=True)
        return np.array([parameter.to_real(value) for parameter, value in pairs])

    def from_unconstrained(self, u: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(theta, d theta/du, d2 theta/du2) of u, each (p,)."""
        pairs = zip(self.parameters, np.asarray(u, float).tolist(), strict=True)
        rows = [parameter.from_real(value) for parameter, value in pairs]
        return tuple(np.array(rows, float).reshape(-1, 3).T)  # pyright: ignore[reportReturnType]

    def log_jacobian(self, u: Any) -> tuple[float, np.ndarray, np.ndarray]:
        """Log |d theta/du| with its first and second derivatives in each u, (), (p,), (p,)."""
        pairs = zip(self.parameters, np.asarray(u, float).tolist(), strict=True)
        rows = np.array([each.log_jacobian(value) for each, value in pairs]).reshape(-1, 3)
        return float(rows[:, 0].sum()), rows[:, 1], rows[:, 2]

    def unconstrained(self, u: Any) -> tuple[float, np.ndarray, np.ndarray]:
        """Log-likelihood with score and Hessian in u (no Jacobian: a likelihood has none)."""
        theta, first, second = self.from_unconstrained(u)
        value, score, hessian = self.loglik_score_hessian(theta)
        return value, score * first, hessian * np.outer(first, first) + np.diag(score * second)
