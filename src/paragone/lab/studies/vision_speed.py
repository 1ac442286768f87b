"""How fast are the parts of models of pictures: the encoder, the codebook, mixed attention?"""

from __future__ import annotations

from typing import Any

from paragone._core.errors import UsageError
from paragone.lab.claims import Look, seen
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Summary
from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.studies.mixers_speed import MEASURES

__all__ = ["STUDY"]

_HERE = "paragone.lab.contestants.vision_language_calls:"

_BASE = {"width": 384, "layers": 6, "heads": 6}
_SMALL = {"width": 128, "layers": 2, "heads": 4}

SHAPES: tuple[tuple[str, str, str, str, dict[str, int]], ...] = (
    ("see", "MoonViT 6 x 384 sees 16 mixed pictures", "see", "inputs", {**_BASE, "count": 16}),
    ("see-small", "MoonViT 2 x 128 sees 8 mixed pictures", "see", "inputs",
     {**_SMALL, "count": 8}),
    ("learn", "MoonViT 6 x 384 and its gradients, 8 mixed pictures", "learn", "inputs",
     {**_BASE, "count": 8}),
    ("codes", "4,096 vectors, 8,192 codes of 256 numbers", "codes", "vectors",
     {"count": 4096, "codes": 8192, "width": 256}),
    ("codes-small", "1,024 vectors, 512 codes of 32 numbers", "codes", "vectors",
     {"count": 1024, "codes": 512, "width": 32}),
    ("mixed", "Texts and pictures, 2,048 places, 6 heads of 64", "mixed", "mixed",
     {"length": 2048, "patches": 256, "heads": 6, "width": 64}),
)  # fmt: skip
"""Id, title, operation, maker of the input and its sizes."""

QUICK = ("see", "codes", "mixed")


def workloads(request: Request) -> list[Workload]:
    """The encoder, the codebook and mixed attention; `--rows` sets the pictures."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own pictures; leave it out")
    rows, made = request.options.get("rows"), []
    for id, title, op, make, params in SHAPES:
        if request.quick and not request.options.get("bench") and id not in QUICK:
            continue
        sizes = dict(params)
        if rows and make == "inputs":
            sizes["count"] = int(rows)
            title = title.replace(f"{params['count']} mixed", f"{rows} mixed")
        made.append(Workload(
            id=id, title=title, load=_HERE + make, params={"op": op, **sizes},
            facts={"op": op, **sizes, "threads": 1},
        ))  # fmt: skip
    return made


def contestants(request: Request) -> list[Contestant]:
    """Ours by catalogue id, then what each is measured against."""
    see, codes, mixed = ["see", "learn"], ["codes"], ["mixed"]
    return [
        _one("kimi_vl", "paragone", "Packed", see, "packed", method="kimi_vl"),
        _one("chameleon", "paragone", "nearest", codes, "", method="chameleon"),
        _one("lossless_images", "paragone", "seen_by", mixed, "", method="lossless_images"),
        _rival("transformers_kimi_vl", "transformers {version}", "Transformers", see,
               "the vision tower of kimi_k25, packed", "transformers"),
        _one("single_kimi_vl", "paragone, one by one", "Single", see, "a picture at a time"),
        _one("padded_kimi_vl", "plain torch, padded", "Padded", see,
             "filled up to the largest, with a mask", origin="baseline"),
        _rival("torch_chameleon", "torch {version}, cdist", "by_cdist", codes,
               "all distances, then the least", "torch"),
        _rival("products_chameleon", "torch {version}, products", "by_products", codes,
               "squares and one product, as transformers' Chameleon has it", "torch"),
        _rival("torch_lossless_images", "torch {version}", "by_torch", mixed,
               "scaled_dot_product_attention with the mask", "torch"),
    ]  # fmt: skip


def _one(
    id: str, title: str, make: str, op: list[str], note: str, **more: Any
) -> Contestant:  # fmt: skip
    return Contestant(id=id, title=title, make=_HERE + make, note=note, needs={"op": op}, **more)


def _rival(
    id: str, title: str, make: str, op: list[str], note: str, library: str
) -> Contestant:  # fmt: skip
    return _one(id, title, make, op, note, origin="rival", distribution=library,
                install=f"pip install {library}")  # fmt: skip


def _at_least(rival: str, place: str, times: float) -> Look:
    def look(summary: Summary) -> tuple[str, bool] | None:
        ours, theirs = (by_workload(summary, name, "call_s").get(place)
                        for name in ("kimi_vl", rival))  # fmt: skip
        if not ours or not theirs:
            return None
        return f"{theirs / ours:.2f}x on {place}", theirs / ours >= times

    return look


_GOAL = "the goal of this implementation"

STUDY = Study(
    id="vision_speed",
    family="multimodal",
    question="How fast are the parts of models of pictures: encoder, codebook, mixed attention?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="kimi_vl",
    options={"reference": _HERE + "exact", "most_calls": 40},
    claims=(
        seen("Packed, MoonViT is at least 1.25 times as fast as transformers'.", _GOAL,
             _at_least("transformers_kimi_vl", "see", 1.25)),
        seen("Packed, it is at least 3 times as fast as padded.", _GOAL,
             _at_least("padded_kimi_vl", "see", 3)),
    ),
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.tasks.sweep",
             "paragone.lab.contestants.vision_language_calls"),
    blocks=(3, 5),
    quick_blocks=(1, 2),
)  # fmt: skip
