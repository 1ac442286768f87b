r"""Few runs on several tasks: interquartile mean and probability of improvement.

Means are ruled by outlying runs, medians waste data. The interquartile mean drops the lowest
and the highest quarter of all runs x tasks and averages the rest. Uncertainty comes from the
stratified bootstrap: runs are resampled with replacement within each task. The probability
that a run of X beats a run of Y on a random task is

$$ P(X > Y) = \frac1M \sum_{m=1}^{M} \frac{1}{N K} \sum_{i \le N, j \le K}
   \big([x_{im} > y_{jm}] + \tfrac12 [x_{im} = y_{jm}]\big) . $$

References:
    Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical
    precipice", NeurIPS, arXiv:2108.13264, sec. 4; the definitions are those of `rliable`.

Symbols: N, K runs, M tasks; scores are (runs, tasks).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from paragone._core.random import RandomState, as_generator
from paragone.lab.statistics.effect import Effect

__all__ = [
    "interquartile_mean", "iqm_difference", "probability_of_improvement", "stratified_interval",
]  # fmt: skip


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of the middle half of all runs on all tasks.

    Example:
        >>> interquartile_mean([0.0, 1.0, 2.0, 100.0])
        1.5
    """
    x = np.sort(np.asarray(scores, dtype=float), axis=None)
    cut = x.size // 4
    return float(x[cut : x.size - cut].mean())


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """Chance that a run of `x` scores higher than a run of `y`, averaged over tasks.

    Args:
        x: Scores (runs, tasks).
        y: Scores (runs, tasks), the same tasks.
    """
    a, b = (np.atleast_2d(np.asarray(s, dtype=float)) for s in (x, y))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{a.shape[1]} and {b.shape[1]} tasks: both need the same tasks")
    gap = a[:, None, :] - b[None, :, :]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def _resample(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    runs, tasks = scores.shape
    return np.take_along_axis(scores, rng.integers(0, runs, (runs, tasks)), axis=0)


def stratified_interval(
    statistic: Callable[..., float],
    *samples: ArrayLike,
    draws: int = 2000,
    level: float = 0.05,
    random_state: RandomState = 0,
) -> tuple[float, float, float]:
    """A statistic of (runs, tasks) arrays with its stratified percentile interval.

    Args:
        statistic: Called with as many arrays as are given.
        samples: Scores (runs, tasks); each is resampled on its own, within tasks.
        draws: Number of resamples.
        level: One minus the coverage.
        random_state: Seed or generator.
    """
    arrays = [np.atleast_2d(np.asarray(s, dtype=float)) for s in samples]
    rng = as_generator(random_state)
    found = [statistic(*(_resample(a, rng) for a in arrays)) for _ in range(draws)]
    low, high = np.quantile(found, (level / 2, 1 - level / 2))
    return float(statistic(*arrays)), float(low), float(high)


def iqm_difference(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.05, random_state: RandomState = 0
) -> Effect:
    """Difference of two interquartile means with its stratified bootstrap interval."""
    first = np.atleast_2d(np.asarray(a, dtype=float))

    def gap(x: np.ndarray, y: np.ndarray) -> float:
        return interquartile_mean(x) - interquartile_mean(y)

    estimate, low, high = stratified_interval(gap, first, b, level=level, random_state=random_state)
    return Effect(estimate, low, high, None, first.shape[0], "interquartile mean")
