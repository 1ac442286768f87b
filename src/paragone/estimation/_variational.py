r"""The normal that is closest to a posterior, by one deterministic optimisation.

The bound $\mathcal{L}(\mu, L) = \mathbb{E}_z \log p(\mu + L z) + \log |L| + \text{const}$ is taken
over S draws z that are fixed once, and so is an ordinary function with an exact gradient, which a
quasi-Newton method climbs to the top: no step sizes, no stopping by eye. The draws are paired with
their negatives and rotated to have covariance one exactly, so that a normal posterior is found
exactly. "Full rank" has a lower triangle for L, "mean field" a diagonal, which understates spread
when parameters are correlated. The Pareto shape of the weights says how good the fit is.

Cost: S gradients a step.

References:
    Kucukelbir et al. (2017), "Automatic differentiation variational inference", JMLR 18, eq. 5-9.
    Giordano, Ingram and Broderick (2024), "Black box variational inference with a deterministic
    objective", JMLR 25, section 3.
    Yao, Vehtari, Simpson and Gelman (2018), "Yes, but did it work?", arXiv:1802.02538.

Shapes: m unconstrained numbers, S fixed draws.
"""

from __future__ import annotations

import time

import numpy as np

from paragone.estimation._approximate import NormalApproximation, find_mode
from paragone.estimation._density import Target

__all__ = ["fit_normal"]


def _fixed_draws(generator: np.random.Generator, size: int, m: int) -> np.ndarray:
    """Draws (size, m) with mean 0 and covariance 1, exactly."""
    half = generator.standard_normal((size // 2, m))
    root = np.linalg.cholesky(half.T @ half / len(half))
    half = np.linalg.solve(root, half.T).T
    return np.concatenate([half, -half])


def fit_normal(
    target: Target, full_rank: bool, starts: np.ndarray, generator: np.random.Generator, size: int
) -> NormalApproximation:
    """Fits the normal; `size` fixed draws, at least four for each unconstrained number."""
    from scipy.optimize import minimize

    begin = time.perf_counter()
    m = starts.shape[1]
    size = max(size, 4 * m) // 2 * 2
    z = _fixed_draws(generator, size, m)
    mean, scale = starts[0], np.full(m, 0.1)
    try:
        mode, hessian = find_mode(target, "unconstrained", starts)
        mean, scale = mode.unconstrained, 1 / np.sqrt(np.diag(hessian))
    except ValueError:
        # No peak: the bound may still have one.
        pass
    low, diagonal = np.tril_indices(m, -1), np.arange(m)

    def unpack(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        factor = np.zeros((m, m))
        factor[diagonal, diagonal] = np.exp(found[m : 2 * m])
        if full_rank:
            factor[low] = found[2 * m :]
        # In units of the start, so that one step fits all.
        return mean + scale * found[:m], scale[:, None] * factor

    def fall(found: np.ndarray) -> tuple[float, np.ndarray]:
        centre, factor = unpack(found)
        values, gradients = target.rows(centre + z @ factor.T)
        if not np.isfinite(values).all():
            return 1e300, np.zeros_like(found)
        gradients = gradients * scale
        spread = gradients.T @ z / size
        slope = np.empty_like(found)
        slope[:m] = gradients.mean(axis=0)
        slope[m : 2 * m] = spread[diagonal, diagonal] * np.exp(found[m : 2 * m]) + 1
        if full_rank:
            slope[2 * m :] = spread[low]
        return -float(values.mean() + found[m : 2 * m].sum()), -slope

    first = np.zeros(2 * m + (len(low[0]) if full_rank else 0))
    options = {"maxiter": 3000, "maxfun": 6000, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-7}
    found = minimize(fall, first, jac=True, method="L-BFGS-B", options=options)
    if not np.isfinite(found.fun) or found.fun > 1e299:
        raise ValueError(
            "the variational bound is not finite near the start: give init a point inside"
        )
    centre, factor = unpack(found.x)
    return NormalApproximation(
        target, centre, factor, "variational", np.nan, time.perf_counter() - begin, generator
    )
