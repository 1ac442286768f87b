"""How a method starts: with nothing compiled, with kernels on disk, and warm.

A library that compiles when it is first used must show what that costs. One contestant's call
(a fit with a prediction, or a build with queries) is made three times in each of two fresh
interpreters that share one empty folder for compiled kernels:

- *cold*: the first call of the first process, which compiles everything;
- *cached*: the first call of the second process, which finds the kernels on disk;
- *warm*: the shorter of the second and third call of that process.

Run as `python -m paragone.lab.starts TICKET`; prints one line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragone.lab.build import resolve_target
from paragone.lab.runner import thread_variables
from paragone.lab.spec import Job
from paragone.lab.worker import job_from

__all__ = ["Start", "measure", "table"]

LIMIT = 900.0
CALLS = 3


@dataclass(frozen=True, kw_only=True)
class Start:
    """One way to start.

    Attributes:
        name: "cold", "cached" or "warm".
        import_s: Seconds to import and make the contestant (None when warm).
        call_s: Seconds of the call.
        more_s: What it took more than the warm call.
        more_cpu_s: The same in CPU time, which another program's load does not touch.
    """

    name: str
    import_s: float | None
    call_s: float
    more_s: float
    more_cpu_s: float


def measure(job: Job) -> list[Start]:
    """Starts a contestant cold and cached; returns cold, cached, warm.

    Args:
        job: What one run of the contestant would be.
    """
    with tempfile.TemporaryDirectory(prefix="paragone-start-") as folder:
        ticket = Path(folder) / "ticket.json"
        content = {"job": dataclasses.asdict(job), "path": [p or os.getcwd() for p in sys.path]}
        ticket.write_text(json.dumps(content), encoding="utf-8")
        kernels = Path(folder) / "kernels"
        kernels.mkdir()
        environment = {
            **os.environ, **thread_variables(job.threads, job.device),
            "NUMBA_CACHE_DIR": str(kernels),
        }  # fmt: skip
        cold, cached = (_process(ticket, environment) for _ in range(2))
    warm, warm_cpu = min(cached["calls"][1:]), min(cached["cpus"][1:])
    starts = [
        Start(
            name=name, import_s=found["import_s"], call_s=found["calls"][0],
            more_s=found["calls"][0] - warm, more_cpu_s=found["cpus"][0] - warm_cpu,
        )
        for name, found in (("cold", cold), ("cached", cached))
    ]  # fmt: skip
    return [*starts, Start(name="warm", import_s=None, call_s=warm, more_s=0.0, more_cpu_s=0.0)]


def _process(ticket: Path, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "paragone.lab.starts", str(ticket)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the method did not start: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(starts: list[Start]) -> list[str]:
    """The starts as aligned lines."""
    from paragone.lab import format as fmt

    words = {
        "cold": "cold: no kernel compiled yet", "cached": "cached: kernels on disk",
        "warm": "warm: a later call",
    }  # fmt: skip
    lines = [f" {'start':<30}{'import':>10}{'call':>10}{'more than warm':>17}{'in CPU time':>14}"]
    for one in starts:
        more, cpu = (
            "" if one.name == "warm" else fmt.seconds(s) for s in (one.more_s, one.more_cpu_s)
        )
        taken = "" if one.import_s is None else fmt.seconds(one.import_s)
        cells = f"{taken:>10}{fmt.seconds(one.call_s):>10}{more:>17}{cpu:>14}"
        lines.append(f" {words[one.name]:<30}{cells}".rstrip())
    return lines


def _perform(job: Job) -> dict[str, Any]:
    module = job.task.rpartition(":")[0]
    load: Callable[[], Callable[[], None]] = resolve_target(f"{module}:one_call")(job)
    start = time.perf_counter()
    call = load()
    taken = time.perf_counter() - start
    calls, cpus = [], []
    for _ in range(CALLS):
        start, before = time.perf_counter(), time.process_time()
        call()
        calls.append(time.perf_counter() - start)
        cpus.append(time.process_time() - before)
    return {"import_s": taken, "calls": calls, "cpus": cpus}


def _main(ticket: str) -> None:
    content = json.loads(Path(ticket).read_text(encoding="utf-8"))
    sys.path += [entry for entry in content["path"] if entry not in sys.path]
    print(json.dumps(_perform(job_from(content["job"]))))


if __name__ == "__main__":
    _main(sys.argv[1])
