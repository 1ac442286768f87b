"""Boxes of a data set as arrays: what COCO, VOC and YOLO files say, in one form.

Whatever the file, a box is (left, top, right, bottom) in pixels as real numbers, and its width is
right - left. COCO's (x, y, width, height) is kept beside it, bit for bit, since x + w - x need not
be w; VOC's pixels count from 1 and both ends belong to the box, so that left is xmin - 1; YOLO's
are shares of the image. With that, the overlap of two boxes is the same number in all three.

What cannot be right is told with the file, the record and what was expected: a box of negative
size or outside of its image, an unknown class or image, a number twice, a file cut short.
`problems="skip"` leaves such records out, counts them by reason in `skipped`, and warns.

References:
    Lin et al. (2014), "Microsoft COCO", arXiv:1405.0312 (crowd, area); Everingham et al. (2010),
    "The Pascal visual object classes challenge", section 3 (difficult).

Shapes: N boxes, I images, K classes.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

__all__ = ["Annotations", "Image", "read_annotations", "write_annotations"]

Problems = Literal["raise", "skip"]


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
        difficult: (N,) bool: neither counted nor held against a detector (VOC, COCO's `ignore`).
        area: (N,) float64 in square pixels: the file's own (of the mask in COCO).
        skipped: What was left out on reading, by reason.
        extra: "xywh" (N, 4) and "ids" (N,) as a COCO file has them; "notes": what was kept but
            is odd, by kind.
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

    def __len__(self) -> int:
        """N."""
        return len(self.label)

    @property
    def notes(self) -> dict[str, int]:
        """What was kept but is odd, by kind."""
        return self.extra.get("notes", {})

    def xywh(self) -> np.ndarray:
        """Returns (N, 4) left, top, width, height: the file's own numbers where it has them."""
        kept = self.extra.get("xywh")
        if kept is not None and kept.shape == self.boxes.shape:
            ends = kept[:, :2] + kept[:, 2:]
            if np.array_equal(kept[:, :2], self.boxes[:, :2]) and np.array_equal(
                ends, self.boxes[:, 2:]
            ):
                return kept
        return np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)

    def select(self, rows: np.ndarray | Sequence[int]) -> Annotations:
        """Returns the boxes of these rows (numbers or a mask); all images and classes stay."""
        rows = np.asarray(rows)
        rows = rows if rows.dtype == bool else rows.astype(np.int64)
        named = ("image", "label", "boxes", "score", "crowd", "difficult", "area")
        columns = {name: getattr(self, name) for name in named}
        changed = {n: None if c is None else c[rows] for n, c in columns.items()}
        extra = {k: v[rows] if k in ("xywh", "ids") else v for k, v in self.extra.items()}
        return dataclasses.replace(self, **changed, extra=extra)

    def of_images(self, chosen: Sequence[int]) -> Annotations:
        """Returns a data set of these images only (rows of `images`, in this order)."""
        place = np.full(len(self.images), -1, np.int64)
        place[np.asarray(chosen, np.int64)] = np.arange(len(chosen))
        kept = self.select(place[self.image] >= 0)
        images = tuple(self.images[i] for i in chosen)
        return dataclasses.replace(kept, images=images, image=place[kept.image])

    def targets(self) -> list[dict[str, np.ndarray]]:
        """Returns one dict for each image: boxes (N, 4), labels, scores if there are any.

        Rows of an image keep the order of the file.
        """
        order = np.argsort(self.image, kind="stable")
        ends = np.searchsorted(self.image[order], np.arange(len(self.images) + 1))
        found = []
        for first, last in itertools.pairwise(ends):
            rows = order[first:last]
            one = {"boxes": self.boxes[rows], "labels": self.label[rows]}
            found.append(one if self.score is None else {**one, "scores": self.score[rows]})
        return found


def read_annotations(
    source: Any,
    format: Literal["auto", "coco", "voc", "yolo", "plain"] = "auto",
    *,
    like: Annotations | None = None,
    classes: Sequence[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    split: str | None = None,
    first_pixel: Literal["auto", 0, 1] = "auto",
    problems: Problems = "raise",
    threads: int | None = None,
) -> Annotations:
    """Reads objects or detections.

    Prefer it to pycocotools' `COCO` where a file may be wrong, and where it is large: detections
    come in as arrays, several times faster.

    Args:
        source: COCO: a JSON file, or what it holds (a data set or a list of results). VOC: an
            XML file, a folder of them, or one with `Annotations/`. YOLO: a folder of text files,
            or one with `labels/`. Plain: a list of {"boxes", "labels"[, "scores"]} (tensors or
            arrays, boxes as corners), one for each image; an array (N, 7) of image id, x, y,
            width, height, score, class id.
        format: What it is; "auto" looks.
        like: The data set whose images and classes these are, for detections.
        classes: Names of the classes in order; without it as the files have them (VOC: sorted).
        images: YOLO: the folder of the images, for their sizes; without it beside the texts.
        split: VOC: only the images named in `ImageSets/Main/SPLIT.txt`.
        first_pixel: VOC: number of the leftmost pixel; "auto" is 1 unless a box begins at 0.
        problems: "raise" at the first, or "skip" and count.
        threads: For large JSON files; all cores without it. The result does not depend on it.

    Raises:
        ValueError: With the file, the record, and what was expected.
        FileNotFoundError: No such file.

    Example:
        >>> found = read_annotations([{"boxes": [[0, 0, 4, 2]], "labels": [1]}], classes="ab")
        >>> found.classes, found.boxes.tolist()
        (('a', 'b'), [[0.0, 0.0, 4.0, 2.0]])
    """
    from paragone.vision import _precision_coco, _precision_plain, _precision_voc, _precision_yolo
    from paragone.vision._precision_table import Faults

    if problems not in ("raise", "skip"):
        raise ValueError(f"problems={problems!r} is none of 'raise', 'skip'")
    if isinstance(source, os.PathLike | str) and not Path(source).exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    kind = _format(source) if format == "auto" else format
    given: Any = source
    faults = Faults(str(source) if isinstance(source, os.PathLike | str) else "", problems)
    names = None if classes is None else tuple(classes)
    if kind == "same":
        found = _precision_plain.conform(given, like, faults)
    elif kind == "coco":
        found = _precision_coco.read(source, faults, like, names, threads)
    elif kind == "voc":
        found = _precision_voc.read(Path(source), faults, like, names, split, first_pixel)
    elif kind == "yolo":
        found = _precision_yolo.read(Path(source), faults, like, names, images)
    elif kind == "plain":
        found = _precision_plain.read(source, faults, like, names)
    else:
        raise ValueError(f"format={format!r} is none of 'auto', 'coco', 'voc', 'yolo', 'plain'")
    faults.warn()
    return found


def _format(source: Any) -> str:
    if isinstance(source, Annotations):
        return "same"
    if isinstance(source, os.PathLike | str):
        path = Path(source)
        if path.is_dir():
            if (path / "Annotations").is_dir() or next(path.glob("*.xml"), None):
                return "voc"
            if (path / "labels").is_dir() or next(path.glob("*.txt"), None):
                return "yolo"
            raise ValueError(
                f"{path}: neither XML files (VOC) nor text files (YOLO) in this folder; name the "
                "folder that holds them, or a COCO file"
            )
        kinds = {".json": "coco", ".xml": "voc", ".txt": "yolo"}
        if path.suffix.lower() not in kinds:
            raise ValueError(f"{path}: expected .json (COCO), .xml (VOC) or .txt (YOLO)")
        return kinds[path.suffix.lower()]
    first = source[0] if isinstance(source, list | tuple) and len(source) else source
    if isinstance(first, dict) and ("annotations" in first or "image_id" in first):
        return "coco"
    return "plain"


def write_annotations(
    annotations: Annotations,
    path: str | os.PathLike[str],
    format: Literal["coco", "voc", "yolo"] = "coco",
) -> Path:
    """Writes objects or detections and returns the path.

    Args:
        annotations: What to write.
        path: COCO: a JSON file, a data set or (with scores) a list of results. VOC, YOLO: a
            folder, made if need be, with a file for each image; YOLO puts `classes.txt` there.
        format: Which of the three.

    Raises:
        ValueError: VOC has no place for scores; YOLO needs the sizes of the images.
    """
    from paragone.vision import _precision_coco, _precision_voc, _precision_yolo

    writers = {
        "coco": _precision_coco.write, "voc": _precision_voc.write, "yolo": _precision_yolo.write,
    }  # fmt: skip
    if format not in writers:
        raise ValueError(f"format={format!r} is none of {', '.join(writers)}")
    writers[format](annotations, Path(path))
    return Path(path)
