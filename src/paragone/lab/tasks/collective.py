"""A run of an all-reduce: 2 to 4 real ranks call it again and again on a tensor of one size.

The contestant is a class with `open(group)`, `tensor(count)` and `reduce(tensor)`, all called on
every rank. Each call is timed on each rank; the slowest rank's time counts, since nobody can go on
before, and the value is the median over calls. Before the clock starts, two calls are checked
against the sum that the ranks' tensors have,

    error = max |x - p (p + 1) / 2 * pattern| / max |...|.

Options (`Study.options`):
    least_time: Seconds that the timed calls take together, 0.3 (0.1 in quick studies).
    most_calls: Timed calls at most, 500.

Values: `call_s`, `call_cpu_s` (all ranks together), `call_extra` (peak of the largest rank during
the calls beyond what it had before, a page at least), `calls`, `bus_gbs` (GB/s of the busiest
link, decimal), `error`, `start_s` (until the ranks are ready), `import_s`.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import numpy as np

from paragone.lab.build import bind
from paragone.lab.probe import Probe
from paragone.lab.ranks import run_ranks
from paragone.lab.spec import Job

__all__ = ["describe", "run"]

_PATIENCE = 120.0


def describe(ranks: int, bytes: int) -> tuple[int, int]:
    """The input of a run is its two numbers."""
    return ranks, bytes


def run(job: Job, probe: Probe) -> None:
    """Performs one run; see the module's text."""
    ranks, nbytes = int(job.workload.params["ranks"]), int(job.workload.params["bytes"])
    probe.digest("data", [ranks, nbytes])
    with probe.phase("import"):
        contestant = bind(job.contestant, job.workload.facts)
    least = float(job.options.get("least_time", 0.1 if job.quick else 0.3))
    most = int(job.options.get("most_calls", 500))
    with probe.phase("calls"):
        found = run_ranks(
            ranks, _rank, contestant, nbytes // 4, least, most, timeout=2 * _PATIENCE
        )  # fmt: skip
    times = np.array([one["times"] for one in found])
    call = float(np.median(times.max(axis=0)))
    probe.value("call_s", call)
    probe.value("call_cpu_s", sum(one["cpu"] for one in found) / times.shape[1])
    probe.value("call_extra", max(one["extra"] for one in found))
    probe.value("calls", times.shape[1])
    probe.value("bus_gbs", 2 * (ranks - 1) / ranks * nbytes / call / 1e9)
    probe.value("error", max(one["error"] for one in found))
    probe.value("start_s", max(one["start"] for one in found))


def _rank(
    rank: int, world: int, meeting: str, contestant: Any, count: int, least: float, most: int
) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    begin = time.perf_counter()
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=world,
        timeout=timedelta(seconds=_PATIENCE),
    )  # fmt: skip
    contestant.open()
    x, pattern = contestant.tensor(count), torch.arange(count, dtype=torch.float32) % 97 + 1
    start = time.perf_counter() - begin
    truth, error, spent = pattern * (world * (world + 1) / 2), 0.0, 0.0
    for _ in range(2):
        x.copy_(pattern).mul_(rank + 1)
        dist.barrier()
        clock = time.perf_counter()
        contestant.reduce(x)
        spent = time.perf_counter() - clock
        error = max(error, float((x - truth).abs().max() / truth.max()) if count else 0.0)
    del truth, pattern
    calls = torch.tensor([min(max(int(least / max(spent, 1e-7)), 3), most)])
    dist.broadcast(calls, 0)
    x.zero_()
    probe = Probe()
    with probe.phase("calls"):
        times = []
        dist.barrier()
        cpu = time.process_time()
        for _ in range(int(calls)):
            clock = time.perf_counter()
            contestant.reduce(x)
            times.append(time.perf_counter() - clock)
        cpu = time.process_time() - cpu
    dist.barrier()
    contestant.close()
    phase = probe.phases["calls"]
    return {
        "times": times, "cpu": cpu, "extra": max(4096.0, phase["peak"] - phase["start"]),
        "error": error, "start": start,
    }  # fmt: skip
