r"""A full convolution with its norm and activation, and a skip if asked for.

$$ y = \phi(B (W * x)) \; [+ \; x] . $$

Cost: $H W C C' k^2 / s^2$ multiply-adds. Its step in the lineage: where all began; EfficientNetV2
and MobileNetV4 come back to it in the first stages, the others have it last, to widen the map.

References:
    Tan and Le (2021), "EfficientNetV2", arXiv:2104.00298, table 4 (stage 1).
"""

from __future__ import annotations

from torch import Tensor, nn

from paragone.vision._mobile_style import PLAIN, Style
from paragone.vision.blocks.stochastic_depth import StochasticDepth

__all__ = ["ConvNorm"]


class ConvNorm(nn.Module):
    """Convolution, norm, activation, on (B, C, H, W).

    Args:
        inputs: C.
        outputs: C'.
        kernel_size: Side k.
        stride: Of the convolution.
        skip: Whether the input is added where shapes allow it.
        drop_path: Rate of stochastic depth.
        style: Activation, norms and padding.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel_size: int = 3, stride: int = 1,
        skip: bool = False, drop_path: float = 0.0, style: Style = PLAIN,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = style.conv(inputs, outputs, kernel_size, stride)
        self.bn1 = style.norm(outputs)
        self.drop_path = StochasticDepth(drop_path)
        self.has_skip = skip and stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv(x))
        return self.drop_path(y) + x if self.has_skip else y
