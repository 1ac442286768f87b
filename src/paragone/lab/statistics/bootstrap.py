r"""Paired bootstrap: resample the test examples, the same ones for both contestants.

Both were asked the same questions, so the questions' difficulty cancels in the difference.
With losses $a_i, b_i$ of $m$ examples and resampled counts $w \sim$ multinomial$(m, 1/m)$

$$ \delta^* = g\Big(\frac{\sum_g w_g A_g}{\sum_g w_g n_g}\Big)
            - g\Big(\frac{\sum_g w_g B_g}{\sum_g w_g n_g}\Big) , $$

where an example is its own group, or $A_g, B_g, n_g$ are the sums and sizes of clusters
(patients, users, documents) when examples come in such; $g$ is the identity, or the root for
measures like RMSE. The interval is the percentile one. More than 4,000 groups are first dealt
at random into 2,000 bags, which leaves the variance of a mean as it is and bounds the cost.

Cost: O(draws x min(m, 4000) x contestants), one matrix product for all pairs.

References:
    Efron and Tibshirani (1993), "An Introduction to the Bootstrap", ch. 13;
    Field and Welsh (2007), "Bootstrapping clustered data", JRSS B 69 (clusters).
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from paragone._core.random import RandomState, as_generator
from paragone.lab.statistics.effect import Effect

__all__ = ["Link", "effect_of_draws", "paired_bootstrap", "resampled_means"]

Link = Literal["mean", "root"]
_MOST_GROUPS, _BAGS = 4000, 2000


def _grouped(losses: np.ndarray, groups: np.ndarray | None, rng: np.random.Generator):
    """Sums (K, G) and sizes (G,) of clusters, or of random bags of single examples."""
    if groups is not None:
        _, index = np.unique(groups, return_inverse=True)
        index = index.ravel()
    else:
        index = np.arange(losses.shape[1])
    if index.size and index.max() >= _MOST_GROUPS:
        bag = rng.permutation(int(index.max()) + 1) % _BAGS
        index = bag[index]
    sizes = np.bincount(index).astype(float)
    sums = np.stack([np.bincount(index, weights=row, minlength=sizes.size) for row in losses])
    return sums, sizes


def resampled_means(
    losses: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    draws: int = 2000,
    link: Link = "mean",
    random_state: RandomState = 0,
) -> np.ndarray:
    """Bootstrap draws of every contestant's score, the same resampled examples for all.

    Args:
        losses: (contestants, examples).
        groups: Cluster of each example; None: each is its own.
        draws: Number of resamples.
        link: "mean", or "root" for the root of the mean.
        random_state: Seed or generator.

    Returns:
        (draws, contestants).
    """
    values = np.atleast_2d(np.asarray(losses, dtype=float))
    if values.shape[1] == 0 or not np.isfinite(values).all():
        raise ValueError(f"losses of shape {values.shape} must be finite and not empty")
    rng = as_generator(random_state)
    sums, sizes = _grouped(values, None if groups is None else np.asarray(groups), rng)
    count = sizes.size
    out = np.empty((draws, values.shape[0]))
    step = max(1, 4_000_000 // count)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        picks = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        weights = np.bincount(picks.ravel(), minlength=rows * count).reshape(rows, count)
        weights = weights.astype(float)
        out[start : start + rows] = (weights @ sums.T) / (weights @ sizes)[:, None]
    return np.sqrt(np.maximum(out, 0)) if link == "root" else out


def effect_of_draws(estimate: float, draws: np.ndarray, count: int, level: float = 0.05) -> Effect:
    """Percentile interval and two-sided p-value of bootstrap draws of a difference."""
    low, high = np.quantile(draws, (level / 2, 1 - level / 2))
    beyond = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    p = min(1.0, 2 * float(beyond + 1) / (draws.size + 1))
    return Effect(float(estimate), float(low), float(high), p, count, "paired bootstrap")


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    draws: int = 2000,
    level: float = 0.05,
    link: Link = "mean",
    random_state: RandomState = 0,
) -> Effect:
    """Difference of two contestants' scores on one test set, from their per-example losses.

    Args:
        a: Losses of the first, one for each test example.
        b: Losses of the second on the same examples.
        groups: Cluster of each example, when examples are not independent.
        draws: Number of resamples.
        level: One minus the coverage.
        link: "mean", or "root" for measures such as RMSE.
        random_state: Seed or generator.

    Example:
        >>> paired_bootstrap([1.0, 2.0, 3.0], [0.5, 1.5, 2.5]).estimate
        0.5
    """
    losses = np.stack([np.asarray(a, dtype=float), np.asarray(b, dtype=float)])
    found = resampled_means(losses, groups, draws=draws, link=link, random_state=random_state)
    means = losses.mean(axis=1)
    score = np.sqrt(means) if link == "root" else means
    return effect_of_draws(score[0] - score[1], found[:, 0] - found[:, 1], losses.shape[1], level)
