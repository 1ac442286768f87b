"""Which detector for my images, in the seconds I have? AP by three protocols, time, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve
from paragone.lab.contestants import detectors
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _detectors_findings as findings
from paragone.lab.tasks.splits import FOLDS

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="ap", title="AP", better="higher", role="quality", margin=0.01, relative=False,
            primary=True, note="COCO's: mean over classes and ten overlaps from 0.5 to 0.95."),
    Measure(name="ap50", title="AP50", better="higher", role="quality", margin=0.01,
            relative=False, note="COCO's at an overlap of 0.5."),
    Measure(name="voc2007", title="VOC 2007", better="higher", role="quality", margin=0.01,
            relative=False, shown=True, note="At an overlap of 0.5, read at 11 recalls."),
    Measure(name="voc2012", title="VOC 2012", better="higher", role="quality", margin=0.01,
            relative=False, shown=True, note="At an overlap of 0.5, exact area."),
    Measure(name="ap_small", title="AP small", better="higher", role="quality", margin=0.01,
            relative=False, note="AP of objects below 32 x 32 pixels."),
    Measure(name="ap_medium", title="AP medium", better="higher", role="quality", margin=0.01,
            relative=False, note="AP of objects from 32 x 32 to 96 x 96 pixels."),
    Measure(name="latency_s", title="one image", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Median wall time from an image to its boxes."),
    Measure(name="step_s", title="training, an image", better="lower", role="time", margin=0.05,
            unit="s", shown=True, note="Wall time of a training step, for each image."),
    Measure(name="fit_s", title="training", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time of the training; the same for all."),
    Measure(name="fit_extra", title="training RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak memory of training beyond what was resident "
            "before."),
    Measure(name="predict_extra", title="RAM of an image", better="lower", role="memory",
            margin=0.05, unit="B", note="The same while boxes are found."),
    Measure(name="macs", title="multiply-adds", better="lower", role="count", margin=0.01,
            primary=True, shown=True, note="Of one image, counted."),
    Measure(name="parameters", title="parameters", better="lower", role="count", margin=0.01,
            shown=True, note="Numbers that are trained."),
    Measure(name="seen", title="images seen", better="higher", role="count", margin=0.05,
            note="Images that it trained on, each as often as it came."),
    Measure(name="found", title="boxes", better="lower", role="count", margin=0.1,
            note="Boxes that it put out for the test images."),
)  # fmt: skip

SIZE, QUICK_SIZE = 160, 96
COUNT, QUICK_COUNT = 800, 400
SECONDS, QUICK_SECONDS = 180.0, 18.0
KINDS, QUICK_KINDS = 10, 1
"""Different digits in the scenes; one alone is what can be learnt in seconds."""


def workloads(request: Request) -> list[Workload]:
    """The user's images with boxes, or digits on scenes."""
    if request.target is not None:
        raise UsageError("--target: boxes name their classes; leave it out")
    quick = request.quick
    seconds = QUICK_SECONDS if quick else SECONDS
    size = QUICK_SIZE if quick else SIZE
    if request.data is not None:
        return [_given(request, seconds)]
    kinds = QUICK_KINDS if quick else KINDS
    count = QUICK_COUNT if quick else COUNT
    what = f"{kinds} kinds of digits" if kinds > 1 else "one kind of digit"
    return [_workload(
        request, "scenes", f"Scenes with {what}, {size} px, {seconds:g} s of training",
        "paragone.lab.tasks.detection:scenes",
        {"count": count, "size": size, "kinds": kinds}, size=size, seconds=seconds,
    )]  # fmt: skip


def _workload(
    request: Request, id: str, title: str, load: str, params: dict[str, Any], digest: str = "",
    **facts: Any,
) -> Workload:  # fmt: skip
    return Workload(
        id=id, title=title, load=load, params=params, digest=digest,
        facts={"batch": 8, "rate": 2e-3, "threads": 1, "crew": "quick" if request.quick else "all",
               **facts},
        splits=FOLDS, test_share=1 / (FOLDS - 1), primary="ap",
    )  # fmt: skip


def _given(request: Request, seconds: float) -> Workload:
    """The user's data set, decoded once to one size."""
    size = 160 if request.quick else 320
    folder = Path(request.cache) / "scenes"
    facts = resolve("paragone.lab.tasks.detection:lay_down")(str(request.data), folder, size)
    words = f"{facts['images']:,} images, {facts['boxes']:,} boxes, {facts['classes']} classes"
    return _workload(
        request, "data", f"{Path(str(request.data)).stem}: {words}, {seconds:g} s of training",
        "paragone.lab.tasks.detection:stored", {"folder": str(folder), "number": request.seed},
        digest=facts["digest"], size=size, seconds=seconds, images=facts["images"],
        boxes=facts["boxes"], notes=facts["notes"],
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """ThunderNet with and without its parts, a single-shot detector, torchvision's."""
    return detectors.contestants()


_DRAW = "paragone.lab.studies._detectors_pictures:"

STUDY = Study(
    id="detectors",
    family="vision",
    question="Which detector for my images, in the seconds I have?",
    task="paragone.lab.tasks.detection:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="nanodet",
    speed={"thundernet": "ps_roi_align_speed",
           "mean_average_precision": "average_precision_speed"},
    inputs=("images",),
    claims=findings.CLAIMS,
    findings=findings.findings,
    pictures=(
        Picture(id="boxes", title="Boxes found on the same test images", draw=_DRAW + "boxes"),
        Picture(id="protocols", title="The same detections by three protocols",
                draw=_DRAW + "protocols"),
        Picture(id="overlaps", title="How tight the boxes are", draw=_DRAW + "overlaps"),
    ),
    preload=("numpy", "numba", "torch", "torch._dynamo", "sklearn.datasets",
             "paragone.lab.sequences", "paragone.lab.tasks.detection"),
    blocks=(2, 4),
    quick_blocks=(1, 1),
)  # fmt: skip
