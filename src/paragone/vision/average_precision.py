r"""Average precision: the three protocols of detection, exact to their official tools.

All detections of a class are ranked by score; one is right if it takes an object that no better
one has taken and overlaps it enough. Precision p and recall r after each rank draw a curve, and

$$ \mathrm{AP} = \int_0^1 \max_{r' \ge r} p(r')\, dr $$

is read in three ways: at 11 recalls (VOC 2007), exactly (VOC 2010 on), at 101 recalls and averaged
over the overlaps 0.50, 0.55 ... 0.95 (COCO). That is the smaller difference. In VOC a detection
looks at the object of largest overlap alone, also if that is taken or difficult; in COCO it takes
the best that is free, looks into crowds, and only the 100 best of each class and image count.

Conventions are arguments, the official ones by default: an overlap *of* the threshold suffices
(`strict=False`; a much-copied Python port of VOC wants more), boxes are real intervals
(`pixel_offset=0`; 1 for raw numbers of VOC, whose boxes contain both end pixels), and difficult
objects are neither found nor missed. Deleting them beforehand is something else: what found them
would then be wrong.

`mode="pycocotools"` returns that tool's arrays bit for bit, its faults included. `"native"` mends
them: an object whose number is 0 can be found; AP is that of the largest of `max_dets`, not of
100 or nothing; `ignore` in a file is not overwritten by `iscrowd`; any number of limits will do;
a detection of an unknown class is told, not dropped.

Cost: O(N log N) for N detections, and the overlaps within each class and image.

References:
    Everingham et al. (2010), "The Pascal visual object classes challenge", section 4.2 and
    equations 1-2 of the 2007 protocol.
    Lin et al. (2014), "Microsoft COCO", arXiv:1405.0312.

Shapes: T thresholds, R recalls, K classes, A ranges of area, M limits of detections.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from paragone.vision._precision_engine import Rules, evaluate, pose
from paragone.vision._precision_plain import as_array, conform, widen
from paragone.vision._precision_result import AveragePrecisionResult
from paragone.vision._precision_table import Faults
from paragone.vision.annotations import Annotations, Image, read_annotations

__all__ = ["AveragePrecision", "AveragePrecisionResult", "average_precision"]

Protocol = Literal["coco", "voc2007", "voc2010", "voc2012"]
_PROTOCOLS = ("coco", "voc2007", "voc2010", "voc2012")
_AREAS = {
    "all": (0.0, 1e10), "small": (0.0, 1024.0), "medium": (1024.0, 9216.0), "large": (9216.0, 1e10),
}  # fmt: skip


def _rules(
    protocol: str, iou: float | None, iou_thresholds: Sequence[float] | None,
    recall_thresholds: Sequence[float] | None, areas: Mapping[str, Sequence[float]] | None,
    max_dets: int | Sequence[int] | None, mode: str, iou_type: str, strict: bool,
    pixel_offset: float, difficult: str,
) -> Rules:  # fmt: skip
    if protocol not in _PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is none of {', '.join(_PROTOCOLS)}")
    if mode not in ("native", "pycocotools"):
        raise ValueError(f"mode={mode!r} is none of 'native', 'pycocotools'")
    if difficult not in ("ignore", "count"):
        raise ValueError(f"difficult={difficult!r} is none of 'ignore', 'count'")
    if iou_type != "bbox":
        raise ValueError(
            f"iou_type={iou_type!r}: only boxes are evaluated here; give every record a bbox and "
            "leave iou_type at 'bbox', or use pycocotools for masks and keypoints"
        )
    coco = protocol == "coco"
    if mode == "pycocotools" and not coco:
        raise ValueError("mode='pycocotools' goes with protocol='coco' alone")
    if strict and coco:
        raise ValueError("strict=True: COCO's rule is >=; strict is for the VOC protocols")
    if iou is not None and iou_thresholds is not None:
        raise ValueError("iou and iou_thresholds are the same: give one of them")
    if iou is not None:
        thresholds = np.array([iou], np.float64)
    elif iou_thresholds is not None:
        thresholds = np.asarray(iou_thresholds, np.float64).reshape(-1)
    else:
        thresholds = np.linspace(0.5, 0.95, 10) if coco else np.array([0.5])
    if not len(thresholds) or (thresholds <= 0).any() or (thresholds > 1).any():
        raise ValueError(f"overlap thresholds {thresholds.tolist()}: expected numbers in (0, 1]")
    if recall_thresholds is not None:
        recalls = np.asarray(recall_thresholds, np.float64).reshape(-1)
    else:
        recalls = np.arange(11) / 10 if protocol == "voc2007" else np.linspace(0.0, 1.0, 101)
    if not len(recalls) or (np.diff(recalls) < 0).any() or recalls[0] < 0 or recalls[-1] > 1:
        raise ValueError("recall_thresholds: expected numbers from 0 to 1 in rising order")
    named = areas if areas is not None else _AREAS if coco else {"all": (0.0, np.inf)}
    ranges = np.array([tuple(bounds) for bounds in named.values()], np.float64).reshape(-1, 2)
    if not len(ranges) or (ranges[:, 0] > ranges[:, 1]).any():
        raise ValueError(f"areas={dict(named)}: expected name to (least, most) square pixels")
    if max_dets is None:
        max_dets = (1, 10, 100) if coco else (np.iinfo(np.int32).max,)
    limits = np.array(sorted([max_dets] if isinstance(max_dets, int) else max_dets), np.int64)
    if not len(limits) or limits[0] < 1:
        raise ValueError(f"max_dets={limits.tolist()}: expected numbers of at least 1")
    if mode == "pycocotools" and len(limits) < 3:
        raise ValueError(f"max_dets={limits.tolist()}: pycocotools takes three; or mode='native'")
    return Rules(
        protocol=protocol, thresholds=thresholds, strict=strict, ranges=ranges,
        range_names=tuple(named), limits=limits, recalls=recalls, offset=float(pixel_offset),
        ignore=difficult == "ignore" and mode == "native", compatible=mode == "pycocotools",
    )  # fmt: skip


def average_precision(
    gt: Any,
    dt: Any,
    protocol: Protocol = "coco",
    *,
    iou: float | None = None,
    iou_thresholds: Sequence[float] | None = None,
    recall_thresholds: Sequence[float] | None = None,
    areas: Mapping[str, Sequence[float]] | None = None,
    max_dets: int | Sequence[int] | None = None,
    mode: Literal["native", "pycocotools"] = "native",
    iou_type: str = "bbox",
    strict: bool = False,
    pixel_offset: float = 0.0,
    difficult: Literal["ignore", "count"] = "ignore",
    class_agnostic: bool = False,
    classes: Sequence[str] | None = None,
    problems: Literal["raise", "skip"] = "raise",
    threads: int | None = None,
) -> AveragePrecisionResult:
    """Evaluates detections against objects.

    Prefer it to pycocotools for any of the three protocols: the same numbers a hundred times
    faster, with errors that name the record. For masks and keypoints use pycocotools.

    Args:
        gt: The objects: anything that `read_annotations` reads (a path, records, arrays, a list
            of {"boxes", "labels"}), or `Annotations`.
        dt: The detections, with scores.
        protocol: "coco", or "voc2007" (11 recalls), "voc2010" and "voc2012" (exact area).
        iou: One threshold of overlap; 0.5 for VOC without it.
        iou_thresholds: Several; 0.50, 0.55 ... 0.95 for COCO without them.
        recall_thresholds: Where precision is read.
        areas: Name to least and most area in square pixels, both included.
        max_dets: Most detections that count of a class in an image, or several limits; 1, 10 and
            100 for COCO, no limit for VOC.
        mode: "native", or "pycocotools" for its arrays bit for bit.
        iou_type: "bbox".
        strict: VOC: whether the overlap must exceed the threshold.
        pixel_offset: Added to widths and heights: 1 if boxes contain both of their end pixels.
        difficult: "ignore" difficult objects (and COCO's `ignore`), or "count" them.
        class_agnostic: Take all classes for one.
        classes: Names of the classes, where the source has none.
        problems: "raise" at the first bad record, or "skip" and count.
        threads: Threads; all cores without it. The result does not depend on it.

    Raises:
        ValueError: An argument, a file or a record is wrong; the text says what was expected.

    Example:
        >>> true = [{"boxes": [[0, 0, 9, 9]], "labels": [0]}]
        >>> found = [{"boxes": [[0, 0, 9, 8]], "labels": [0], "scores": [0.9]}]
        >>> float(average_precision(true, found).ap.round(3))
        0.8
    """
    rules = _rules(
        protocol, iou, iou_thresholds, recall_thresholds, areas, max_dets, mode, iou_type, strict,
        pixel_offset, difficult,
    )  # fmt: skip
    objects = read_annotations(gt, classes=classes, problems=problems, threads=threads)
    objects = widen(objects, dt)
    found = _detections(dt, objects, mode, problems, threads)
    return _evaluated(objects, found, rules, mode, class_agnostic, threads)


def _detections(
    dt: Any, objects: Annotations, mode: str, problems: Any, threads: int | None
) -> Annotations:
    if not isinstance(dt, Annotations):
        policy = "classes" if mode == "pycocotools" and problems == "raise" else problems
        return _read_found(dt, objects, policy, threads)
    faults = Faults("detections", problems)
    found = conform(dt, objects, faults)
    faults.warn()
    return found


def _read_found(dt: Any, objects: Annotations, policy: str, threads: int | None) -> Annotations:
    if policy != "classes":
        return read_annotations(dt, like=objects, problems=policy, threads=threads)  # pyright: ignore
    # pycocotools drops detections of unknown classes without a word; here they are counted.
    from paragone.vision import _precision_coco, _precision_plain
    from paragone.vision.annotations import _format

    faults = Faults("" if not isinstance(dt, str) else dt, "classes")
    if _format(dt) == "coco":
        return _precision_coco.read(dt, faults, objects, None, threads)
    if _format(dt) == "plain":
        return _precision_plain.read(dt, faults, objects, None)
    return read_annotations(dt, like=objects, threads=threads)


def _evaluated(
    objects: Annotations,
    found: Annotations,
    rules: Rules,
    mode: str,
    class_agnostic: bool = False,
    threads: int | None = None,
) -> AveragePrecisionResult:
    if class_agnostic:
        objects, found = (_of_one_class(a) for a in (objects, found))
    problem = pose(objects, found)
    return AveragePrecisionResult(
        protocol=rules.protocol, mode=mode, classes=objects.classes, rules=rules, problem=problem,
        evaluation=evaluate(problem, rules, threads), objects=objects, detections=found,
    )  # fmt: skip


def _of_one_class(a: Annotations) -> Annotations:
    kept = a.select(np.argsort(a.label, kind="stable"))
    return dataclasses.replace(
        kept, classes=("object",), class_ids=(1,), label=np.zeros(len(kept), np.int64)
    )


class AveragePrecision:
    """Average precision of what comes batch by batch, on one machine or several.

    Prefer it to `average_precision` in an evaluation loop. Shards are joined by `merge`, and the
    result is that of all batches at once, exactly: the boxes are kept (some 60 bytes each), not
    sums of them.

    Args:
        protocol: As for `average_precision`, as are the further arguments.
        classes: Names of the classes; numbers without them.
        options: `iou`, `iou_thresholds`, `areas`, `max_dets`, `mode`, `strict` and so on.

    Example:
        >>> metric = AveragePrecision("voc2012", classes=["cat"])
        >>> metric.update([{"boxes": [[0, 0, 4, 4]], "labels": [0]}],
        ...               [{"boxes": [[0, 0, 4, 3]], "labels": [0], "scores": [0.5]}])
        >>> metric.compute().per_class
        {'cat': 1.0}
    """

    def __init__(
        self,
        protocol: Protocol = "coco",
        *,
        classes: Sequence[str] | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        defaults: dict[str, Any] = {
            "iou": None, "iou_thresholds": None, "recall_thresholds": None, "areas": None,
            "max_dets": None, "mode": "native", "iou_type": "bbox", "strict": False,
            "pixel_offset": 0.0, "difficult": "ignore",
        }  # fmt: skip
        unknown = sorted(set(options) - set(defaults))
        if unknown:
            raise TypeError(f"{unknown[0]} is none of the options {', '.join(defaults)}")
        self.options = {**defaults, **options}
        self.rules = _rules(protocol, **self.options)
        self.classes = None if classes is None else tuple(classes)
        self.threads = threads
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._ids: list[int | str] = []
        self._numbered = True
        self._targets: list[dict[str, np.ndarray]] = []
        self._found: list[dict[str, np.ndarray]] = []

    def update(
        self,
        targets: Sequence[Mapping[str, Any]],
        detections: Sequence[Mapping[str, Any]],
        image_ids: Sequence[int | str] | None = None,
    ) -> None:
        """Takes one batch.

        Args:
            targets: For each image boxes (N, 4) as corners and labels (N,); also iscrowd,
                difficult and area, if there are any.
            detections: For each image boxes, labels and scores.
            image_ids: Names of the images; numbered as they come without them. They order
                detections of equal score.

        Raises:
            ValueError: Counts differ, or an id comes twice.
        """
        if len(targets) != len(detections):
            raise ValueError(f"targets of {len(targets)} images, detections of {len(detections)}")
        if image_ids is not None and len(image_ids) != len(targets):
            raise ValueError(f"{len(image_ids)} image_ids for {len(targets)} images")
        for row, one in enumerate(detections):
            if "scores" not in one:
                raise ValueError(f"detections of image {row}: no scores, there is {list(one)}")
        start = len(self._ids)
        ids = range(start, start + len(targets)) if image_ids is None else image_ids
        if start and self._numbered != (image_ids is None) and len(targets):
            raise ValueError("image_ids: give them with every batch or with none")
        self._numbered = image_ids is None
        self._ids += list(ids)
        self._targets += [{k: as_array(v) for k, v in one.items()} for one in targets]
        self._found += [{k: as_array(v) for k, v in one.items()} for one in detections]

    def merge(self, other: AveragePrecision) -> None:
        """Takes all batches of another one, as if they had come here.

        Raises:
            ValueError: The other one has other rules or classes.
        """
        if str(self.rules) != str(other.rules) or self.classes != other.classes:
            raise ValueError("the two follow other rules or classes; make both with the same")
        ids = None if other._numbered else other._ids
        self.update(other._targets, other._found, ids)

    def compute(self) -> AveragePrecisionResult:
        """Returns the result of all batches so far.

        Raises:
            ValueError: Nothing has come yet, an id came twice, or a box or label is wrong.
        """
        if not self._ids:
            raise ValueError("no batch has come yet; call update first")
        if len(set(self._ids)) < len(self._ids):
            twice = next(i for n, i in enumerate(self._ids) if i in self._ids[:n])
            raise ValueError(f"image id {twice!r} came twice; each image counts once")
        names = self.classes
        if names is None:
            both = [*self._targets, *self._found]
            most = max((int(one["labels"].max(initial=-1)) for one in both), default=-1)
            names = tuple(str(k) for k in range(most + 1))
        frame = Annotations(
            images=tuple(Image(i) for i in self._ids), classes=names,
            class_ids=tuple(range(len(names))), image=np.empty(0, np.int64),
            label=np.empty(0, np.int64), boxes=np.empty((0, 4)),
        )  # fmt: skip
        objects = read_annotations(self._targets, "plain", like=frame)
        found = read_annotations(self._found, "plain", like=frame)
        return _evaluated(objects, found, self.rules, self.options["mode"], threads=self.threads)
