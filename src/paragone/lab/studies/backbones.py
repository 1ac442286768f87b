"""Which backbone for my images, in the seconds I have? Accuracy, time, memory, multiply-adds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve
from paragone.lab.contestants import backbones
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _backbones_findings as findings
from paragone.lab.tasks.splits import FOLDS

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="accuracy", title="accuracy", better="higher", role="quality", margin=0.01,
            relative=False, primary=True, note="Share of the test images whose likeliest class is "
            "the true one."),
    Measure(name="log_loss", title="log loss", better="lower", role="quality", margin=0.02,
            note="Mean of -log p(true class), p clipped to 1e-6."),
    Measure(name="latency_s", title="one image", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Median wall time of a pass of one image, weights as trained."),
    Measure(name="batch_s", title="image of a batch", better="lower", role="time", margin=0.05,
            unit="s", shown=True, note="Wall time of a pass of 16 images, for each of them."),
    Measure(name="step_s", title="training, an image", better="lower", role="time", margin=0.05,
            unit="s", shown=True, note="Wall time of a training step, for each image."),
    Measure(name="fit_s", title="training", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time of the training; at equal seconds the same for all."),
    Measure(name="fit_extra", title="training RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak memory of training beyond what was resident "
            "before."),
    Measure(name="predict_extra", title="RAM of a pass", better="lower", role="memory",
            margin=0.05, unit="B", note="The same of passes of a batch."),
    Measure(name="macs", title="multiply-adds", better="lower", role="count", margin=0.01,
            primary=True, shown=True, note="Of one image: convolutions and linear layers, counted "
            "by a pass."),
    Measure(name="parameters", title="parameters", better="lower", role="count", margin=0.01,
            shown=True, note="Numbers that are trained."),
    Measure(name="seen", title="images seen", better="higher", role="count", margin=0.05,
            note="Images that it trained on, each as often as it came."),
)  # fmt: skip

_COSTS = ("latency_s", "batch_s", "step_s", "fit_extra", "predict_extra", "macs", "parameters")
_LEARNT = ("accuracy", "log_loss", *_COSTS, "fit_s", "seen")

SIZE, QUICK_SIZE = 80, 48
SECONDS, QUICK_SECONDS = 40.0, 5.0
STEPS, QUICK_STEPS = 400, 120
PARAMETERS = 1_000_000
TIMES = 4.0
"""Multiply-adds of a scaled network, as a multiple of the plain one's."""

SCALE = {"size": 32, "width": 0.25, "times": TIMES}
_TRAINING: Mapping[str, Any] = {"batch": 16, "rates": [4e-3], "threads": 1}


def workloads(request: Request) -> list[Workload]:
    """The user's images, or digits; then what is counted."""
    if request.target is not None:
        raise UsageError("--target: the class of an image is its folder; leave it out")
    quick = request.quick
    crew = "quick" if quick else "learners"
    seconds = QUICK_SECONDS if quick else SECONDS
    cost = [] if quick else [_cost()]
    if request.data is not None:
        return [_given(request, crew, 2 * seconds), *cost]
    size, steps = (QUICK_SIZE, QUICK_STEPS) if quick else (SIZE, STEPS)
    digits = "paragone.lab.tasks.image:digits"
    made = [_learn(
        request, "seconds", f"Digits, {seconds:g} s of training", digits, {"size": size},
        size=size, seconds=seconds, crew=crew, width=0.5 if quick else 1.0,
    )]  # fmt: skip
    if not quick:
        made.append(_learn(
            request, "parameters", f"Digits, {PARAMETERS / 1e6:g} M parameters, {steps} steps",
            digits, {"size": size}, size=size, steps=steps, crew="equal", parameters=PARAMETERS,
        ))  # fmt: skip
    made.append(_learn(
        request, "scaling", f"Digits, {TIMES:g} times the multiply-adds, {steps} steps",
        digits, {"size": 2 * SCALE["size"]}, part="scale", steps=steps, crew="", **SCALE,
    ))  # fmt: skip
    return [*made, *cost]


def _learn(
    request: Request, id: str, title: str, load: str, params: Mapping[str, Any],
    part: str = "learn", digest: str = "", **facts: Any,
) -> Workload:  # fmt: skip
    return Workload(
        id=id, title=title, load=load, params=params, digest=digest,
        facts={**_TRAINING, "part": part, "split_seed": request.seed, **facts},
        splits=FOLDS, test_share=1 / (FOLDS - 1), measures=_LEARNT, primary="accuracy",
        counts="seconds" in facts,
    )  # fmt: skip


def _cost() -> Workload:
    """What all cost as published, trained or not."""
    size, batch = 224, 8
    return Workload(
        id="cost", title=f"Cost at {size} px, 1,000 classes",
        load="paragone.lab.tasks.image:noise", params={"size": size, "rows": batch},
        facts={"part": "cost", "size": size, "batch": batch, "labels": 1000, "threads": 1,
               "crew": "all"},
        measures=_COSTS, counts=False,
    )  # fmt: skip


def _given(request: Request, crew: str, seconds: float) -> Workload:
    """The user's folder or archive, decoded once to one size."""
    size = 64 if request.quick else 96
    folder = Path(request.cache) / "images"
    facts = resolve("paragone.lab.tasks.image:lay_down")(str(request.data), folder, size)
    words = f"{facts['images']:,} images of {facts['classes']} classes"
    return _learn(
        request, "data", f"{Path(str(request.data)).stem}: {words}, {seconds:g} s of training",
        "paragone.lab.tasks.image:stored", {"folder": str(folder)}, digest=facts["digest"],
        size=size, seconds=seconds, crew=crew, width=0.5 if request.quick else 1.0,
        images=facts["images"], notes=facts["notes"],
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Ours by name, one family scaled in several ways, and other libraries."""
    return backbones.contestants()


_DRAW = "paragone.lab.studies._backbones_pictures:"

STUDY = Study(
    id="backbones",
    family="vision",
    question="Which backbone for my images, in the seconds I have?",
    task="paragone.lab.tasks.image:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="mobilenet_v2",
    speed={"efficientnet": "backbones_speed", "lightweight_networks": "backbones_speed"},
    inputs=("images",),
    claims=findings.CLAIMS,
    findings=findings.findings,
    pictures=(
        Picture(id="macs", title="Multiply-adds do not tell the time", draw=_DRAW + "macs"),
        Picture(id="lineage", title="The line of blocks that made convolution cheap",
                draw=_DRAW + "lineage"),
        Picture(id="mistakes", title="Images that were mistaken, and for what",
                draw=_DRAW + "mistakes"),
    ),
    preload=("numpy", "numba", "torch", "torch._dynamo", "sklearn.datasets",
             "paragone.lab.sequences", "paragone.lab.tasks.image"),
    export="paragone.lab.studies._backbones_export:write",
    blocks=(2, 4),
    quick_blocks=(1, 1),
)  # fmt: skip
