"""torchvision's names of parameters of mobile networks, in terms of timm's, which are ours.

References:
    The state dicts of torchvision 0.28 (models `efficientnet_*`, `mobilenet_v2`, `mobilenet_v3_*`,
    `mnasnet*`): names and shapes.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from paragone.vision.blocks.conv_norm import ConvNorm
from paragone.vision.blocks.fused_residual import FusedResidual
from paragone.vision.blocks.inverted_residual import InvertedResidual
from paragone.vision.blocks.mobile_separable import SeparableResidual

__all__ = ["torchvision_names", "translate"]

_SQUEEZE = ("se",)
_UNITS: dict[type[nn.Module], tuple[tuple[str, ...], ...]] = {
    InvertedResidual: (("conv_pw", "bn1"), ("conv_dw", "bn2"), _SQUEEZE, ("conv_pwl", "bn3")),
    SeparableResidual: (("conv_dw", "bn1"), _SQUEEZE, ("conv_pw", "bn2")),
    FusedResidual: (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
    ConvNorm: (("conv", "bn1"),),
}
"""Convolution and norm of each layer of a block, in order."""


def _within(block: Any, form: str) -> dict[str, str]:
    """Their names of the layers of one block, to ours."""
    if form == "v3" and type(block) is ConvNorm:
        return {"0": "conv", "1": "bn1"}
    names: dict[str, str] = {}
    units = [
        unit
        for unit in _UNITS[type(block)]
        if unit != _SQUEEZE or not isinstance(block.se, nn.Identity)
    ]
    for i, unit in enumerate(units):
        if unit == _SQUEEZE:
            names |= {f"block.{i}.fc1": "se.conv_reduce", f"block.{i}.fc2": "se.conv_expand"}
            continue
        if form == "mnasnet":
            theirs = (f"layers.{3 * i}", f"layers.{3 * i + 1}")
        elif form == "v2" and i == len(units) - 1:
            theirs = (f"conv.{i}", f"conv.{i + 1}")
        else:
            part = "conv" if form == "v2" else "block"
            theirs = (f"{part}.{i}.0", f"{part}.{i}.1")
        names |= dict(zip(theirs, unit, strict=True))
    return names


def torchvision_names(network: Any) -> dict[str, str]:
    """Returns torchvision's names of the layers of a network, and ours.

    Args:
        network: A `MobileNetwork` of which torchvision has one, too.
    """
    form = network.plan.named
    if form == "mnasnet":
        return _mnasnet(network)
    names = {"features.0.0": "conv_stem", "features.0.1": "bn1"}
    place = 0
    for i, stage in enumerate(network.blocks):
        for j, block in enumerate(stage):
            place += 1
            where = f"features.{i + 1}.{j}" if form == "efficientnet" else f"features.{place}"
            inner = _within(block, form)
            names |= {f"{where}.{k}": f"blocks.{i}.{j}.{v}" for k, v in inner.items()}
    if form == "v3":
        return names | {"classifier.0": "conv_head", "classifier.3": "classifier"}
    last = (len(network.blocks) if form == "efficientnet" else place) + 1
    head = {f"features.{last}.0": "conv_head", f"features.{last}.1": "bn2"}
    return names | head | {"classifier.1": "classifier"}


def _mnasnet(network: Any) -> dict[str, str]:
    names = {"layers.0": "conv_stem", "layers.1": "bn1", "classifier.1": "classifier"}
    first = {3: "conv_dw", 4: "bn1", 6: "conv_pw", 7: "bn2"}
    names |= {f"layers.{i}": f"blocks.0.0.{name}" for i, name in first.items()}
    stages = list(network.blocks)
    for i, stage in enumerate(stages[1:], 1):
        for j, block in enumerate(stage):
            inner = _within(block, "mnasnet")
            names |= {f"layers.{7 + i}.{j}.{k}": f"blocks.{i}.{j}.{v}" for k, v in inner.items()}
    last = 7 + len(stages)
    return names | {f"layers.{last}": "conv_head", f"layers.{last + 1}": "bn2"}


def translate(module: Any, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    """Renames torchvision's parameters in a state dict in place, before it is loaded.

    Keys that are not torchvision's stay, so that a strict load still names them.
    """
    if not module.plan.named:
        return
    if not any(key.startswith((f"{prefix}features.", f"{prefix}layers.")) for key in state):
        return
    names, own = torchvision_names(module), module.state_dict()
    for key in [key for key in state if key.startswith(prefix)]:
        layer, _, parameter = key[len(prefix) :].rpartition(".")
        if layer not in names:
            continue
        ours = f"{names[layer]}.{parameter}"
        value = state.pop(key)
        if ours in own and own[ours].shape != value.shape == own[ours].shape[: value.dim()]:
            value = value.reshape(own[ours].shape)
        state[prefix + ours] = value
