"""From columns of a file to `Annotations`: ids become rows, and every record is checked.

Shapes: N records, I images, K classes.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paragone.vision.annotations import Annotations, Image

__all__ = ["Faults", "Table", "finish", "rows_of"]

_TABLE = 1 << 24


class Faults:
    """What is wrong with a source: raised at once, or counted by reason.

    Args:
        source: The file's name; "" for objects.
        policy: "raise" or "skip".
    """

    def __init__(self, source: str, policy: str) -> None:
        self.source, self.policy = source, policy
        self.counts: dict[str, int] = {}

    def text(self, record: str, told: str) -> str:
        """`file: record: what is wrong`."""
        return ": ".join(part for part in (self.source, record, told) if part)

    def stop(self, record: str, told: str) -> ValueError:
        """An error that no policy passes over."""
        return ValueError(self.text(record, told))

    def found(self, reason: str, record: str, told: str) -> None:
        """Raises, or counts one record."""
        if self.policy == "raise" or (self.policy == "classes" and reason != "unknown class"):
            raise ValueError(
                self.text(record, f'{told} (problems="skip" leaves such records out and counts)')
            )
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def check(self, bad: np.ndarray, reason: str, told: Callable[[int], tuple[str, str]]) -> None:
        """Looks at a mask of records; `told(row)` names the first: (record, what is wrong)."""
        count = int(np.count_nonzero(bad))
        if count:
            self.found(reason, *told(int(np.argmax(bad))))
            self.counts[reason] += count - 1

    def warn(self) -> None:
        """Says what has been left out."""
        if self.counts:
            total = sum(self.counts.values())
            told = ", ".join(f"{reason}: {count:,}" for reason, count in self.counts.items())
            warnings.warn(self.text("", f"{total:,} records left out ({told})"), stacklevel=3)


@dataclasses.dataclass
class Table:
    """Records as columns.

    Attributes:
        image: (N,) row of the image, -1 unknown.
        label: (N,) row of the class, -1 unknown.
        boxes: (N, 4) corners, or with `xywh` left, top, width and height.
        score: (N,), for detections.
        area: (N,), if the file has it.
        crowd: (N,) bool, or None.
        difficult: (N,) bool, or None.
        ids: (N,) numbers of the records, or None.
        name: Row to what the record is called in messages.
        given: Row to the ids of its image and class as the file has them.
        xywh: What the boxes are.
    """

    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    score: np.ndarray | None = None
    area: np.ndarray | None = None
    crowd: np.ndarray | None = None
    difficult: np.ndarray | None = None
    ids: np.ndarray | None = None
    name: Callable[[int], str] = lambda row: f"record {row}"
    given: Callable[[int], tuple[Any, Any]] = lambda row: ("?", "?")
    xywh: bool = False


def rows_of(ids: np.ndarray, known: Sequence[Any]) -> np.ndarray:
    """Returns the row in `known` of each id, -1 for those that are not there.

    Example:
        >>> rows_of(np.array([7, 9, 8]), [8, 7]).tolist()
        [1, -1, 0]
    """
    if ids.dtype == object or any(isinstance(k, str) for k in known):
        place = {k: i for i, k in enumerate(known)}
        return np.fromiter((place.get(k, -1) for k in ids.tolist()), np.int64, len(ids))
    numbers = np.asarray(known, np.int64)
    if not len(numbers) or not len(ids):
        return np.full(len(ids), -1, np.int64)
    low, high = int(numbers.min()), int(numbers.max())
    if high - low < _TABLE:
        table = np.full(high - low + 2, -1, np.int64)
        table[numbers - low] = np.arange(len(numbers))
        shifted = ids - low
        if int(shifted.min()) < 0 or int(shifted.max()) > high - low:
            shifted = np.where((shifted < 0) | (shifted > high - low), high - low + 1, shifted)
        return table[shifted]
    order = np.argsort(numbers)
    at = np.searchsorted(numbers[order], ids).clip(max=len(numbers) - 1)
    return np.where(numbers[order][at] == ids, order[at], -1)


def _listed(values: Sequence[Any]) -> str:
    shown = ", ".join(str(v) for v in values[:6])
    return f"{shown}, … ({len(values):,})" if len(values) > 6 else shown or "none"


def finish(
    table: Table,
    images: Sequence[Image],
    classes: Sequence[str],
    class_ids: Sequence[int],
    faults: Faults,
    **extra: Any,
) -> Annotations:
    """Checks every record and builds the annotations."""
    t, b = table, table.boxes
    size = b[:, 2:] if t.xywh else b[:, 2:] - b[:, :2]
    corners = np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1) if t.xywh else b
    bad = np.zeros(len(b), bool)

    def look(mask: np.ndarray, reason: str, told: Callable[[int], str]) -> None:
        nonlocal bad
        if mask.any():
            mask = mask & ~bad
            faults.check(mask, reason, lambda row: (t.name(row), told(row)))
            bad = bad | mask

    look(
        t.image < 0,
        "unknown image",
        lambda r: (
            f"image {t.given(r)[0]!r} is none of the images: {_listed([i.id for i in images])}"
        ),
    )
    look(
        t.label < 0,
        "unknown class",
        lambda r: (
            f"class {t.given(r)[1]!r} is none of the classes: {_listed(class_ids)} "
            f"({_listed(classes)})"
        ),
    )
    if not np.isfinite(b.sum()):
        look(
            np.asarray(~np.isfinite(b).all(axis=1)),
            "box not finite",
            lambda r: f"box {b[r].tolist()}: four finite numbers are expected",
        )
    look(
        np.asarray((size < 0).any(axis=1)),
        "negative box",
        lambda r: (
            f"box {b[r].tolist()} has width {size[r, 0]:g} and height {size[r, 1]:g}; expected "
            + ("[x, y, width, height]" if t.xywh else "[left, top, right, bottom]")
            + " with sizes of at least 0"
        ),
    )
    notes: dict[str, int] = {}
    score, ids = t.score, t.ids
    if score is not None:
        look(
            ~np.isfinite(score),
            "score not finite",
            lambda r: f"score {score[r]}: a finite number is expected",
        )
    else:
        _look_at_objects(t, corners, size, images, look, notes)
    if ids is not None and not (len(ids) < 2 or bool(np.all(ids[1:] > ids[:-1]))):
        first = np.zeros(len(ids), bool)
        first[np.unique(ids, return_index=True)[1]] = True
        look(
            ~first,
            "duplicate id",
            lambda r: f"id {ids[r]} has been given to an earlier record; ids must differ",
        )
    kept: dict[str, Any] = {**extra, "notes": notes}
    if t.xywh:
        kept["xywh"] = b
    if t.ids is not None:
        kept["ids"] = t.ids
    found = Annotations(
        images=tuple(images), classes=tuple(classes), class_ids=tuple(class_ids), image=t.image,
        label=t.label, boxes=corners, score=t.score, crowd=t.crowd, difficult=t.difficult,
        area=t.area, skipped=faults.counts, extra=kept,
    )  # fmt: skip
    return found.select(~bad) if bad.any() else found


def _look_at_objects(
    t: Table,
    corners: np.ndarray,
    size: np.ndarray,
    images: Sequence[Image],
    look: Callable[[np.ndarray, str, Callable[[int], str]], None],
    notes: dict[str, int],
) -> None:
    """Objects, unlike detections, have a size and lie within their image."""
    empty = (size == 0).any(axis=1)
    if empty.any():
        notes["boxes without area"] = int(empty.sum())
    sides = np.array([[i.width, i.height] for i in images] or [[0, 0]], np.float64)[t.image]
    known = (sides > 0).all(axis=1) & (t.image >= 0)
    outside = known & ((corners[:, :2] >= sides) | (corners[:, 2:] <= 0)).any(axis=1)
    look(
        outside & ~empty,
        "box outside",
        lambda r: (
            f"box {t.boxes[r].tolist()} lies outside of its image of "
            f"{sides[r, 0]:g} x {sides[r, 1]:g} pixels"
        ),
    )
    beyond = known & ~outside & ((corners[:, 2:] > sides + 1) | (corners[:, :2] < -1)).any(axis=1)
    if beyond.any():
        notes["boxes that reach beyond their image"] = int(beyond.sum())
