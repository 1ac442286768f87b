"""Average precision behind one call for the study `average_precision_speed`.

Operations: "evaluate" (from loaded objects and detections to the twelve figures) and "files" (from
two JSON files). Loading for the one and writing for the other is done in the first call. Boxes are
drawn: objects of sizes from 8 to 300 pixels in popular and rare classes, detections of which one
in eight lies near an object. `truth` is our own in pycocotools' mode, whose arrays are that tool's
bit for bit in the tests.

Shapes: I images, N detections (N, 7) as image id, x, y, width, height, score, class id; G objects
(G, 9) as id, image id, class id, x, y, width, height, area, crowd.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.vision.annotations import read_annotations
from paragone.vision.average_precision import average_precision

__all__ = ["CocoApi", "Ours", "inputs", "truth"]

_SIDES = (640.0, 480.0)


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    size = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    corner = rng.uniform(size=(count, 2)) * (np.array(_SIDES) - size)
    return np.concatenate([corner, size], axis=1)


def inputs(op: str, images: int, classes: int = 80, each: int = 100, seed: int = 0) -> tuple:
    """The operation, I, K, objects (7.3 an image) and detections (`each` an image)."""
    rng = np.random.default_rng([images, classes, each, seed])
    per_image = rng.poisson(7.3, images)
    total = int(per_image.sum())
    popular = 1 / np.arange(1, classes + 1) ** 0.8
    label = rng.choice(classes, total, p=popular / popular.sum())
    boxes = _boxes(rng, total).round(2)
    area = (boxes[:, 2] * boxes[:, 3] * rng.uniform(0.4, 1, total)).round(3)
    true = np.concatenate([
        np.arange(1, total + 1)[:, None], np.repeat(np.arange(images), per_image)[:, None],
        label[:, None], boxes, area[:, None], (rng.uniform(size=total) < 0.01)[:, None],
    ], axis=1)  # fmt: skip
    count = images * each
    image, found_label = np.repeat(np.arange(images), each), rng.integers(0, classes, count)
    found, score = _boxes(rng, count), 0.6 * rng.uniform(size=count)
    near = np.flatnonzero((rng.uniform(size=count) < 0.12) & (per_image[image] > 0))
    first = np.concatenate([[0], np.cumsum(per_image)])
    goal = first[image[near]] + (rng.uniform(size=len(near)) * per_image[image[near]]).astype(int)
    shift = rng.normal(size=(len(near), 4)) * boxes[goal][:, [2, 3, 2, 3]] * 0.08
    found[near] = boxes[goal] + shift
    found[:, 2:] = np.maximum(found[:, 2:], 1)
    right = rng.uniform(size=len(near)) < 0.9
    found_label[near[right]] = label[goal[right]]
    score[near] += 0.4 * rng.uniform(size=len(near))
    rows = np.concatenate([image[:, None], found, score[:, None], found_label[:, None]], axis=1)
    return op, images, classes, true, rows


def _data_set(images: int, classes: int, true: np.ndarray) -> dict[str, Any]:
    wide, high = map(int, _SIDES)
    return {
        "images": [{"id": i, "width": wide, "height": high, "file_name": f"{i:012d}.jpg"}
                   for i in range(images)],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(classes)],
        "annotations": [
            {"id": int(r[0]), "image_id": int(r[1]), "category_id": int(r[2]), "bbox": r[3:7],
             "area": r[7], "iscrowd": int(r[8])}
            for r in true.tolist()
        ],
    }  # fmt: skip


def _results(rows: np.ndarray) -> list[dict[str, Any]]:
    return [{"image_id": int(r[0]), "category_id": int(r[6]), "bbox": r[1:5], "score": r[5]}
            for r in rows.tolist()]  # fmt: skip


class _Calls:
    """Keeps from the first call on what is loaded or written."""

    def __init__(self) -> None:
        self.kept: Any = None

    def __call__(
        self, op: str, images: int, classes: int, true: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        if self.kept is None:
            folder = tempfile.mkdtemp(prefix="paragone-map-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            paths = [str(Path(folder) / name) for name in ("gt.json", "dt.json")]
            made = _data_set(images, classes, true), _results(rows)
            for path, content in zip(paths, made, strict=True):
                Path(path).write_text(json.dumps(content), encoding="utf-8")
            self.kept = paths if op == "files" else self._loaded(*paths)
        return self._evaluated(*(self._loaded(*self.kept) if op == "files" else self.kept))

    def _loaded(self, gt: str, dt: str) -> tuple[Any, Any]:
        raise NotImplementedError

    def _evaluated(self, gt: Any, dt: Any) -> np.ndarray:
        raise NotImplementedError


class Ours(_Calls):
    """Paragone's."""

    def _loaded(self, gt: str, dt: str) -> tuple[Any, Any]:
        objects = read_annotations(gt)
        return objects, read_annotations(dt, like=objects)

    def _evaluated(self, gt: Any, dt: Any) -> np.ndarray:
        return average_precision(gt, dt).stats


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


class CocoApi(_Calls):
    """Whatever has pycocotools' two classes.

    Args:
        coco: Path of the class COCO.
        evaluator: Path of the class COCOeval.
    """

    def __init__(self, coco: str, evaluator: str) -> None:
        super().__init__()
        self.coco, self.evaluator = resolve(coco), resolve(evaluator)

    def _loaded(self, gt: str, dt: str) -> tuple[Any, Any]:
        with _quiet():
            objects = self.coco(gt)
            return objects, objects.loadRes(dt)

    def _evaluated(self, gt: Any, dt: Any) -> np.ndarray:
        with _quiet():
            judge = self.evaluator(gt, dt, "bbox")
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        return np.array(judge.stats[:12], np.float64)


def truth(op: str, images: int, classes: int, true: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The twelve figures in pycocotools' mode."""
    return average_precision(
        _data_set(images, classes, true), _results(rows), mode="pycocotools"
    ).stats
