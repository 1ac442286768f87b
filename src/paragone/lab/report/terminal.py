"""The study on the terminal: one table, the verdict under it, and where the report lies.

Columns give way in a fixed order when the terminal is narrow, so that lines never wrap: first
secondary times, then memory, then the time that ranks; tier, method, quality and the difference
to the best stay to the last. A contestant without numbers tells in their place what became of
it. On a pipe the same text comes without colours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from paragone.lab import format as fmt
from paragone.lab.outcome import Row, Summary
from paragone.lab.report import view

__all__ = ["print_summary"]

_GAP = 2
_TIERS = {"A": "bold green", "B": "cyan"}
_GOOD_NAME, _LEAST_NAME = 22, 12
"""Names are shortened to the first before a column is dropped, to the second at the very end."""


@dataclass
class _Column:
    head: str
    texts: list[str]
    styles: Sequence[str]
    right: bool = True
    keep: int = 0
    """Columns with the lowest number leave first when room is short."""

    def width(self) -> int:
        return max(cell_len(text) for text in (self.head, *self.texts))


def print_summary(
    summary: Summary, *, console: Console | None = None, width: int | None = None,
    folder: str | Path | None = None,
) -> None:  # fmt: skip
    """Prints the leaderboard and the verdict.

    Args:
        summary: What the study found.
        console: Where to print; None: standard output (rich keeps `NO_COLOR` and pipes).
        width: Columns; None: as many as the terminal has, at most 140, and 100 on a pipe.
        folder: The study's folder, for the line that says where the report lies.
    """
    console = console or Console(highlight=False)
    piped = not console.is_terminal and console.file is sys.stdout and "COLUMNS" not in os.environ
    width = width or (100 if piped else min(console.width, 140))
    only = summary.only
    rows = summary.rows or summary.tables.get(only, ())

    def say(line: Text | str = "") -> None:
        text = line if isinstance(line, Text) else Text(line)
        console.print(text, no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)

    for line in _header(summary, width):
        say(line)
    if rows:
        for line in _table(_fit(_columns(summary, rows, only), width), rows, width):
            say(line)
    for i, sentence in enumerate(summary.verdict):
        for line in _wrap(sentence, width):
            say(Text(line, style="bold" if i == 0 else ""))
    for note in view.notes(summary):
        for line in _wrap(f"Note: {note}", width):
            say(Text(line, style="yellow"))
    for line in _footer(summary, width, folder):
        say(line)


def _header(summary: Summary, width: int) -> list[Text]:
    """What was studied on the left, the noise on the right, on one line if both fit."""
    inputs = summary.workloads
    what = inputs[0].title if len(inputs) == 1 else f"{len(inputs)} workloads"
    words = [view.size_words(inputs[0])] if len(inputs) == 1 else []
    told = summary.protocol
    words.append(view.block_words(summary))
    words.append(f"seed {told['seed']}" if "seed" in told else "")
    threads = told.get("threads")
    words.append(f"{threads} thread{'' if threads == 1 else 's'}" if threads else "")
    budget = told.get("budget_s")
    words.append(f"budget {fmt.seconds(budget)}" if isinstance(budget, int | float) else "")
    name = Text.assemble((summary.study, "bold"), f" on {what}" if inputs else "")
    detail = ", ".join(word for word in words if word)
    left = Text.assemble(name, "   ", (detail, "dim"))
    noise = Text(view.noise_words(summary), style="green" if summary.noise.trusted else "bold red")
    if not noise.plain and left.cell_len <= width:
        return [left]
    room = width - left.cell_len - noise.cell_len
    if room >= 3:
        return [Text.assemble(left, " " * room, noise)]
    lines = [name]
    for text, style in ((detail, "dim"), (noise.plain, str(noise.style))):
        lines += [Text(line, style=style) for line in _wrap(text, width)]
    return lines


def _columns(summary: Summary, rows: Sequence[Row], only: str) -> list[_Column]:
    faint = ["" if row.tier else "dim" for row in rows]
    found: list[_Column] = []
    if any(row.tier for row in rows):
        tiers = [row.tier or "-" for row in rows]
        styles = [_TIERS.get(row.tier, "") for row in rows]
        found.append(_Column("tier", tiers, styles, right=False, keep=99))
    found.append(_Column("method", [row.title for row in rows], faint, right=False, keep=99))
    times = 0
    for i, column in enumerate(view.columns(summary, rows, only)):
        times += column.measure.role == "time"
        keep = 90 if i == 0 else 50 if times == 1 else 30 if column.measure.primary else 20
        keep = max(keep, 45) if column.measure.shown else keep
        keep = keep if column.main else 10 - i
        found.append(_Column(view.title(column.measure), list(column.texts), faint, keep=keep))
        if i == 0 and any(row.versus_best is not None for row in rows):
            found.append(_versus(rows, faint))
    runs = [f"{row.done}/{row.planned}" if row.planned else "" for row in rows]
    styles = ["" if row.status == "ok" else "yellow" for row in rows]
    found.append(_Column("runs", runs, styles, keep=40))
    return found


def _versus(rows: Sequence[Row], faint: Sequence[str]) -> _Column:
    texts, styles = [], []
    best = view.leading(rows)
    shown = view.compared([row.versus_best for row in rows])
    for row, style, pair in zip(rows, faint, shown, strict=True):
        diff = row.versus_best
        texts.append("best" if row is best and diff is None else " ".join(pair).strip())
        word = diff.word if diff is not None else ""
        styles.append({"better": "green", "worse": "red"}.get(word, style))
    return _Column("vs best (95 % CI)", texts, styles, keep=60)


def _fit(columns: list[_Column], width: int) -> list[_Column]:
    """Drops the least important columns until the rest fits, then shortens names."""
    columns = [c for c in columns if c.keep > 10]

    def total() -> int:
        return 1 + sum(c.width() + _GAP for c in columns) - _GAP

    names = next(c for c in columns if c.head == "method")
    whole = list(names.texts)
    while total() > width:
        if names.width() > _GOOD_NAME:
            room = max(_GOOD_NAME, names.width() - (total() - width))
            names.texts = [_cut(text, room) for text in names.texts]
        elif len(columns) > 3:
            columns.remove(min(columns, key=lambda c: c.keep))
        else:
            room = max(_LEAST_NAME, names.width() - (total() - width))
            names.texts = [_cut(text, room) for text in names.texts]
            break
    # A column that left makes room for longer names.
    room = names.width() + width - total()
    names.texts = [_cut(text, room) for text in whole]
    return columns


def _cut(text: str, width: int) -> str:
    """The text without its middle: versions at the end tell names apart."""
    if len(text) <= width:
        return text
    tail = width // 3
    return f"{text[: width - tail - 1]}…{text[len(text) - tail :]}"


def _end_cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def _table(columns: Sequence[_Column], rows: Sequence[Row], width: int) -> list[Text]:
    widths = [column.width() for column in columns]

    def line(texts: Sequence[str], styles: Sequence[str]) -> Text:
        out = Text(" ")
        for column, text, style, wide in zip(columns, texts, styles, widths, strict=True):
            pad = " " * (wide - cell_len(text))
            out.append(pad + text if column.right else text + pad, style=style)
            out.append(" " * _GAP)
        out.rstrip()
        return out

    rule = Text(" " + "─" * (sum(widths) + _GAP * (len(widths) - 1)), style="dim")
    lines = [line([c.head for c in columns], ["dim"] * len(columns)), rule]
    for i, row in enumerate(rows):
        texts, styles = [c.texts[i] for c in columns], [c.styles[i] for c in columns]
        if any(cell.value is not None for cell in row.cells.values()):
            lines.append(line(texts, styles))
            continue
        at = 1 + next(k for k, c in enumerate(columns) if c.head == "method")
        start = line([*texts[:at], *[""] * (len(texts) - at)], styles)
        start.append(" " * (1 + sum(widths[:at]) + _GAP * at - start.cell_len))
        start.append(_end_cut(view.why(row), width - start.cell_len), style="yellow")
        lines.append(start)
    return [Text(), *lines, Text()]


def _footer(summary: Summary, width: int, folder: str | Path | None) -> list[Text]:
    lines = []
    for row in summary.rows:
        if row.message and any(cell.value is not None for cell in row.cells.values()):
            text = f"{row.title}: {view.why(row)}"
            lines.append(Text(_end_cut(text, width), style="yellow"))
    if folder is not None:
        lines.append(Text.assemble(("report  ", "dim"), str(Path(folder) / "report.html")))
    if summary.command:
        verb = "again   " if summary.complete else "resume  "
        lines += _prefixed(verb, summary.command, width)
    return [Text(), *lines] if lines else []


def _prefixed(head: str, text: str, width: int) -> list[Text]:
    found = _wrap(text, max(20, width - len(head)))
    return [
        Text.assemble((head if i == 0 else " " * len(head), "dim"), line)
        for i, line in enumerate(found)
    ]


def _wrap(text: Any, width: int) -> list[str]:
    """Lines of at most `width` columns, broken at blanks; a longer word stays whole."""
    lines, line = [], ""
    for word in str(text).split():
        longer = f"{line} {word}".strip()
        if line and cell_len(longer) > width:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line] if line else lines
