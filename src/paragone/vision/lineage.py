r"""From the full convolution to GhostNet: what each idea saves, at the same channels and size.

A full k x k convolution of C into C channels costs $k^2 C^2$ at each place. Squeezing channels
(bottleneck, Inception, Fire) divides the $C^2$, factoring divides the $k^2$, and taking space and
channels apart turns the product into a sum, after which the 1x1 part is nearly everything:

$$ k^2 C^2 \;\to\; k^2 C + C^2 \;\to\; k^2 C + \tfrac{1}{g} C^2 \;\to\;
   k^2 \tfrac{C}{2} + 2 \big(\tfrac{C}{2}\big)^2 . $$

Multiply-adds are the formulas of the blocks (tests hold them to the count); parameters are
counted. Neither is time: a depthwise filter waits for memory, so measure as well (`build`).

References:
    Chollet (2017), "Xception", arXiv:1610.02357, section 1.1 (from Inception to separable).
    Ma et al. (2018), "ShuffleNet V2", arXiv:1807.11164, section 2 (why this is not time).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import nn

from paragone.vision._mobile_style import Style
from paragone.vision.blocks.depthwise import Depthwise
from paragone.vision.blocks.factored import FactoredConv
from paragone.vision.blocks.fire import Fire
from paragone.vision.blocks.full import FullConv
from paragone.vision.blocks.ghost import GhostModule
from paragone.vision.blocks.inception import GoogLeNetBlock, InceptionBlock
from paragone.vision.blocks.inverted_residual import InvertedResidual
from paragone.vision.blocks.pointwise import Pointwise
from paragone.vision.blocks.residual import Bottleneck
from paragone.vision.blocks.separable import SeparableConv
from paragone.vision.blocks.shuffle import ShuffleBlock
from paragone.vision.blocks.split import SplitBlock

__all__ = ["Ancestor", "lineage"]


@dataclasses.dataclass(frozen=True)
class Ancestor:
    """One block of the lineage.

    Attributes:
        name: What it is called.
        year: Of the paper.
        idea: What is new in it.
        multiply_adds: For one image.
        parameters: Numbers that are trained.
        ratio: Its multiply-adds over those of the full convolution.
        build: Makes the block; takes `device` and `dtype`.
    """

    name: str
    year: int
    idea: str
    multiply_adds: int
    parameters: int
    ratio: float
    build: Callable[..., nn.Module] = dataclasses.field(repr=False, compare=False)


def lineage(
    channels: int = 192, size: tuple[int, int] = (28, 28), *, groups: int = 3
) -> list[Ancestor]:
    """Returns the blocks from the full 3x3 convolution to GhostNet, all on the same map.

    MobileNetV2's block costs more than the full convolution here: it is made for maps with a
    sixth of the channels.

    Args:
        channels: Channels in and out; a multiple of 8 and of 4 `groups`.
        size: Height and width of the map in pixels.
        groups: Of ShuffleNet's pointwise convolutions.

    Raises:
        ValueError: Channels that some block cannot divide; an empty map.

    Example:
        >>> for block in lineage(192)[6:10]:
        ...     print(f"{block.name:10} {block.ratio:.3f}")
        depthwise  0.005
        separable  0.116
        shuffle    0.020
        split      0.058
    """
    if channels < 1 or groups < 1 or channels % 8 or channels % (4 * groups):
        raise ValueError(f"channels={channels} are no multiple of 8 and of 4 groups "
                         f"= {4 * groups}; 192 is, with 1, 2, 3, 4, 6, 8 or 12 groups")  # fmt: skip
    if min(size) < 1:
        raise ValueError(f"size={size}: give a height and width of 1 or more")
    c = channels
    # The proportions of GoogLeNet's first module, and of SqueezeNet's.
    mixed = [c // 4, 3 * c // 8, c // 2, max(1, c // 16), c // 8, c // 8]
    squeezed, halves = c // 8, (c // 2, c // 2)
    rows: list[tuple[str, int, str, int, Callable[..., nn.Module]]] = [
        ("full", 1998, "every filter sees all channels and 3x3 places",
         FullConv.multiply_adds(c, c, size), lambda **w: FullConv(c, c, **w)),
        ("factored", 2015, "3x3 as 1x3 and 3x1",
         FactoredConv.multiply_adds(c, c, size), lambda **w: FactoredConv(c, c, **w)),
        ("inception", 2014, "1x1, 3x3, 5x5 and a pool side by side, behind 1x1 squeezes",
         InceptionBlock.multiply_adds(c, GoogLeNetBlock.table(mixed), size),
         lambda **w: GoogLeNetBlock(c, mixed, **w)),
        ("bottleneck", 2015, "1x1 to a quarter, 3x3 there, 1x1 back",
         Bottleneck.multiply_adds(c, c // 4, size), lambda **w: Bottleneck(c, c // 4, **w)),
        ("fire", 2016, "few channels reach the 3x3 filters, half of the filters are 1x1",
         Fire.multiply_adds(c, squeezed, halves, size),
         lambda **w: Fire(c, squeezed, halves, **w)),
        ("pointwise", 2013, "channels alone: a linear layer at each place",
         Pointwise.multiply_adds(c, c, size), lambda **w: Pointwise(c, c, **w)),
        ("depthwise", 2014, "space alone: one filter for each channel",
         Depthwise.multiply_adds(c, size), lambda **w: Depthwise(c, **w)),
        ("separable", 2016, "depthwise, then pointwise: Inception at its limit",
         SeparableConv.multiply_adds(c, c, size), lambda **w: SeparableConv(c, c, **w)),
        ("shuffle", 2017, "pointwise in groups, channels dealt out between",
         ShuffleBlock.multiply_adds(c, c, size, groups=groups),
         lambda **w: ShuffleBlock(c, c, groups=groups, **w)),
        ("split", 2018, "half of the channels pass untouched, then are dealt out",
         SplitBlock.multiply_adds(c, c, size), lambda **w: SplitBlock(c, c, **w)),
        ("inverted", 2018, "thin where the map is passed on, wide where it is filtered",
         size[0] * size[1] * 6 * c * (2 * c + 9),
         lambda **w: InvertedResidual(c, c, style=Style(**w))),
        ("ghost", 2020, "half of the channels are filtered from the other half",
         size[0] * size[1] * c // 2 * (c + 9), lambda **w: GhostModule(c, c, style=Style(**w))),
    ]  # fmt: skip
    whole = rows[0][3]
    return [_ancestor(*row, whole=whole) for row in rows]


def _ancestor(
    name: str, year: int, idea: str, cost: int, build: Callable[..., nn.Module], *, whole: int
) -> Ancestor:
    empty: dict[str, Any] = {"device": "meta"}
    parameters = sum(p.numel() for p in build(**empty).parameters())
    return Ancestor(name, year, idea, cost, parameters, cost / whole, build)
