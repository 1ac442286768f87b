r"""EfficientNet: one small network found by search, made larger in three ways at once.

B0 is a table of inverted residuals with squeeze and excitation. A larger network is the same table
with more layers, more channels and larger images, in fixed proportion:

$$ d = \alpha^\phi, \quad w = \beta^\phi, \quad r = \gamma^\phi, \quad
   \alpha \beta^2 \gamma^2 \approx 2 \;\Rightarrow\; \text{cost} \approx 2^\phi . $$

Channels are rounded to eights, repeats are rounded up. V2 puts full convolutions in place of the
first inverted residuals, which are quicker where maps are large, and has three sizes of its own.

Cost of B0: 5,288,548 parameters, 385,814,752 multiply-adds at 224 x 224; B7: 66,347,960 and
37.7 G at 600 x 600.

References:
    Tan and Le (2019), "EfficientNet", arXiv:1905.11946, table 1, eq. 3.
    Tan and Le (2021), "EfficientNetV2", arXiv:2104.00298, table 4, section 3.2.

Shapes: B batch, C channels, H and W height and width in pixels, K classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from paragone.vision._mobile_network import MobileNetwork, Plan
from paragone.vision._mobile_style import Padding, Style

__all__ = ["EFFICIENTNETS", "Variant", "efficientnet"]

_B = """
    ds x1 k3 s1    c16  se0.25
    ir x2 k3 s2 e6 c24  se0.25
    ir x2 k5 s2 e6 c40  se0.25
    ir x3 k3 s2 e6 c80  se0.25
    ir x3 k5 s1 e6 c112 se0.25
    ir x4 k5 s2 e6 c192 se0.25
    ir x1 k3 s1 e6 c320 se0.25
"""
_V2_S = """
    cn x2  k3 s1    c24 skip
    er x4  k3 s2 e4 c48
    er x4  k3 s2 e4 c64
    ir x6  k3 s2 e4 c128 se0.25
    ir x9  k3 s1 e6 c160 se0.25
    ir x15 k3 s2 e6 c256 se0.25
"""
_V2_M = """
    cn x3  k3 s1    c24 skip
    er x5  k3 s2 e4 c48
    er x5  k3 s2 e4 c80
    ir x7  k3 s2 e4 c160 se0.25
    ir x14 k3 s1 e6 c176 se0.25
    ir x18 k3 s2 e6 c304 se0.25
    ir x5  k3 s1 e6 c512 se0.25
"""
_V2_L = """
    cn x4  k3 s1    c32 skip
    er x7  k3 s2 e4 c64
    er x7  k3 s2 e4 c96
    ir x10 k3 s2 e4 c192 se0.25
    ir x19 k3 s1 e6 c224 se0.25
    ir x25 k3 s2 e6 c384 se0.25
    ir x7  k3 s1 e6 c640 se0.25
"""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One size of the family.

    Attributes:
        width: Factor of the table's channels.
        depth: Factor of the table's repeats.
        size: Height and width in pixels that the paper's figures hold for.
        dropout: Rate in front of the classifier.
        table: Its blocks.
        stem: Channels of the first convolution, before `width`.
    """

    width: float
    depth: float
    size: int
    dropout: float
    table: str = _B
    stem: int = 32


EFFICIENTNETS: dict[str, Variant] = {
    "b0": Variant(1.0, 1.0, 224, 0.2), "b1": Variant(1.0, 1.1, 240, 0.2),
    "b2": Variant(1.1, 1.2, 260, 0.3), "b3": Variant(1.2, 1.4, 300, 0.3),
    "b4": Variant(1.4, 1.8, 380, 0.4), "b5": Variant(1.6, 2.2, 456, 0.4),
    "b6": Variant(1.8, 2.6, 528, 0.5), "b7": Variant(2.0, 3.1, 600, 0.5),
    "b8": Variant(2.2, 3.6, 672, 0.5), "l2": Variant(4.3, 5.3, 800, 0.5),
    "v2-s": Variant(1.0, 1.0, 384, 0.2, _V2_S, 24), "v2-m": Variant(1.0, 1.0, 480, 0.3, _V2_M, 24),
    "v2-l": Variant(1.0, 1.0, 480, 0.4, _V2_L, 32),
}  # fmt: skip
"""The published sizes."""


def efficientnet(
    variant: str = "b0", *, width: float | None = None, depth: float | None = None,
    dropout: float | None = None, drop_path: float = 0.2, num_classes: int = 1000,
    in_channels: int = 3, padding: Padding = "torch", norm_eps: float = 1e-3,
    norm_momentum: float = 0.1, device: Any = None, dtype: Any = None,
) -> MobileNetwork:  # fmt: skip
    """Returns an EfficientNet: images (B, C, H, W) to logits (B, K).

    Prefer it to a ResNet where parameters and arithmetic count, and to MobileNet where accuracy
    counts more than time: its many depthwise layers and squeezes take longer than their count of
    multiply-adds says. For small images and few minutes of training take `mobilenet` or
    `shufflenet`.

    `image_size` is the paper's; timm's own weights of B2, B3 and B4 were trained at 256, 288 and
    320 pixels and are tested at 288, 320 and 380. Give images of any size from 32 pixels on.

    Args:
        variant: "b0" to "b8", "l2", "v2-s", "v2-m" or "v2-l".
        width: Factor of the table's channels in place of the variant's; see `compound_scaling`.
        depth: Factor of the table's repeats in place of the variant's.
        dropout: Rate in front of the classifier; the variant's without it.
        drop_path: Rate of stochastic depth; block i of n has drop_path i / n.
        num_classes: K; 0 gives pooled features.
        in_channels: Channels C of the images.
        padding: "torch" pads both sides alike; "same" as TensorFlow does, which timm's `tf_`
            weights and the first release want: at even sizes it is another network.
        norm_eps: Added to variances; the paper's. timm's and torchvision's own weights of B0 to
            B4 (those without `tf_`) were trained with 1e-5.
        norm_momentum: Share of a batch in the running statistics. The paper's is 0.01, for
            hundreds of thousands of steps: after a hundred, evaluation would still be at chance.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An unknown variant or padding, or a factor, rate or number out of range.

    Example:
        >>> efficientnet("b0", device="meta").macs((224, 224))
        385814752
    """
    if variant not in EFFICIENTNETS:
        raise ValueError(f"variant {variant!r} is none of {', '.join(EFFICIENTNETS)}")
    chosen = EFFICIENTNETS[variant]
    style = Style("silu", norm_eps, norm_momentum, padding, device=device, dtype=dtype)
    plan = Plan(
        chosen.table, chosen.stem, size=chosen.size, style=style, scaled_head="yes",
        named="efficientnet",
    )  # fmt: skip
    return MobileNetwork(
        plan, width=chosen.width if width is None else width,
        depth=chosen.depth if depth is None else depth,
        dropout=chosen.dropout if dropout is None else dropout, drop_path=drop_path,
        num_classes=num_classes, in_channels=in_channels,
    )  # fmt: skip
