"""Pictures of the study `attention`: time over length by mask, bytes of a token by layout.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

from pathlib import Path

from paragone.lab import format as fmt
from paragone.lab import growth
from paragone.lab.outcome import Summary
from paragone.lab.report import trends
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board
from paragone.lab.studies._attention_findings import _cache_bytes
from paragone.lab.summary import summarize

__all__ = ["caches", "lengths"]

_SHOWN = ("flash_attention", "torch_flash")

STYLE = """
text{font:13px system-ui,sans-serif;fill:#333}.bar{fill:#0072b2}
@media (prefers-color-scheme:dark){text{fill:#ddd}}
"""


def _save(path: str, drawing: str, why: str) -> None:
    if not drawing:
        raise SystemExit(f"{why}: nothing to draw")
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def _curves(summary: Summary) -> list[trends.Series]:
    found = []
    shown = [w for w in summary.workloads
             if w.facts.get("part") == "kernel" and w.facts.get("depth") == 64]  # fmt: skip
    axes = dict.fromkeys(axis for w in shown for axis in w.axis)
    for axis in axes:
        mask = axis.split(", ")[1]
        for name in _SHOWN:
            points = growth.along(summary, axis, name, "forward_s")
            if len(points) > 1:
                title = next(c.title for c in summary.contestants if c.id == name)
                name = f"{title}, {mask}"
                found.append(trends.Series(name=name, index=len(found), points=points))
    return found


def lengths(folder: str, path: str) -> None:
    """Ours and torch's flash kernel, forward, a curve for each mask."""
    drawing = trends.curves(
        _curves(summarize(folder)), title="Forward pass by length and mask", x_label="tokens",
        y_label="time", show_x=fmt.count, show_y=fmt.seconds,
    )  # fmt: skip
    _save(path, drawing, "no mask was measured at two lengths")


def caches(folder: str, path: str) -> None:
    """A bar for the bytes of a token in each layout."""
    found = _cache_bytes(summarize(folder))
    if not found:
        _save(path, "", "no cache was measured")
    board = Board(width=720, height=60 + 44 * len(found), title="Bytes of a token in the cache")
    board.add("style", STYLE)
    widest = max(found.values())
    for i, (name, size) in enumerate(found.items()):
        y = 50 + 44 * i
        board.text(16, y + 19, name.upper())
        board.add("rect", x=80, y=y, width=round(520 * size / widest, 1), height=28, cls="bar")
        board.text(90 + 520 * size / widest, y + 19, f"{size:,.0f} B")
    _save(path, board.svg(), "no cache was measured")
