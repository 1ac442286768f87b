r"""A trained network with all that its use needs, and how good it is.

Whole images go in, whatever their size; what comes out refers to their own pixels. Validation
goes the same way, so that its figures are those of use. For segments, with $C_{ij}$ pixels of
class i that were called j,

$$ \text{IoU}_i = \frac{C_{ii}}{\sum_j C_{ij} + \sum_j C_{ji} - C_{ii}}, \qquad
   \text{Dice}_i = \frac{2\,C_{ii}}{\sum_j C_{ij} + \sum_j C_{ji}} . $$

References:
    Everingham et al. (2015), "The Pascal visual object classes challenge: a retrospective",
    section 4.4.2 (IoU of segments).
    Dice (1945), "Measures of the amount of ecologic association between species".

Shapes: B batch, N images, K classes, n boxes of one image, H and W height and width.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.vision._data_augment import still_view
from paragone.vision._data_sets import IGNORED, ImageSet, Task
from paragone.vision._data_views import View

__all__ = ["MEAN", "PRIMARY", "STD", "Inputs", "TrainedModel", "evaluate", "predictions"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRIMARY = {"classify": "accuracy", "segment": "iou", "detect": "ap50"}
"""The metric that chooses the epoch."""
_MULTIPLE = 32


@dataclasses.dataclass(frozen=True)
class Inputs:
    """How pixels become what a network takes.

    Attributes:
        task: Detectors take values in [0, 1] and shift them themselves.
        size: Side of the square that images are brought to.
        fit: How; "native" keeps their size and pads it to a multiple of 32.
        device: Where the network is.
        channels_last: Whether maps lie in memory pixel by pixel.
        precision: "fp32", or the type that `torch.autocast` computes in.
    """

    task: Task
    size: int
    fit: str
    device: str = "cpu"
    channels_last: bool = True
    precision: str = "fp32"

    def tensor(self, images: np.ndarray) -> Tensor:
        """Returns (B, 3, H, W) of (B, H, W, 3) uint8."""
        x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        if self.task != "detect":
            mean, std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (MEAN, STD))
            x = x.sub_(mean).div_(std)
        return x if self.channels_last else x.contiguous()

    def autocast(self) -> Any:
        """Computes in the narrow type inside, if there is one."""
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        kind = kinds.get(self.precision)
        return torch.autocast(self.device.split(":")[0], kind, enabled=kind is not None)


def _batches(
    images: Sequence[np.ndarray], inputs: Inputs, batch: int
) -> Iterator[tuple[np.ndarray, list[View]]]:
    """Images of one size together, in order, and the view of each."""

    def padded(shape: tuple[int, int]) -> tuple[int, int]:
        if inputs.fit != "native":
            return inputs.size, inputs.size
        return tuple(-(-side // _MULTIPLE) * _MULTIPLE for side in shape)  # pyright: ignore

    seen = ((image, padded(image.shape[:2])) for image in (images[i] for i in range(len(images))))
    for size, group in itertools.groupby(seen, key=lambda pair: pair[1]):
        while some := list(itertools.islice(group, batch)):
            views, pixels = [], []
            for image, _ in some:
                shape = image.shape[:2]
                if inputs.fit == "native":
                    views.append(still_view(shape, shape, "stretch"))
                    rest = (size[0] - shape[0], size[1] - shape[1])
                    pixels.append(np.pad(image, ((0, rest[0]), (0, rest[1]), (0, 0)), "edge"))
                else:
                    view = still_view(shape, size, inputs.fit)  # pyright: ignore
                    views.append(view)
                    pixels.append(view.image(image))
            yield np.stack(pixels), views


@torch.no_grad()
def predictions(
    network: nn.Module, images: Sequence[np.ndarray], inputs: Inputs, batch: int = 16
) -> Iterator[dict[str, np.ndarray]]:
    """Yields what a network, in evaluation, says of each image.

    Args:
        network: The network.
        images: (H, W, 3) uint8 of any size.
        inputs: How pixels become what it takes.
        batch: Images at a time.

    Returns:
        For classification "scores" (K,); for segmentation "mask" (H, W) uint8; for detection
        "boxes" (n, 4), "labels" (n,) and "scores" (n,). Sizes are those of the image.
    """
    for pixels, views in _batches(images, inputs, batch):
        with inputs.autocast():
            answer = network(inputs.tensor(pixels))
        if inputs.task == "classify":
            for scores in answer.float().softmax(1).cpu().numpy():
                yield {"scores": scores}
        elif inputs.task == "segment":
            for one, view in zip(answer.float(), views, strict=True):
                yield {"mask": _mask(one, view, inputs)}
        else:
            for one, view in zip(answer, views, strict=True):
                boxes = view.back(one["boxes"].double().cpu().numpy())
                left, top, right, bottom = view.source
                boxes = boxes.clip([left, top] * 2, [right, bottom] * 2)
                yield {
                    "boxes": boxes, "labels": one["labels"].cpu().numpy(),
                    "scores": one["scores"].double().cpu().numpy(),
                }  # fmt: skip


def _mask(logits: Tensor, view: View, inputs: Inputs) -> np.ndarray:
    left, top, right, bottom = view.target
    logits = logits[:, top:bottom, left:right]
    if inputs.fit != "native":
        size = [round(view.source[3] - view.source[1]), round(view.source[2] - view.source[0])]
        logits = functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    return logits.argmax(0).to(torch.uint8).cpu().numpy()


def evaluate(
    network: nn.Module, images: ImageSet, classes: Sequence[str], inputs: Inputs, batch: int = 16
) -> dict[str, Any]:
    """Returns the metrics of a network, put into evaluation, on images with targets.

    Args:
        network: The network.
        images: What it is measured on.
        classes: Names of the classes.
        inputs: How pixels become what it takes.
        batch: Images at a time.
    """
    network.eval()
    found = predictions(network, images.images, inputs, batch)
    if inputs.task == "classify":
        assert images.labels is not None
        return _accuracy(np.stack([f["scores"] for f in found]), images.labels)
    if inputs.task == "segment":
        assert images.masks is not None
        counts = np.zeros((len(classes), len(classes)), np.int64)
        for i, one in enumerate(found):
            counts += confusion(images.masks[i], one["mask"], len(classes))
        return _overlaps(counts, classes)
    from paragone.vision.average_precision import average_precision

    result = average_precision(images.annotations(classes), list(found), protocol="coco")
    stats = [float(s) for s in result.stats]
    return {"ap50": stats[1], "ap": stats[0], "ap75": stats[2]}


def _accuracy(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    own = scores[np.arange(len(labels)), labels]
    # A tie counts against the class: a constant network has no accuracy to show.
    rank = (scores >= own[:, None]).sum(1)
    found: dict[str, Any] = {"accuracy": float((rank == 1).mean())}
    if scores.shape[1] > 5:
        found["top5"] = float((rank <= 5).mean())
    found["loss"] = float(-np.log(np.maximum(own, 1e-12)).mean())
    return found


def confusion(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Counts pixels (K, K) by true and found class; those of value 255 are left out."""
    counted = truth != IGNORED
    pairs = truth[counted].astype(np.int64) * classes + found[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _overlaps(counts: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    both = counts.sum(0) + counts.sum(1)
    there = both > 0
    right = np.diag(counts)
    iou = right[there] / (both - right)[there]
    dice = 2 * right[there] / both[there]
    names = [c for c, t in zip(classes, there, strict=True) if t]
    return {
        "iou": float(iou.mean()) if len(iou) else 0.0,
        "dice": float(dice.mean()) if len(dice) else 0.0,
        "pixels": float(right.sum() / max(counts.sum(), 1)),
        "iou_by_class": {n: round(float(v), 6) for n, v in zip(names, iou, strict=True)},
    }


class TrainedModel(nn.Module):
    """A trained network that takes images as they are.

    Attributes:
        network: The network, in evaluation.
        task: "classify", "segment" or "detect".
        classes: Names of the classes.
        inputs: How pixels become what the network takes.
        metrics: Those of the validation that chose the weights.
        config: All that its run's config.json says.

    Example:
        >>> model = load_model("runs/digits")  # doctest: +SKIP
        >>> model.predict([image])[0]["class"]  # doctest: +SKIP
        '7'
    """

    def __init__(
        self, network: nn.Module, classes: Sequence[str], inputs: Inputs,
        metrics: dict[str, Any], config: dict[str, Any],
    ) -> None:  # fmt: skip
        super().__init__()
        self.network, self.classes, self.inputs = network.eval(), tuple(classes), inputs
        self.task, self.metrics, self.config = inputs.task, metrics, config

    def forward(self, images: Tensor) -> Any:
        """Returns what the network says of a prepared batch (B, 3, H, W)."""
        return self.network(images)

    def predict(self, images: Sequence[np.ndarray], *, batch: int = 16) -> list[dict[str, Any]]:
        """Returns what the model says of images of any size.

        Args:
            images: Arrays (H, W, 3) uint8, or (H, W) grey.
            batch: Images at a time.

        Returns:
            For classification "class", "label" and "scores" (K,); for segmentation "mask" (H, W);
            for detection "boxes" (n, 4) in the image's pixels, "labels" and "scores".

        Raises:
            ValueError: Something that is no image.
        """
        self.network.eval()
        given = [_rgb(image, i) for i, image in enumerate(images)]
        found: list[dict[str, Any]] = list(predictions(self.network, given, self.inputs, batch))
        if self.task == "classify":
            for one in found:
                one["label"] = int(one["scores"].argmax())
                one["class"] = self.classes[one["label"]]
        return found

    def evaluate(self, images: ImageSet, *, batch: int = 16) -> dict[str, Any]:
        """Returns the metrics on images with targets.

        Args:
            images: A split, such as `data.test`.
            batch: Images at a time.
        """
        return evaluate(self.network, images, self.classes, self.inputs, batch)


def _rgb(image: Any, number: int) -> np.ndarray:
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(
            f"image {number} has shape {pixels.shape} and type {pixels.dtype}: give (H, W, 3) or "
            "(H, W) of uint8"
        )
    return pixels
