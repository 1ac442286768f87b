"""What both detectors share: the call, images of several sizes, checked targets, files.

References:
    torchvision's manual, "Object detection" (the call of a detector).
    safetensors, "Format" (the header's metadata).

Shapes: B images, C channels, H x W pixels, N objects or detections, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.vision.boxes import nms, soft_nms
from paragone.vision.contract import Backbone
from paragone.vision.counting import count_macs
from paragone.vision.registry import backbone as build

__all__ = ["Detector", "Images", "Sizes", "Target", "suppressed"]

Target: TypeAlias = Mapping[str, Tensor]
Images: TypeAlias = "Tensor | Sequence[Tensor]"
Sizes: TypeAlias = "list[tuple[int, int]]"

_SHORT: dict[str, tuple[str, dict[str, Any]]] = {
    f"shufflenet_v2_{width}": (
        "shufflenet_v2", {"width": float(width), "last_channels": 0, "wiring": "megvii"}
    )
    for width in ("0.5", "1.0", "1.5", "2.0")
}  # fmt: skip
"""Trunks of a given width; without the last convolution, which serves a classifier alone."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Detector(nn.Module):
    """Base of the detectors: subclasses write `losses`, `detections` and `raw`.

    Attributes:
        num_classes: K, without background.
        backbone: The trunk.
        options: What the detector was built with, as it is saved.
        notes: What `save` kept beside it, after `load`.
    """

    multiple = 32
    raw_names: tuple[str, ...] = ()

    def __init__(
        self, backbone: str | Backbone, num_classes: int, in_channels: int,
        mean: Sequence[float] | None, std: Sequence[float] | None, strides: Sequence[int],
        freeze_norm: bool, options: dict[str, Any], device: Any, dtype: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: give the number of kinds of objects")
        self.notes: dict[str, Any] = {}
        self.num_classes, self.in_channels, self.options = num_classes, in_channels, options
        self.backbone = _trunk(backbone, in_channels, device, dtype)
        if missing := sorted(set(strides) - set(self.backbone.channels)):
            raise ValueError(
                f"backbone {backbone!r} has no map of stride {missing[0]}, only of "
                f"{sorted(self.backbone.channels)}"
            )
        _forget_rest(self.backbone, max(strides))
        self.freeze_norm = freeze_norm
        plain = backbone in _SHORT or not isinstance(backbone, str)
        wanted = ((0.0,) * 3, (1.0,) * 3) if plain else (_MEAN, _STD)
        for name, given, usual in (("mean", mean, wanted[0]), ("std", std, wanted[1])):
            numbers = usual if given is None else given
            if in_channels != len(numbers):
                numbers = [sum(numbers) / len(numbers)] * in_channels
            values = torch.tensor(list(numbers), device=device, dtype=dtype)[:, None, None]
            self.register_buffer(name, values, persistent=False)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if self.freeze_norm:
            for part in self.backbone.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.eval()
        return self

    def forward(
        self, images: Images, targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses by name while training, detections of each image in evaluation.

        Args:
            images: (B, C, H, W), or a list of (C, H, W), of values in [0, 1].
            targets: While training: for each image "boxes" (N, 4) in its pixels and "labels"
                (N,) from 0 to K - 1; N may be 0.

        Returns:
            Scalars by name, or a list of "boxes" (N, 4), "labels" (N,), "scores" (N,), the best
            first.

        Raises:
            ValueError: Images or targets that do not fit; the text names the image and the row.
        """
        batch, sizes = self.batched(images)
        if not self.training:
            return self.detections(*self.raw(batch), sizes=sizes)
        if targets is None:
            raise ValueError("targets are missing: give them, or call .eval() for detections")
        self._check_targets(targets, len(batch))
        found = [
            (t["boxes"].to(batch.device, torch.float32), t["labels"].to(batch.device))
            for t in targets
        ]
        return self.losses(batch, found, sizes)

    def batched(self, images: Images) -> tuple[Tensor, Sizes]:
        """Returns images as one (B, C, H, W), zeros at the right and the bottom, and their sizes.

        Zeros are added before the mean is taken away, up to multiples of the coarsest stride: they
        are black, as the borders that augmentation makes.

        Args:
            images: (B, C, H, W), or a list of (C, H, W).
        """
        if isinstance(images, Tensor) and images.ndim != 4:
            raise ValueError(f"images are {tuple(images.shape)}; give (B, C, H, W) or a list")
        for i, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != self.in_channels or 0 in image.shape:
                raise ValueError(
                    f"image {i} is {tuple(image.shape)}; give ({self.in_channels}, H, W)"
                )
            if not image.is_floating_point():
                raise ValueError(f"image {i} is {image.dtype}; give floats in [0, 1]: x / 255")
        sizes = [(int(i.shape[1]), int(i.shape[2])) for i in images]
        if not sizes:
            raise ValueError("no images: give at least one")
        high, wide = (
            -(-max(size[axis] for size in sizes) // self.multiple) * self.multiple
            for axis in (0, 1)
        )
        if isinstance(images, Tensor):
            return functional.pad(images, (0, wide - sizes[0][1], 0, high - sizes[0][0])), sizes
        padded = [
            functional.pad(i, (0, wide - w, 0, high - h))
            for i, (h, w) in zip(images, sizes, strict=True)
        ]
        return torch.stack(padded), sizes

    def normalised(self, batch: Tensor) -> Tensor:
        """Returns images minus `mean` over `std`, in the type of the weights."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (batch.to(mean.dtype) - mean) / std

    def maps(self, batch: Tensor, strides: Sequence[int]) -> dict[int, Tensor]:
        """Returns the trunk's maps by stride, each cell of which is that many pixels.

        Args:
            batch: (B, C, H, W) in [0, 1], height and width multiples of 32.
            strides: Which ones.

        Raises:
            ValueError: A trunk without padding, whose maps are smaller; or a size of that kind.
        """
        found = self.backbone.feature_maps(self.normalised(batch), strides)
        height, width = batch.shape[2:]
        for stride, x in found.items():
            if (x.shape[2] * stride, x.shape[3] * stride) != (height, width):
                raise ValueError(
                    f"the map of stride {stride} has {tuple(x.shape[2:])} cells for {height} x "
                    f"{width} pixels: give multiples of {self.multiple}, and a backbone that pads"
                )
        return found

    def raw(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Returns what the network puts out before anything is chosen; this is exported."""
        raise NotImplementedError

    def detections(self, *raw: Tensor, sizes: Sizes) -> list[dict[str, Tensor]]:
        """Returns the boxes that raw outputs mean, for images of these sizes."""
        raise NotImplementedError

    def losses(
        self, batch: Tensor, targets: list[tuple[Tensor, Tensor]], sizes: Sizes
    ) -> dict[str, Tensor]:
        """Returns the losses of a padded batch."""
        raise NotImplementedError

    def parameter_count(self) -> int:
        """Returns how many numbers are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def macs(self, size: tuple[int, int] = (320, 320)) -> int:
        """Returns the multiply-adds of one image, counted, not estimated.

        Args:
            size: Height and width in pixels, multiples of 32.
        """
        return count_macs(_Counted(self), (self.in_channels, *size))

    def export_onnx(self, path: str | Path, size: tuple[int, int] = (320, 320)) -> list[Path]:
        """Writes what is the same for every image as ONNX: images (1, C, H, W) in, `raw` out.

        `detections(*outputs, sizes=[size])` makes boxes of what a runtime puts out, as tensors;
        `raw` says what they mean, for those who decode elsewhere.

        Args:
            path: The file.
            size: Height and width of the images in pixels, multiples of 32.

        Returns:
            The files that were written.

        Raises:
            ValueError: A size that is no multiple of 32.
            MissingPackageError: onnx or onnxscript is not installed.
        """
        from paragone.vision._detector_export import export

        if any(side < 1 or side % self.multiple for side in size):
            raise ValueError(f"size={tuple(size)}: height and width are multiples of 32")
        mean = self.get_buffer("mean")
        example = torch.zeros(1, self.in_channels, *size, device=mean.device, dtype=mean.dtype)
        return [export(self, "raw", example, path, "images", self.raw_names)]

    def counted(self, batch: Tensor) -> Any:
        """What `macs` runs on one image."""
        return self.raw(batch)

    def load_pretrained_backbone(self, path: str | Path) -> list[str]:
        """Loads a trunk's published weights; a classifier's last layers are left out.

        Args:
            path: A `.safetensors` file, or a `.pth` file of tensors alone.

        Returns:
            Names in the file that this trunk has no use for.

        Raises:
            ValueError: Weights of the trunk are missing in the file, or of other shapes.
        """
        path = Path(path)
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        try:
            missing, unused = self.backbone.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise ValueError(f"{path} holds another backbone: {error}") from error
        rest = {id(p) for p in self.backbone.parameters() if p.requires_grad}
        used = {name for name, p in self.backbone.named_parameters() if id(p) in rest}
        if lacking := sorted(used & set(missing)):
            raise ValueError(
                f"{path} lacks {len(lacking)} of {len(used)} weights of this backbone, for "
                f"example {lacking[0]}; was it written for another one?"
            )
        return sorted(unused)

    def save(self, path: str | Path, **notes: Any) -> None:
        """Writes weights and options to a safetensors file, from which `load` builds it again.

        Args:
            path: The file.
            notes: What else to keep, as JSON takes it: for example the names of the classes.

        Raises:
            ValueError: It was built with a backbone of one's own, which has no name to write.
        """
        if not isinstance(self.options["backbone"], str):
            raise ValueError("a detector saves the name of its backbone; build it with one")
        header = {"detector": type(self).__name__, "options": self.options, "notes": notes}
        state = {k: v.contiguous() for k, v in self.state_dict().items()}
        safetensors.torch.save_file(state, path, {"paragone": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path, *, device: Any = None) -> Any:
        """Builds a detector from a file that `save` wrote; `notes` holds what was kept with it.

        Args:
            path: The file.
            device: Where to.

        Raises:
            ValueError: Not a file of this class.
        """
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("paragone")
        header = json.loads(text) if text else {}
        if header.get("detector") != cls.__name__:
            raise ValueError(
                f"{path} holds {header.get('detector', 'no detector of paragone')}, not a "
                f"{cls.__name__}"
            )
        found = cls(**header["options"], device=device)
        found.load_state_dict(safetensors.torch.load_file(path, str(device or "cpu")))
        found.notes = header["notes"]
        return found

    def _check_targets(self, targets: Sequence[Target], count: int) -> None:
        if len(targets) != count:
            raise ValueError(f"{count} images but {len(targets)} targets; give one for each")
        for i, target in enumerate(targets):
            if missing := {"boxes", "labels"} - set(target):
                raise ValueError(f"target {i} has no {sorted(missing)[0]!r}")
            boxes, labels = target["boxes"], target["labels"]
            if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
                raise ValueError(
                    f"target {i}: boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}; "
                    "give (N, 4) and (N,), for no object (0, 4) and (0,)"
                )
            if labels.is_floating_point():
                raise ValueError(f"target {i}: labels are {labels.dtype}; give whole numbers")
            wrong = (labels < 0) | (labels >= self.num_classes)
            if bool(wrong.any()):
                row = int(wrong.nonzero()[0])
                raise ValueError(
                    f"target {i}, row {row}: label {int(labels[row])} is none of 0 to "
                    f"{self.num_classes - 1}; background has no label"
                )
            good = boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
            if not bool(good.all()):
                row = int((~good).nonzero()[0])
                raise ValueError(
                    f"target {i}, row {row}: box {boxes[row].tolist()} has no area; give left < "
                    "right and top < bottom, or drop it"
                )


class _Counted(nn.Module):
    """A detector called with one image, for counting."""

    def __init__(self, net: Detector) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Tensor) -> Any:
        return self.net.counted(batch)


def _trunk(backbone: str | Backbone, in_channels: int, device: Any, dtype: Any) -> Backbone:
    if not isinstance(backbone, str):
        if backbone.in_channels != in_channels:
            raise ValueError(
                f"the backbone takes {backbone.in_channels} channels, in_channels={in_channels}"
            )
        return backbone
    name, options = _SHORT.get(backbone, (backbone, {}))
    where = {"device": device, "dtype": dtype}
    return build(name, num_classes=0, in_channels=in_channels, **options, **where)


def _forget_rest(trunk: Backbone, coarsest: int) -> None:
    """Parameters that no map needs are not trained: optimizers and counts pass them over."""
    steps = trunk.steps()
    last = max(i for i, (stride, _) in enumerate(steps) if stride == coarsest)
    used = {id(p) for _, step in steps[: last + 1] for p in step.parameters()}
    for parameter in trunk.parameters():
        if id(parameter) not in used:
            parameter.requires_grad_(False)


def suppressed(
    boxes: Tensor, scores: Tensor, labels: Tensor, *, soft: bool, threshold: float, least: float,
    limit: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Returns detections after suppression within each class, the best first.

    Args:
        boxes: (N, 4).
        scores: (N,).
        labels: (N,).
        soft: Whether scores are lowered (linear) in place of boxes taken away.
        threshold: Overlap from which.
        least: Scores that soft suppression drops.
        limit: Most detections.
    """
    if soft:
        rows, scores = soft_nms(boxes, scores, labels, threshold=threshold, least=least)
        rows, scores = rows[:limit], scores[:limit]
    else:
        rows = nms(boxes, scores, threshold, labels, limit=limit)
        scores = scores[rows]
    return {"boxes": boxes[rows], "labels": labels[rows], "scores": scores}
