r"""Newton's method in a trust region, for likelihoods of a few parameters with exact Hessians.

In coordinates scaled by the curvature, with $-H = Q \Lambda Q^\top$, the step is

$$ p = Q\,(|\Lambda| + \lambda)^{-1} Q^\top g, $$

with the least $\lambda \ge 0$ that keeps it inside the trust region. The absolute value leads away
from saddles and out of regions where the likelihood is not concave. It ends when Newton's own
forecast of the remaining gain, $\tfrac12 g^\top (-H)^{-1} g$, is negligible against the width of
the likelihood, which is 1/2 at one standard error.

References:
    Nocedal and Wright (2006), "Numerical optimization", algorithm 4.1.
    Dauphin et al. (2014), "Identifying and attacking the saddle point problem", for |Lambda|.

Shapes: p parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Maximum", "maximise"]

Objective = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]


@dataclass
class Maximum:
    """Where an optimisation ended.

    Attributes:
        u: The point (p,).
        value: The objective there.
        score: Its gradient (p,).
        hessian: Its Hessian (p, p).
        converged: Whether the gain that is left is negligible.
        message: Why it ended.
        steps: Evaluations of the objective.
    """

    u: np.ndarray
    value: float
    score: np.ndarray
    hessian: np.ndarray
    converged: bool
    message: str
    steps: int


def _decrement(score: np.ndarray, values: np.ndarray, vectors: np.ndarray) -> float:
    along = vectors.T @ score
    return float(0.5 * np.sum(along**2 / np.maximum(values, 1e-300)))


def _step(along: np.ndarray, values: np.ndarray, radius: float) -> np.ndarray:
    """The step in the eigenbasis, no longer than the radius."""
    size = np.maximum(np.abs(values), 1e-14 * np.abs(values).max() + 1e-300)
    step = along / size
    if np.linalg.norm(step) <= radius:
        return step
    low, high = 0.0, np.linalg.norm(along) / radius
    for _ in range(60):
        middle = 0.5 * (low + high)
        step = along / (size + middle)
        low, high = (middle, high) if np.linalg.norm(step) > radius else (low, middle)
        if high - low < 1e-3 * high:
            break
    return along / (size + high)


def maximise(
    objective: Objective, start: np.ndarray, total: float = 1.0, *, most: int = 200
) -> Maximum:
    """Climbs from `start` to a local maximum.

    Args:
        objective: u -> (value, gradient (p,), Hessian (p, p)); -inf where u is impossible.
        start: A point with a finite value.
        total: Number of observations: the first trust region is what one of them tells.
        most: Evaluations at most.
    """
    u = np.array(start, np.float64)
    value, score, hessian = objective(u)
    steps, radius, least = 1, 1.0, 1e-9
    if not np.isfinite(value):
        return Maximum(u, value, score, hessian, False, "the start is impossible", steps)
    message = f"no convergence in {most} steps"
    converged = False
    while steps < most:
        # Where there is no curvature, as at a kink, the score says how wide the likelihood is.
        width = np.sqrt(np.maximum(np.abs(np.diag(hessian)), score * score / total) + 1e-300)
        values, vectors = np.linalg.eigh(-hessian / np.outer(width, width))
        along = vectors.T @ (score / width)
        concave = values[0] > 0.0
        gain = _decrement(score / width, values, vectors) if concave else np.inf
        reach = radius * np.sqrt(total)
        move = _step(along, values, reach)
        forecast = float(along @ move - 0.5 * np.sum(values * move * move))
        new = u + (vectors @ move) / width
        if gain < 1e-13 * total and forecast >= 0.99 * gain:
            # The last step is too short to change anything that another pass would tell.
            return Maximum(
                new, value + gain, 0.0 * score, hessian, True, "the gain left is negligible", steps
            )
        there = objective(new)
        steps += 1
        rise = there[0] - value
        noise = 1e-13 * max(abs(value), 1.0)
        if gain < 1e-7 and rise > -noise:
            u, (value, score, hessian) = new, there
            converged, message = True, "the gain left is negligible"
            break
        if rise > 1e-4 * forecast or (forecast < noise and rise > -noise):
            u, (value, score, hessian) = new, there
            if rise > 0.75 * forecast:
                radius = min(max(radius, 2.0 * np.linalg.norm(move) / reach * radius), 1e6)
            if forecast < 1e-9 and rise < 1e-9 and concave:
                converged, message = True, "the gain left is negligible"
                break
        else:
            radius = 0.25 * np.linalg.norm(move) / reach * radius
            if gain < 1e-6 * max(1.0, 1e-8 * abs(value)):
                converged, message = True, "the gain left is rounding error"
                break
        if radius < least * 1e-6:
            message = "no step improves the likelihood"
            break
    return Maximum(u, value, score, hessian, converged, message, steps)
