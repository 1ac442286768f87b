"""Which file is what: the layouts of folders that data sets come in.

    CLASS/FILE, SPLIT/CLASS/FILE                    a class for each folder
    images/FILE + masks/FILE, also with splits      a mask for each picture

A split is a folder named train, val or test (and the usual variants). Folders that enclose
everything are ignored. What fits no layout is noted as a problem, not passed over.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from paragone.vision._data_files import Files, is_image

__all__ = ["Item", "Layout", "class_folders", "image_and_mask_folders", "pairs_of_folders"]

SPLITS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
_IMAGES = {"images", "image", "imgs", "img", "jpegimages", "pictures", "x"}
_MASKS = {
    "masks", "mask", "labels", "label", "segmentationclass", "annotations", "gt", "segments", "y",
}  # fmt: skip
_TAIL = re.compile(r"[_\-. ]?(mask|masks|label|labels|seg|segmentation|gt)$", re.IGNORECASE)


@dataclasses.dataclass
class Item:
    """One picture of a data set, before it is decoded.

    Attributes:
        name: Name of its file.
        split: "train", "validation", "test", or "": not said.
        label: Class, or -1.
        mask: Name of its mask's file, or "".
        boxes: (n, 4) float64, or None.
        labels: (n,) int64, or None.
        ignored: (n,) bool, or None.
        size: Height and width that the boxes refer to, or None: not said.
        row: Row of the image in the annotations, or -1.
    """

    name: str
    split: str = ""
    label: int = -1
    mask: str = ""
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    ignored: np.ndarray | None = None
    size: tuple[int, int] | None = None
    row: int = -1


@dataclasses.dataclass
class Layout:
    """What a reader found.

    Attributes:
        classes: Names of the classes; empty for masks, whose values tell.
        items: The pictures.
        skipped: Count of what was left out, by reason.
        problems: One line for each of them.
    """

    classes: tuple[str, ...]
    items: list[Item]
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    problems: list[str] = dataclasses.field(default_factory=list)

    def skip(self, reason: str, problem: str) -> None:
        """Counts something that is left out."""
        self.skipped[reason] += 1
        self.problems.append(problem)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Key that sorts 2 before 10."""
    return [(0, int(p)) if p.isdigit() else (1, p) for p in re.split(r"(\d+)", name) if p]


def _split_of(parts: Sequence[str]) -> str:
    return next((SPLITS[p.lower()] for p in parts if p.lower() in SPLITS), "")


def _pictures(files: Files) -> list[str]:
    names = [n for n in files.names if is_image(n) and "__MACOSX" not in n]
    if not names:
        found = ", ".join(files.names[:3]) or "nothing at all"
        raise ValueError(f"{files.path}: expected pictures (JPEG, PNG, …), found {found}")
    return names


def class_folders(files: Files) -> Layout:
    """Reads a folder of folders: each is a class.

    Raises:
        ValueError: There are no pictures, or fewer than two classes.
    """
    names = _pictures(files)
    paths = {name: list(PurePosixPath(name).parts[:-1]) for name in names}
    while _enclosed(list(paths.values())):
        paths = {name: folders[1:] for name, folders in paths.items()}
    firsts = {folders[0].lower() if folders else "" for folders in paths.values()}
    with_splits = firsts <= set(SPLITS)
    layout = Layout((), [])
    found: list[tuple[str, str, str]] = []
    for name, folders in paths.items():
        split = SPLITS[folders[0].lower()] if with_splits else ""
        rest = folders[1:] if with_splits else folders
        if rest:
            found.append((name, split, rest[0]))
        else:
            layout.skip("outside of a class folder", f"{files.path}: {name}: expected CLASS/{name}")
    trained = {c for _, split, c in found if split in ("train", "")}
    layout.classes = tuple(sorted(trained, key=_natural))
    if len(layout.classes) < 2:
        which = f"one class, {layout.classes[0]!r}" if layout.classes else "no class folder"
        raise ValueError(
            f"{files.path}: expected a folder for each of at least two classes, found {which} "
            f"({len(names)} pictures)"
        )
    number = {c: i for i, c in enumerate(layout.classes)}
    for name, split, c in found:
        if c in number:
            layout.items.append(Item(name, split, number[c]))
        else:
            layout.skip(
                "class without training images",
                f"{files.path}: {name}: expected a class of the training images, found {c!r}",
            )
    return layout


def _enclosed(folders: list[list[str]]) -> bool:
    """Whether all pictures lie in one folder that itself holds folders."""
    firsts = {f[0] if f else "" for f in folders}
    first = next(iter(firsts))
    several = any(len(f) > 1 for f in folders)
    return len(firsts) == 1 and first != "" and several and first.lower() not in SPLITS


def pairs_of_folders(files: Files) -> dict[tuple, list[str]]:
    """Pictures by place and stem: under an images folder first, under a masks folder second."""
    pairs: dict[tuple, list[str]] = {}
    for name in files.names:
        if not is_image(name):
            continue
        path = PurePosixPath(name)
        folders = list(path.parts[:-1])
        for kind, known in enumerate((_IMAGES, _MASKS)):
            place = next((i for i, f in enumerate(folders) if f.lower() in known), None)
            if place is None:
                continue
            stem = _TAIL.sub("", path.stem) if kind else path.stem
            key = (*folders[:place], "", *folders[place + 1 :], stem)
            pairs.setdefault(key, ["", ""])[kind] = name
            break
    return pairs


def image_and_mask_folders(files: Files) -> Layout:
    """Reads folders of pictures and of masks with the same names.

    Raises:
        ValueError: No picture has a mask.
    """
    _pictures(files)
    layout = Layout((), [])
    pairs = pairs_of_folders(files)
    for key in sorted(pairs, key=lambda k: _natural("/".join(k))):
        image, mask = pairs[key]
        if image and mask:
            layout.items.append(Item(image, _split_of(key[:-1]), mask=mask))
        elif image:
            layout.skip("image without mask", f"{files.path}: {image}: expected a mask {key[-1]}.*")
        else:
            layout.skip("mask without image", f"{files.path}: {mask}: expected an image {key[-1]}")
    if not layout.items:
        raise ValueError(
            f"{files.path}: expected images/NAME and masks/NAME, found no such pair among "
            f"{len(files.names)} files"
        )
    return layout
