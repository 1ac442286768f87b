r"""Ranks families of distributions on one set of data, and tests the best of them.

Every family is fitted by maximum likelihood, and ranked by what its likelihood promises for new
data: Akaike's criterion, corrected or not, Schwarz's, or leave-one-out. With $\Delta$ the
distance from the best, the weights

$$ w_j = \frac{e^{-\Delta_j / 2}}{\sum_k e^{-\Delta_k / 2}} $$

say how much the data prefer each. Leave-one-out takes one Newton step from the fit for each
observation that is left out, with A the information of the others, s and H its own score and
Hessian:

$$ \ell_i(\hat\theta_{-i}) \approx \ell_i + s_i^\top \delta_i + \tfrac12 \delta_i^\top H_i \delta_i,
   \qquad \delta_i = -A_i^{-1} s_i . $$

A rank says which family is nearest, not that it is near: the bootstrap test of the best ones
(`_goodness`) does. Families are never ranked by p-values, which fall with n for all but the true
one, nor by the distance from a histogram, which hangs on its bins.

Cost: one fit a family; the test costs `bootstrap` fits a tested family.

References:
    Burnham and Anderson (2002), "Model selection and multimodel inference", section 2.9.
    Stone (1977), "An asymptotic equivalence of choice of model by cross-validation and Akaike's
    criterion".

Shapes: n observations, p parameters.
"""

from __future__ import annotations

import math
import warnings as _warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from paragone.estimation import families as laws
from paragone.estimation._fit import Fit
from paragone.estimation._goodness import STATISTICS, bootstrap_p, statistics
from paragone.estimation._observations import Observations, read
from paragone.estimation.families import Family
from paragone.estimation.fitting import fit_observations

__all__ = ["Ranked", "Ranking", "rank"]

_CRITERIA = ("aic", "aicc", "bic", "loo")


@dataclass
class Ranked:
    """One family in a ranking.

    Attributes:
        family: Its name.
        k: Number of estimated parameters.
        loglik: Log-likelihood at the maximum.
        aic: Akaike's criterion.
        aicc: The same, corrected for few observations.
        bic: Schwarz's criterion.
        loo: Minus twice the leave-one-out log-likelihood; NaN unless it ranks.
        weight: Share of the families' weights.
        statistic: Distance from the data, see `gof`.
        p_value: By the bootstrap with refits; NaN where it was not asked for.
        draws: Bootstrap draws that gave a statistic.
        status: "ok", "limit" (the maximum stands for a limit, or a warning was given),
            "outside" (the data do not fit the support) or "failed".
        reason: Why, if not "ok".
        fit: The `Fit`, or None.
    """

    family: str
    k: int = 0
    loglik: float = math.nan
    aic: float = math.nan
    aicc: float = math.nan
    bic: float = math.nan
    loo: float = math.nan
    weight: float = 0.0
    statistic: float = math.nan
    p_value: float = math.nan
    draws: int = 0
    status: str = "ok"
    reason: str = ""
    fit: Fit | None = None


class Ranking:
    """Families in order, the best first.

    Attributes:
        rows: One `Ranked` a family; those that could not be fitted are last.
        criterion: What ranks.
        gof: Statistic of the distance, or None.
        n: Number of observations.
        kind: "continuous", "discrete", or "mixed".
    """

    def __init__(
        self, rows: list[Ranked], criterion: str, gof: str | None, n: float, kind: str
    ) -> None:
        self.rows, self.criterion, self.gof, self.n, self.kind = rows, criterion, gof, n, kind

    @property
    def best(self) -> Fit:
        """The fit of the first family.

        Raises:
            ValueError: No family could be fitted.
        """
        if not self.rows or self.rows[0].fit is None:
            raise ValueError(
                f"none of {len(self.rows)} families fits these data: see the reasons in the table, "
                "and name others in families="
            )
        return self.rows[0].fit

    def __getitem__(self, family: str) -> Ranked:
        name = laws.get(family).name
        for row in self.rows:
            if row.family == name:
                return row
        raise ValueError(f"{name} was not ranked: name it in families=")

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns by name, as every data frame takes them."""
        names = [each.name for each in fields(Ranked) if each.name != "fit"]
        return {name: [getattr(row, name) for row in self.rows] for name in names}

    def __str__(self) -> str:
        fitted = [row for row in self.rows if row.fit is not None]
        lead = self.criterion
        tested = any(not math.isnan(row.p_value) for row in self.rows)
        head = f"{'':26}{'k':>3}{'loglik':>13}{lead:>13}{'delta':>10}{'weight':>8}"
        if self.gof:
            head += f"{self.gof:>11}"
        if tested:
            head += f"{'p':>8}"
        lines = [f"{len(fitted)} {self.kind} families by {lead}, n = {self.n:g}", head]
        best = getattr(fitted[0], lead) if fitted else math.nan
        for row in fitted:
            value = getattr(row, lead)
            line = f"{row.family:26}{row.k:3}{row.loglik:13.2f}{value:13.2f}{value - best:10.2f}"
            line += f"{row.weight:8.3f}"
            if self.gof:
                line += f"{row.statistic:11.4g}"
            if tested:
                line += f"{'':>8}" if math.isnan(row.p_value) else f"{row.p_value:8.3f}"
            lines.append(line + (f"  {row.reason}" if row.reason else ""))
        lines += [f"{row.family:26}{row.status}: {row.reason}" for row in self.rows if not row.fit]
        return "\n".join(lines)

    def __repr__(self) -> str:
        best = self.rows[0].family if self.rows else "none"
        return f"Ranking({len(self.rows)} families by {self.criterion}, best: {best})"


def rank(
    data: Any,
    families: str | Iterable[str | Family] | None = None,
    criterion: str = "aicc",
    *,
    gof: str | None = "ad",
    bootstrap: int = 0,
    tested: int = 3,
    weights: Any = None,
    censoring: Any = None,
    upper: Any = None,
    truncation: Any = None,
    fixed: dict[str, dict[str, float]] | None = None,
    random_state: Any = None,
) -> Ranking:
    r"""Fits many families and orders them.

    Prefer it to `distfit` and `fitter`, which rank by histogram distances or by p-values of a law
    that was not fitted, and to `fit` where the family is not known.

    Args:
        data: As for `fit`.
        families: Names or families; "continuous", "discrete"; or None: discrete ones where all
            values are whole and not negative, else continuous ones. Densities and probabilities
            of whole numbers may be compared with each other: a cell is 1 wide.
        criterion: "aicc", "aic", "bic" or "loo" (leave-one-out). Less is better.
        gof: Distance from the data, "ad" (Anderson-Darling), "cvm" (Cramer-von Mises) or "ks"
            (Kolmogorov-Smirnov); None for none, as for censored or truncated data.
        bootstrap: Draws for p-values, each fitted again; 0 for none. 999 is plenty.
        tested: How many of the best families get a p-value.
        weights: Frequencies (n,), as for `fit`; whole ones if there is a bootstrap.
        censoring: As for `fit`.
        upper: As for `fit`.
        truncation: As for `fit`.
        fixed: Known parameters by family, as {"binomial": {"trials": 10}}.
        random_state: Seed or generator of the bootstrap.

    Returns:
        A `Ranking`; families that cannot hold the data are in it with the reason.

    Raises:
        ValueError: The data cannot be read or an argument is out of range.

    Example:
        >>> table = rank([1.2, 0.7, 2.9, 1.7, 4.1, 0.9], ["gamma", "lognormal", "normal", "beta"])
        >>> table["beta"].status
        'outside'
    """
    if criterion not in _CRITERIA:
        raise ValueError(f"criterion={criterion!r} is none of {', '.join(_CRITERIA)}")
    if gof is not None and gof not in STATISTICS:
        raise ValueError(f"gof={gof!r} is none of {', '.join(STATISTICS)}, None")
    if bootstrap != int(bootstrap) or bootstrap < 0:
        raise ValueError(f"bootstrap={bootstrap} is no number of draws: use 0 or more")
    if tested != int(tested) or tested < 0:
        raise ValueError(f"tested={tested} is no number of families: use 0 or more")
    seen = read(data, weights=weights, censoring=censoring, upper=upper, truncation=truncation)
    order = np.argsort(seen.x, kind="stable")
    seen = replace(seen, x=seen.x[order], w=seen.w[order])
    chosen = _chosen(families, seen)
    plain = not (seen.censored or seen.truncated)
    if not plain and bootstrap:
        raise ValueError(
            "bootstrap needs complete data: leave it at 0 with censoring or truncation"
        )
    if bootstrap and gof is None:
        raise ValueError("bootstrap needs a statistic: give gof='ad', 'cvm' or 'ks'")
    if bootstrap and seen.n != int(seen.n):
        raise ValueError(f"the weights sum to {seen.n}: a bootstrap draws whole observations")
    gof = gof if plain else None
    known = {laws.get(name).name: held for name, held in (fixed or {}).items()}
    rows = [_fitted(law, seen, known.get(law.name, {}), criterion, gof) for law in chosen]
    rows.sort(key=lambda row: (row.fit is None, _or_last(getattr(row, criterion))))
    _weigh(rows, criterion)
    if bootstrap:
        root = int(np.random.default_rng(random_state).integers(2**62))
        for row in [row for row in rows if row.fit is not None][:tested]:
            # Streams by name: a p-value does not depend on which other families are there.
            random = np.random.default_rng([root, zlib.crc32(row.family.encode())])
            assert gof is not None
            assert row.fit is not None
            row.p_value, row.draws = bootstrap_p(
                row.fit,
                row.statistic,
                STATISTICS[gof],
                known.get(row.family, {}),
                bootstrap,
                random,
            )
    kinds = {law.discrete for law in chosen}
    kind = "mixed" if len(kinds) > 1 else "discrete" if True in kinds else "continuous"
    return Ranking(rows, criterion, gof, seen.n, kind)


def _chosen(families: str | Iterable[str | Family] | None, seen: Observations) -> list[Family]:
    if families is None:
        x = seen.x
        counts = bool(len(x)) and bool((x >= 0.0).all() and (np.floor(x) == x).all())
        families = "discrete" if counts else "continuous"
    if isinstance(families, str):
        groups = {"continuous": laws.continuous, "discrete": laws.discrete, "all": laws.list}
        families = groups[families]() if families in groups else [families]
    chosen = list(dict.fromkeys(laws.get(name) for name in families))
    if not chosen:
        raise ValueError("families is empty: name at least one, see families.list()")
    return chosen


def _fitted(
    law: Family, seen: Observations, known: dict[str, float], criterion: str, gof: str | None
) -> Ranked:
    row = Ranked(law.name)
    try:
        with _warnings.catch_warnings():
            _warnings.simplefilter("ignore")
            result = fit_observations(law, seen, known)
    except (ValueError, np.linalg.LinAlgError) as error:
        row.status, row.reason = "outside", str(error).split(":")[0]
        return row
    if not math.isfinite(result.loglik):
        row.status, row.reason = "failed", "no finite likelihood was found"
        return row
    row.fit, row.k, row.loglik = result, result.free, result.loglik
    row.aic, row.aicc, row.bic = result.aic, result.aicc, result.bic
    if result.warnings:
        row.status, row.reason = "limit", result.warnings[0].split(":")[0]
    theta = np.array([result.params[name] for name in law.names])
    with np.errstate(all="ignore"):
        if criterion == "loo":
            row.loo = -2.0 * _leave_one_out(result)
        if gof is not None:
            row.statistic = float(statistics(seen.x, seen.w, law, theta)[STATISTICS[gof]])
    return row


def _or_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _leave_one_out(result: Fit) -> float:
    """Sum of the log densities of each observation under the fit to all others."""
    problem, seen = result._problem, result._problem.observations
    if not problem.free or len(problem.free) != result.free:
        return math.nan
    theta = np.array([result.params[name] for name in result.family.names])
    terms = result.family.pointwise(seen.x, theta)
    if len(seen.lower):
        more = result.family.windows(seen.lower, seen.upper, theta)
        terms = tuple(np.concatenate(pair) for pair in zip(terms, more, strict=True))
    if seen.truncated:
        whole = result.family.windows(*seen.truncation_window(), theta)
        terms = tuple(a - b for a, b in zip(terms, whole, strict=True))
    values, scores, hessians = terms
    at = [result.family.names.index(name) for name in problem.free]
    scores, hessians = scores[:, at], hessians[:, at][:, :, at]
    w = np.concatenate((seen.w, seen.window_w))
    try:
        information = -np.tensordot(w, hessians, 1)
        moved = -np.linalg.solve(information + hessians, scores[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        return math.nan
    gain = np.einsum("ni,ni->n", scores, moved)
    gain += 0.5 * np.einsum("ni,nij,nj->n", moved, hessians, moved)
    return float(w @ (values + gain))


def _weigh(rows: list[Ranked], criterion: str) -> None:
    values = np.array([getattr(row, criterion) for row in rows if row.fit is not None])
    if not np.isfinite(values).any():
        return
    with np.errstate(invalid="ignore"):
        parts = np.nan_to_num(np.exp(-0.5 * (values - np.nanmin(values))))
    for row, part in zip(rows, parts / parts.sum(), strict=False):
        row.weight = float(part)
