"""Thread or process? Which workers make this kind of work faster here, and at what price?"""

from __future__ import annotations

import os
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab.contestants import workers as rivals
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _workers_findings as findings

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="speedup", title="speedup", better="higher", role="quality", margin=0.05,
            primary=True, note="Time of one after the other over the time on the open pool, taken "
            "in turn in one process."),
    Measure(name="work_s", title="work", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time of all items on the open pool."),
    Measure(name="create_s", title="create", better="lower", role="time", margin=0.1, unit="s",
            shown=True, note="Wall time for each worker until all have answered a first time."),
    Measure(name="trip_s", title="a task", better="lower", role="time", margin=0.1, unit="s",
            shown=True, note="Wall time of an empty task, sent alone: there and back."),
    Measure(name="each_s", title="of many", better="lower", role="time", margin=0.1, unit="s",
            note="The same as one of 2,000 in a map, with the library's own chunks."),
    Measure(name="worker_ram", title="RAM a worker", better="lower", role="memory", margin=0.1,
            unit="B", primary=True, note="What all processes of the run hold more than before, "
            "shared pages by their share (PSS), for each worker."),
)  # fmt: skip

TITLES = {
    "python": "Pure Python", "numpy": "NumPy", "numba": "Numba, nogil",
    "wait": "Waiting, 5 ms an item", "read": "Reading files of 4 MB",
    "rows": "Few numbers of many rows",
}  # fmt: skip
ITEMS = {"python": 16, "numpy": 16, "numba": 16, "wait": 32, "read": 48, "rows": 0}
WAITING = 8
"""Workers that wait: more than processors, since they need none."""


def workloads(request: Request) -> list[Workload]:
    """Work that holds the lock, lets go of it, waits, reads, and shares an array."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: this study brings its own work; leave it out")
    count = max(request.threads, 2)
    kinds = ("python", "numpy", "wait", "rows") if request.quick else tuple(TITLES)
    found = [_workload(name, WAITING if name == "wait" else count, request) for name in kinds]
    if not request.quick:
        more = sorted({1, 2 * count, 4 if count > 4 else 1})
        found += [_workload(name, n, request) for name in ("python", "numba") for n in more]
    return found


def _workload(name: str, workers: int, request: Request) -> Workload:
    params: dict[str, Any] = {"work": name, "items": ITEMS[name], "workers": workers}
    if name == "rows":
        params["megabytes"] = 16 if request.quick else 64
    swept = name in ("python", "numba")
    return Workload(
        id=f"{name}_{workers}", title=f"{TITLES[name]}, {workers} workers",
        load="paragone.lab.chores:load", params=params,
        facts={"work": name, "workers": workers, "cores": len(os.sched_getaffinity(0)),
               "quick": request.quick, "timing": True},
        axis={"workers": workers} if swept else {},
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Our pools, those of the standard library and of joblib, and none."""
    return rivals.contestants()


STUDY = Study(
    id="workers",
    family="runtime",
    question="Thread or process: which workers make my work faster on this machine, and what do "
    "they cost to create, to send to and to hold?",
    task="paragone.lab.tasks.workers:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="thread_pool",
    claims=findings.CLAIMS,
    findings=findings.findings,
    speed={"processes_and_threads": "runtime_speed"},
    pictures=(
        Picture(id="speedups", title="What workers gain, by kind of work",
                draw="paragone.lab.studies._workers_pictures:speedups"),
        Picture(id="lengths", title="What workers gain, by length of a task",
                draw="paragone.lab.studies._workers_pictures:lengths"),
        Picture(id="prices", title="What a worker costs to create",
                draw="paragone.lab.studies._workers_pictures:prices"),
    ),
    preload=("numpy", "paragone.lab.tasks.workers"),
    blocks=(3, 6),
    quick_blocks=(1, 2),
)  # fmt: skip
