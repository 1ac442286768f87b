"""How fast is average precision, from boxes and from files, against the tools everybody uses?"""

from __future__ import annotations

from paragone._core.errors import UsageError
from paragone.lab.contestants import average_precision
from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.studies.mixers_speed import MEASURES

__all__ = ["STUDY"]

SHAPES = (
    ("boxes-250", "Evaluate, 250 images", "evaluate", 250),
    ("boxes-5k", "Evaluate, 5,000 images", "evaluate", 5000),
    ("files-250", "From JSON files, 250 images", "files", 250),
    ("files-5k", "From JSON files, 5,000 images", "files", 5000),
)
"""Id, title, operation and images; 80 classes and 100 detections an image."""

_LARGE = 1000


def workloads(request: Request) -> list[Workload]:
    """A small and a large data set; `--rows` sets the images of all."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own boxes; leave it out")
    rows, made = request.options.get("rows"), []
    for id, title, op, images in SHAPES:
        if request.quick and not request.options.get("bench") and images > _LARGE:
            continue
        count = int(rows or images)
        if rows and images > _LARGE:
            continue
        made.append(Workload(
            id=id, title=title.replace(f"{images:,}", f"{count:,}"),
            load="paragone.lab.contestants.average_precision_calls:inputs",
            params={"op": op, "images": count},
            facts={"op": op, "images": count, "large": count > _LARGE},
        ))  # fmt: skip
    return made


def contestants(request: Request) -> list[Contestant]:
    """Ours by catalogue id, and what it is measured against."""
    return average_precision.for_speed()


STUDY = Study(
    id="average_precision_speed",
    family="vision",
    question="How long does average precision take, against the same in other libraries?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="mean_average_precision",
    options={"reference": "paragone.lab.contestants.average_precision_calls:truth",
             "most_calls": 50},
    preload=("numpy", "numba", "paragone.lab.tasks.sweep",
             "paragone.lab.contestants.average_precision_calls"),
    blocks=(3, 5),
    quick_blocks=(1, 2),
)  # fmt: skip
