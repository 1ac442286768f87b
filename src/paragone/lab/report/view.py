"""What every report shows of a summary: columns, rows, differences, words.

The terminal, the page and Markdown differ in ink, not in content, so the choice of columns,
the texts of cells and the wording of a status are made once, here. Measures stand in the order
*quality that ranks, difference to the best, time, memory, the rest*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paragone.lab import format as fmt
from paragone.lab.outcome import Cell, Difference, Row, Summary, Word
from paragone.lab.spec import Measure, Workload

__all__ = [
    "RANK", "RELATIVE", "Column", "Guide", "block_words", "columns", "compared", "facts", "flip",
    "leading", "made_up", "noise_words", "notes", "primary", "protocol_words", "ranker",
    "role_measure", "row_status", "size_words", "status_word", "texts", "title", "why", "word",
]  # fmt: skip

RANK, RELATIVE = "mean_rank", "relative_loss"
"""Cells that rows over several workloads have besides the measures."""
_STATUS = {
    "ok": "", "partial": "partial", "failed": "failed", "timeout": "timed out",
    "memory": "out of memory", "crashed": "crashed", "missing": "not installed",
}  # fmt: skip
_FLIPPED: dict[Word, Word] = {"better": "worse", "worse": "better"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One measure's column of a table.

    Attributes:
        measure: The measure (made up for cells that belong to no measure, such as mean ranks).
        texts: One text for each row.
        cells: The cells behind them.
        main: Whether it belongs to the short form of the table.
    """

    measure: Measure
    texts: Sequence[str]
    cells: Sequence[Cell | None]
    main: bool


class Guide:
    """Looks up what many parts of a report ask of one summary; computed once.

    Attributes:
        summary: The summary.
        titles: Contestant id to title, hidden duplicates included as far as records show them.
        index: Contestant id to its number: colour and shape of its mark, and its anchor.
        runs: (contestant, workload) to block to the finished record.
        failed: Contestants with a run that did not finish.

    Example:
        >>> Guide(Summary(study="s", question="q?")).titles
        {}
    """

    def __init__(self, summary: Summary):
        self.summary = summary
        self.titles = _names(summary)
        self.index = {key: i for i, key in enumerate(self.titles)}
        self._places = {w.id: i for i, w in enumerate(summary.workloads)}
        self.failed: set[str] = set()
        self._told: set[tuple[str, str]] = set()
        self.runs: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
        self._pairs: dict[str, dict[tuple[str, str, str], Difference]] = {}
        for record in summary.records:
            key = (str(record.get("contestant")), str(record.get("workload")))
            self._told |= {key, (key[0], "")}
            if record.get("status", "ok") == "ok":
                blocks = self.runs.setdefault(key, {})
                blocks[int(record.get("block", len(blocks)))] = record
            else:
                self.failed.add(key[0])

    def anchor(self, contestant: str, workload: str = "") -> str:
        """Anchor of the records behind a number: all of a contestant's, or a workload's."""
        if (contestant, workload) not in self._told:
            return "how"
        i, place = self.index[contestant], self._places.get(workload)
        return f"c{i}" if place is None else f"c{i}w{place}"

    def pairs(self, measure: str) -> Mapping[tuple[str, str, str], Difference]:
        """(a, b, workload) to the difference, in both directions."""
        if measure not in self._pairs:
            found = self._pairs[measure] = {}
            for diff in self.summary.differences:
                if diff.measure == measure:
                    found.setdefault((diff.a, diff.b, diff.workload), diff)
                    found.setdefault((diff.b, diff.a, diff.workload), flip(diff))
        return self._pairs[measure]


def _names(summary: Summary) -> dict[str, str]:
    found = {row.contestant: row.title for row in summary.rows}
    found |= {row.contestant: row.title for rows in summary.tables.values() for row in rows}
    found = {c.id: c.title or c.id for c in summary.contestants} | found
    for record in summary.records:
        key = str(record.get("contestant", ""))
        if key not in found:
            base = key.removesuffix("~2")
            found[key] = f"{found.get(base, base)} (hidden duplicate)" if key != base else key
    return found


def primary(summary: Summary, workload: str = "") -> Measure | None:
    """The quality measure that ranks, in all or on one workload."""
    wanted = next((w.primary for w in summary.workloads if w.id == workload), "")
    for measure in summary.measures:
        if measure.name == wanted:
            return measure
    return role_measure(summary, "quality") or next(iter(summary.measures), None)


def ranker(summary: Summary, workload: str, rows: Sequence[Row]) -> Measure | None:
    """The measure in which `versus_best` is told: over several workloads a relative loss."""
    told = {r.versus_best.measure for r in rows if r.versus_best is not None}
    known = {m.name for m in summary.measures}
    if told and not told & known:
        margins = [m.margin for m in summary.measures if m.role == "quality" and m.relative]
        return made_up(min(told), max(margins, default=0.0))
    return primary(summary, workload)


def made_up(name: str, margin: float = 0.0) -> Measure:
    """A measure for cells that the summary computed, such as mean ranks."""
    note = {RELATIVE: "Geometric mean over the workloads of the loss relative to the best."}
    return Measure(
        name=name, title=name.replace("_", " "), better="lower", role="quality", margin=margin,
        note=note.get(name, ""),
    )  # fmt: skip


def role_measure(summary: Summary, role: str) -> Measure | None:
    """The measure by which a role ranks."""
    found = [m for m in summary.measures if m.role == role]
    return next((m for m in found if m.primary), found[0] if found else None)


def columns(summary: Summary, rows: Sequence[Row], workload: str = "") -> list[Column]:
    """The columns that have at least one number in these rows, the ranking one first."""
    known = {m.name: m for m in summary.measures}
    keys = [key for row in rows for key in row.cells]
    head = primary(summary, workload)
    extra = [k for k in dict.fromkeys(keys) if k not in known]
    order = [*extra, *([head.name] if head else []), *known]
    found = []
    times = 0
    for key in dict.fromkeys(order):
        cells = [row.cells.get(key) for row in rows]
        if not any(c is not None and c.value is not None for c in cells):
            continue
        measure = known.get(key) or made_up(key)
        # The clock columns a reader wants are the first two; CPU, import and the like follow.
        times += measure.role == "time"
        main = (
            (key in extra and key != RELATIVE)
            or measure is head
            or measure.shown
            or (measure.role == "time" and times <= 2)
            or (measure.role == "memory" and measure.primary)
        )
        found.append(Column(measure=measure, texts=texts(cells, measure), cells=cells, main=main))
    return sorted(found, key=lambda c: not c.main)


def texts(cells: Sequence[Cell | None], measure: Measure) -> list[str]:
    """A column's cells as texts, with the same decimals throughout."""
    values = [cell.value if cell is not None else None for cell in cells]
    if measure.name == RELATIVE:
        return [fmt.percent(None if v is None else v - 1) for v in values]
    if measure.name == RANK:
        return [fmt.number(v, 2) for v in values]
    found = fmt.column(cells, measure)
    if any(v and not text.strip("-0.") for v, text in zip(values, found, strict=True)):
        # The column spans so many powers of ten that its small ones would vanish.
        return [fmt.NOTHING if v is None else f"{v:.3g}" for v in values]
    return found


def leading(rows: Sequence[Row]) -> Row | None:
    """The first row that finished."""
    return next((row for row in rows if row.tier), None)


def row_status(row: Row) -> str:
    """What became of a contestant, such as `15/15` or `timed out (3/15)`."""
    word = _STATUS.get(row.status, row.status)
    runs = f"{row.done}/{row.planned}" if row.planned else ""
    return f"{word} ({runs})" if word and runs and row.status != "missing" else word or runs


def status_word(status: str) -> str:
    """A run's status in words."""
    return _STATUS.get(status, status) or "finished"


def word(diff: Difference | None, measure: Measure | None) -> str:
    """The verdict's word in the language of the measure: "faster" instead of "better"."""
    if diff is None or diff.estimate is None:
        return ""
    return fmt.word(diff, measure) if measure is not None else diff.word


def compared(diffs: Sequence[Difference | None]) -> list[tuple[str, str]]:
    """(estimate, interval) as texts, all differences of a column with the same decimals."""
    halves = sorted(
        abs(d.high - d.low) / 2
        for d in diffs
        if d is not None and not d.ratio and d.low is not None and d.high is not None
    )
    halves = [half for half in halves if 0 < half < math.inf]
    typical = halves[len(halves) // 2] if halves else 0.0
    places = min(max(1 - math.floor(math.log10(typical)), 0), 8) if typical else None
    return [_compared(diff, places) for diff in diffs]


def _compared(diff: Difference | None, places: int | None) -> tuple[str, str]:
    if diff is None or diff.ratio or places is None:
        estimate, _, interval = fmt.difference(diff).partition(" ")
        if estimate and not interval.startswith("["):
            # "+25 % [+18 %, +33 %]": the unit belongs to the estimate.
            unit, _, interval = interval.partition(" ")
            estimate = f"{estimate} {unit}".strip()
        return estimate, interval
    estimate = fmt.number(diff.estimate, places, sign=True)
    if diff.low is None or diff.high is None:
        return estimate, ""
    ends = (fmt.number(end, places, sign=True) for end in (diff.low, diff.high))
    return estimate, f"[{', '.join(ends)}]"


def noise_words(summary: Summary) -> str:
    """The noise floor in a few words, such as `noise ±4.1 % (duplicate ok)`."""
    noise = summary.noise
    if noise.ratio is None or noise.low is None or noise.high is None:
        return ""
    # The farther end of the duplicate's interval: what a time may differ by without any cause.
    far = max(abs(noise.high - 1), abs(noise.low - 1))
    verdict = "duplicate ok" if noise.trusted else "times not trustworthy"
    return f"noise ±{fmt.percent(far)} ({verdict})"


def block_words(summary: Summary) -> str:
    """How many blocks a workload had, such as `5 to 8 blocks`."""
    done = summary.protocol.get("blocks_done")
    counts = [n for n in done.values() if isinstance(n, int)] if isinstance(done, Mapping) else []
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return _plural(high, "block") if low == high else f"{low} to {high} blocks"


def notes(summary: Summary) -> list[str]:
    """Warnings that the verdict does not already tell."""
    told = " ".join(summary.verdict)
    return [note for note in summary.notes if note not in told]


def why(row: Row) -> str:
    """What became of a contestant that did not finish, and the error's last line."""
    state = row_status(row)
    if not row.message or row.message.startswith(state):
        return row.message or state
    return f"{state}: {row.message}"


def flip(diff: Difference) -> Difference:
    """The same comparison seen from the other side."""

    def turn(value: float | None) -> float | None:
        if value is None:
            return None
        return (1 / value if value else float("inf")) if diff.ratio else -value

    return Difference(
        a=diff.b, b=diff.a, measure=diff.measure, workload=diff.workload, ratio=diff.ratio,
        estimate=turn(diff.estimate), low=turn(diff.high), high=turn(diff.low), p=diff.p,
        word=_FLIPPED.get(diff.word, diff.word), method=diff.method, n=diff.n,
    )  # fmt: skip


def title(measure: Measure) -> str:
    """Head of a column: title and the direction that wins."""
    return f"{measure.title} {fmt.arrow(measure)}"


def size_words(workload: Workload) -> str:
    """A workload's kind and size in one line, from its facts."""
    facts = workload.facts
    words = []
    if "kind" in facts:
        words.append({"Classifier": "classification", "Regressor": "regression"}.get(
            str(facts["kind"]), str(facts["kind"])))  # fmt: skip
    rows = facts.get("rows")
    wide = facts.get("columns", facts.get("features"))
    if isinstance(rows, int) and isinstance(wide, int):
        words.append(f"{rows:,} x {wide:,}")
    elif isinstance(rows, int):
        words.append(f"{rows:,} rows")
    if facts.get("classes") and facts.get("kind") != "Regressor":
        words.append(f"{facts['classes']} classes")
    return ", ".join(words)


def facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A nested mapping as flat (name, text) pairs, in order."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        name = str(key).replace("_", " ")
        if isinstance(value, int | float) and not isinstance(value, bool):
            if name.endswith(" s"):
                found.append((name[:-2], fmt.seconds(value)))
                continue
            if name.endswith(("memory", "bytes")) and value > 1e6:
                found.append((name, fmt.size(value)))
                continue
        if isinstance(value, Mapping):
            told = facts(value)
            # Many short ones, such as versions, read better as one line.
            if len(told) > 3 and sum(len(a) + len(b) for a, b in told) < 40 * len(told):
                found.append((name, ", ".join(f"{a} {b}" for a, b in told)))
            else:
                found += [(f"{name}: {a}", b) for a, b in told]
        elif name == "blocks" and isinstance(value, list | tuple) and len(value) == 2:
            found.append((name, f"{value[0]} to {value[1]} a workload"))
        elif isinstance(value, list | tuple):
            if value:
                found.append((name, ", ".join(str(v) for v in value)))
        elif isinstance(value, bool):
            found.append((name, "yes" if value else "no"))
        elif value not in (None, ""):
            found.append((name, f"{value:,.6g}" if isinstance(value, float) else str(value)))
    return found


def protocol_words(summary: Summary) -> list[str]:
    """How it was measured, in plain sentences."""
    told = summary.protocol
    words = [
        "Every run is one fresh process. Import, first call and steady state are timed apart; "
        "memory is the peak that the kernel saw (VmHWM), reset between fit and predict.",
        "A block is one data set, one split and one seed; inside it all contestants run once, in "
        "random order, on byte-identical data, and blocks repeat.",
        "Differences are paired within blocks. Contestants whose difference to the tier's best "
        "is not clear share a letter: there is no rank inside the noise.",
    ]
    tune = told.get("tuning", told.get("tune"))
    if tune in (0, None, "", "defaults"):
        words.append("Defaults against defaults: nobody was tuned.")
    elif isinstance(tune, int):
        words.append(f"Everyone was tuned with the same {tune} trials on the same inner split.")
    if told.get("threads"):
        words.append(f"Each contestant may use {_plural(told['threads'], 'thread')}.")
    if told.get("budget_s"):
        words.append(f"The whole study may take {fmt.seconds(float(told['budget_s']))}.")
    return words


def _plural(number: Any, noun: str) -> str:
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"
