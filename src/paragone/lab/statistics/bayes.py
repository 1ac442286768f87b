r"""Bayesian signed-rank test with a region of practical equivalence (ROPE).

In place of a p-value: how probable is it that `a` is practically better, the same, worse?
The distribution of the differences $z_1 \dots z_q$ is a Dirichlet process with prior strength
$s$ and a pseudo-observation $z_0$; its posterior gives weights
$w \sim \mathrm{Dir}(s, 1, \dots, 1)$ and, with half-width $r$,

$$ \theta_l = \sum_{i,j} w_i w_j [z_i + z_j < -2r], \quad
   \theta_r = \sum_{i,j} w_i w_j [z_i + z_j > 2r], \quad \theta_e = 1 - \theta_l - \theta_r . $$

The three answers are the shares of Monte Carlo draws in which each $\theta$ is the largest.

References:
    Benavoli, Corani, Demsar and Zaffalon (2017), "Time for a change", JMLR 18, sec. 4.2.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from paragone._core.random import RandomState, as_generator

__all__ = ["Rope", "bayesian_signed_rank"]


class Rope(NamedTuple):
    """Probabilities that the difference is practically negative, none, or positive."""

    left: float
    rope: float
    right: float


def bayesian_signed_rank(
    differences: ArrayLike,
    rope: float,
    *,
    strength: float = 0.5,
    draws: int = 50_000,
    random_state: RandomState = 0,
) -> Rope:
    """Posterior probabilities from the differences a - b over data sets.

    Args:
        differences: One for each data set.
        rope: Half-width of the region in which a difference does not matter.
        strength: Prior strength s of the pseudo-observation at zero.
        draws: Monte Carlo draws.
        random_state: Seed or generator.

    Example:
        >>> bayesian_signed_rank([3.0] * 10, rope=1.0).right > 0.99
        True
    """
    z = np.concatenate([[0.0], np.asarray(differences, dtype=float)])
    rng = as_generator(random_state)
    shape = np.ones(z.size)
    shape[0] = strength
    w = rng.dirichlet(shape, size=draws)
    sums = z[:, None] + z[None, :]
    left = ((w @ (sums < -2 * rope)) * w).sum(axis=1)
    right = ((w @ (sums > 2 * rope)) * w).sum(axis=1)
    largest = np.argmax(np.stack([left, 1 - left - right, right]), axis=0)
    shares = np.bincount(largest, minlength=3) / draws
    return Rope(float(shares[0]), float(shares[1]), float(shares[2]))
