"""Pictures of the study `estimators`: how a posterior narrows, excess and coverage over n.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab.outcome import Summary
from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board, Scale
from paragone.lab.studies._estimator_findings import AXES
from paragone.lab.summary import summarize

__all__ = ["coverage", "excess", "posterior"]

SIZES = (2, 8, 40)
TRUE, SPREAD = 10.0, 2.0
PRIOR = (6.0, 1.5)
PANEL, EDGE, HEIGHT = 250, 24, 230

STYLE = """
text{font:12px system-ui,sans-serif;fill:#333}
.axis{stroke:#888;stroke-width:1}.true{stroke:#888;stroke-dasharray:4 3}
.prior{fill:none;stroke:#e69f00;stroke-width:2}
.likelihood{fill:none;stroke:#0072b2;stroke-width:2;stroke-dasharray:6 3}
.posterior{fill:#009e73;fill-opacity:.25;stroke:#009e73;stroke-width:2}
@media (prefers-color-scheme:dark){text{fill:#ddd}}
"""


def _save(path: str, drawing: str, why: str) -> None:
    if not drawing:
        raise SystemExit(f"{why}: nothing to draw")
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def posterior(folder: str, path: str) -> None:
    """Prior, likelihood and posterior of a normal mean at three n: the data take over."""
    prior = resolve("paragone.estimation:conjugate").prior(
        "normal_mean", mean=PRIOR[0], variance=PRIOR[1] ** 2, known_variance=SPREAD**2
    )
    data = np.random.default_rng(4).normal(TRUE, SPREAD, max(SIZES))
    board = Board(
        width=3 * PANEL + 2 * EDGE, height=HEIGHT + 70,
        title="Prior, likelihood and posterior of a mean, as data come",
    )  # fmt: skip
    board.add("style", STYLE)
    x = np.linspace(1.0, 14.0, 200)
    bottom = HEIGHT + 24
    for i, n in enumerate(SIZES):
        left = EDGE + i * PANEL
        across = Scale(low=x[0], high=x[-1], start=left + 6, stop=left + PANEL - 6)
        seen = data[:n]
        wide = SPREAD / n**0.5
        curves = {
            "prior": np.exp(prior.logpdf(x)),
            "likelihood": np.exp(-0.5 * ((x - seen.mean()) / wide) ** 2) / (wide * 2.5066),
            "posterior": np.exp(prior.update(seen).logpdf(x)),
        }
        top = max(float(each.max()) for each in curves.values())
        board.line(left + 6, bottom, left + PANEL - 6, bottom, "axis")
        board.line(across(TRUE), 34, across(TRUE), bottom, "true")
        for name, each in curves.items():
            heights = bottom - (HEIGHT - 20) * each / top
            points = [(across(a), float(b)) for a, b in zip(x.tolist(), heights, strict=True)]
            board.polyline(points, name)
        board.text(left + PANEL / 2, 20, f"n = {n}", "label", "middle")
        for tick in (2, 6, 10, 14):
            board.text(across(tick), bottom + 16, str(tick), "tick", "middle")
    for i, (name, words) in enumerate(
        (("prior", "prior (wrong by 4)"), ("likelihood", "likelihood, scaled"),
         ("posterior", "posterior"))
    ):  # fmt: skip
        at = EDGE + i * PANEL
        board.line(at + 6, HEIGHT + 54, at + 30, HEIGHT + 54, name)
        board.text(at + 36, HEIGHT + 58, words, "tag")
    board.text(3 * PANEL + EDGE, HEIGHT + 58, "dotted: the truth", "hint", "end")
    _save(path, board.svg(), "no posterior")


def _over_n(folder: str, path: str, measure: str, y_label: str, axes: tuple[str, ...]) -> None:
    summary = summarize(folder)
    drawn = [axis for axis in axes if len({w.axis[axis] for w in summary.workloads
                                           if axis in w.axis}) > 1]  # fmt: skip
    series = [each for axis in drawn for each in _series(summary, axis, measure, len(drawn) > 1)]
    drawing = trends.curves(
        series, title=f"{y_label} over the number of samples, normal law", x_label="samples",
        y_label=y_label, show_x=plain, show_y=plain,
    )  # fmt: skip
    _save(path, drawing, "no sweep over n")


def _series(summary: Summary, axis: str, measure: str, several: bool) -> list[trends.Series]:
    found = []
    for i, contestant in enumerate(summary.contestants):
        points = []
        for workload in summary.workloads:
            for row in summary.tables.get(workload.id, ()) if axis in workload.axis else ():
                cell = row.cells.get(measure)
                if row.contestant == contestant.id and cell is not None and cell.value:
                    points.append((float(workload.axis[axis]), float(cell.value)))
        prior = f", {AXES[axis]} prior" if several else ""
        if points and (axis != "n_wrong" or contestant.id in ("map", "bayes_conjugate")):
            found.append(trends.Series(
                name=contestant.title + prior, index=i, points=sorted(points)
            ))  # fmt: skip
    return found


def excess(folder: str, path: str) -> None:
    """Excess log loss over n, the right prior, and of MAP and the closed form the wrong one."""
    _over_n(folder, path, "excess", "excess log loss (nats)", ("n", "n_wrong"))


def coverage(folder: str, path: str) -> None:
    """Coverage of 95 % intervals over n with the right prior."""
    _over_n(folder, path, "coverage", "coverage", ("n",))
