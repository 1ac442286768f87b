r"""Pareto-smoothed importance sampling, and what it says of models.

The largest importance weights are replaced by the quantiles of a generalised Pareto distribution
fitted to them; its shape k tells whether the weights can be trusted: below 0.7 for some thousand
draws. Leaving observation i out has the weights $1 / p(y_i \mid \theta_s)$, so that the expected
log predictive density of new data costs no refit:

$$ \widehat{\mathrm{elpd}} = \sum_i \log \frac{\sum_s w_{is}\, p(y_i \mid \theta_s)}
   {\sum_s w_{is}} . $$

References:
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), "Pareto smoothed importance sampling",
    arXiv:1507.02646, section 2.
    Zhang and Stephens (2009), "A new and efficient estimation method for the generalized Pareto
    distribution", eq. 5-9.
    Vehtari, Gelman and Gabry (2017), "Practical Bayesian model evaluation using leave-one-out
    cross-validation and WAIC", arXiv:1507.04544, eq. 10-11, 23-24.

Shapes: S draws, n observations; log weights (..., S).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Elpd", "compare", "loo", "psis", "waic"]


def _pareto(excess: np.ndarray) -> tuple[float, float]:
    """Shape and scale of ascending excesses, by a posterior mean over a grid of theta."""
    n = len(excess)
    grid = 30 + int(math.sqrt(n))
    near = excess[int(n / 4 + 0.5) - 1]
    places = np.arange(1, grid + 1) - 0.5
    theta = 1 / excess[-1] + (1 - np.sqrt(grid / places)) / (3 * near)
    k = np.log1p(-theta[:, None] * excess).mean(axis=1)
    profile = n * (np.log(-theta / k) - k - 1)
    weight = np.exp(profile - profile.max())
    weight /= weight.sum()
    weight = np.where(weight >= 10 * np.finfo(float).eps, weight, 0)
    best = float((theta * weight).sum() / weight.sum())
    shape = float(np.log1p(-best * excess).mean())
    # A prior worth ten excesses at 0.5 steadies short tails.
    return (n * shape + 5) / (n + 10), -shape / best


def psis(log_weights: Any, relative_efficiency: float = 1.0) -> tuple[np.ndarray, Any]:
    """Smooths importance weights.

    Prefer it to plain or truncated weights wherever proposals are lighter in the tail than the
    target; the shape tells when neither helps.

    Args:
        log_weights: (..., S), up to a constant.
        relative_efficiency: ESS / S of the draws.

    Returns:
        Smoothed log weights (..., S) whose exponentials sum to one, and the shapes k (...); k is
        inf where there are too few draws for a tail (fewer than 5 in it), or they do not differ.

    Raises:
        ValueError: A weight is NaN or infinite, or there are none.

    Example:
        >>> weights, k = psis(np.random.default_rng(0).normal(size=4000))
        >>> bool(k < 0.7)
        True
    """
    given = np.asarray(log_weights, float)
    if given.size == 0 or np.isnan(given).any() or (given == np.inf).any():
        raise ValueError("log_weights are empty, NaN or inf: give finite values, or -inf")
    size = given.shape[-1]
    count = math.ceil(min(0.2 * size, 3 * math.sqrt(size / relative_efficiency)))
    rows = given.reshape(-1, size)
    found, shapes = np.empty_like(rows), np.empty(len(rows))
    for r, row in enumerate(rows):
        found[r], shapes[r] = _smoothed(row - row.max(), count)
    return found.reshape(given.shape), shapes.reshape(given.shape[:-1])[()]


def _smoothed(row: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    row, shape = row.copy(), math.inf
    order = np.argsort(row, kind="stable")
    floor = math.log(np.finfo(float).tiny)
    cutoff = max(row[order[-count - 1]] if count < len(row) else floor, floor)
    tail = np.flatnonzero(row > cutoff)
    if len(tail) > 4:
        tail = tail[np.argsort(row[tail], kind="stable")]
        start = math.exp(cutoff)
        excess = np.exp(row[tail]) - start
        if excess[-1] > excess[0] > 0:
            shape, scale = _pareto(excess)
            p = (np.arange(len(tail)) + 0.5) / len(tail)
            powers = -np.log1p(-p) if shape == 0 else np.expm1(-shape * np.log1p(-p)) / shape
            row[tail] = np.minimum(np.log(scale * powers + start), 0.0)
    row -= row.max()
    return row - math.log(np.exp(row).sum()), shape


@dataclass(frozen=True)
class Elpd:
    """Expected log predictive density of a model.

    Attributes:
        elpd: Sum over observations; higher is better.
        se: Standard error of the sum.
        p: Effective number of parameters.
        pointwise: (n,) contributions.
        k: (n,) Pareto shapes (of `loo`), or variances of the log likelihood (of `waic`).
        bad: How many observations cannot be trusted: k above `limit`.
        limit: 0.7, less with few draws; 0.4 for the variances of `waic`.
        kind: "loo" or "waic".
    """

    elpd: float
    se: float
    p: float
    pointwise: np.ndarray
    k: np.ndarray
    bad: int
    limit: float
    kind: str

    def __str__(self) -> str:
        warning = f"; {self.bad} of {len(self.k)} not to be trusted" if self.bad else ""
        return f"elpd_{self.kind} {self.elpd:.2f} (se {self.se:.2f}), p {self.p:.2f}{warning}"


def _table(log_likelihood: Any) -> np.ndarray:
    """(S, n) from (chains, draws, ...) or (S, n)."""
    found = np.asarray(log_likelihood, float)
    if found.ndim < 2 or not np.isfinite(found).all():
        raise ValueError(
            f"log_likelihood of shape {found.shape} must be finite, (chains, draws, n) or (S, n)"
        )
    return found if found.ndim == 2 else found.reshape(found.shape[0] * found.shape[1], -1)


def _log_mean(values: np.ndarray) -> np.ndarray:
    top = values.max(axis=0)
    return top + np.log(np.exp(values - top).mean(axis=0))


def loo(log_likelihood: Any, relative_efficiency: float | None = None) -> Elpd:
    """Leave-one-out cross-validation without refitting, from (chains, draws, n).

    Prefer it to `waic`, which has no comparable warning.

    Args:
        log_likelihood: Log density of each observation at each draw.
        relative_efficiency: ESS / S; None takes it from the likelihoods if chains are given.

    Raises:
        ValueError: A value is not finite.
    """
    given = np.asarray(log_likelihood, float)
    table = _table(given)
    size = len(table)
    if relative_efficiency is None:
        relative_efficiency = _efficiency(given) if given.ndim > 2 else 1.0
    weights, k = psis(-table.T, relative_efficiency)
    joint = weights.T + table
    top = joint.max(axis=0)
    pointwise = top + np.log(np.exp(joint - top).sum(axis=0))
    limit = min(1 - 1 / math.log10(size), 0.7)
    return _made(pointwise, _log_mean(table), k, limit, "loo")


def _efficiency(log_likelihood: np.ndarray) -> float:
    from paragone.estimation.diagnostics import ess_mean

    flat = log_likelihood.reshape(*log_likelihood.shape[:2], -1)
    top = flat.max(axis=(0, 1))
    return float(np.mean(ess_mean(np.exp(flat - top))) / (flat.shape[0] * flat.shape[1]))


def waic(log_likelihood: Any) -> Elpd:
    """Widely applicable information criterion on the scale of the log density."""
    table = _table(log_likelihood)
    whole, spread = _log_mean(table), table.var(axis=0, ddof=1)
    return _made(whole - spread, whole, spread, 0.4, "waic")


def _made(pointwise: Any, whole: Any, k: Any, limit: float, kind: str) -> Elpd:
    n = len(pointwise)
    return Elpd(
        elpd=float(pointwise.sum()), se=float(math.sqrt(n * pointwise.var())),
        p=float((whole - pointwise).sum()), pointwise=pointwise, k=np.asarray(k),
        bad=int((np.asarray(k) > limit).sum()), limit=limit, kind=kind,
    )  # fmt: skip


def compare(models: Mapping[str, Elpd]) -> list[dict[str, Any]]:
    """Orders models by elpd, best first, with the difference to the best and its standard error.

    A difference below about 4, or below two of its standard errors, is none to speak of.

    Raises:
        ValueError: Fewer than two models, or their observations or criteria differ.
    """
    if len(models) < 2 or len({(len(m.pointwise), m.kind) for m in models.values()}) > 1:
        raise ValueError("compare takes two models or more, of one criterion on one data set")
    ordered = sorted(models.items(), key=lambda pair: -pair[1].elpd)
    best = ordered[0][1]
    rows = []
    for name, found in ordered:
        gap = best.pointwise - found.pointwise
        rows.append({
            "model": name, "elpd": found.elpd, "se": found.se, "p": found.p,
            "difference": float(gap.sum()), "difference_se": float(math.sqrt(len(gap) * gap.var())),
            "bad": found.bad,
        })  # fmt: skip
    return rows
