r"""Depthwise separable convolution: filter each channel, then mix them at each pixel.

$$ y = B_2 W \, s(\phi(B_1 (D * x))), $$

with $D$ depthwise $k \times k$ and $W$ of $C \to C'$. MobileNetV1 has an activation behind W,
too; later networks, which take the block where there is nothing to expand, have none and add x.

Cost: $H W C (k^2 + C')$ multiply-adds, against $H W C k^2 C'$ of a full convolution: a share of
$1 / C' + 1 / k^2$, eight or nine times less at k = 3. Its step in the lineage: MobileNetV1 is
nothing but 13 of these.

References:
    Howard et al. (2017), "MobileNets", arXiv:1704.04861, eq. 2-5.
"""

from __future__ import annotations

from torch import Tensor, nn

from paragone.vision._mobile_style import PLAIN, Style
from paragone.vision.blocks.inverted_residual import squeeze_excite
from paragone.vision.blocks.stochastic_depth import StochasticDepth

__all__ = ["SeparableResidual"]


class SeparableResidual(nn.Module):
    """Depthwise filters and a pointwise layer, on (B, C, H, W).

    Args:
        inputs: C.
        outputs: C'.
        kernel_size: Side k of the depthwise filters.
        stride: Of the depthwise filters.
        squeeze: Share of squeeze and excitation; 0 is without.
        linear: Whether there is no activation behind the pointwise layer.
        skip: Whether the input is added where shapes allow it.
        drop_path: Rate of stochastic depth.
        style: Activation, norms and padding.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel_size: int = 3, stride: int = 1,
        squeeze: float = 0.0, linear: bool = True, skip: bool = True, drop_path: float = 0.0,
        style: Style = PLAIN,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv_dw = style.depthwise(inputs, kernel_size, stride)
        self.bn1 = style.norm(inputs)
        self.se = squeeze_excite(inputs, inputs, squeeze, style)
        self.conv_pw = style.conv(inputs, outputs)
        self.bn2 = style.norm(outputs, "none" if linear else None)
        self.drop_path = StochasticDepth(drop_path)
        self.has_skip = skip and stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.se(self.bn1(self.conv_dw(x)))
        y = self.bn2(self.conv_pw(y))
        return self.drop_path(y) + x if self.has_skip else y
