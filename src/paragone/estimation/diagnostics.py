r"""Did the chains find the same distribution, and how much are their draws worth?

Draws of a quantity from c chains are cut into 2c half chains of n. With W the mean variance within
and B/n the variance of the means, $\hat R = \sqrt{((n-1)/n\, W + B/n) / W}$ tends to 1. On ranks
mapped to normal scores it needs no moments; folded about the median it also sees unequal spread.
With the autocorrelations $\hat\rho_t$ of all half chains together, paired as
$P_k = \hat\rho_{2k} + \hat\rho_{2k+1}$ and cut where they turn negative, an independent sample of

$$ \mathrm{ESS} = \frac{2cn}{\hat\tau}, \qquad \hat\tau = -1 + 2 \sum_{k} \min_{j \le k} P_j $$

would be as good for the mean; the Monte Carlo standard error is sd / sqrt(ESS). `psis`, `loo`,
`waic` and `compare` judge weights and models.

References:
    Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), "Rank-normalization, folding, and
    localization: an improved R-hat", arXiv:1903.08008, eq. 1-4, 10, 13-14, appendix A.
    Geyer (1992), "Practical Markov chain Monte Carlo", section 3.3: the positive sequence.
    Betancourt (2016), "Diagnosing suboptimal cotangent disintegrations", arXiv:1604.00695, eq. 5.
    Margossian et al. (2024), "Nested R-hat", arXiv:2110.13017, eq. 3-6.

Shapes: draws (chains, draws, ...); results (...).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.estimation._psis import Elpd, compare, loo, psis, waic

__all__ = [
    "Elpd", "bfmi", "compare", "ess_bulk", "ess_mean", "ess_quantile", "ess_sd", "ess_tail", "loo",
    "mcse_mean", "mcse_quantile", "mcse_sd", "nested_rhat", "psis", "rhat", "to_inferencedata",
    "waic",
]  # fmt: skip


def _cut(draws: Any, split: bool = True) -> tuple[np.ndarray, tuple[int, ...]]:
    """Half chains (2c, n, q) of draws (c, draws, ...), and the shape of the rest."""
    found = np.asarray(draws, float)
    if found.ndim < 2 or found.shape[1] < 4:
        raise ValueError(
            f"draws of shape {found.shape}: give (chains, draws, ...) with 4 draws or more"
        )
    tail = found.shape[2:]
    flat = found.reshape(*found.shape[:2], -1)
    if split:
        half = flat.shape[1] // 2
        flat = np.concatenate([flat[:, :half], flat[:, -half:]])
    return flat, tail


def _unusable(halves: np.ndarray) -> Any:
    """Which quantities (q,) have a value that is not finite."""
    return ~np.isfinite(halves).all(axis=(0, 1))


@lru_cache(maxsize=8)
def _scores(size: int) -> np.ndarray:
    """Normal scores of the ranks 1, 1.5, 2, ..., size."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse((k / 2 - 0.375) / (size + 0.25)) for k in range(2, 2 * size + 1)])


def _ranked(halves: np.ndarray) -> np.ndarray:
    """Normal scores of the average ranks over all chains, for each quantity."""
    flat = halves.reshape(-1, halves.shape[-1])
    size = len(flat)
    order = np.argsort(flat, axis=0)
    ordered = np.take_along_axis(flat, order, axis=0)
    ranks = np.repeat(np.arange(1.0, size + 1)[:, None], flat.shape[1], axis=1)
    for q in np.flatnonzero((ordered[1:] == ordered[:-1]).any(axis=0)):
        _, first, count = np.unique(ordered[:, q], return_index=True, return_counts=True)
        ranks[:, q] = np.repeat(first + 0.5 * (count + 1), count)
    scores = np.empty_like(flat)
    placed = _scores(size)[(2 * ranks).astype(np.int64) - 2]
    np.put_along_axis(scores, order, placed, axis=0)
    return scores.reshape(halves.shape)


def _ratio(halves: np.ndarray) -> np.ndarray:
    n = halves.shape[1]
    within = halves.var(axis=1, ddof=1).mean(axis=0)
    between = n * halves.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt((between / within + n - 1) / n)


def rhat(draws: Any) -> Any:
    """Rank-normalised split R-hat, the larger of the bulk's and the folded one.

    Below 1.01 the chains agree. Prefer it to the classic ratio, which heavy tails blind.

    Args:
        draws: (chains, draws, ...).

    Returns:
        (...), NaN where a draw is not finite.

    Raises:
        ValueError: Fewer than 4 draws.

    Example:
        >>> round(float(rhat([[0.0, 1.0, 0.5, 0.2], [5.0, 6.0, 5.5, 5.2]])), 2)
        1.45
    """
    halves, tail = _cut(draws)
    bad = _unusable(halves)
    safe = np.where(bad, 0.0, halves)
    folded = np.abs(safe - np.median(safe, axis=(0, 1)))
    found = np.fmax(_ratio(_ranked(safe)), _ratio(_ranked(folded)))
    return np.where(bad, np.nan, found).reshape(tail)[()]


def nested_rhat(draws: Any, groups: int) -> Any:
    """R-hat of many short chains, of which those of one group started at one point.

    Args:
        draws: (chains, draws, ...), the chains of a group one after the other.
        groups: Number of groups; a divisor of the number of chains.

    Raises:
        ValueError: The groups do not divide the chains, or there are fewer than 2.
    """
    found = np.asarray(draws, float)
    chains = len(found)
    if groups < 2 or chains % groups:
        raise ValueError(f"groups={groups} of {chains} chains: use a divisor of 2 or above")
    cut = found.reshape(groups, chains // groups, *found.shape[1:])
    means = cut.mean(axis=2)
    within = means.var(axis=1, ddof=1) if cut.shape[1] > 1 else 0.0
    if cut.shape[2] > 1:
        within = within + cut.var(axis=2, ddof=1).mean(axis=1)
    between = means.mean(axis=1).var(axis=0, ddof=1)
    return np.sqrt(1 + between / np.mean(within, axis=0))


def _worth(halves: np.ndarray) -> np.ndarray:
    """Effective number of draws (q,) of half chains (c, n, q)."""
    bad = _unusable(halves)
    halves = np.where(bad, 0.0, halves)
    c, n, q = halves.shape
    centred = halves - halves.mean(axis=1, keepdims=True)
    length = 1 << (2 * n - 1).bit_length()
    wave = np.fft.rfft(centred, length, axis=1)
    power = (wave.real**2 + wave.imag**2).mean(axis=0)
    covariance = np.fft.irfft(power, length, axis=0)[:n] / n
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (halves.mean(axis=1).var(axis=0, ddof=1) if c > 1 else 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    constant = halves.max(axis=(0, 1)) - halves.min(axis=(0, 1)) < np.finfo(float).resolution
    found = np.empty(q)
    for j in range(q):
        found[j] = c * n if constant[j] else _of_autocorrelation(rho[:, j], c * n)
    return np.where(bad, np.nan, found)


def _of_autocorrelation(rho: np.ndarray, size: int) -> float:
    """Geyer's initial monotone sequence; the pair after it counts with its even half alone."""
    # Later pairs rest on hardly any products.
    count = max(1, (len(rho) - 1) // 2)
    pairs = rho[: 2 * count].reshape(-1, 2)
    sums = pairs.sum(axis=1)
    ends = np.flatnonzero(~(sums > 0))
    end = int(ends[0]) if len(ends) else count - 1
    even = pairs[end, 0] if sums[end] >= 0 else max(pairs[end, 0], 0.0)
    tau = -1 + 2 * np.minimum.accumulate(sums[:end]).sum() + even
    return size / max(tau, 1 / math.log10(size))


def ess_bulk(draws: Any) -> Any:
    """Effective sample size of the middle of the distribution (rank-normalised).

    Example:
        >>> values = np.random.default_rng(0).normal(size=(4, 500))
        >>> 1500 < float(ess_bulk(values)) < 2600
        True
    """
    halves, tail = _cut(draws)
    bad = _unusable(halves)
    found = _worth(_ranked(np.where(bad, 0.0, halves)))
    return np.where(bad, np.nan, found).reshape(tail)[()]


def ess_mean(draws: Any) -> Any:
    """Effective sample size for the mean."""
    halves, tail = _cut(draws)
    return _worth(halves).reshape(tail)[()]


def ess_quantile(draws: Any, probability: float) -> Any:
    """Effective sample size for a quantile."""
    if not 0 < probability < 1:
        raise ValueError(f"probability={probability}: use a value between 0 and 1")
    whole, tail = _cut(draws, split=False)
    bad = _unusable(whole)
    safe = np.where(bad, 0.0, whole)
    below = safe <= np.quantile(safe, probability, axis=(0, 1))
    found = _worth(_cut(below)[0])
    return np.where(bad, np.nan, found).reshape(tail)[()]


def ess_tail(draws: Any) -> Any:
    """The smaller of the effective sample sizes for the 5 % and the 95 % quantile."""
    return np.minimum(ess_quantile(draws, 0.05), ess_quantile(draws, 0.95))


def ess_sd(draws: Any) -> Any:
    """Effective sample size for the standard deviation."""
    draws = np.asarray(draws, float)
    return ess_mean((draws - draws.mean(axis=(0, 1))) ** 2)


def mcse_mean(draws: Any) -> Any:
    """Monte Carlo standard error of the mean."""
    return np.std(draws, axis=(0, 1), ddof=1) / np.sqrt(ess_mean(draws))


def mcse_sd(draws: Any) -> Any:
    """Monte Carlo standard error of the standard deviation, by the fourth moment."""
    draws = np.asarray(draws, float)
    squares = (draws - draws.mean(axis=(0, 1))) ** 2
    variance = squares.mean(axis=(0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = ((squares**2).mean(axis=(0, 1)) - variance**2) / ess_mean(squares)
        return np.sqrt(noise / variance / 4)


def mcse_quantile(draws: Any, probability: float) -> Any:
    """Monte Carlo standard error of a quantile, from order statistics a deviation away."""
    from scipy.special import betaincinv

    worth = np.asarray(ess_quantile(draws, probability))
    whole, tail = _cut(draws, split=False)
    ordered = np.sort(whole.reshape(-1, whole.shape[-1]), axis=0)
    size = len(ordered)
    a, b = worth * probability + 1, worth * (1 - probability) + 1
    places = [betaincinv(a, b, p).ravel() * size - 1 for p in (0.1586553, 0.8413447)]
    places = [np.nan_to_num(each) for each in places]
    low = np.floor(np.maximum(places[0], 0)).astype(int)
    high = np.ceil(np.minimum(places[1], size - 1)).astype(int)
    column = np.arange(ordered.shape[1])
    half = (ordered[high, column] - ordered[low, column]) / 2
    return np.where(np.isnan(worth.ravel()), np.nan, half).reshape(tail)[()]


def bfmi(energy: Any) -> np.ndarray:
    """Bayesian fraction of missing information of each chain, from energies (chains, draws).

    Below 0.3 the momenta are too weak for the tails: reparametrise.
    """
    energy = np.atleast_2d(np.asarray(energy, float))
    return (np.diff(energy, axis=1) ** 2).mean(axis=1) / energy.var(axis=1, ddof=1)


def to_inferencedata(draws: Any) -> Any:
    """Hands draws of `Model.sample` to ArviZ, if that is installed.

    Raises:
        ImportError: ArviZ is not installed.
    """
    arviz = resolve("arviz")
    names = {"logp": "lp", "leapfrogs": "n_steps", "depth": "tree_depth",
             "acceptance": "acceptance_rate", "step": "step_size"}  # fmt: skip
    stats = {names.get(name, name): values for name, values in draws.stats.items()}
    stats["diverging"] = stats["diverging"].astype(bool)
    return arviz.from_dict(posterior=dict(draws.draws), sample_stats=stats)
