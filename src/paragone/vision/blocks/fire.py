r"""Fire: squeeze the channels by 1x1 filters, then expand by 1x1 and 3x3 filters side by side.

Three rules make few parameters: many 3x3 filters become 1x1, few channels reach those that stay,
and maps are halved late. For C channels in, s squeezed, and $e_1, e_3$ out of the two kinds:

$$ H W\, (C s + s e_1 + 9\, s e_3), \qquad D = e_1 + e_3 . $$

The convolutions have biases and no norm.

References:
    Iandola et al. (2016), "SqueezeNet", arXiv:1602.07360, section 3.2 and figure 1.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.vision.layers import PointwiseConv

__all__ = ["Fire"]


class Fire(nn.Module):
    """Squeeze, and expand two ways.

    Args:
        in_channels: C.
        squeezed: s.
        expanded: Channels of the 1x1 and of the 3x3 filters.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, in_channels: int, squeezed: int, expanded: tuple[int, int], *, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.squeeze = PointwiseConv(in_channels, squeezed, True, **where)
        self.expand1x1 = PointwiseConv(squeezed, expanded[0], True, **where)
        self.expand3x3 = nn.Conv2d(squeezed, expanded[1], 3, padding=1, **where)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.squeeze(x))
        return functional.relu(torch.cat((self.expand1x1(x), self.expand3x3(x)), 1))

    @staticmethod
    def multiply_adds(
        in_channels: int, squeezed: int, expanded: tuple[int, int], size: tuple[int, int]
    ) -> int:
        """Returns the formula's number; arguments as of the block, and the input's size."""
        taps = in_channels + expanded[0] + 9 * expanded[1]
        return size[0] * size[1] * squeezed * taps
