r"""Levenberg-Marquardt in a scaled trust region, and a last polish in extended precision.

The residuals $r(\theta)$ are replaced by their tangent $r + J \delta$, trusted only where
$\lVert D\delta \rVert \le \Delta$. With $J D^{-1} = U S V^\top$ the step is

$$ \delta(\lambda) = - D^{-1} V \,\frac{S}{S^2 + \lambda}\, U^\top r, \qquad
   \lVert D \delta(\lambda) \rVert = \Delta, $$

and one singular value decomposition serves every $\lambda$. It never forms $J^\top J$, which
would square the condition number. The polish solves $J\delta \approx -r$ again with residuals
of 64 bits' mantissa: when they are $10^{-13}$ of the data, doubles hold three digits of them.

References:
    Moré (1978), "The Levenberg-Marquardt algorithm: implementation and theory", eq. 3.7, 5.5.
    Bates and Watts (1988), Nonlinear regression analysis and its applications, eq. 2.19 (the
    relative offset, by which convergence is judged).

Shapes: n observations, p parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Descent", "minimise", "offset", "polish"]

Residuals = Callable[[np.ndarray], np.ndarray]

STRATEGIES = (("running", 100.0), ("running", 1.0), ("fixed", 1.0), ("running", 0.01))
"""(how D grows, first radius in units of |D theta|), tried in this order until one converges."""


@dataclass
class Descent:
    """Where a minimisation ended.

    Attributes:
        theta: Parameters, shape (p,).
        rss: Sum of squared residuals there.
        iterations: Steps tried.
        converged: Whether the relative offset is below the tolerance.
    """

    theta: np.ndarray
    rss: float
    iterations: int
    converged: bool


def offset(residual: np.ndarray, jacobian: np.ndarray) -> float:
    """Relative offset: the residuals' part in the tangent plane against the part beside it."""
    n, p = jacobian.shape
    scale = np.linalg.norm(jacobian, axis=0)
    if not np.isfinite(jacobian).all() or (scale == 0).any():
        return np.inf
    q, r = np.linalg.qr(jacobian / scale)
    diagonal = np.abs(np.diag(r))
    if diagonal.min() <= 1e-13 * diagonal.max():
        return np.inf
    inside = np.linalg.norm(q.T @ residual)
    beside = np.sqrt(max(np.dot(residual, residual) - inside**2, 0.0))
    floor = 1e-300 + 1e-15 * np.linalg.norm(residual)
    return float(inside / np.sqrt(p) / max(beside / np.sqrt(max(n - p, 1)), floor))


def _at_rest(theta: np.ndarray, residual: np.ndarray, jacobian: np.ndarray) -> bool:
    """Whether the full Gauss-Newton step is nothing beside theta: residuals are all rounding."""
    scale = np.linalg.norm(jacobian, axis=0)
    if offset(residual, jacobian) == np.inf:
        return False
    q, triangle = np.linalg.qr(jacobian / scale)
    full = np.linalg.norm(np.linalg.solve(triangle, q.T @ residual))
    return bool(full <= 1e-8 * np.linalg.norm(scale * theta))


def _step(u_r: np.ndarray, s: np.ndarray, vt: np.ndarray, radius: float) -> np.ndarray:
    """Returns the scaled step D delta, by Newton's method on 1/|step| - 1/radius in lambda."""
    keep = s > 1e-15 * s[0]
    full = np.where(keep, u_r / np.where(keep, s, 1.0), 0.0)
    if np.linalg.norm(full) <= radius:
        return -vt.T @ full
    low, high = 0.0, np.linalg.norm(s * u_r) / radius
    damping = max(1e-3 * high, np.sqrt(low * high))
    for _ in range(50):
        if not low < damping < high:
            damping = max(1e-3 * high, np.sqrt(low * high))
        part = s * u_r / (s**2 + damping)
        size = np.linalg.norm(part)
        if abs(size - radius) <= 0.1 * radius:
            break
        if size > radius:
            low = damping
        else:
            high = damping
        slope = np.sum(part**2 / (s**2 + damping)) / size
        damping += (size / radius) * (size - radius) / slope
    return -vt.T @ (s * u_r / (s**2 + damping))


def _squares(residual: np.ndarray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(residual @ residual)


def _descend(
    residuals: Residuals, jacobian: Residuals, start: np.ndarray, rule: str, factor: float,
    most: int, tolerance: float,
) -> Descent:  # fmt: skip
    theta = start.copy()
    r = residuals(theta)
    j = jacobian(theta)
    rss, tried = _squares(r), 0
    norms = np.linalg.norm(j, axis=0)
    d = np.where(norms > 0, norms, 1.0)
    radius = factor * (float(np.linalg.norm(d * theta)) or 1.0)
    while tried < most and np.isfinite(j).all():
        if offset(r, j) <= tolerance or rss == 0.0:
            return Descent(theta, rss, tried, True)
        u, s, vt = np.linalg.svd(j / d, full_matrices=False)
        if s[0] == 0.0:
            break
        u_r = u.T @ r
        while tried < most:
            tried += 1
            scaled = _step(u_r, s, vt, radius)
            length = float(np.linalg.norm(scaled))
            moved = theta + scaled / d
            r_new = residuals(moved)
            rss_new = _squares(r_new)
            expected = -float(2 * scaled @ (vt.T @ (s * u_r)) + np.sum((s * (vt @ scaled)) ** 2))
            gain = (rss - rss_new) / expected if expected > 0 else 0.0
            if not np.isfinite(rss_new) or gain < 0.25:
                radius = 0.25 * min(radius, length)
            elif gain > 0.75:
                radius = max(radius, 2.0 * length)
            if np.isfinite(rss_new) and gain > 1e-4:
                break
            if radius <= 1e-16 * np.linalg.norm(d * theta):
                return Descent(theta, rss, tried, _at_rest(theta, r, j))
        else:
            break
        theta, r, rss = moved, r_new, rss_new
        j = jacobian(theta)
        norms = np.linalg.norm(j, axis=0)
        d = np.maximum(d, norms) if rule == "running" else d
    return Descent(theta, rss, tried, bool(np.isfinite(j).all() and offset(r, j) <= tolerance))


def minimise(
    residuals: Residuals, jacobian: Residuals, start: np.ndarray, most: int, tolerance: float
) -> Descent:
    """Minimises the sum of squares; several scalings and radii until one converges.

    A run counts as converged only where the Jacobian has full rank: on the plateaus that models
    of exponentials have, the gradient vanishes without a minimum.
    """
    best: Descent | None = None
    tried = 0
    for rule, factor in STRATEGIES:
        found = _descend(residuals, jacobian, start, rule, factor, most, tolerance)
        tried += found.iterations
        better = best is None or (found.converged, -found.rss) > (best.converged, -best.rss)
        best = found if better or best is None else best
        if best.converged:
            break
    assert best is not None
    return Descent(best.theta, best.rss, tried, best.converged)


def polish(
    residuals: Residuals, jacobian: Residuals, theta: np.ndarray, steps: int = 12
) -> np.ndarray:
    """Gauss-Newton steps from a minimum, as long as they shrink; in the precision of `theta`."""
    j = jacobian(np.asarray(theta, dtype=np.float64))
    scale = np.linalg.norm(j, axis=0)
    last = np.inf
    for _ in range(steps):
        r = residuals(theta)
        top = float(np.max(np.abs(r), initial=0.0))
        if top == 0.0 or not np.isfinite(top):
            break
        q, triangle = np.linalg.qr(j / scale)
        down = -np.linalg.solve(triangle, q.T @ np.asarray(r / top, dtype=np.float64))
        size = float(np.linalg.norm(down)) * top
        if not size < 0.9 * last:
            break
        theta = theta + (down / scale).astype(theta.dtype) * theta.dtype.type(top)
        last = size
        j = jacobian(np.asarray(theta, dtype=np.float64))
        scale = np.linalg.norm(j, axis=0)
    return theta
