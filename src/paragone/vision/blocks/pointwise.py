r"""The 1x1 convolution: mixes channels, sees one place. A linear layer at every pixel.

$$ H W\, C\, D, \qquad \frac{\text{pointwise}}{\text{full}} = \frac{1}{k^2} . $$

As a squeeze before costly filters it makes Inception and Fire cheap; beside depthwise filters it
is nearly all the work that is left.

References:
    Lin et al. (2014), "Network in network", arXiv:1312.4400, section 3.1.

Shapes: B batch, C channels in, D channels out, H and W height and width of the output.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from paragone.vision._lineage_layers import conv_norm

__all__ = ["Pointwise"]


class Pointwise(nn.Module):
    """A 1x1 convolution with its norm and activation.

    Args:
        in_channels: C.
        out_channels: D.
        groups: Groups of channels that do not see each other; the work is that much less.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int = 1, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.unit = conv_norm(
            in_channels, out_channels, groups=groups, device=device, dtype=dtype
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x)

    @staticmethod
    def multiply_adds(
        in_channels: int, out_channels: int, size: tuple[int, int], *, groups: int = 1
    ) -> int:
        """Returns the formula's number; arguments as of the block, and the input's size."""
        return size[0] * size[1] * in_channels * out_channels // groups
