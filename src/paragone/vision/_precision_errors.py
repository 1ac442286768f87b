"""What a detector gets wrong, and what each kind of error costs.

A wrong detection is, in this order: *localisation* (its class is right, the overlap between 0.1
and the threshold), *classification* (it fits an object of another class), *duplicate* (it fits an
object that a better one has), *background* (it overlaps nothing by 0.1), else *both*. An object
that nothing took and that no localisation or classification error explains is *missed*. The cost
of a kind is what AP gains when its errors are mended: moved onto their object if that is free,
else removed; missed objects are no longer asked for.

References:
    Bolya et al. (2020), "TIDE: a general toolbox for identifying object detection errors",
    arXiv:2008.08115, section 2.

Shapes: N detections, G objects, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from paragone.vision._precision_engine import Block, Problem, Rules, matches

__all__ = ["KINDS", "ErrorCost", "confusion", "costs", "reading"]

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


@dataclasses.dataclass(frozen=True)
class ErrorCost:
    """One kind of error.

    Attributes:
        count: How many there are.
        cost: What AP at this overlap gains without them.
    """

    count: int
    cost: float


def reading(protocol: str, hits: np.ndarray, positives: int, recalls: np.ndarray) -> float:
    """Average precision of one class.

    Args:
        protocol: "voc2010" and "voc2012" read the exact area, others at `recalls`.
        hits: Whether each detection that counts is right, by falling score.
        positives: Objects.
        recalls: (R,).
    """
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall = right / positives
    if protocol in ("voc2010", "voc2012"):
        return float((np.diff(recall, prepend=0.0) * envelope).sum())
    at = np.searchsorted(recall, recalls, side="left")
    return float(np.where(at < len(hits), np.append(envelope, 0.0)[at], 0.0).mean())


def _overlaps(d: np.ndarray, g: np.ndarray, offset: float) -> np.ndarray:
    """(N, G) intersection over union of boxes given as left, top, width, height."""
    low = np.maximum(d[:, None, :2], g[None, :, :2])
    high = np.minimum(d[:, None, :2] + d[:, None, 2:], g[None, :, :2] + g[None, :, 2:])
    both = (high - low + offset).clip(min=0).prod(axis=2)
    own, other = ((x[:, 2:] + offset).prod(axis=1) for x in (d, g))
    union = own[:, None] + other[None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def _by_image(p: Problem, rows: np.ndarray, true: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """For each image with detections among `rows`: those, and its objects among `true`."""
    rows = rows[np.argsort(p.image[rows], kind="stable")]
    true = true[np.argsort(p.true_image[true], kind="stable")]
    heads = np.flatnonzero(np.diff(p.image[rows], prepend=-1))
    ends = np.append(heads[1:], len(rows))
    low = np.searchsorted(p.true_image[true], p.image[rows[heads]], side="left")
    high = np.searchsorted(p.true_image[true], p.image[rows[heads]], side="right")
    for a, b, c, d in zip(heads, ends, low, high, strict=True):
        yield rows[a:b], true[c:d]


def confusion(problem: Problem, rules: Rules, iou: float, score: float) -> np.ndarray:
    """(K + 1, K + 1) pairs: true class by found class, the last is background."""
    p, k = problem, problem.classes
    aside = p.crowd | p.difficult if rules.ignore else p.crowd
    found = np.zeros((k + 1, k + 1), np.int64)
    every = np.arange(len(aside))
    paired = np.zeros(len(aside), bool)
    for rows, true in _by_image(p, np.flatnonzero(p.score >= score), every):
        overlap = _overlaps(p.boxes[rows], p.true_boxes[true], rules.offset)
        free = np.ones(len(rows), bool)
        i, j = np.nonzero(overlap >= iou)
        for n in np.argsort(-overlap[i, j], kind="stable"):
            g = true[j[n]]
            if free[i[n]] and not paired[g] and not aside[g]:
                free[i[n]], paired[g] = False, True
                found[p.true_label[g], p.label[rows[i[n]]]] += 1
        covered = (overlap >= iou)[:, aside[true]].any(axis=1)
        found[k, :k] += np.bincount(p.label[rows[free & ~covered]], minlength=k)
    found[:k, k] += np.bincount(p.true_label[~paired & ~aside], minlength=k)
    return found


def _told(
    p: Problem, rules: Rules, b: Block, wrong: np.ndarray, iou: float, low: float
) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each wrong detection (row in `KINDS`) and the object it should have been."""
    kind = np.full(len(p.image), -1, np.int8)
    goal = np.full(len(p.image), -1, np.int64)
    counting = np.flatnonzero(b.hidden & np.uint64(1) == 0)
    for rows, true in _by_image(p, wrong, counting):
        if not len(true):
            kind[rows] = 4
            continue
        overlap = _overlaps(p.boxes[rows], p.true_boxes[true], rules.offset)
        same = p.label[rows][:, None] == p.true_label[true][None]
        own, other = np.where(same, overlap, -1.0), np.where(same, -1.0, overlap)
        own_best, other_best = own.max(axis=1), other.max(axis=1)
        near = (own_best >= low) & (own_best < iou)
        mistaken = ~near & (other_best >= iou)
        twice = ~near & ~mistaken & (own_best >= iou)
        nothing = overlap.max(axis=1) < low
        kind[rows] = np.select([near, mistaken, twice, nothing], [1, 0, 3, 4], 2)
        goal[rows] = np.where(near, true[own.argmax(axis=1)],
                              np.where(mistaken, true[other.argmax(axis=1)], -1))  # fmt: skip
    return kind, goal


def _mean(
    rules: Rules, label: np.ndarray, key: np.ndarray, hit: np.ndarray, positives: np.ndarray
) -> float:
    """Mean over classes; detections in the order of `key` within each class."""
    order = np.lexsort((key, label))
    ends = np.searchsorted(label[order], np.arange(len(positives) + 1))
    found = [
        reading(rules.protocol, hit[order[ends[k] : ends[k + 1]]], n, rules.recalls)
        for k, n in enumerate(positives.tolist())
        if n
    ]
    return float(np.mean(found)) if found else 0.0


def costs(problem: Problem, rules: Rules, iou: float, low: float) -> dict[str, ErrorCost]:
    """Counts and costs of all kinds at one overlap, over all sizes and the largest limit."""
    one = dataclasses.replace(
        rules, thresholds=np.array([iou]), ranges=rules.ranges[:1], limits=rules.limits[-1:]
    )
    p, b = problem, matches(problem, one, slice(0, 1), slice(0, 1))
    used = np.concatenate([np.arange(s, s + n) for s, n in zip(b.ends[:-1], b.kept, strict=True)]
                          or [np.empty(0, np.int64)])  # fmt: skip
    used = used[b.ignore[used] == 0]
    rows, hit = b.sequence[used], b.match[used] != 0
    kind, goal = _told(p, one, b, rows[~hit], iou, low)
    counting = b.hidden & np.uint64(1) == 0
    positives = np.bincount(p.true_label[counting], minlength=p.classes)
    label = p.label[rows]
    place = np.empty(len(rows), np.int64)
    place[np.lexsort((p.image[rows], -p.score[rows]))] = np.arange(len(rows))
    base = _mean(rules, label, place, hit, positives)
    mine, targets = kind[rows], goal[rows]
    free = counting & (b.taker < 0)
    explained = np.zeros(len(free), bool)
    explained[targets[(targets >= 0)]] = True
    found: dict[str, ErrorCost] = {}
    for number, name in enumerate(KINDS[:-1]):
        now, kept = hit.copy(), mine != number
        moved = label.copy()
        if number < 2:
            those = np.flatnonzero(mine == number)
            those = those[np.argsort(place[those])]
            best = those[np.unique(targets[those], return_index=True)[1]]
            best = best[free[targets[best]]]
            now[best], kept[best], moved[best] = True, True, p.true_label[targets[best]]
        mended = _mean(rules, moved[kept], place[kept], now[kept], positives)
        found[name] = ErrorCost(int((mine == number).sum()), mended - base)
    missed = free & ~explained
    fewer = positives - np.bincount(p.true_label[missed], minlength=p.classes)
    has = (positives > 0) & (fewer == 0)
    mended = _mean(rules, label, place, hit, fewer) if (fewer > 0).any() else 1.0
    if has.any() and (fewer > 0).any():
        # A class of which every object was missed has nothing left to be wrong about.
        mended = (mended * (fewer > 0).sum() + has.sum()) / (positives > 0).sum()
    found["missed"] = ErrorCost(int(missed.sum()), mended - base)
    return {name: found[name] for name in KINDS}
