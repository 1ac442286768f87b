"""YOLO's text files: `class cx cy width height [score]` as shares of the image, a line a box."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from paragone.vision._precision_table import Faults, Table, finish
from paragone.vision.annotations import Annotations, Image

__all__ = ["class_names", "read", "write"]

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_NAMES = {"classes", "labels", "obj", "train", "val", "test", "README"}


def class_names(folder: Path) -> tuple[str, ...] | None:
    """Names from `classes.txt`, `obj.names` or the `names` of a YAML file, here or above."""
    for place in (folder, folder.parent):
        for name in ("classes.txt", "obj.names"):
            if (place / name).is_file():
                lines = (place / name).read_text(encoding="utf-8").splitlines()
                return tuple(line.strip() for line in lines if line.strip())
        for file in sorted(place.glob("*.yaml")):
            text = file.read_text(encoding="utf-8")
            found = re.search(r"^names:\s*(\[[^\]]*\]|(?:\n\s*(?:-|\d+:).*)+)", text, re.MULTILINE)
            if found:
                words = re.split(r"[,\n\[\]]", found[1])
                bare = (re.sub(r"^\s*(-|\d+:)?\s*", "", word).strip("'\" ") for word in words)
                return tuple(name for name in bare if name)
    return None


def _pictures(folder: Path, given: str | os.PathLike[str] | None) -> dict[str, Path]:
    if given is not None:
        places = [Path(given)]
    else:
        places = [folder.parent / "images", folder / "images", folder]
        places += [Path(*("images" if p == "labels" else p for p in folder.parts))]
    found: dict[str, Path] = {}
    for place in places:
        for file in sorted(place.glob("*")) if place.is_dir() else ():
            if file.suffix.lower() in _PICTURES:
                found.setdefault(file.stem, file)
    return found


def read(
    source: Path,
    faults: Faults,
    like: Annotations | None,
    classes: tuple[str, ...] | None,
    images: str | os.PathLike[str] | None,
) -> Annotations:
    """Reads a folder of texts, or one with `labels/`; sizes come from the images or `like`."""
    folder = source / "labels" if (source / "labels").is_dir() else source
    files = [folder] if folder.is_file() else sorted(folder.glob("*.txt"))
    folder = folder.parent if folder.is_file() else folder
    files = [f for f in files if f.stem not in _NAMES]
    pictures = {} if like is not None else _pictures(folder, images)
    listed = list(like.images) if like is not None else _sized(files, pictures, folder, faults)
    place = {str(image.id): i for i, image in enumerate(listed)}
    place |= {Path(image.file).stem: i for i, image in enumerate(listed) if image.file}
    lines, names, given = [], [], []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            record = f"{file.name}, line {number}"
            try:
                numbers = [float(word) for word in line.split()]
            except ValueError:
                numbers = []
            if len(numbers) not in (5, 6) or not float(numbers[0]).is_integer():
                faults.found("incomplete record", record, (
                    f"{line[:60]!r}: expected class cx cy width height [score]"))  # fmt: skip
                continue
            lines.append([place.get(file.stem, -1), *numbers, *([np.nan] * (6 - len(numbers)))])
            names.append(record)
            given.append((file.stem, int(numbers[0])))
    table = np.array(lines, np.float64).reshape(-1, 7)
    known = like.classes if like is not None else classes or class_names(folder)
    if known is None:
        known = tuple(str(i) for i in range(int(table[:, 1].max(initial=-1)) + 1))
    label = table[:, 1].astype(np.int64)
    label = np.where((label < 0) | (label >= len(known)), -1, label)
    row = table[:, 0].astype(np.int64)
    sides = np.array([[i.width, i.height] for i in listed] or [[1, 1]], np.float64)[row]
    half = table[:, 4:6] / 2
    boxes = np.concatenate([table[:, 2:4] - half, table[:, 2:4] + half], axis=1)
    scored = len(table) > 0 and not np.isnan(table[:, 6]).any()
    if not scored and not np.isnan(table[:, 6]).all():
        raise faults.stop("", "some lines have a score and some have none; all or none must")
    made = Table(
        image=row, label=label, boxes=boxes * np.concatenate([sides, sides], axis=1),
        score=table[:, 6] if scored else None, name=lambda r: names[r], given=lambda r: given[r],
    )  # fmt: skip
    ids = like.class_ids if like is not None else range(len(known))
    return finish(made, listed, known, tuple(ids), faults)


def _sized(
    files: list[Path], pictures: dict[str, Path], folder: Path, faults: Faults
) -> list[Image]:
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    found = []
    for stem in sorted({f.stem for f in files} | set(pictures)):
        if stem not in pictures:
            raise faults.stop(f"{stem}.txt", (
                "no image of that name, and shares of an unknown size are no pixels; give its "
                "folder as images, or the data set as like"))  # fmt: skip
        try:
            with Pillow.open(pictures[stem]) as picture:
                width, height = picture.size
        except (UnidentifiedImageError, OSError) as error:
            raise faults.stop(str(pictures[stem]), f"no image that can be read ({error})") from None
        file = os.path.relpath(pictures[stem], folder.parent)
        found.append(Image(stem, file, height, width))
    return found


def write(annotations: Annotations, path: Path) -> None:
    """Writes a text for each image, and the classes, into a folder."""
    a = annotations
    path.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(a.images):
        rows = np.flatnonzero(a.image == i)
        if len(rows) and not (image.width and image.height):
            raise ValueError(
                f"image {image.id!r} has no known size, which YOLO's shares need; set its width "
                "and height"
            )
        sides = np.array([image.width or 1, image.height or 1], np.float64)
        middle = (a.boxes[rows, :2] + a.boxes[rows, 2:]) / 2 / sides
        size = (a.boxes[rows, 2:] - a.boxes[rows, :2]) / sides
        lines = []
        for j, row in enumerate(rows):
            numbers = [*middle[j].tolist(), *size[j].tolist()]
            numbers += [] if a.score is None else [float(a.score[row])]
            lines.append(" ".join([str(a.label[row]), *(repr(n) for n in numbers)]) + "\n")
        stem = Path(image.file).stem if image.file else Path(str(image.id)).name
        (path / f"{stem}.txt").write_text("".join(lines), encoding="utf-8")
    (path / "classes.txt").write_text("".join(f"{n}\n" for n in a.classes), encoding="utf-8")
