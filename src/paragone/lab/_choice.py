"""Which row to recommend, and how two contestants stand: what the verdict's sentences say.

* prefer = "quality": of the first tier, those whose loss is within the margin of the best; of
  these the fastest.
* prefer = "speed" ("memory"): the fastest (smallest) of the first tier, that is, of all that
  are not shown to be worse.

Limits are applied first, on every workload; then the best tier that is left counts as first.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

from paragone.lab import format as fmt
from paragone.lab._evidence import Evidence, Plan
from paragone.lab._overall import RELATIVE, cost_on_these
from paragone.lab.outcome import Difference, Row, Summary, Word
from paragone.lab.spec import Measure

__all__ = [
    "Prefer", "choose", "head_of", "kept_rows", "leading_of", "limits_text", "memory_of",
    "pairwise", "speed_of", "value_of",
]  # fmt: skip

Prefer = Literal["quality", "speed", "memory"]
_FLIP: dict[str, Word] = {"better": "worse", "worse": "better"}
_LATENCY = ("latency_s", "predict_row_s", "predict_s")


def leading_of(summary: Summary, role: str) -> Measure | None:
    """The measure by which a role ranks."""
    found = [m for m in summary.measures if m.role == role]
    return next((m for m in found if m.primary), found[0] if found else None)


def head_of(summary: Summary) -> Measure | None:
    """The measure that ranks: of the only workload, or the study's."""
    known = {m.name: m for m in summary.measures}
    if summary.only in summary.tables:
        wanted = next((w.primary for w in summary.workloads if w.id == summary.only), "")
        if wanted in known:
            return known[wanted]
    roles = (leading_of(summary, role) for role in ("quality", "time", "memory", "count"))
    return next((m for m in roles if m is not None), None)


def value_of(row: Row, measure: Measure | str | None) -> float:
    """A row's number; infinite where there is none."""
    name = measure.name if isinstance(measure, Measure) else measure
    cell = row.cells.get(name) if name else None
    return math.inf if cell is None or cell.value is None else cell.value


def speed_of(row: Row, summary: Summary) -> float:
    """Fit and prediction together, or the time that ranks."""
    both = value_of(row, "fit_s") + value_of(row, "predict_s")
    return both if math.isfinite(both) else value_of(row, leading_of(summary, "time"))


def memory_of(row: Row, summary: Summary) -> float:
    """The highest of a row's peaks."""
    found = [value_of(row, m) for m in summary.measures if m.role == "memory"]
    return max((x for x in found if math.isfinite(x)), default=math.inf)


def _fits(row: Row, summary: Summary, latency: float | None, memory: float | None) -> bool:
    """Whether a contestant keeps the limits on every workload that counts."""
    tables = [summary.tables.get(place, ()) for place in summary.counted]
    own = [r for table in tables for r in table if r.contestant == row.contestant]
    for one in own or [row]:
        if latency is not None:
            known = [value_of(one, n) for n in _LATENCY if math.isfinite(value_of(one, n))]
            if not known or known[0] > latency:
                return False
        if memory is not None and memory_of(one, summary) > memory:
            return False
    return True


def limits_text(latency: float | None, memory: float | None) -> str:
    """The limits in words; empty without any."""
    texts = [f"latency of {fmt.seconds(latency)}"] if latency is not None else []
    texts += [f"memory of {fmt.size(memory)}"] if memory is not None else []
    return fmt.join(texts)


def kept_rows(summary: Summary, max_latency: float | None, max_memory: float | None) -> list[Row]:
    """Rows that may be recommended, in leaderboard order; the first one's tier is the best.

    A baseline is recommended only if nothing else is left.
    """
    ranked = [r for r in summary.rows if r.tier] or [r for r in summary.rows if r.done]
    if not ranked:
        raise ValueError("no contestant finished: see the failures and their logs")
    kept = [r for r in ranked if _fits(r, summary, max_latency, max_memory)]
    if not kept:
        raise ValueError(
            f"no contestant keeps the limit ({limits_text(max_latency, max_memory)}): raise it"
        )
    return [r for r in kept if r.origin != "baseline"] or kept


def _within_margin(row: Row, leader: Row, summary: Summary) -> bool:
    """Whether a row's own mean is within the margin of the leader's."""
    head = head_of(summary)
    if head is None or row is leader:
        return True
    if math.isfinite(value_of(row, RELATIVE)):
        margin = max((m.margin for m in summary.measures if m.role == "quality" and m.relative),
                     default=0.01)  # fmt: skip
        return value_of(row, RELATIVE) <= value_of(leader, RELATIVE) * (1 + margin)
    best, own = value_of(leader, head), value_of(row, head)
    room = head.margin * (abs(best) if head.relative else 1.0)
    return abs(own - best) <= room if math.isfinite(own) else False


def choose(
    summary: Summary,
    prefer: Prefer = "quality",
    max_latency: float | None = None,
    max_memory: float | None = None,
) -> Row:
    """Returns the recommended row.

    Args:
        summary: The study's summary.
        prefer: What decides among contestants that are tied.
        max_latency: Most seconds for one prediction.
        max_memory: Most bytes at the peak.

    Raises:
        ValueError: Nothing finished, no row keeps the limits, or `prefer` is unknown.
    """
    if prefer not in get_args(Prefer):
        raise ValueError(f"prefer={prefer!r} is none of {', '.join(get_args(Prefer))}")
    kept = kept_rows(summary, max_latency, max_memory)
    tied = [r for r in kept if r.tier == kept[0].tier]
    if prefer == "memory":
        return min(tied, key=lambda r: (memory_of(r, summary), speed_of(r, summary)))
    if prefer == "quality":
        tied = [r for r in tied if _within_margin(r, tied[0], summary)]
    return min(tied, key=lambda r: speed_of(r, summary))


def _flip(found: Difference) -> Difference:
    def turn(x: float | None) -> float | None:
        if x is None:
            return None
        return (1 / x if x else math.inf) if found.ratio else -x

    return replace(
        found, a=found.b, b=found.a, estimate=turn(found.estimate), low=turn(found.high),
        high=turn(found.low), word=_FLIP.get(found.word, found.word),
    )  # fmt: skip


def _id(summary: Summary, name: str) -> str:
    # Ids first: "xgboost" is a rival's id, and the catalogue's for one of ours.
    for key in ("id", "title", "method"):
        for contestant in summary.contestants:
            if name == getattr(contestant, key):
                return contestant.id
    known = ", ".join(c.id for c in summary.contestants)
    raise ValueError(f"no contestant {name!r} in this study; there are {known}")


def _evidence(summary: Summary, workload: str) -> Evidence:
    least, most = summary.protocol.get("blocks") or (1, 1)
    plan = Plan(
        study={}, measures=summary.measures, workloads=summary.workloads,
        contestants=summary.contestants, missing=(), twin="", least=least, most=most,
        threads=summary.protocol.get("threads") or 1,
    )  # fmt: skip
    own = [r for r in summary.records if r["workload"] == workload]
    by_cpu = summary.protocol.get("times_judged_by") == "CPU time"
    place = next(w for w in summary.workloads if w.id == workload)
    return Evidence(plan, place, own, None, by_cpu)


def pairwise(
    summary: Summary, a: str, b: str, measure: str | None = None, workload: str | None = None
) -> Difference:
    """How contestant `a` stands to `b`.

    Args:
        summary: The study's summary.
        a: Id, catalogue id or title.
        b: The reference of the difference.
        measure: Name of a measure; None: the quality that ranks.
        workload: Workload id; None: over all, or the only one.

    Raises:
        ValueError: No such contestant, measure or workload.
    """
    first, second = _id(summary, a), _id(summary, b)
    places = list(summary.tables)
    if workload is not None and workload not in places:
        raise ValueError(f"no workload {workload!r} in this study; there are {', '.join(places)}")
    if workload is None and summary.only in places:
        workload = summary.only
    if measure is None:
        primary = next((w.primary for w in summary.workloads if w.id == workload), "")
        head = head_of(summary)
        measure = RELATIVE if workload is None else primary or (head.name if head else "")
    for found in summary.differences:
        if found.measure == measure and found.workload == (workload or ""):
            if (found.a, found.b) == (first, second):
                return found
            if (found.a, found.b) == (second, first):
                return _flip(found)
    known = {m.name: m for m in summary.measures}
    if measure not in known and measure != RELATIVE:
        raise ValueError(f"no measure {measure!r} in this study; there are {', '.join(known)}")
    if workload is None:
        if measure in known and known[measure].role in ("time", "memory"):
            evidences = [_evidence(summary, w) for w in summary.counted]
            return cost_on_these(evidences, first, second, known[measure])
        if measure != RELATIVE:
            raise ValueError(
                f"{measure} has no mean over {len(summary.counted)} inputs: name a workload"
            )
    if measure == RELATIVE or first == second:
        return Difference(a=first, b=second, measure=measure, workload=workload or "")
    return _evidence(summary, workload or "").difference(first, second, known[measure])
