"""Pascal VOC's XML files: one for each image, pixels counted from 1, both ends in the box.

References:
    Everingham et al. (2010), "The Pascal visual object classes challenge", section 3.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paragone.vision._precision_table import Faults, Table, finish, rows_of
from paragone.vision.annotations import Annotations, Image

__all__ = ["read", "write"]


class _Plain(ET.TreeBuilder):
    """Refuses a document type: the entities that one declares may name each other without end."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ET.ParseError("a DOCTYPE, which annotations have no use for")


def _files(source: Path, split: str | None, faults: Faults) -> list[Path]:
    if source.is_file():
        return [source]
    folder = source / "Annotations" if (source / "Annotations").is_dir() else source
    if split is None:
        return sorted(folder.glob("*.xml"))
    listed = source / "ImageSets" / "Main" / f"{split}.txt"
    if not listed.is_file():
        raise faults.stop("", f"split={split!r}: there is no {listed}")
    names = [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]
    files = [folder / f"{name}.xml" for name in names]
    for row, file in enumerate(files):
        if not file.is_file():
            raise faults.stop(f"{listed.name}, line {row + 1}", f"there is no {file}")
    return files


def _text(node: Any, path: str, default: str = "") -> str:
    found = node.find(path)
    return default if found is None or found.text is None else found.text.strip()


def _whole(text: str) -> int:
    try:
        return int(float(text))
    except ValueError:
        return 0


def read(
    source: Path,
    faults: Faults,
    like: Annotations | None,
    classes: tuple[str, ...] | None,
    split: str | None,
    first_pixel: Any,
) -> Annotations:
    """Reads a file, a folder of files, or a folder with `Annotations/` and `ImageSets/`."""
    if first_pixel not in ("auto", 0, 1):
        raise ValueError(f"first_pixel={first_pixel!r} is none of 'auto', 0, 1")
    images, names, boxes, labels, rows, difficult = [], [], [], [], [], []
    pictures = "JPEGImages/" if (source / "JPEGImages").is_dir() else ""
    for file in _files(source, split, faults):
        try:
            root = ET.parse(file, ET.XMLParser(target=_Plain())).getroot()
        except ET.ParseError as error:
            faults.found("broken file", file.name, f"broken XML: {error}; expected <annotation>")
            continue
        there = _text(root, "filename", f"{file.stem}.jpg")
        images.append(Image(
            file.stem, pictures + there, _whole(_text(root, "size/height")),
            _whole(_text(root, "size/width")),
        ))  # fmt: skip
        for number, node in enumerate(root.findall("object")):
            ends = [_text(node, f"bndbox/{end}") for end in ("xmin", "ymin", "xmax", "ymax")]
            record = f"{file.name}, object {number}"
            try:
                box = [float(end) for end in ends]
            except ValueError:
                told = f"bndbox {ends}: expected numbers in xmin, ymin, xmax, ymax"
                faults.found("incomplete record", record, told)
                continue
            boxes.append(box)
            names.append(record)
            labels.append(_text(node, "name"))
            rows.append(len(images) - 1)
            difficult.append(_text(node, "difficult", "0") not in ("0", ""))
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    if first_pixel == "auto":
        first_pixel = int(not (corners[:, :2] == 0).any())
    corners[:, :2] -= first_pixel
    row = np.array(rows, np.int64)
    if like is not None:
        row = rows_of(np.array([i.id for i in images] + [None], object)[:-1],
                      [i.id for i in like.images])[row]  # fmt: skip
    known = like.classes if like is not None else classes or tuple(sorted(set(labels)))
    ids = like.class_ids if like is not None else tuple(range(len(known)))
    given = row if like is None else np.array(rows, np.int64)
    table = Table(
        image=row, label=rows_of(np.array([*labels, None], object)[:-1], known), boxes=corners,
        difficult=np.array(difficult, bool), name=lambda r: names[r],
        given=lambda r: (images[given[r]].id, labels[r]),
    )  # fmt: skip
    shown: Sequence[Image] = images if like is None else like.images
    return finish(table, shown, known, ids, faults, first_pixel=first_pixel)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def write(annotations: Annotations, path: Path) -> None:
    """Writes one XML file for each image into a folder."""
    a = annotations
    if a.score is not None:
        raise ValueError("VOC's XML has no place for scores; write detections as coco or yolo")
    path.mkdir(parents=True, exist_ok=True)
    first = int(a.extra.get("first_pixel", 1))
    for i, image in enumerate(a.images):
        if Path(str(image.id)).name != str(image.id):
            raise ValueError(f"image {image.id!r}: its file would lie outside {path}; rename it")
        root = ET.Element("annotation")
        ET.SubElement(root, "filename").text = Path(image.file).name or f"{image.id}.jpg"
        size = ET.SubElement(root, "size")
        for name, value in (("width", image.width), ("height", image.height), ("depth", 3)):
            ET.SubElement(size, name).text = str(value)
        for row in np.flatnonzero(a.image == i):
            node = ET.SubElement(root, "object")
            ET.SubElement(node, "name").text = a.classes[a.label[row]]
            hard = a.difficult is not None and a.difficult[row]
            ET.SubElement(node, "difficult").text = str(int(hard))
            box = ET.SubElement(node, "bndbox")
            shift = (first, first, 0, 0)
            for name, value, more in zip(
                ("xmin", "ymin", "xmax", "ymax"), a.boxes[row], shift, strict=True
            ):
                ET.SubElement(box, name).text = _number(value + more)
        ET.indent(root)
        ET.ElementTree(root).write(path / f"{image.id}.xml", encoding="utf-8")
