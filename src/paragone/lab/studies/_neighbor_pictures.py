"""Pictures of the study `neighbors`: how a tree divides the plane, recall, and dimension.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab import format as fmt
from paragone.lab import growth, points
from paragone.lab.outcome import Summary
from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board
from paragone.lab.store import read_study
from paragone.lab.studies._neighbor_findings import AXES, TREES, crossovers
from paragone.lab.summary import summarize

__all__ = ["dimension", "partition", "recall"]

_CURVE = "recall over seconds a query"
ROWS, LEAF, NEAREST = 600, 12, 10
SIDE, EDGE, LINE = 560, 30, 20

STYLE = """
text{font:12px system-ui,sans-serif;fill:#333}
.cell{fill:none;stroke:#888;stroke-width:.7}.seen{fill:#e69f00;fill-opacity:.3;stroke:#888}
.dot{fill:#0072b2}.near{fill:#d55e00}.reach{fill:none;stroke:#d55e00;stroke-width:1.5}
.query{fill:#000}
@media (prefers-color-scheme:dark){text{fill:#ddd}.cell,.seen{stroke:#777}.query{fill:#fff}
.dot{fill:#56b4e9}}
"""


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


def partition(folder: str, path: str) -> None:
    """Points of two columns, the cells of the tree, and the cells that a query must look into."""
    plane, query, names = _plane(folder)
    # The picture's sides are equal, so that distances in it are those of the search.
    low, high = plane.min(axis=0), plane.max(axis=0)
    plane, query = ((v - low) / np.where(high > low, high - low, 1.0) for v in (plane, query))
    tree = resolve("paragone.neighbors:KDTree")(plane, leafsize=LEAF)
    distances, indices = tree.query(query, k=min(NEAREST, len(plane)))
    reach = float(distances[-1])
    cells = _cells(*tree.splits)
    # Squared distance of the query to each cell's nearest corner or side.
    gaps = np.maximum(np.maximum(cells[:, 0] - query, query - cells[:, 1]), 0)
    seen = (gaps**2).sum(axis=1) <= reach**2
    board = Board(
        width=SIDE + 2 * EDGE, height=SIDE + 2 * EDGE + LINE,
        title="A k-d tree divides the plane; shaded cells are visited by one query",
    )  # fmt: skip
    board.add("style", STYLE)

    def at(place: np.ndarray) -> tuple[float, float]:
        return EDGE + SIDE * float(place[0]), EDGE + SIDE * (1 - float(place[1]))

    for cell, visited in zip(cells, seen, strict=True):
        left, bottom = at(cell[0])
        right, top = at(cell[1])
        board.add("rect", cls="seen" if visited else "cell", x=left, y=top,
                  width=right - left, height=bottom - top)  # fmt: skip
    near = set(np.atleast_1d(indices).tolist())
    for i, place in enumerate(plane):
        x, y = at(place)
        board.add("circle", cls="near" if i in near else "dot", cx=x, cy=y, r=2.2)
    x, y = at(query)
    board.add("circle", cls="reach", cx=x, cy=y, r=SIDE * reach)
    board.add("circle", cls="query", cx=x, cy=y, r=3.5)
    caption = (
        f"{len(plane)} points, leaves of at most {LEAF}; across {names[0]}, upwards {names[1]}",
        f"{int(seen.sum())} of {len(cells)} cells visited for the {len(near)} nearest",
    )
    for number, line in enumerate(caption, start=1):
        board.text(EDGE, SIDE + EDGE + LINE * number, line)
    Path(path).write_text(board.svg(), encoding="utf-8")


def _plane(folder: str) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """Real points where the study has some: the two columns that vary most, and a query."""
    rows = read_study(folder)["workloads"]
    place = next((w for w in rows if w["params"]["kind"] in ("table", "colours")), rows[0])
    held: dict[str, Any] = {**place["params"], "cache": ""}
    if "path" in held:
        held["path"] = str(Path(folder) / "data" / "table")
    found, asked = points.load(**held)
    if found.shape[1] < 2:
        raise SystemExit("a plane needs two columns: nothing to draw")
    pair = np.argsort(-found.var(axis=0), kind="stable")[:2]
    words = ("red", "green", "blue") if held["kind"] == "colours" else ()
    names = [words[j] if words else f"column {j + 1}" for j in pair]
    some = np.random.default_rng(0).permutation(len(found))[:ROWS]
    return found[np.ix_(some, pair)], asked[0, pair].clip(*_box(found[:, pair])), (
        names[0], names[1],
    )  # fmt: skip


def _box(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return plane.min(axis=0), plane.max(axis=0)


def _cells(column: np.ndarray, threshold: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Rectangles (leaves, 2, 2) of the unit square, from nodes in preorder."""
    cells = []
    waiting = [(0, np.array([[0.0, 0.0], [1.0, 1.0]]))]
    while waiting:
        node, box = waiting.pop()
        j = int(column[node])
        if j < 0:
            cells.append(box)
            continue
        low, high = box.copy(), box.copy()
        low[1, j] = high[0, j] = threshold[node]
        waiting += [(node + 1, low), (int(right[node]), high)]
    return np.array(cells)
