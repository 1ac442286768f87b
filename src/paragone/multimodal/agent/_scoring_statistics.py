r"""Intervals of shares and of paired differences of shares.

The share of one task, k of n, has Wilson's interval,

$$ \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4n^2}}{1 + z^2 / n} . $$

The mean over tasks is resampled within each task: tasks are what was asked about, episodes are
what chance has dealt. Where all episodes came out alike there is nothing to resample, and the
interval is that of n equal outcomes, whose open end is $1 - (\alpha / 2)^{1/n}$.

References:
    Wilson (1927), J. Am. Stat. Assoc. 22, eq. 4 (the interval of a share).
    McNemar (1947), Psychometrika 12 (here with the exact binomial tail).
    Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 13 (percentiles).

Shapes: T tasks of n episodes each, which may differ from task to task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["exact_mcnemar", "mean_of_tasks", "wilson"]

_DRAWS, _Z = 4000, 1.959963984540054
_ALPHA = 0.05


def wilson(hits: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share.

    Args:
        hits: How often it happened.
        count: Of how many.

    Returns:
        Its ends; 0 and 1 of none.

    Raises:
        ValueError: More hits than tries, or fewer than none.

    Example:
        >>> [round(x, 3) for x in wilson(9, 10)]
        [0.596, 0.982]
    """
    if not 0 <= hits <= count:
        raise ValueError(f"{hits} hits of {count}: expected from 0 to {count}")
    if not count:
        return 0.0, 1.0
    share, square = hits / count, _Z * _Z
    middle = share + square / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    low, high = (middle - half) / (1 + square / count), (middle + half) / (1 + square / count)
    return (0.0 if hits == 0 else low), (1.0 if hits == count else high)


def mean_of_tasks(
    values: Sequence[np.ndarray], *, least: float = 0.0, most: float = 1.0, seed: int = 0
) -> tuple[float, float, float]:
    """The mean over tasks of their means, and its 95 % bootstrap interval.

    Args:
        values: For each of T tasks its episodes' values, (n,), one at least.
        least: The smallest possible value.
        most: The largest possible value.
        seed: Of the resampling.

    Returns:
        Mean, lower and upper end.

    Raises:
        ValueError: No tasks, or one without episodes.
    """
    if not values or any(len(one) == 0 for one in values):
        raise ValueError("a mean over tasks needs at least one episode of at least one task")
    rng = np.random.default_rng(seed)
    mean = float(np.mean([np.mean(one) for one in values]))
    draws = np.zeros(_DRAWS)
    for one in values:
        picked = rng.integers(0, len(one), (_DRAWS, len(one)))
        draws += np.asarray(one, float)[picked].mean(1) / len(values)
    if any(np.ptp(one) > 0 for one in values):
        low, high = np.quantile(draws, [_ALPHA / 2, 1 - _ALPHA / 2])
        return mean, float(low), float(high)
    # All alike: what may still have been missed in so many episodes.
    room = 1 - (_ALPHA / 2) ** (1 / sum(map(len, values)))
    span = most - least
    return mean, max(least, mean - room * span), min(most, mean + room * span)


def exact_mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p that two agents succeed equally often, from where just one of them does.

    Args:
        only_a: Episodes in which only the first succeeds.
        only_b: Those in which only the second does.

    Example:
        >>> exact_mcnemar(0, 5)
        0.0625
    """
    count, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(count, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**count) if count else 1.0
