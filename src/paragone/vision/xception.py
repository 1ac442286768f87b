r"""Xception: Inception taken to the limit, a network of separable convolutions alone.

Behind a stem of two convolutions stand three blocks that halve the map, eight that keep it, one
more that halves it, and two wide separable convolutions:

$$ \text{stem}_{64} \to 128^{/2} \to 256^{/2} \to 728^{/2} \to 8 \times 728 \to 1024^{/2} \to
   1536 \to 2048 \to \text{mean} \to \text{linear} . $$

It has as many parameters as Inception v3 and is more accurate: the gain is in the form, not in
the size. The block and its cost stand in `blocks.separable`; 8.36 G multiply-adds at 299 px.

References:
    Chollet (2017), "Xception", arXiv:1610.02357, figure 5.

Shapes: B batch, C channels, H and W height and width in pixels, K classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from paragone.vision._lineage_layers import classifier, pooled, spread
from paragone.vision.blocks.separable import SeparableConv, XceptionBlock
from paragone.vision.contract import Backbone
from paragone.vision.layers import NormAct

__all__ = ["Xception", "xception"]


class Xception(Backbone):
    """Stem, blocks of separable convolutions, and a linear layer; timm's names."""

    def __init__(
        self, *, width: float = 1.0, middle: int = 8, num_classes: int = 1000,
        in_channels: int = 3, dropout: float = 0.0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, (299, 299)
        c32, c64, c128, c256, c728, c1024, c1536, c2048 = (
            max(1, round(c * width)) for c in (32, 64, 128, 256, 728, 1024, 1536, 2048)
        )
        self.conv1 = nn.Conv2d(in_channels, c32, 3, 2, bias=False, **where)
        self.bn1 = NormAct(c32, "relu", **where)
        self.conv2 = nn.Conv2d(c32, c64, 3, bias=False, **where)
        self.bn2 = NormAct(c64, "relu", **where)
        blocks = [
            XceptionBlock(c64, c128, 2, stride=2, first=False, **where),
            XceptionBlock(c128, c256, 2, stride=2, **where),
            XceptionBlock(c256, c728, 2, stride=2, **where),
            *(XceptionBlock(c728, c728, 3, **where) for _ in range(middle)),
            XceptionBlock(c728, c1024, 2, stride=2, grow_first=False, **where),
        ]
        self._strides = [4, 8, *[16] * (middle + 1), 32]
        for i, block in enumerate(blocks, 1):
            self.add_module(f"block{i}", block)
        self.conv3 = SeparableConv(c1024, c1536, **where)
        self.bn3 = NormAct(c1536, "relu", **where)
        self.conv4 = SeparableConv(c1536, c2048, **where)
        self.bn4 = NormAct(c2048, "relu", **where)
        self.channels = {2: c64, 4: c128, 8: c256, 16: c728, 32: c2048}
        self.dropout = nn.Dropout(dropout)
        self.fc = classifier(c2048, num_classes, **where)
        spread(self)

    def steps(self) -> list[tuple[int, nn.Module]]:
        blocks = [
            (stride, self.get_submodule(f"block{i}")) for i, stride in enumerate(self._strides, 1)
        ]
        return [
            (2, self.conv1), (2, self.bn1), (2, self.conv2), (2, self.bn2), *blocks,
            (32, self.conv3), (32, self.bn3), (32, self.conv4), (32, self.bn4),
        ]  # fmt: skip

    def head(self, features: Tensor) -> Tensor:
        return self.fc(self.dropout(pooled(features)))


def xception(
    *, width: float = 1.0, depth: float = 1.0, num_classes: int = 1000, in_channels: int = 3,
    dropout: float = 0.0, device: Any = None, dtype: Any = None,
) -> Xception:  # fmt: skip
    """Builds an Xception.

    Prefer it to `inception("v3")`, which it beats with as many parameters; prefer
    `efficientnet` for the same accuracy at a tenth of its multiply-adds.

    Args:
        width: Scale of all channels.
        depth: Scale of the number of middle blocks (8).
        num_classes: K; 0 gives pooled features.
        in_channels: C of the images.
        dropout: Rate before the linear layer (the paper has 0.5 on ImageNet).
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: A width or depth that is not positive.

    Example:
        >>> net = xception(device="meta")
        >>> net.parameter_count(), net.channels[32]
        (22855952, 2048)
    """
    if width <= 0 or depth <= 0:
        raise ValueError(f"width={width} and depth={depth} scale a network; give more than 0")
    return Xception(
        width=width, middle=max(1, round(8 * depth)), num_classes=num_classes,
        in_channels=in_channels, dropout=dropout, device=device, dtype=dtype,
    )  # fmt: skip
