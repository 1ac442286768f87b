"""Two studies side by side: what changed from the first to the second.

Contestants are matched by id and data sets by id. Where both studies ran the same split of the
same data, the quality is compared pair by pair; times of two studies are not paired (other
hours, perhaps another machine), so they are shown and not judged.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab import format as text
from paragone.lab.outcome import Row, Summary
from paragone.lab.result import Study

__all__ = ["Change", "Comparison", "compare_studies"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One contestant on one data set, in both studies.

    Attributes:
        workload: Data set.
        contestant: Contestant id.
        measure: Title of the quality that ranks.
        before: Quality in the first study.
        after: Quality in the second.
        pairs: Runs on the same split of the same data in both.
        same: How many of these pairs agree to the last digit.
        tiers: Tier in the first and in the second study.
        fit: Fit seconds in the first and in the second study.
    """

    workload: str
    contestant: str
    measure: str
    before: float | None
    after: float | None
    pairs: int
    same: int
    tiers: tuple[str, str]
    fit: tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `paragone diff` says; `str()` is the text."""

    a: str
    b: str
    changes: tuple[Change, ...]
    verdicts: tuple[tuple[str, str], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.a}  ->  {self.b}"]
        place = ""
        for change in self.changes:
            if change.workload != place:
                place = change.workload
                head = f"{'contestant':<24} {change.measure:>10} {'then':>10} {'change':>9}"
                lines += ["", place, f"  {head}  tier    fit, then   equal runs"]
            moved = "" if change.tiers[0] == change.tiers[1] else " *"
            fit = " -> ".join(text.seconds(value) for value in change.fit)
            lines.append(
                f"  {change.contestant:<24} {text.number(change.before):>10} "
                f"{text.number(change.after):>10} {_moved(change):>9}  "
                f"{change.tiers[0] or '-'} {change.tiers[1] or '-'}{moved:<2}  {fit:<18} "
                f"{change.same}/{change.pairs}"
            )
        lines.append("")
        if self.verdicts:
            lines += ["verdicts that changed"]
            lines += [f"  was: {old}\n  now: {new}" for old, new in self.verdicts]
        else:
            lines.append("no verdict changed")
        for name, ids in ((self.a, self.only_a), (self.b, self.only_b)):
            if ids:
                lines.append(f"only in {name}: {', '.join(ids)}")
        return "\n".join(lines)


def _moved(change: Change) -> str:
    if change.before is None or change.after is None or not change.before:
        return text.NOTHING
    return text.percent(change.after / change.before - 1, sign=True)


def compare_studies(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Comparison:
    """Compares two folders.

    Raises:
        UsageError: A folder holds no study, or the studies share no data set.
    """
    first, second = Study(Path(a)), Study(Path(b))
    old, new = first.summary, second.summary
    if old.study != new.study:
        raise UsageError(f"{a} holds {old.study!r} and {b} holds {new.study!r}: not comparable")
    places = [w.id for w in old.workloads if w.id in {v.id for v in new.workloads}]
    if not places:
        raise UsageError(f"{a} and {b} share no data set")
    changes = [change for place in places for change in _changes(old, new, place)]
    ids_a = [c.id for c in old.contestants]
    ids_b = [c.id for c in new.contestants]
    return Comparison(
        a=str(a), b=str(b), changes=tuple(changes), verdicts=_verdicts(old, new),
        only_a=tuple(i for i in ids_a if i not in ids_b),
        only_b=tuple(i for i in ids_b if i not in ids_a),
    )  # fmt: skip


def _value(row: Row | None, measure: str) -> float | None:
    cell = row.cells.get(measure) if row else None
    return cell.value if cell else None


def _changes(old: Summary, new: Summary, place: str) -> list[Change]:
    workload = next(w for w in new.workloads if w.id == place)
    measure = workload.primary or next(m.name for m in new.measures if m.primary)
    title = next((m.title for m in new.measures if m.name == measure), measure)
    before = {row.contestant: row for row in old.tables.get(place, ())}
    found = []
    for row in new.tables.get(place, ()):
        match = before.get(row.contestant)
        if match is None:
            continue
        pairs = _pairs(old, new, place, row.contestant, measure)
        found.append(Change(
            workload=place, contestant=row.contestant, measure=title,
            before=_value(match, measure), after=_value(row, measure), pairs=len(pairs),
            same=sum(x == y for x, y in pairs), tiers=(match.tier, row.tier),
            fit=(_value(match, "fit_s"), _value(row, "fit_s")),
        ))  # fmt: skip
    return found


def _pairs(
    old: Summary, new: Summary, place: str, contestant: str, measure: str
) -> list[tuple[float, float]]:
    """Results of both studies on the same bytes: equal digests of data and split."""

    def runs(summary: Summary) -> Mapping[tuple[Any, ...], list[float]]:
        grouped: dict[tuple[Any, ...], list[float]] = {}
        for record in summary.records:
            if (record["workload"], record["contestant"]) == (place, contestant):
                value = record["values"].get(measure)
                if record["status"] == "ok" and value is not None:
                    key = (*sorted(record["digests"].items()), record["seed"])
                    grouped.setdefault(key, []).append(value)
        return grouped

    first, second = runs(old), runs(new)
    return [
        (statistics.median(first[key]), statistics.median(second[key]))
        for key in first
        if key in second
    ]


def _verdicts(old: Summary, new: Summary) -> tuple[tuple[str, str], ...]:
    from paragone.lab.verdict import sentence

    turned = {"better": "worse", "worse": "better"}

    def worded(summary: Summary) -> dict[tuple[str, str, str, str], tuple[str, Any]]:
        found = {}
        for d in summary.differences:
            # Pairs stand in leaderboard order, which may have changed.
            swapped = d.a > d.b
            a, b = (d.b, d.a) if swapped else (d.a, d.b)
            word = turned.get(d.word, d.word) if swapped else d.word
            found[a, b, d.measure, d.workload] = (word, d)
        return found

    before, after = worded(old), worded(new)
    primary = {w.primary for w in new.workloads}
    return tuple(
        (sentence(before[key][1], old), sentence(after[key][1], new))
        for key in after
        if key in before and before[key][0] != after[key][0] and key[2] in primary
    )
