"""From boxes to curves: the arrays of a problem, the rules of a protocol, and the kernels' order.

Shapes: N detections, G objects, I images, K classes, T thresholds, A ranges, M limits, R recalls.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from paragone.kernels.teams import share
from paragone.vision.annotations import Annotations
from paragone.vision.ops.precision.accumulate import curves
from paragone.vision.ops.precision.matching import match_groups
from paragone.vision.ops.precision.ranking import counting_order, rank

__all__ = ["Block", "Evaluation", "Problem", "Rules", "evaluate", "matches", "pose", "workers"]

_FEW = 20_000
_UNIT = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """What a protocol says.

    Attributes:
        protocol: "coco", "voc2007", "voc2010" or "voc2012".
        thresholds: (T,) of overlap.
        strict: Whether the overlap must exceed the threshold.
        ranges: (A, 2) of area, both ends included.
        range_names: Their names.
        limits: (M,) detections of an image and class that count, rising.
        recalls: (R,) at which precision is read.
        offset: Added to widths and heights.
        ignore: Whether difficult objects (COCO's `ignore`) are set aside.
        compatible: Whether an object with number 0 cannot be matched, as in pycocotools.
    """

    protocol: str
    thresholds: np.ndarray
    strict: bool
    ranges: np.ndarray
    range_names: tuple[str, ...]
    limits: np.ndarray
    recalls: np.ndarray
    offset: float
    ignore: bool
    compatible: bool

    @property
    def voc(self) -> bool:
        """Whether a detection looks at its best object alone."""
        return self.protocol != "coco"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """Objects and detections of one data set; objects are sorted by class and image.

    Attributes:
        images, classes: I and K.
        image, label, boxes, area, score: Of the detections, in the order they were given.
        true_image, true_label, true_boxes, true_area: Of the objects.
        crowd, difficult, nameless: Of the objects; the last: its number is 0.
        source: (G,) where the object stood among those given.
        place: (I,) where each image stands when they are sorted by id; None where it stood.
    """

    images: int
    classes: int
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    score: np.ndarray
    true_image: np.ndarray
    true_label: np.ndarray
    true_boxes: np.ndarray
    true_area: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    nameless: np.ndarray
    source: np.ndarray
    place: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """Matches of some thresholds and ranges, at most 64 together; see `ranking.rank`."""

    steps: slice
    ranges: slice
    ends: np.ndarray
    kept: np.ndarray
    sequence: np.ndarray
    number: np.ndarray
    match: np.ndarray
    ignore: np.ndarray
    object_ends: np.ndarray
    hidden: np.ndarray
    taker: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Curves (T, R, K, A, M) and (T, K, A, M), and the matches behind them."""

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray
    area: np.ndarray
    blocks: tuple[Block, ...]


def workers(threads: int | None, size: int = _FEW) -> int:
    """Threads for a problem of this size."""
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads={threads}: give 1 or more, or None for all cores")
        return threads
    return 1 if size < _FEW else len(os.sched_getaffinity(0)) if hasattr(
        os, "sched_getaffinity") else os.cpu_count() or 1  # fmt: skip


def _sorted(image: np.ndarray, images: int, label: np.ndarray, classes: int) -> tuple[Any, Any]:
    """Rows in the order class, image, file; and where each class begins."""
    rows = np.arange(len(image), dtype=np.int32)
    ends = np.empty(max(images, classes) + 1, np.int64)
    if len(image) > 1 and (image[1:] < image[:-1]).any():
        out = np.empty_like(rows)
        counting_order(image, images, rows, out, ends)
        rows = out
    out = np.empty_like(rows)
    counting_order(label, classes, rows, out, ends)
    return out, ends[: classes + 1].copy()


def _image_order(annotations: Annotations) -> np.ndarray | None:
    """Place of each image when they are sorted by id; None if they are."""
    ids = [image.id for image in annotations.images]
    order = sorted(range(len(ids)), key=lambda i: (isinstance(ids[i], str), ids[i]))
    if order == list(range(len(ids))):
        return None
    place = np.empty(len(ids), np.int64)
    place[order] = np.arange(len(ids))
    return place


def _within(what: str, rows: np.ndarray, count: int, name: str) -> None:
    if len(rows) and (rows.min() < 0 or rows.max() >= count):
        bad = int(np.flatnonzero((rows < 0) | (rows >= count))[0])
        raise ValueError(f"{what}: record {bad}: {name} {rows[bad]} is no row of the {count}")


def pose(objects: Annotations, found: Annotations) -> Problem:
    """Puts objects and detections of the same images and classes into arrays."""
    shape = len(objects.images), len(objects.classes)
    if found.score is None:
        raise ValueError("the detections have no scores; give each a score to rank it by")
    for what, a in (("objects", objects), ("detections", found)):
        _within(what, a.image, shape[0], "image")
        _within(what, a.label, shape[1], "label")
        if not np.isfinite(a.boxes.sum()) or (a.score is not None and not np.isfinite(
                a.score).all()):  # fmt: skip
            raise ValueError(f"{what}: a box or score is not finite; leave such records out")
    place = _image_order(objects)
    image, true_image = (np.ascontiguousarray(a.image, np.int64) for a in (found, objects))
    label, true_label = (np.ascontiguousarray(a.label, np.int64) for a in (found, objects))
    if place is not None:
        image, true_image = place[image], place[true_image]
    rows, _ = _sorted(true_image, shape[0], true_label, shape[1])
    none = np.zeros(len(objects), bool)
    boxes, true_boxes = (np.ascontiguousarray(a.xywh(), np.float64) for a in (found, objects))
    ids = objects.extra.get("ids")
    area = objects.area if objects.area is not None else true_boxes[:, 2] * true_boxes[:, 3]
    return Problem(
        images=shape[0], classes=shape[1], image=image, label=label, boxes=boxes,
        area=boxes[:, 2] * boxes[:, 3], score=np.asarray(found.score, np.float64) + 0.0,
        true_image=true_image[rows], true_label=true_label[rows], true_boxes=true_boxes[rows],
        true_area=np.asarray(area, np.float64)[rows],
        crowd=(none if objects.crowd is None else objects.crowd)[rows],
        difficult=(none if objects.difficult is None else objects.difficult)[rows],
        nameless=(none if ids is None else ids == 0)[rows], source=rows,
        place=place,
    )  # fmt: skip


def _hidden(problem: Problem, rules: Rules, ranges: np.ndarray, steps: int) -> np.ndarray:
    """(G,) bits in which an object does not count."""
    aside = problem.crowd | problem.difficult if rules.ignore else problem.crowd
    word, full = np.zeros(len(aside), np.uint64), (1 << steps) - 1
    for a, (low, high) in enumerate(ranges):
        out = aside | (problem.true_area < low) | (problem.true_area > high)
        word |= np.where(out, np.uint64(full << (a * steps)), np.uint64(0))
    return word


def matches(problem: Problem, rules: Rules, steps: slice, ranges: slice, threads: int = 1) -> Block:
    """Ranks and matches, at the thresholds and ranges of one block."""
    p, n, k = problem, len(problem.image), problem.classes
    thresholds, bounds = rules.thresholds[steps], rules.ranges[ranges]
    slots, ends = _sorted(p.image, p.images, p.label, k)
    object_ends = np.searchsorted(p.true_label, np.arange(k + 1)).astype(np.int64)
    key = p.true_label * p.images + p.true_image
    heads = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.empty(0, np.int64)
    group_ends = np.r_[heads, len(key)].astype(np.int64)
    group_of_class = np.searchsorted(heads, object_ends).astype(np.int64)
    groups = len(heads)
    hidden = _hidden(p, rules, bounds, len(thresholds))
    sequence, number, member = (np.empty(n, np.int32) for _ in range(3))
    match, ignore = np.empty(n, np.uint64), np.empty(n, np.uint64)
    kept = np.zeros(k, np.int64)
    group_slot, group_count = np.zeros(groups, np.int64), np.zeros(groups, np.int64)
    share(
        rank, k, ends, slots, p.image, p.score.view(np.uint64), p.area, bounds, len(thresholds),
        int(rules.limits[-1]), group_of_class, p.true_image[heads], sequence, number, member, kept,
        match, ignore, group_slot, group_count, threads=threads,
    )  # fmt: skip
    # A threshold of 1 must be reached by boxes whose overlap is 1 but for rounding.
    least = thresholds if rules.voc else np.minimum(thresholds, 1 - 1e-10)
    taker = np.full(len(key), -1, np.int32)
    blind = p.nameless if rules.compatible else np.zeros(len(key), bool)
    share(
        match_groups, -(-groups // _UNIT), _UNIT, int(np.diff(group_ends).max(initial=0)),
        group_ends, group_slot, group_count, member, sequence, p.boxes, p.true_boxes, hidden,
        p.crowd, blind, least, len(bounds), rules.voc, rules.strict, rules.offset, match, ignore,
        taker, threads=threads,
    )  # fmt: skip
    return Block(
        steps=steps, ranges=ranges, ends=ends, kept=kept, sequence=sequence, number=number,
        match=match, ignore=ignore, object_ends=object_ends, hidden=hidden, taker=taker,
    )  # fmt: skip


def _blocks(steps: int, ranges: int) -> list[tuple[slice, slice]]:
    """Thresholds and ranges in parts of at most 64 pairs."""
    tall = min(steps, 64)
    wide = max(1, 64 // tall)
    return [
        (slice(t, min(t + tall, steps)), slice(a, min(a + wide, ranges)))
        for t in range(0, steps, tall)
        for a in range(0, ranges, wide)
    ]


def evaluate(problem: Problem, rules: Rules, threads: int | None = None) -> Evaluation:
    """Matches and reads the curves."""
    p, used = problem, workers(threads, len(problem.image))
    t, a, m, r = (len(x) for x in (rules.thresholds, rules.ranges, rules.limits, rules.recalls))
    shape = (p.classes, a, m, t)
    precision, scores = np.empty((*shape, r)), np.empty((*shape, r))
    recall, area, blocks = np.empty(shape), np.empty(shape), []
    whole = _blocks(t, a)
    for steps, ranges in whole:
        b = matches(p, rules, steps, ranges, used)
        blocks.append(b)
        part = (slice(None), ranges, slice(None), steps)
        outs = precision, recall, scores, area
        kept = outs if len(whole) == 1 else tuple(np.ascontiguousarray(x[part]) for x in outs)
        width = ranges.stop - ranges.start
        share(
            curves, p.classes * width, b.ends, b.kept, b.sequence, b.number, b.match, b.ignore,
            p.score, b.object_ends, b.hidden, width, rules.limits, rules.recalls,
            steps.stop - steps.start, 0.0 if rules.voc else float(np.spacing(1)), *kept,
            threads=used,
        )  # fmt: skip
        if len(whole) > 1:
            for full, done in zip(outs, kept, strict=True):
                full[part] = done
    return Evaluation(
        precision=precision.transpose(3, 4, 0, 1, 2), recall=recall.transpose(3, 0, 1, 2),
        scores=scores.transpose(3, 4, 0, 1, 2), area=area.transpose(3, 0, 1, 2),
        blocks=tuple(blocks),
    )  # fmt: skip
