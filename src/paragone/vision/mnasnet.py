r"""MnasNet: inverted residuals chosen by search, with time on a phone as part of the reward.

The search maximises accuracy times a power of the time measured on the device,

$$ \max_m \; \text{accuracy}(m) \Big(\frac{\text{time}(m)}{T}\Big)^{w}, \quad w = -0.07, $$

and chooses for each stage, not for each layer, so that its space stays small. This is the network
B1: without squeeze and excitation, 3 x 3 and 5 x 5 filters mixed, expansions of 3 and 6.

Cost: 4,383,312 parameters, 314.4 M multiply-adds at 224 x 224 and width 1.

References:
    Tan et al. (2019), "MnasNet", arXiv:1807.11626, eq. 2 and 3, table 1 (MnasNet-B1).

Shapes: B batch, C channels, H and W height and width in pixels, K classes.
"""

from __future__ import annotations

from typing import Any

from paragone.vision._mobile_network import MobileNetwork, Plan
from paragone.vision._mobile_style import Padding, Style

__all__ = ["mnasnet"]

_B1 = """
    ds x1 k3 s1    c16 noskip
    ir x3 k3 s2 e3 c24
    ir x3 k5 s2 e3 c40
    ir x3 k5 s2 e6 c80
    ir x2 k3 s1 e6 c96
    ir x4 k5 s2 e6 c192
    ir x1 k3 s1 e6 c320 noskip
"""


def mnasnet(
    *, width: float = 1.0, dropout: float = 0.2, drop_path: float = 0.0, num_classes: int = 1000,
    in_channels: int = 3, padding: Padding = "torch", norm_eps: float = 1e-5,
    norm_momentum: float = 0.1, device: Any = None, dtype: Any = None,
) -> MobileNetwork:  # fmt: skip
    """Returns MnasNet-B1: images (B, C, H, W) to logits (B, K).

    Prefer it to `mobilenet("v2")` where 5 x 5 filters are no slower than 3 x 3 ones; with squeeze
    and excitation and a better training the same table became EfficientNet.

    Args:
        width: Factor of the channels of stem and stages; the last layer keeps 1280.
        dropout: Rate in front of the classifier.
        drop_path: Rate of stochastic depth of the last block.
        num_classes: K; 0 gives pooled features.
        in_channels: Channels C of the images.
        padding: "torch" or "same" (TensorFlow's).
        norm_eps: Added to variances; 1e-3 for weights of the first release.
        norm_momentum: Share of a batch in the running statistics.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An unknown padding, or a factor, rate or number out of range.

    Example:
        >>> mnasnet(device="meta").parameter_count()
        4383312
    """
    style = Style("relu", norm_eps, norm_momentum, padding, device=device, dtype=dtype)
    return MobileNetwork(
        Plan(_B1, 32, style=style, named="mnasnet"), width=width, dropout=dropout,
        drop_path=drop_path, num_classes=num_classes, in_channels=in_channels,
    )  # fmt: skip
