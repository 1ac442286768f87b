"""Boxes that are in memory already: tensors, arrays, and annotations of another file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paragone.vision._precision_table import Faults, Table, finish, rows_of
from paragone.vision.annotations import Annotations, Image

__all__ = ["as_array", "conform", "read", "widen"]


def as_array(value: Any, dtype: Any = np.float64) -> np.ndarray:
    """A tensor, array or list as an array; tensors leave their device and graph."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.double() if value.is_floating_point() else value
        value = value.numpy()
    return np.asarray(value, dtype)


def read(
    source: Any, faults: Faults, like: Annotations | None, classes: tuple[str, ...] | None
) -> Annotations:
    """Reads a list of {"boxes", "labels"[, "scores"]}, one of them, or an array (N, 7)."""
    if isinstance(source, Mapping):
        source = [source]
    if isinstance(source, list | tuple):
        if all(isinstance(one, Mapping) for one in source):
            return _from_dicts(source, faults, like, classes)
    elif hasattr(source, "shape"):
        return _from_array(as_array(source), faults, like, classes)
    raise faults.stop("", (
        'expected a path, a list of {"boxes", "labels"} for each image, COCO records, or an '
        f"array (N, 7), not {type(source).__name__}"))  # fmt: skip


def _one(row: int, given: Mapping[str, Any], faults: Faults) -> tuple[np.ndarray, ...]:
    if "boxes" not in given or "labels" not in given:
        raise faults.stop(f"image {row}", f"expected boxes and labels, there is {list(given)}")
    labels = as_array(given["labels"], np.int64).reshape(-1)
    boxes = as_array(given["boxes"])
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.shape != (len(labels), 4):
        told = f"boxes of shape {boxes.shape} and {len(labels)} labels; expected (N, 4) and N"
        raise faults.stop(f"image {row}", told)
    more = []
    for name, default in (("scores", 0.0), ("crowd", 0), ("difficult", 0), ("area", np.nan)):
        name = "iscrowd" if name == "crowd" and "iscrowd" in given else name
        column = as_array(given[name]).reshape(-1) if name in given else None
        column = np.full(len(labels), default) if column is None else column
        if len(column) != len(labels):
            raise faults.stop(f"image {row}", f"{len(column)} {name} for {len(labels)} labels")
        more.append(column)
    return boxes, labels, *more


def _from_dicts(
    source: Sequence[Any], faults: Faults, like: Annotations | None,
    classes: tuple[str, ...] | None,
) -> Annotations:  # fmt: skip
    if like is not None and not len(source):
        source = [{"boxes": [], "labels": [], "scores": []}] * len(like.images)
    if like is not None and len(source) != len(like.images):
        raise faults.stop("", (
            f"boxes of {len(source)} images for a data set of {len(like.images)}; give one dict "
            "for each image, with N = 0 boxes where there are none"))  # fmt: skip
    scored = [("scores" in one) for one in source]
    if any(scored) and not all(scored):
        raise faults.stop(f"image {scored.index(False)}", "no scores, though other images have")
    parts = [_one(row, one, faults) for row, one in enumerate(source)]
    counts = [len(part[1]) for part in parts]
    empty = (np.zeros((0, 4)), np.zeros(0, np.int64), *(np.zeros(0),) * 4)
    boxes, labels, scores, crowd, hard, area = (
        np.concatenate(column) for column in zip(empty, *parts, strict=True)
    )
    image = np.repeat(np.arange(len(source)), counts)
    first = np.concatenate([[0], np.cumsum(counts)])
    known = like.classes if like is not None else classes
    if known is None:
        known = tuple(str(k) for k in range(int(labels.max(initial=-1)) + 1))
    ids = like.class_ids if like is not None else tuple(range(len(known)))
    detections = bool(scored) and scored[0]
    sides = boxes[:, 2:] - boxes[:, :2]
    table = Table(
        image=image, label=np.where((labels < 0) | (labels >= len(known)), -1, labels), boxes=boxes,
        score=scores if detections else None, crowd=None if detections else crowd != 0,
        difficult=None if detections else hard != 0,
        area=None if detections else np.where(np.isnan(area), sides.prod(axis=1), area),
        name=lambda r: f"image {image[r]}, box {r - first[image[r]]}",
        given=lambda r: (int(image[r]), int(labels[r])),
    )  # fmt: skip
    images = like.images if like is not None else [Image(i) for i in range(len(source))]
    return finish(table, images, known, ids, faults, unnamed=like is None and classes is None)


def _from_array(
    rows: np.ndarray, faults: Faults, like: Annotations | None, classes: tuple[str, ...] | None
) -> Annotations:
    if rows.ndim != 2 or rows.shape[1] != 7:
        raise faults.stop("", (
            f"array of shape {rows.shape}; expected (N, 7): image id, x, y, width, height, score, "
            "class id"))  # fmt: skip
    image, label = rows[:, 0].astype(np.int64), rows[:, 6].astype(np.int64)
    ids = like.class_ids if like is not None else tuple(np.unique(label).tolist())
    names = like.classes if like is not None else classes or tuple(map(str, ids))
    images = like.images if like is not None else [Image(i) for i in np.unique(image).tolist()]
    table = Table(
        image=rows_of(image, [i.id for i in images]), label=rows_of(label, ids),
        boxes=rows[:, 1:5], score=rows[:, 5], xywh=True, name=lambda r: f"row {r}",
        given=lambda r: (int(image[r]), int(label[r])),
    )  # fmt: skip
    return finish(table, images, names, ids, faults, unnamed=like is None and classes is None)


def widen(objects: Annotations, found: Any) -> Annotations:
    """Classes without names reach as far as the labels of the detections."""
    if not objects.extra.get("unnamed") or not isinstance(found, list | tuple):
        return objects
    labels = [as_array(one["labels"], np.int64) for one in found
              if isinstance(one, Mapping) and "labels" in one]  # fmt: skip
    most = max((int(label.max(initial=-1)) for label in labels), default=-1)
    if most < len(objects.classes):
        return objects
    return dataclasses.replace(
        objects, classes=tuple(map(str, range(most + 1))), class_ids=tuple(range(most + 1))
    )


def conform(given: Annotations, like: Annotations | None, faults: Faults) -> Annotations:
    """The same boxes with the images and classes of another data set, found by their ids."""
    if like is None or (given.images == like.images and given.classes == like.classes):
        return given
    ids = [i.id for i in like.images]
    keys = np.array([*(i.id for i in given.images), None], object)[:-1]
    image = rows_of(keys, ids)[given.image]
    if given.extra.get("unnamed"):
        mine, theirs = list(given.class_ids), list(like.class_ids)
    else:
        mine, theirs = list(given.classes), list(like.classes)
    label = rows_of(np.array([*mine, None], object)[:-1], theirs)[given.label]
    xywh = given.extra.get("xywh")
    table = Table(
        image=image, label=label, boxes=given.boxes if xywh is None else given.xywh(),
        score=given.score, area=given.area, crowd=given.crowd, difficult=given.difficult,
        ids=given.extra.get("ids"), xywh=xywh is not None,
        given=lambda r: (given.images[given.image[r]].id, mine[given.label[r]]),
    )  # fmt: skip
    return finish(table, like.images, like.classes, like.class_ids, faults)
