r"""Is one detector better than another, or were the images kind to it?

Both see the same images, so that the difference is taken image by image. The bootstrap draws I
images with replacement and evaluates both on them, again and again; the middle 95 % of

$$ \Delta^* = \mathrm{AP}_b(w) - \mathrm{AP}_a(w), \qquad w \sim \mathrm{Multinomial}(I, 1/I) $$

are the interval. The test swaps the two detectors on images drawn by a coin: if neither is
better, the difference so found is as large as the true one as often as not.

AP is no mean over images, so that each of these is an evaluation of its own. Matches stay what
they are, however; their bits are added up with the images' weights (`ops.precision.resample`),
and a thousand evaluations cost less than one by pycocotools.

Cost: O(N) additions, a vector of evaluations at a time, of N detections.

References:
    Efron and Tibshirani (1993), "An introduction to the bootstrap", chapters 13 and 15.
    Smucker, Allan and Carterette (2007), "A comparison of statistical significance tests for
    information retrieval evaluation", section 3 (the test by swapping).

Shapes: N detections, I images, K classes, T thresholds, S resamples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from paragone.kernels.teams import share
from paragone.vision._precision_engine import Block, Problem, Rules, matches, workers
from paragone.vision._precision_result import AveragePrecisionResult
from paragone.vision.average_precision import average_precision
from paragone.vision.ops.precision.resample import LANES, resampled

__all__ = ["DetectorComparison", "Interval", "compare_detectors", "weighted_precision"]

_MOST = 1 << 24


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure and its bootstrap interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorComparison:
    """Two detectors on the same images; differences are the second minus the first.

    Attributes:
        names: Of the two.
        a, b: Their own results.
        difference: Of AP.
        difference_50: Of AP at overlap 0.5; None if that has not been evaluated.
        per_class: Of AP, by class; classes without objects are left out.
        p_value: Of the test by swapping, two-sided.
        ap_a, ap_b: (S,) AP on each resample.
        level: Of the intervals.
    """

    names: tuple[str, str]
    a: AveragePrecisionResult
    b: AveragePrecisionResult
    difference: Interval
    difference_50: Interval | None
    per_class: dict[str, Interval]
    p_value: float
    ap_a: np.ndarray
    ap_b: np.ndarray
    level: float

    def summary(self) -> str:
        """Returns the comparison as text."""
        first, second = self.names
        lines = [
            f"{second} minus {first}, {len(self.ap_a):,} resamples of {self.a.problem.images:,} "
            f"images, {self.level:.0%} intervals",
            f"  AP    {self.a.ap:.4f} -> {self.b.ap:.4f}  {self.difference}  "
            f"p = {self.p_value:.3g}",
        ]
        if self.difference_50 is not None:
            lines.append(f"  AP50  {self.difference_50}")
        apart = [(n, i) for n, i in self.per_class.items() if i.low > 0 or i.high < 0]
        apart.sort(key=lambda pair: -abs(pair[1].estimate))
        wide = max((len(n) for n, _ in apart[:10]), default=0)
        lines += [f"  {n:<{wide}}  {i}" for n, i in apart[:10]]
        lines.append(
            f"  {len(apart)} of {len(self.per_class)} classes differ by an interval without 0 "
            "(not corrected for their number)"
        )
        sure = self.difference.low > 0 or self.difference.high < 0
        better = second if self.difference.estimate > 0 else first
        lines.append(f"  {better} is better" if sure else "  no difference beyond chance")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Ranked:
    """Detections of one or two detectors in order, with the rows of their weights."""

    ends: np.ndarray
    rows: np.ndarray
    match: np.ndarray
    ignore: np.ndarray
    score: np.ndarray


def _one_range(rules: Rules) -> Rules:
    if len(rules.thresholds) > 64:
        raise ValueError(f"{len(rules.thresholds)} thresholds of overlap; at most 64 are compared")
    return dataclasses.replace(rules, ranges=rules.ranges[:1], limits=rules.limits[-1:])


def _ranked(problem: Problem, b: Block) -> _Ranked:
    used = np.concatenate([np.arange(s, s + n) for s, n in zip(b.ends[:-1], b.kept, strict=True)]
                          or [np.empty(0, np.int64)])  # fmt: skip
    found = b.sequence[used]
    return _Ranked(
        np.concatenate([[0], np.cumsum(b.kept)]), problem.image[found], b.match[used],
        b.ignore[used], problem.score[found],
    )  # fmt: skip


def _joined(a: _Ranked, b: _Ranked, images: int) -> _Ranked:
    """Both in one ranking; the second's weights follow those of the first."""
    score, image = np.concatenate([a.score, b.score]), np.concatenate([a.rows, b.rows])
    order, shift = [np.empty(0, np.int64)], len(a.rows)
    for k in range(len(a.ends) - 1):
        rows = np.r_[a.ends[k] : a.ends[k + 1], shift + b.ends[k] : shift + b.ends[k + 1]]
        order.append(rows[np.lexsort((image[rows], -score[rows]))])
    ranked = np.concatenate(order).astype(np.int64)
    return _Ranked(
        a.ends + b.ends, np.concatenate([a.rows, b.rows + images])[ranked],
        np.concatenate([a.match, b.match])[ranked], np.concatenate([a.ignore, b.ignore])[ranked],
        score[ranked],
    )  # fmt: skip


def _lanes(weights: np.ndarray) -> np.ndarray:
    """(S, rows) to (B, rows, LANES), padded by zeros."""
    samples, rows = weights.shape
    full = np.zeros((-(-samples // LANES) * LANES, rows), np.float32)
    full[:samples] = weights
    return np.ascontiguousarray(full.reshape(-1, LANES, rows).transpose(0, 2, 1))


def _read(
    ranked: _Ranked, problem: Problem, block: Block, rules: Rules, weights: np.ndarray,
    object_rows: np.ndarray, threads: int | None,
) -> np.ndarray:  # fmt: skip
    """(S, K, T) average precision, -1 where a class has no object."""
    counting = block.hidden & np.uint64(1) == 0
    object_ends = np.searchsorted(problem.true_label[counting], np.arange(problem.classes + 1))
    most = int(np.diff(ranked.ends).max(initial=0)) * int(weights.max(initial=0))
    if most >= _MOST:
        raise ValueError(
            f"up to {most:,} detections of a class, copies included; at most {_MOST:,} are added "
            "exactly: leave out those of the lowest scores"
        )
    packed = _lanes(weights)
    steps, exact = len(rules.thresholds), rules.protocol in ("voc2010", "voc2012")
    count = len(rules.recalls)
    even = count > 1 and np.array_equal(rules.recalls, np.arange(count) * (1 / (count - 1)))
    out = np.empty((problem.classes, steps, len(packed), LANES))
    share(
        resampled, problem.classes * len(packed), ranked.ends.astype(np.int64), ranked.rows,
        ranked.match, ranked.ignore, object_ends.astype(np.int64), object_rows[counting], packed,
        steps, rules.recalls, even and not exact, exact,
        0.0 if rules.voc else float(np.spacing(1)), out,
        threads=workers(threads, len(ranked.rows) * len(packed)),
    )  # fmt: skip
    return out.reshape(problem.classes, steps, -1)[:, :, : len(weights)].transpose(2, 0, 1)


def weighted_precision(
    result: AveragePrecisionResult, weights: np.ndarray, threads: int | None = None
) -> np.ndarray:
    """Returns average precision (S, K, T) with each image counted as often as its weight says.

    Args:
        result: An evaluation; its first range of area and largest limit are read.
        weights: (S, I) whole numbers, 0 and above; images in the order of `result.objects`.
        threads: Threads; all cores without it.

    Raises:
        ValueError: Weights of another shape, or out of range.
    """
    weights = np.asarray(weights)
    images = len(result.objects.images)
    if weights.ndim != 2 or weights.shape[1] != images or (weights < 0).any():
        raise ValueError(
            f"weights of shape {weights.shape}: expected (resamples, {images}) and none below 0"
        )
    place = result.problem.place
    rules = _one_range(result.rules)
    block = matches(result.problem, rules, slice(0, len(rules.thresholds)), slice(0, 1))
    ranked = _ranked(result.problem, block)
    sorted_ = weights if place is None else weights[:, np.argsort(place)]
    rows = result.problem.true_image
    return _read(ranked, result.problem, block, rules, sorted_, rows, threads)


def _mean(found: np.ndarray) -> np.ndarray:
    """(S, K, T) to (S,): over thresholds and the classes that have objects."""
    known = found[:, :, 0] > -1
    each = np.where(known, found.mean(axis=2), 0.0)
    return each.sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def _interval(estimate: float, drawn: np.ndarray, level: float) -> Interval:
    tail = (1 - level) / 2
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (np.nan, np.nan)
    return Interval(float(estimate), float(low), float(high))


def compare_detectors(
    gt: Any,
    a: Any,
    b: Any,
    protocol: Literal["coco", "voc2007", "voc2010", "voc2012"] = "coco",
    *,
    resamples: int = 1000,
    level: float = 0.95,
    random_state: int | np.random.Generator = 0,
    names: Sequence[str] = ("a", "b"),
    threads: int | None = None,
    **options: Any,
) -> DetectorComparison:
    """Compares two detectors on the same images.

    Prefer it to two numbers side by side: half a point of AP on a few hundred images is often
    chance. The interval says how large the difference may be, the test whether there is one.

    Args:
        gt: The objects, as for `average_precision`.
        a: Detections of the first.
        b: Detections of the second.
        protocol: As for `average_precision`.
        resamples: S, of the bootstrap and of the test.
        level: Of the intervals.
        random_state: Seed or generator.
        names: Of the two.
        threads: Threads; all cores without it. The result does not depend on it.
        options: Further arguments of `average_precision`.

    Raises:
        ValueError: An argument or a record is wrong, or there are no objects.

    Example:
        >>> true = [{"boxes": [[0, 0, 9, 9]], "labels": [0]}] * 8
        >>> near = [{"boxes": [[0, 0, 9, 8]], "labels": [0], "scores": [0.9]}] * 8
        >>> far = [{"boxes": [[0, 0, 9, 5]], "labels": [0], "scores": [0.9]}] * 8
        >>> str(compare_detectors(true, far, near, resamples=50).difference)
        '+0.6000 [+0.6000, +0.6000]'
    """
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples={resamples}, level={level}: expected 1 or more, and (0, 1)")
    first = average_precision(gt, a, protocol, threads=threads, **options)
    second = average_precision(first.objects, b, protocol, threads=threads, **options)
    if first.ap < 0:
        raise ValueError("there is no object that counts; nothing can be compared")
    rng = np.random.default_rng(random_state)
    images = first.problem.images
    drawn = rng.integers(0, images, (resamples, images))
    weights = np.stack([np.bincount(row, minlength=images) for row in drawn])
    rules = _one_range(first.rules)
    blocks = [matches(r.problem, rules, slice(0, len(rules.thresholds)), slice(0, 1))
              for r in (first, second)]  # fmt: skip
    ranked = [_ranked(r.problem, b) for r, b in zip((first, second), blocks, strict=True)]
    problem, rows = first.problem, first.problem.true_image
    # The first row of weights is the data set itself.
    weights = np.concatenate([np.ones((1, images), np.int64), weights])
    found = [_read(r, problem, blocks[0], rules, weights, rows, threads) for r in ranked]
    apart = found[1] - found[0]
    totals = [_mean(f) for f in found]
    total = totals[1] - totals[0]
    p_value = _swapped(ranked, problem, blocks[0], rules, resamples, rng, abs(total[0]), threads)
    near = np.flatnonzero(np.abs(rules.thresholds - 0.5) < 1e-9)
    half = None
    if len(near):
        at = [_mean(f[:, :, near[:1]]) for f in found]
        half = _interval(at[1][0] - at[0][0], (at[1] - at[0])[1:], level)
    each = np.where(found[0][:, :, 0] > -1, apart.mean(axis=2), np.nan)
    classes = {
        name: _interval(each[0, k], each[1:, k], level)
        for k, name in enumerate(first.classes)
        if not np.isnan(each[0, k])
    }
    return DetectorComparison(
        names=(names[0], names[1]), a=first, b=second,
        difference=_interval(total[0], total[1:], level), difference_50=half, per_class=classes,
        p_value=p_value, ap_a=totals[0][1:], ap_b=totals[1][1:], level=level,
    )  # fmt: skip


def _swapped(
    ranked: list[_Ranked], problem: Problem, block: Block, rules: Rules, samples: int,
    rng: np.random.Generator, seen: float, threads: int | None,
) -> float:  # fmt: skip
    """Share of swaps whose difference is at least the one seen, itself counted."""
    images = problem.images
    swap = rng.integers(0, 2, (samples, images))
    both = _joined(ranked[0], ranked[1], images)
    always = np.ones((samples, 1), np.int64)
    rows = np.full(len(problem.true_image), 2 * images)
    one, other = (
        _mean(_read(both, problem, block, rules, np.concatenate([s, 1 - s, always], axis=1), rows,
                    threads))
        for s in (swap, 1 - swap)
    )  # fmt: skip
    # Sums in another order may differ in their last bits.
    return float((1 + (np.abs(one - other) >= seen - 1e-12).sum()) / (1 + samples))
