r"""Confidence intervals of parameters: Wald, Wald in free coordinates, and profile likelihood.

The profile interval holds every value that the likelihood ratio does not reject,

$$ \bigl\{ \psi : 2\,[\ell(\hat\theta) - \max_{\theta: \theta_j = \psi} \ell(\theta)]
   \le \chi^2_{1, q} \bigr\}, $$

and does not depend on how the model is written. Each end is a root in one parameter, with the
others maximised anew by Newton from where the last step ended.

References:
    Venzon and Moolgavkar (1988), "A method for computing profile-likelihood-based confidence
    intervals".
"""

from __future__ import annotations

import numpy as np
from scipy import special

from paragone.estimation._likelihood import Problem
from paragone.estimation._optimize import maximise
from paragone.estimation.families._parameter import Parameter

__all__ = ["normal_quantile", "profile_interval", "wald_interval"]


def normal_quantile(level: float) -> float:
    """How many standard errors to either side hold `level`."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level} is no coverage: use a number between 0 and 1, as 0.95")
    return float(special.ndtri(0.5 + 0.5 * level))


def wald_interval(
    parameter: Parameter, value: float, error: float, level: float, transformed: bool
) -> tuple[float, float]:
    """Value -+ z error, or the same in the coordinate without bounds."""
    z = normal_quantile(level)
    if not np.isfinite(error):
        return np.nan, np.nan
    if not transformed:
        return value - z * error, value + z * error
    u = parameter.to_real(value)
    spread = z * error / abs(parameter.from_real(u)[1])
    low, high = sorted(parameter.from_real(u + side)[0] for side in (-spread, spread))
    return low, high


def profile_interval(
    problem: Problem, theta: np.ndarray, name: str, level: float
) -> tuple[float, float]:
    """Ends of the profile interval; the end of the domain where the likelihood stays flat."""
    z = normal_quantile(level)
    at = problem.free.index(name)
    parameter = problem.parameters[at]
    top, _, hessian = problem.unconstrained(problem.to_unconstrained(theta))
    peak = problem.to_unconstrained(theta)
    try:
        spread = float(np.sqrt(np.linalg.inv(-hessian)[at, at]))
    except np.linalg.LinAlgError:
        spread = np.nan
    spread = spread if np.isfinite(spread) and spread > 0.0 else 0.1
    rest = np.delete(np.arange(len(peak)), at)

    def drop(u: float, here: np.ndarray) -> tuple[float, np.ndarray]:
        """Z of the profile at u: the signed root of twice the drop, and the other coordinates."""
        held = problem.with_fixed({name: parameter.from_real(u)[0]})
        held.parameters = tuple(problem.parameters[i] for i in rest)
        if not len(rest):
            return float(np.sqrt(max(2.0 * (top - held.loglik(here)), 0.0))), here
        end = maximise(held.unconstrained, here, held.n)
        return float(np.sqrt(max(2.0 * (top - end.value), 0.0))), end.u

    bounded = np.isfinite(parameter.lower) or np.isfinite(parameter.upper)
    ends = []
    for side in (-1.0, 1.0):
        near, far, here, step = peak[at], peak[at], peak[rest], z * spread
        # A flat likelihood has no width: in logarithms a factor of twenty is far enough to begin.
        step = min(step, 3.0) if bounded else step
        root_near, root = 0.0, 0.0
        for _ in range(40):
            far = far + side * step
            value = parameter.from_real(far)[0]
            if not (np.isfinite(value) and parameter.lower < value < parameter.upper):
                break
            root, place = drop(far, here)
            if root >= z or not np.isfinite(root):
                break
            near, root_near, here, step = far, root, place, 1.5 * step
        if not root >= z:
            ends.append(parameter.lower if _is_lower(parameter, side) else parameter.upper)
            continue
        for _ in range(60):
            # The signed root is almost linear in u, so the secant is near.
            share = (z - root_near) / (root - root_near) if np.isfinite(root) else 0.5
            middle = near + min(max(share, 0.05), 0.95) * (far - near)
            found, place = drop(middle, here)
            if found >= z:
                far, root = middle, found
            else:
                near, root_near, here = middle, found, place
            if abs(found - z) < 1e-9 or abs(far - near) < 1e-12 * max(abs(far), 1.0):
                near = middle
                break
        ends.append(parameter.from_real(near)[0])
    low, high = sorted(ends)
    return float(low), float(high)


def _is_lower(parameter: Parameter, side: float) -> bool:
    """Whether that direction of u leads to the lower end of the domain."""
    return (side < 0.0) == (parameter.from_real(0.0)[1] > 0.0)
