r"""ESPCN: super-resolution with all its work done at the small size.

Two convolutions with tanh look at the small image, a third one computes $r^2$ channels, which a
pixel shuffle lays out at r times the size:

$$ f_1 = \tanh(W_1 * x), \quad f_2 = \tanh(W_2 * f_1), \quad y = \mathrm{PS}(W_3 * f_2) . $$

Cost: 20,032 + 288 $r^2$ multiply-adds a small pixel of one channel.

References:
    Shi et al. (2016), "Real-time single image and video super-resolution using an efficient
    sub-pixel convolutional neural network", arXiv:1609.05158, eq. 1-4, section 3.2 (f1 = 5, n1 =
    64, f2 = 3, n2 = 32, f3 = 3).
    ITU-R BT.601 (luma).

Shapes: B batch, C channels, H and W of the small image.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from paragone.vision.upsampling import Method, Upsample

__all__ = ["ESPCN", "luma", "psnr"]


class ESPCN(nn.Module):
    """Sub-pixel convolutional super-resolution.

    Prefer it to bicubic interpolation where detail counts and time is short; it is a small and
    quick network, not the sharpest one.

    Args:
        scale: r, usually 2, 3 or 4.
        channels: Of the image: 1 for luma, as in the paper.
        upsampling: Method of `Upsample` for the last layer; "pixel_shuffle" is the published one.
        options: Of `Upsample`.

    Example:
        >>> ESPCN(scale=3)(torch.rand(1, 1, 10, 12)).shape
        torch.Size([1, 1, 30, 36])
    """

    def __init__(
        self, scale: int = 3, channels: int = 1, *, upsampling: Method = "pixel_shuffle",
        device: Any = None, dtype: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        if upsampling == "unpool":
            raise ValueError("ESPCN pools nothing: unpool has no places to put values back")
        where = {"device": device, "dtype": dtype}
        self.scale, self.channels = scale, channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, 64, 5, padding=2, **where), nn.Tanh(),
            nn.Conv2d(64, 32, 3, padding=1, **where), nn.Tanh(),
        )  # fmt: skip
        late = upsampling in ("carafe", "dysample")
        given = {"kernel_size": 3, "project": "after" if late else "before", **where, **options}
        self.up = Upsample(upsampling, 32, scale, out_channels=channels, **given)

    def forward(self, images: Tensor) -> Tensor:
        """Returns (B, C, r H, r W) of images (B, C, H, W) with values from 0 to 1."""
        if images.dim() != 4 or images.shape[1] != self.channels:
            raise ValueError(f"images have shape {tuple(images.shape)}; this ESPCN takes "
                             f"(B, {self.channels}, H, W)")  # fmt: skip
        return self.up(self.body(images))


def luma(images: Tensor) -> Tensor:
    """Returns Y (B, 1, H, W), 16/255 to 235/255, of RGB images (B, 3, H, W) from 0 to 1.

    Raises:
        ValueError: Images of other channels.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}; (B, 3, H, W) is needed")
    share = images.new_tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1)
    return ((images * share).sum(1, keepdim=True) + 16) / 255


def psnr(images: Tensor, truth: Tensor, *, border: int = 0, peak: float = 1.0) -> float:
    """Returns the peak signal-to-noise ratio in dB: 10 log10(peak^2 / mean squared error).

    Papers on super-resolution give it on `luma`, rounded to 8 bits, without `border` = r pixels at
    each side.

    Args:
        images: (B, C, H, W).
        truth: The same shape.
        border: Rows and columns to leave out on each side.
        peak: Largest value.

    Raises:
        ValueError: Shapes that differ, or nothing left inside of the border.

    Example:
        >>> round(psnr(torch.full((1, 1, 4, 4), 0.5), torch.full((1, 1, 4, 4), 0.25)), 2)
        12.04
    """
    if images.shape != truth.shape:
        raise ValueError(f"images are {tuple(images.shape)}, the truth {tuple(truth.shape)}")
    height, width = images.shape[-2:]
    inner = (..., slice(border, height - border), slice(border, width - border))
    error = (images[inner].double() - truth[inner].double()).square()
    if not error.numel():
        raise ValueError(f"nothing is left of {height} x {width} within border={border}")
    mean = float(torch.mean(error))
    return math.inf if mean == 0 else 10 * math.log10(peak**2 / mean)
