r"""MobileNet: convolutions taken apart into filters of one channel and mixtures of one pixel.

Four versions, each a table here. V1 (2017) replaces every full convolution by a depthwise and a
pointwise one:

$$ \frac{k^2 C + C C'}{k^2 C C'} = \frac{1}{C'} + \frac{1}{k^2} $$

of the arithmetic. V2 (2018) widens inside a block and passes on thin linear maps.

References:
    Howard et al. (2017), "MobileNets", arXiv:1704.04861, table 1.
    Sandler et al. (2018), "MobileNetV2", arXiv:1801.04381, table 2.

Shapes: B batch, C channels, H and W height and width in pixels, K classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from paragone.vision._mobile_network import MobileNetwork, Plan
from paragone.vision._mobile_style import Padding, Style

__all__ = ["MOBILENETS", "mobilenet"]

_V1 = """
    dsa x1 k3 s1 c64
    dsa x2 k3 s2 c128
    dsa x2 k3 s2 c256
    dsa x6 k3 s2 c512
    dsa x2 k3 s2 c1024
"""
_V2 = """
    ds x1 k3 s1    c16
    ir x2 k3 s2 e6 c24
    ir x3 k3 s2 e6 c32
    ir x4 k3 s2 e6 c64
    ir x3 k3 s1 e6 c96
    ir x3 k3 s2 e6 c160
    ir x1 k3 s1 e6 c320
"""

MOBILENETS: dict[str, Plan] = {
    "v1": Plan(_V1, 32, 0, style=Style("relu6")),
    "v2": Plan(_V2, 32, 1280, style=Style("relu6"), scaled_head="up", named="v2"),
}
"""The published networks."""


def mobilenet(
    version: str = "v2", *, width: float = 1.0, dropout: float = 0.2, drop_path: float = 0.0,
    num_classes: int = 1000, in_channels: int = 3, padding: Padding = "torch",
    norm_eps: float | None = None, norm_momentum: float | None = None,
    device: Any = None, dtype: Any = None,
) -> MobileNetwork:  # fmt: skip
    """Returns a MobileNet: images (B, C, H, W) to logits (B, K).

    Args:
        version: "v1" or "v2".
        width: Factor of all channels.
        dropout: Rate in front of the classifier.
        drop_path: Rate of stochastic depth of the last block.
        num_classes: K; 0 gives pooled features.
        in_channels: Channels C of the images.
        padding: "torch" or "same" (TensorFlow's).
        norm_eps: Added to variances; the version's without it.
        norm_momentum: Share of a batch in the running statistics; the version's without it.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An unknown version or padding, or a factor, rate or number out of range.

    Example:
        >>> mobilenet("v2", device="meta").macs((224, 224))
        300774272
    """
    if version not in MOBILENETS:
        raise ValueError(f"version {version!r} is none of {', '.join(MOBILENETS)}")
    plan = MOBILENETS[version]
    style = dataclasses.replace(
        plan.style, padding=padding, device=device, dtype=dtype,
        eps=plan.style.eps if norm_eps is None else norm_eps,
        momentum=plan.style.momentum if norm_momentum is None else norm_momentum,
    )  # fmt: skip
    return MobileNetwork(
        dataclasses.replace(plan, style=style), width=width, dropout=dropout,
        drop_path=drop_path, num_classes=num_classes, in_channels=in_channels,
    )  # fmt: skip
