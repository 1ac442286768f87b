"""One run on streams: every row is given once, and the answer is judged.

A contestant is a function `(rows, problem, seed) -> answer`: `rows` is a stream (n,) or (n, c),
`problem` the workload's facts (`problem`, `q`, `columns`), and the answer the vector asked for.
Whether it reads the rows once is its own affair and stands in its note. It is called on each of
the streams of the workload (see `lab.streams`), and on the first tenth of each, off the clock, to
see whether it gains on the best answer or falls behind.

Values: `lost` (root mean square over streams; a stream whose answer is not finite counts as
`MOST`) and `excess`, sqrt(1 + lost^2), the error as a multiple of the best; `lost_early` (on the
first tenth), `diverged` (share of streams), `number_s` and `number_cpu_s` (a row's share of a
call), `extra` (peak during the calls beyond what was resident before), `import_s`,
`first_call_s`; of quantiles `within` (share of streams whose rank is within 1.33 % of the one
asked for).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from paragone.lab.build import bind, load_inputs
from paragone.lab.probe import Probe
from paragone.lab.spec import Job
from paragone.lab.streams import lost, solve

__all__ = ["MOST", "one_call", "run"]

MOST = 1000.0
"""Standard errors that count as lost where there is no answer."""

RANK = 0.0133
_WARM = 600
_TIMES = 5


def run(job: Job, probe: Probe) -> None:
    """Performs one run; see the module's text."""
    with probe.phase("load"):
        data, truth, error = load_inputs(job)
    probe.digest("data", data)
    problem = dict(job.workload.facts)
    with probe.phase("import"):
        learn = bind(job.contestant, job.workload.facts)
    with probe.phase("first_call"):
        learn(data[0][:_WARM].copy(), problem, job.block.seed)
    answers, walls, cpus = [], [], []
    times = _TIMES if problem.get("timing") else 1
    with probe.phase("call"):
        for i, rows in [each for each in enumerate(data) for _ in range(times)]:
            start, before = time.perf_counter(), time.process_time()
            answers.append(learn(rows, problem, job.block.seed + i))
            walls.append(time.perf_counter() - start)
            cpus.append(time.process_time() - before)
    found = np.array([lost(*each) for each in zip(answers[::times], truth, error, strict=True)])
    probe.value("lost", _mean(found))
    probe.value("excess", (1.0 + _mean(found) ** 2) ** 0.5)
    probe.value("diverged", float(np.mean(~np.isfinite(found))))
    probe.value("number_s", float(np.median(walls)) / data.shape[1])
    probe.value("number_cpu_s", float(np.median(cpus)) / data.shape[1])
    phase = probe.phases["call"]
    probe.value("extra", max(phase["peak"] - phase["start"], 4096))
    if problem["problem"] == "quantile":
        ranks = [
            (np.mean(rows < answer), np.mean(rows <= answer))
            for rows, answer in zip(data, np.reshape(answers, -1), strict=True)
        ]
        q = float(problem["q"])
        good = [low - RANK <= q <= high + RANK for low, high in ranks]
        probe.value("within", float(np.mean(good)))
    if not problem.get("timing"):
        probe.value("lost_early", _early(learn, data, problem, job.block.seed))


def _mean(found: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.minimum(found, MOST) ** 2)))


def _early(
    learn: Callable[..., Any], data: np.ndarray, problem: dict[str, Any], seed: int
) -> float:
    found = []
    for i, rows in enumerate(data):
        part = rows[: len(rows) // 10]
        best = solve(part, problem["problem"], float(problem.get("q", 0.5)))
        found.append(lost(learn(part, problem, seed + i), *best))
    return _mean(np.array(found))


def one_call(job: Job) -> Callable[[], Callable[[], None]]:
    """Returns what, called, imports the contestant and returns one answer to a small stream."""
    data, _, _ = load_inputs(job)
    problem = dict(job.workload.facts)

    def load() -> Callable[[], None]:
        learn = bind(job.contestant, job.workload.facts)

        def call() -> None:
            learn(data[0][:_WARM].copy(), problem, 0)

        return call

    return load
