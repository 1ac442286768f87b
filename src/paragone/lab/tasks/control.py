"""One run of a way to find a policy: plan with the model, or learn from samples; then judge it.

A contestant is a class (or a function that makes one) of one of two forms. A planner has
`solve(world) -> (values, policy)` and uses the model, so it needs no sample. A learner has
`learn(world, seed)`, a generator that yields ((samples so far, return of late), policy) whenever
it can be judged, up to `world.budget`; of an environment without a table the score in place of a
policy. Only the time between two yields is counted. Of a learner several runs with different
seeds are made, `seeds` of them, and what is recorded is their interquartile mean: learning
curves have heavy tails.

All policies are judged after the clock has stopped, by `worlds.Judge`, exactly.

Values: `regret`, `error` of a planner's values, `samples`, `reached` (samples until the regret
stays below 1 %), `online` (mean return while learning, of late), `edge`, `solve_s` (a plan, or
one learner's whole budget), `step_s` (a sample); curves `regret over samples` and `regret by seed`;
arrays `policy` and `values`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from paragone.lab.build import load_inputs, resolve_target
from paragone.lab.probe import Probe
from paragone.lab.spec import Job
from paragone.lab.statistics.aggregate import interquartile_mean
from paragone.lab.worlds import MOST_JUDGED, Judge, World

__all__ = ["GOOD", "one_call", "run"]

GOOD = 0.01
"""Regret that counts as solved."""

SHORT = 0.2
_CURVE = "regret over samples"
_SEEDS = "regret by seed"


def _made(job: Job) -> Any:
    target = resolve_target(job.contestant.make)
    return target(**job.contestant.params)


def run(job: Job, probe: Probe) -> None:
    """Performs one run; see the module's text."""
    with probe.phase("load"):
        world = load_inputs(job)[0]
    probe.digest("data", *world.identity())
    with probe.phase("import"):
        solver = _made(job)
    if hasattr(solver, "solve"):
        _plan(solver, world, probe)
    elif hasattr(solver, "learn"):
        _learn(solver, world, job, probe)
    else:
        raise TypeError(
            f"{job.contestant.id} has neither solve(world) -> (values, policy) nor "
            "learn(world, seed), a generator of ((samples, return), policy)"
        )


def one_call(job: Job) -> Callable[[], Callable[[], None]]:
    """Returns what, called, imports the contestant and returns one short solution."""
    world = load_inputs(job)[0]

    def load() -> Callable[[], None]:
        solver = _made(job)

        def call() -> None:
            if hasattr(solver, "solve"):
                solver.solve(world)
            else:
                next(iter(solver.learn(world, 0)))

        return call

    return load


def _plan(solver: Any, world: World, probe: Probe) -> None:
    with probe.phase("first_call"):
        values, policy = solver.solve(world)
    with probe.phase("solve"):
        start = time.perf_counter(), time.process_time()
        values, policy = solver.solve(world)
        took = [(time.perf_counter() - start[0], time.process_time() - start[1])]
    while len(took) < 3 and took[0][0] < SHORT:
        start = time.perf_counter(), time.process_time()
        solver.solve(world)
        took.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    probe.value("solve_s", float(np.median([wall for wall, _ in took])))
    probe.value("solve_cpu_s", float(np.median([cpu for _, cpu in took])))
    values, policy = np.asarray(values, np.float64)[: world.mdp.n_states], _actions(policy, world)
    judge = Judge(world)
    error = judge.error(values)
    probe.value("error", error)
    # Beyond what the judge solves, acting greedily on values that are this near is this good.
    regret = judge.regret(policy) if world.mdp.n_states <= MOST_JUDGED else error
    probe.value("regret", regret)
    probe.value("samples", 0)
    edge = judge.edge(policy)
    if edge is not None:
        probe.value("edge", edge)
    probe.array("policy", policy)
    probe.array("values", values)


def _actions(policy: Any, world: World) -> np.ndarray:
    chosen = np.asarray(policy).reshape(-1)[: world.mdp.n_states].astype(np.int64)
    if len(chosen) != world.mdp.n_states or not (
        (chosen >= 0).all() and (chosen < world.mdp.n_actions).all()
    ):
        raise ValueError(
            f"a policy is one action of 0 to {world.mdp.n_actions - 1} for each of "
            f"{world.mdp.n_states} states; got shape {np.shape(policy)}"
        )
    return chosen


def _learn(solver: Any, world: World, job: Job, probe: Probe) -> None:
    with probe.phase("first_call"):
        next(iter(solver.learn(world, 10_000 + job.block.seed)))
    seeds = int(getattr(solver, "seeds", 1))
    marks: list[list[tuple[float, Any]]] = []
    online: list[float] = []
    with probe.phase("solve"):
        for i in range(seeds):
            seen: list[tuple[float, Any]] = []
            for (samples, late), policy in solver.learn(world, job.block.seed * seeds + i):
                seen.append((float(samples), policy))
                last = late
            marks.append(seen)
            online.append(last)
    wall, cpu = probe.values["solve_s"] / seeds, probe.values["solve_cpu_s"] / seeds
    probe.value("solve_s", wall)
    probe.value("solve_cpu_s", cpu)
    total = float(np.median([seen[-1][0] for seen in marks]))
    probe.value("samples", total)
    probe.value("step_s", wall / max(total, 1.0))
    judged = _judged(world, marks)
    _record(world, marks, judged, probe)
    if np.isfinite(online).all():
        probe.value("online", interquartile_mean(online))


def _judged(world: World, marks: list[list[tuple[float, Any]]]) -> np.ndarray:
    """Regret of each seed at each mark (seeds, marks)."""
    judge, known = Judge(world), {}
    told = np.empty((len(marks), min(len(seen) for seen in marks)))
    for i, seen in enumerate(marks):
        for j in range(told.shape[1]):
            result = seen[j][1]
            if world.mdp is None:
                told[i, j] = judge.return_regret(float(result))
                continue
            policy = _actions(result, world)
            key = policy.tobytes()
            if key not in known:
                known[key] = judge.regret(policy)
            told[i, j] = known[key]
    return told


def _record(
    world: World, marks: list[list[tuple[float, Any]]], judged: np.ndarray, probe: Probe
) -> None:
    count = judged.shape[1]
    samples = np.median([[seen[j][0] for j in range(count)] for seen in marks], axis=0)
    middle = [interquartile_mean(judged[:, j]) for j in range(count)]
    probe.curve(_CURVE, samples.tolist(), middle)
    probe.value("regret", middle[-1])
    probe.curve(_SEEDS, range(len(judged)), judged[:, -1].tolist())
    bad = np.flatnonzero(np.array(middle) > GOOD)
    if not len(bad) or bad[-1] + 1 < count:
        probe.value("reached", samples[bad[-1] + 1 if len(bad) else 0])
    if world.mdp is None:
        return
    # The picture shows the seed in the middle.
    chosen = int(np.argsort(judged[:, -1], kind="stable")[len(judged) // 2])
    judge = Judge(world)
    policies = [_actions(seen[-1][1], world) for seen in marks]
    edges = [judge.edge(policy) for policy in policies]
    if edges[0] is not None:
        probe.value("edge", float(np.mean([edge for edge in edges if edge is not None])))
    probe.array("policy", policies[chosen])
