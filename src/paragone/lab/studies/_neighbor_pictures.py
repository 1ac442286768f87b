"""Pictures of the study `neighbors`: how a tree divides the plane, recall, and dimension.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

from pathlib import Path

from paragone.lab import format as fmt
from paragone.lab import growth
from paragone.lab.outcome import Summary
from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.studies._neighbor_findings import AXES, TREES, crossovers
from paragone.lab.summary import summarize

__all__ = ["dimension", "recall"]

_CURVE = "recall over seconds a query"


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _save(path: str, drawing: str, why: str) -> None:
    if not drawing:
        raise SystemExit(f"{why}: nothing to draw")
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def dimension(folder: str, path: str) -> None:
    """Time of a query by dimension; dotted, where brute force overtakes each tree."""
    summary = summarize(folder)
    axis = next((a for a in AXES if growth.axis_range(summary, a)), "")
    curves = {c.id: growth.along(summary, axis, c.id, "query_s") for c in summary.contestants}
    series = [
        trends.Series(name=_title(summary, name), index=i, points=points)
        for i, (name, points) in enumerate(curves.items())
        if points
    ]
    found = crossovers(summary, axis) if axis else {}
    marks = [(at, f"{at:.0f}") for name in TREES if (at := found.get(name))]
    drawing = trends.curves(
        series, title=f"Time of a query by dimension, {AXES.get(axis, '')} points",
        x_label="dimension (dotted: brute force overtakes a tree)", y_label="query",
        show_y=fmt.seconds, show_x=plain, marks=marks,
    )  # fmt: skip
    _save(path, drawing, "no sweep of dimensions")


def recall(folder: str, path: str) -> None:
    """Recall against time on the input of the highest dimension, exact searches at recall 1."""
    summary = summarize(folder)
    known = {w.id: int(w.facts.get("columns", 0)) for w in summary.workloads}
    drawn = {w for _, w, name, _, _ in summary.curves if name == _CURVE}
    if not drawn:
        raise SystemExit("no approximate search took part: nothing to draw")
    place = max(sorted(drawn), key=lambda w: known.get(w, 0))
    ids = [c.id for c in summary.contestants]
    series = []
    for i, name in enumerate(ids):
        runs = [
            list(zip(xs, ys, strict=True))
            for c, w, curve, xs, ys in summary.curves
            if (c, w, curve) == (name, place, _CURVE)
        ]
        if runs:
            points = sorted(sorted(runs, key=lambda run: run[-1][0])[len(runs) // 2])
            series.append(trends.Series(name=_title(summary, name), index=i, points=points))
    for row in summary.tables.get(place, ()):
        cell = row.cells.get("query_s")
        if cell is not None and cell.value:
            series.append(trends.Series(
                name=row.title, index=ids.index(row.contestant), points=[(cell.value, 1.0)]
            ))  # fmt: skip
    title = next(w.title for w in summary.workloads if w.id == place)
    drawing = trends.curves(
        series, title=f"{title}: recall against time", x_label="time of a query",
        y_label="recall", show_x=fmt.seconds, show_y=plain,
    )  # fmt: skip
    _save(path, drawing, "no curve")
