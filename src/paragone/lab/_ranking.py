r"""Leaderboards without rank inside the noise: tiers on one workload.

Of those not yet placed, the one with the best mean leads the next tier; with it are all who
are not significantly worse than the leader beyond the margin. The leader was chosen after
seeing the numbers, so each of the k - 1 comparisons is made at level $\alpha / (k - 1)$
(two-sided, Bonferroni). Then the truly best contestant is missing from tier A in less than 5 %
of studies (Hsu 1981 shows it for the one-sided level already). Of twelve equal contestants one
is wrongly put below in about 16 % of studies without a margin, against 69 % if each comparison
were made at 5 %. `Row.versus_best` shows these simultaneous intervals.

References:
    Hsu (1981), "Simultaneous confidence intervals for all distances from the best", Ann.
    Stat. 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from paragone.lab._evidence import Evidence
from paragone.lab.outcome import Cell, Difference, Row
from paragone.lab.spec import Contestant, Measure, Workload
from paragone.lab.statistics.resampled import corrected_interval
from paragone.lab.statistics.timing import median_interval

__all__ = ["applies", "shared_level", "table_of", "tiers"]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def shared_level(level: float, rivals: int) -> float:
    """Level of each comparison with a leader chosen among `rivals` + 1."""
    return level / max(rivals, 1)


def tiers(order: Sequence[str], worse: Callable[[str, str], bool]) -> dict[str, str]:
    """Contestant to tier letter.

    Args:
        order: Contestants, best mean first.
        worse: Whether the first is significantly worse than the second beyond the margin.
    """
    left, out = list(order), {}
    for letter in _LETTERS:
        if not left:
            break
        members = [name for name in left if name == left[0] or not worse(name, left[0])]
        if letter == _LETTERS[-1]:
            members = left
        out |= dict.fromkeys(members, letter)
        left = [name for name in left if name not in out]
    return out


def applies(contestant: Contestant, workload: Workload) -> bool:
    """Whether the workload has the facts that the contestant needs."""
    return all(workload.facts.get(k) in tuple(v) for k, v in contestant.needs.items())


def _status(records: Sequence[Mapping], planned: int) -> tuple[str, str, str]:
    """Status, message and log of a contestant from its runs."""
    bad = [r for r in records if r["status"] != "ok"]
    good = len(records) - len(bad)
    if not bad:
        return ("ok" if good >= planned else "partial" if good else "missing"), "", ""
    last = bad[-1]
    status = "partial" if good else str(last["status"])
    return status, str(last.get("message") or last["status"]), str(last.get("log") or "")


def _cell(evidence: Evidence, name: str, measure: Measure) -> Cell | None:
    row = evidence.index[name]
    values = evidence.table(measure.name)[row]
    seen = np.isfinite(values)
    if not seen.any():
        return None
    runs = [r["id"] for r, ok in zip(evidence.grid[row], seen, strict=True) if ok and r]
    if measure.role != "quality":
        middle, low, high = median_interval(values[seen])
        ends = (low, high) if len(runs) > 1 else (None, None)
        return Cell(value=middle, low=ends[0], high=ends[1], runs=runs)
    parts = evidence.by_split(measure.name)[row]
    parts = parts[np.isfinite(parts)]
    share = evidence.workload.test_share
    if parts.size < 2:
        parts, share = values[seen], 0.0
    found = corrected_interval(parts, share)
    return Cell(value=float(parts.mean()), low=found.low, high=found.high, runs=runs)


def table_of(evidence: Evidence) -> list[Row]:
    """The leaderboard of one workload: ranked rows, then those that did not finish."""
    plan, workload = evidence.plan, evidence.workload
    measures = [m for m in plan.measures if not workload.measures or m.name in workload.measures]
    planned = len(evidence.blocks)
    rows = []
    for contestant in plan.contestants:
        own = [r for r in evidence.grid[evidence.index[contestant.id]] if r is not None]
        if not applies(contestant, workload) and not own:
            continue
        cells = {m.name: _cell(evidence, contestant.id, m) for m in measures}
        done = sum(r["status"] == "ok" for r in own)
        status, message, log = _status(own, planned)
        rows.append(Row(
            contestant=contestant.id, title=contestant.title, origin=contestant.origin,
            cells={k: c for k, c in cells.items() if c is not None}, done=done, planned=planned,
            status=status, message=message, log=log,
        ))  # fmt: skip
    ranker = plan.ranker(workload)
    return _ranked(rows, evidence, ranker) if ranker is not None else rows


def _ranked(rows: list[Row], evidence: Evidence, measure: Measure) -> list[Row]:
    centre = dict(zip(evidence.ids, evidence.centre(measure), strict=True))
    sign = 1.0 if measure.better == "lower" else -1.0
    fit = [r for r in rows if 2 * r.done >= r.planned and math.isfinite(centre[r.contestant])]
    order = [r.contestant for r in sorted(fit, key=lambda r: sign * centre[r.contestant])]
    level = shared_level(evidence.level(measure.role), len(order) - 1)

    def against(a: str, b: str) -> Difference:
        return evidence.difference(a, b, measure, level)

    letters = tiers(order, lambda a, b: against(a, b).word == "worse")
    placed = []
    for row in rows:
        letter = letters.get(row.contestant, "")
        best = against(row.contestant, order[0]) if letter and row.contestant != order[0] else None
        placed.append(replace(row, tier=letter, versus_best=best))
    place = {name: i for i, name in enumerate(order)}

    def key(row: Row) -> tuple:
        return (row.tier or "~", place.get(row.contestant, len(order)), -row.done, row.contestant)

    return sorted(placed, key=key)
