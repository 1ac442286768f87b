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

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from paragone.kernels.jit import njit

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


@njit(cache=True, nogil=True, error_model="numpy")
def _eigen(a, vectors):
    """Turns the symmetric a (p, p) into a diagonal, its eigenvectors into columns, by Jacobi."""
    p = len(a)
    for i in range(p):
        for j in range(p):
            vectors[i, j] = 1.0 if i == j else 0.0
    for _ in range(60):
        off = 0.0
        for i in range(p):
            for j in range(i):
                off = max(off, abs(a[i, j]))
        if not off > 1e-16:
            return
        for i in range(p):
            for j in range(i + 1, p):
                if abs(a[i, j]) < 1e-300:
                    continue
                theta = 0.5 * (a[j, j] - a[i, i]) / a[i, j]
                t = 1.0 / (abs(theta) + math.sqrt(theta * theta + 1.0))
                t = -t if theta < 0.0 else t
                c = 1.0 / math.sqrt(t * t + 1.0)
                s = t * c
                for k in range(p):
                    x, y = a[k, i], a[k, j]
                    a[k, i], a[k, j] = c * x - s * y, s * x + c * y
                for k in range(p):
                    x, y = a[i, k], a[j, k]
                    a[i, k], a[j, k] = c * x - s * y, s * x + c * y
                    x, y = vectors[k, i], vectors[k, j]
                    vectors[k, i], vectors[k, j] = c * x - s * y, s * x + c * y


@njit(cache=True, nogil=True, error_model="numpy")
def _length(along, size, shift):
    total = 0.0
    for i in range(len(along)):
        total += (along[i] / (size[i] + shift)) ** 2
    return math.sqrt(total)


@njit(cache=True, nogil=True, error_model="numpy")
def _direction(score, hessian, total, radius, move):
    """The step into move (p,); returns (Newton's forecast, forecast of the step, its length).

    The first is inf where the objective is not concave. The length is in scaled coordinates.
    """
    p = len(score)
    a, vectors, width = np.empty((p, p)), np.empty((p, p)), np.empty(p)
    along, size = np.zeros(p), np.empty(p)
    for i in range(p):
        # Where there is no curvature, as at a kink, the score says how wide the likelihood is.
        width[i] = math.sqrt(max(abs(hessian[i, i]), score[i] * score[i] / total) + 1e-300)
    for i in range(p):
        for j in range(p):
            a[i, j] = -hessian[i, j] / (width[i] * width[j])
    _eigen(a, vectors)
    gain, largest, least = 0.0, 0.0, np.inf
    for i in range(p):
        for k in range(p):
            along[i] += vectors[k, i] * score[k] / width[k]
        size[i] = abs(a[i, i])
        largest, least = max(largest, size[i]), min(least, a[i, i])
        gain += 0.5 * along[i] * along[i] / max(a[i, i], 1e-300)
    for i in range(p):
        size[i] = max(size[i], 1e-14 * largest + 1e-300)
    shift, length = 0.0, _length(along, size, 0.0)
    if length > radius:
        low, high = 0.0, 0.0
        for i in range(p):
            high += along[i] * along[i]
        high = math.sqrt(high) / radius
        for _ in range(60):
            shift = 0.5 * (low + high)
            length = _length(along, size, shift)
            if length > radius:
                low = shift
            else:
                high = shift
                if high - low < 1e-3 * high:
                    break
        shift = high
        length = _length(along, size, shift)
    forecast = 0.0
    for i in range(p):
        move[i] = 0.0
        step = along[i] / (size[i] + shift)
        forecast += along[i] * step - 0.5 * a[i, i] * step * step
    for k in range(p):
        for i in range(p):
            move[k] += vectors[k, i] * along[i] / (size[i] + shift) / width[k]
    return gain if least > 0.0 else np.inf, forecast, length


def maximise(
    objective: Objective,
    start: np.ndarray,
    total: float = 1.0,
    *,
    most: int = 200,
    enough: float = 0.0,
) -> Maximum:
    """Climbs from `start` to a local maximum.

    Args:
        objective: u -> (value, gradient (p,), Hessian (p, p)); -inf where u is impossible.
        start: A point with a finite value.
        total: Number of observations: the first trust region is what one of them tells.
        most: Evaluations at most.
        enough: A gain that need not be seen by another evaluation.
    """
    u = np.array(start, np.float64)
    value, score, hessian = objective(u)
    steps, radius, move = 1, 1.0, np.empty(len(u))
    if not np.isfinite(value):
        return Maximum(u, value, score, hessian, False, "the start is impossible", steps)
    done = "the gain left is negligible"
    while steps < most:
        reach = radius * math.sqrt(total)
        gain, forecast, length = _direction(score, hessian, total, reach, move)
        if gain < max(1e-13 * total, enough) and forecast >= 0.99 * gain:
            # The last step is too short to change anything that another pass would tell.
            return Maximum(u + move, value + gain, 0.0 * score, hessian, True, done, steps)
        there = objective(u + move)
        steps += 1
        rise = there[0] - value
        noise = 1e-13 * max(abs(value), 1.0)
        if rise > 1e-4 * forecast or (forecast < noise and rise > -noise):
            u, (value, score, hessian) = u + move, there
            if rise > 0.75 * forecast:
                radius = min(max(radius, 2.0 * length / math.sqrt(total)), 1e6)
            if gain < 1e-7 or (forecast < 1e-9 and rise < 1e-9 and math.isfinite(gain)):
                return Maximum(u, value, score, hessian, True, done, steps)
        else:
            radius = 0.25 * length / math.sqrt(total)
            if gain < 1e-6 * max(1.0, 1e-8 * abs(value)):
                return Maximum(u, value, score, hessian, True, "rounding allows no gain", steps)
        if radius < 1e-15:
            return Maximum(
                u, value, score, hessian, False, "no step improves the likelihood", steps
            )
    return Maximum(u, value, score, hessian, False, f"no convergence in {most} steps", steps)
