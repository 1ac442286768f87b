"""Pictures of the study `optimizers`: loss over steps and rates, weights under decay.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from paragone.lab.outcome import Summary
from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.summary import summarize

__all__ = ["curves", "decay", "rates"]

Points = list[tuple[float, float]]


def _found(summary: Summary, name: str, origins: Sequence[str] = ("paragone", "guest")) -> dict:
    """Workload to contestant to the runs' points."""
    drawn: dict[str, dict[str, list[Points]]] = {}
    shown = {c.id for c in summary.contestants if c.origin in origins}
    for contestant, workload, curve, xs, ys in summary.curves:
        if curve == name and contestant in shown:
            points = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None and y > 0]
            drawn.setdefault(workload, {}).setdefault(contestant, []).append(points)
    if not drawn:
        raise SystemExit(f"no curve {name!r} was recorded: nothing to draw")
    return drawn


def _middle(runs: list[Points]) -> Points:
    """Medians over blocks, at each place that half of the blocks or more know."""
    at: dict[float, list[float]] = {}
    for run in runs:
        for x, y in run:
            at.setdefault(float(f"{x:.4g}"), []).append(y)
    return [(x, float(np.median(ys))) for x, ys in sorted(at.items()) if 2 * len(ys) >= len(runs)]


def _draw(
    summary: Summary, name: str, place: str, path: str, words: tuple[str, str, str],
    shape: Callable[[list[Points]], Points] = _middle,
) -> None:  # fmt: skip
    drawn = _found(summary, name)[place]
    ids = [c.id for c in summary.contestants]
    titles = {c.id: c.title for c in summary.contestants}
    series = [
        trends.Series(name=titles[who], index=ids.index(who), points=shape(runs), runs=runs)
        for who, runs in sorted(drawn.items(), key=lambda item: ids.index(item[0]))
    ]
    title = next(w.title for w in summary.workloads if w.id == place)
    picture = trends.curves(
        series, title=f"{title}: {words[0]}", x_label=words[1], y_label=words[2],
        show_x=lambda x: f"{x:g}" if x < 0.01 else plain(x), show_y=plain,
    )  # fmt: skip
    if not picture:
        raise SystemExit("curves of one point: nothing to draw")
    Path(path).write_text(standalone(picture), encoding="utf-8")


def _place(summary: Summary, name: str) -> str:
    """The characters where they took part: there the optimizers differ most."""
    found = _found(summary, name)
    return "text" if "text" in found else next(iter(found))


def curves(folder: str, path: str) -> None:
    """Test loss along the schedule, each with its best rate."""
    summary = summarize(folder)
    name = "loss over steps"
    _draw(summary, name, _place(summary, name), path,
          ("each with its best rate", "steps", "test loss"))  # fmt: skip


def rates(folder: str, path: str) -> None:
    """Loss on the valid part over the rate, as a multiple of the contestant's best rate."""
    summary = summarize(folder)
    name = "valid over rate"

    def centred(runs: list[Points]) -> Points:
        moved = []
        for run in runs:
            best = min(run, key=lambda p: p[1])[0]
            moved.append([(10 ** round(math.log10(x / best), 3), y) for x, y in run])
        return _middle(moved)

    _draw(summary, name, _place(summary, name), path,
          ("loss by rate", "rate / own best rate", "loss on the valid part"), centred)  # fmt: skip


def decay(folder: str, path: str) -> None:
    """Share of their size that weights keep under decay, by their gradients."""
    summary = summarize(folder)
    name = "kept by gradient"
    place = next(iter(_found(summary, name)))
    _draw(summary, name, place, path,
          ("weights under decay", "rank of their gradient (1: the largest)",
           "size with decay / without"))  # fmt: skip
