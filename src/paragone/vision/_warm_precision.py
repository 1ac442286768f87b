"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["CALLS"]

_OBJECTS = {
    "images": [{"id": 1}, {"id": 2}],
    "categories": [{"id": 1, "name": "a"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.5, 0, 9, 9], "area": 81.0}
    ],
}
_FOUND = [
    {"image_id": image, "category_id": 1, "bbox": [0, 0, 9.1234567890123456, 9], "score": 0.5}
    for image in (2, 1)
]


def _evaluate() -> None:
    from paragone.vision.paired_precision import compare_detectors

    compare_detectors(_OBJECTS, _FOUND, _FOUND, resamples=1, threads=1)


def _read() -> None:
    from paragone.vision._precision_coco import read_large
    from paragone.vision._precision_table import Faults

    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("gt", _OBJECTS), ("dt", _FOUND)):
            path = Path(folder) / f"{name}.json"
            path.write_text(json.dumps(content), encoding="utf-8")
            read_large(path, Faults(str(path), "raise"), 1)


CALLS: tuple[Callable[[], None], ...] = (_evaluate, _read)
"""Calls without arguments."""
