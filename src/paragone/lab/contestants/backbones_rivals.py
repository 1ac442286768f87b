"""timm's and torchvision's networks for the study `backbones`, with random weights."""

from __future__ import annotations

from typing import Any

from paragone._core.lazy import resolve
from paragone.lab.torchvision_cpu import import_torchvision

__all__ = ["timm", "timm_by_width", "torchvision"]


def timm(name: str, num_classes: int = 1000) -> Any:
    """A network of timm by its name."""
    import_torchvision()
    return resolve("timm:create_model")(name, pretrained=False, num_classes=num_classes)


def timm_by_width(
    family: str, generator: str, variant: str, num_classes: int = 1000, width: float = 1.0,
    key: str = "channel_multiplier",
) -> Any:  # fmt: skip
    """One of timm at a share of its width, which `create_model` has no argument for.

    Args:
        family: Module in `timm.models`.
        generator: Function of it that takes the width.
        variant: Name of the network.
        num_classes: K.
        width: Factor of its channels.
        key: The function's name for the width.
    """
    import_torchvision()
    make = resolve(f"timm.models.{family}:{generator}")
    return make(variant, **{key: width}, pretrained=False, num_classes=num_classes)


def torchvision(name: str, num_classes: int = 1000) -> Any:
    """A network of torchvision by its name."""
    models = import_torchvision().models
    return getattr(models, name)(weights=None, num_classes=num_classes)
