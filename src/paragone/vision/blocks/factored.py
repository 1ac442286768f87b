r"""Factored filters: k x k as 1 x k and then k x 1, the same view for 2 / k of the work.

$$ H W\, k\,(C m + m D), \qquad m = D:\; \frac{\text{factored}}{\text{full}} =
   \frac{C + D}{k\,C} . $$

A filter of rank one is exactly such a pair; what is lost is the other ranks. Inception v3 uses it
with k = 7 on small maps, where it pays most.

References:
    Szegedy et al. (2016), "Rethinking the Inception architecture", arXiv:1512.00567, section 3.2.

Shapes: B batch, C channels in, D channels out, H and W height and width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from paragone.vision._lineage_layers import conv_norm

__all__ = ["FactoredConv"]


class FactoredConv(nn.Module):
    """A convolution along rows, then one along columns.

    Args:
        in_channels: C.
        out_channels: D, also between the two.
        kernel: Length of the filters.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, *, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.rows = conv_norm(in_channels, out_channels, (1, kernel), **where)
        self.columns = conv_norm(out_channels, out_channels, (kernel, 1), **where)

    def forward(self, x: Tensor) -> Tensor:
        return self.columns(self.rows(x))

    @staticmethod
    def multiply_adds(
        in_channels: int, out_channels: int, size: tuple[int, int], *, kernel: int = 3
    ) -> int:
        """Returns the formula's number; arguments as of the block, and the input's size."""
        return size[0] * size[1] * kernel * out_channels * (in_channels + out_channels)
