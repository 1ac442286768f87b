"""Pictures of the study `scaling`: lines of equal compute, the front, the plane of N and D.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paragone.lab import scaling_law as laws
from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board, Scale
from paragone.lab.studies._scaling_findings import Found, found
from paragone.lab.summary import summarize

__all__ = ["front", "lines", "plane"]

_SHORT = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def _amount(value: float) -> str:
    for unit, name in _SHORT:
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.3g}"


def _found(folder: str) -> Found:
    what = found(summarize(folder))
    if not len(what.runs.loss):
        raise SystemExit("no run has finished: nothing to draw")
    return what


def _save(path: str, drawing: str) -> None:
    if not drawing:
        raise SystemExit("curves of one point: nothing to draw")
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def lines(folder: str, path: str) -> None:
    """Loss over size, a curve for each compute: marks are runs, the law is dashed."""
    what, series = _found(folder), []
    for k, (compute, (sizes, losses)) in enumerate(laws.lines(what.runs).items()):
        points = list(zip(sizes.tolist(), losses.tolist(), strict=True))
        bars = [
            (float(n), float(group.min()), float(group.max()))
            for n in sizes
            if len(group := what.runs.loss[(what.runs.c == compute) & (what.runs.n == n)]) > 1
        ]
        series.append(trends.Series(name=f"{compute:.3g}", index=k, points=points, bars=bars))
        if what.law is not None and len(sizes) > 1:
            grid = np.geomspace(sizes.min() / 1.3, sizes.max() * 1.3, 40)
            curve = what.law.loss(grid, compute / 6 / grid)
            series.append(trends.Series(
                name=f"{compute:.3g}, law", index=7 + k,
                points=list(zip(grid.tolist(), curve.tolist(), strict=True)),
            ))  # fmt: skip
    _save(path, trends.curves(
        series, title="Loss by size on lines of equal compute", x_label="parameters N",
        y_label="test loss, nats a symbol", show_x=_amount, show_y=plain,
    ))  # fmt: skip


def front(folder: str, path: str) -> None:
    """Loss over compute: a curve for each size, and the law's least loss."""
    what, series = _found(folder), []
    runs = what.runs
    for k, n in enumerate(np.unique(runs.n)):
        points = [(float(c), float(runs.loss[(runs.n == n) & (runs.c == c)].mean()))
                  for c in np.unique(runs.c[runs.n == n])]  # fmt: skip
        if len(points) > 1:
            series.append(trends.Series(name=f"{_amount(n)} parameters", index=k % 7,
                                        points=points))  # fmt: skip
    if what.law is not None:
        grid = np.geomspace(runs.c.min(), 3 * runs.c.max(), 40)
        curve = [(float(c), float(what.law.loss(*what.law.best(c)))) for c in grid]
        series.append(trends.Series(name="the law's best", index=8, points=curve))
    _save(path, trends.curves(
        series, title="Loss by compute", x_label="operations, 6 N D",
        y_label="test loss, nats a symbol", show_x=lambda x: f"{x:.3g}", show_y=plain,
    ))  # fmt: skip


def plane(folder: str, path: str) -> None:
    """Every training in the plane of N and D, lines of equal compute, and the best split."""
    what = _found(folder)
    runs = what.runs
    board = Board(width=860, height=520, title="Parameters and symbols")
    x = Scale.around([runs.n.min() / 1.5, runs.n.max() * 1.5], 90, 800, log=True)
    y = Scale.around([runs.d.min() / 1.5, runs.d.max() * 1.5], 450, 50, log=True)
    board.x_axis(x, 450, 50, "parameters N", _amount)
    board.y_axis(y, 90, 800, "symbols trained on, D", _amount)
    ends = np.geomspace(runs.n.min() / 1.5, runs.n.max() * 1.5, 60)
    low, high = runs.d.min() / 1.5, runs.d.max() * 1.5
    for compute in np.unique(runs.c):
        there = [(n, compute / 6 / n) for n in ends if low <= compute / 6 / n <= high]
        board.polyline([(x(n), y(d)) for n, d in there], "leader")
        if there:
            board.text(x(there[0][0]) + 4, y(there[0][1]) - 4, f"{compute:.3g}", "tick")
    if what.law is not None:
        split = [what.law.best(c) for c in np.geomspace(runs.c.min() / 3, runs.c.max() * 3, 60)]
        inside = [(x(n), y(d)) for n, d in split if ends[0] <= n <= ends[-1] and low <= d <= high]
        board.polyline(inside, "curve s1")
        if inside:
            board.text(inside[-1][0] - 6, inside[-1][1] - 8, "the law's best split", "tag", "end")
    for compute, (sizes, losses) in laws.lines(runs).items():
        for n, loss in zip(sizes, losses, strict=True):
            least = loss == losses.min()
            tip = f"N {_amount(n)}, {compute:.3g} operations: loss {loss:.3f}"
            place = x(n), y(compute / 6 / n)
            board.mark(*place, 1 if least else 0, radius=7 if least else 4, tip=tip)
            board.text(place[0] + 8, place[1] + 12, f"{loss:.2f}", "tick")
    _save(path, board.svg())
