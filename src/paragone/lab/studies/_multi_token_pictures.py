"""Pictures of the study `multi_token_training`: gaps with their intervals, losses, acceptance.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from paragone.lab.outcome import Summary
from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board, Scale
from paragone.lab.studies._multi_token_findings import PLAIN, gaps, values
from paragone.lab.summary import summarize

__all__ = ["depths", "gap_bars", "losses"]

_LEFT, _RIGHT, _LINE = 250, 800, 26


def _save(path: str, drawing: str) -> None:
    if not drawing:
        raise SystemExit("no run has finished: nothing to draw")
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def gap_bars(folder: str, path: str) -> None:
    """The difference from plain training and its 95 % interval, a group for each workload."""
    summary = summarize(folder)
    titles = {c.id: c.title for c in summary.contestants}
    groups = [(w, found) for w in summary.workloads if (found := gaps(summary, w.id))]
    if not groups:
        return _save(path, "")
    ends = [0.0]
    for _, found in groups:
        for one in found.values():
            ends += [x for x in (one.estimate, one.low, one.high) if x is not None]
    height = 60 + sum(_LINE * (len(found) + 1.5) for _, found in groups)
    board = Board(width=860, height=int(height) + 40, title="Against plain training")
    x = Scale.around(ends, _LEFT, _RIGHT, pad=0.05)
    board.x_axis(x, height, 30, "loss of the main head against plain training, nats a symbol; "
                 "left of 0: better", plain)  # fmt: skip
    board.line(x(0.0), 30, x(0.0), height, "cross")
    at = 44.0
    for place, found in groups:
        board.text(14, at + 4, place.title, "tag")
        at += _LINE
        for k, (name, one) in enumerate(found.items()):
            board.text(_LEFT - 10, at + 4, titles.get(name, name), "tick", "end")
            if one.low is not None and one.high is not None:
                board.line(x(one.low), at, x(one.high), at, "error")
            if one.estimate is not None:
                for seed in _single(summary, place.id, name):
                    board.mark(x(x.clip(seed)), at, 7, radius=2.5, tip=f"{seed:+.4f}")
                board.mark(x(one.estimate), at, k % 7, radius=5, tip=f"{one.estimate:+.4f}")
            at += _LINE
        at += _LINE / 2
    return _save(path, board.svg())


def _single(summary: Summary, place: str, name: str) -> list[float]:
    """Differences of single seeds, where both have as many runs."""
    mine, theirs = (values(summary, who, place, "loss") for who in (name, PLAIN))
    return [a - b for a, b in zip(mine, theirs, strict=True)] if len(mine) == len(theirs) else []


def _mean_curves(summary: Summary, curve: str, place: Any) -> dict[str, list[tuple[float, float]]]:
    """Contestant to a curve, the seeds averaged point by point."""
    drawn: dict[str, list[list[tuple[float, float]]]] = {}
    for name, where, kind, xs, ys in summary.curves:
        if kind == curve and where == place.id:
            drawn.setdefault(name, []).append(list(zip(xs, ys, strict=True)))
    found = {}
    for name, runs in drawn.items():
        shortest = min(map(len, runs))
        mean = np.array([run[:shortest] for run in runs], float).mean(0)
        found[name] = [(float(x), float(y)) for x, y in mean]
    return found


def _curves(
    path: str, curve: str, title: str, x_label: str, y_label: str, summary: Summary
) -> None:
    ids = [c.id for c in summary.contestants]
    titles = {c.id: c.title for c in summary.contestants}
    for place in reversed([w for w in summary.workloads if w.facts.get("budget") == "tokens"]):
        series = [
            trends.Series(name=titles[name], index=ids.index(name), points=points)
            for name, points in _mean_curves(summary, curve, place).items() if name in titles
        ]  # fmt: skip
        drawing = trends.curves(
            series, title=f"{place.title}: {title}", x_label=x_label, y_label=y_label,
            show_x=plain, show_y=plain,
        )  # fmt: skip
        if drawing:
            return _save(path, drawing)
    return _save(path, "")


def losses(folder: str, path: str) -> None:
    """Loss of the main head over the symbols read, of the largest model at equal tokens."""
    _curves(path, "loss over tokens", "the main head in training", "symbols read",
            "training loss, nats a symbol", summarize(folder))  # fmt: skip


def depths(folder: str, path: str) -> None:
    """Share of drafted symbols that the model agrees to, by their depth."""
    _curves(path, "accepted by depth", "guesses accepted, once the one before was", "depth",
            "share accepted", summarize(folder))  # fmt: skip
