r"""Universal inverted bottleneck: an inverted residual with two places for depthwise filters.

$$ y = x + \gamma \odot B_4 W_2 \, \phi(B_3 (D_m * \phi(B_2 W_1 \, B_1 (D_s * x)))), $$

where $D_s$ (before the expansion) and $D_m$ (within it) may each be left out: $D_m$ alone is the
inverted residual, $D_s$ alone a ConvNeXt block, neither a feed-forward layer, both the "extra
depthwise" that sees further at little cost.

Cost: $H W (k_s^2 C + t C (C + k_m^2 + C'))$ multiply-adds at stride 1. Filters at the start cost
1/t of those within. Its step in the lineage: MobileNetV4's search chooses among the four for each
layer.

References:
    Qin et al. (2024), "MobileNetV4", arXiv:2404.10518, section 3.1 and figure 4.
"""

from __future__ import annotations

from torch import Tensor, nn

from paragone.vision._mobile_style import PLAIN, Style, round_channels
from paragone.vision.blocks.layer_scale import LayerScale
from paragone.vision.blocks.stochastic_depth import StochasticDepth

__all__ = ["UniversalBottleneck"]


class _Layer(nn.Module):
    """A convolution and its norm."""

    def __init__(self, conv: nn.Conv2d, style: Style, activation: str | None = None) -> None:
        super().__init__()
        self.conv, self.bn = conv, style.norm(conv.out_channels, activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class UniversalBottleneck(nn.Module):
    """Optional filters, expansion, optional filters, projection, on (B, C, H, W).

    Args:
        inputs: C.
        outputs: C'.
        start_size: Side of the filters before the expansion; 0 is without.
        kernel_size: Side of the filters within; 0 is without.
        stride: Of the filters within, or else of those at the start.
        expand: Expansion t; the expanded channels are rounded to eights.
        skip: Whether the input is added where shapes allow it.
        drop_path: Rate of stochastic depth.
        style: Activation, norms, padding, layer scale.

    Raises:
        ValueError: A stride without filters.
    """

    def __init__(
        self, inputs: int, outputs: int, *, start_size: int = 0, kernel_size: int = 3,
        stride: int = 1, expand: float = 4.0, skip: bool = True, drop_path: float = 0.0,
        style: Style = PLAIN,
    ) -> None:  # fmt: skip
        super().__init__()
        if stride > 1 and not (start_size or kernel_size):
            raise ValueError(f"stride={stride} needs filters: give start_size or kernel_size")
        inner = round_channels(inputs * expand)
        self.dw_start = self.dw_mid = self.layer_scale = nn.Identity()
        if start_size:
            first = style.depthwise(inputs, start_size, 1 if kernel_size else stride)
            self.dw_start = _Layer(first, style, "none")
        self.pw_exp = _Layer(style.conv(inputs, inner), style)
        if kernel_size:
            self.dw_mid = _Layer(style.depthwise(inner, kernel_size, stride), style)
        self.pw_proj = _Layer(style.conv(inner, outputs), style, "none")
        if style.layer_scale is not None:
            self.layer_scale = LayerScale(outputs, style.layer_scale, **style.where)
        self.drop_path = StochasticDepth(drop_path)
        self.has_skip = skip and stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.dw_mid(self.pw_exp(self.dw_start(x)))
        y = self.layer_scale(self.pw_proj(y))
        return self.drop_path(y) + x if self.has_skip else y
