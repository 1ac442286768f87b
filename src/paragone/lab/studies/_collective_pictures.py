"""Pictures of the study `collectives`: times by size here, a simulated cluster, a map of the best.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

from pathlib import Path

from paragone.lab import format as fmt
from paragone.lab import growth
from paragone.lab.report import trends
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board
from paragone.lab.studies import _collective_cluster as cluster
from paragone.lab.summary import summarize

__all__ = ["best", "scaling", "sizes"]

_CELL, _LEFT, _TOP = 46, 88, 40
STYLE = """
text{font:12px system-ui,sans-serif;fill:#333}.cell{stroke:#fff;stroke-width:1}
.ring{fill:#0072b2}.tree{fill:#e69f00}.halving_doubling{fill:#009e73}.hierarchical{fill:#cc79a7}
.in{fill:#fff;font-size:10px}
@media (prefers-color-scheme:dark){text{fill:#ddd}.cell{stroke:#111}.in{fill:#fff}}
"""


def _size(nbytes: float) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.3g} {name}"
    return f"{nbytes:.0f} B"


def sizes(folder: str, path: str) -> None:
    """Time of a call by size, on the largest number of real ranks."""
    summary = summarize(folder)
    known = sorted({int(w.facts["ranks"]) for w in summary.workloads if "ranks" in w.facts})
    series = []
    for i, contestant in enumerate(summary.contestants):
        axis = f"bytes on {known[-1]} ranks" if known else ""
        points = growth.along(summary, axis, contestant.id, "call_s")
        if len(points) > 1:
            series.append(trends.Series(name=contestant.title, index=i, points=points))
    if not series:
        raise SystemExit("no sizes were swept: nothing to draw")
    _save(path, trends.curves(
        series, title=f"Time of an all-reduce on {known[-1]} ranks of this machine",
        x_label="bytes", y_label="time", show_x=_size, show_y=fmt.seconds,
    ))  # fmt: skip


def scaling(folder: str, path: str) -> None:
    """Simulated time by number of ranks, for a small and for a large tensor."""
    series = []
    for i, (name, title) in enumerate(cluster.SIMULATED.items()):
        for j, nbytes in enumerate((1 << 10, 1 << 26)):
            points = [(float(p), cluster.seconds(name, p, nbytes)) for p in cluster.RANKS]
            series.append(trends.Series(
                name=f"{title}, {_size(nbytes)}", index=i + 4 * j, points=points
            ))  # fmt: skip
    _save(path, trends.curves(
        series, title="Simulated cluster, 8 ranks on a node: time by number of ranks",
        x_label="ranks", y_label="time", show_x=lambda p: f"{p:.0f}", show_y=fmt.seconds,
    ))  # fmt: skip


def best(folder: str, path: str) -> None:
    """A map: the fastest algorithm for each number of ranks and size, and by how much."""
    board = Board(
        width=_LEFT + _CELL * len(cluster.SIZES) + 20, height=_TOP + 26 * len(cluster.RANKS) + 96,
        title="The fastest all-reduce of the simulated cluster by ranks and size",
    )  # fmt: skip
    board.add("style", STYLE)
    board.text(_LEFT, 20, "Fastest on the simulated cluster; numbers: the ring takes so many times")
    for row, ranks in enumerate(reversed(cluster.RANKS)):
        y = _TOP + 26 * row
        board.text(_LEFT - 8, y + 17, f"{ranks:,} ranks", "", "end")
        for column, nbytes in enumerate(cluster.SIZES):
            name, x = cluster.best(ranks, nbytes), _LEFT + _CELL * column
            ahead = cluster.seconds("ring", ranks, nbytes) / cluster.seconds(name, ranks, nbytes)
            board.add("rect", cls=f"cell {name}", x=x, y=y, width=_CELL, height=26)
            board.text(x + _CELL / 2, y + 17, f"{ahead:.2g}" if ahead < 99.5 else f"{ahead:.0f}",
                       "in", "middle")  # fmt: skip
    base = _TOP + 26 * len(cluster.RANKS)
    for column, nbytes in enumerate(cluster.SIZES[::2]):
        board.text(_LEFT + _CELL * (2 * column + 0.5), base + 18, _size(nbytes), "", "middle")
    for i, (name, title) in enumerate(cluster.SIMULATED.items()):
        board.add("rect", cls=f"cell {name}", x=_LEFT + 140 * i, y=base + 40, width=16, height=16)
        board.text(_LEFT + 140 * i + 22, base + 53, title)
    Path(path).write_text(board.svg(), encoding="utf-8")


def _save(path: str, drawing: str) -> None:
    Path(path).write_text(standalone(drawing), encoding="utf-8")
