"""Annotation and prediction files of ScreenSpot, ScreenSpot-V2 and ScreenSpot-Pro."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "KINDS",
    "Annotation",
    "held",
    "match",
    "read_annotations",
    "read_predictions",
    "size_of",
]

KINDS = ("text", "icon")
TEXTS = ("text", "response", "prediction", "output", "point", "pred")
GROUPS = {
    "ios": "mobile", "android": "mobile", "mobile": "mobile", "windows": "desktop",
    "macos": "desktop", "pc": "desktop", "desktop": "desktop", "web": "web", "tool": "web",
    "shop": "web", "gitlab": "web", "forum": "web",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One sample.

    Attributes:
        id: By which predictions may name it ("" for none).
        image: Name of the screenshot's file.
        box: Left, top, right, bottom in pixels.
        kind: "text" or "icon".
        group: Such as "mobile", or "CAD" in ScreenSpot-Pro.
        platform: Platform or source ("" for none).
        application: Of ScreenSpot-Pro ("" for none).
        size: Rows and columns of the screenshot, where the file says so.
    """

    id: str
    image: str
    box: tuple[float, float, float, float]
    kind: str
    group: str
    platform: str
    application: str
    size: tuple[int, int] | None


def read_annotations(source: Any, benchmark: str) -> list[Annotation]:
    """The samples of a file, a folder of files or loaded objects.

    Args:
        source: As in `score_screenspot`.
        benchmark: What a box means.

    Returns:
        At least one.

    Raises:
        ValueError: Not as published.
    """
    rows: list[tuple[str, Any]] = []
    if isinstance(source, str | Path):
        path = Path(source)
        paths = sorted(path.glob("*.json")) if path.is_dir() else [path]
        for one in paths:
            rows += [(one.stem, row) for row in _loaded(one)]
    else:
        rows = [("", row) for row in source]
    if not rows:
        raise ValueError(f"no annotations in {source!r}: expected at least one sample")
    return [
        _annotation(row, stem, place, benchmark=benchmark) for place, (stem, row) in enumerate(rows)
    ]


def read_predictions(source: Any) -> Any:
    """What a file of predictions holds, or what was given."""
    return _loaded(Path(source)) if isinstance(source, str | Path) else source


def held(prediction: Mapping[str, Any]) -> Any:
    """The text or point of an entry; None for none."""
    return next((prediction[name] for name in TEXTS if prediction.get(name) is not None), None)


def match(samples: Sequence[Annotation], predictions: Any) -> list[Any]:
    """The prediction of each sample, or None.

    Args:
        samples: In the order of the annotations.
        predictions: In the same order, or by ids.

    Returns:
        As many as samples.

    Raises:
        ValueError: Another number of predictions without ids, ids that no sample has, an id twice.
    """
    if isinstance(predictions, Mapping):
        return _by_id(samples, predictions.items())
    listed = list(predictions)
    named = [isinstance(one, Mapping) and "id" in one for one in listed]
    if listed and all(named):
        return _by_id(samples, ((one["id"], one) for one in listed))
    if any(named):
        raise ValueError(
            f"{sum(named)} of {len(listed)} predictions have an id: expected all or none"
        )
    if len(listed) != len(samples):
        raise ValueError(
            f"{len(listed)} predictions for {len(samples)} annotations: expected as many, with "
            "None where one is missing, or predictions with an id"
        )
    return [None if isinstance(one, Mapping) and held(one) is None else one for one in listed]


def size_of(sample: Annotation, images: str | Path | None) -> tuple[int, int]:
    """Rows and columns of a sample's screenshot.

    Args:
        sample: Whose.
        images: Folder of screenshots, for annotations that do not say.

    Returns:
        From the annotation or from the image's header.

    Raises:
        ValueError: Neither says.
    """
    if sample.size:
        return sample.size
    if images is None:
        raise ValueError(
            f"the size of {sample.image!r} is not in its annotation and is needed for points that "
            "are not in pixels: pass images=<folder of the screenshots>"
        )
    from PIL import Image

    path = Path(images) / sample.image
    if not path.is_file():
        raise ValueError(f"no screenshot {path}: its size is needed")
    with Image.open(path) as image:
        return image.height, image.width


def _by_id(samples: Sequence[Annotation], pairs: Iterable[tuple[Any, Any]]) -> list[Any]:
    places: dict[str, int] = {}
    for place, sample in enumerate(samples):
        if sample.id and places.setdefault(sample.id, place) != place:
            raise ValueError(f"two annotations have the id {sample.id!r}: expected one")
    found: list[Any] = [None] * len(samples)
    seen: set[str] = set()
    for name, prediction in pairs:
        name = str(name)
        if name not in places:
            raise ValueError(f"the prediction of {name!r} belongs to no annotation: check the ids")
        if name in seen:
            raise ValueError(f"two predictions have the id {name!r}: expected one")
        seen.add(name)
        empty = isinstance(prediction, Mapping) and held(prediction) is None
        found[places[name]] = None if empty else prediction
    return found


def _loaded(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"no file {path}")
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def _annotation(row: Any, stem: str, place: int, *, benchmark: str) -> Annotation:
    where = f"annotation {place}{f' of {stem}' if stem else ''}"
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is {type(row).__name__}: expected an object with bbox")
    pro = benchmark == "screenspot-pro"
    if row.get("gt_type", "positive") != "positive":
        raise ValueError(f"{where} has gt_type {row['gt_type']!r}: expected samples with a box")
    kind = row.get("ui_type" if pro else "data_type")
    if kind not in KINDS:
        name = "ui_type" if pro else "data_type"
        raise ValueError(f"{where} has {name} {kind!r}: expected text or icon ({benchmark})")
    source = str(row.get("platform" if pro else "data_source") or "")
    image = str(row.get("img_filename") or "")
    size = row.get("img_size")
    return Annotation(
        str(row.get("id", "" if pro else place)),
        image,
        _box(row.get("bbox"), where, corners=pro),
        kind,
        str(row.get("group") or "") if pro else _group(stem, image, source),
        source,
        str(row.get("application") or "") if pro else "",
        (int(size[1]), int(size[0])) if size else None,
    )


def _box(box: Any, where: str, *, corners: bool) -> tuple[float, float, float, float]:
    form = "left, top, right, bottom" if corners else "x, y, width, height"
    if not isinstance(box, Sequence) or isinstance(box, str) or len(box) != 4:
        raise ValueError(f"{where} has bbox {box!r}: expected {form} in pixels")
    left, top, right, bottom = map(float, box)
    if not corners:
        right, bottom = left + right, top + bottom
    if not (left <= right and top <= bottom):
        raise ValueError(
            f"{where} has bbox {box!r}, which is empty as {form}: is this another benchmark?"
        )
    if max(left, top, right, bottom) <= 1:
        raise ValueError(f"{where} has bbox {box!r} in fractions: expected {form} in pixels")
    return left, top, right, bottom


def _group(stem: str, image: str, source: str) -> str:
    for part in (*stem.lower().split("_"), image.lower().partition("_")[0], source.lower()):
        if part in GROUPS:
            return GROUPS[part]
    return source
