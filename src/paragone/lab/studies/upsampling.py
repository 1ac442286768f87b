"""Which way up? Every way of upsampling in one U-Net and in super-resolution, at equal budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve
from paragone.lab.contestants import upsampling
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _upsampling_findings as findings
from paragone.lab.tasks.splits import FOLDS

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="iou", title="IoU", better="higher", role="quality", margin=0.01, relative=False,
            primary=True, note="Intersection over union over all test pixels, the mean of the "
            "classes; of scenes without the background."),
    Measure(name="edge", title="right at edges", better="higher", role="quality", margin=0.01,
            relative=False, shown=True, note="Share of the pixels right among those not farther "
            "than two pixels from a true border."),
    Measure(name="psnr", title="PSNR", better="higher", role="quality", margin=0.05,
            relative=False, note="Of luma in dB, without the border of s pixels."),
    Measure(name="gain", title="over bicubic", better="higher", role="quality", margin=0.05,
            relative=False, note="PSNR minus that of bicubic interpolation, in dB."),
    Measure(name="step_s", title="forward + backward", better="lower", role="time", margin=0.05,
            unit="s", primary=True, note="Median wall time with gradients: of the whole network "
            "on a batch, or of the layer alone."),
    Measure(name="forward_s", title="forward", better="lower", role="time", margin=0.05, unit="s",
            shown=True, note="The same without gradients."),
    Measure(name="fit_s", title="training", better="lower", role="time", margin=0.05, unit="s",
            note="Seconds of a core that all steps took."),
    Measure(name="step_extra", title="extra RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak memory of forward + backward beyond what was "
            "resident before."),
    Measure(name="parameters", title="parameters", better="lower", role="count", margin=0.01,
            primary=True, note="Of the whole network, or of the layer alone."),
    Measure(name="printed_start", title="printed at start", better="lower", role="count",
            margin=1e-12, relative=False, shown=True, note="Checkerboard: variance of the means "
            "of the s x s phases over the mean square of the output, on constant input, in the "
            "interior, before training."),
    Measure(name="printed_edge", title="printed in a corner", better="lower", role="count",
            margin=1e-12, relative=False, note="The same in a corner."),
    Measure(name="printed_end", title="printed after training", better="lower", role="count",
            margin=1e-6, relative=False, shown=True, note="The same in the interior, after it."),
)  # fmt: skip

_PRINTED = ("printed_start", "printed_edge")
_COSTS = ("step_s", "forward_s", "step_extra", "parameters", *_PRINTED)
_LEARNT = (*_COSTS, "fit_s", "printed_end")

SEGMENT: dict[str, Any] = {"width": 12, "depth": 3, "rows": 8, "steps": 300, "rate": 3e-3}
QUICK_SEGMENT: dict[str, Any] = {"width": 8, "depth": 2, "rows": 8, "steps": 80, "rate": 5e-3}
SUPER: dict[str, Any] = {"rows": 16, "patch": 16, "steps": 500, "rate": 2e-3, "scale": 3}
QUICK_SUPER: dict[str, Any] = {"rows": 8, "patch": 16, "steps": 90, "rate": 2e-3, "scale": 3}


def workloads(request: Request) -> list[Workload]:
    """Masks, super-resolution, and the layer alone; with `--data` the user's own images."""
    if request.target is not None:
        raise UsageError("--target: masks lie beside the images; leave it out")
    quick = request.quick
    segment, photos = (QUICK_SEGMENT, QUICK_SUPER) if quick else (SEGMENT, SUPER)
    if request.data is not None:
        made = _given(request, segment, photos)
    else:
        count, size = (64, 48) if quick else (240, 96)
        made = [
            _learn(request, "digits", f"Digits on photographs, {size} px, U-Net", "segment",
                   "scenes", {"count": count, "size": size}, segment),
            _learn(request, "photos", f"Photographs at {photos['scale']} times the size, ESPCN",
                   "super", "photos", {"side": 120}, photos),
        ]  # fmt: skip
    for channels, size in ((64, 40),) if quick else ((64, 40), (128, 40), (16, 128)):
        made.append(Workload(
            id=f"layer-{channels}-{size}",
            title=f"The layer alone, {channels} channels, {size} to {2 * size} px",
            load="paragone.lab.dense_images:maps", params={"channels": channels, "size": size},
            facts={"part": "cost", "channels": channels, "size": size, "scale": 2, "threads": 1,
                   "quick": quick},
            measures=_COSTS, primary="step_s",
        ))  # fmt: skip
    return made


def _learn(
    request: Request, id: str, title: str, part: str, load: str, params: dict[str, Any],
    facts: dict[str, Any], digest: str = "", **more: Any,
) -> Workload:  # fmt: skip
    quality = ("iou", "edge") if part == "segment" else ("psnr", "gain")
    return Workload(
        id=id, title=title, load=f"paragone.lab.dense_images:{load}", params=params, digest=digest,
        facts={**facts, "part": part, "threads": 1, "quick": request.quick, **more},
        splits=FOLDS, test_share=1 / (FOLDS - 1), measures=(*quality, *_LEARNT),
        primary=quality[0],
    )  # fmt: skip


def _given(request: Request, segment: dict[str, Any], photos: dict[str, Any]) -> list[Workload]:
    folder, size = Path(request.cache) / "crops", 64 if request.quick else 128
    told = resolve("paragone.lab.dense_images:lay_down")(str(request.data), folder, size)
    name = Path(str(request.data)).stem
    words = f"{told['crops']:,} crops of {told['images']} images, {told['classes']} classes"
    more = {"images": told["images"], "skipped": told["skipped"]}
    return [
        _learn(request, "data", f"{name}: {words}, U-Net", "segment", "kept",
               {"folder": str(folder)}, segment, **more),
        _learn(request, "larger", f"{name} at {photos['scale']} times the size, ESPCN", "super",
               "kept_photos", {"folder": str(folder), "side": 60}, photos, **more),
    ]  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Ours by method, and torch's modules."""
    return upsampling.contestants()


_DRAW = "paragone.lab.studies._upsampling_pictures:"

STUDY = Study(
    id="upsampling",
    family="vision",
    question="Which way of upsampling for my segments, or for larger photographs?",
    task="paragone.lab.tasks.dense:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="bilinear",
    speed={"upsampling": "carafe_speed"},
    inputs=("images",),
    claims=findings.CLAIMS,
    findings=findings.findings,
    pictures=(
        Picture(id="enlarged", title="One crop, enlarged by each", draw=_DRAW + "enlarged"),
        Picture(id="masks", title="One mask, found by each", draw=_DRAW + "masks"),
        Picture(id="printed", title="What each prints on constant input, before training",
                draw=_DRAW + "printed"),
    ),
    preload=("numpy", "numba", "torch", "torch._dynamo", "sklearn.datasets", "PIL.Image",
             "paragone.lab.sequences", "paragone.lab.tasks.dense"),
    blocks=(2, 4),
    quick_blocks=(1, 1),
)  # fmt: skip
