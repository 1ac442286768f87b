r"""Ghost module: half of the maps are computed, the other half are filtered from them.

$$ y_1 = \phi(B_1 W x), \quad y_2 = \phi(B_2 (D * y_1)), \quad y = [y_1; y_2], $$

cut to C' maps where that is odd. Two of them, the second linear, make a bottleneck; where it has a
stride, depthwise filters stand between and in the shortcut. V2 weighs the first one's maps by an
attention along rows and columns ("decoupled fully connected"), computed at half the size:

$$ y \odot \text{up}\big(\sigma(B D_{5,1} * B D_{1,5} * B W' \, \text{pool}(x))\big) . $$

Cost of a module: $H W C'/2 \, (C + k^2)$ multiply-adds, nearly half of a pointwise layer's
$H W C C'$; the attention adds $H W / 4 \, C' (C + 10)$. Its step in the lineage: MobileNetV3's
table with every pointwise layer halved.

References:
    Han et al. (2020), "GhostNet", arXiv:1911.11907, eq. 3-5 and figure 3.
    Tang et al. (2022), "GhostNetV2", arXiv:2211.12905, eq. 4-6 and figure 5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.vision._mobile_style import PLAIN, Style
from paragone.vision.blocks.inverted_residual import squeeze_excite
from paragone.vision.blocks.stochastic_depth import StochasticDepth

__all__ = ["GhostBottleneck", "GhostModule"]


class GhostModule(nn.Module):
    """Maps (B, C, H, W) to (B, C', H, W), half of them cheap.

    Args:
        inputs: C.
        outputs: C'.
        linear: Whether there is no activation.
        attention: Whether V2's attention weighs the result.
        style: Activation and norms.
    """

    def __init__(
        self, inputs: int, outputs: int, *, linear: bool = False, attention: bool = False,
        style: Style = PLAIN,
    ) -> None:  # fmt: skip
        super().__init__()
        self.outputs, activation = outputs, "none" if linear else None
        half = -(-outputs // 2)
        self.primary_conv = nn.Sequential(style.conv(inputs, half), style.norm(half, activation))
        self.cheap_operation = nn.Sequential(style.depthwise(half, 3), style.norm(half, activation))
        self.short_conv: nn.Sequential | None = None
        if attention:
            row, column = (
                nn.Conv2d(outputs, outputs, size, padding=(size[0] // 2, size[1] // 2),
                          groups=outputs, bias=False, **style.where)
                for size in ((1, 5), (5, 1))
            )  # fmt: skip
            self.short_conv = nn.Sequential(
                style.conv(inputs, outputs), style.norm(outputs, "none"),
                row, style.norm(outputs, "none"), column, style.norm(outputs, "none"),
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary_conv(x)
        y = torch.cat([first, self.cheap_operation(first)], 1)[:, : self.outputs]
        if self.short_conv is None:
            return y
        # A map of one pixel is not made smaller: there would be none left.
        pooled = functional.avg_pool2d(x, [min(2, side) for side in x.shape[2:]])
        weights = self.short_conv(pooled).sigmoid()
        return y * functional.interpolate(weights, size=y.shape[2:], mode="nearest")


class GhostBottleneck(nn.Module):
    """Two ghost modules with a shortcut, on (B, C, H, W).

    Args:
        inputs: C.
        outputs: C'.
        inner: Channels between the two.
        kernel_size: Side of the depthwise filters, if there is a stride.
        stride: Of the filters between the two.
        squeeze: Share of squeeze and excitation; 0 is without.
        attention: Whether the first one has V2's attention.
        drop_path: Rate of stochastic depth, where the shortcut is the input itself.
        style: Activation and norms.
    """

    def __init__(
        self, inputs: int, outputs: int, *, inner: int, kernel_size: int = 3, stride: int = 1,
        squeeze: float = 0.0, attention: bool = False, drop_path: float = 0.0,
        style: Style = PLAIN,
    ) -> None:  # fmt: skip
        super().__init__()
        self.ghost1 = GhostModule(inputs, inner, attention=attention, style=style)
        self.conv_dw = self.bn_dw = nn.Identity()
        if stride > 1:
            self.conv_dw = style.depthwise(inner, kernel_size, stride)
            self.bn_dw = style.norm(inner, "none")
        self.se = squeeze_excite(inputs, inner, squeeze, style)
        self.ghost2 = GhostModule(inner, outputs, linear=True, style=style)
        same = stride == 1 and inputs == outputs
        self.drop_path = StochasticDepth(drop_path if same else 0.0)
        self.shortcut = nn.Sequential() if same else nn.Sequential(
            style.depthwise(inputs, kernel_size, stride), style.norm(inputs, "none"),
            style.conv(inputs, outputs), style.norm(outputs, "none"),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.se(self.bn_dw(self.conv_dw(self.ghost1(x))))
        return self.drop_path(self.ghost2(y)) + self.shortcut(x)
