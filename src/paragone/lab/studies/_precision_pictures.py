"""Pictures of the study `precision`: where the exponents of gradients lie, what a scale saves.

Each function is called in a process of its own, with the study's folder and the file to write.
They train in float32 with a recorder on, on the study's first input, as it would be done before
a run in fp16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab import nets
from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board, Scale
from paragone.lab.summary import summarize

__all__ = ["exponents", "scales"]

STEPS = 60
_FORMATS = ("fp16", "e5m2", "e4m3", "bf16")


def _recorded(problem: str, path: str = "") -> Any:
    """Histogram of all gradients of a short float32 run."""
    torch = resolve("torch")
    x, y, _, _ = nets.load(problem, path)
    model = nets.make_model(problem, 0)
    recorder = resolve("paragone.training:UnderflowRecorder")(model, every=5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for inputs, targets in nets.batches(problem, x, y, STEPS, 0):
        recorder.begin()
        part = nets.SHARE.get(problem, 1.0)
        (nets.loss(problem, model(inputs), targets) * part).backward()
        optimizer.step()
        optimizer.zero_grad()
    return recorder.histogram()


def _problems(folder: str) -> list[tuple[str, str, str]]:
    found = [(w.facts["problem"], w.title, str(w.params.get("path", "")))
             for w in summarize(folder).workloads]  # fmt: skip
    if not found:
        raise SystemExit("nothing was run: nothing to draw")
    return found


def exponents(folder: str, path: str) -> None:
    """Share of the gradients at each power of two, with the range of fp16 marked."""
    board = Board(width=880, height=380, title="Exponents of gradients, and the range of fp16")
    drawn = []
    for problem, title, file in _problems(folder):
        k, counts = _recorded(problem, file).exponents
        drawn.append((title, k, counts / counts.sum()))
    low = min(-27, *(int(k[0]) for _, k, _ in drawn)) - 1
    high = max(17, *(int(k[-1]) + 1 for _, k, _ in drawn))
    x = Scale(low=max(low, -60), high=high, start=70, stop=850)
    y = Scale(low=0.0, high=1.1 * max(float(s.max()) for _, _, s in drawn), start=320, stop=50)
    board.x_axis(x, 320, 50, "exponent k of 2^k", plain)
    board.y_axis(y, 70, 850, "share of the gradients", lambda v: f"{v:.0%}")
    for at, words in ((-25, "0 below"), (-14, "fewer bits below"), (16, "infinite")):
        board.line(x(at), 50, x(at), 320, "cross")
        board.text(x(at), 44, words, "hint", "middle")
    for i, (title, k, share) in enumerate(drawn):
        points = [(x(float(e)), y(float(s))) for e, s in zip(k, share, strict=True) if e >= -60]
        board.polyline(points, f"curve s{i % 7}")
        board.text(80, 70 + 16 * i, title, "tag")
        board.mark(74, 66 + 16 * i, i, radius=4)
        for px, py in points[:: max(1, len(points) // 12)]:
            board.mark(px, py, i, radius=3, tip=title)
    Path(path).write_text(standalone(board.svg()), encoding="utf-8")


def scales(folder: str, path: str) -> None:
    """Share lost over the scale, by format, on the first input."""
    problem, title, file = _problems(folder)[0]
    histogram = _recorded(problem, file)
    series = []
    for i, name in enumerate(_FORMATS):
        powers = np.arange(0, 41, 2)
        points = [(float(2.0**p), max(histogram.lost(name, 2.0**p), 1e-5)) for p in powers]
        series.append(trends.Series(name=name, index=i, points=points))
    best = histogram.recommend("fp16")
    Path(path).write_text(standalone(trends.curves(
        series, title=f"{title}: gradients lost by the scale of the loss",
        x_label="scale of the loss", y_label="share lost (below 1e-05 drawn there)",
        show_x=plain, show_y=plain, marks=[(best, f"fp16: at most {best:g}")],
    )), encoding="utf-8")  # fmt: skip
