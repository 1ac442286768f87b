"""What the networks of the lineage share: a convolution with its norm, and published names.

A convolution and its norm always stand next to each other in an `nn.Sequential`, so that whoever
deploys a network can fold the one into the other.

References:
    He et al. (2015), "Delving deep into rectifiers", arXiv:1502.01852, section 2.2 (the initial
    weights of `spread`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paragone.vision.layers import NormAct, PointwiseConv

__all__ = ["chain", "classifier", "conv_norm", "halved", "load_names_too", "pooled", "spread"]


def halved(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Returns height and width behind a padded convolution of that stride."""
    return -(-size[0] // stride), -(-size[1] // stride)


def chain(*layers: tuple[str, nn.Module]) -> nn.Sequential:
    """Returns layers in order, under the given names."""
    return nn.Sequential(OrderedDict(layers))


def conv_norm(
    in_channels: int, out_channels: int, kernel: int | tuple[int, int] = 1, *, stride: int = 1,
    padding: int | tuple[int, int] | None = None, groups: int = 1, activation: str = "relu",
    names: tuple[str, str] = ("conv", "bn"), eps: float = 1e-5, **where: Any,
) -> nn.Sequential:  # fmt: skip
    """Returns a convolution without bias, its norm and activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the filter, or its height and width.
        stride: Step in pixels.
        padding: Zeros around; half the kernel without it.
        groups: Groups of channels that do not see each other.
        activation: Name of the activation behind the norm.
        names: Names of the two layers.
        eps: Of the norm.
        where: Device and dtype.
    """
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    around = (sides[0] // 2, sides[1] // 2) if padding is None else padding
    if sides == (1, 1) and stride == groups == 1:
        conv = PointwiseConv(in_channels, out_channels, **where)
    else:
        conv = nn.Conv2d(
            in_channels, out_channels, sides, stride, around, groups=groups, bias=False, **where
        )
    norm = NormAct(out_channels, activation, eps=eps, **where)
    return chain((names[0], conv), (names[1], norm))


def classifier(channels: int, num_classes: int, *, bias: bool = True, **where: Any) -> nn.Module:
    """Returns the last layer, or none for pooled features."""
    if num_classes < 0:
        raise ValueError(f"num_classes={num_classes}: give 1 or more, or 0 for pooled features")
    return nn.Linear(channels, num_classes, bias, **where) if num_classes else nn.Identity()


def pooled(features: Tensor) -> Tensor:
    """Returns the mean over all places: (B, C) of (B, C, H, W)."""
    return features.mean((2, 3))


def spread(module: nn.Module) -> None:
    """Draws the weights of all convolutions so that gradients keep their size (fan out)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def load_names_too(
    module: nn.Module,
    starts: Iterable[tuple[str, str]] = (),
    parts: Mapping[str, str] | None = None,
) -> None:
    """Lets a module load state dicts that follow another layout of names.

    Args:
        module: Whose `load_state_dict` shall understand them.
        starts: Beginnings of their names and of ours; the first that fits is taken.
        parts: Single parts of their names (between dots) and of ours.
    """
    table, renamed = list(starts), dict(parts or {})

    def ours(name: str) -> str:
        for theirs, own in table:
            if name.startswith(theirs):
                name = own + name[len(theirs) :]
                break
        return ".".join(renamed.get(part, part) for part in name.split("."))

    def hook(_: nn.Module, state: dict[str, torch.Tensor], prefix: str, *rest: Any) -> None:
        for key in [key for key in state if key.startswith(prefix)]:
            if (name := prefix + ours(key[len(prefix) :])) != key:
                state[name] = state.pop(key)

    module.register_load_state_dict_pre_hook(hook)
