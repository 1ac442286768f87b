r"""ResNet: the reference that light networks are measured against.

Four stages of residual blocks, each with twice the channels of the one before on a quarter of the
places, so that every stage costs about the same:

$$ \text{cost of a stage} \propto \frac{HW}{4^i} \cdot \big(2^i C\big)^2 = H W C^2 . $$

References:
    He et al. (2016), "Deep residual learning", arXiv:1512.03385, table 1.
    Goyal et al. (2017), arXiv:1706.02677, section 5.1 (last norm of a block begins at 0).

Shapes: B batch, C channels, H and W height and width in pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from paragone.vision._lineage_layers import classifier, pooled, spread
from paragone.vision.blocks.residual import BasicBlock, Bottleneck
from paragone.vision.contract import Backbone
from paragone.vision.layers import NormAct

__all__ = ["ResNet", "resnet"]

_DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(Backbone):
    """Stem of stride 4, four stages of residual blocks, and a linear layer."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], repeats: Sequence[int], planes: int = 64,
        *, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.0,
        zero_init: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, (224, 224)
        self.conv1 = nn.Conv2d(in_channels, planes, 7, 2, 3, bias=False, **where)
        self.bn1 = NormAct(planes, "relu", **where)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        entering, stages = planes, []
        self.channels = {2: planes}
        for stage, count in enumerate(repeats):
            blocks = []
            for i in range(count):
                stride = 2 if stage and not i else 1
                blocks.append(block(entering, planes << stage, stride=stride, **where))
                entering = (planes << stage) * block.expansion
            stages.append(nn.Sequential(*blocks))
            self.channels[4 << stage] = entering
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.dropout = nn.Dropout(dropout)
        self.fc = classifier(entering, num_classes, **where)
        spread(self)
        if zero_init:
            for part in self.modules():
                if isinstance(part, (BasicBlock, Bottleneck)):
                    last = part.bn3 if isinstance(part, Bottleneck) else part.bn2
                    nn.init.zeros_(last.weight)

    def steps(self) -> list[tuple[int, nn.Module]]:
        return [
            (2, self.conv1), (2, self.bn1), (4, self.maxpool), (4, self.layer1), (8, self.layer2),
            (16, self.layer3), (32, self.layer4),
        ]  # fmt: skip

    def head(self, features: Tensor) -> Tensor:
        return self.fc(self.dropout(pooled(features)))


def resnet(
    depth: int = 18, *, width: float = 1.0, num_classes: int = 1000, in_channels: int = 3,
    dropout: float = 0.0, zero_init: bool = False, device: Any = None, dtype: Any = None,
) -> ResNet:  # fmt: skip
    """Builds a ResNet.

    Prefer it to any light network on a GPU, where its few large convolutions run at full speed;
    on a CPU or a phone `mobilenet` and `shufflenet` reach its accuracy for a tenth of the
    multiply-adds. State dicts of torchvision and of timm have the same names.

    Args:
        depth: Layers: 18 or 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        width: Scale of the channels (64 behind the stem).
        num_classes: K; 0 gives pooled features.
        in_channels: C of the images.
        dropout: Rate before the linear layer.
        zero_init: Whether each block begins as the identity; helps with large batches.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: A depth that was not published; a width that is not positive.

    Example:
        >>> net = resnet(18, device="meta")
        >>> net.parameter_count(), net.macs((224, 224))
        (11689512, 1814073344)
    """
    if depth not in _DEPTHS:
        raise ValueError(f"depth={depth!r} is none of {', '.join(map(str, _DEPTHS))}")
    if width <= 0:
        raise ValueError(f"width={width} scales the channels; give more than 0")
    block, repeats = _DEPTHS[depth]
    return ResNet(
        block, repeats, max(1, round(64 * width)), num_classes=num_classes,
        in_channels=in_channels, dropout=dropout, zero_init=zero_init, device=device, dtype=dtype,
    )  # fmt: skip
