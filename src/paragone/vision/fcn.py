r"""Fully convolutional networks: a classifier's maps scored at every place, then enlarged.

A 1 x 1 convolution turns the map of stride 32 into scores; enlarged by 32 they are FCN-32s. Scores
of finer maps, added on the way, sharpen it:

$$ z_{32} = S_{32} f_{32}, \quad z_{16} = S_{16} f_{16} + \mathrm{up}_2\, z_{32}, \quad
   z_8 = S_8 f_8 + \mathrm{up}_2\, z_{16}, \qquad y = \mathrm{up}_s\, z_s . $$

Cost: the backbone's, and K numbers a place.

References:
    Long et al. (2015), "Fully convolutional networks", arXiv:1411.4038, section 4.2, figure 3.

Shapes: B batch, C channels, H and W in pixels, K classes.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from paragone.vision.contract import Backbone
from paragone.vision.registry import backbone as build
from paragone.vision.upsampling import Method, Upsample

__all__ = ["FCN"]

_CHAINED = ("pixel_shuffle", "carafe", "dysample")


class FCN(nn.Module):
    """Segmenter of a backbone and three scoring layers.

    Prefer it to `UNet` behind a pretrained backbone, where it adds next to nothing; a U-Net draws
    finer edges.

    Args:
        num_classes: K.
        backbone: Name from `backbones()`, or a `Backbone` with maps of the strides needed.
        variant: "32s", "16s" or "8s": the finest map that is scored.
        upsampling: Method of `Upsample`, not "unpool". "transposed" starts as the published
            bilinear one; the last step is one step for interpolation and "transposed", a chain of
            doublings for the others.
        in_channels: C of the images.
        options: Of `Upsample`.

    Raises:
        ValueError: An unknown variant or method, or a backbone without a stride.

    Example:
        >>> import torch
        >>> FCN(5, "resnet18", "8s")(torch.randn(1, 3, 65, 97)).shape
        torch.Size([1, 5, 65, 97])
    """

    def __init__(
        self, num_classes: int, backbone: str | Backbone = "resnet18",
        variant: Literal["32s", "16s", "8s"] = "8s", *, upsampling: Method = "bilinear",
        in_channels: int = 3, device: Any = None, dtype: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        if variant not in ("32s", "16s", "8s"):
            raise ValueError(f"variant {variant!r} is none of 32s, 16s, 8s")
        if upsampling == "unpool":
            raise ValueError("a backbone keeps no places of its pools: unpool needs UNet")
        where = {"device": device, "dtype": dtype}
        if isinstance(backbone, str):
            backbone = build(backbone, num_classes=0, in_channels=in_channels, **where)
        self.num_classes, self.in_channels, self.variant = num_classes, in_channels, variant
        self.backbone = backbone
        self.strides = [s for s in (32, 16, 8) if s >= int(variant[:-1])]
        if missing := [s for s in self.strides if s not in backbone.channels]:
            raise ValueError(f"the backbone has no map of stride {missing[0]}, only "
                             f"{sorted(backbone.channels)}; take another variant")  # fmt: skip
        self.score = nn.ModuleList(
            nn.Conv2d(backbone.channels[s], num_classes, 1, **where) for s in self.strides
        )
        given = {**where, **options}
        self.up = nn.ModuleList(
            Upsample(upsampling, num_classes, 2, **given) for _ in self.strides[1:]
        )
        last = self.strides[-1]
        steps = [2] * (last.bit_length() - 1) if upsampling in _CHAINED else [last]
        self.last = nn.ModuleList(Upsample(upsampling, num_classes, s, **given) for s in steps)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (B, K, H, W) of images (B, C, H, W)."""
        maps = self.backbone.feature_maps(images, self.strides)
        x = self.score[0](maps[self.strides[0]])
        for stride, score, up in zip(self.strides[1:], list(self.score)[1:], self.up, strict=True):
            beside = score(maps[stride])
            x = beside + up(x, tuple(beside.shape[2:]))
        if len(self.last) == 1:
            return self.last[0](x, tuple(images.shape[2:]))
        for up in self.last:
            x = up(x)
        return x[:, :, : images.shape[2], : images.shape[3]]
