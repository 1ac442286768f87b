"""Pictures of the study `alignment`: reward against divergence, and texts side by side.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board
from paragone.lab.summary import summarize

__all__ = ["frontier", "texts"]

COLUMNS, LINE = 104, 15
_STYLE = "text{font:12px system-ui,sans-serif;fill:#333}.mono{font:11.5px ui-monospace,monospace}" \
         ".head{font-weight:600}@media (prefers-color-scheme:dark){text{fill:#ddd}}"  # fmt: skip


def _save(path: str, drawing: str, why: str) -> None:
    if not drawing:
        raise SystemExit(f"{why}: nothing to draw")
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def _mean_path(runs: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The k-th looks of all seeds, averaged."""
    shortest = min(map(len, runs))
    stacked = np.array([run[:shortest] for run in runs])
    return [(float(x), float(y)) for x, y in stacked.mean(0)]


def frontier(folder: str, path: str) -> None:
    """Paths of training in the plane of divergence and reward: means of the seeds, and each."""
    summary = summarize(folder)
    ids = [c.id for c in summary.contestants]
    titles = {c.id: c.title for c in summary.contestants if c.origin != "baseline"}
    places = [w for w in summary.workloads if w.facts.get("kind") != "pairs"]
    for place in places:
        drawn: dict[str, list[list[tuple[float, float]]]] = {}
        for name, where, curve, xs, ys in summary.curves:
            if curve == "reward over kl" and where == place.id and name in titles:
                points = [(x, y) for x, y in zip(xs, ys, strict=True) if None not in (x, y)]
                drawn.setdefault(name, []).append(points)
        series = [
            trends.Series(name=titles[name], index=ids.index(name), points=_mean_path(runs),
                          runs=runs)
            for name, runs in sorted(drawn.items(), key=lambda item: ids.index(item[0]))
        ]  # fmt: skip
        drawing = trends.curves(
            series, title=f"{place.title}: reward against divergence",
            x_label="KL from the base, nats an answer", y_label="reward, held-out prompts",
            show_x=plain, show_y=plain, marks=[(float(place.facts["limit"]), "leash")],
        )  # fmt: skip
        if drawing:
            return _save(path, drawing, "")
    return _save(path, "", "no path was recorded")


def _told(folder: str, summary: Any) -> dict[str, Any]:
    """Contestant to the answers of its first run."""
    found: dict[str, Any] = {}
    for record in sorted(summary.records, key=lambda r: r["block"]):
        file = record.get("artifacts", {}).get("answers")
        if file and record["contestant"] not in found:
            found[record["contestant"]] = json.loads(np.load(Path(folder) / file).tobytes())
    return found


def texts(folder: str, path: str) -> None:
    """The same held-out prompts, a line for each, a column for each contestant."""
    summary = summarize(folder)
    found = _told(folder, summary)
    shown = [c for c in summary.contestants if c.id in found]
    if not shown:
        return _save(path, "", "no answers were kept")
    prompts = [one["prompt"] for one in found[shown[0].id]["texts"]]

    blocks = [
        (prompt, [(c.title, _wrapped(found, c.id, k)) for c in shown])
        for k, prompt in enumerate(prompts)
    ]
    height = 50 + sum(34 + sum(LINE * len(lines) + 8 for _, lines in rows) for _, rows in blocks)
    board = Board(width=960, height=height, title="Answers to the same prompts")
    board.add("style", _STYLE)
    board.text(10, 20, f"wanted: {found[shown[0].id]['about']}", "mono")
    y = 48.0
    for prompt, rows in blocks:
        board.text(10, y, f"prompt: {' '.join(prompt.split())} …", "head")
        y += 22
        for title, lines in rows:
            board.text(10, y, title)
            for line in lines:
                board.text(190, y, line, "mono")
                y += LINE
            y += 8
        y += 12
    return _save(path, board.svg(), "no answers were kept")


def _wrapped(found: Any, name: str, number: int) -> list[str]:
    return textwrap.wrap(found[name]["texts"][number]["answer"], COLUMNS) or ["(nothing)"]
