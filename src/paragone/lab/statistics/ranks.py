r"""Many contestants on many data sets: mean ranks, Friedman's test, cliques.

Rank the $k$ contestants on each of $N$ data sets (1 is best, ties share), average over data
sets to $R_j$. Friedman asks whether all are alike, Iman and Davenport sharpen it:

$$ \chi_F^2 = \frac{12N}{k(k+1)}\Big[\sum_j R_j^2 - \frac{k(k+1)^2}{4}\Big] / c, \qquad
   F_F = \frac{(N-1)\chi_F^2}{N(k-1) - \chi_F^2} \sim F_{k-1,(k-1)(N-1)} , $$

with $c = 1 - \sum (t^3 - t) / (N k (k^2-1))$ for ties (groups of $t$ equal ranks). Two mean
ranks differ by Nemenyi's test when they are farther apart than

$$ CD = q_\alpha \sqrt{k(k+1) / (6N)}, \qquad
   P(\mathrm{range} \le \sqrt2 q) = k \int \varphi(z) [\Phi(z) - \Phi(z - \sqrt2 q)]^{k-1} dz . $$

A clique is a longest run of contestants, in order of mean rank, in which none differs from
another; it is drawn as a bar. Pairwise Wilcoxon tests with Holm's correction are to be
preferred to Nemenyi's, whose verdict on two contestants depends on who else takes part.

References:
    Demsar (2006), "Statistical comparisons of classifiers over multiple data sets", JMLR 7,
    sec. 3.2; Benavoli, Corani and Mangili (2016), JMLR 17 (against mean-rank post-hocs).

Symbols: k contestants, N data sets.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from paragone.lab.statistics.multiplicity import holm
from paragone.lab.statistics.wilcoxon import average_ranks, wilcoxon

__all__ = [
    "Friedman",
    "cliques",
    "friedman",
    "nemenyi_difference",
    "rank_table",
    "wilcoxon_holm",
    "win_tie_loss",
]  # fmt: skip


class Friedman(NamedTuple):
    """Friedman's statistic and Iman and Davenport's, with their p-values."""

    chi2: float
    p_chi2: float
    f: float
    p_f: float


def rank_table(scores: ArrayLike, better: str = "lower") -> np.ndarray:
    """Ranks (N, k) of the contestants on each data set, 1 for the best.

    Args:
        scores: (N, k), data sets by contestants.
        better: "lower" or "higher".
    """
    table = np.asarray(scores, dtype=float)
    sign = 1.0 if better == "lower" else -1.0
    return np.stack([average_ranks(sign * row) for row in table])


def friedman(ranks: ArrayLike, *, correct_ties: bool = True) -> Friedman:
    """Tests whether all contestants are alike, from their ranks (N, k).

    Args:
        ranks: From `rank_table`.
        correct_ties: Whether to divide by c; Demsar's worked example does not.

    Example:
        >>> round(friedman([[1, 2, 3], [1, 2, 3], [1, 3, 2]]).chi2, 3)
        4.667
    """
    from scipy.special import chdtrc, fdtrc

    r = np.asarray(ranks, dtype=float)
    N, k = r.shape
    if N < 2 or k < 2:
        raise ValueError(f"ranks of shape {r.shape}: at least 2 data sets and 2 contestants")
    ties = sum(
        float((c**3 - c).sum()) for row in r for c in [np.unique(row, return_counts=True)[1]]
    )
    correction = 1 - ties / (N * k * (k * k - 1)) if correct_ties else 1.0
    if correction <= 0:
        return Friedman(0.0, 1.0, 0.0, 1.0)
    means = r.mean(axis=0)
    chi2 = 12 * N / (k * (k + 1)) * (float((means**2).sum()) - k * (k + 1) ** 2 / 4) / correction
    room = N * (k - 1) - chi2
    f = (N - 1) * chi2 / room if room > 1e-12 * N * k else np.inf
    p_f = float(fdtrc(k - 1, (k - 1) * (N - 1), f)) if np.isfinite(f) else 0.0
    return Friedman(chi2, float(chdtrc(k - 1, max(chi2, 0.0))), float(f), p_f)


def _range_quantile(k: int, level: float) -> float:
    """Upper quantile of the range of k standard normals, by bisection on its integral."""
    from scipy.special import ndtr

    z = np.linspace(-9, 9, 4001)
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        inside = k * float((density * (ndtr(z) - ndtr(z - middle)) ** (k - 1)).sum())
        low, high = (middle, high) if inside < 1 - level else (low, middle)
    return high


def nemenyi_difference(k: int, N: int, level: float = 0.05) -> float:
    """Nemenyi's critical difference of mean ranks.

    Example:
        >>> round(nemenyi_difference(4, 14, 0.10), 3)
        1.118
    """
    return _range_quantile(k, level) * math.sqrt(k * (k + 1) / (12 * N))


def wilcoxon_holm(scores: ArrayLike) -> np.ndarray:
    """Holm-adjusted p-values (k, k) of Wilcoxon's test for all pairs; the diagonal is 1."""
    table = np.asarray(scores, dtype=float)
    k = table.shape[1]
    first, second = np.triu_indices(k, 1)
    raw = [wilcoxon(table[:, i] - table[:, j]).p for i, j in zip(first, second, strict=True)]
    out = np.ones((k, k))
    out[first, second] = out[second, first] = holm(raw)
    return out


def cliques(mean_ranks: ArrayLike, different: ArrayLike) -> list[list[int]]:
    """Longest runs of contestants, in rank order, of which no two differ.

    Args:
        mean_ranks: (k,), lower is better.
        different: (k, k) booleans.

    Returns:
        Lists of indices, best first; only maximal ones of at least two.
    """
    order = np.argsort(np.asarray(mean_ranks, dtype=float), kind="stable")
    apart = np.asarray(different, dtype=bool)[np.ix_(order, order)]
    found, reached = [], 0
    for start in range(order.size):
        stop = start + 1
        while stop < order.size and not apart[start : stop + 1, start : stop + 1].any():
            stop += 1
        if stop - start > 1 and stop > reached:
            found.append([int(i) for i in order[start:stop]])
            reached = stop
    return found


def win_tie_loss(
    a: ArrayLike, b: ArrayLike, margin: float = 0.0, better: str = "lower"
) -> tuple[int, int, int]:
    """Data sets on which `a` wins, ties (within `margin`), loses against `b`.

    Example:
        >>> win_tie_loss([1, 2, 3], [2, 2, 1])
        (1, 1, 1)
    """
    d = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    d = d if better == "lower" else -d
    wins, losses = int((d < -margin).sum()), int((d > margin).sum())
    return wins, d.size - wins - losses, losses
