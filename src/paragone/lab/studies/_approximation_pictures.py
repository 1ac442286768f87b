"""Pictures of the study `approximation`: paths by step size, error by batch and by policy.

Each function is called in a process of its own, with the study's folder and the file to write;
they show how the methods move, on one stream that all of them read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone

__all__ = ["batches", "paths", "policies"]

ROWS = 20_000
STREAMS = 40
POLICIES = (
    ("1 / k", 1.0, 1.0, False),
    ("0.05", 0.05, 0.0, False),
    ("k^-0.6", 1.0, 0.6, False),
    ("k^-0.6, averaged", 1.0, 0.6, True),
)


def _save(path: str, drawing: str) -> None:
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def _power(a: float, c: float) -> Any:
    return resolve("paragone.estimation.steps:Power")(a, 0.0, c)


def _averages(found: Any) -> np.ndarray:
    """Running averages at the recorded steps, each point standing for those since the last."""
    gaps = np.diff(found.path_steps, prepend=0).astype(float)
    gaps[0] = 0.0
    total = np.cumsum(gaps)[:, None]
    return np.cumsum(found.path * gaps[:, None], axis=0) / np.where(total > 0, total, 1.0)


def _walk(rows: Any, loss: str, a: float, c: float, average: bool, **more: Any) -> Any:
    found = resolve("paragone.estimation:sgd")(
        loss, rows, steps=_power(a, c), order="sequential", **more
    )
    return found.path_steps[1:], (_averages(found) if average else found.path)[1:]


def _thin(steps: np.ndarray, values: np.ndarray) -> list[tuple[float, float]]:
    keep = np.unique(np.geomspace(1, len(steps), 120).astype(int)) - 1
    return [(float(steps[i]), float(values[i])) for i in keep]


def paths(folder: str, path: str) -> None:
    """One stream of waiting times; each policy's way to the 0.9-quantile, 2.303."""
    rows = np.random.default_rng(5).exponential(size=ROWS)
    series = []
    for i, (name, a, c, average) in enumerate(POLICIES):
        steps, values = _walk(rows, "quantile", a, c, average, tau=0.9)
        series.append(trends.Series(name=name, index=i, points=_thin(steps, values[:, 0])))
    truth = float(np.log(10.0))
    series.append(
        trends.Series(name="true 0.9-quantile", index=4, points=[(1.0, truth), (ROWS, truth)])
    )
    _save(path, trends.curves(
        series, title="Paths to a 0.9-quantile by step size", x_label="rows read",
        y_label="iterate", show_x=plain, show_y=plain,
    ))  # fmt: skip


def _errors(runs: Sequence[tuple[np.ndarray, np.ndarray]], truth: np.ndarray) -> Any:
    errors = [np.sqrt(np.mean((values - truth) ** 2, axis=1)) for _, values in runs]
    return runs[0][0], np.sqrt(np.mean(np.square(errors), axis=0))


def _models(seed: int, count: int = ROWS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 5))
    truth = np.linspace(-0.5, 1.0, 5)
    return x, x @ truth + rng.standard_normal(count), truth


def batches(folder: str, path: str) -> None:
    """Root mean square error of averaged descent over rows, by size of the batch."""
    series = []
    for i, m in enumerate((1, 10, 100, 1000)):
        runs = []
        for seed in range(STREAMS):
            x, y, truth = _models(seed)
            steps, values = _walk((x, y), "linear", 0.5, 0.6, True, batch=m)
            runs.append((steps * m, values))
        rows, error = _errors(runs, truth)
        series.append(trends.Series(name=f"m = {m}", index=i, points=_thin(rows, error)))
    _save(path, trends.curves(
        [*series, _best(4)], title="Error of averaged descent by size of the batch m",
        x_label="rows read", y_label="error", show_x=plain, show_y=plain,
    ))  # fmt: skip


def policies(folder: str, path: str) -> None:
    """Root mean square error over rows, by step policy."""
    series = []
    for i, (name, a, c, average) in enumerate(POLICIES):
        runs = []
        for seed in range(STREAMS):
            x, y, truth = _models(seed)
            runs.append(_walk((x, y), "linear", 0.3 * a if c else a, c, average))
        rows, error = _errors(runs, truth)
        title = name if not c else f"0.3 {name}" if name != "1 / k" else "0.3 / k"
        series.append(trends.Series(name=title, index=i, points=_thin(rows, error)))
    _save(path, trends.curves(
        [*series, _best(4)], title="Error by step policy, linear model", x_label="rows read",
        y_label="error", show_x=plain, show_y=plain,
    ))  # fmt: skip


def _best(index: int) -> trends.Series:
    """The error of least squares, 1 / sqrt(n)."""
    points = [(float(n), float(n) ** -0.5) for n in np.geomspace(10, ROWS, 20)]
    return trends.Series(name="best possible", index=index, points=points)
