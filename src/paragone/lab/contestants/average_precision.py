"""The contestants of the study `average_precision_speed`: strings only."""

from __future__ import annotations

from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["for_speed"]

_CALLS = "paragone.lab.contestants.average_precision_calls:"


def _rival(id: str, title: str, package: str, module: str, **more: Any) -> Contestant:
    paths = {"coco": f"{module}:COCO", "evaluator": f"{module}:COCOeval"}
    if "coco" in more:
        paths = {"coco": more.pop("coco"), "evaluator": more.pop("evaluator")}
    return Contestant(
        id=id, title=title, make=_CALLS + "CocoApi", params=paths, origin="rival",
        distribution=package, install=f"pip install {package}", **more,
    )  # fmt: skip


def for_speed() -> list[Contestant]:
    """Ours, the two in Rust, the one in C++, and the original."""
    small = {"needs": {"large": [False]}}
    return [
        Contestant(id="mean_average_precision", title="paragone", make=_CALLS + "Ours",
                   method="mean_average_precision"),
        _rival("hotcoco", "hotcoco {version}", "hotcoco", "hotcoco", note="Rust"),
        _rival("ultrafast", "ultrafast-pycocotools {version}", "ultrafast-pycocotools", "",
               coco="ultrafast_pycocotools.coco:COCO",
               evaluator="ultrafast_pycocotools.cocoeval:COCOeval", note="Rust"),
        _rival("faster_coco_eval", "faster-coco-eval {version}", "faster-coco-eval", "",
               coco="faster_coco_eval:COCO", evaluator="faster_coco_eval:COCOeval_faster",
               note="C++", **small),
        _rival("pycocotools", "pycocotools {version}", "pycocotools", "",
               coco="pycocotools.coco:COCO", evaluator="pycocotools.cocoeval:COCOeval",
               note="Python; left out where a call takes minutes", **small),
    ]  # fmt: skip
