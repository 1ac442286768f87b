r"""The leaderboard over several workloads: mean ranks, relative losses, signed-rank tests.

Qualities of different data sets are not comparable, so each becomes a relative loss, how much
worse than the best ranked there, $r = |x - x_{best}| / |x_{best}|$; a row shows the mean rank
among those that finished everywhere, and the geometric mean of $1 + r$.

Contestants are compared by the signed-rank test over data sets with Holm's correction. That
needs data: with $N$ data sets no p-value is below $2^{1-N}$, and with $N \le 5$, or where
Holm's first step cannot be passed by any data, the comparison is one *on these data sets*
only: the mean of their log ratios, its interval from the intervals of each, and a note says
so. Tiers are made as on one workload, by mean rank.

References:
    Demsar (2006), "Statistical comparisons of classifiers over multiple data sets", JMLR 7.

Symbols: N data sets, k contestants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from paragone.lab._evidence import ALPHA, Evidence, Plan
from paragone.lab._ranking import shared_level, tiers
from paragone.lab.outcome import Cell, Difference, Row
from paragone.lab.spec import Measure
from paragone.lab.statistics.effect import Effect, word_of
from paragone.lab.statistics.multiplicity import holm
from paragone.lab.statistics.ranks import rank_table
from paragone.lab.statistics.wilcoxon import pseudo_median, wilcoxon

__all__ = ["RANK", "RELATIVE", "Overall", "cost_on_these", "overall"]

RANK, RELATIVE = "mean_rank", "relative_loss"
_FEWEST = 6
_Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Overall:
    """The leaderboard over several workloads.

    Attributes:
        rows: As shown.
        differences: All pairs of those that finished everywhere.
        notes: What a reader must know.
    """

    rows: list[Row]
    differences: list[Difference]
    notes: list[str]


@dataclass(frozen=True)
class _Input:
    """One workload, the measure that ranks on it, the best value there, and its size."""

    evidence: Evidence
    measure: Measure
    best: float
    scale: float

    def losses(self, names: Sequence[str]) -> np.ndarray:
        """log(1 + relative loss) of these contestants."""
        own = self.evidence.centre(self.measure)[[self.evidence.index[n] for n in names]]
        return np.log1p(np.abs(own - self.best) / self.scale)


def _inputs(
    plan: Plan, evidences: Sequence[Evidence], tables: Mapping[str, Sequence[Row]]
) -> list[_Input]:
    """The best of a workload is the best ranked there, even if it failed elsewhere."""
    found = []
    for evidence in evidences:
        measure = plan.ranker(evidence.workload)
        ranked = [r.contestant for r in tables[evidence.workload.id] if r.tier]
        if measure is None or not ranked:
            continue
        seen = evidence.centre(measure)[[evidence.index[name] for name in ranked]]
        best = float(seen.min() if measure.better == "lower" else seen.max())
        found.append(_Input(evidence, measure, best, abs(best) or float(np.ptp(seen)) or 1.0))
    return found


def _on_these(inputs: Sequence[_Input], a: str, b: str, level: float) -> Effect:
    """Mean over the workloads of log((1 + r_a) / (1 + r_b)); intervals add in quadrature.

    Where a time ranks everywhere, blocks share their spread, so that few blocks will do.
    """
    measures = {one.measure for one in inputs}
    if len(measures) == 1 and inputs[0].measure.role in ("time", "memory"):
        return _costs_on_these([one.evidence for one in inputs], a, b, measures.pop(), level)
    gaps, halves = [], []
    for one in inputs:
        evidence, measure = one.evidence, one.measure
        i, j = evidence.index[a], evidence.index[b]
        if measure.role in ("time", "memory"):
            found, slope = evidence.cost(i, j, measure, level), 1.0
            gaps.append(found.estimate)
        else:
            found, losses = evidence.quality(i, j, measure, level), one.losses([a, b])
            slope = math.exp(-float(losses.mean())) / one.scale
            gaps.append(float(losses[0] - losses[1]))
        if found.low is None or found.high is None:
            return Effect(float(np.mean(gaps)), n=len(gaps), method="mean of log ratios")
        halves.append(slope * (found.high - found.low) / 2)
    mean, half = float(np.mean(gaps)), math.sqrt(sum(h * h for h in halves)) / len(halves)
    name = "mean of log ratios on these data sets"
    return Effect(mean, mean - half, mean + half, None, len(gaps), name)


def _costs_on_these(
    evidences: Sequence[Evidence], a: str, b: str, measure: Measure, level: float | None = None
) -> Effect:
    """Mean over workloads of the typical log ratio, with the pooled spread of all blocks."""
    from scipy.special import stdtrit

    centres, spread, free, share = [], 0.0, 0, 0.0
    for evidence in evidences:
        table = evidence.table(evidence.measured_as(measure))
        d = np.log(table[evidence.index[a]]) - np.log(table[evidence.index[b]])
        d = d[np.isfinite(d)]
        if not d.size:
            return Effect(math.nan)
        centres.append(pseudo_median(d).estimate)
        spread += float(((d - d.mean()) ** 2).sum())
        free, share = free + d.size - 1, share + 1 / d.size
    mean, name = float(np.mean(centres)), "mean of log ratios on these data sets"
    if free == 0:
        return Effect(mean, n=len(centres), method=name)
    level = min(e.level(measure.role) for e in evidences) if level is None else level
    half = float(stdtrit(free, 1 - level / 2)) * math.sqrt(spread / free * share) / len(centres)
    return Effect(mean, mean - half, mean + half, None, len(centres), name)


def _over_data_sets(gaps: np.ndarray, comparisons: int) -> Effect:
    """Signed-rank effect over data sets, its interval shared among the comparisons."""
    found = pseudo_median(gaps, level=max(ALPHA / comparisons, 2.0 ** (1 - gaps.size)))
    return found._replace(p=wilcoxon(gaps).p, method="Wilcoxon over data sets, Holm")


def _margin(measure: Measure) -> float:
    return measure.margin if measure.relative else 0.01


def _attainable(N: int, comparisons: int) -> bool:
    """Whether Wilcoxon with Holm over so many comparisons could reject at all."""
    return N >= _FEWEST and 2.0 ** (1 - N) * comparisons <= ALPHA


@dataclass(frozen=True)
class _Judge:
    """Compares contestants over the workloads: by signed ranks, or on these data sets only."""

    inputs: Sequence[_Input]
    losses: np.ndarray
    names: Sequence[str]

    @property
    def margin(self) -> float:
        """What does not matter, as a logarithm."""
        return math.log1p(max(_margin(one.measure) for one in self.inputs))

    def family(self, pairs: Sequence[_Pair], level: float) -> dict[_Pair, Difference]:
        """Differences in relative loss of pairs that share one error rate."""
        place = {name: i for i, name in enumerate(self.names)}
        by_ranks = _attainable(len(self.inputs), len(pairs))
        found = {}
        for a, b in pairs:
            if by_ranks:
                gaps = self.losses[:, place[a]] - self.losses[:, place[b]]
                found[a, b] = _over_data_sets(gaps, len(pairs))
            else:
                found[a, b] = _on_these(self.inputs, a, b, level)
        words = _holm_words(found, self.margin, by_ranks)
        return {pair: _shown(*pair, RELATIVE, found[pair], words[pair]) for pair in pairs}


def _note(N: int, k: int) -> list[str]:
    pairs = k * (k - 1) // 2
    if k < 2 or _attainable(N, pairs):
        return []
    need = [max(_FEWEST, math.ceil(1 + math.log2(m / ALPHA))) for m in (k - 1, pairs)]
    what = "pairwise differences" if _attainable(N, k - 1) else "tiers and differences"
    return [
        f"Too few data sets ({N}) to speak of others: {what} over all hold for these {N} only. "
        f"Signed-rank tests of {k} contestants need {need[0]} data sets against the best, "
        f"{need[1]} for all pairs."
    ]


def overall(
    plan: Plan, evidences: Sequence[Evidence], tables: Mapping[str, Sequence[Row]]
) -> Overall:
    """Leaderboard and differences over several workloads."""
    everywhere = [
        c.id for c in plan.contestants
        if all(any(r.contestant == c.id and r.tier for r in rows) for rows in tables.values())
    ]  # fmt: skip
    inputs = _inputs(plan, evidences, tables)
    losses = np.array([one.losses(everywhere) for one in inputs])
    losses = losses.reshape(len(inputs), len(everywhere))
    rows = _overall_rows(plan, tables, everywhere, losses)
    N, k = losses.shape
    if not N or not k:
        return Overall(rows=sorted(rows, key=lambda r: -r.done), differences=[], notes=[])
    ranks, means = rank_table(losses).mean(axis=0), losses.mean(axis=0)
    order = [everywhere[i] for i in sorted(range(k), key=lambda i: (ranks[i], means[i]))]
    judge = _Judge(inputs, losses, everywhere)
    level = shared_level(ALPHA, k - 1)
    versus: dict[_Pair, Difference] = {}

    def worse(a: str, b: str) -> bool:
        if (a, b) not in versus:
            versus.update(judge.family([(name, b) for name in order if name != b], level))
        return versus[a, b].word == "worse"

    letters = tiers(order, worse)
    if k > 1:
        worse(order[1], order[0])
    pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    differences = [*judge.family(pairs, ALPHA).values(), *_overall_costs(plan, evidences, pairs)]
    place = {name: i for i, name in enumerate(order)}
    rows = [
        replace(
            r, tier=letters.get(r.contestant, ""), versus_best=versus.get((r.contestant, order[0]))
        )
        for r in rows
    ]
    rows.sort(key=lambda r: (r.tier or "~", place.get(r.contestant, k), -r.done, r.contestant))
    return Overall(rows=rows, differences=differences, notes=_note(N, k))


def _holm_words(found: Mapping[_Pair, Effect], margin: float, adjust: bool) -> dict[_Pair, str]:
    """Words; with `adjust`, "better" and "worse" only where Holm's p-value allows."""
    words: dict[_Pair, str] = {}
    raw = [one.p if one.p is not None else 1.0 for one in found.values()]
    p = holm(np.array(raw)) if adjust else None
    for i, (name, one) in enumerate(found.items()):
        word = word_of(one, margin)
        if p is not None:
            clear = p[i] <= ALPHA and abs(one.estimate) > margin
            if clear:
                word = "worse" if one.estimate > 0 else "better"
            elif word in ("better", "worse"):
                word = "inconclusive"
        words[name] = word
    return words


def _shown(a: str, b: str, measure: str, found: Effect, word: str) -> Difference:
    def turned(x: float | None) -> float | None:
        return None if x is None else math.exp(min(x, 700.0))

    return Difference(
        a=a, b=b, measure=measure, workload="", ratio=True, estimate=turned(found.estimate),
        low=turned(found.low), high=turned(found.high), p=found.p, word=word,  # type: ignore[arg-type]
        method=found.method, n=found.n,
    )  # fmt: skip


def cost_on_these(evidences: Sequence[Evidence], a: str, b: str, measure: Measure) -> Difference:
    """How `a` stands to `b` in a time or memory over these workloads."""
    found = _costs_on_these(evidences, a, b, measure)
    if not math.isfinite(found.estimate):
        return Difference(a=a, b=b, measure=measure.name, ratio=True)
    return _shown(a, b, measure.name, found, word_of(found, math.log1p(measure.margin)))


def _overall_costs(
    plan: Plan, evidences: Sequence[Evidence], pairs: Sequence[_Pair]
) -> list[Difference]:
    out = []
    by_ranks = _attainable(len(evidences), len(pairs))
    for role in ("time", "memory"):
        measure = plan.leading(role)
        if measure is None or not pairs:
            continue
        found: dict[_Pair, Effect] = {}
        for a, b in pairs:
            one = _costs_on_these(evidences, a, b, measure)
            if by_ranks and math.isfinite(one.estimate):
                gaps = [pseudo_median(_log_gaps(e, a, b, measure)).estimate for e in evidences]
                one = _over_data_sets(np.array(gaps), len(pairs))
            if math.isfinite(one.estimate):
                found[a, b] = one
        words = _holm_words(found, math.log1p(measure.margin), by_ranks)
        out += [_shown(*pair, measure.name, one, words[pair]) for pair, one in found.items()]
    return out


def _log_gaps(evidence: Evidence, a: str, b: str, measure: Measure) -> np.ndarray:
    table = evidence.table(evidence.measured_as(measure))
    d = np.log(table[evidence.index[a]]) - np.log(table[evidence.index[b]])
    return d[np.isfinite(d)]


def _overall_rows(
    plan: Plan, tables: Mapping[str, Sequence[Row]], everywhere: Sequence[str],
    losses: np.ndarray,
) -> list[Row]:  # fmt: skip
    """Rows with mean rank, relative loss, geometric means of costs, means of qualities.

    A quality with a relative margin is in units of its data set and has no mean over them.
    """
    ranks = rank_table(losses) if losses.size else None
    rows = []
    for contestant in plan.contestants:
        own = [r for table in tables.values() for r in table if r.contestant == contestant.id]
        if not own:
            continue
        cells: dict[str, Cell] = {}
        if ranks is not None and contestant.id in everywhere:
            i = list(everywhere).index(contestant.id)
            runs = [x for r in own for c in r.cells.values() for x in c.runs]
            runs = list(dict.fromkeys(runs))
            cells[RANK] = Cell(value=float(ranks[:, i].mean()), runs=runs)
            cells[RELATIVE] = Cell(value=math.exp(float(losses[:, i].mean())), runs=runs)
        for measure in plan.measures:
            if measure.role == "quality" and measure.relative:
                continue
            found = [r.cells[measure.name] for r in own if measure.name in r.cells]
            merged = _merged(found, measure)
            if merged is not None:
                cells[measure.name] = merged
        bad = [r for r in own if r.status != "ok"]
        done = sum(r.done for r in own)
        status = "ok" if not bad else "partial" if done else bad[0].status
        rows.append(Row(
            contestant=contestant.id, title=contestant.title, origin=contestant.origin,
            cells=cells, done=done, planned=sum(r.planned for r in own), status=status,
            message=bad[0].message if bad else "", log=bad[0].log if bad else "",
        ))  # fmt: skip
    return rows


def _merged(cells: Sequence[Cell], measure: Measure) -> Cell | None:
    values = np.array([c.value for c in cells if c.value is not None], dtype=float)
    if not values.size:
        return None
    runs = [x for c in cells for x in c.runs]
    if measure.role in ("time", "memory") and (values > 0).all():
        return Cell(value=float(np.exp(np.log(values).mean())), runs=runs)
    return Cell(value=float(values.mean()), runs=runs)
