"""Pictures of the study `backbones`: arithmetic against time, the line of blocks, mistakes.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab import format as fmt
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Summary
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board, Scale, place_labels, text_width
from paragone.lab.studies._backbones_findings import priced
from paragone.lab.summary import summarize

__all__ = ["embedded", "lineage", "macs", "mistakes", "moved"]

CHANNELS, SIDE = 96, 28
"""Channels in and out of each block of the lineage, and the side of its map."""

SHOWN, THUMB = 8, 56

STYLE = """
text{font:12px system-ui,sans-serif;fill:#333}.bar{fill:#0072b2}.small{font-size:11px;fill:#666}
.dot{fill:#0072b2}.dot.rival{fill:#d55e00}.axis{stroke:#777}.grid{stroke:#ddd}
@media (prefers-color-scheme:dark){text{fill:#ddd}.small{fill:#aaa}.bar,.dot{fill:#56b4e9}
.grid{stroke:#444}}
"""


def _save(path: str, drawing: str, why: str) -> None:
    if not drawing:
        raise SystemExit(f"{why}: nothing to draw")
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def macs(folder: str, path: str) -> None:
    """Time of an image of a batch over its multiply-adds, both logarithmic."""
    summary = summarize(folder)
    points = []
    for contestant in summary.contestants:
        x, y = (
            by_workload(summary, contestant.id, name).get(priced(summary))
            for name in ("macs", "batch_s")
        )
        if x and y:
            points.append((x, y, contestant.title, contestant.origin))
    if len(points) < 2:
        _save(path, "", "costs were not measured")
    board = Board(width=900, height=500, title="Multiply-adds and time")
    board.add("style", STYLE)
    across = Scale.around([p[0] for p in points], 70, 880, log=True)
    up = Scale.around([p[1] for p in points], 440, 50, log=True)
    board.x_axis(across, 440, 50, "multiply-adds of an image", lambda v: f"{v / 1e6:g} M")
    board.y_axis(up, 70, 880, "time of an image of a batch", fmt.seconds)
    marks = [(across(x), up(y), 5.0) for x, y, _, _ in points]
    sizes = [(text_width(title, 11), 13.0) for _, _, title, _ in points]
    places = place_labels(marks, sizes, (72, 40, 890, 438))
    for (x, y, _), (left, top), (_, _, title, origin) in zip(marks, places, points, strict=True):
        board.add("circle", cls="dot" if origin == "paragone" else "dot rival", cx=x, cy=y, r=5)
        board.text(left, top + 10, title, "small")
    _save(path, board.svg(), "costs were not measured")


def lineage(folder: str, path: str) -> None:
    """Multiply-adds of each block of the line at the same width, counted."""
    del folder
    blocks = resolve("paragone.vision:lineage")(CHANNELS, (SIDE, SIDE))
    board = Board(width=900, height=58 + 40 * len(blocks), title="The line of blocks")
    board.add("style", STYLE)
    words = f"{CHANNELS} channels in and out, {SIDE} x {SIDE} places"
    board.text(16, 22, f"Multiply-adds of one block, {words}, and their share of the full one's")
    scale = Scale(low=0, high=max(b.multiply_adds for b in blocks), start=250, stop=700)
    for row, block in enumerate(blocks):
        y = 40 + 40 * row
        end = scale(block.multiply_adds)
        board.text(240, y + 14, f"{block.name} ({block.year})", "", "end")
        board.add("rect", cls="bar", x=250, y=y, width=max(end - 250, 1), height=18)
        board.text(end + 8, y + 14, f"{block.multiply_adds / 1e6:.1f} M ({block.ratio:.3f})")
        board.text(250, y + 31, block.idea, "small")
    _save(path, board.svg(), "no blocks")


def mistakes(folder: str, path: str) -> None:
    """Images that each network took for something else, with the likeliest class."""
    summary = summarize(folder)
    place = next((w for w in summary.workloads if w.id in ("seconds", "data")), None)
    rows = _wrong(summary, folder, place.id) if place is not None else {}
    if place is None or not rows:
        _save(path, "", "no predictions were kept")
    assert place is not None
    load = resolve(place.load)
    images = load(**{**place.params, **moved(folder, place.params)})
    board = Board(width=250 + SHOWN * (THUMB + 12), height=20 + 84 * len(rows), title="Mistakes")
    board.add("style", STYLE)
    for line, (title, total, wrong) in enumerate(rows.values()):
        y = 14 + 84 * line
        board.text(14, y + 24, title)
        board.text(14, y + 42, f"{len(wrong)} of {total} wrong", "small")
        for k, (row, guess) in enumerate(wrong[:SHOWN]):
            x = 240 + k * (THUMB + 12)
            board.add(
                "image", x=x, y=y, width=THUMB, height=THUMB, href=embedded(images.pixels[row])
            )
            words = f"{images.classes[guess]} ({images.classes[images.labels[row]]})"
            board.text(x + THUMB / 2, y + THUMB + 12, words[:12], "small", "middle")
    _save(path, board.svg(), "no mistakes")


def moved(folder: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Where the user's images lie, if the study's folder was moved."""
    if "folder" not in params or Path(params["folder"]).exists():
        return {}
    return {"folder": str(Path(folder) / "data" / Path(params["folder"]).name)}


def _wrong(
    summary: Summary, folder: str, place: str
) -> dict[str, tuple[str, int, list[tuple[int, int]]]]:
    """Contestant to its title, the test images, and (row, guess) of those that were mistaken."""
    found = {}
    titles = {c.id: c.title for c in summary.contestants}
    for record in summary.records:
        name, files = record["contestant"], record.get("artifacts", {})
        if record["workload"] != place or name not in titles or name in found:
            continue
        if not {"rows", "guess", "correct"} <= files.keys():
            continue
        rows, guess, correct = (
            np.load(Path(folder) / files[kind]) for kind in ("rows", "guess", "correct")
        )
        wrong = [(int(rows[i]), int(guess[i])) for i in np.flatnonzero(~correct.astype(bool))]
        found[name] = (titles[name], len(rows), wrong)
    return {name: found[name] for name in titles if name in found}


def embedded(pixels: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
