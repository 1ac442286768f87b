"""Pictures of the study `decoding`: what a pass costs, and how far guesses go.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.studies import _decoding_findings as findings
from paragone.lab.summary import summarize

__all__ = ["depth", "passes"]


def _save(path: str, drawing: str, why: str) -> None:
    if not drawing:
        raise SystemExit(f"{why}: nothing to draw")
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def _drafters(summary: Any) -> list[tuple[int, Any]]:
    """Whoever drafts, with the number of its colour."""
    return [(i, c) for i, c in enumerate(summary.contestants)
            if c.id != "plain" and c.origin in ("paragone", "guest")]  # fmt: skip


def passes(folder: str, path: str) -> None:
    """T(n) / T(1), and at 1 + nodes what each drafter makes of it: above the curve it pays."""
    summary = summarize(folder)
    for place in summary.workloads:
        costs = findings.curve(summary, "plain", place.id, "cost of a pass")
        if len(costs) < 2:
            continue
        series = [trends.Series(name="T(n) / T(1)", index=0, points=costs)]
        for index, one in _drafters(summary):
            values = findings.means(summary, one.id, place.id)
            if "full_steps" in values:
                point = (1 + values["full_nodes"], values["full_steps"])
                series.append(trends.Series(name=one.title, index=index + 1, points=[point]))
        drawing = trends.curves(
            series, title=f"{place.title}: the cost of a pass, and the tokens it yields",
            x_label="tokens of a pass, n", y_label="multiple of one token", show_x=plain,
            show_y=plain,
        )  # fmt: skip
        return _save(path, drawing, "no pass was timed")
    return _save(path, "", "no pass was timed")


def depth(folder: str, path: str) -> None:
    """Shares of guesses that were agreed to, once the one before was."""
    summary = summarize(folder)
    for place in summary.workloads:
        series = []
        for index, one in _drafters(summary):
            points = findings.curve(summary, one.id, place.id, "accepted by depth")
            if points:
                series.append(trends.Series(name=one.title, index=index, points=points))
        drawing = trends.curves(
            series, title=f"{place.title}: agreed to, by depth",
            x_label="depth of the guess", y_label="share, given the one before", show_x=plain,
            show_y=plain,
        )  # fmt: skip
        if drawing:
            return _save(path, drawing, "")
    return _save(path, "", "nobody drafted")
