r"""The depthwise convolution: one k x k filter for each channel, and no channel sees another.

$$ H W\, k^2\, C, \qquad \frac{\text{depthwise}}{\text{full}} = \frac{1}{D} . $$

So little arithmetic for each number that is read that memory, not arithmetic, sets its time.

References:
    Sifre and Mallat (2014), "Rigid-motion scattering for image classification", section 6.2.
    Howard et al. (2017), "MobileNets", arXiv:1704.04861, eq. 3-4.

Shapes: B batch, C channels, H and W height and width of the output.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from paragone.vision._lineage_layers import chain, halved
from paragone.vision.layers import DepthwiseConv, NormAct

__all__ = ["Depthwise"]


class Depthwise(nn.Module):
    """A depthwise convolution with its norm and activation.

    Args:
        channels: C.
        kernel: Side of the filters.
        stride: Step in pixels.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, channels: int, kernel: int = 3, *, stride: int = 1, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.unit = chain(
            ("conv", DepthwiseConv(channels, kernel, stride, **where)),
            ("bn", NormAct(channels, **where)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x)

    @staticmethod
    def multiply_adds(
        channels: int, size: tuple[int, int], *, kernel: int = 3, stride: int = 1
    ) -> int:
        """Returns the formula's number; arguments as of the block, and the input's size."""
        height, width = halved(size, stride)
        return height * width * kernel * kernel * channels
