r"""ShuffleNet: networks for phones, whose cheap parts talk by dealing out channels.

Version 1 cuts the pointwise convolutions into groups and deals the channels out between them;
version 2 keeps them whole, but lets half of the channels pass each block untouched. Both have a
stem of stride 4, three stages of 4, 8 and 4 blocks that each begin with stride 2,

$$ x \to \text{conv}_{3,\,/2} \to \text{max}_{3,\,/2} \to S_2^{/2} \to S_3^{/2} \to S_4^{/2} \to
   \text{mean} \to \text{linear} , $$

and version 2 a last pointwise convolution. The blocks and their cost stand in `blocks.shuffle`
and `blocks.split`. At 224 px: v1 with 3 groups 138 M multiply-adds; v2 0.5x 40.5 M, 1.0x 144.9 M,
1.5x 295.8 M, 2.0x 583.3 M.

References:
    Zhang et al. (2018), "ShuffleNet", arXiv:1707.01083, table 1 (channels by groups).
    Ma et al. (2018), "ShuffleNet V2", arXiv:1807.11164, table 5 (channels by width).

Shapes: B batch, C channels, H and W height and width in pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from paragone.vision._lineage_layers import classifier, conv_norm, load_names_too, pooled
from paragone.vision.blocks.shuffle import ShuffleBlock
from paragone.vision.blocks.split import SplitBlock, Wiring
from paragone.vision.contract import Backbone

__all__ = ["ShuffleNetV1", "ShuffleNetV2", "shufflenet"]

_BY_GROUPS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
_BY_WIDTH = {0.5: 48, 1.0: 116, 1.5: 176, 2.0: 244}
_REPEATS = (4, 8, 4)


class ShuffleNetV1(Backbone):
    """Stem, three stages of `ShuffleBlock`, and a linear layer; built by `shufflenet`."""

    def __init__(
        self, stem: int, stages: Sequence[int], *, repeats: Sequence[int] = _REPEATS,
        groups: int = 3, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.0,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, (224, 224)
        self.channels = dict(zip((2, 4, 8, 16, 32), (stem, stem, *stages), strict=True))
        self.first_conv = conv_norm(in_channels, stem, 3, stride=2, names=("0", "1"), **where)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        blocks: list[nn.Module] = []
        self._strides: list[int] = []
        entering = stem
        for stage, (made, count) in enumerate(zip(stages, repeats, strict=True)):
            for i in range(count):
                blocks.append(ShuffleBlock(
                    entering, made, stride=1 if i else 2, groups=groups,
                    # The few channels behind the stem are not cut into groups.
                    first_groups=1 if stage == i == 0 else None, **where,
                ))  # fmt: skip
                entering = made
                self._strides.append(8 << stage)
        self.features = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Sequential(classifier(entering, num_classes, bias=False, **where))

    def steps(self) -> list[tuple[int, nn.Module]]:
        trunk = zip(self._strides, self.features, strict=True)
        return [(2, self.first_conv), (4, self.maxpool), *trunk]

    def head(self, features: Tensor) -> Tensor:
        return self.classifier(self.dropout(pooled(features)))


class ShuffleNetV2(Backbone):
    """Stem, three stages of `SplitBlock`, a pointwise convolution and a linear layer.

    Built by `shufflenet` and `snet`. It has torchvision's names; state dicts of the authors
    (`features.0.branch_main …`), of their ThunderNet and of FastestDet (`stage2.0.branch_main …`)
    load as well, with `wiring="megvii"`.
    """

    def __init__(
        self, stem: int, stages: Sequence[int], last: int = 1024, *,
        repeats: Sequence[int] = _REPEATS, kernel: int = 3, wiring: Wiring = "torchvision",
        num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.0,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, (224, 224)
        self.conv1 = conv_norm(in_channels, stem, 3, stride=2, names=("0", "1"), **where)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        entering, made = stem, []
        for channels, count in zip(stages, repeats, strict=True):
            blocks = []
            for i in range(count):
                blocks.append(SplitBlock(
                    entering, channels, stride=1 if i else 2, kernel=kernel, wiring=wiring, **where
                ))  # fmt: skip
                entering = channels
            made.append(nn.Sequential(*blocks))
        self.stage2, self.stage3, self.stage4 = made
        self.conv5 = conv_norm(entering, last, names=("0", "1"), **where) if last else None
        self.dropout = nn.Dropout(dropout)
        self.fc = classifier(last or entering, num_classes, bias=wiring != "megvii", **where)
        ends = (stem, stem, *stages[:2], last or entering)
        self.channels = dict(zip((2, 4, 8, 16, 32), ends, strict=True))
        load_names_too(self, *_published(repeats))

    def steps(self) -> list[tuple[int, nn.Module]]:
        trunk: list[tuple[int, nn.Module]] = [
            (2, self.conv1), (4, self.maxpool), (8, self.stage2), (16, self.stage3),
            (32, self.stage4),
        ]  # fmt: skip
        return trunk if self.conv5 is None else [*trunk, (32, self.conv5)]

    def head(self, features: Tensor) -> Tensor:
        return self.fc(self.dropout(pooled(features)))


def _published(repeats: Sequence[int]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The authors' names and ours: beginnings, and parts."""
    places = [f"stage{s}.{i}." for s, count in enumerate(repeats, 2) for i in range(count)]
    starts = [
        ("first_conv.", "conv1."), ("conv_last.", "conv5."), ("classifier.0.", "fc."),
        *((f"features.{i}.", place) for i, place in enumerate(places)),
        *((f"stage.{s}.", f"stage{s + 2}.") for s in range(3)),
    ]  # fmt: skip
    parts = {"branch_main": "branch2", "branch": "branch2",
             "branch_proj": "branch1", "branch_left": "branch1"}  # fmt: skip
    return starts, parts


def shufflenet(
    version: Literal["v1", "v2"] = "v2", *, width: float = 1.0, depth: float = 1.0,
    groups: int = 3, wiring: Wiring = "torchvision", last_channels: int | None = None,
    num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.0, device: Any = None,
    dtype: Any = None,
) -> ShuffleNetV1 | ShuffleNetV2:  # fmt: skip
    """Builds a ShuffleNet.

    Prefer version 2 to `mobilenet("v2")` where memory traffic is the limit (phones, small
    caches), and below 150 M multiply-adds; prefer `mobilenet("v3-small")` where an accelerator
    runs depthwise filters and squeeze-and-excite well.

    Args:
        version: "v1" (grouped pointwise convolutions) or "v2" (split channels).
        width: Scale of the channels. 0.5, 1, 1.5 and 2 are the published ones; version 2
            interpolates between their channels for others.
        depth: Scale of the number of blocks (4, 8, 4).
        groups: Of version 1: 1, 2, 3, 4 or 8; more groups are wider at the same cost.
        wiring: Of version 2: "torchvision", or "megvii" for the authors' own weights (their
            linear layer has no bias).
        last_channels: Of version 2: width of the last convolution; 0 leaves it out.
        num_classes: K; 0 gives pooled features.
        in_channels: C of the images.
        dropout: Rate before the linear layer.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An unknown version, wiring or number of groups; a width too small.

    Example:
        >>> net = shufflenet("v2", width=0.5, device="meta")
        >>> net.parameter_count(), net.macs((224, 224))
        (1366792, 40476448)
    """
    if version not in ("v1", "v2"):
        raise ValueError(f"version={version!r} is none of v1, v2")
    if width <= 0 or depth <= 0:
        raise ValueError(f"width={width} and depth={depth} scale a network; give more than 0")
    repeats = [max(1, round(count * depth)) for count in _REPEATS]
    shared: dict[str, Any] = {
        "repeats": repeats, "num_classes": num_classes, "in_channels": in_channels,
        "dropout": dropout, "device": device, "dtype": dtype,
    }  # fmt: skip
    if version == "v1":
        if groups not in _BY_GROUPS:
            raise ValueError(f"groups={groups} is none of {', '.join(map(str, _BY_GROUPS))}")
        first = _multiple(width * _BY_GROUPS[groups], 4 * groups)
        stem = 12 if width <= 0.5 else 24 if width < 2 else 48
        stem = -(-stem // groups) * groups
        return ShuffleNetV1(stem, (first, 2 * first, 4 * first), groups=groups, **shared)
    at, known = list(_BY_WIDTH), list(_BY_WIDTH.values())
    if width < at[0] or width > at[-1]:
        near = at[0] if width < 1 else at[-1]
        channels = width / near * _BY_WIDTH[near]
    else:
        channels = float(np.interp(width, at, known))
    first = _multiple(channels, 4)
    last = (1024 if width < 2 else 2048) if last_channels is None else last_channels
    return ShuffleNetV2(24, (first, 2 * first, 4 * first), last, wiring=wiring, **shared)


def _multiple(channels: float, of: int) -> int:
    return max(of, round(channels / of) * of)
