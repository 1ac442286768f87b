"""What do loaders and pools cost: an epoch of batches, a task sent to a worker?"""

from __future__ import annotations

from paragone._core.errors import UsageError
from paragone.lab.contestants import workers as rivals
from paragone.lab.spec import Contestant, Measure, Request, Study, Workload

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="call_cpu_s", title="CPU", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="CPU time of an epoch or of all tasks, workers included."),
    Measure(name="call_s", title="wall", better="lower", role="time", margin=0.05, unit="s",
            shown=True, note="Wall time of the same."),
    Measure(name="error", title="error", better="lower", role="count", margin=1e-6, relative=False,
            primary=True, note="Distance of what was delivered to what it should be: shows that "
            "the work was equal."),
    Measure(name="call_extra", title="extra RAM", better="lower", role="memory", margin=0.1,
            unit="B", primary=True, note="Peak memory of the caller's process beyond the data."),
    Measure(name="first_call_s", title="first call", better="lower", role="time", margin=0.05,
            unit="s", note="Imports, starts workers, reads once."),
)  # fmt: skip

PARTS = (
    ("rows", "2,048 rows of 12 kB, plain items", "rows", 2048),
    ("rows_at_once", "2,048 rows of 12 kB, whole batches", "rows_at_once", 2048),
    ("crops", "256 images cropped and normalised by NumPy", "crops", 256),
    ("crops_at_once", "256 images: NumPy items, or a kernel a batch", "crops_at_once", 256),
    ("threads", "1,000 empty tasks on threads", "threads", 1000),
    ("processes", "1,000 empty tasks on processes", "processes", 1000),
)
"""Workloads as (id, title, part, count); a contestant knows what a part asks for."""


def workloads(request: Request) -> list[Workload]:
    """Loaders on work that costs nothing and on images; pools on empty tasks."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own input; leave it out")
    return [
        Workload(
            id=id, title=title, load="paragone.lab.feeds:load",
            params={"part": part, "count": count},
            facts={"part": part, "timing": True},
        )
        for id, title, part, count in PARTS
    ]  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Ours and the rivals."""
    return rivals.for_speed()


STUDY = Study(
    id="runtime_speed",
    family="runtime",
    question="What do a data loader and a pool cost beside the work itself?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="processes_and_threads",
    preload=("numpy", "paragone.lab.tasks.sweep", "paragone.lab.contestants.feeders"),
    blocks=(3, 5),
    quick_blocks=(1, 3),
    options={"reference": "paragone.lab.feeds:truth", "least_time": 0.4, "least_calls": 3},
)  # fmt: skip
