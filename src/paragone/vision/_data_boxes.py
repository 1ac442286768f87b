"""Data sets with boxes: which annotation file goes with which picture, in a folder or an archive.

    Annotations/*.xml, JPEGImages, ImageSets/Main   Pascal VOC
    annotations/instances_train.json, …, or one     COCO
    images/…, labels/…/*.txt, data.yaml             YOLO

`read_annotations` reads the files; here the pictures are found, and the splits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from paragone.vision._data_files import Files, is_image
from paragone.vision._data_layouts import SPLITS, Item, Layout
from paragone.vision._precision_yolo import class_names
from paragone.vision.annotations import Annotations, read_annotations

__all__ = ["boxed_images", "has_boxes"]


@dataclasses.dataclass(frozen=True)
class _Part:
    """Annotations, the folder that their pictures' names start from, and their split."""

    annotations: Annotations
    base: str
    split: str = ""


def _kinds(files: Files) -> dict[str, list[str]]:
    """Names of annotation files by format."""
    names = [PurePosixPath(n) for n in files.names]
    jsons = [n for n in names if n.suffix == ".json"]
    marked = [n for n in jsons if n.name.startswith("instances")]
    return {
        "voc": [str(n) for n in names if n.suffix == ".xml"],
        "coco": [str(n) for n in marked or jsons],
        "yolo": [str(n) for n in names if n.suffix == ".txt" and "labels" in n.parts[:-1]],
    }


def has_boxes(files: Files, source: Path) -> bool:
    """Whether there are annotation files.

    Args:
        files: The folder or archive.
        source: What the user named; a JSON file is one.
    """
    return source.suffix.lower() == ".json" or any(_kinds(files).values())


@contextlib.contextmanager
def _on_disk(files: Files, wanted: Sequence[str]) -> Iterator[Path]:
    """The folder itself, or a passing one with these files of the archive."""
    if files.path.is_dir():
        yield files.path
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                raise ValueError(f"{files.path}: {name}: expected a name inside of the archive")
            place = Path(folder, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(files.read(name))
        yield Path(folder)


def _read(path: Path, layout: Layout, **options: Any) -> Annotations:
    """Reads annotations; what is left out is counted and told, with names of the data set."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = read_annotations(path, problems="skip", **options)
    layout.skipped.update(found.skipped)
    layout.problems += [str(warning.message) for warning in told]
    return found


def boxed_images(source: Path, files: Files) -> tuple[Layout, Annotations]:
    """Reads the pictures of a data set with boxes, and all of its annotations.

    Args:
        source: What the user named: a folder, an archive or a COCO file.
        files: Where the pictures are.

    Returns:
        The pictures, and the annotations whose rows of images `Item.row` gives.

    Raises:
        ValueError: There are no annotations, or no picture of any.
    """
    layout = Layout((), [])
    if source.suffix.lower() == ".json":
        parts = [_Part(_read(source, layout, format="coco"), "")]
    else:
        kinds = _kinds(files)
        if kinds["voc"]:
            parts = _voc(files, kinds["voc"], layout)
        elif kinds["coco"]:
            parts = _coco(files, kinds["coco"], layout)
        elif kinds["yolo"]:
            parts = _yolo(files, kinds["yolo"], layout)
        else:
            raise ValueError(
                f"{files.path}: expected annotations of objects (VOC's XML, COCO's JSON, YOLO's "
                f"labels/*.txt), found none among {len(files.names)} files"
            )
    every = _joined(parts, files)
    layout.classes = every.classes
    _match(layout, parts, every, files)
    if not layout.items:
        raise ValueError(
            f"{files.path}: none of the {len(every.images)} annotated pictures is there, such as "
            f"{every.images[0].file or every.images[0].id!r}" if every.images
            else f"{files.path}: the annotations name no picture"
        )  # fmt: skip
    return layout, every


def _voc(files: Files, names: list[str], layout: Layout) -> list[_Part]:
    base = PurePosixPath(names[0]).parent
    base = base.parent if base.name == "Annotations" else base
    lists = [n for n in files.names if "ImageSets/Main/" in n and n.endswith(".txt")]
    with _on_disk(files, names) as folder:
        place = folder / base
        if any(str(base / "JPEGImages") in n for n in files.names):
            (place / "JPEGImages").mkdir(exist_ok=True)
        found = _read(place, layout, format="voc")
    split: dict[str, str] = {}
    for name in sorted(lists, key=lambda n: "trainval" not in n):
        kind = PurePosixPath(name).stem
        kind = "train" if kind == "trainval" else SPLITS.get(kind, "")
        lines = files.read(name).decode("utf-8", "replace").splitlines() if kind else []
        split.update((line.split()[0], kind) for line in lines if line.strip())
    rows: dict[str, list[int]] = {}
    for i, image in enumerate(found.images):
        rows.setdefault(split.get(str(image.id), "" if not split else "none"), []).append(i)
    if unused := len(rows.pop("none", [])):
        layout.skipped["in no list of ImageSets"] += unused
        layout.problems.append(f"{files.path}: {unused} pictures are in no list of ImageSets/Main")
    parts = [_Part(found.of_images(chosen), str(base), kind) for kind, chosen in rows.items()]
    return parts or [_Part(found, str(base))]


def _coco(files: Files, names: list[str], layout: Layout) -> list[_Part]:
    parts = []
    with _on_disk(files, names) as folder:
        for name in names:
            stem = PurePosixPath(name).stem.lower()
            words = [*stem.replace("-", "_").split("_"), *PurePosixPath(name).parts[:-1]]
            kinds = (SPLITS.get(w.lower().rstrip("0123456789"), "") for w in words)
            found = _read(folder / name, layout, format="coco")
            parts.append(
                _Part(found, str(PurePosixPath(name).parent), next(filter(None, kinds), ""))
            )
    return parts


def _yolo(files: Files, names: list[str], layout: Layout) -> list[_Part]:
    folders = sorted({str(PurePosixPath(n).parent) for n in names})
    parts = []
    with _on_disk(files, files.names) as folder:
        root = str(folders[0]).split("labels", maxsplit=1)[0]
        known = class_names(folder / root)
        for place in folders:
            found = _read(folder / place, layout, format="yolo", classes=known)
            kinds = (SPLITS.get(w.lower(), "") for w in PurePosixPath(place).parts)
            base = str(PurePosixPath(place).parent)
            parts.append(_Part(found, base, next(filter(None, kinds), "")))
    return parts


def _joined(parts: list[_Part], files: Files) -> Annotations:
    """All parts as one; they must agree on the classes."""
    first = parts[0].annotations
    for part in parts[1:]:
        if part.annotations.classes != first.classes:
            raise ValueError(
                f"{files.path}: expected the same classes in all annotation files, found "
                f"{', '.join(first.classes[:5])} and {', '.join(part.annotations.classes[:5])}"
            )
    if len(parts) == 1:
        return first
    counts = np.cumsum([0, *(len(p.annotations.images) for p in parts)])
    columns: dict[str, Any] = {}
    for name in ("image", "label", "boxes", "crowd", "difficult", "area"):
        given = [getattr(p.annotations, name) for p in parts]
        if name == "image":
            given = [g + start for g, start in zip(given, counts, strict=False)]
        if all(g is None for g in given):
            columns[name] = None
            continue
        sizes = [len(p.annotations) for p in parts]
        filled = [np.zeros(n, bool) if g is None else g for g, n in zip(given, sizes, strict=True)]
        columns[name] = np.concatenate(filled)
    images = tuple(image for p in parts for image in p.annotations.images)
    return dataclasses.replace(first, images=images, skipped={}, extra={}, **columns)


def _match(layout: Layout, parts: list[_Part], every: Annotations, files: Files) -> None:
    """Finds each annotated picture, by its path or by its name alone if that is unique."""
    known = {n for n in files.names if is_image(n)}
    alone: dict[str, str] = {}
    for name in sorted(known):
        for key in (PurePosixPath(name).name, PurePosixPath(name).stem):
            alone[key] = "" if key in alone and alone[key] != name else name
    targets = every.targets()
    order = np.argsort(every.image, kind="stable")
    ends = np.searchsorted(every.image[order], np.arange(len(every.images) + 1))
    ignored = np.zeros(len(every), bool)
    for column in (every.crowd, every.difficult):
        ignored |= False if column is None else column
    used: set[str] = set()
    places = [(p.base, p.split) for p in parts for _ in p.annotations.images]
    for row, (image, (base, split)) in enumerate(zip(every.images, places, strict=True)):
        file = image.file or str(image.id)
        tried = (os.path.normpath(os.path.join(base, file)), os.path.normpath(file))
        name = next((t for t in tried if t in known), "")
        name = name or alone.get(PurePosixPath(file).name) or ""
        if not name and isinstance(image.id, str):
            name = alone.get(image.id, "")
        if not name:
            layout.skip("annotated image missing", f"{files.path}: {file}: expected this picture")
            continue
        if name in used:
            layout.skip("image listed twice", f"{files.path}: {file}: expected each picture once")
            continue
        used.add(name)
        layout.items.append(Item(
            name, split, boxes=targets[row]["boxes"], labels=targets[row]["labels"],
            ignored=ignored[order[ends[row] : ends[row + 1]]], row=row,
            size=(image.height, image.width) if image.height and image.width else None,
        ))  # fmt: skip
    if bare := len(known) - len(used):
        layout.skipped["image without annotations"] += bare
        some = sorted(known - used)[0]
        layout.problems.append(f"{files.path}: {bare} pictures have no annotations, such as {some}")
