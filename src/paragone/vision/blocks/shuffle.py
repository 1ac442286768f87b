r"""ShuffleNet's first block: the pointwise convolutions in groups, and channels dealt out anew.

With depthwise filters nearly all the work is in the 1x1 convolutions, so these are cut into g
groups, each g times cheaper. Groups alone would never talk to each other; between the two
pointwise convolutions the channels are therefore dealt out like cards,

$$ y_{j\,g + i} = x_{i\,C/g + j}, \qquad 0 \le i < g,\; 0 \le j < C/g , $$

so that every group of the second sees all groups of the first. Multiply-adds, for C channels in,
D out, m = D / 4 between, and filters of k x k (stride 1; H, W the map):

$$ H W \Big( \frac{C m}{g} + k^2 m + \frac{m D}{g} \Big) . $$

With stride 2 the second convolution makes D - C channels, and the input, averaged 3x3, is the
rest. Dealing before or behind the depthwise filters is the same network with its filters renamed;
here it is behind, as in the published weights.

References:
    Zhang et al. (2018), "ShuffleNet", arXiv:1707.01083, section 3.1 and figure 2.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.vision._lineage_layers import chain, halved
from paragone.vision.layers import DepthwiseConv, NormAct

__all__ = ["ShuffleBlock", "channel_shuffle"]


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Returns channels dealt out: one of each group in turn, in the memory order of the input.

    Args:
        x: (B, C, H, W).
        groups: How many; C is a multiple of it.

    Example:
        >>> channel_shuffle(torch.arange(6.0).view(1, 6, 1, 1), 2).flatten().tolist()
        [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    """
    if x.shape[1] % groups:
        raise ValueError(f"{x.shape[1]} channels are no multiple of {groups} groups")
    if x.is_contiguous(memory_format=torch.channels_last):
        last = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1))
        return last.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleBlock(nn.Module):
    """Grouped pointwise, depthwise, channels dealt out, grouped pointwise.

    Args:
        in_channels: C.
        out_channels: D; with stride 1 equal to C.
        stride: 1 adds the input, 2 averages it and sets it beside the output.
        groups: g of the pointwise convolutions.
        first_groups: Groups of the first one: 1 where C is small (the first block of a network).
        kernel: Side of the depthwise filters.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 3,
        first_groups: int | None = None, kernel: int = 3, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        middle, first = out_channels // 4, groups if first_groups is None else first_groups
        made = out_channels if stride == 1 else out_channels - in_channels
        for channels, count in (
            (in_channels, first), (middle, groups), (made, groups)
        ):  # fmt: skip
            if channels < 1 or channels % count:
                raise ValueError(f"{channels} channels are no multiple of {count} groups")
        if stride == 1 and in_channels != out_channels:
            raise ValueError(f"with stride 1 the {in_channels} channels stay as many as they are; "
                             f"{out_channels} need stride 2")  # fmt: skip
        self.stride, self.groups = stride, groups
        self.branch_main_1 = chain(
            ("0", nn.Conv2d(in_channels, middle, 1, groups=first, bias=False, **where)),
            ("1", NormAct(middle, "relu", **where)),
            ("3", DepthwiseConv(middle, kernel, stride, **where)),
            ("4", NormAct(middle, "none", **where)),
        )
        self.branch_main_2 = chain(
            ("0", nn.Conv2d(middle, made, 1, groups=groups, bias=False, **where)),
            ("1", NormAct(made, "none", **where)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch_main_2(channel_shuffle(self.branch_main_1(x), self.groups))
        if self.stride == 1:
            return functional.relu(y + x)
        return torch.cat((functional.avg_pool2d(x, 3, self.stride, 1), functional.relu(y)), 1)

    @staticmethod
    def multiply_adds(
        in_channels: int, out_channels: int, size: tuple[int, int], *, stride: int = 1,
        groups: int = 3, first_groups: int | None = None, kernel: int = 3,
    ) -> int:  # fmt: skip
        """Returns the formula's number; arguments as of the block, and the input's size."""
        middle, first = out_channels // 4, groups if first_groups is None else first_groups
        made = out_channels if stride == 1 else out_channels - in_channels
        height, width = halved(size, stride)
        behind = kernel * kernel * middle + middle * made // groups
        return size[0] * size[1] * in_channels * middle // first + height * width * behind
