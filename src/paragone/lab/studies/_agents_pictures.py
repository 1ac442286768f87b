"""Pictures of the study `agents`: film strips, offline against closed loop, training losses.

Each function is called in a process of its own, with the study's folder and the file to write.

Shapes: film strips are (H, W, 3) uint8.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np

from paragone.lab.outcome import Summary
from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board
from paragone.lab.studies._agents_findings import places, value
from paragone.lab.summary import summarize

__all__ = ["losses", "offline", "strips"]

_WIDE, _TALL, _LEFT, _BAR = 960, 260, 190, 18
_MOST = 12
"""Film strips of a picture, so that the report stays small."""
_STYLE = "text{font:12px system-ui,sans-serif;fill:#333}.small{font-size:11px;fill:#666}" \
    "@media (prefers-color-scheme:dark){text{fill:#ddd}.small{fill:#aaa}}"  # fmt: skip


def _save(path: str, drawing: str, why: str) -> None:
    if not drawing:
        raise SystemExit(f"{why}: nothing to draw")
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def _embedded(pixels: np.ndarray) -> tuple[str, int, int]:
    """A strip as a small JPEG, its width and height in the picture."""
    from PIL import Image

    image = Image.fromarray(pixels)
    scale = min(_WIDE / image.width, _TALL / image.height, 1.0)
    shown = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    # Twice as fine as it stands there, for screens of today.
    kept = min(2 * shown[0], image.width), min(2 * shown[1], image.height)
    file = io.BytesIO()
    image.resize(kept, Image.Resampling.LANCZOS).save(file, "JPEG", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return "data:image/jpeg;base64," + data, *shown


def _kept(summary: Summary, folder: str) -> list[tuple[str, np.ndarray]]:
    """Captions and strips: of each contestant a success and a failure, as far as there is room."""
    found: list[tuple[str, np.ndarray]] = []
    titles = {c.id: c.title for c in summary.contestants}
    for place in reversed(places(summary)):
        for kind, said in (("strip_done", "success"), ("strip_failed", "failure")):
            known: set[str] = set()
            for record in summary.records:
                name, files = record["contestant"], record.get("artifacts", {})
                if record["workload"] != place.id or kind not in files or name in known:
                    continue
                if name in titles:
                    known.add(name)
                    strip = np.load(Path(folder) / files[kind])
                    found.append((f"{titles[name]}: {said} ({place.id})", strip))
    return found[:_MOST]


def strips(folder: str, path: str) -> None:
    """Film strips of episodes, with the thought, the action and the mark."""
    kept = _kept(summarize(folder), folder)
    if not kept:
        return _save(path, "", "no episode was kept")
    made = [(caption, *_embedded(strip)) for caption, strip in kept]
    height = sum(tall + 40 for *_, tall in made) + 10
    board = Board(width=_WIDE + 20, height=height, title="Agents at work")
    board.add("style", _STYLE)
    y = 10
    for caption, data, wide, tall in made:
        board.text(10, y + 14, caption)
        board.add("image", x=10, y=y + 22, width=wide, height=tall, href=data)
        y += tall + 40
    return _save(path, board.svg(), "")


def offline(folder: str, path: str) -> None:
    """Bars of single steps judged offline, and below them of success in a browser."""
    summary = summarize(folder)
    lines: list[tuple[str, str, float | None]] = []
    for place in places(summary):
        for contestant in summary.contestants:
            shares = [value(summary, contestant.id, place.id, name)
                      for name in ("in_box", "accuracy")]  # fmt: skip
            if None not in shares:
                lines.append((f"{contestant.title}, {place.id}", "offline", shares[0]))
                lines.append(("", "closed loop", shares[1]))
    if not lines:
        return _save(path, "", "nothing was judged offline")
    board = Board(width=_LEFT + 620, height=30 + len(lines) * (_BAR + 4),
                  title="Single steps offline, and success in a browser")  # fmt: skip
    board.add("style", _STYLE)
    for number, (name, kind, share) in enumerate(lines):
        y = 12 + number * (_BAR + 4)
        board.text(_LEFT - 8, y + 13, name, "", "end")
        colour = "#9aa7b5" if kind == "offline" else "#2a6fb0"
        wide = max(1.0, 400 * float(share or 0.0))
        board.add("rect", x=_LEFT, y=y, width=wide, height=_BAR, fill=colour)
        board.text(_LEFT + wide + 6, y + 13, f"{100 * float(share or 0.0):.0f} % {kind}", "small")
    return _save(path, board.svg(), "")


def losses(folder: str, path: str) -> None:
    """Training loss of the present action over CPU seconds, the first seed of each contestant."""
    summary = summarize(folder)
    titles = {c.id: c.title for c in summary.contestants}
    for place in reversed(places(summary)):
        series: dict[str, Any] = {}
        for name, where, what, xs, ys in summary.curves:
            if (where, what) == (place.id, "loss over CPU seconds") and name in titles:
                both = zip(xs, ys, strict=True)
                points = [(x, y) for x, y in both if x is not None and y is not None]
                if name not in series and points:
                    series[name] = trends.Series(name=titles[name], index=len(series),
                                                 points=points)  # fmt: skip
        drawing = trends.curves(
            list(series.values()), title=f"{place.title}: training", x_label="CPU seconds",
            y_label="loss of an action, nats", show_x=plain, show_y=plain,
        ) if series else ""  # fmt: skip
        if drawing:
            return _save(path, drawing, "")
    return _save(path, "", "nothing was trained")
