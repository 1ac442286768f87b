"""Pictures of the study `control`: learning curves, policies on the grid, the way at the cliff.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from paragone.lab import worlds
from paragone.lab.outcome import Summary
from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import element
from paragone.lab.spec import Workload
from paragone.lab.studies._control_findings import CLIFF, PLANNERS
from paragone.lab.summary import summarize

__all__ = ["cliff", "learning", "policies"]

_CURVE = "regret over samples"
FLOOR = 1e-3
WIDE, MOST, GAP, HEAD = 300, 9, 20, 24
_OURS = {
    "FrozenLake-v1": (3, 2, 1, 0), "FrozenLake8x8-v1": (3, 2, 1, 0), "CliffWalking-v1": (0, 1, 2, 3)
}  # fmt: skip
"""Gymnasium's actions as up 0, right 1, down 2, left 3."""


def learning(folder: str, path: str) -> None:
    """Regret over samples, on the input where most learners took part."""
    summary = summarize(folder)
    drawn: dict[str, dict[str, list[list[tuple[float, float]]]]] = {}
    for contestant, workload, name, xs, ys in summary.curves:
        if name == _CURVE:
            points = [(x, max(y, FLOOR)) for x, y in zip(xs, ys, strict=True) if y is not None]
            drawn.setdefault(workload, {}).setdefault(contestant, []).append(points)
    if not drawn:
        raise SystemExit("no learner took part: nothing to draw")
    place = max(drawn, key=lambda w: (len(drawn[w]), w))
    ids = [c.id for c in summary.contestants]
    titles = {c.id: c.title for c in summary.contestants}
    series = [
        trends.Series(name=titles[name], index=ids.index(name), points=_middle(runs), runs=runs)
        for name, runs in sorted(drawn[place].items(), key=lambda item: ids.index(item[0]))
    ]
    title = next(w.title for w in summary.workloads if w.id == place)
    picture = trends.curves(
        series, title=f"{title}: regret over samples", x_label="samples (a planner needs none)",
        y_label=f"regret (below {FLOOR:g} drawn there)", show_x=plain, show_y=plain,
    )  # fmt: skip
    if not picture:
        raise SystemExit("curves of one point: nothing to draw")
    Path(path).write_text(standalone(picture), encoding="utf-8")


def _middle(runs: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    count = min(len(run) for run in runs)
    return [
        (
            float(np.median([run[j][0] for run in runs])),
            float(np.median([run[j][1] for run in runs])),
        )
        for j in range(count)
    ]


def policies(folder: str, path: str) -> None:
    """The greedy policies of all contestants on the first grid that is small enough."""
    summary = summarize(folder)
    found = [w for w in summary.workloads if w.facts["states"] <= 400 and w.id != CLIFF]
    found = [w for w in found if w.facts["kind"] == "grid" or w.facts["name"] in _OURS]
    if not found:
        raise SystemExit("no small grid: nothing to draw")
    _panels(summary, Path(folder), found[0], path)


def cliff(folder: str, path: str) -> None:
    """The greedy policies at the cliff."""
    summary = summarize(folder)
    found = [w for w in summary.workloads if w.id == CLIFF]
    if not found:
        raise SystemExit("the cliff was no input: nothing to draw")
    _panels(summary, Path(folder), found[0], path)


def _panels(summary: Summary, folder: Path, workload: Workload, path: str) -> None:
    """One drawing beside the other, the optimal values behind the arrows."""
    from paragone.reinforcement.grid_world import GridWorld

    world = worlds.load(**workload.params)
    values = worlds.Judge(world).best
    turned = np.array(_OURS.get(world.name, range(world.mdp.n_actions)))
    board = GridWorld(world.layout, actions=5 if world.mdp.n_actions == 5 else 4)
    parts, place, high = [], 0, WIDE * board.shape[0] / board.shape[1]
    across = 3 if board.shape[1] <= 2 * board.shape[0] else 2
    for title, policy in _chosen(summary, folder, workload.id)[:MOST]:
        picture = board.draw(values=values, policy=turned[policy]).svg()
        x, y = (place % across) * (WIDE + GAP), (place // across) * (high + GAP + HEAD)
        size = f'x="{x}" y="{y + HEAD:g}" width="{WIDE}" height="{high:g}"'
        parts.append(element("text", title, x=x, y=y + HEAD - 8, cls="name"))
        parts.append(re.sub(r'width="\d+" height="\d+"', size, picture, count=1))
        place += 1
    if not parts:
        raise SystemExit("no policy was recorded: nothing to draw")
    rows = -(-place // across)
    wide, tall = across * (WIDE + GAP) - GAP, rows * (high + GAP + HEAD)
    style = (
        "<style>.name{font:13px system-ui,sans-serif;fill:#333}"
        "@media (prefers-color-scheme:dark){.name{fill:#ddd}}</style>"
    )
    Path(path).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall:g}" width="{wide}" '
        f'height="{tall:g}" role="img" aria-label="{workload.id}: policies">{style}'
        + "".join(parts) + "</svg>",
        encoding="utf-8",
    )  # fmt: skip


def _chosen(summary: Summary, folder: Path, workload: str) -> list[tuple[str, Any]]:
    """(title, policy) of each contestant's first run; of planners only the first."""
    titles = {c.id: c.title for c in summary.contestants}
    found: dict[str, Any] = {}
    for record in summary.records:
        name = record["contestant"]
        known = record["workload"] == workload and record["status"] == "ok"
        if known and name in titles and name not in found and "policy" in record["artifacts"]:
            found[name] = np.load(folder / record["artifacts"]["policy"])
    plans = [name for name in PLANNERS if name in found]
    order = plans[:1] + [name for name in titles if name in found and _learns(summary, name)]
    return [(titles[name], found[name]) for name in order]


def _learns(summary: Summary, name: str) -> bool:
    return any(c == name and curve == _CURVE for c, _, curve, _, _ in summary.curves)
