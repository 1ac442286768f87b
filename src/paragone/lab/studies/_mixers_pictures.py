"""Pictures of the study `mixers`: crossovers, where models look, HiPPO memories, spectra.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab import format as fmt
from paragone.lab import growth
from paragone.lab.outcome import Summary
from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board
from paragone.lab.studies._mixers_findings import crossovers
from paragone.lab.summary import summarize

__all__ = ["crossings", "maps", "matrix", "memory", "ranks"]

LOOKS = ("mha", "deltanet", "linear", "mamba")
ORDER, SAMPLES = 32, 2000

STYLE = """
text{font:12px system-ui,sans-serif;fill:#333}.cell{fill:#0072b2}.row{fill:none;stroke:#999}
@media (prefers-color-scheme:dark){text{fill:#ddd}.cell{fill:#56b4e9}}
"""


def _save(path: str, drawing: str, why: str) -> None:
    if not drawing:
        raise SystemExit(f"{why}: nothing to draw")
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def _titles(summary: Summary) -> dict[str, str]:
    return {c.id: c.title for c in summary.contestants}


def crossings(folder: str, path: str) -> None:
    """Forward time over length; a mark where the lead changes hands."""
    summary = summarize(folder)
    series = []
    for index, (name, title) in enumerate(_titles(summary).items()):
        points = growth.along(summary, "length", name, "forward_s")
        if len(points) > 1:
            series.append(trends.Series(name=title, index=index, points=points))
    marks = [(x, f"{after} leads") for x, _, after in trends.crossings(series)]
    drawing = trends.curves(
        series, title="Forward pass by length", x_label="tokens", y_label="time",
        show_x=fmt.count, show_y=fmt.seconds, marks=marks,
    )  # fmt: skip
    _save(path, drawing, "no two lengths were measured")


def matrix(folder: str, path: str) -> None:
    """For each pair and each of three times: the length from which the column is ahead."""
    summary = summarize(folder)
    times = {"forward_s": "forward", "train_s": "forward + backward", "step_s": "decoding"}
    tables = {title: crossovers(summary, measure) for measure, title in times.items()}
    tables = {title: found for title, found in tables.items() if found}
    if not tables:
        _save(path, "", "no pair met at two lengths")
    titles = _titles(summary)
    heights = [70 + 20 * len({n for pair in found for n in pair}) for found in tables.values()]
    most = max(len({n for pair in found for n in pair}) for found in tables.values())
    board = Board(width=230 + 46 * most, height=sum(heights) + 20, title="Every pair's crossover")
    board.add("style", STYLE)
    top = 10.0
    for (title, found), height in zip(tables.items(), heights, strict=True):
        _table(board, title, found, titles, top)
        top += height
    _save(path, board.svg(), "no pair met at two lengths")


def _table(
    board: Board, title: str, found: Mapping[tuple[str, str], float | None],
    titles: Mapping[str, str], top: float,
) -> None:  # fmt: skip
    names = [name for name in titles if any(name in pair for pair in found)]
    board.text(10, top + 14, f"{title}: length from which the column beats the row "
               "(< all along, – never)")  # fmt: skip
    for column, name in enumerate(names):
        board.text(242 + 46 * column, top + 36, name[:7], "tick", "middle")
        y = top + 56 + 20 * column
        board.text(210, y, titles[name], "", "end")
        for other, fast in enumerate(names):
            if fast == name:
                continue
            at = found.get((name, fast))
            words = f"{float(f'{at:.2g}'):.0f}" if at else "<" if (name, fast) in found else "–"
            board.text(242 + 46 * other, y, words, "tick", "middle")


def maps(folder: str, path: str) -> None:
    """How much each token of a recall row moves each answer, for models that were trained."""
    summary = summarize(folder)
    shown: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for record in summary.records:
        files = record.get("artifacts", {})
        if record["contestant"] in LOOKS and "looks" in files:
            shown[record["contestant"]] = tuple(  # type: ignore[assignment]
                np.load(Path(folder) / files[name]) for name in ("looks", "row")
            )
    if not shown:
        _save(path, "", "no model was trained to recall")
    rows, time = next(iter(shown.values()))[0].shape
    side = min(16.0, 700 / time)
    block = side * rows + 44
    board = Board(width=760, height=20 + block * len(shown), title="What moves each answer")
    board.add("style", STYLE)
    titles = _titles(summary)
    for i, name in enumerate(n for n in LOOKS if n in shown):
        _heat(board, shown[name][0], 30.0, 40 + block * i, side)
        board.text(30, 32 + block * i, f"{titles[name]}: answers (down) by tokens (across)")
    _save(path, board.svg(), "no model was trained to recall")


def _heat(board: Board, values: np.ndarray, left: float, top: float, side: float) -> None:
    """A rectangle for each number, as dark as its share of the row's largest."""
    shares = values / np.maximum(values.max(axis=1, keepdims=True), 1e-30)
    for (i, j), share in np.ndenumerate(shares):
        if share > 0.02:
            board.add("rect", cls="cell", x=round(left + side * j, 1), y=round(top + side * i, 1),
                      width=round(side, 1), height=round(side, 1),
                      fill_opacity=f"{share:.2f}")  # fmt: skip
    board.add("rect", cls="row", x=left, y=top, width=round(side * values.shape[1], 1),
              height=round(side * len(values), 1))  # fmt: skip


def memory(folder: str, path: str) -> None:
    """A signal, and what 32 coefficients of three measures know of it."""
    t = np.arange(SAMPLES) / SAMPLES
    signal = np.sin(13 * t**1.5) + 0.5 * np.sin(40 * t) * (t > 0.4) - 0.8 * (np.abs(t - 0.7) < 0.05)
    series = [trends.Series(name="signal", index=0, points=_points(t, signal))]
    measures: Sequence[tuple[str, str, dict[str, Any]]] = (
        ("legs", "LegS: all of it", {}), ("legt", "LegT: the last 0.4", {"theta": 0.4 * SAMPLES}),
        ("lagt", "LagT: fading", {"theta": 0.1 * SAMPLES}),
    )  # fmt: skip
    for index, (measure, title, options) in enumerate(measures, start=1):
        kept = resolve("paragone.mixers.hippo:Projection")(measure, ORDER, **options)
        kept.push(signal)
        at = np.arange(SAMPLES)[::10] + 0.5
        at = at[at >= SAMPLES - options["theta"]] if measure == "legt" else at
        series.append(trends.Series(
            name=title, index=index, points=_points(at / SAMPLES, kept.reconstruct(at), 1)
        ))  # fmt: skip
    drawing = trends.curves(
        series, title="What 32 numbers keep", x_label="time (now: 1)", y_label="signal",
        show_x=plain, show_y=plain,
    )  # fmt: skip
    _save(path, drawing, "no signal")


def _points(x: np.ndarray, y: np.ndarray, every: int = 10) -> list[tuple[float, float]]:
    kept = np.clip(y, -3, 3)
    return [(float(a), float(b)) for a, b in zip(x[::every], kept[::every], strict=True)]


def ranks(folder: str, path: str) -> None:
    """Singular values of a random head's attention matrix, exact and by feature maps."""
    maps = resolve("paragone.lab.contestants.mixers_maps:spectra")()
    series = [
        trends.Series(name=name, index=index, points=[
            (float(i + 1), float(max(value, 1e-17))) for i, value in enumerate(values)
        ])
        for index, (name, values) in enumerate(maps.items())
    ]  # fmt: skip
    drawing = trends.curves(
        series, title="Singular values of an attention matrix, 512 tokens, keys of 64",
        x_label="number", y_label="singular value / largest", show_x=plain,
        show_y=lambda y: f"{y:.0e}",
    )  # fmt: skip
    _save(path, drawing, "no spectra")
