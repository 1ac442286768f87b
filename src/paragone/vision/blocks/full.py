r"""The full convolution: every filter sees every channel and k x k places. The measure of the rest.

$$ H W\, k^2\, C\, D . $$

It looks for patterns in space and between channels at once; all later blocks take one apart from
the other, or show the costly part fewer channels.

References:
    LeCun et al. (1998), "Gradient-based learning applied to document recognition", section II.

Shapes: B batch, C channels in, D channels out, H and W height and width of the output.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from paragone.vision._lineage_layers import conv_norm, halved

__all__ = ["FullConv"]


class FullConv(nn.Module):
    """A convolution with its norm and activation.

    Args:
        in_channels: C.
        out_channels: D.
        kernel: Side of the filters.
        stride: Step in pixels.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.unit = conv_norm(
            in_channels, out_channels, kernel, stride=stride, device=device, dtype=dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x)

    @staticmethod
    def multiply_adds(
        in_channels: int, out_channels: int, size: tuple[int, int], *, kernel: int = 3,
        stride: int = 1,
    ) -> int:  # fmt: skip
        """Returns the formula's number; arguments as of the block, and the input's size."""
        height, width = halved(size, stride)
        return height * width * kernel * kernel * in_channels * out_channels
