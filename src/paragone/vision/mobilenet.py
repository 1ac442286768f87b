r"""MobileNet: convolutions taken apart into filters of one channel and mixtures of one pixel.

Four versions, each a table here. V1 (2017) replaces every full convolution by a depthwise and a
pointwise one:

$$ \frac{k^2 C + C C'}{k^2 C C'} = \frac{1}{C'} + \frac{1}{k^2} $$

of the arithmetic. V2 (2018) widens inside a block and passes on thin linear maps. V3 (2019) is
found by search, weighs channels and averages before its last layer; its activation is
x relu6(x + 3) / 6. V4 (2024) chooses for each layer where the depthwise filters stand; its hybrid
has attention.

Cost at width 1, 224 x 224: V1 4.23 M parameters and 569 M multiply-adds, V2 3.50 M and 301 M, V3
large 5.48 M and 217 M, V3 small 2.54 M and 56 M, V4 small 3.77 M and 186 M.

References:
    Howard et al. (2017), "MobileNets", arXiv:1704.04861, table 1.
    Sandler et al. (2018), "MobileNetV2", arXiv:1801.04381, table 2.
    Howard et al. (2019), "Searching for MobileNetV3", arXiv:1905.02244, tables 1 and 2.
    Qin et al. (2024), "MobileNetV4", arXiv:2404.10518, tables 10 to 14.

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

_V3_LARGE = """
    ds x1 k3 s1      c16 relu
    ir x1 k3 s2 e4   c24 relu; ir x1 k3 s1 e3   c24 relu
    ir x3 k5 s2 e3   c40 se0.25 relu
    ir x1 k3 s2 e6   c80; ir x1 k3 s1 e2.5 c80; ir x2 k3 s1 e2.3 c80
    ir x2 k3 s1 e6   c112 se0.25
    ir x3 k5 s2 e6   c160 se0.25
    cn x1 k1 s1      c960
"""
_V3_SMALL = """
    ds x1 k3 s2      c16 se0.25 relu
    ir x1 k3 s2 e4.5 c24 relu; ir x1 k3 s1 e3.67 c24 relu
    ir x1 k5 s2 e4   c40 se0.25; ir x2 k5 s1 e6 c40 se0.25
    ir x2 k5 s1 e3   c48 se0.25
    ir x3 k5 s2 e6   c96 se0.25
    cn x1 k1 s1      c576
"""
_V4_SMALL = """
    cn k3 s2 c32; cn k1 c32
    cn k3 s2 c96; cn k1 c64
    uir a5 k5 s2 e3 c96; uir x4 k3 e2 c96; uir a3 k0 e4 c96
    uir a3 k3 s2 e6 c128; uir a5 k5 e4 c128; uir k5 e4 c128; uir k5 e3 c128; uir x2 k3 e4 c128
    cn k1 c960
"""
_V4_MEDIUM = """
    er k3 s2 e4 c48
    uir a3 k5 s2 e4 c80; uir a3 k3 e2 c80
    uir a3 k5 s2 e6 c160; uir x2 a3 k3 e4 c160; uir a3 k5 e4 c160; uir a3 k3 e4 c160; \
        uir a3 k0 e4 c160; uir k0 e2 c160; uir a3 k0 e4 c160
    uir a5 k5 s2 e6 c256; uir a5 k5 e4 c256; uir x2 a3 k5 e4 c256; uir k0 e4 c256; \
        uir a3 k0 e4 c256; uir a3 k5 e2 c256; uir a5 k5 e4 c256; uir x2 k0 e4 c256; \
        uir a5 k0 e2 c256
    cn k1 c960
"""
_V4_LARGE = """
    er k3 s2 e4 c48
    uir a3 k5 s2 e4 c96; uir a3 k3 e4 c96
    uir a3 k5 s2 e4 c192; uir x3 a3 k3 e4 c192; uir a3 k5 e4 c192; uir x5 a5 k3 e4 c192; \
        uir a3 k0 e4 c192
    uir x4 a5 k5 s2 e4 c512; uir a5 k0 e4 c512; uir a5 k3 e4 c512; uir x2 a5 k0 e4 c512; \
        uir a5 k3 e4 c512; uir a5 k5 e4 c512; uir x3 a5 k0 e4 c512
    cn k1 c960
"""
_V4_HYBRID_MEDIUM = """
    er k3 s2 e4 c48
    uir a3 k5 s2 e4 c80; uir a3 k3 e2 c80
    uir a3 k5 s2 e6 c160; uir k0 e2 c160; uir a3 k3 e4 c160; uir a3 k5 e4 c160; \
        mqa k3 h4 s2 d64 c160; uir a3 k3 e4 c160; mqa k3 h4 s2 d64 c160; uir a3 k0 e4 c160; \
        mqa k3 h4 s2 d64 c160; uir a3 k3 e4 c160; mqa k3 h4 s2 d64 c160; uir a3 k0 e4 c160
    uir a5 k5 s2 e6 c256; uir a5 k5 e4 c256; uir x2 a3 k5 e4 c256; uir k0 e2 c256; \
        uir a3 k5 e2 c256; uir k0 e2 c256; uir k0 e4 c256; mqa h4 d64 c256; uir a3 k0 e4 c256; \
        mqa h4 d64 c256; uir a5 k5 e4 c256; mqa h4 d64 c256; uir a5 k0 e4 c256; \
        mqa h4 d64 c256; uir a5 k0 e4 c256
    cn k1 c960
"""

_V3 = Style("hard_swish", 1e-3, gate="hard_sigmoid", squeeze_activation="relu", squeeze_inner=True)
_FOURTH: dict[str, Any] = {"features": 1280, "head": "late_norm", "fixed_below": 1.0}

MOBILENETS: dict[str, Plan] = {
    "v1": Plan(_V1, 32, 0, style=Style("relu6")),
    "v2": Plan(_V2, 32, 1280, style=Style("relu6"), scaled_head="up", named="v2"),
    "v3-small": Plan(_V3_SMALL, 16, 1024, "late", style=_V3, fixed_below=0.75, named="v3"),
    "v3-large": Plan(_V3_LARGE, 16, 1280, "late", style=_V3, fixed_below=0.75, named="v3"),
    "v4-conv-small": Plan(_V4_SMALL, 32, size=224, **_FOURTH),
    "v4-conv-medium": Plan(_V4_MEDIUM, 32, size=256, **_FOURTH),
    "v4-conv-large": Plan(_V4_LARGE, 24, size=384, **_FOURTH),
    "v4-hybrid-medium": Plan(
        _V4_HYBRID_MEDIUM, 32, size=256, style=Style(layer_scale=1e-5), **_FOURTH
    ),
}
"""The published networks."""


def mobilenet(
    version: str = "v2", *, width: float = 1.0, dropout: float = 0.2, drop_path: float = 0.0,
    num_classes: int = 1000, in_channels: int = 3, padding: Padding = "torch",
    norm_eps: float | None = None, norm_momentum: float = 0.1,
    device: Any = None, dtype: Any = None,
) -> MobileNetwork:  # fmt: skip
    """Returns a MobileNet: images (B, C, H, W) to logits (B, K).

    Prefer "v2" where training is short and the images small: it has no squeeze, so nearly all of
    its time is arithmetic. Prefer "v3-large" or "v4-conv-small" for deployment, `efficientnet` for
    accuracy, `shufflenet` for the least time on a CPU.

    Args:
        version: "v1", "v2", "v3-small", "v3-large", "v4-conv-small", "v4-conv-medium",
            "v4-conv-large" or "v4-hybrid-medium".
        width: Factor of all channels, rounded to eights; the last layer does not become narrower
            (V2), or not change at all (V3, V4).
        dropout: Rate in front of the classifier.
        drop_path: Rate of stochastic depth of the last block.
        num_classes: K; 0 gives pooled features.
        in_channels: Channels C of the images.
        padding: "torch" or "same" (TensorFlow's: timm's `tf_mobilenetv3` weights want it).
        norm_eps: Added to variances. Without it 1e-3 in V3 (the paper's, torchvision's, and timm's
            `tf_`; other weights of V3 in timm want 1e-5), 1e-5 in the others.
        norm_momentum: Share of a batch in the running statistics; V3's paper has 0.01, for
            hundreds of thousands of steps.
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
        momentum=norm_momentum,
    )  # fmt: skip
    return MobileNetwork(
        dataclasses.replace(plan, style=style), width=width, dropout=dropout,
        drop_path=drop_path, num_classes=num_classes, in_channels=in_channels,
    )  # fmt: skip
