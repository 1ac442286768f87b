"""Images with their targets, in memory or decoded when asked for.

One form for all tasks: `classify` has a label for each image, `segment` a mask, `detect` boxes.
Boxes are left, top, right, bottom in pixels; labels count from 0 without background; in masks 0 is
the first class (mostly the background) and 255 is not counted.

Shapes: N images, n boxes of one image, H and W height and width.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from paragone.vision.annotations import Annotations, Image

__all__ = ["IGNORED", "ImageData", "ImageSet", "Sample", "Task", "split_rows"]

Task = Literal["classify", "segment", "detect"]
IGNORED = 255
"""Value of mask pixels that no loss and no metric counts."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image and what is known of it.

    Attributes:
        image: (H, W, 3) uint8.
        label: Class of the image, or -1.
        mask: (H, W) uint8, or None.
        boxes: (n, 4) float64.
        labels: (n,) int64, class of each box.
        ignored: (n,) bool: crowds and difficult objects, neither trained on nor counted.
        name: Name of its file.
    """

    image: np.ndarray
    label: int
    mask: np.ndarray | None
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    name: str


@dataclasses.dataclass
class ImageSet(Sequence):
    """Images of one split; `split[i]` is a `Sample`.

    Attributes:
        images: N arrays (H, W, 3) uint8: a list, or a sequence that decodes when asked.
        names: N names, each once.
        labels: (N,) int64, or None.
        masks: N arrays (H, W) uint8, or None.
        boxes: N arrays (n, 4) float64, or None.
        box_labels: N arrays (n,) int64, or None.
        ignored: N arrays (n,) bool, or None: nothing is.
        truth: The file's own annotations, for average precision; None: made from the boxes.
    """

    images: Sequence[np.ndarray]
    names: Sequence[str]
    labels: np.ndarray | None = None
    masks: Sequence[np.ndarray] | None = None
    boxes: Sequence[np.ndarray] | None = None
    box_labels: Sequence[np.ndarray] | None = None
    ignored: Sequence[np.ndarray] | None = None
    truth: Annotations | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:  # pyright: ignore[reportIncompatibleMethodOverride]
        boxes = np.zeros((0, 4)) if self.boxes is None else self.boxes[index]
        return Sample(
            image=self.images[index],
            label=-1 if self.labels is None else int(self.labels[index]),
            mask=None if self.masks is None else self.masks[index],
            boxes=boxes,
            labels=np.zeros(0, np.int64) if self.box_labels is None else self.box_labels[index],
            ignored=np.zeros(len(boxes), bool) if self.ignored is None else self.ignored[index],
            name=self.names[index],
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def annotations(self, classes: Sequence[str]) -> Annotations:
        """Returns the objects of all images, as `average_precision` takes them.

        Args:
            classes: Names of the classes.
        """
        if self.truth is not None:
            return self.truth
        boxes = self.boxes or [np.zeros((0, 4))] * len(self)
        labels = self.box_labels or [np.zeros(0, np.int64)] * len(self)
        ignored = self.ignored or [np.zeros(len(b), bool) for b in boxes]
        counts = [len(b) for b in boxes]
        every = np.concatenate([*boxes, np.zeros((0, 4))])
        images = tuple(Image(name, name) for name in self.names)
        return Annotations(
            images, tuple(classes), tuple(range(len(classes))),
            image=np.repeat(np.arange(len(self)), counts),
            label=np.concatenate([*labels, np.zeros(0, np.int64)]).astype(np.int64),
            boxes=every,
            difficult=np.concatenate([*ignored, np.zeros(0, bool)]),
            area=(every[:, 2] - every[:, 0]) * (every[:, 3] - every[:, 1]),
        )  # fmt: skip


@dataclasses.dataclass
class ImageData:
    """A data set in its splits: what `train` takes.

    Attributes:
        task: "classify", "segment" or "detect".
        classes: Names of the classes; of masks with the background first.
        train: Images to train on.
        validation: Images that choose the epoch.
        test: Images that nothing chooses by, or None.
        name: Where it comes from.
        skipped: How many images or records were left out, by reason.
        problems: What was left out, one line each: file, record, what was expected.
        mirrored: Whether a mirror image has the same classes; that of a digit may not.
    """

    task: Task
    classes: tuple[str, ...]
    train: ImageSet
    validation: ImageSet
    test: ImageSet | None = None
    name: str = ""
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)
    mirrored: bool = True

    def for_task(self, task: Task) -> ImageData:
        """Returns the same images for another task, if their targets are there.

        Args:
            task: "classify", "segment" or "detect".

        Raises:
            ValueError: These images have no target of that kind.
        """
        wanted = {"classify": "labels", "segment": "masks", "detect": "boxes"}
        if task not in wanted:
            raise ValueError(f"task {task!r} is none of {', '.join(wanted)}")
        if getattr(self.train, wanted[task]) is None:
            raise ValueError(
                f"{self.name or 'this data'} has no {wanted[task]}: it cannot train {task!r}, "
                f"only {self.task!r}"
            )
        classes = self.classes
        if "segment" in (task, self.task) and task != self.task:
            classes = ("background", *classes) if task == "segment" else classes[1:]
        return dataclasses.replace(self, task=task, classes=classes)

    def fingerprint(self) -> str:
        """Returns a name for what is in it: classes, files and targets, not pixels."""
        sha = hashlib.sha256(repr((self.task, self.classes)).encode())
        for split in (self.train, self.validation, self.test):
            if split is None:
                continue
            sha.update(repr((len(split), tuple(split.names))).encode())
            if split.labels is not None:
                sha.update(np.asarray(split.labels, np.int64).tobytes())
            for boxes in split.boxes or ():
                sha.update(np.asarray(boxes, np.float64).tobytes())
        return sha.hexdigest()[:16]


def split_rows(
    labels: np.ndarray, shares: Sequence[float], rng: np.random.Generator
) -> list[np.ndarray]:
    """Splits rows so that every class keeps its share in every part, at least one in the first.

    Args:
        labels: (N,) class of each row.
        shares: Share of each part; the first one gets what is left.
        rng: Draws who goes where.
    """
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    for value in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == value))
        end = len(rows)
        for i in range(len(shares) - 1, 0, -1):
            take = min(round(shares[i] * len(rows)), max(end - 1, 0))
            parts[i].append(rows[end - take : end])
            end -= take
        parts[0].append(rows[:end])
    return [np.sort(np.concatenate([*p, np.zeros(0, np.int64)])) for p in parts]
