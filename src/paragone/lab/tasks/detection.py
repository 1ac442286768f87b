r"""One run of a detector: train it on a budget, find boxes, and judge them by three protocols.

A contestant's `make` is called with those of `num_classes` and `image_size` that it names, beside
its own parameters, and returns a module with torchvision's call: `model(images, targets)` gives
losses by name in training, `model(images)` a list of {"boxes", "labels", "scores"} in evaluation;
labels count from 0, without a background. All train by AdamW on the same batches in the same
order, of `facts["batch"]` images, until `facts["seconds"]` seconds of a core were spent for each
thread, or for `facts["steps"]` steps, at the rate of `tasks.image`; as there, statistics of batch
norms are settled afterwards.

The same detections are judged in five ways, so that each difference has one cause:

| value | matching | overlap | read at |
|---|---|---|---|
| `voc2007` | VOC | 0.5 | 11 recalls |
| `voc2012` | VOC | 0.5 | all recalls |
| `coco11` | COCO | 0.5 | 11 recalls |
| `ap50` | COCO | 0.5 | 101 recalls |
| `ap` | COCO | 0.5, 0.55 ... 0.95 | 101 recalls |

The paired comparison resamples images. Average precision is no mean over them, so that each
group of images stands for what it contributes (G groups, $A_{-g}$ without the group):

$$ v_g = A + (G - 1) \Big( \frac{1}{G} \sum_h A_{-h} - A_{-g} \Big), \qquad
   \frac{1}{G} \sum_g v_g = A . $$

Values: those five, `ap75`, `ap_small`, `ap_medium`, `ap_large`, `ap_soft` and `ap_hard` (where the
model has a `suppression`), `latency_s` (one image), `fit_s`, `step_s` (for each image), `seen`,
`steps`, `found` (detections), `fit_extra`, `predict_extra`, `parameters`, `macs`. Curves: `AP over
overlap`, `training loss over seconds`.

References:
    Efron (1982), "The jackknife, the bootstrap and other resampling plans", chapter 6 (v_g).

Shapes: N images, S side in pixels, n boxes of an image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve
from paragone.lab.build import load_inputs
from paragone.lab.probe import Probe, digest_arrays
from paragone.lab.sequences import drawn_from
from paragone.lab.spec import Job
from paragone.lab.tasks.image import classifier, left_out, rate_share, row_batches, settle
from paragone.lab.tasks.splits import FOLDS, split

__all__ = ["Scenes", "contributions", "lay_down", "one_call", "protocols", "run", "scenes",
           "stored"]  # fmt: skip

GROUPS = 100
CLIP = 10.0

Boxes = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Images of one size with their boxes, and which are for what.

    Attributes:
        pixels: (N, S, S, 3) uint8.
        boxes: For each image (n, 4) float64: left, top, right, bottom in pixels.
        labels: For each image (n,) int64.
        ignored: For each image (n,) bool: neither trained on nor counted.
        classes: Names.
        train: Rows to train on.
        test: Rows to test on.
    """

    pixels: np.ndarray
    boxes: Sequence[np.ndarray]
    labels: Sequence[np.ndarray]
    ignored: Sequence[np.ndarray]
    classes: tuple[str, ...]
    train: np.ndarray
    test: np.ndarray

    def objects(self, rows: np.ndarray) -> list[Boxes]:
        """What `average_precision` takes as the truth of these images."""
        return [
            {"boxes": self.boxes[i], "labels": self.labels[i], "difficult": self.ignored[i]}
            for i in rows
        ]


def scenes(
    count: int, size: int, kinds: int = 10, split: int = 0, test: float = 0.25
) -> Scenes:  # fmt: skip
    """Digits on pieces of two photographs, drawn anew for each split.

    Args:
        count: Images.
        size: Side in pixels.
        kinds: How many of the ten digits occur.
        split: Number of the split.
        test: Share that is held out: other digits on other pieces.
    """
    made = resolve("paragone.vision.samples:digit_scenes")(
        count, size, split, classes=tuple(range(kinds)), validation=test, digits=(2, 6),
        scale=(0.12, 0.4),
    )  # fmt: skip
    parts = [made.train, made.validation]
    samples = [sample for part in parts for sample in part]
    return Scenes(
        pixels=np.stack([s.image for s in samples]), boxes=[s.boxes for s in samples],
        labels=[s.labels for s in samples], ignored=[s.ignored for s in samples],
        classes=tuple(made.classes), train=np.arange(len(parts[0])),
        test=np.arange(len(parts[0]), len(samples)),
    )  # fmt: skip


def lay_down(path: str, folder: Path, size: int) -> dict[str, Any]:
    """Reads a user's images with boxes and keeps them at one size in `folder`.

    An image is made as large as it fits; what is left of the square is black.

    Args:
        path: COCO, VOC or YOLO, as `paragone.vision.read_images` takes it.
        folder: Where `scenes.npz` is written.
        size: Side in pixels.

    Returns:
        Numbers of images, boxes and classes, notes of what was left out, and a digest.

    Raises:
        UsageError: Nothing that can be learnt from.
    """
    try:
        data = resolve("paragone.vision.data:read_images")(path, "detect")
    except (ValueError, OSError) as error:
        raise UsageError(f"--data: {error}") from error
    samples = [s for part in (data.train, data.validation, data.test) for s in part or ()]
    counts = np.array([len(s.labels) for s in samples])
    if len(samples) < 2 * FOLDS or not counts.sum():
        raise UsageError(
            f"--data {path}: {len(samples)} images with {counts.sum()} boxes; at least "
            f"{2 * FOLDS} images and one box are needed to learn and to test"
        )
    pixels = np.zeros((len(samples), size, size, 3), np.uint8)
    boxes = []
    for row, sample in enumerate(samples):
        boxes.append(sample.boxes * _placed(sample.image, pixels[row]))
    content = {
        "pixels": pixels, "counts": counts, "boxes": np.concatenate(boxes),
        "labels": np.concatenate([s.labels for s in samples]),
        "ignored": np.concatenate([s.ignored for s in samples]),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "scenes.npz", classes=np.array(data.classes), **content)
    kept = stored(str(folder))
    return {
        "images": len(samples), "boxes": int(counts.sum()), "classes": len(data.classes),
        "notes": left_out(data),
        "digest": digest_arrays(kept.pixels, list(kept.boxes), list(kept.labels)),
    }  # fmt: skip


def _placed(image: np.ndarray, square: np.ndarray) -> float:
    """Draws an image into the left upper corner of a square; returns its scale."""
    from PIL import Image

    scale = len(square) / max(image.shape[:2])
    height, width = (max(1, round(scale * length)) for length in image.shape[:2])
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    square[:height, :width] = np.asarray(small)
    return scale


def stored(folder: str, number: int = 0, split: int = 0) -> Scenes:
    """Images that `lay_down` has kept, a fifth held out for tests.

    Args:
        folder: Where they lie.
        number: Seed of the splits.
        split: Which of them.
    """
    with np.load(f"{folder}/scenes.npz") as file:
        known = {name: file[name] for name in file.files}
    ends = np.cumsum(known["counts"])[:-1]
    boxes, labels, ignored = (np.split(known[k], ends) for k in ("boxes", "labels", "ignored"))
    train, test = _held_out(len(known["pixels"]), split, number)
    return Scenes(
        pixels=known["pixels"], boxes=boxes, labels=labels, ignored=ignored,
        classes=tuple(str(name) for name in known["classes"]), train=train, test=test,
    )  # fmt: skip


def _held_out(count: int, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return split(np.zeros(count), number, stratified=False, seed=seed)


def _images(pixels: np.ndarray) -> Tensor:
    """(B, 3, S, S) in [0, 1] of (B, S, S, 3) bytes."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return images.contiguous(memory_format=torch.channels_last)


@dataclass
class _Training:
    """One detector on its way."""

    model: nn.Module
    scenes: Scenes
    steps: int = 0
    seconds: float = 0.0
    each: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def loss(self, rows: np.ndarray) -> Tensor:
        """The sum of a batch's losses."""
        targets = []
        for row in rows:
            kept = ~self.scenes.ignored[row]
            targets.append({
                "boxes": torch.from_numpy(self.scenes.boxes[row][kept]).float().reshape(-1, 4),
                "labels": torch.from_numpy(self.scenes.labels[row][kept]),
            })  # fmt: skip
        found = self.model(_images(self.scenes.pixels[rows]), targets)
        return torch.stack([value.sum() for value in found.values()]).sum()

    def go(self, job: Job) -> None:
        facts = job.workload.facts
        limit, most = facts.get("seconds"), facts.get("steps")
        assert limit or most
        rate, rows = float(facts["rate"]), int(facts["batch"])
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=0.01)
        batches = row_batches(self.scenes.train, rows, job.block.seed)
        self.model.train()
        spent = 0.0
        while spent < 1.0:
            began = time.perf_counter(), time.process_time()
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_share(spent)
            optimizer.zero_grad()
            loss = self.loss(next(batches))
            loss.backward()
            # Boxes of a network that knows nothing yet give rare, huge gradients.
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            optimizer.step()
            self.each.append((time.perf_counter() - began[0]) / rows)
            self.seconds += (time.process_time() - began[1]) / job.threads
            self.steps += 1
            self.losses.append(float(loss.detach()))
            self.times.append(self.seconds)
            spent = self.seconds / limit if limit else self.steps / int(most or 1)

    @torch.no_grad()
    def found(self, rows: np.ndarray, times: list[float] | None = None) -> list[Boxes]:
        """Detections of each image, looked at alone."""
        told = []
        for row in rows:
            start = time.perf_counter()
            (one,) = self.model(_images(self.scenes.pixels[row : row + 1]))
            if times is not None:
                times.append(time.perf_counter() - start)
            told.append(_plain(one, len(self.scenes.classes)))
        return told


def _plain(one: Mapping[str, Tensor], classes: int) -> Boxes:
    """A detection as arrays; boxes without extent or number, and classes that are none, go."""
    boxes = one["boxes"].detach().double().numpy().reshape(-1, 4)
    labels, scores = one["labels"].numpy(), one["scores"].detach().double().numpy()
    kept = np.isfinite(boxes).all(1) & np.isfinite(scores) & (labels >= 0) & (labels < classes)
    kept &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return {"boxes": boxes[kept], "labels": labels[kept], "scores": scores[kept]}


def _precision(objects: Sequence[Boxes], found: Sequence[Boxes], classes: int, **rules: Any) -> Any:
    names = [str(i) for i in range(classes)]
    judge = resolve("paragone.vision:average_precision")
    return judge(list(objects), list(found), classes=names, threads=1, **rules)


def protocols(objects: Sequence[Boxes], found: Sequence[Boxes], classes: int) -> dict[str, float]:
    """The same detections by each protocol; see the module's text.

    Args:
        objects: For each image "boxes", "labels" and "difficult".
        found: For each image "boxes", "labels" and "scores".
        classes: K.
    """
    coco = _precision(objects, found, classes, protocol="coco")
    eleven = _precision(objects, found, classes, protocol="coco", iou=0.5,
                        recall_thresholds=np.arange(11) / 10)  # fmt: skip
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    told: dict[str, Any] = dict(zip(names, coco.stats[: len(names)], strict=True))
    for name in ("voc2007", "voc2012"):
        told[name] = _precision(objects, found, classes, protocol=name).ap
    told["coco11"] = eleven.ap
    return {name: float(value) for name, value in told.items() if value >= 0}


def contributions(
    objects: Sequence[Boxes], found: Sequence[Boxes], classes: int, whole: float
) -> np.ndarray:
    """What each group of images contributes to AP; their mean is AP.

    Args:
        objects: As for `protocols`.
        found: As for `protocols`.
        classes: K.
        whole: AP of all images.
    """
    groups = np.array_split(np.arange(len(objects)), min(GROUPS, len(objects)))
    without = []
    for group in groups:
        kept = np.setdiff1d(np.arange(len(objects)), group)
        left = _precision([objects[i] for i in kept], [found[i] for i in kept], classes)
        without.append(max(float(left.ap), 0.0))
    rest = np.array(without)
    return whole + (len(groups) - 1) * (rest.mean() - rest)


def run(job: Job, probe: Probe) -> None:
    """Performs the run; see the module's text."""
    torch.set_num_threads(job.threads)
    with probe.phase("load"):
        data: Scenes = load_inputs(job)[0]
    probe.digest("data", data.pixels, list(data.boxes), list(data.labels))
    probe.digest("split", data.train, data.test)
    seed = job.block.seed
    with probe.phase("import"):
        one = _made(job, data)
    with drawn_from(seed), probe.phase("first_call"):
        one.model.train()
        one.loss(data.train[: int(job.workload.facts["batch"])]).backward()
        one.model.eval()
        one.found(data.train[:1])
    one = _made(job, data)
    with drawn_from(seed), probe.phase("fit"):
        one.go(job)
    batches = row_batches(data.train, int(job.workload.facts["batch"]), seed + 1)
    with drawn_from(seed):
        settle(one.model, lambda: one.loss(next(batches)))
    times: list[float] = []
    with probe.phase("predict"):
        found = one.found(data.test, times)
    for name in ("fit", "predict"):
        phase = probe.phases[name]
        probe.value(f"{name}_extra", max(phase["peak"] - phase["start"], 0))
    probe.value("latency_s", float(np.median(times)))
    probe.value("steps", one.steps)
    probe.value("seen", one.steps * int(job.workload.facts["batch"]))
    probe.value("step_s", float(np.median(one.each)))
    _judged(one, found, probe)
    _counted(one.model, int(job.workload.facts["size"]), probe)
    marks = np.array_split(np.arange(one.steps), min(20, one.steps))
    probe.curve("training loss over seconds", [one.times[m[-1]] for m in marks],
                [float(np.mean([one.losses[i] for i in m])) for m in marks])  # fmt: skip


def _made(job: Job, data: Scenes) -> _Training:
    with drawn_from(job.block.seed):
        model = classifier(job.contestant, num_classes=len(data.classes),
                           image_size=int(job.workload.facts["size"]))  # fmt: skip
    return _Training(model, data)


def _judged(one: _Training, found: list[Boxes], probe: Probe) -> None:
    data, classes = one.scenes, len(one.scenes.classes)
    objects = data.objects(data.test)
    told = protocols(objects, found, classes)
    for name, value in told.items():
        probe.value(name, value)
    probe.array("example_loss", contributions(objects, found, classes, told["ap"]))
    coco = _precision(objects, found, classes, protocol="coco")
    each = coco.precision[:, :, :, 0, -1]
    points = [float(part[part > -1].mean()) for part in each]
    probe.curve("AP over overlap", list(np.linspace(0.5, 0.95, 10)), points)
    probe.value("found", sum(len(boxes["scores"]) for boxes in found))
    model: Any = one.model
    if getattr(model, "suppression", None) in ("soft", "hard"):
        usual = model.suppression
        for kind in ("soft", "hard"):
            model.suppression = kind
            other = found if kind == usual else one.found(data.test)
            probe.value(f"ap_{kind}", float(_precision(objects, other, classes).ap))
        model.suppression = usual
    probe.array("boxes", np.concatenate([b["boxes"] for b in found]).astype(np.float32))
    for name, kind in (("labels", np.int32), ("scores", np.float32)):
        probe.array(name, np.concatenate([b[name] for b in found]).astype(kind))
    probe.array("counts", np.array([len(b["scores"]) for b in found]))


def _counted(model: Any, size: int, probe: Probe) -> None:
    probe.value("parameters", sum(p.numel() for p in model.parameters()))
    if hasattr(model, "macs"):
        side = -(-size // 32) * 32
        probe.value("macs", model.macs((side, side)))


def one_call(job: Job) -> Callable[[], Callable[[], Any]]:
    """Returns what, called, imports the contestant and returns one pass of one image."""
    data: Scenes = load_inputs(job)[0]

    def load() -> Callable[[], Any]:
        one = _made(job, data)
        one.model.eval()
        return lambda: one.found(data.test[:1])

    return load
