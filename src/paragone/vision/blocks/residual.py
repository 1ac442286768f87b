r"""Residual blocks: what is learned is the difference to the input, so that depth does no harm.

$$ y = \text{relu}\big(x + F(x)\big) . $$

The basic block has two 3x3 convolutions, the bottleneck narrows by a 1x1 to a quarter, works 3x3
there, and widens by a 1x1. Multiply-adds, for C channels in, m = planes between, D out, stride s,
filters of k x k, and h, w the map that comes out (H = s h, W = s w go in):

$$ \text{basic: } h w\, k^2 (C m + m^2), \; D = m; \qquad
   \text{bottleneck: } H W\, C m + h w\, (k^2 m^2 + m D), \; D = 4 m , $$

and h w C D more where the shape changes, for the 1x1 convolution beside it. The stride sits in the
3x3 convolution of the bottleneck (the paper has it in the first 1x1), as in the published weights.

References:
    He et al. (2016), "Deep residual learning", arXiv:1512.03385, eq. 1-2, figure 5.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from paragone.vision._lineage_layers import conv_norm, halved
from paragone.vision.layers import NormAct, PointwiseConv

__all__ = ["BasicBlock", "Bottleneck"]


class _Residual(nn.Module):
    """The sum with the input, or with what a 1x1 convolution makes of it."""

    expansion = 1

    def _beside(self, in_channels: int, out_channels: int, stride: int, where: Any) -> None:
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = conv_norm(
                in_channels, out_channels, stride=stride, activation="none", names=("0", "1"),
                **where,
            )  # fmt: skip

    def _inner(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return functional.relu(self._inner(x) + shortcut)


class BasicBlock(_Residual):
    """Two 3x3 convolutions and the input.

    Args:
        in_channels: C.
        planes: m = D, the channels out.
        stride: Of the first convolution.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, in_channels: int, planes: int, *, stride: int = 1, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(in_channels, planes, 3, stride, 1, bias=False, **where)
        self.bn1 = NormAct(planes, "relu", **where)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False, **where)
        self.bn2 = NormAct(planes, "none", **where)
        self._beside(in_channels, planes, stride, where)

    def _inner(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x))))

    @staticmethod
    def multiply_adds(
        in_channels: int, planes: int, size: tuple[int, int], *, stride: int = 1
    ) -> int:
        """Returns the formula's number; arguments as of the block, and the input's size."""
        height, width = halved(size, stride)
        beside = in_channels * planes if stride != 1 or in_channels != planes else 0
        return height * width * (9 * (in_channels * planes + planes * planes) + beside)


class Bottleneck(_Residual):
    """1x1 to a few channels, 3x3, 1x1 to four times as many, and the input.

    Args:
        in_channels: C.
        planes: m; the channels out are 4 m.
        stride: Of the 3x3 convolution.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, planes: int, *, stride: int = 1, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv1 = PointwiseConv(in_channels, planes, **where)
        self.bn1 = NormAct(planes, "relu", **where)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False, **where)
        self.bn2 = NormAct(planes, "relu", **where)
        self.conv3 = PointwiseConv(planes, 4 * planes, **where)
        self.bn3 = NormAct(4 * planes, "none", **where)
        self._beside(in_channels, 4 * planes, stride, where)

    def _inner(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        return self.bn3(self.conv3(x))

    @staticmethod
    def multiply_adds(
        in_channels: int, planes: int, size: tuple[int, int], *, stride: int = 1
    ) -> int:
        """Returns the formula's number; arguments as of the block, and the input's size."""
        height, width = halved(size, stride)
        made = 4 * planes
        beside = in_channels * made if stride != 1 or in_channels != made else 0
        behind = height * width * (9 * planes * planes + planes * made + beside)
        return size[0] * size[1] * in_channels * planes + behind
