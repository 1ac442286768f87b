"""The contestants of `detectors` and of `ps_roi_align_speed`, and what the latter is called with.

Shapes: B images, N regions of all images, C channels put out, H and W the map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone._core.lazy import resolve
from paragone.lab.spec import Contestant

__all__ = ["Pooling", "contestants", "for_speed", "network", "pooling", "truth"]

CHANNELS, BINS, STRIDE = 5, 7, 16
"""Of ThunderNet: channels that come out, bins of a side, pixels of a cell."""


SHARES = (0.08, 0.15, 0.28, 0.5, 0.8)
"""Sides of ThunderNet's anchors, as shares of the image's, as in SSD: small objects are met too."""

COUNTS = {"train": 1000, "test": 200, "anchors": 256, "regions": 512}
"""Of ThunderNet at 320 px, as published; smaller images have as many fewer as their sides."""

QUICK = ("thundernet", "thundernet_plain", "nanodet", "torchvision_ssdlite")
"""Those that take part in a quick study."""

TRUNK: dict[str, Any] = {"backbone": "resnet18", "width": 0.5}
"""What learns in seconds, without weights from elsewhere: full convolutions, few channels."""


def network(
    name: str, backbone: str, num_classes: int, image_size: int = 320, width: float = 0.0,
    **options: Any,
) -> Any:  # fmt: skip
    """Builds a detector of ours.

    Args:
        name: Class in `paragone.vision`.
        backbone: Name of its trunk.
        num_classes: K.
        image_size: Side of the images in pixels.
        width: Factor of the trunk's channels; 0: as published.
        options: Further arguments.
    """
    trunk: Any = backbone
    if width:
        trunk = resolve("paragone.vision:backbone")(backbone, width=width, num_classes=0)
    if name == "ThunderNet":
        share = min(1.0, image_size / 320)
        fewer = {key: round(share * count) for key, count in COUNTS.items()}
        options = {
            "scales": [image_size * part for part in SHARES],
            "proposals": (fewer["train"], fewer["test"]),
            "candidates": (2 * fewer["train"], 5 * fewer["test"]),
            "proposal_samples": fewer["anchors"], "region_samples": fewer["regions"], **options,
        }  # fmt: skip
    return resolve(f"paragone.vision:{name}")(trunk, num_classes, **options)


_HERE = "paragone.lab.contestants.detectors:"


def contestants() -> list[Contestant]:
    """ThunderNet and its parts, NanoDet on the same trunk, both as published, SSDlite."""

    def ours(id: str, title: str, name: str, note: str, **options: Any) -> Contestant:
        return Contestant(
            id=id, title=title, make=_HERE + "network", method="thundernet", note=note,
            params={"name": name, **options}, needs=_crews(id),
        )  # fmt: skip

    thunder, nano = "ThunderNet", "NanoDet"
    soft, hard = "two stages; soft-NMS at 0.5", "single-shot; NMS at 0.6"
    return [
        ours("thundernet", "ThunderNet", thunder, f"{soft}; ResNet-18, half as wide", **TRUNK),
        ours("thundernet_plain", "ThunderNet without CEM and SAM", thunder,
             f"{soft}; ResNet-18, half as wide", **TRUNK, context=False, attention=False),
        ours("thundernet_no_cem", "ThunderNet without CEM", thunder, soft, **TRUNK,
             context=False),
        ours("thundernet_no_sam", "ThunderNet without SAM", thunder, soft, **TRUNK,
             attention=False),
        ours("nanodet", "NanoDet", nano, f"{hard}; ResNet-18, half as wide", **TRUNK),
        ours("thundernet_snet49", "ThunderNet SNet49", thunder, f"{soft}; as published",
             backbone="snet49"),
        ours("thundernet_snet146", "ThunderNet SNet146", thunder, f"{soft}; as published",
             backbone="snet146"),
        ours("nanodet_m", "NanoDet-m", nano, f"{hard}; ShuffleNetV2, as published",
             backbone="shufflenet_v2_1.0"),
        Contestant(
            id="torchvision_ssdlite", title="torchvision {version} SSDlite320", origin="rival",
            make="paragone.lab.contestants.detectors_rivals:SSDlite", distribution="torchvision",
            install="pip install torchvision", needs=_crews("torchvision_ssdlite"),
            note="single-shot; MobileNetV3-large, random weights; enlarges images to 320 px",
        ),
    ]  # fmt: skip


def _crews(name: str) -> dict[str, Any]:
    return {"crew": ["all", "quick"] if name in QUICK else ["all"]}


def pooling(way: str, images: int, regions: int, side: int) -> tuple[str, Tensor, Tensor]:
    """The way, maps (B, C P Q, H, W) in channels-last memory, and regions (N, 5) in pixels."""
    rng = np.random.default_rng([images, regions, side])
    shape = (images, side, side, CHANNELS * BINS * BINS)
    maps = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).permute(0, 3, 1, 2)
    most = side * STRIDE
    sizes = np.exp(rng.uniform(np.log(16), np.log(most), (images * regions, 2)))
    corner = rng.uniform(0, 1, sizes.shape) * (most - sizes)
    image = np.repeat(np.arange(images), regions)[:, None]
    rois = np.concatenate([image, corner, corner + sizes], axis=1).astype(np.float32)
    return way, maps, torch.from_numpy(rois)


class Pooling:
    """A library's `ps_roi_align` behind one call; of "backward" the first call keeps the graph.

    Args:
        function: `"module:function"` with torchvision's arguments.
    """

    def __init__(self, function: str) -> None:
        if function.startswith("torchvision"):
            resolve("paragone.lab.torchvision_cpu:import_torchvision")()
        self.align = resolve(function)
        self.kept: Any = None

    def __call__(self, way: str, maps: Tensor, rois: Tensor) -> Tensor:
        if way == "forward":
            with torch.no_grad():
                return self.align(maps, rois, BINS, 1 / STRIDE)
        if self.kept is None:
            leaf = maps.clone().requires_grad_()
            out = self.align(leaf, rois, BINS, 1 / STRIDE)
            self.kept = out, leaf, torch.ones_like(out)
        out, leaf, ones = self.kept
        return torch.autograd.grad(out, leaf, ones, retain_graph=True)[0]


def truth(way: str, maps: Tensor, rois: Tensor) -> Tensor:
    """The result in float64, some regions at a time: the definition takes 5 MB for each."""
    name = "paragone.vision:ps_roi_align"
    exact = maps.double()
    parts = [Pooling(name)(way, exact, part.double()) for part in rois.split(64)]
    return torch.cat(parts) if way == "forward" else torch.stack(parts).sum(0)


def for_speed() -> list[Contestant]:
    """Ours by catalogue id, then torchvision's."""
    return [
        Contestant(
            id="thundernet", title="paragone PS-RoIAlign", make=_HERE + "Pooling",
            method="thundernet", params={"function": "paragone.vision:ps_roi_align"},
        ),
        Contestant(
            id="torchvision_thundernet", title="torchvision {version} ps_roi_align",
            make=_HERE + "Pooling", origin="rival", distribution="torchvision",
            params={"function": "torchvision.ops:ps_roi_align"},
            install="pip install torchvision",
        ),
    ]  # fmt: skip
