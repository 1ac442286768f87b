r"""U-Net: down to see much, up to place it well, with shortcuts at every size.

The way down halves the maps and doubles the channels; the way up doubles the maps again, and
each step sees the map of the same size from the way down beside what came from below:

$$ d_0 = e_0(x), \quad d_{i+1} = e_{i+1}(\mathrm{pool}(d_i)), \qquad
   u_n = d_n, \quad u_i = c_i\big([\,d_i,\; \mathrm{up}(u_{i+1})\,]\big), \qquad
   y = W u_0 . $$

Cost: about $27\, w^2 H W$ multiply-adds a level of the way up and 13.5 of the way down, the same
at every level, for width w.

References:
    Ronneberger et al. (2015), "U-Net", arXiv:1505.04597, section 2 and figure 1.

Shapes: B batch, C channels, H and W in pixels, K classes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.vision.contract import Backbone
from paragone.vision.layers import NormAct
from paragone.vision.registry import backbone as build
from paragone.vision.upsampling import Method, Upsample

__all__ = ["UNet"]


def _pair(channels_in: int, channels: int, padding: int, where: dict[str, Any]) -> nn.Sequential:
    """Two convolutions 3 x 3, each with its norm."""
    layers: list[nn.Module] = []
    for seen in (channels_in, channels):
        layers.append(nn.Conv2d(seen, channels, 3, padding=padding, bias=False, **where))
        layers.append(NormAct(channels, "relu", **where))
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Segmenter with shortcuts between maps of equal size.

    Prefer it to `FCN` for fine structure and for training from scratch on few images; `FCN` is
    lighter behind a pretrained backbone. Images may have any size that is not smaller than
    2^depth pixels.

    Args:
        num_classes: K; 1 for a yes-or-no mask.
        in_channels: C of the images.
        width: Channels at full size, doubled at each level (64 in the paper).
        depth: How often the maps are halved (4 in the paper).
        upsampling: Method of `Upsample`, in every step up.
        borders: "pad": convolutions see zeros around, the output has the image's size. "crop":
            as published, nothing is padded, shortcuts are cut in the middle, and the output is
            smaller than the image by `lost_border`.
        backbone: Name from `backbones()` or a `Backbone` that takes the place of the way down.
        options: Of `Upsample`, as `kernel_size`, `groups` and others.

    Example:
        >>> UNet(2, width=8, depth=2)(torch.randn(1, 3, 33, 41)).shape
        torch.Size([1, 2, 33, 41])
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, *, width: int = 64, depth: int = 4,
        upsampling: Method = "bilinear", borders: Literal["pad", "crop"] = "pad",
        backbone: str | Backbone | None = None, device: Any = None, dtype: Any = None,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        if borders not in ("pad", "crop"):
            raise ValueError(f"borders {borders!r} is neither pad nor crop")
        if num_classes < 1 or depth < 1 or width < 1:
            raise ValueError(f"num_classes={num_classes}, depth={depth} and width={width} must be "
                             "at least 1")  # fmt: skip
        where = {"device": device, "dtype": dtype}
        self.num_classes, self.in_channels = num_classes, in_channels
        self.borders, self.depth, self.upsampling = borders, depth, upsampling
        padding = 1 if borders == "pad" else 0
        self.backbone = _encoder(backbone, in_channels, borders, upsampling, where)
        if self.backbone is None:
            channels, strides = [width * 2**i for i in range(depth + 1)], [2**depth]
            strides = [2**i for i in range(depth + 1)]
            seen = [in_channels, *channels[:-1]]
            self.down = nn.ModuleList(
                _pair(a, b, padding, where) for a, b in zip(seen, channels, strict=True)
            )
        else:
            strides = sorted(self.backbone.channels)
            channels = [self.backbone.channels[s] for s in strides]
            if strides[0] > 1:
                strides, channels = [1, *strides], [0, *channels]
            self.depth = len(strides) - 1
        self.strides = strides
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        below = channels[-1]
        for i in reversed(range(self.depth)):
            kept = channels[i] or width
            scale = strides[i + 1] // strides[i]
            self.up.append(
                Upsample(upsampling, below, scale, out_channels=kept, **where, **options)
            )
            self.merge.append(_pair(kept + channels[i], kept, padding, where))
            below = kept
        self.head = nn.Conv2d(below, num_classes, 1, **where)

    @property
    def lost_border(self) -> int:
        """Pixels by which each side of the output lies inside the image's, where it fits evenly."""
        if self.borders == "pad":
            return 0
        return 2 * 2**self.depth + 2 * sum(2 * 2**i for i in range(self.depth))

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (B, K, H, W) of images (B, C, H, W); smaller ones with "crop".

        Raises:
            ValueError: Images of other channels, or too small.
        """
        if images.dim() != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"images have shape {tuple(images.shape)}; this U-Net takes "
                             f"(B, {self.in_channels}, H, W)")  # fmt: skip
        least = max(self.strides[-1], 2 * self.lost_border + 1)
        if min(images.shape[2:]) < least:
            raise ValueError(f"images of {tuple(images.shape[2:])} pixels are smaller than "
                             f"{least}: enlarge them, or take a smaller depth")  # fmt: skip
        maps, places = self._descend(images)
        x = maps.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            beside = maps.pop()
            where = places.pop() if places else None
            size = tuple(beside.shape[2:])
            if self.borders == "crop":
                # With "crop" the map from below is smaller than the shortcut, which is cut to it.
                x = up(x, indices=where)
                beside = _centre(beside, tuple(x.shape[2:]))
            else:
                x = up(x, size, where)
            x = merge(torch.cat([beside, x], 1) if beside.shape[1] else x)
        return self.head(x)

    def _descend(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Maps from the finest to the coarsest, and where unpooling puts values back."""
        if self.backbone is not None:
            found = self.backbone.feature_maps(images)
            maps = [found[s] for s in sorted(found)]
            if self.strides[0] not in found:
                maps.insert(0, images[:, :0])
            return maps, []
        maps, places, x = [], [], images
        for i, block in enumerate(self.down):
            if i and self.upsampling == "unpool":
                x, where = self._step(self.depth - i).pool(x)
                places.append(where)
            elif i:
                x = functional.max_pool2d(x, 2)
            x = block(x)
            maps.append(x)
        return maps, places

    def _step(self, i: int) -> Upsample:
        step = self.up[i]
        assert isinstance(step, Upsample)
        return step


def _centre(x: Tensor, size: tuple[int, ...]) -> Tensor:
    top, left = ((n - w) // 2 for n, w in zip(x.shape[2:], size, strict=True))
    return x[:, :, top : top + size[0], left : left + size[1]]


def _encoder(
    backbone: str | Backbone | None, in_channels: int, borders: str, upsampling: str,
    where: dict[str, Any],
) -> Backbone | None:  # fmt: skip
    if backbone is None:
        if upsampling == "unpool" and borders == "crop":
            raise ValueError("unpool puts values where the pool found them: use borders='pad'")
        return None
    if borders == "crop" or upsampling == "unpool":
        raise ValueError(
            f"borders={borders!r} with upsampling={upsampling!r}: a backbone pads its borders and "
            "keeps no places of its pools; use borders='pad' and another method"
        )
    if isinstance(backbone, str):
        return build(backbone, num_classes=0, in_channels=in_channels, **where)
    if backbone.in_channels != in_channels:
        raise ValueError(
            f"the backbone takes {backbone.in_channels} channels, in_channels is {in_channels}"
        )
    return backbone
