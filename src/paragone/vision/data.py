"""Data sets of images from folders, archives and annotation files, for any task.

`read_images` finds out which layout it is given: folders of classes, images with masks, Pascal
VOC, COCO or YOLO annotations; in a folder, a zip or a tar, which is read in place. Every picture is
decoded once, so that a broken one is known before training: it is left out, counted in `skipped`
and named in `problems`. Decoded pictures stay in memory while they fit.

Cost: one decoding of everything, on all threads; memory of at most `cache` bytes.

References:
    Everingham et al. (2010), "The Pascal visual object classes challenge" (the layout of VOC);
    Lin et al. (2014), arXiv:1405.0312 (COCO).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from paragone._core.random import RandomState, as_generator
from paragone.runtime.pools import ThreadPool
from paragone.vision._data_boxes import boxed_images, has_boxes
from paragone.vision._data_files import BrokenImageError, Files, Pictures, decode_mask, open_files
from paragone.vision._data_layouts import (
    Item,
    Layout,
    class_folders,
    image_and_mask_folders,
    pairs_of_folders,
)
from paragone.vision._data_sets import IGNORED, ImageData, ImageSet, Sample, Task, split_rows
from paragone.vision.annotations import Annotations

__all__ = ["ImageData", "ImageSet", "Sample", "read_images"]

_MOST_CLASSES = 64
"""Mask values beyond which a mask is taken for a picture."""


def read_images(
    path: str | os.PathLike[str],
    task: Task | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    validation: float = 0.15,
    test: float = 0.0,
    validate_on: Literal["validation", "test"] = "validation",
    random_state: RandomState = 0,
    cache: int | None = None,
    workers: int | None = None,
    strict: bool = False,
) -> ImageData:
    """Reads a data set of images.

    Splits that the data set has (folders train, val, test; VOC's ImageSets) are kept; what it
    has not is drawn from the training images, every class with its share.

    Args:
        path: A folder, a zip or a tar; for COCO also the JSON file.
        task: "classify", "segment" or "detect"; None: what the layout is made for.
        images: Folder of the pictures, if annotations are elsewhere.
        classes: Names of the classes, of masks with the background first; None: the data's own.
        validation: Share of the training images to validate on, if there is no such split.
        test: Share of the training images to test on, if there is no such split.
        validate_on: "test": validate on the data set's own test images and train on all others,
            as is usual where they are published; nothing is left to test on then.
        random_state: Draws the splits.
        cache: Bytes of decoded pictures to keep; None: a quarter of the free memory.
        workers: Threads that decode; None: one for each processor.
        strict: Whether the first problem is an error.

    Raises:
        ValueError: Nothing that can be trained on, or (`strict`) something that was left out; the
            message names the file and what was expected.

    Example:
        >>> data = read_images("photos", "classify")  # doctest: +SKIP
        >>> data.classes, len(data.train), data.skipped  # doctest: +SKIP
        (('cat', 'dog'), 170, {'broken image': 1})
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ValueError(
            f"validation={validation}, test={test}: shares of at least 0 that leave some to train"
        )
    source = Path(path)
    folder = source.parent if source.suffix.lower() == ".json" else source
    files = open_files(images if images is not None else folder)
    task = task or _guess(files, source)
    truth = None
    if task == "detect":
        layout, truth = boxed_images(source, files)
    elif task == "segment":
        layout = image_and_mask_folders(files)
    elif task == "classify":
        layout = class_folders(files)
    else:
        raise ValueError(f"task {task!r} is none of 'classify', 'segment', 'detect'")
    _refuse(layout, strict)
    pictures, masks, items = _decoded(files, layout, cache, workers)
    if task == "segment":
        layout.classes, masks = _named_masks(files, masks, classes)
    elif classes is not None:
        if len(classes) != len(layout.classes):
            raise ValueError(f"{len(classes)} names for {len(layout.classes)} classes")
        layout.classes = tuple(classes)
    _refuse(layout, strict)
    if not items:
        raise ValueError(f"{files.path}: every picture was left out: {layout.problems[0]}")
    if validate_on == "test":
        moved = {"validation": "train", "test": "validation"}
        items = [dataclasses.replace(i, split=moved.get(i.split, i.split)) for i in items]
    rows = _split(items, validation, test, as_generator(random_state))
    sets = [_part(task, pictures, masks, items, part, truth) for part in rows]
    return ImageData(
        task, layout.classes, sets[0], sets[1], sets[2] if len(sets[2]) else None,
        name=str(path), skipped=dict(layout.skipped), problems=layout.problems,
    )  # fmt: skip


def _guess(files: Files, source: Path) -> Task:
    if has_boxes(files, source):
        return "detect"
    return "segment" if any(all(p) for p in pairs_of_folders(files).values()) else "classify"


def _refuse(layout: Layout, strict: bool) -> None:
    if strict and layout.problems:
        raise ValueError(layout.problems[0])


def _budget(cache: int | None) -> int:
    if cache is not None:
        return int(cache)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 4


def _decoded(
    files: Files, layout: Layout, cache: int | None, workers: int | None
) -> tuple[Pictures, list[np.ndarray], list[Item]]:
    """Decodes everything once; what cannot be decoded is left out and noted."""
    items = layout.items
    every = Pictures(files, [i.name for i in items], [i.size for i in items], _budget(cache))

    def look(row: int) -> tuple[np.ndarray | None, str, str]:
        item = items[row]
        try:
            image = every[row]
        except BrokenImageError as error:
            return None, "broken image", str(error)
        if not item.mask:
            return None, "", ""
        try:
            mask = decode_mask(files.read(item.mask), f"{files.path}: {item.mask}")
        except BrokenImageError as error:
            return None, "broken mask", str(error)
        if mask.shape != image.shape[:2]:
            return None, "mask of another size", (
                f"{files.path}: {item.mask}: expected {image.shape[1]} x {image.shape[0]} pixels "
                f"as its image, found {mask.shape[1]} x {mask.shape[0]}"
            )  # fmt: skip
        return mask, "", ""

    with ThreadPool(workers) as pool:
        looked = list(pool.imap(look, range(len(items)), chunksize=8))
    good = []
    for row, (_, reason, problem) in enumerate(looked):
        if reason:
            layout.skip(reason, problem)
        else:
            good.append(row)
    masks = [m for row in good if (m := looked[row][0]) is not None]
    return every.select(good), masks, [items[row] for row in good]


def _named_masks(
    files: Files, masks: list[np.ndarray], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Numbers the values of all masks from 0; 255 beside others is not counted."""
    values = np.unique(np.concatenate([np.unique(m) for m in masks] or [np.zeros(0, np.uint8)]))
    ignore = IGNORED if len(values) > 2 and values[-1] == IGNORED else -1
    real = [int(v) for v in values if v != ignore]
    if len(real) < 2 or len(real) > _MOST_CLASSES:
        raise ValueError(
            f"{files.path}: expected masks of 2 to {_MOST_CLASSES} classes, found {len(real)} "
            f"values ({', '.join(map(str, real[:6]))}{', …' if len(real) > 6 else ''})"
        )
    if classes is not None and len(classes) < len(real):
        raise ValueError(f"{files.path}: {len(classes)} names for masks of {len(real)} values")
    dense = real[-1] < _MOST_CLASSES and (classes is None or real[-1] < len(classes))
    count = real[-1] + 1 if dense else len(real)
    number = {v: v if dense else i for i, v in enumerate(real)}
    if classes is None:
        two = count == 2
        classes = ("background", "foreground") if two else [
            "background" if i == 0 else f"class {i}" for i in range(count)
        ]  # fmt: skip
    table = np.full(int(values[-1]) + 1, IGNORED, np.uint8)
    table[list(number)] = list(number.values())
    return tuple(classes), [table[m] for m in masks]


def _split(
    items: list[Item], validation: float, test: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Rows of the three splits: those that are given, the others drawn."""
    names = ("train", "validation", "test")
    given = {name: np.array([i.split == name for i in items], bool) for name in names[1:]}
    free = np.flatnonzero(~given["validation"] & ~given["test"])
    if not len(free):
        raise ValueError("expected training images, found only those to validate and test on")
    shares = [1.0, 0.0, 0.0]
    for k, share in ((1, validation), (2, test)):
        if not given[names[k]].any():
            shares[k] = share
    labels = np.array([items[i].label for i in free])
    drawn = [free[part] for part in split_rows(labels, shares, rng)]
    return [
        drawn[0],
        *(np.sort(np.concatenate([drawn[k], np.flatnonzero(given[names[k]])])) for k in (1, 2)),
    ]


def _part(
    task: Task, pictures: Pictures, masks: list[np.ndarray], items: list[Item],
    rows: np.ndarray, truth: Annotations | None,
) -> ImageSet:  # fmt: skip
    chosen = [items[i] for i in rows]
    part = ImageSet(pictures.select(rows), [i.name for i in chosen])
    if task == "classify":
        part.labels = np.array([i.label for i in chosen], np.int64)
    elif task == "segment":
        part.masks = [masks[i] for i in rows]
    else:
        part.boxes = [np.zeros((0, 4)) if i.boxes is None else i.boxes for i in chosen]
        part.box_labels = [np.zeros(0, np.int64) if i.labels is None else i.labels for i in chosen]
        part.ignored = [
            np.zeros(len(b), bool) if i.ignored is None else i.ignored
            for i, b in zip(chosen, part.boxes, strict=True)
        ]
        assert truth is not None
        part.truth = truth.of_images([i.row for i in chosen])
    return part
