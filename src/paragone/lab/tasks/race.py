"""A run of a race: a learner that goes step by step, and how soon it is good.

For questions such as "which optimizer reaches the target first?". The contestant is a function
`(problem, ..., seed) -> iterator of (step, value)`; the race pulls from it until it stops by
itself or the budget of steps or seconds is used. Only the time inside the contestant counts.
Where `evaluate` is given, the contestant yields its state in place of the value and the race
computes the value, off the clock, with the same code for all.

    area = integral of value over steps / (last step - first step)     (trapezoids)

Options (`Study.options`):
    steps: Last step to go to (0: no limit).
    seconds: Seconds inside the contestant (0: no limit). One of both is needed.
    evaluate: `"module:function"`, called as `evaluate(*problem, state)` ("": values are yielded).
    better: "lower" (default) or "higher".
    target: Value that counts as reached (None: no target).

Values: `final`, `best`, `area`, `race_s`, `race_cpu_s`, `steps`, `step_s`; with a target
`reached` (0 or 1) and, where it was reached, `target_s` and `target_steps`. Curves: `value` over
steps and `value_time` over seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from paragone.lab.build import bind, load_inputs, resolve_target
from paragone.lab.probe import Probe
from paragone.lab.spec import Job

__all__ = ["run"]


def _pull(learner: Iterator[tuple[int, Any]], job: Job, evaluate: Any) -> np.ndarray:
    """Returns rows (step, value, seconds) until the learner stops or the budget is used."""
    last, limit = int(job.options.get("steps", 0)), float(job.options.get("seconds", 0.0))
    if not last and not limit:
        raise ValueError("a race needs an end: give the option 'steps' or 'seconds'")
    rows, spent = [], 0.0
    while True:
        start = time.perf_counter()
        item = next(learner, None)
        spent += time.perf_counter() - start
        if item is None:
            break
        step, state = item
        if last and step > last:
            break
        rows.append((step, float(evaluate(state)), spent))
        if (last and step == last) or (limit and spent >= limit):
            break
    if not rows:
        raise ValueError("the contestant yielded nothing; (step, value) pairs are expected")
    curve = np.array(rows)
    if not np.all(np.diff(curve[:, 0]) > 0):
        raise ValueError("the contestant's steps do not increase; yield (step, value) in order")
    return curve


def run(job: Job, probe: Probe) -> None:
    """Performs one race; see the module's text."""
    options = job.options
    with probe.phase("load"):
        problem = load_inputs(job)
    probe.digest("data", *problem)
    with probe.phase("import"):
        learn = bind(job.contestant, job.workload.facts)
    judge = resolve_target(options["evaluate"]) if options.get("evaluate") else None
    with probe.phase("race"):
        learner = iter(learn(*problem, seed=job.block.seed))
        curve = _pull(learner, job, (lambda state: judge(*problem, state)) if judge else float)
    steps, values, seconds = curve.T
    sign = -1.0 if options.get("better", "lower") == "higher" else 1.0
    width = steps[-1] - steps[0]
    area = np.trapezoid(values, steps) / width if width > 0 else values[0]
    probe.curve("value", steps.tolist(), values.tolist())
    probe.curve("value_time", seconds.tolist(), values.tolist())
    probe.value("final", values[-1])
    probe.value("best", sign * np.min(sign * values))
    probe.value("area", area)
    probe.value("race_s", seconds[-1])
    probe.value("steps", steps[-1])
    probe.value("step_s", seconds[-1] / max(steps[-1], 1.0))
    if options.get("target") is not None:
        good = np.flatnonzero(sign * values <= sign * float(options["target"]))
        probe.value("reached", float(len(good) > 0))
        if len(good):
            probe.value("target_s", seconds[good[0]])
            probe.value("target_steps", steps[good[0]])
