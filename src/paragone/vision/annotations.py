"""Boxes of a data set as arrays: what COCO, VOC and YOLO files say, in one form.

References:
    Lin et al. (2014), "Microsoft COCO", arXiv:1405.0312 (crowd, area); Everingham et al. (2010),
    "The Pascal visual object classes challenge", section 3 (difficult).

Shapes: N boxes, I images, K classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

__all__ = ["Annotations", "Image"]


@dataclasses.dataclass(frozen=True)
class Image:
    """One image of a data set.

    Attributes:
        id: As the file says it: a number (COCO) or a name (VOC, YOLO).
        file: Name of its file, relative to the data set's folder; empty if unknown.
        height: In pixels; 0 if unknown.
        width: In pixels; 0 if unknown.
    """

    id: int | str
    file: str = ""
    height: int = 0
    width: int = 0


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Objects or detections, one row each.

    Attributes:
        images: The images, I of them; one without a box is among them.
        classes: Names of the classes, K of them.
        class_ids: The file's own number of each class.
        image: (N,) int64, row in `images`.
        label: (N,) int64, row in `classes`.
        boxes: (N, 4) float64: left, top, right, bottom in pixels; width = right - left.
        score: (N,) float64, or None for objects.
        crowd: (N,) bool: a group, matched any number of times, never counted (COCO).
        difficult: (N,) bool: neither counted nor held against a detector (VOC).
        area: (N,) float64 in square pixels: the file's own (of the mask in COCO).
        skipped: What was left out on reading, by reason.
    """

    images: tuple[Image, ...]
    classes: tuple[str, ...]
    class_ids: tuple[int, ...]
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    score: np.ndarray | None = None
    crowd: np.ndarray | None = None
    difficult: np.ndarray | None = None
    area: np.ndarray | None = None
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
