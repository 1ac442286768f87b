"""Model known or not: which way of finding a policy, and what does not knowing the model cost?"""

from __future__ import annotations

import math
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab import worlds
from paragone.lab.contestants import control
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _control_findings as findings

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="regret", title="regret", better="lower", role="quality", margin=0.01,
            relative=False, primary=True, note="Share of what acting well is worth over acting "
            "at random that the final policy misses; computed exactly. Of learners the "
            "interquartile mean over seeds."),
    Measure(name="solve_s", title="time", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time of a plan, or of one learner's whole budget, after a "
            "first call."),
    Measure(name="samples", title="samples", better="lower", role="count", margin=0.05,
            primary=True, shown=True, note="Transitions that were tried out; a planner needs "
            "none."),
    Measure(name="reached", title="to 1 %", better="lower", role="count", margin=0.05,
            shown=True, note="Samples from which on the regret stays below 1 %; nothing if it "
            "never does."),
    Measure(name="online", title="return while learning", better="higher", role="count",
            margin=0.01, note="Mean return of the episodes played since the last mark but one, "
            "exploration included, not discounted."),
    Measure(name="edge", title="beside the cliff", better="lower", role="count", margin=0.01,
            relative=False, note="Share of the greedy path's steps that lie beside the cliff."),
    Measure(name="error", title="value error", better="lower", role="count", margin=1e-6,
            relative=False, note="Largest error of a planner's values, relative to the largest "
            "value."),
    Measure(name="step_s", title="a sample", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time of a step and what is learnt from it."),
    Measure(name="solve_cpu_s", title="CPU", better="lower", role="time", margin=0.05, unit="s",
            note="CPU time of a plan, or of one learner's whole budget."),
    Measure(name="import_s", title="import", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time to import the contestant."),
    Measure(name="first_call_s", title="first call", better="lower", role="time", margin=0.05,
            unit="s", note="A first plan or a first short bout of learning: loads, compiles."),
    Measure(name="solve_peak", title="peak RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak resident memory of the process meanwhile."),
)  # fmt: skip

LARGE = 10_000
"""States above which only planners meet that use sparse matrices well."""


def workloads(request: Request) -> list[Workload]:
    """The user's grid or environment; else grids and Gymnasium's toy-text, small to large."""
    if request.target is not None:
        raise UsageError("--target: a study of control has none; leave it out")
    if request.data is not None:
        return [_given(request)]
    quick = [
        _workload(request, "grid", "book", 64_000, 25, 5, title="The book's grid, 5 x 5"),
        _workload(request, "table", "CliffWalking-v1", 128_000, 48, 4, gamma=0.99),
        _workload(request, "table", "FrozenLake-v1", 256_000, 16, 4, gamma=0.99, pooled=True),
    ]
    if request.options.get("bench"):
        return _bench(request, quick)
    if request.quick:
        return quick
    return [
        *quick,
        _maze(request, 20, 0.95, learnt=True, states=400),
        _workload(request, "table", "FrozenLake8x8-v1", 2_000_000, 64, 4, gamma=0.99),
        _workload(request, "table", "Taxi-v4", 2_000_000, 500, 6, gamma=0.99, pooled=True),
        _workload(request, "table", "forest", 64_000, 3, 2, gamma=0.96, size=3,
                  title="A forest to wait in or to cut"),
        _maze(request, 50, 0.99, states=2_500),
        _maze(request, 300, 0.99, states=90_000),
        _workload(request, "classic", "CartPole-v1", 100_000, 0, 2),
    ]  # fmt: skip


def _bench(request: Request, quick: list[Workload]) -> list[Workload]:
    side = math.isqrt(int(request.options.get("rows") or 90_000))
    return [_maze(request, 40, 0.99), _maze(request, side, 0.99), quick[0], quick[2]]


def _maze(
    request: Request, size: int, gamma: float, *, learnt: bool = False, **axis: float
) -> Workload:
    return _workload(
        request, "grid", f"maze{size}", 1_000_000, size * size, 5, gamma=gamma, size=size,
        learnt=learnt, title=f"Grid of {size} x {size}, a quarter forbidden", axis=axis,
    )  # fmt: skip


def _given(request: Request) -> Workload:
    found = worlds.prepare(request.data or "")
    budget = 100_000 if request.quick or found["kind"] == "classic" else 1_000_000
    return _workload(
        request, found["kind"], found["name"], budget, found["states"], 0, gamma=0.99,
        layout=found.get("layout", ""), learnt=found["states"] <= worlds.MOST_JUDGED,
    )  # fmt: skip


def _workload(
    request: Request, kind: str, name: str, budget: int, states: int, actions: int, *,
    gamma: float = 0.9, size: int = 0, layout: str = "", learnt: bool = True,
    pooled: bool = False, title: str = "", axis: dict[str, float] | None = None,
) -> Workload:  # fmt: skip
    params: dict[str, Any] = {"kind": kind, "name": name, "budget": budget}
    if kind != "classic":
        params |= {"gamma": gamma, "size": size, "layout": layout, "seed": request.seed}
    bench = bool(request.options.get("bench"))
    facts = {
        "kind": kind, "name": name, "states": states, "budget": budget, "gamma": gamma,
        "size": "small" if states <= LARGE else "large", "learnt": learnt, "pooled": pooled,
        "loops": bench or not request.quick, "quick": request.quick and not bench,
    }  # fmt: skip
    if actions:
        facts["actions"] = actions
    return Workload(
        id=name.lower().replace("/", "-"), title=title or name, load="paragone.lab.worlds:load",
        params=params, facts=facts, axis=axis or {},
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Planners, learners, rivals and the floor."""
    return control.contestants()


_DRAW = "paragone.lab.studies._control_pictures:"

STUDY = Study(
    id="control",
    family="reinforcement",
    question="Model known or not: which way finds a good policy, and what does the model save?",
    task="paragone.lab.tasks.control:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="value_iteration",
    inputs=("env", "text", "none"),
    claims=findings.CLAIMS,
    findings=findings.findings,
    pictures=(
        Picture(id="learning", title="Regret over samples: what each learner pays",
                draw=_DRAW + "learning"),
        Picture(id="policies", title="Policies on the grid, and the optimal values",
                draw=_DRAW + "policies"),
        Picture(id="cliff", title="Which way along the cliff", draw=_DRAW + "cliff"),
    ),
    preload=("numpy", "scipy.sparse", "scipy.sparse.linalg", "gymnasium",
             "paragone.lab.tasks.control", "paragone.lab.contestants.controllers"),
    blocks=(3, 5),
    quick_blocks=(2, 2),
)  # fmt: skip
