"""Pictures of the study `detectors`: boxes on images, and where the protocols part.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab.outcome import Summary
from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board, Scale
from paragone.lab.spec import Workload
from paragone.lab.studies._backbones_pictures import embedded, moved
from paragone.lab.studies._detectors_findings import TITLES
from paragone.lab.summary import summarize

__all__ = ["boxes", "overlaps", "protocols"]

IMAGES, SIDE, GAP = 4, 190, 10
LEAST = 0.2
"""Score below which a box is not drawn; of an image where all are below, the best is."""

STYLE = """
text{font:12px system-ui,sans-serif;fill:#333}.small{font-size:11px;fill:#666}
.true{fill:none;stroke:#fff;stroke-width:1;stroke-dasharray:3 2}
.found{fill:none;stroke:#e69f00;stroke-width:2}.score{fill:#e69f00;font-size:11px}
.b0{fill:#0072b2}.b1{fill:#56b4e9}.b2{fill:#e69f00}.b3{fill:#d55e00}
@media (prefers-color-scheme:dark){text{fill:#ddd}.small{fill:#aaa}}
"""

Found = Mapping[str, np.ndarray]


def _save(path: str, drawing: str, why: str) -> None:
    if not drawing:
        raise SystemExit(f"{why}: nothing to draw")
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def _runs(summary: Summary, folder: str, place: str) -> dict[str, tuple[int, Found]]:
    """Contestant to the split of its first run and what it found there."""
    told: dict[str, tuple[int, Found]] = {}
    names = ("boxes", "labels", "scores", "counts")
    known = {c.id for c in summary.contestants}
    for record in summary.records:
        name, files = record["contestant"], record.get("artifacts", {})
        if record["workload"] != place or name in told or name not in known:
            continue
        if set(names) <= files.keys():
            found = {kind: np.load(Path(folder) / files[kind]) for kind in names}
            told[name] = (int(record.get("split") or 0), found)
    return told


def _scenes(folder: str, place: Workload, split: int) -> Any:
    return resolve(place.load)(**{**place.params, **moved(folder, place.params)}, split=split)


def boxes(folder: str, path: str) -> None:
    """The same test images, a row for each detector: what is there and what was found."""
    summary = summarize(folder)
    for place in summary.workloads:
        runs = _runs(summary, folder, place.id)
        if runs:
            break
    else:
        return _save(path, "", "no detections were kept")
    titles = {c.id: c.title for c in summary.contestants}
    split = next(iter(runs.values()))[0]
    scenes = _scenes(folder, place, split)
    board = Board(width=GAP + IMAGES * (SIDE + GAP), height=(SIDE + 34) * len(runs) + 26,
                  title="Boxes found")  # fmt: skip
    board.add("style", STYLE)
    for line, (name, (mine, found)) in enumerate(runs.items()):
        top = 20 + (SIDE + 34) * line
        board.text(GAP, top, titles[name])
        if mine == split:
            _row(board, scenes, found, top + 8)
    board.text(GAP, board.height - 8, "dashed: what is there; drawn through: found, with its score",
               "small")  # fmt: skip
    return _save(path, board.svg(), "no detections were kept")


def _row(board: Board, scenes: Any, found: Found, top: float) -> None:
    starts = np.concatenate([[0], np.cumsum(found["counts"])])
    scale = SIDE / scenes.pixels.shape[1]
    for k, row in enumerate(scenes.test[:IMAGES]):
        left = GAP + k * (SIDE + GAP)
        board.add("image", x=left, y=top, width=SIDE, height=SIDE,
                  href=embedded(scenes.pixels[row]))  # fmt: skip
        for box in scenes.boxes[row]:
            _box(board, box * scale, left, top, "true")
        part = slice(starts[k], starts[k + 1])
        scores = found["scores"][part]
        shown = np.flatnonzero(scores >= LEAST)
        shown = shown if len(shown) or not len(scores) else np.array([int(scores.argmax())])
        for i in shown[:20]:
            box = found["boxes"][part][i] * scale
            _box(board, box, left, top, "found")
            words = f"{scenes.classes[int(found['labels'][part][i])]} {scores[i]:.2f}"
            board.text(left + float(box[0]) + 2, top + max(float(box[1]) - 2, 10.0), words, "score")


def _box(board: Board, box: np.ndarray, left: float, top: float, kind: str) -> None:
    low, high = box[:2].clip(0, SIDE), box[2:].clip(0, SIDE)
    board.add("rect", cls=kind, x=left + float(low[0]), y=top + float(low[1]),
              width=max(float(high[0] - low[0]), 1.0),
              height=max(float(high[1] - low[1]), 1.0))  # fmt: skip


def overlaps(folder: str, path: str) -> None:
    """AP over the overlap that is asked for: how tight the boxes are."""
    summary = summarize(folder)
    series, seen = [], set()
    ids = [c.id for c in summary.contestants]
    titles = {c.id: c.title for c in summary.contestants}
    for contestant, _, name, xs, ys in summary.curves:
        if name == "AP over overlap" and contestant in titles and contestant not in seen:
            seen.add(contestant)
            points = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None and y > 0]
            if len(points) > 1:
                series.append(trends.Series(name=titles[contestant], index=ids.index(contestant),
                                            points=points))  # fmt: skip
    drawing = trends.curves(
        series, title="AP by the overlap that is asked for", x_label="overlap",
        y_label="average precision", show_x=plain, show_y=plain,
    )  # fmt: skip
    _save(path, drawing, "nothing was found")


def protocols(folder: str, path: str) -> None:
    """The same detections by VOC 2007, VOC 2012, COCO at 0.5 and COCO: a bar each."""
    from paragone.lab.studies._detectors_findings import _values

    summary = summarize(folder)
    kinds = ("voc2007", "voc2012", "ap50", "ap")
    rows = {c.title: _values(summary, c.id) for c in summary.contestants}
    rows = {title: values for title, values in rows.items() if set(kinds) <= values.keys()}
    most = max((values[kind] for values in rows.values() for kind in kinds), default=0.0)
    if most <= 0:
        return _save(path, "", "nothing was found")
    board = Board(width=860, height=40 + 74 * len(rows), title="Protocols")
    board.add("style", STYLE)
    scale = Scale(low=0, high=most, start=260, stop=720)
    for line, (title, values) in enumerate(rows.items()):
        top = 14 + 74 * line
        board.text(250, top + 30, title, "", "end")
        for k, kind in enumerate(kinds):
            y = top + 15 * k
            board.add("rect", cls=f"b{k}", x=260, y=y, width=max(scale(values[kind]) - 260, 1),
                      height=12)  # fmt: skip
            board.text(scale(values[kind]) + 6, y + 10, f"{values[kind]:.3f} {TITLES[kind]}",
                       "small")  # fmt: skip
    return _save(path, board.svg(), "nothing was found")
