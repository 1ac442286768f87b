"""How fast is position-sensitive RoI align, the pooling of ThunderNet, forward and backward?"""

from __future__ import annotations

from paragone._core.errors import UsageError
from paragone.lab.contestants import detectors
from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.studies.mixers_speed import MEASURES

__all__ = ["STUDY"]

Shape = tuple[str, str, str, int, int, int]

SHAPES: tuple[Shape, ...] = (
    ("one", "Forward, 1 image, 200 regions", "forward", 1, 200, 20),
    ("batch", "Forward, 8 images, 256 regions each", "forward", 8, 256, 20),
    ("large", "Forward, 1 image of 640 px, 1,000 regions", "forward", 1, 1000, 40),
    ("batch-back", "Backward, 8 images, 256 regions each", "backward", 8, 256, 20),
    ("large-back", "Backward, 1 image of 640 px, 1,000 regions", "backward", 1, 1000, 40),
)
"""Id, title, way, images, regions of each, side of the map."""

QUICK = ("one", "batch", "batch-back")


def workloads(request: Request) -> list[Workload]:
    """Maps of ThunderNet: 245 channels, 7 x 7 bins; `--rows` sets the regions of an image."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own numbers; leave it out")
    rows, made = request.options.get("rows"), []
    for id, title, way, images, regions, side in SHAPES:
        if request.quick and not request.options.get("bench") and id not in QUICK:
            continue
        count = int(rows or regions)
        made.append(Workload(
            id=id, title=title.replace(f"{regions:,}", f"{count:,}"),
            load="paragone.lab.contestants.detectors:pooling",
            params={"way": way, "images": images, "regions": count, "side": side},
            facts={"way": way, "images": images, "regions": count, "side": side},
        ))  # fmt: skip
    return made


def contestants(request: Request) -> list[Contestant]:
    """Ours by catalogue id, and torchvision's."""
    return detectors.for_speed()


STUDY = Study(
    id="ps_roi_align_speed",
    family="vision",
    question="How long does position-sensitive RoI align take, and its gradient?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="thundernet",
    options={"reference": "paragone.lab.contestants.detectors:truth", "most_calls": 200},
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.tasks.sweep",
             "paragone.lab.contestants.detectors"),
    blocks=(3, 5),
    quick_blocks=(1, 2),
)  # fmt: skip
