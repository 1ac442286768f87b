r"""Separable convolution: first each channel in space, then all channels in each place.

Inception assumes that patterns in space and between channels can be looked for apart. Taken
to the limit, each channel has its own k x k filter (`blocks.depthwise`), and one 1x1 convolution
(`blocks.pointwise`) mixes the channels, with nothing in between: an activation there loses
accuracy. Multiply-adds for C channels in and D out (stride 1):

$$ H W C\,(k^2 + D), \qquad \frac{\text{separable}}{\text{full}} = \frac{1}{D} + \frac{1}{k^2} . $$

Xception's block sets the activation before each separable convolution, and adds the input; where
the shape changes, a 1x1 convolution with a norm goes beside, and a pool halves the map. For n of
them with channels $c_0, \dots, c_n$:

$$ \sum_{i=1}^n H W c_{i-1} (9 + c_i) + [\text{shape changes}]\; h w\, c_0 c_n . $$

References:
    Chollet (2017), "Xception", arXiv:1610.02357, sections 1.1-1.2 and 4.7, figure 5.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from paragone.vision._lineage_layers import chain, halved
from paragone.vision.layers import DepthwiseConv, NormAct, PointwiseConv

__all__ = ["SeparableConv", "XceptionBlock"]


class SeparableConv(nn.Module):
    """A depthwise and a pointwise convolution, with nothing in between.

    Args:
        in_channels: C.
        out_channels: D.
        kernel: Side of the filters.
        stride: Step of the depthwise one.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv1 = DepthwiseConv(in_channels, kernel, stride, **where)
        self.pointwise = PointwiseConv(in_channels, out_channels, **where)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.conv1(x))

    @staticmethod
    def multiply_adds(
        in_channels: int, out_channels: int, size: tuple[int, int], *, kernel: int = 3,
        stride: int = 1,
    ) -> int:  # fmt: skip
        """Returns the formula's number; arguments as of the block, and the input's size."""
        height, width = halved(size, stride)
        return height * width * in_channels * (kernel * kernel + out_channels)


class XceptionBlock(nn.Module):
    """Separable convolutions, each behind an activation, and the input.

    Args:
        in_channels: C.
        out_channels: D.
        repeats: How many separable convolutions.
        stride: 2 halves the map by a pool.
        first: Whether an activation stands before the first one; not in the first block, whose
            input comes from one.
        grow_first: Whether the first one widens to D channels, or the last.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, in_channels: int, out_channels: int, repeats: int = 3, *, stride: int = 1,
        first: bool = True, grow_first: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.skip = self.skipbn = None
        if in_channels != out_channels or stride != 1:
            self.skip = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False, **where)
            self.skipbn = NormAct(out_channels, "none", **where)
        layers: list[tuple[str, nn.Module]] = [("0", nn.ReLU())] if first else []
        widths = _widths(in_channels, out_channels, repeats, grow_first)
        for i, (entering, made) in enumerate(pairwise(widths)):
            at = 3 * i + int(first)
            activation = "relu" if i < repeats - 1 else "none"
            layers.append((str(at), SeparableConv(entering, made, **where)))
            layers.append((str(at + 1), NormAct(made, activation, **where)))
        if stride != 1:
            layers.append((str(3 * repeats - 1 + int(first)), nn.MaxPool2d(3, stride, 1)))
        self.rep = chain(*layers)

    def forward(self, x: Tensor) -> Tensor:
        beside = x
        if self.skip is not None and self.skipbn is not None:
            beside = self.skipbn(self.skip(x))
        return self.rep(x) + beside

    @staticmethod
    def multiply_adds(
        in_channels: int, out_channels: int, size: tuple[int, int], *, repeats: int = 3,
        stride: int = 1, grow_first: bool = True,
    ) -> int:  # fmt: skip
        """Returns the formula's number; arguments as of the block, and the input's size."""
        widths = _widths(in_channels, out_channels, repeats, grow_first)
        total = sum(SeparableConv.multiply_adds(a, b, size) for a, b in pairwise(widths))
        if in_channels != out_channels or stride != 1:
            height, width = halved(size, stride)
            total += height * width * in_channels * out_channels
        return total


def _widths(in_channels: int, out_channels: int, repeats: int, grow_first: bool) -> list[int]:
    inner = out_channels if grow_first else in_channels
    return [in_channels, *[inner] * (repeats - 1), out_channels]
