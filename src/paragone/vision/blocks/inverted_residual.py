r"""Inverted residual (MBConv): expand, filter each channel, project, add.

$$ y = x + B_3 W_3 \, s\big(\phi(B_2 (D * \phi(B_1 W_1 x)))\big), $$

with $W_1$ of $C \to tC$, $D$ depthwise $k \times k$, $s$ squeeze and excitation (or nothing) and
$W_3$ of $tC \to C'$, linear. The sum is there only at stride 1 and C = C'.

Cost: $H W \, tC (C + k^2 / s^2 + C' / s^2)$ multiply-adds at stride s on an H x W map. Its step in
the lineage: MobileNetV1's block was wide where the map is passed on and narrow nowhere. Here the
wide layer is inside, where only depthwise filters run, and what is passed on is thin and linear: a
ReLU on a thin layer would lose what it cuts.

References:
    Sandler et al. (2018), "MobileNetV2", arXiv:1801.04381, section 3 and table 1.
    Tan et al. (2019), "MnasNet", arXiv:1807.11626, figure 7 (with squeeze and excitation).
"""

from __future__ import annotations

from torch import Tensor, nn

from paragone.vision._mobile_style import PLAIN, Style, round_channels
from paragone.vision.blocks.squeeze_excite import SqueezeExcite
from paragone.vision.blocks.stochastic_depth import StochasticDepth

__all__ = ["InvertedResidual", "squeeze_excite"]


def squeeze_excite(inputs: int, inner: int, ratio: float, style: Style) -> nn.Module:
    """Returns squeeze and excitation of `inner` channels, or what changes nothing at ratio 0."""
    if not ratio:
        return nn.Identity()
    return SqueezeExcite(
        inner, style.squeezed(inputs, inner, ratio), gate=style.gate,
        activation=style.squeeze_activation or style.activation, **style.where,
    )  # fmt: skip


class InvertedResidual(nn.Module):
    """Expansion, depthwise filters, projection, on (B, C, H, W).

    Args:
        inputs: C.
        outputs: C'.
        kernel_size: Side k of the depthwise filters.
        stride: Of the depthwise filters.
        expand: Expansion t; the expanded channels are rounded to eights.
        squeeze: Share of squeeze and excitation; 0 is without.
        skip: Whether the input is added where shapes allow it.
        drop_path: Rate of stochastic depth.
        style: Activation, norms and padding.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel_size: int = 3, stride: int = 1,
        expand: float = 6.0, squeeze: float = 0.0, skip: bool = True, drop_path: float = 0.0,
        style: Style = PLAIN,
    ) -> None:  # fmt: skip
        super().__init__()
        inner = round_channels(inputs * expand)
        self.conv_pw = style.conv(inputs, inner)
        self.bn1 = style.norm(inner)
        self.conv_dw = style.depthwise(inner, kernel_size, stride)
        self.bn2 = style.norm(inner)
        self.se = squeeze_excite(inputs, inner, squeeze, style)
        self.conv_pwl = style.conv(inner, outputs)
        self.bn3 = style.norm(outputs, "none")
        self.drop_path = StochasticDepth(drop_path)
        self.has_skip = skip and stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv_pw(x))
        y = self.se(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return self.drop_path(y) + x if self.has_skip else y
