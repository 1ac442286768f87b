"""What a study found: the shapes that statistics fill and reports show.

`summary.summarize(folder)` turns `study.json` and `records.jsonl` into one `Summary`; the
terminal, the HTML page, Markdown, JSON and `Study` objects all read this and nothing else,
so that every place shows the same number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from paragone.lab.spec import Contestant, Measure, Workload

__all__ = ["Cell", "ClaimResult", "Difference", "NoiseFloor", "Row", "Summary", "Word"]

Word = Literal["better", "worse", "same", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the table.

    Attributes:
        value: Median (times, memory) or mean (quality) over the runs; None if never measured.
        low: Lower end of its 95 % interval (None with fewer than two runs).
        high: Upper end.
        runs: Record ids behind it.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    runs: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired comparison of contestant `a` with contestant `b` on one measure.

    Attributes:
        a: Contestant id.
        b: Contestant id, the reference of the difference.
        measure: Name of the measure.
        workload: Workload id, or "" over all workloads.
        estimate: a - b, or for ratios a / b (then `ratio` is true).
        low: Lower end of the 95 % interval.
        high: Upper end.
        ratio: Whether `estimate` is a ratio.
        p: Two-sided p-value where the method has one.
        word: How `a` stands to `b`.
        method: Name of the statistical method, such as "paired bootstrap".
        n: Number of pairs behind it.
    """

    a: str
    b: str
    measure: str
    workload: str = ""
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: bool = False
    p: float | None = None
    word: Word = "inconclusive"
    method: str = ""
    n: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contestant's line in the leaderboard; failed ones have theirs too.

    Attributes:
        contestant: Contestant id.
        title: What the table shows.
        origin: "paragone", "rival", "guest" or "baseline".
        tier: "A" is best; tied contestants share a letter; "" if it never finished.
        cells: Measure name to its number (over all workloads: mean rank or mean; see
            `Summary.tables` for each workload).
        versus_best: Its difference to the best on the primary quality measure.
        done: Finished runs.
        planned: Runs that were due.
        status: "ok", "partial", "failed", "timeout", "memory", "crashed", "missing".
        message: The error's last line, for a row that failed.
        log: Log file relative to the study's folder.
    """

    contestant: str
    title: str
    origin: str
    tier: str = ""
    cells: Mapping[str, Cell] = field(default_factory=dict)
    versus_best: Difference | None = None
    done: int = 0
    planned: int = 0
    status: str = "ok"
    message: str = ""
    log: str = ""


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """What the hidden duplicate says about timings on this machine.

    Attributes:
        contestant: The contestant that ran twice in each block ("" : no control).
        ratio: Median duplicate / original time.
        low: Lower end of the 95 % interval.
        high: Upper end.
        trusted: False when the duplicate was called different from itself.
        text: One sentence.
    """

    contestant: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    trusted: bool = True
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """A claim, what was measured, and the verdict."""

    text: str
    source: str
    measured: str
    verdict: Literal["holds", "does not hold", "not tested"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All that a report shows.

    Attributes:
        study: Study id.
        question: The study's question.
        verdict: Sentences, the first of which answers the question.
        measures: Columns that were measured, primary quality first.
        workloads: Inputs.
        contestants: Rivals, in leaderboard order, hidden duplicates left out.
        rows: The leaderboard over all workloads.
        tables: Workload id to its own leaderboard.
        differences: Paired comparisons: all pairs for each workload, and over all ("").
        noise: The noise floor.
        claims: Claims checked.
        pictures: (caption, file relative to the folder).
        curves: Records' curves, as (contestant, workload, name, xs, ys).
        environment: Machine, versions, threads, load.
        command: The exact command that makes this study again.
        protocol: What was fixed before: splits, seeds, budget, tuning, precision.
        records: All records (dicts), for links and tables.
        complete: False while runs are outstanding or after an interruption.
        notes: Warnings a reader must see, such as "too few data sets".
    """

    study: str
    question: str
    verdict: Sequence[str] = ()
    measures: Sequence[Measure] = ()
    workloads: Sequence[Workload] = ()
    contestants: Sequence[Contestant] = ()
    rows: Sequence[Row] = ()
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    differences: Sequence[Difference] = ()
    noise: NoiseFloor = field(default_factory=NoiseFloor)
    claims: Sequence[ClaimResult] = ()
    pictures: Sequence[tuple[str, str]] = ()
    curves: Sequence[tuple[str, str, str, Sequence[float], Sequence[float]]] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()
    complete: bool = True
    notes: Sequence[str] = ()

    @property
    def counted(self) -> list[str]:
        """The workloads that the leaderboard is made of."""
        known = [w for w in self.workloads if w.id in self.tables] or list(self.workloads)
        return [w.id for w in known if w.counts] or [w.id for w in known]

    @property
    def only(self) -> str:
        """The one workload that the leaderboard is of, "" if it is of several."""
        return self.counted[0] if len(self.counted) == 1 else ""
