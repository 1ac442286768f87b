r"""Wilcoxon's signed-rank test and the Hodges-Lehmann estimate that belongs to it.

Rank the absolute differences; $W^+ = \sum_{d_i > 0} r_i$. When the two are alike, every sign
is a fair coin given $|d_i|$, so the exact distribution of $W^+$ is a convolution,

$$ P(W^+ = w) = 2^{-n}\, [x^w] \prod_{i=1}^n (1 + x^{r_i}) , $$

computed here with doubled ranks so that ties (midranks) stay whole numbers. Zeros are dropped
(Wilcoxon), ranked and then dropped (Pratt), or split between the signs (Demsar). From n = 51
on the normal approximation with tie correction is used.

The location that the test accepts at level $\alpha$ lies between two order statistics of the
$n(n+1)/2$ Walsh averages $(d_i + d_j)/2$, whose median is the estimate. It is exact for any
symmetric noise, at 95 % of the mean's efficiency under normal noise and far above it with
outliers.

Cost: O(n^3) exact p-value, O(n^2 log n) interval.

References:
    Wilcoxon (1945), Biometrics Bull. 1; Pratt (1959), JASA 54; Hodges and Lehmann (1963),
    Ann. Math. Stat. 34; Hollander, Wolfe and Chicken (2014), ch. 3, eq. 3.23 and 3.31.
"""

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from paragone.lab.statistics.effect import Effect

__all__ = ["SignedRank", "average_ranks", "pseudo_median", "wilcoxon"]

Zeros = Literal["wilcox", "pratt", "split"]
_MOST_EXACT = 50


class SignedRank(NamedTuple):
    """Rank sums of the positive and negative differences, and the two-sided p-value."""

    plus: float
    minus: float
    p: float
    n: int
    exact: bool


def average_ranks(values: ArrayLike) -> np.ndarray:
    """Ranks from 1 on, ties sharing their mean rank.

    Example:
        >>> average_ranks([10, 20, 20, 5]).tolist()
        [2.0, 3.5, 3.5, 1.0]
    """
    x = np.asarray(values, dtype=float)
    _, index, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[index.ravel()]


def _distribution(doubled: np.ndarray) -> np.ndarray:
    """Probabilities of twice W+ = 0, 1, 2 ... for these doubled ranks."""
    chance = np.ones(1)
    for rank in doubled:
        longer = np.zeros(chance.size + int(rank))
        longer[: chance.size] = chance
        longer[int(rank) :] += chance
        chance = longer / 2
    return chance


def wilcoxon(differences: ArrayLike, *, zeros: Zeros = "wilcox") -> SignedRank:
    """Two-sided signed-rank test of paired differences.

    Args:
        differences: One for each data set or block.
        zeros: What happens to zero differences.

    Example:
        >>> wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0]).p
        0.0625
    """
    d = np.asarray(differences, dtype=float)
    if not np.isfinite(d).all():
        raise ValueError("differences must be finite: leave out pairs that were not measured")
    if zeros == "wilcox":
        d = d[d != 0]
    ranks = average_ranks(np.abs(d))
    plus, minus = float(ranks[d > 0].sum()), float(ranks[d < 0].sum())
    if zeros == "split":
        # Demsar (2006): an odd zero out is ignored, the others count half for each side.
        blanks = np.flatnonzero(d == 0)
        if blanks.size % 2:
            d = np.delete(d, blanks[0])
            return wilcoxon(d, zeros="split")
        shared = float(ranks[d == 0].sum()) / 2
        plus, minus = plus + shared, minus + shared
    signed = ranks[d != 0] if zeros != "split" else ranks
    if signed.size == 0:
        return SignedRank(plus, minus, 1.0, int(d.size), True)
    if signed.size <= _MOST_EXACT:
        doubled = np.sort(np.rint(2 * signed))
        if np.array_equal(doubled, 2 * np.arange(1, signed.size + 1)):
            tail = _tail(signed.size)[round(min(plus, minus))]
        else:
            tail = _distribution(doubled)[: round(2 * min(plus, minus)) + 1].sum()
        return SignedRank(plus, minus, min(1.0, 2 * float(tail)), int(d.size), True)
    from scipy.special import ndtr

    spread = math.sqrt(float((signed**2).sum()) / 4)
    z = (min(plus, minus) - signed.sum() / 2) / spread
    return SignedRank(plus, minus, min(1.0, 2 * float(ndtr(z))), int(d.size), False)


@lru_cache(maxsize=256)
def _tail(count: int) -> np.ndarray:
    """P(W+ <= w) for w = 0, 1, 2 ... without ties."""
    return np.cumsum(_distribution(np.arange(1, count + 1)))


@lru_cache(maxsize=256)
def _upper(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(count)


def pseudo_median(differences: ArrayLike, *, level: float = 0.05) -> Effect:
    """Hodges-Lehmann estimate with the interval that the signed-rank test accepts.

    Where n is so small that even n equal signs would not reach `level`, the interval is the
    estimate plus and minus Student's half-width.

    Args:
        differences: Paired differences, such as log-ratios over blocks.
        level: One minus the coverage.
    """
    d = np.asarray(differences, dtype=float)
    n, name = d.size, "Hodges-Lehmann, signed-rank interval"
    if n == 0 or not np.isfinite(d).all():
        raise ValueError(f"{n} differences: at least one is needed and all must be finite")
    first, second = _upper(n)
    walsh = np.sort((d[first] + d[second]) / 2)
    centre = float(np.median(walsh))
    if n == 1:
        return Effect(centre, None, None, None, 1, name)
    if 2.0 ** (1 - n) > level:
        from scipy.special import stdtr, stdtrit

        error = float(d.std(ddof=1)) / math.sqrt(n)
        half = float(stdtrit(n - 1, 1 - level / 2)) * error
        p = 2 * float(stdtr(n - 1, -abs(centre) / error)) if error > 0 else float(centre == 0)
        return Effect(centre, centre - half, centre + half, p, n, "Hodges-Lehmann, t interval")
    if n <= 2 * _MOST_EXACT:
        below = int(np.searchsorted(_tail(n), level / 2, side="right"))
    else:
        from scipy.special import ndtri

        spread = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        below = max(1, int(n * (n + 1) / 4 + ndtri(level / 2) * spread))
    return Effect(centre, float(walsh[below - 1]), float(walsh[-below]), wilcoxon(d).p, n, name)
