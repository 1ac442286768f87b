r"""Covariance matrices of estimates: observed, expected and sandwich.

$$ \hat V = (-\ell'')^{-1}, \qquad \hat V = \bigl(-n\, E[\ell_1'']\bigr)^{-1}, \qquad
   \hat V = (\ell'')^{-1} \Bigl( \sum_i w_i s_i s_i^\top \Bigr) (\ell'')^{-1}, $$

in the parameters themselves, since the score is 0 at the maximum. A parameter at an end of its
domain or of the support, at a kink, or without information has no such variance: it gets NaN
and a reason, and the others are as if it were known.

References:
    Efron and Hinkley (1978), "Assessing the accuracy of the maximum likelihood estimator".
    White (1982), "Maximum likelihood estimation of misspecified models", theorem 3.2.

Shapes: p parameters of the family.
"""

from __future__ import annotations

import numpy as np

from paragone.estimation._likelihood import Problem
from paragone.estimation.families._family import Family

__all__ = ["INFORMATION", "covariance_of", "expected_hessian", "law_points"]

INFORMATION = ("observed", "expected", "sandwich")


def law_points(family: Family, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights with which sums are means under the law.

    The nodes are those of the tanh-sinh rule in probability, so that tails and logarithmic ends
    cost nothing; of a discrete law all values with mass above 1e-17.
    """
    if family.discrete:
        low, high = float(family.ppf(1e-17, theta)), float(family.isf(1e-17, theta))
        if not high - low < 1e7:
            raise ValueError(f"{family.name} has too long a tail here: use information='observed'")
        x = np.arange(low, high + 1.0)
        return x, family.pdf(x, theta)
    # Half by half: a density may have a kink at its median.
    t = np.arange(-110, 111) * 0.04
    q = np.pi * np.sinh(t)
    p = 0.5 * np.exp(-np.logaddexp(0.0, -q))
    w = np.tile(0.04 * np.pi * np.cosh(t) * p * np.exp(-np.logaddexp(0.0, q)), 2)
    x = np.concatenate((family.ppf(p, theta), family.isf(p, theta)))
    low, high = family.support(theta)
    used = np.isfinite(x) & (x > low) & (x < high)
    return x[used], w[used]


def expected_hessian(family: Family, theta: np.ndarray) -> np.ndarray:
    """Minus the information of one observation (p, p), as the mean of minus the squared score."""
    x, w = law_points(family, theta)
    score = family.pointwise(x, theta)[1]
    return -(score * w[:, None]).T @ score


def covariance_of(
    problem: Problem, theta: np.ndarray, second: np.ndarray, without: dict[str, str], kind: str
) -> tuple[np.ndarray, dict[str, str]]:
    """(covariance (p, p), reasons): NaN for each parameter with a reason, 0 for fixed ones.

    Args:
        problem: The objective whose maximum theta is.
        theta: Free parameters.
        second: Second derivatives of the objective there.
        without: Reasons why parameters have no variance, by name.
        kind: One of `INFORMATION`.
    """
    if kind not in INFORMATION:
        raise ValueError(f"information={kind!r} is none of {', '.join(INFORMATION)}")
    seen, names = problem.observations, problem.family.names
    reasons = dict(without)
    if kind == "expected" and (seen.censored or seen.truncated):
        raise ValueError(
            "information='expected' needs complete data: how later observations would be censored "
            "or truncated is not known; use 'observed' or 'sandwich'"
        )
    full = problem.full(theta)
    if kind == "expected":
        hessian = seen.n * expected_hessian(problem.family, full)
        reasons = {name: why for name, why in reasons.items() if name not in problem.family.kinks}
    else:
        # The rows of all parameters, so that names and places agree.
        hessian = np.zeros((len(names), len(names)))
        at = [names.index(name) for name in problem.free]
        hessian[np.ix_(at, at)] = second
    covariance = np.zeros((len(names), len(names)))
    for name in reasons:
        covariance[names.index(name)] = covariance[:, names.index(name)] = np.nan
    used = [names.index(name) for name in problem.free if name not in reasons]
    if not used:
        return covariance, reasons
    part = -hessian[np.ix_(used, used)]
    width = np.sqrt(np.abs(np.diag(part)))
    width[width == 0.0] = 1.0
    scaled = part / np.outer(width, width)
    values, vectors = np.linalg.eigh(scaled)
    if not (np.isfinite(scaled).all() and values[0] > 1e-12 * len(used)):
        why = "the information matrix is singular here: the data do not tell these parameters apart"
        reasons.update({names[i]: why for i in used})
        covariance[np.ix_(used, used)] = np.nan
        return covariance, reasons
    inverse = (vectors / values) @ vectors.T / np.outer(width, width)
    if kind == "sandwich":
        rows, weights = problem.scores(theta)
        free = [problem.free.index(names[i]) for i in used]
        meat = (rows[:, free] * weights[:, None]).T @ rows[:, free]
        inverse = inverse @ meat @ inverse
    covariance[np.ix_(used, used)] = (inverse + inverse.T) / 2.0
    return covariance, reasons
