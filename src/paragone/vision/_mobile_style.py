"""What all blocks of one mobile network share: activation, norm, padding, width of the squeeze.

References:
    Howard et al. (2019), "Searching for MobileNetV3", arXiv:1905.02244, section 5.
    Tan and Le (2019), "EfficientNet", arXiv:1905.11946, and its TensorFlow release ("SAME").
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from paragone.vision.layers import DepthwiseConv, NormAct, PointwiseConv

__all__ = ["PLAIN", "Padding", "Style", "round_channels"]

Padding = Literal["torch", "same"]


def round_channels(channels: float, divisor: int = 8) -> int:
    """Returns the multiple of `divisor` nearest to a number of channels, at least 9/10 of it.

    Example:
        >>> round_channels(32 * 1.1), round_channels(12), round_channels(11.9 * 0.75)
        (32, 16, 16)
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class _Same(nn.Module):
    """Pads as TensorFlow does: what is odd goes below and to the right, by the input's size."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]

    def forward(self, input: Tensor) -> Tensor:
        sides: list[int] = []
        for size, kernel, stride in zip(
            input.shape[:1:-1], self.kernel_size, self.stride, strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [total // 2, total - total // 2]
        return super().forward(functional.pad(input, sides))  # pyright: ignore


class SameConv(_Same, nn.Conv2d):
    """A convolution with TensorFlow's padding; its kernel is square."""


class SameDepthwiseConv(_Same, DepthwiseConv):
    """A depthwise convolution with TensorFlow's padding."""


@dataclasses.dataclass(frozen=True)
class Style:
    """How the layers of one network are made.

    Attributes:
        activation: Behind each norm that is not linear.
        eps: Of the norms.
        momentum: Of the norms.
        padding: "torch" (the same on both sides) or "same" (TensorFlow's).
        gate: Last activation of squeeze and excitation.
        squeeze_activation: The one in its middle; `activation` without it.
        squeeze_inner: Whether its width is a share of the expanded channels, rounded
            (MobileNetV3), or of the block's own input (EfficientNet).
        divisor: What channels are rounded to multiples of.
        layer_scale: First value of the factor before a skip; None is without one.
        device: Of the parameters.
        dtype: Of the parameters.
    """

    activation: str = "relu"
    eps: float = 1e-5
    momentum: float = 0.1
    padding: Padding = "torch"
    gate: str = "sigmoid"
    squeeze_activation: str | None = None
    squeeze_inner: bool = False
    divisor: int = 8
    layer_scale: float | None = None
    device: Any = None
    dtype: Any = None

    def __post_init__(self) -> None:
        if self.padding not in ("torch", "same"):
            raise ValueError(f"padding={self.padding!r} is none of 'torch', 'same'")

    @property
    def where(self) -> dict[str, Any]:
        """Device and type, as the layers take them."""
        return {"device": self.device, "dtype": self.dtype}

    def conv(
        self, inputs: int, outputs: int, kernel_size: int = 1, stride: int = 1, bias: bool = False
    ) -> nn.Conv2d:
        """Returns a convolution."""
        if self.padding == "same" and stride > 1:
            return SameConv(inputs, outputs, kernel_size, stride, bias=bias, **self.where)
        if kernel_size == stride == 1:
            return PointwiseConv(inputs, outputs, bias, **self.where)
        half = (kernel_size - 1) // 2
        return nn.Conv2d(inputs, outputs, kernel_size, stride, half, bias=bias, **self.where)

    def depthwise(self, channels: int, kernel_size: int, stride: int = 1) -> DepthwiseConv:
        """Returns a depthwise convolution."""
        if self.padding == "same" and stride > 1:
            return SameDepthwiseConv(channels, kernel_size, stride, 0, **self.where)
        return DepthwiseConv(channels, kernel_size, stride, **self.where)

    def norm(self, channels: int, activation: str | None = None) -> NormAct:
        """Returns a norm with its activation, the style's without one."""
        return NormAct(
            channels, activation or self.activation, eps=self.eps, momentum=self.momentum,
            **self.where,
        )  # fmt: skip

    def squeezed(self, inputs: int, inner: int, ratio: float) -> int:
        """Returns the width of squeeze and excitation."""
        if self.squeeze_inner:
            return round_channels(inner * ratio, self.divisor)
        return max(1, int(inputs * ratio))


PLAIN = Style()
"""ReLU, torch's norms and padding."""
