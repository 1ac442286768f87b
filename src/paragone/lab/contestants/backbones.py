"""The contestants of the study `backbones`: every name of our registry, and other libraries.

A network that is entered in `paragone.vision.registry` appears here by itself. In a quick study
few take part, one or two of each kind, at a reduced width; so do timm's and torchvision's
networks of the same name, so that equal networks meet.
"""

from __future__ import annotations

import math
from typing import Any

from paragone._core.lazy import resolve
from paragone.lab.spec import Contestant
from paragone.vision.registry import BACKBONES

__all__ = ["DIMENSIONS", "PAIRS", "QUICK", "TITLES", "contestants", "network", "scaled"]

QUICK = (
    "efficientnet_b0", "mobilenet_v1", "mobilenet_v2", "shufflenet_v2", "xception", "googlenet",
    "snet49", "resnet18", "timm_efficientnet_b0", "timm_mobilenet_v2",
)  # fmt: skip
"""Those that take part in a quick study."""

PAIRS = {
    "timm_efficientnet_b0": "efficientnet_b0", "timm_mobilenet_v2": "mobilenet_v2",
    "timm_mobilenet_v3_large": "mobilenet_v3_large", "timm_ghostnet": "ghostnet_v1",
    "timm_xception": "xception", "timm_inception_v3": "inception_v3",
    "torchvision_shufflenet_v2": "shufflenet_v2", "torchvision_mnasnet": "mnasnet",
    "torchvision_squeezenet": "squeezenet_1_1", "torchvision_resnet18": "resnet18",
}  # fmt: skip
"""A rival and the network of ours that it is."""

DIMENSIONS = {
    "none": "B0, not scaled", "compound": "compound scaling", "depth": "depth alone",
    "width": "width alone", "resolution": "resolution alone",
}  # fmt: skip

TITLES = {
    **{f"efficientnet_b{i}": f"EfficientNet-B{i}" for i in range(8)},
    **{f"efficientnet_v2_{s}": f"EfficientNetV2-{s.upper()}" for s in "sml"},
    "mobilenet_v1": "MobileNet", "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_small": "MobileNetV3-small", "mobilenet_v3_large": "MobileNetV3-large",
    "mobilenet_v4_small": "MobileNetV4-small", "mobilenet_v4_medium": "MobileNetV4-medium",
    "mobilenet_v4_large": "MobileNetV4-large", "mobilenet_v4_hybrid_medium": "MobileNetV4-hybrid",
    "mnasnet": "MnasNet", "ghostnet_v1": "GhostNet", "ghostnet_v2": "GhostNetV2",
    "googlenet": "GoogLeNet", "inception_v3": "Inception-v3", "inception_v4": "Inception-v4",
    "xception": "Xception", "squeezenet_1_0": "SqueezeNet 1.0", "squeezenet_1_1": "SqueezeNet 1.1",
    "shufflenet_v1": "ShuffleNet", "shufflenet_v2": "ShuffleNetV2", "snet49": "SNet49",
    "snet146": "SNet146", "snet535": "SNet535", "resnet18": "ResNet-18", "resnet50": "ResNet-50",
}  # fmt: skip

_LARGE = (
    *(f"efficientnet_b{i}" for i in range(3, 8)), "efficientnet_v2_m", "efficientnet_v2_l",
    "inception_v4", "mobilenet_v4_large",
)  # fmt: skip
"""Those that see so few images in the seconds of the study that there is nothing to learn."""

_EQUAL = ("inception_v3", "xception", "mobilenet_v2", "shufflenet_v2")
"""Those that meet at equal parameters."""

_TRIALS = 9

_FAIR = {"drop_path": 0.0, "dropout": 0.0}
"""What EfficientNets go without: a training of seconds has nothing to be held back from."""


def _crews(name: str) -> dict[str, Any]:
    crews = ["all"]
    crews += ["quick"] if name in QUICK else []
    crews += ["equal"] if name in _EQUAL else []
    crews += [] if name in _LARGE else ["learners"]
    # A guest meets everywhere but where a family is scaled, or brought to equal parameters.
    return {"crew": crews}


def network(
    name: str, num_classes: int = 1000, width: float = 1.0, parameters: int = 0
) -> Any:  # fmt: skip
    """Builds a network of the registry at a share of its width, or near a number of parameters.

    Args:
        name: Its name.
        num_classes: K.
        width: Factor of its channels.
        parameters: Number of parameters to come near to, by the width; 0: as `width` says.
    """
    builder = resolve("paragone.vision:backbone")
    usual = float(BACKBONES[name][1].get("width", 1.0))

    def made(factor: float, **more: Any) -> Any:
        options = {} if factor == 1.0 else {"width": factor * usual}
        options |= _FAIR if name.startswith("efficientnet") else {}
        return builder(name, num_classes=num_classes, **options, **more)

    if not parameters:
        return made(width)
    low, high = 0.05, 2.0
    tried: dict[float, int] = {}
    for _ in range(_TRIALS):
        factor = math.sqrt(low * high)
        tried[factor] = made(factor, device="meta").parameter_count()
        low, high = (factor, high) if tried[factor] < parameters else (low, factor)
    return made(min(tried, key=lambda factor: abs(math.log(tried[factor] / parameters))))


def scaled(
    dimension: str, num_classes: int = 1000, image_size: int = 32, width: float = 1.0,
    times: float = 1.0,
) -> Any:  # fmt: skip
    """Builds EfficientNet-B0 with so many times its multiply-adds, spent on one dimension or all.

    Args:
        dimension: One of `DIMENSIONS`.
        num_classes: K.
        image_size: Side of the images in pixels before scaling.
        width: Factor of its channels before scaling.
        times: Multiply-adds, as a multiple.
    """
    build = resolve("paragone.vision:efficientnet")

    def plain(depth: float = 1.0, width: float = 1.0, **more: Any) -> Any:
        return build(
            "b0", depth=depth, width=share * width, num_classes=num_classes, **_FAIR, **more
        )

    share, multiple = width, 4
    if dimension == "none":
        model, side = plain(), image_size
    else:
        base = plain(device="meta").macs((image_size, image_size))
        scale = resolve("paragone.vision.compound_scaling:scale_to")
        found = scale(times * base, dimension, network=plain, base=image_size, multiple=multiple)
        model, side = found.build(plain), found.side(image_size, multiple)
    model.image_size = (side, side)
    return model


def _ours(name: str) -> Contestant:
    efficient = name.startswith("efficientnet")
    return Contestant(
        id=name, title=TITLES.get(name, name), params={"name": name},
        make="paragone.lab.contestants.backbones:network",
        method="efficientnet" if efficient else "lightweight_networks",
        needs={"part": ["learn", "cost"], **_crews(name)},
    )  # fmt: skip


def _dimension(name: str) -> Contestant:
    return Contestant(
        id=f"b0_{name}", title=DIMENSIONS[name], params={"dimension": name},
        make="paragone.lab.contestants.backbones:scaled", method="efficientnet",
        needs={"part": ["scale"]},
    )  # fmt: skip


def _rival(id: str, make: str, **params: Any) -> Contestant:
    library = id.partition("_")[0]
    return Contestant(
        id=id, title=f"{library} {{version}} {TITLES[PAIRS[id]]}", params=params, origin="rival",
        make=f"paragone.lab.contestants.backbones_rivals:{make}", distribution=library,
        install=f"pip install {library}", needs={"part": ["learn", "cost"], **_crews(id)},
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """Ours by name, B0 scaled in five ways, then timm's and torchvision's."""
    rivals = [
        _rival("timm_efficientnet_b0", "timm_by_width", family="efficientnet",
               generator="_gen_efficientnet", variant="efficientnet_b0"),
        _rival("timm_mobilenet_v2", "timm_by_width", family="efficientnet",
               generator="_gen_mobilenet_v2", variant="mobilenetv2_100"),
        _rival("timm_mobilenet_v3_large", "timm_by_width", family="mobilenetv3",
               generator="_gen_mobilenet_v3", variant="mobilenetv3_large_100"),
        _rival("timm_ghostnet", "timm_by_width", family="ghostnet",
               generator="_create_ghostnet", variant="ghostnet_100", key="width"),
        _rival("timm_xception", "timm", name="legacy_xception"),
        _rival("timm_inception_v3", "timm", name="inception_v3"),
        _rival("torchvision_shufflenet_v2", "torchvision", name="shufflenet_v2_x1_0"),
        _rival("torchvision_mnasnet", "torchvision", name="mnasnet1_0"),
        _rival("torchvision_squeezenet", "torchvision", name="squeezenet1_1"),
        _rival("torchvision_resnet18", "torchvision", name="resnet18"),
    ]  # fmt: skip
    ours = [_ours(name) for name in BACKBONES]
    return [*ours, *(_dimension(name) for name in DIMENSIONS), *rivals]
