r"""SqueezeNet: AlexNet's accuracy with a fiftieth of its parameters.

Eight `blocks.fire.Fire` modules between pools, a last convolution that makes one map for each
class, and its mean; no linear layer, no norm:

$$ \text{logits} = \operatorname{mean}_{H, W} \text{relu}(W_{1 \times 1}\, x) . $$

Version 1.1 pools earlier and has a smaller stem: the same accuracy for 349 M instead of 819 M
multiply-adds at 224 px.

References:
    Iandola et al. (2016), "SqueezeNet", arXiv:1602.07360, table 1.

Shapes: B batch, C channels, H and W height and width in pixels, K classes.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from paragone.vision._lineage_layers import pooled
from paragone.vision.blocks.fire import Fire
from paragone.vision.contract import Backbone

__all__ = ["SqueezeNet", "squeezenet"]

_SQUEEZED = (16, 16, 32, 32, 48, 48, 64, 64)
# Channels and side of the stem's filters; a 0 is a pool, an n the n-th module.
_VERSIONS = {
    "1.0": ((96, 7), (0, 1, 2, 3, 0, 4, 5, 6, 7, 0, 8)),
    "1.1": ((64, 3), (0, 1, 2, 0, 3, 4, 0, 5, 6, 7, 8)),
}


class SqueezeNet(Backbone):
    """Stem, eight Fire modules, and a map for each class; torchvision's names."""

    def __init__(
        self, version: str = "1.1", *, width: float = 1.0, num_classes: int = 1000,
        in_channels: int = 3, dropout: float = 0.5, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes}: give 1 or more, or 0 for pooled features")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, (224, 224)
        (stem, side), order = _VERSIONS[version]
        entering, stride = max(1, round(stem * width)), 2
        layers = [nn.Conv2d(in_channels, entering, side, 2, **where), nn.ReLU()]
        self._strides, self.channels = [2, 2], {2: entering}
        for module in order:
            if module:
                squeezed = max(1, round(_SQUEEZED[module - 1] * width))
                layers.append(Fire(entering, squeezed, (4 * squeezed, 4 * squeezed), **where))
                entering = 8 * squeezed
            else:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
                stride *= 2
            self._strides.append(stride)
            self.channels[stride] = entering
        self.features = nn.Sequential(*layers)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
        self.classifier = None
        if num_classes:
            last = nn.Conv2d(entering, num_classes, 1, **where)
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]
            self.classifier = nn.Sequential(nn.Dropout(dropout), last)

    def steps(self) -> list[tuple[int, nn.Module]]:
        return list(zip(self._strides, self.features, strict=True))

    def head(self, features: Tensor) -> Tensor:
        if self.classifier is None:
            return pooled(features)
        return pooled(functional.relu(self.classifier(features)))


def squeezenet(
    version: Literal["1.0", "1.1"] = "1.1", *, width: float = 1.0, num_classes: int = 1000,
    in_channels: int = 3, dropout: float = 0.5, device: Any = None, dtype: Any = None,
) -> SqueezeNet:  # fmt: skip
    """Builds a SqueezeNet.

    Prefer it where the file must be small (1.2 M parameters); `shufflenet("v2", width=0.5)` is
    as small and does a tenth of the work.

    Args:
        version: "1.0", or "1.1" (the same accuracy for less than half of the work).
        width: Scale of all channels.
        num_classes: K; 0 gives pooled features.
        in_channels: C of the images.
        dropout: Rate before the last convolution.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An unknown version; a width that is not positive.

    Example:
        >>> net = squeezenet("1.1", device="meta")
        >>> net.parameter_count(), net.macs((224, 224))
        (1235496, 349151936)
    """
    if version not in _VERSIONS:
        raise ValueError(f"version={version!r} is none of {', '.join(_VERSIONS)}")
    if width <= 0:
        raise ValueError(f"width={width} scales the channels; give more than 0")
    return SqueezeNet(
        version, width=width, num_classes=num_classes, in_channels=in_channels, dropout=dropout,
        device=device, dtype=dtype,
    )  # fmt: skip
