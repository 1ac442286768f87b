"""What an evaluation found: figures, curves, confusions, errors.

Shapes: T thresholds, R recalls, K classes, A ranges of area, M limits of detections.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from paragone.vision import _precision_errors
from paragone.vision._precision_engine import Evaluation, Problem, Rules
from paragone.vision._precision_errors import ErrorCost
from paragone.vision.annotations import Annotations

__all__ = ["AveragePrecisionResult", "Curve"]

_LINES = (
    ("AP", None, "all", 2), ("AP", 0.5, "all", 2), ("AP", 0.75, "all", 2),
    ("AP", None, "small", 2), ("AP", None, "medium", 2), ("AP", None, "large", 2),
    ("AR", None, "all", 0), ("AR", None, "all", 1), ("AR", None, "all", 2),
    ("AR", None, "small", 2), ("AR", None, "medium", 2), ("AR", None, "large", 2),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Curve:
    """Precision over recall, a point for each detection that counts, by falling score.

    Attributes:
        recall: Share of the objects found so far.
        precision: Share of the detections so far that are right.
        envelope: The largest precision from here on.
        score: Of the detection.
    """

    recall: np.ndarray
    precision: np.ndarray
    envelope: np.ndarray
    score: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class AveragePrecisionResult:
    """Figures of one detector.

    Attributes:
        protocol: "coco", "voc2007", "voc2010" or "voc2012".
        mode: "native" or "pycocotools".
        classes: K names.
        rules: Thresholds, ranges, limits, conventions.
        problem: The arrays that were evaluated.
        evaluation: Curves and matches.
        objects, detections: What was read.
    """

    protocol: str
    mode: str
    classes: tuple[str, ...]
    rules: Rules
    problem: Problem
    evaluation: Evaluation
    objects: Annotations
    detections: Annotations

    @property
    def precision(self) -> np.ndarray:
        """(T, R, K, A, M) envelope at the recalls; -1 where a class has no object."""
        return self.evaluation.precision

    @property
    def recall(self) -> np.ndarray:
        """(T, K, A, M) share of objects found; -1 where there are none."""
        return self.evaluation.recall

    @property
    def scores(self) -> np.ndarray:
        """(T, R, K, A, M) score of the detection that reaches the recall."""
        return self.evaluation.scores

    @property
    def ap(self) -> np.float64:
        """The protocol's one figure: mean over classes (and thresholds); -1 without objects."""
        return self.stats[0]

    @property
    def per_class(self) -> dict[str, float]:
        """Average precision of each class; NaN for a class without objects."""
        found = self._by_class()[:, :, 0, -1]
        return {
            name: float(found[:, k].mean()) if found[0, k] > -1 else float("nan")
            for k, name in enumerate(self.classes)
        }

    @property
    def stats(self) -> np.ndarray:
        """COCO: AP, AP50, AP75, AP small, medium, large, AR at each limit, AR by size.

        (12,) with -1 where there is nothing to average. VOC: (1,), the mean over classes.
        """
        if self.rules.voc:
            return np.array([_mean(self._by_class()[:, :, 0, -1])])
        compatible = self.mode == "pycocotools"
        limits = self.rules.limits.tolist()
        last = 2 if compatible else len(limits) - 1
        literal = limits.index(100) if 100 in limits else None
        first = literal if compatible else last
        p = self._precision_at
        some = [0, min(1, last), last]
        return np.array([
            p("all", first), p("all", last, 0.5), p("all", last, 0.75), p("small", last),
            p("medium", last), p("large", last), *(self._recall_at("all", m) for m in some),
            *(self._recall_at(size, last) for size in ("small", "medium", "large")),
        ])  # fmt: skip

    @property
    def skipped(self) -> dict[str, int]:
        """Records left out on reading, by reason."""
        found: dict[str, int] = {}
        for what, read in (("objects", self.objects), ("detections", self.detections)):
            found |= {f"{what}: {reason}": n for reason, n in read.skipped.items()}
        return found

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures must know."""
        told = [f"{n:,} {reason} left out" for reason, n in self.skipped.items()]
        for read in (self.objects, self.detections):
            told += [f"{n:,} {kind}" for kind, n in read.notes.items()]
        found = np.bincount(self.problem.label, minlength=len(self.classes))
        true = np.bincount(self.problem.true_label, minlength=len(self.classes))
        alone = [c for c, f, t in zip(self.classes, found, true, strict=True) if not t]
        if alone:
            many = int(found[true == 0].sum())
            names = ", ".join(alone[:8]) + (" …" if len(alone) > 8 else "")
            told.append(
                f"{len(alone)} of {len(self.classes)} classes have no objects and no part in the "
                f"mean ({many:,} detections of them): {names}"
            )
        return told

    def curve(
        self, name: str, iou: float | None = None, area: str = "all", max_dets: int | None = None
    ) -> Curve:
        """Returns the curve of a class, in full.

        Args:
            name: The class.
            iou: One of the thresholds; the first without it.
            area: One of the ranges.
            max_dets: One of the limits; the last without it.

        Raises:
            ValueError: One of them has not been evaluated.
        """
        rules = self.rules
        if name not in self.classes:
            raise ValueError(f"class {name!r} is none of {', '.join(self.classes)}")
        near = np.abs(rules.thresholds - (rules.thresholds[0] if iou is None else iou)) < 1e-9
        limit = int(rules.limits[-1]) if max_dets is None else max_dets
        if not near.any() or area not in rules.range_names or limit not in rules.limits:
            raise ValueError(
                f"iou={iou}, area={area!r}, max_dets={max_dets}: evaluated are overlaps "
                f"{rules.thresholds.tolist()}, areas {list(rules.range_names)}, limits "
                f"{rules.limits.tolist()}"
            )
        t, a, k = int(near.argmax()), rules.range_names.index(area), self.classes.index(name)
        b = next(
            b for b in self.evaluation.blocks
            if b.steps.start <= t < b.steps.stop and b.ranges.start <= a < b.ranges.stop
        )  # fmt: skip
        tall = b.steps.stop - b.steps.start
        bit = np.uint64(1 << ((a - b.ranges.start) * tall + t - b.steps.start))
        rows = np.arange(b.ends[k], b.ends[k] + b.kept[k])
        rows = rows[(b.number[rows] < limit) & (b.ignore[rows] & bit == 0)]
        hits = b.match[rows] & bit != 0
        positives = int((b.hidden[b.object_ends[k] : b.object_ends[k + 1]] & bit == 0).sum())
        right = np.cumsum(hits)
        precision = right / np.arange(1, len(rows) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        return Curve(right / max(positives, 1), precision, envelope,
                     self.problem.score[b.sequence[rows]])  # fmt: skip

    def confusion(self, iou: float = 0.5, score: float = 0.25) -> np.ndarray:
        """Returns (K + 1, K + 1) counts: true class by found class, the last is background.

        Boxes of any class are paired by overlap, largest first, each once. Objects that do not
        count, and what covers only them, are left out.

        Args:
            iou: Least overlap of a pair.
            score: Least score of a detection.
        """
        return _precision_errors.confusion(self.problem, self.rules, iou, score)

    def errors(self, iou: float = 0.5, background: float = 0.1) -> dict[str, ErrorCost]:
        """Returns the kinds of errors with their counts, and what AP would gain without each.

        Args:
            iou: Overlap at which a detection is right.
            background: Overlap below which it lies on nothing.
        """
        return _precision_errors.costs(self.problem, self.rules, iou, background)

    def summary(self) -> str:
        """Returns the figures as text."""
        p = self.problem
        lines = [
            f"{self.protocol}: {p.images:,} images, {len(self.classes)} classes, "
            f"{len(p.true_label):,} objects, {len(p.label):,} detections"
        ]
        if self.rules.voc:
            known = self.per_class
            wide = max((len(name) for name in known), default=4)
            lines += [
                f"  {n:<{wide}}  {v:.4f}" if v == v else f"  {n:<{wide}}  no objects"
                for n, v in known.items()
            ]
            lines.append(f"  {'mean':<{wide}}  {self.ap:.4f}  overlap {self._overlap_words()}")
        else:
            limits = self.rules.limits.tolist()
            last = len(limits) - 1
            limits = [limits[0], limits[min(1, last)], limits[last]]
            for value, (what, overlap, size, m) in zip(self.stats, _LINES, strict=True):
                overlap = self._overlap_words() if overlap is None else f"{overlap:.2f}"
                shown = f"{value:.4f}" if value > -1 else "  none"
                lines.append(
                    f"  {what}  {shown}  overlap {overlap:<9}  {size:<6}  {limits[m]:>3} detections"
                )
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def _overlap_words(self) -> str:
        t = self.rules.thresholds
        return f"{t[0]:.2f}" if len(t) == 1 else f"{t[0]:.2f}:{t[-1]:.2f}"

    def _by_class(self) -> np.ndarray:
        """(T, K, A, M) average precision by the protocol's reading of the curve."""
        if self.protocol in ("voc2010", "voc2012"):
            return self.evaluation.area
        return self.precision.mean(axis=1)

    def _range(self, name: str) -> int | None:
        names = self.rules.range_names
        return names.index(name) if name in names else None

    def _precision_at(self, size: str, limit: int | None, iou: float | None = None) -> float:
        a = self._range(size)
        if a is None or limit is None:
            return -1.0
        found = self.precision
        if iou is not None:
            exact = self.rules.thresholds == iou
            near = exact if self.mode == "pycocotools" else abs(self.rules.thresholds - iou) < 1e-9
            found = found[near]
        return _mean(found[:, :, :, a, limit])

    def _recall_at(self, size: str, limit: int) -> float:
        a = self._range(size)
        return -1.0 if a is None else _mean(self.recall[:, :, a, limit])


def _mean(found: np.ndarray) -> float:
    # The same selection and mean as the official tool's, so that the last bit agrees.
    kept = np.ascontiguousarray(found)
    kept = kept[kept > -1]
    return float(np.mean(kept)) if len(kept) else -1.0
