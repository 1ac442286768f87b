r"""The peak of a posterior, and the normal that fits it there.

Laplace's method expands $\log p(u)$ about its mode $\hat u$: a normal with the inverse of
$H = -\nabla^2 \log p(\hat u)$ for its covariance, and the evidence

$$ \log p(y) \approx \log p(\hat u) + \tfrac{m}{2} \log 2\pi - \tfrac12 \log |H| . $$

H comes from exact gradients by a five-point difference with a step of about $10^{-3}$ posterior
deviations, which leaves ten digits. How good the normal is, importance weights tell: their Pareto
shape (`diagnostics.psis`), and their mean, which corrects the evidence.

References:
    Tierney and Kadane (1986), "Accurate approximations for posterior moments and marginal
    densities", eq. 2.2.
    Gelman et al. (2013), Bayesian Data Analysis, third edition, section 13.3.

Shapes: m unconstrained numbers, n numbers of all parameters, S draws.
"""

from __future__ import annotations

import math
import time
from functools import cached_property
from typing import Any

import numpy as np

from paragone._core.random import RandomState, as_generator
from paragone.estimation._density import Target
from paragone.estimation._draws import Summary
from paragone.estimation._psis import psis

__all__ = ["Mode", "NormalApproximation", "curvature", "find_mode", "join_moments", "laplace"]


class Mode:
    """A posterior mode.

    Attributes:
        values: Name to array: the parameters at the mode.
        logp: Log density there, in `space`.
        space: "unconstrained": of the density of u, Jacobians included; "constrained": of the
            density of the parameters themselves. The two modes differ wherever bounds exist.
        unconstrained: (m,), the same point.
        gradient: Largest slope there, relative to the curvature: about 0 at a mode.
        times: Seconds: "compile", "tune" (none), "sample" (the climb).
    """

    method = "map"

    def __init__(
        self, target: Target, u: np.ndarray, logp: float, space: str, gradient: float, took: float
    ) -> None:
        self._target, self.unconstrained, self.logp = target, u, logp
        self.space, self.gradient = space, gradient
        self.flat = target.results(u[None])[0]
        self.values = target.shown.split(self.flat)
        self.times = {"compile": 0.0, "tune": 0.0, "sample": took}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[name]

    def summary(self) -> Summary:
        """The mode of each number, with the space that it is the mode of."""
        labels = self._target.shown.labels()
        rows = {label: {"mode": float(x)} for label, x in zip(labels, self.flat, strict=True)}
        return Summary(rows, (f"mode in the {self.space} space, log density {self.logp:.4f}",))

    def __repr__(self) -> str:
        return f"Mode({self.space} space, logp={self.logp:.4f})"


class NormalApproximation:
    """A normal over the unconstrained space that stands for the posterior.

    Attributes:
        mean: (m,).
        factor: (m, m) lower triangle; the covariance is factor factor'.
        method: "laplace", or "variational".
        evidence: Log evidence by Laplace's formula; NaN for variational fits.
        elbo: Lower bound on the log evidence, from `size` fresh draws; `elbo_se` its error.
        evidence_is: Log evidence by importance sampling; to be trusted with a small k.
        k: Pareto shape of the importance weights: below 0.7 the fit can be corrected by them,
            above it is not to be trusted, unless `ess` is close to the number of draws: in one or
            two dimensions the shape of a tail that hardly matters can be large.
        ess: Effective size of the importance weights, of `size` draws.
        times: Seconds: "compile", "tune" (the fit), "sample" (the draws behind k).
    """

    def __init__(
        self, target: Target, mean: np.ndarray, factor: np.ndarray, method: str,
        evidence: float, took: float, generator: np.random.Generator, size: int = 4000,
    ) -> None:  # fmt: skip
        self._target, self.mean, self.factor = target, mean, factor
        self.method, self.evidence = method, evidence
        start = time.perf_counter()
        noise = generator.standard_normal((size, len(mean)))
        self._rows = mean + noise @ factor.T
        values, _ = target.rows(self._rows)
        log_q = -0.5 * (noise**2).sum(axis=1) - 0.5 * len(mean) * math.log(2 * math.pi)
        log_q -= np.log(np.diag(factor)).sum()
        ratios = np.where(np.isfinite(values), values - log_q, -np.inf)
        self.elbo = float(ratios.mean())
        self.elbo_se = float(ratios.std() / math.sqrt(size)) if np.isfinite(self.elbo) else math.inf
        self.log_weights, self.k = psis(ratios)
        self.ess = float(1 / (np.exp(self.log_weights) ** 2).sum())
        top = ratios.max()
        self.evidence_is = float(top + np.log(np.exp(ratios - top).mean()))
        self.times = {"compile": 0.0, "tune": took, "sample": time.perf_counter() - start}

    @cached_property
    def _flat(self) -> np.ndarray:
        return self._target.results(self._rows)

    @property
    def draws(self) -> dict[str, np.ndarray]:
        """Name to (1, S, *shape): draws of the normal, in the parameters' own space."""
        return self._target.shown.split(self._flat[None])

    def sample(self, size: int, random_state: RandomState = None) -> dict[str, np.ndarray]:
        """Fresh draws, name to (size, *shape)."""
        noise = as_generator(random_state).standard_normal((size, len(self.mean)))
        return self._target.shown.split(self._target.results(self.mean + noise @ self.factor.T))

    def moments(self, corrected: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd (n,) of the parameters; `corrected` by the smoothed weights."""
        weights = np.exp(self.log_weights) if corrected else None
        mean = np.average(self._flat, axis=0, weights=weights)
        return mean, np.sqrt(np.average((self._flat - mean) ** 2, axis=0, weights=weights))

    def summary(self) -> Summary:
        """Mean and sd of each number: of the normal, and corrected by importance weights."""
        plain, better = self.moments(), self.moments(corrected=True)
        rows = {
            label: {
                "mean": plain[0][i], "sd": plain[1][i],
                "mean_is": better[0][i], "sd_is": better[1][i],
            }
            for i, label in enumerate(self._target.shown.labels())
        }  # fmt: skip
        fine = self.k < 0.7 or self.ess > 0.9 * len(self._rows)
        trust = "the weights correct it" if fine else "not to be trusted"
        return Summary(rows, (
            f"{self.method}: elbo {self.elbo:.3f} (se {self.elbo_se:.3f}), evidence "
            f"{self.evidence:.3f}, by importance sampling {self.evidence_is:.3f}",
            f"Pareto k {self.k:.2f}: {trust}; weights worth {self.ess:.0f} of {len(self._rows)}",
        ))  # fmt: skip

    def __repr__(self) -> str:
        return f"NormalApproximation({self.method}, elbo={self.elbo:.3f}, k={self.k:.2f})"


def curvature(target: Target, u: np.ndarray, jacobian: float = 1.0) -> np.ndarray:
    """The negative Hessian (m, m) at u, by five-point differences of exact gradients."""
    m = len(u)
    steps = np.full(m, 1e-3) * np.maximum(1.0, np.abs(u)) * 1e-1
    for _ in range(2):
        offsets = np.array([-2.0, -1.0, 1.0, 2.0])
        points = u + np.einsum("k,i,ij->ikj", offsets, steps, np.eye(m)).reshape(-1, m)
        gradients = target.rows(points, jacobian)[1].reshape(m, 4, m)
        weights = np.array([1.0, -8.0, 8.0, -1.0]) / 12
        hessian = -np.einsum("k,ikj->ij", weights, gradients) / steps[:, None]
        # The second round steps in units of each number's own conditional deviation.
        own = np.abs(np.diag(hessian))
        steps = np.where(own > 0, 1e-3 / np.sqrt(np.maximum(own, 1e-300)), steps)
    return 0.5 * (hessian + hessian.T)


def _climb(target: Target, u: np.ndarray, jacobian: float) -> tuple[np.ndarray, float]:
    from scipy.optimize import minimize

    def fall(at: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = target(at, jacobian)
        if not np.isfinite(value):
            return 1e300, np.zeros_like(at)
        return -value, -gradient

    options = {"maxiter": 2000, "maxfun": 20000, "maxcor": 20, "ftol": 1e-15, "gtol": 1e-10}
    found = minimize(fall, u, jac=True, method="L-BFGS-B", options=options)
    return found.x, -float(found.fun)


def find_mode(
    target: Target, space: str, starts: np.ndarray, polish: int = 8
) -> tuple[Mode, np.ndarray]:
    """The best mode found from starts (r, m), and the negative Hessian there.

    Raises:
        ValueError: The density rises without bound, or is flat in some direction.
    """
    begin = time.perf_counter()
    jacobian = 1.0 if space == "unconstrained" else 0.0
    best, value = max(
        (_climb(target, start, jacobian) for start in starts),
        key=lambda pair: pair[1] if np.isfinite(pair[1]) else -np.inf,
    )
    hessian, decrement = np.eye(len(best)), math.inf
    for _ in range(polish):
        hessian = curvature(target, best, jacobian)
        _, gradient = target(best, jacobian)
        if not (np.isfinite(hessian).all() and np.isfinite(gradient).all()):
            break
        values, vectors = np.linalg.eigh(hessian)
        if values[0] <= 1e-12 * max(values[-1], 1e-300):
            break
        move = vectors @ ((vectors.T @ gradient) / values)
        decrement = math.sqrt(max(0.0, float(gradient @ move)))
        if decrement < 1e-9:
            break
        better = target(best + move, jacobian)[0]
        if not better >= value - 1e-9 * (1 + abs(value)):
            break
        best, value = best + move, better
    if not decrement < 1e-3:
        raise ValueError(
            f"the density has no peak in the {space} space: it rises without bound or is flat in "
            f"some direction (log density {value:.4g} at the last point); reparametrise, give the "
            "parameters proper priors, or sample instead"
        )
    mode = Mode(target, best, value, space, decrement, time.perf_counter() - begin)
    return mode, hessian


def laplace(
    target: Target, starts: np.ndarray, generator: np.random.Generator
) -> NormalApproximation:
    """A normal at the mode of the unconstrained space."""
    begin = time.perf_counter()
    mode, hessian = find_mode(target, "unconstrained", starts)
    m = len(hessian)
    root = np.linalg.cholesky(hessian)
    factor = np.linalg.cholesky(np.linalg.inv(hessian))
    evidence = mode.logp + 0.5 * m * math.log(2 * math.pi) - float(np.log(np.diag(root)).sum())
    return NormalApproximation(
        target, mode.unconstrained, factor, "laplace", evidence, time.perf_counter() - begin,
        generator,
    )  # fmt: skip


def join_moments(result: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd (n,) that a result of any engine stands for."""
    if isinstance(result, Mode):
        return result.flat, np.full(len(result.flat), np.nan)
    if isinstance(result, NormalApproximation):
        return result.moments()
    return result.flat.mean(axis=(0, 1)), result.flat.std(axis=(0, 1), ddof=1)
