"""torchvision's SSDlite for the study `detectors`: labels from 0, and its cost counted."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from paragone._core.lazy import resolve
from paragone.lab.torchvision_cpu import import_torchvision

__all__ = ["SSDlite"]


class SSDlite(nn.Module):
    """`ssdlite320_mobilenet_v3_large` with random weights, called as our detectors are.

    Args:
        num_classes: K, without a background; torchvision counts it as class 0.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        made = import_torchvision().models.detection.ssdlite320_mobilenet_v3_large
        self.inner = made(weights=None, weights_backbone=None, num_classes=num_classes + 1)

    def forward(self, images: Tensor, targets: Any = None) -> Any:
        if self.training:
            moved = [{**one, "labels": one["labels"] + 1} for one in targets]
            return self.inner(list(images), moved)
        return [{**one, "labels": one["labels"] - 1} for one in self.inner(list(images))]

    def macs(self, size: tuple[int, int]) -> int:
        """Multiply-adds of an image, at the 320 pixels that it is enlarged to."""
        del size
        return resolve("paragone.vision:count_macs")(_Counted(self.inner), (3, 320, 320))


class _Counted(nn.Module):
    """Trunk and heads, without what chooses boxes."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Any:
        return self.inner.head(list(self.inner.backbone(images).values()))
