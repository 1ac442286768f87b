"""Networks by name, for each task.

Shapes: K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from paragone._core.lazy import resolve
from paragone.vision._data_sets import Task

__all__ = ["build_network", "models"]

_SEGMENTERS = {
    "unet": ("unet:UNet", {"width": 16}),
    "unet_64": ("unet:UNet", {"width": 64}),
    "fcn": ("fcn:FCN", {}),
}
"""The published U-Net has 64 channels; a quarter of them costs a sixteenth."""
_SMALL = {
    "scales": (16, 32, 64, 128, 256), "region_samples": 256, "aligned": True,
    "score_threshold": 0.02,
}  # fmt: skip
"""For photographs of a few hundred pixels with small objects; the published anchors begin at 32."""
_PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
"""What the published weights of ShuffleNetV2 0.5x were trained on: images in [0, 1]."""
_DETECTORS = {
    "thundernet_snet49": ("thundernet:ThunderNet", {"backbone": "snet49", **_SMALL}),
    "thundernet_snet146": ("thundernet:ThunderNet", {"backbone": "snet146", **_SMALL}),
    "thundernet_snet535": ("thundernet:ThunderNet", {"backbone": "snet535", **_SMALL}),
    "thundernet_shufflenet": (
        "thundernet:ThunderNet", {"backbone": "shufflenet_v2_0.5", **_SMALL, **_PLAIN}
    ),
    "nanodet": ("nanodet:NanoDet", {}),
}  # fmt: skip


def models(task: Task) -> list[str]:
    """Returns the names that `train` knows for a task.

    Args:
        task: "classify", "segment" or "detect".
    """
    if task == "classify":
        from paragone.vision.registry import backbones

        return backbones()
    return list(_SEGMENTERS if task == "segment" else _DETECTORS)


def build_network(
    task: Task,
    model: str | Callable[..., nn.Module],
    classes: int,
    options: dict[str, Any],
) -> nn.Module:
    """Builds a network.

    Args:
        task: What it is for.
        model: One of `models(task)`, or a function that takes `num_classes`.
        classes: K; of a segmenter with the background.
        options: Further arguments of the network.

    Raises:
        ValueError: An unknown name, or options that the network does not take.
    """
    if not isinstance(model, str):
        return model(num_classes=classes, **options)
    if model not in models(task):
        raise ValueError(f"model {model!r} is none of {', '.join(models(task))}")
    try:
        if task == "classify":
            from paragone.vision.registry import backbone

            return backbone(model, num_classes=classes, **options)
        target, given = (_SEGMENTERS if task == "segment" else _DETECTORS)[model]
        return resolve(f"paragone.vision.{target}")(num_classes=classes, **{**given, **options})
    except TypeError as error:
        raise ValueError(f"model {model!r} with {options}: {error}") from error
