"""Pictures of the study `workers`: gains by kind of work and by length of a task, and prices.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paragone.lab import chores
from paragone.lab import format as fmt
from paragone.lab.contestants.poolers import Futures, Ours
from paragone.lab.report import charts, trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.studies._workers_findings import PROCESSES, THREADS, median, of
from paragone.lab.summary import summarize

__all__ = ["lengths", "prices", "speedups"]

STEPS = (1_000, 10_000, 100_000, 1_000_000)
"""Steps of a kernel: about 2 microseconds to 2 milliseconds."""
TURNS = 3
POOLS: Sequence[tuple[str, Callable[[int], Any]]] = (
    ("threads", lambda n: Ours(n, target="paragone.runtime:ThreadPool")),
    ("concurrent.futures threads", lambda n: Futures(n, kind="Thread")),
    ("processes", lambda n: Ours(n, target="paragone.runtime:ProcessPool")),
    ("concurrent.futures processes", lambda n: Futures(n, kind="Process")),
)


def _save(path: str, drawing: str, why: str) -> None:
    if not drawing:
        raise SystemExit(why)
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def speedups(folder: str, path: str) -> None:
    """Speedup of threads and processes on each workload, around 1."""
    summary = summarize(folder)
    lines = []
    for workload in summary.workloads:
        for index, (name, word) in enumerate(((THREADS, "threads"), (PROCESSES, "processes"))):
            gain = of(summary, workload.id, name, "speedup")
            if gain:
                lines.append(charts.Line(
                    name=f"{workload.title}: {word}", index=index, estimate=gain,
                    text=f"{gain:.2f}x",
                ))  # fmt: skip
    drawing = charts.forest(
        lines, title="What workers gain, by kind of work", label="speedup over one after the other",
        sides=("slower", "faster"), zero=1.0, show=lambda x: f"{x:g}x",
    ) if lines else ""  # fmt: skip
    _save(path, drawing, "no pool finished: nothing to draw")


def prices(folder: str, path: str) -> None:
    """Time to create a worker, by pool."""
    summary = summarize(folder)
    found = [(c, median(summary, c.id, "create_s")) for c in summary.contestants]
    lines = [
        charts.Line(name=c.title, index=i, estimate=value, text=fmt.seconds(value))
        for i, (c, value) in enumerate(found) if value and c.id != "serial"
    ]  # fmt: skip
    drawing = charts.forest(
        lines, title="What a worker costs to create", label="seconds a worker", zero=1.0,
        show=fmt.seconds,
    ) if lines else ""  # fmt: skip
    _save(path, drawing, "no pool finished: nothing to draw")


def lengths(folder: str, path: str) -> None:
    """Speedup over the length of a task that lets go of the lock, measured here."""
    workers = len(os.sched_getaffinity(0))
    chores.spin(1)
    series = []
    for index, (name, make) in enumerate(POOLS):
        pool = make(workers)
        pool.open()
        pool.map(chores.spin, [1] * (4 * workers))
        points = [_gain(pool, steps) for steps in STEPS]
        pool.close()
        series.append(trends.Series(name=name, index=index, points=points))
    _save(path, trends.curves(
        series, title="What workers gain, by length of a task", x_label="length of a task",
        y_label="speedup over one after the other", show_x=fmt.seconds, show_y=plain,
    ), "one length: nothing to draw")  # fmt: skip


def _gain(pool: Any, steps: int) -> tuple[float, float]:
    """(seconds of a task, speedup) of a map over tasks of so many steps."""
    items = [steps] * max(16, min(2000, 20_000_000 // steps))
    slow, fast = [], []
    for _ in range(TURNS):
        for times, run in ((slow, lambda: [chores.spin(s) for s in items]),
                           (fast, lambda: pool.map(chores.spin, items))):  # fmt: skip
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    alone = statistics.median(slow)
    return alone / len(items), alone / statistics.median(fast)
