"""Pictures of the study `ensembles`: what the methods learn, not only how well.

Each function is called in a process of its own, with the study's folder and the file to write.
The methods are fitted here again, with the study's defaults, on the first data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from paragone.lab import data, guests
from paragone.lab.build import build
from paragone.lab.report.svg import Board, Scale
from paragone.lab.spec import Contestant
from paragone.lab.store import read_study
from paragone.lab.tasks import metrics
from paragone.lab.tasks.estimators import prepare
from paragone.lab.tasks.splits import split

__all__ = ["importances", "rounds", "surfaces"]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a7000")
ROWS = 1500
GRID = 48
LEVELS = 7
PANEL, GAP, HEAD = 192, 16, 24
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200)

STYLE = """
text{font:12px system-ui,sans-serif;fill:#222}
.axis{stroke:#777}.grid{stroke:#ddd}.tick{font-size:11px;fill:#555}.label{fill:#333}
.row{fill:none;stroke-width:2}.frame{fill:none;stroke:#999}.dot{stroke:#fff;stroke-width:.6}
@media (prefers-color-scheme:dark){text{fill:#ddd}.axis{stroke:#999}.grid{stroke:#444}
.tick{fill:#aaa}.label{fill:#ccc}.frame{stroke:#777}.dot{stroke:#111}}
"""


class _Scene:
    """The first table of a study, its contestants, and how to fit them."""

    def __init__(self, folder: str):
        content = read_study(folder)
        place = content["workloads"][0]
        self.title: str = place["title"]
        self.facts = place["facts"]
        self.table = data.load(Path(folder) / "data" / Path(place["params"]["folder"]).name)
        self.seed = int(content["request"]["seed"])
        self.threads = int(content["threads"])
        fields = {field.name for field in dataclasses.fields(Contestant)}
        known = [
            Contestant(**{key: value for key, value in row.items() if key in fields})
            for row in content["contestants"]
        ]
        self.contestants = {
            c.id: c for c in known
            if c.origin == "paragone" and not c.id.endswith("~2") and guests.installed(c)
        }  # fmt: skip

    def fit(self, name: str, rows: np.ndarray, columns: np.ndarray, **more: Any) -> Any:
        """Returns the fitted contestant, `Prepared` for these columns."""
        estimator = build(self.contestants[name], self.facts, **more)
        values = np.ascontiguousarray(self.table.values[np.ix_(rows, columns)])
        ready = prepare(
            estimator, categorical=self.table.categorical[columns],
            missing=bool(np.isnan(values).any()), seed=self.seed, threads=self.threads,
        )  # fmt: skip
        target = self.table.target[rows]
        if self.table.classes is not None:
            target = np.unique(target, return_inverse=True)[1]
        ready.fit(values, target)
        return ready

    def sample(self, rows: np.ndarray) -> np.ndarray:
        order = np.random.default_rng(self.seed).permutation(rows)
        return np.sort(order[:ROWS])

    def gains(self, name: str, rows: np.ndarray) -> np.ndarray:
        model = self.fit(name, rows, np.arange(len(self.table.names)))
        return np.asarray(model.estimator.feature_importances_, np.float64)

    def any_of(self, *names: str) -> list[str]:
        found = [name for name in names if name in self.contestants]
        if not found:
            raise SystemExit(f"none of {', '.join(names)} takes part: nothing to draw")
        return found


def _board(width: float, height: float, title: str) -> Board:
    board = Board(width=width, height=height, title=title)
    board.add("style", STYLE)
    return board


def surfaces(folder: str, path: str) -> None:
    """What each method predicts over the plane of two columns, one panel a method."""
    scene = _Scene(folder)
    rows = scene.sample(np.arange(len(scene.table.values)))
    pair = _two_columns(scene, rows)
    names = list(scene.contestants)[:8]
    across = min(4, len(names))
    down = -(-len(names) // across)
    titles = [scene.table.names[j] for j in pair]
    board = _board(
        across * (PANEL + GAP) + GAP, down * (PANEL + HEAD + GAP) + GAP + 24,
        f"{scene.title}: predictions over {titles[0]} and {titles[1]}",
    )  # fmt: skip
    points = scene.table.values[np.ix_(rows, pair)]
    points = points[~np.isnan(points).any(axis=1)]
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    high = np.where(high > low, high, low + 1)
    for i, name in enumerate(names):
        x = GAP + (i % across) * (PANEL + GAP)
        y = GAP + HEAD + (i // across) * (PANEL + HEAD + GAP)
        board.text(x, y - 8, name.replace("_", " "))
        _panel(board, scene, name, rows, pair, (x, y), (low, high))
    board.text(GAP, board.height - 10, f"across: {titles[0]}, upwards: {titles[1]}", "label")
    Path(path).write_text(board.svg(), encoding="utf-8")


def _two_columns(scene: _Scene, rows: np.ndarray) -> np.ndarray:
    name = scene.any_of("random_forest", "newton_boosting", "gbdt", "decision_tree")[0]
    gains = np.where(scene.table.categorical, -1.0, scene.gains(name, rows))
    pair = np.argsort(-gains, kind="stable")[:2]
    if len(pair) < 2 or (gains[pair] < 0).any():
        raise SystemExit("a plane needs two numeric columns: nothing to draw")
    return pair


def _panel(
    board: Board, scene: _Scene, name: str, rows: np.ndarray, pair: np.ndarray,
    corner: tuple[float, float], limits: tuple[np.ndarray, np.ndarray],
) -> None:  # fmt: skip
    model = scene.fit(name, rows, pair)
    low, high = limits
    step = (np.arange(GRID) + 0.5) / GRID
    across, up = np.meshgrid(low[0] + step * (high[0] - low[0]), low[1] + step * (high[1] - low[1]))
    plane = np.column_stack([across.ravel(), up.ravel()]).astype(np.float32)
    shades = _shades(scene, model.predict(plane)).reshape(GRID, GRID, 2)
    cell = PANEL / GRID
    for line in range(GRID):
        start = 0
        for end in range(1, GRID + 1):
            if end < GRID and (shades[line, end] == shades[line, start]).all():
                continue
            color, level = shades[line, start]
            board.add(
                "rect", x=corner[0] + start * cell, y=corner[1] + PANEL - (line + 1) * cell,
                width=(end - start) * cell, height=cell, fill=COLORS[color],
                shape_rendering="crispEdges",
                opacity=round(0.12 + 0.78 * level / (LEVELS - 1), 2),
            )  # fmt: skip
            start = end
    _dots(board, scene, rows[:150], pair, corner, limits)
    board.add("rect", cls="frame", x=corner[0], y=corner[1], width=PANEL, height=PANEL)


def _shades(scene: _Scene, given: np.ndarray) -> np.ndarray:
    """Colour and level of each prediction: class and certainty, or the number's place."""
    if scene.table.classes is None:
        low, high = np.quantile(scene.table.target, [0.05, 0.95])
        share = np.clip((np.asarray(given).ravel() - low) / ((high - low) or 1.0), 0, 1)
        return np.column_stack([np.zeros(len(share), int), np.rint(share * (LEVELS - 1))]).astype(
            int
        )
    best = given.argmax(axis=1)
    sure = (given.max(axis=1) - 1 / given.shape[1]) / (1 - 1 / given.shape[1])
    return np.column_stack([best % len(COLORS), np.rint(sure * (LEVELS - 1))]).astype(int)


def _dots(
    board: Board, scene: _Scene, rows: np.ndarray, pair: np.ndarray,
    corner: tuple[float, float], limits: tuple[np.ndarray, np.ndarray],
) -> None:  # fmt: skip
    places = (scene.table.values[np.ix_(rows, pair)] - limits[0]) / (limits[1] - limits[0])
    shown = np.flatnonzero((places >= 0).all(axis=1) & (places <= 1).all(axis=1))
    for i in shown:
        code = int(scene.table.target[rows[i]]) if scene.table.classes is not None else 0
        board.add(
            "circle", cls="dot", cx=corner[0] + PANEL * float(places[i, 0]),
            cy=corner[1] + PANEL * (1 - float(places[i, 1])), r=2,
            fill=COLORS[code % len(COLORS)],
        )  # fmt: skip


def importances(folder: str, path: str) -> None:
    """The columns that matter most, by the share of the gain of all splits."""
    scene = _Scene(folder)
    rows = scene.sample(np.arange(len(scene.table.values)))
    names = scene.any_of("random_forest", "gbdt", "newton_boosting")
    gains = np.array([scene.gains(name, rows) for name in names])
    top = np.argsort(-gains.mean(axis=0), kind="stable")[:10]
    bar, left, width = 9, 190, 640
    group = bar * len(names) + 10
    board = _board(width, 34 + group * len(top) + 12, f"{scene.title}: importance of the columns")
    _legend(board, names, left)
    scale = Scale(low=0, high=float(gains[:, top].max()) or 1.0, start=left, stop=width - 60)
    for row, column in enumerate(top):
        y = 34 + row * group
        text = scene.table.names[column]
        board.text(left - 8, y + group / 2, text if len(text) < 27 else text[:25] + "…", "", "end")
        for i, name in enumerate(names):
            share = float(gains[i, column])
            board.add(
                "rect", f"<title>{name}: {share:.3f}</title>", x=left, y=y + i * bar,
                width=max(scale(share) - left, 0.5), height=bar - 1, fill=COLORS[i],
            )  # fmt: skip
            board.text(scale(share) + 4, y + i * bar + 8, f"{share:.2f}", "tick")
    Path(path).write_text(board.svg(), encoding="utf-8")


def _legend(board: Board, names: list[str], left: float) -> None:
    for i, name in enumerate(names):
        x = left + 130 * i
        board.add("rect", x=x, y=8, width=10, height=10, fill=COLORS[i % len(COLORS)])
        board.text(x + 15, 18, name.replace("_", " "))


def rounds(folder: str, path: str) -> None:
    """The primary loss on the rows of one fold, as the number of trees grows."""
    scene = _Scene(folder)
    table = scene.table
    train, test = split(table.target, 0, stratified=table.classes is not None, seed=scene.seed)
    train = scene.sample(train)
    names = scene.any_of("random_forest", "bagging", "adaboost", "gbdt", "newton_boosting")
    loss, title = _loss(scene, train, test)
    lines = {}
    for name in names:
        columns = np.arange(len(table.names))
        models = [scene.fit(name, train, columns, n_estimators=count) for count in COUNTS]
        lines[name] = [loss(model) for model in models]
    board = _board(720, 380, f"{scene.title}: {title} by number of trees")
    across = Scale(low=COUNTS[0], high=COUNTS[-1], start=70, stop=700, log=True)
    up = Scale.around([v for line in lines.values() for v in line], 320, 50)
    board.x_axis(across, 320, 50, "trees", lambda v: f"{v:g}")
    board.y_axis(up, 70, 700, title, lambda v: f"{v:.3g}")
    for i, (name, line) in enumerate(lines.items()):
        points = " ".join(f"{across(c):.1f},{up(v):.1f}" for c, v in zip(COUNTS, line, strict=True))
        board.add("polyline", cls="row", points=points, stroke=COLORS[i])
        for count, value in zip(COUNTS, line, strict=True):
            tip = f"<title>{name}, {count} trees: {value:.4g}</title>"
            board.add("circle", tip, cx=across(count), cy=up(value), r=3, fill=COLORS[i])
    _legend(board, names, 70)
    Path(path).write_text(board.svg(), encoding="utf-8")


def _loss(scene: _Scene, train: np.ndarray, test: np.ndarray) -> tuple[Callable[[Any], float], str]:
    table = scene.table
    unseen, truth = np.ascontiguousarray(table.values[test]), table.target[test]
    if table.classes is None:
        return lambda model: metrics.regression(model.predict(unseen), truth)[0]["rmse"], "RMSE"
    known = np.unique(table.target[train])
    count = len(table.classes)

    def log_loss(model: Any) -> float:
        chances = metrics.probabilities(model.predict(unseen), known, count)
        return metrics.classification(chances, truth)[0]["log_loss"]

    return log_loss, "log loss"
