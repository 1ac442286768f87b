r"""ShuffleNet's second block: half of the channels pass untouched, half are worked on.

What a phone waits for is memory, not arithmetic. Groups cost memory traffic, so the pointwise
convolutions are whole again, and half as wide, because the channels are split: one half is passed
on as it is, the other goes through pointwise, depthwise, pointwise of equal width; then both are
set side by side and dealt out, so that the next block works on other channels. Multiply-adds for
C channels, c = C / 2, filters of k x k (stride 1):

$$ H W c\,(2 c + k^2) . $$

With stride 2 both halves are worked on: for D channels out, m = D / 2 between, and of the D the
first l from the short branch (h, w the halved map):

$$ H W C m + h w \big( k^2 m + m (D - l) + k^2 C + C l \big) . $$

Two wirings were published. "torchvision" has l = D / 2 and deals at the end of each block;
"megvii" (the authors' weights) has l = C and deals at the start of each block of stride 1, by
taking even channels for one half and odd channels for the other.

References:
    Ma et al. (2018), "ShuffleNet V2", arXiv:1807.11164, section 3 and figure 3 (c), (d).

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from paragone.vision._lineage_layers import chain, halved
from paragone.vision.layers import DepthwiseConv, NormAct, PointwiseConv

__all__ = ["SplitBlock", "Wiring", "interleave"]

Wiring = Literal["torchvision", "megvii"]
_WIRINGS = ("torchvision", "megvii")


def interleave(a: Tensor, b: Tensor) -> Tensor:
    """Returns the channels a0, b0, a1, b1 … in the memory order of b: (B, 2 C, H, W)."""
    if not b.is_contiguous(memory_format=torch.channels_last):
        return torch.stack((a, b), 2).flatten(1, 2)
    a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    real = b.dtype in (torch.float32, torch.float64) and a.dtype == b.dtype
    if real and not torch.compiler.is_compiling():
        # Pairs are what a complex number is in memory, and torch writes these much faster.
        both = torch.view_as_real(torch.complex(a, b))
    else:
        both = torch.stack((a, b), -1)
    return both.flatten(3).permute(0, 3, 1, 2)


def _packed(x: Tensor, like: Tensor) -> Tensor:
    """A part of the channels as a map of its own; on a mere view a convolution takes longer."""
    last = like.is_contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


class SplitBlock(nn.Module):
    """Split, convolve one half, join and deal out.

    Args:
        in_channels: C, even.
        out_channels: D, even; with stride 1 equal to C.
        stride: 1 passes half of the channels on; 2 halves the map and works on all.
        kernel: Side of the depthwise filters: 3 in ShuffleNet, 5 in ThunderNet's SNet.
        wiring: "torchvision" or "megvii".
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, kernel: int = 3,
        wiring: Wiring = "torchvision", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if wiring not in _WIRINGS:
            raise ValueError(f"wiring={wiring!r} is none of {', '.join(_WIRINGS)}")
        short, long = _widths(in_channels, out_channels, stride, wiring)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.stride, self.wiring = stride, wiring
        middle = out_channels // 2
        entering = in_channels if stride > 1 else in_channels // 2
        if stride > 1:
            self.branch1 = chain(
                ("0", DepthwiseConv(in_channels, kernel, stride, **where)),
                ("1", NormAct(in_channels, "none", **where)),
                ("2", PointwiseConv(in_channels, short, **where)),
                ("3", NormAct(short, "relu", **where)),
            )
        self.branch2 = chain(
            ("0", PointwiseConv(entering, middle, **where)),
            ("1", NormAct(middle, "relu", **where)),
            ("3", DepthwiseConv(middle, kernel, stride, **where)),
            ("4", NormAct(middle, "none", **where)),
            ("5", PointwiseConv(middle, long, **where)),
            ("6", NormAct(long, "relu", **where)),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.wiring == "megvii":
            if self.stride > 1:
                return torch.cat((self.branch1(x), self.branch2(x)), 1)
            return torch.cat((x[:, ::2], self.branch2(_packed(x[:, 1::2], x))), 1)
        if self.stride > 1:
            return interleave(self.branch1(x), self.branch2(x))
        kept, worked = x.chunk(2, 1)
        return interleave(kept, self.branch2(_packed(worked, x)))

    @staticmethod
    def multiply_adds(
        in_channels: int, out_channels: int, size: tuple[int, int], *, stride: int = 1,
        kernel: int = 3, wiring: Wiring = "torchvision",
    ) -> int:  # fmt: skip
        """Returns the formula's number; arguments as of the block, and the input's size."""
        short, long = _widths(in_channels, out_channels, stride, wiring)
        middle, taps = out_channels // 2, kernel * kernel
        entering = in_channels if stride > 1 else in_channels // 2
        height, width = halved(size, stride)
        behind = taps * middle + middle * long
        if stride > 1:
            behind += taps * in_channels + in_channels * short
        return size[0] * size[1] * entering * middle + height * width * behind


def _widths(in_channels: int, out_channels: int, stride: int, wiring: str) -> tuple[int, int]:
    """Channels of the short and of the long branch."""
    if out_channels % 2 or (stride == 1 and in_channels != out_channels):
        raise ValueError(
            f"a block of stride {stride} from {in_channels} to {out_channels} channels: give an "
            "even number, and with stride 1 the same in and out"
        )
    short = in_channels if wiring == "megvii" and stride > 1 else out_channels // 2
    if short >= out_channels:
        raise ValueError(
            f"{out_channels} channels leave nothing to convolve beside the {in_channels} that "
            'wiring="megvii" passes on; give more channels, or wiring="torchvision"'
        )
    return short, out_channels - short
