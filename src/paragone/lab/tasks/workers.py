r"""A run of a pool: what its workers cost to make, to hold and to send to, and what they gain.

The work is done without workers and on them in turn, so that a change of load falls on both:

    speedup = median time of one after the other / median time on the pool,

where the pool is open and has done the work once before. Answers must be equal to those without
workers. Memory is what all processes of the run hold more than before, each shared page counted by
its share (PSS of `/proc/PID/smaps_rollup`), for each worker.

Options (`Study.options`):
    turns: Turns of both ways, 5 (3 in quick studies).
    trips: Empty tasks sent one at a time, 300 (100).
    burst: Empty tasks sent as one map, 2000.

Values: `speedup`, `work_s`, `serial_s`, `create_s` (a worker's share of the time until all have
answered), `trip_s`, `each_s`, `worker_ram`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from paragone.lab import chores
from paragone.lab.build import build, load_inputs
from paragone.lab.contestants.poolers import Serial
from paragone.lab.probe import Probe, descendants, resident
from paragone.lab.spec import Job

__all__ = ["run"]


def _held() -> int:
    """Bytes of this process and all below it, shared pages by their share."""
    family = [os.getpid(), *descendants(os.getpid())]
    return sum(resident(pid, shared=False) for pid in family)


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def run(job: Job, probe: Probe) -> None:
    """Performs one run of a pool; see the module's text."""
    with probe.phase("load"):
        setting, items = load_inputs(job)
    probe.digest("data", setting, items)
    work, workers = chores.chore(setting["work"]), int(setting["workers"])
    with probe.phase("import"):
        pool = build(job.contestant, job.workload.facts, workers=workers)
    alone = Serial(workers)
    way = "rows" if setting["work"] == "rows" else "map"
    truth = getattr(alone, way)(work, items)
    before = _held()
    with probe.phase("create"):
        pool.open()
        pool.map(chores.empty, list(range(4 * workers)))
    probe.value("create_s", probe.phases["create"]["wall"] / workers)
    try:
        if not np.array_equal(getattr(pool, way)(work, items), truth):
            raise ValueError("the pool's answers are not those of one after the other")
        probe.value("worker_ram", max(_held() - before, 0) / workers)
        turns = int(job.options.get("turns", 3 if job.quick else 5))
        _race(probe, [getattr(one, way) for one in (alone, pool)], work, items, turns)
        _send(probe, pool, int(job.options.get("trips", 100 if job.quick else 300)),
              int(job.options.get("burst", 2000)))  # fmt: skip
    finally:
        pool.close()


def _race(probe: Probe, ways: list[Any], work: Any, items: Any, turns: int) -> None:
    """Both ways in turn, and what the pool gains."""
    alone, pooled = ways
    slow, fast = [], []
    with probe.phase("work"):
        for _ in range(turns):
            slow.append(_timed(lambda: alone(work, items))[0])
            fast.append(_timed(lambda: pooled(work, items))[0])
    serial, seconds = float(np.median(slow)), float(np.median(fast))
    probe.value("serial_s", serial)
    probe.value("work_s", seconds)
    probe.value("speedup", serial / seconds)


def _send(probe: Probe, pool: Any, trips: int, burst: int) -> None:
    """What a task costs that does nothing."""
    times = [_timed(lambda x=x: pool.call(chores.empty, x))[0] for x in range(trips)]
    probe.value("trip_s", float(np.median(times)))
    numbers = list(range(burst))
    bursts = [_timed(lambda: pool.map(chores.empty, numbers))[0] for _ in range(3)]
    probe.value("each_s", min(bursts) / burst)
