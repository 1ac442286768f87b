r"""Squeeze and excitation: each channel is weighed by what the whole map shows.

$$ y = x \odot \sigma\big(W_2 \, \phi(W_1 \, \text{mean}_{hw}(x) + b_1) + b_2\big) . $$

Cost: $2 C R$ multiply-adds for C channels and R squeezed ones, however large the map: nearly
nothing in arithmetic, but the map is read twice more. Its step in the lineage: MnasNet, MobileNetV3
and EfficientNet put it behind the depthwise convolution, where the channels are many. EfficientNet
takes R from the channels that enter the block, MobileNetV3 from the expanded ones.

References:
    Hu et al. (2018), "Squeeze-and-excitation networks", arXiv:1709.01507, eq. 2-4.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from paragone.vision.layers import PointwiseConv, activate

__all__ = ["SqueezeExcite"]


class SqueezeExcite(nn.Module):
    """Weighs the channels of maps (B, C, H, W).

    Args:
        channels: C.
        squeezed: Channels R in the middle.
        activation: Between the two layers.
        gate: Behind the second: "sigmoid" or "hard_sigmoid".
        device: Of the parameters.
        dtype: Of the parameters.
    """

    def __init__(
        self, channels: int, squeezed: int, *, activation: str = "silu", gate: str = "sigmoid",
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv_reduce = PointwiseConv(channels, squeezed, True, device=device, dtype=dtype)
        self.conv_expand = PointwiseConv(squeezed, channels, True, device=device, dtype=dtype)
        self.activation, self.gate = activation, gate

    def forward(self, x: Tensor) -> Tensor:
        squeezed = activate(self.conv_reduce(x.mean((2, 3), keepdim=True)), self.activation)
        return x * activate(self.conv_expand(squeezed), self.gate)
