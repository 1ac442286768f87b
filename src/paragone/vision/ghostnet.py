r"""GhostNet: the maps of a network resemble each other, so half of them are filtered from the rest.

The table is MobileNetV3's with every pointwise layer replaced by a ghost module,

$$ y = [\,y_1;\; D * y_1\,], \quad y_1 = \phi(B W x), $$

which computes half of the maps and filters the other half from them at $k^2$ multiply-adds a
number. V2 adds attention along rows and columns, at half the size, from the third block on.

Cost at width 1, 224 x 224: V1 5,182,508 parameters and 141.2 M multiply-adds, V2 6,156,908 and
167.0 M. The arithmetic is little and its pieces are small: on a CPU it takes more time than its
count says.

References:
    Han et al. (2020), "GhostNet", arXiv:1911.11907, table 1, eq. 3-5.
    Tang et al. (2022), "GhostNetV2", arXiv:2211.12905, eq. 4-6.

Shapes: B batch, C channels, H and W height and width in pixels, K classes.
"""

from __future__ import annotations

from typing import Any

from paragone.vision._mobile_network import MobileNetwork, Plan
from paragone.vision._mobile_style import Style

__all__ = ["ghostnet"]

_TABLE = """
    gh k3    m16  c16
    gh k3 s2 m48  c24
    gh k3    m72  c24 {0}
    gh k5 s2 m72  c40 se0.25 {0}
    gh k5    m120 c40 se0.25 {0}
    gh k3 s2 m240 c80 {0}
    gh k3    m200 c80 {0}; gh x2 k3 m184 c80 {0}; gh k3 m480 c112 se0.25 {0}; \
        gh k3 m672 c112 se0.25 {0}
    gh k5 s2 m672 c160 se0.25 {0}
    gh k5    m960 c160 {0}; gh k5 m960 c160 se0.25 {0}; gh k5 m960 c160 {0}; \
        gh k5 m960 c160 se0.25 {0}
    cn k1    c960
"""


def ghostnet(
    version: str = "v1", *, width: float = 1.0, dropout: float = 0.2, drop_path: float = 0.0,
    num_classes: int = 1000, in_channels: int = 3, norm_eps: float = 1e-5,
    norm_momentum: float = 0.1, device: Any = None, dtype: Any = None,
) -> MobileNetwork:  # fmt: skip
    """Returns a GhostNet: images (B, C, H, W) to logits (B, K).

    Prefer it to `mobilenet("v3-large")` where the count of multiply-adds is the budget; where time
    on a CPU is, MobileNetV2 or ShuffleNetV2 of the same count are quicker.

    Args:
        version: "v1" or "v2" (with attention).
        width: Factor of the channels of stem and stages, rounded to fours; the last layer keeps
            1280.
        dropout: Rate in front of the classifier.
        drop_path: Rate of stochastic depth of the last block.
        num_classes: K; 0 gives pooled features.
        in_channels: Channels C of the images.
        norm_eps: Added to variances.
        norm_momentum: Share of a batch in the running statistics.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An unknown version, or a factor, rate or number out of range.

    Example:
        >>> ghostnet("v1", device="meta").parameter_count()
        5182508
    """
    if version not in ("v1", "v2"):
        raise ValueError(f"version {version!r} is none of v1, v2")
    style = Style(
        "relu", norm_eps, norm_momentum, gate="hard_sigmoid", squeeze_inner=True, divisor=4,
        device=device, dtype=dtype,
    )  # fmt: skip
    table = _TABLE.format("dfc" if version == "v2" else "")
    return MobileNetwork(
        Plan(table, 16, head="late", style=style, fan_out=False), width=width, dropout=dropout,
        drop_path=drop_path, num_classes=num_classes, in_channels=in_channels,
    )  # fmt: skip
