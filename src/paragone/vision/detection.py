"""Detection in use: boxes found, drawn, and written where other tools read them.

A trained model is shown each image as it was in validation; its boxes come back to the image's own
pixels. Drawn pictures have a colour for each class; `detections.json` is a list of COCO results,
which `average_precision` and pycocotools take.

References:
    Lin et al. (2014), "Microsoft COCO", arXiv:1405.0312, and its page "Results format".

Shapes: n boxes, H and W height and width.
"""

from __future__ import annotations

import colorsys
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from paragone.vision._data_files import (
    BrokenImageError,
    Files,
    decode_image,
    is_image,
    open_files,
)
from paragone.vision._training_use import Inputs, TrainedModel
from paragone.vision.annotations import Annotations

__all__ = ["Detections", "detect", "draw_boxes"]


class Detections(list):
    """One dict for each image: "name", "boxes" (n, 4), "labels" (n,), "scores" (n,), "size".

    Attributes:
        classes: Names of the classes.
        skipped: A line for each file that is no picture.
        folder: Where pictures and detections.json were written, or None.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.skipped: list[str] = []
        self.folder: Path | None = None

    def results(self, like: Annotations | None = None) -> list[dict[str, Any]]:
        """Returns COCO results: image_id, category_id, bbox (left, top, width, height), score.

        Args:
            like: A data set whose ids of images and classes are used; without it the image's
                name, and the class's number from 1.

        Raises:
            ValueError: The data set has not that image or class.
        """
        ids, kinds = _ids(like), {c: i + 1 for i, c in enumerate(self.classes)}
        if like is not None:
            kinds = dict(zip(like.classes, like.class_ids, strict=True))
        found = []
        for one in self:
            key = one["name"] if like is None else ids.get(PurePosixPath(one["name"]).name)
            if key is None:
                raise ValueError(f"{one['name']}: the annotations have no image of that name")
            for box, label, score in zip(one["boxes"], one["labels"], one["scores"], strict=True):
                name = self.classes[label]
                if name not in kinds:
                    raise ValueError(f"class {name!r} is none of {', '.join(map(str, kinds))}")
                left, top, right, bottom = (float(v) for v in box)
                found.append({
                    "image_id": key, "category_id": kinds[name],
                    "bbox": [left, top, right - left, bottom - top], "score": float(score),
                })  # fmt: skip
        return found


def _ids(like: Annotations | None) -> dict[str, int | str]:
    images = () if like is None else like.images
    return {PurePosixPath(i.file or str(i.id)).name: i.id for i in images}


def detect(
    model: str | os.PathLike[str] | TrainedModel | nn.Module,
    images: str | os.PathLike[str] | Sequence[np.ndarray],
    out: str | os.PathLike[str] | None = None,
    *,
    threshold: float = 0.4,
    classes: Sequence[str] | None = None,
    size: int = 320,
    fit: Literal["stretch", "letterbox"] = "stretch",
    like: Annotations | None = None,
    batch: int = 8,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Detections:
    """Finds objects in images, and draws and writes them if asked to.

    Args:
        model: A run's folder, what `load_model` returns, or a detector with torchvision's call.
        images: A picture, a folder, a zip or a tar of them, or arrays (H, W, 3) uint8.
        out: Folder for drawn pictures and detections.json.
        threshold: Least score of a box that is drawn and returned.
        classes: Names of the classes; None: the model's.
        size: Side in pixels that a detector without a run is given.
        fit: How images are brought to it.
        like: A data set whose ids detections.json uses.
        batch: Images at a time.
        device: "auto", "cpu", "cuda" and so on; of a run's folder.
        progress: Called with images done and images in all.

    Raises:
        ValueError: The model is no detector, or no picture is there.

    Example:
        >>> detect("runs/cells", "slides", out="found")  # doctest: +SKIP
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: a score from 0 to 1")
    trained = _trained(model, size, fit, device)
    names, load = _pictures(images)
    found = Detections(classes if classes is not None else trained.classes)
    if not found.classes:
        count = int(getattr(trained.network, "num_classes", 0))
        found.classes = tuple(str(i) for i in range(count))
    folder = None if out is None else Path(out)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for start in range(0, len(names), batch):
        group = list(_loaded(names[start : start + batch], load, found.skipped))
        answers = trained.predict([pixels for _, pixels in group], batch=batch)
        for (name, pixels), answer in zip(group, answers, strict=True):
            kept = answer["scores"] >= threshold
            one = {k: answer[k][kept] for k in ("boxes", "labels", "scores")}
            found.append({"name": name, **one, "size": pixels.shape[:2]})
            if folder is not None:
                _save(draw_boxes(pixels, **one, classes=found.classes), folder, name, taken)
        if progress is not None:
            progress(min(start + batch, len(names)), len(names))
    if not found:
        raise ValueError(f"no picture could be read: {found.skipped[0]}")
    if folder is not None:
        found.folder = folder
        text = json.dumps(found.results(like))
        (folder / "detections.json").write_text(text, encoding="utf-8")
    return found


def _trained(model: Any, size: int, fit: str, device: str) -> TrainedModel:
    if isinstance(model, str | os.PathLike):
        from paragone.vision.training import load_model

        model = load_model(model, device=device)
    if not isinstance(model, TrainedModel):
        if not isinstance(model, nn.Module):
            raise ValueError(f"{model!r} is no model: give a run's folder, or a detector")
        place = str(next((p.device for p in model.parameters()), "cpu"))
        model = TrainedModel(model, (), Inputs("detect", size, fit, place), {}, {})
    if model.task != "detect":
        raise ValueError(
            f"this model was trained to {model.task}: give one of `train('detect', …)`"
        )
    return model


def _pictures(images: Any) -> tuple[list[str], Callable[[str], np.ndarray]]:
    """Names, and what turns a name into pixels."""
    if not isinstance(images, str | os.PathLike):
        arrays = {f"image-{i}": image for i, image in enumerate(images)}
        if not arrays:
            raise ValueError("there are no images: give at least one")
        return list(arrays), arrays.__getitem__
    path = Path(images)
    if path.is_file() and is_image(path.name):
        return [path.name], lambda _: decode_image(path.read_bytes(), str(path))
    files: Files = open_files(path)
    names = [n for n in files.names if is_image(n)]
    if not names:
        raise ValueError(f"{path}: expected pictures, found {len(files.names)} other files")
    return names, lambda name: decode_image(files.read(name), f"{path}: {name}")


def _loaded(
    names: Sequence[str], load: Callable[[str], np.ndarray], skipped: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    for name in names:
        try:
            yield name, load(name)
        except BrokenImageError as error:
            skipped.append(str(error))


def _save(picture: np.ndarray, folder: Path, name: str, taken: set[str]) -> None:
    path = PurePosixPath(name)
    plain = "-".join(p for p in path.with_suffix("").parts if p not in ("/", "..", "."))
    file, number = f"{plain}.png", 1
    while file in taken:
        number += 1
        file = f"{plain}-{number}.png"
    taken.add(file)
    Image.fromarray(picture).save(folder / file)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None = None,
    classes: Sequence[str] = (),
) -> np.ndarray:
    """Returns a copy of an image with boxes, names and scores drawn into it.

    Args:
        image: (H, W, 3) uint8.
        boxes: (n, 4) left, top, right, bottom in pixels.
        labels: (n,) numbers of classes.
        scores: (n,) or None.
        classes: Names of the classes; numbers without it.

    Example:
        >>> image = np.zeros((40, 60, 3), np.uint8)
        >>> draw_boxes(image, np.array([[5, 9, 30, 30]]), np.array([0]))[9, 20].any()
        np.True_
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    draw = ImageDraw.Draw(picture)
    side = min(picture.size)
    wide = max(1, round(side / 250))
    font: Any = ImageFont.load_default(max(9, round(side / 30)))
    order = range(len(boxes)) if scores is None else np.argsort(scores, kind="stable")
    for i in order:
        label = int(labels[i])
        colour = _colour(label)
        left, top, right, bottom = (float(v) for v in boxes[i])
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), None, colour, wide)
        name = classes[label] if label < len(classes) else str(label)
        text = name if scores is None else f"{name} {scores[i]:.2f}"
        x0, _, x1, y1 = draw.textbbox((0, 0), text, font=font)
        high = y1 + 2
        above = top - high if top >= high else top
        draw.rectangle((left, above, left + x1 - x0 + 4, above + high), colour)
        ink = (0, 0, 0) if sum(colour) > 380 else (255, 255, 255)
        draw.text((left + 2 - x0, above), text, ink, font=font)
    return np.asarray(picture)


def _colour(label: int) -> tuple[int, int, int]:
    """Far apart for neighbouring numbers: turns of the hue by the golden section."""
    red, green, blue = colorsys.hsv_to_rgb((0.1 + 0.618034 * label) % 1, 0.9, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)
