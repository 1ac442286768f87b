"""What an evaluation found: figures, curves, confusions, errors.

Shapes: T thresholds, R recalls, K classes, A ranges of area, M limits of detections.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from paragone.vision._precision_engine import Evaluation, Problem, Rules
from paragone.vision.annotations import Annotations

__all__ = ["AveragePrecisionResult", "Curve"]


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
