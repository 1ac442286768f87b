r"""Fused inverted residual: one full convolution in place of expansion and depthwise filters.

$$ y = x + B_2 W_2 \, \phi(B_1 (W_1 * x)), $$

with $W_1$ a full $k \times k$ convolution of $C \to tC$ and $W_2$ of $tC \to C'$, linear.

Cost: $H W \, tC (k^2 C + C') / s^2$ multiply-adds, about $k^2$ times those of `InvertedResidual`.
Its step in the lineage: depthwise filters do little arithmetic for each number they fetch, so where
channels are few and maps large the fused block takes less time in spite of its count.
EfficientNetV2 has it in the first stages, MobileNetV4 in the first one.

References:
    Tan and Le (2021), "EfficientNetV2", arXiv:2104.00298, section 3.2 and figure 2.
"""

from __future__ import annotations

from torch import Tensor, nn

from paragone.vision._mobile_style import PLAIN, Style, round_channels
from paragone.vision.blocks.stochastic_depth import StochasticDepth

__all__ = ["FusedResidual"]


class FusedResidual(nn.Module):
    """A full convolution that expands, and a projection, on (B, C, H, W).

    Args:
        inputs: C.
        outputs: C'.
        kernel_size: Side k of the full convolution.
        stride: Of the full convolution.
        expand: Expansion t; the expanded channels are rounded to eights.
        skip: Whether the input is added where shapes allow it.
        drop_path: Rate of stochastic depth.
        style: Activation, norms and padding.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel_size: int = 3, stride: int = 1,
        expand: float = 4.0, skip: bool = True, drop_path: float = 0.0, style: Style = PLAIN,
    ) -> None:  # fmt: skip
        super().__init__()
        inner = round_channels(inputs * expand)
        self.conv_exp = style.conv(inputs, inner, kernel_size, stride)
        self.bn1 = style.norm(inner)
        self.conv_pwl = style.conv(inner, outputs)
        self.bn2 = style.norm(outputs, "none")
        self.drop_path = StochasticDepth(drop_path)
        self.has_skip = skip and stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv_pwl(self.bn1(self.conv_exp(x))))
        return self.drop_path(y) + x if self.has_skip else y
