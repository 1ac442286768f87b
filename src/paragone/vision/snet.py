r"""SNet: ShuffleNet V2 as a detector wants it, with a larger view and rich early maps.

A classifier may see little at a time, a detector must not: with depthwise filters of 5x5 in place
of 3x3 a place of stride 8 sees 119 px instead of 63 (the paper's own figures, of the whole, are
193 and 121) at nearly the same cost, because depthwise filters are a small part of it,

$$ \frac{k^2 c}{2 c^2 + k^2 c} = \frac{k^2}{2 c + k^2} . $$

Small networks need what is early (where things are) as much as what is late (what they are):
SNet146 and SNet535 leave out the last pointwise convolution and widen the stages; SNet49 keeps
it, half as wide. Measured at 224 px: 51.2, 161.1 and 535.4 M multiply-adds. The published table
of channels does not give the 146 M in the name of SNet146.

References:
    Qin et al. (2019), "ThunderNet", arXiv:1903.11752, section 3.1 and table 1.

Shapes: B batch, C channels, H and W height and width in pixels, K classes.
"""

from __future__ import annotations

from typing import Any, Literal

from paragone.vision.blocks.split import Wiring
from paragone.vision.shufflenet import ShuffleNetV2

__all__ = ["snet"]

_TABLE = {
    "49": (24, (60, 120, 240), 512),
    "146": (24, (132, 264, 528), 0),
    "535": (48, (248, 496, 992), 0),
}
_REPEATS = (4, 8, 4)


def snet(
    variant: Literal["49", "146", "535"] = "49", *, width: float = 1.0, depth: float = 1.0,
    kernel: int = 5, wiring: Wiring = "torchvision", num_classes: int = 1000,
    in_channels: int = 3, dropout: float = 0.0, device: Any = None, dtype: Any = None,
) -> ShuffleNetV2:  # fmt: skip
    """Builds an SNet, the backbone of `ThunderNet`.

    Prefer it to `shufflenet("v2")` for detection and wherever objects are large in the image;
    `feature_maps(x, (16, 32))` are ThunderNet's C4 and C5.

    Args:
        variant: "49" (fastest), "146" or "535".
        width: Scale of the stages' channels.
        depth: Scale of the number of blocks (4, 8, 4).
        kernel: Side of the depthwise filters.
        wiring: "torchvision" (equal halves), or "megvii" for weights of the paper's authors.
        num_classes: K; 0 gives pooled features.
        in_channels: C of the images.
        dropout: Rate before the linear layer.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An unknown variant or wiring; a scale that is not positive.

    Example:
        >>> net = snet("49", device="meta")
        >>> net.channels[16], net.channels[32]
        (120, 512)
    """
    name = str(variant).removeprefix("snet")
    if name not in _TABLE:
        raise ValueError(f"variant={variant!r} is none of {', '.join(_TABLE)}")
    if width <= 0 or depth <= 0:
        raise ValueError(f"width={width} and depth={depth} scale a network; give more than 0")
    stem, stages, last = _TABLE[name]
    return ShuffleNetV2(
        stem, [max(4, round(channels * width / 4) * 4) for channels in stages], last,
        repeats=[max(1, round(count * depth)) for count in _REPEATS], kernel=kernel, wiring=wiring,
        num_classes=num_classes, in_channels=in_channels, dropout=dropout, device=device,
        dtype=dtype,
    )  # fmt: skip
