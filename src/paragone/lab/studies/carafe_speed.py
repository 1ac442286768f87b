"""How fast is CARAFE's reassembly against its unfold formulation, and interpolation?"""

from __future__ import annotations

from typing import Any

from paragone._core.errors import UsageError
from paragone.lab.claims import seen
from paragone.lab.contestants import upsampling
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Summary
from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.studies.mixers_speed import MEASURES

__all__ = ["STUDY"]

Shape = tuple[str, str, str, str, int, int, dict[str, Any]]

SHAPES: tuple[Shape, ...] = (
    ("c128", "CARAFE with gradients, 128 channels, 40 to 80", "carafe", "both", 128, 40, {}),
    ("c128-forward", "CARAFE forward, 128 channels, 40 to 80", "carafe", "forward", 128, 40, {}),
    ("c128-nchw", "The same with gradients, NCHW", "carafe", "both", 128, 40, {"last": False}),
    ("c64", "CARAFE with gradients, 64 channels, 64 to 128", "carafe", "both", 64, 64, {}),
    ("c256", "CARAFE with gradients, 256 channels, 20 to 40", "carafe", "both", 256, 20, {}),
    ("c32-x3", "CARAFE with gradients, 32 channels, 32 to 96", "carafe", "both", 32, 32,
     {"scale": 3}),
    ("batch", "CARAFE with gradients, 8 images, 64 channels, 16 to 32", "carafe", "both", 64, 16,
     {"rows": 8}),
    ("bilinear", "Bilinear with gradients, 64 channels, 64 to 128", "bilinear", "both", 64, 64, {}),
    ("bicubic", "Bicubic with gradients, 64 channels, 64 to 128", "bicubic", "both", 64, 64, {}),
    ("resize", "Bicubic, antialiased, 3 channels, 384 to 128", "resize", "forward", 3, 384, {}),
)  # fmt: skip
"""Id, title, operation, way, channels, side, and what else `inputs` takes."""

QUICK = ("c128", "c64", "bilinear")


def workloads(request: Request) -> list[Workload]:
    """Reassembly at several shapes, and interpolation; `--rows` sets the side of all."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own numbers; leave it out")
    made = []
    for id, title, op, way, channels, size, more in SHAPES:
        if request.quick and not request.options.get("bench") and id not in QUICK:
            continue
        side = int(request.options.get("rows") or size)
        made.append(Workload(
            id=id, title=title if side == size else f"{title}, side {side}",
            load="paragone.lab.contestants.carafe_calls:inputs",
            params={"op": op, "way": way, "channels": channels, "size": side, **more},
            facts={"op": op, "way": way, "channels": channels, "size": side, "threads": 1},
        ))  # fmt: skip
    return made


def contestants(request: Request) -> list[Contestant]:
    """Ours, the unfold formulation, torch's interpolation."""
    return upsampling.for_speed()


def _ratios(summary: Summary, measure: str) -> dict[str, float]:
    ours, theirs = (by_workload(summary, name, measure) for name in ("carafe", "unfold_carafe"))
    both = [w.id for w in summary.workloads if w.id in ours and w.id in theirs and ours[w.id] > 0]
    return {place: theirs[place] / ours[place] for place in both if "forward" not in place}


def _faster(summary: Summary) -> tuple[str, bool] | None:
    found = _ratios(summary, "call_s")
    words = ", ".join(f"{place} {ratio:.0f}x" for place, ratio in found.items())
    return (words, min(found.values()) >= 30) if found else None


def _smaller(summary: Summary) -> tuple[str, bool] | None:
    found = _ratios(summary, "call_extra")
    words = ", ".join(f"{place} 1/{ratio:.0f}" for place, ratio in found.items())
    # Beside the call stands the float64 truth: it weighs most where maps are small.
    return (words, found["c128"] >= 10) if "c128" in found else None


_GOAL = "the goal of this implementation; Wang et al. (2019), arXiv:1905.02188, eq. 5"

STUDY = Study(
    id="carafe_speed",
    family="vision",
    question="How long does CARAFE take against its unfold formulation, and interpolation?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="carafe",
    options={"reference": "paragone.lab.contestants.carafe_calls:truth", "most_calls": 100},
    claims=(
        seen("CARAFE forward and backward is 30 times as fast as by unfold.", _GOAL, _faster),
        seen("At 128 channels it needs at most a tenth of the memory.", _GOAL, _smaller),
    ),
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.tasks.sweep",
             "paragone.lab.contestants.carafe_calls"),
    blocks=(3, 5),
    quick_blocks=(1, 2),
)  # fmt: skip
