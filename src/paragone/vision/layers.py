r"""Layers that all networks here share: batch norm with its activation, depthwise convolution.

On a CPU half of the time of a light network goes to what is not a convolution: a batch norm reads
its map twice and writes it once, and the activation does so again. Here both are one pass each way:

$$ y = \phi\Big(\gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta\Big) . $$

References:
    Ioffe and Szegedy (2015), "Batch normalization", arXiv:1502.03167, algorithm 1.
    Ramachandran et al. (2017), arXiv:1710.05941 (SiLU); Howard et al. (2019), arXiv:1905.02244,
    section 5.2 (the hard swish).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.vision.ops.depthwise.interface import depthwise_conv
from paragone.vision.ops.norm_act.interface import norm_act
from paragone.vision.ops.norm_act.reference import ACTIVATIONS, activate

__all__ = ["ACTIVATIONS", "Activation", "DepthwiseConv", "NormAct", "PointwiseConv", "activate"]

Activation = Literal[
    "none", "relu", "relu6", "silu", "hard_swish", "hard_sigmoid", "sigmoid", "gelu"
]


class NormAct(nn.BatchNorm2d):
    """Batch norm followed by an activation, with the keys of a batch norm.

    Prefer it to `nn.BatchNorm2d` and an activation: it is the same function, and on a CPU with the
    network in channels-last order (`net.to(memory_format=torch.channels_last)`) one pass each way,
    which keeps its input alone for the gradient.

    Args:
        channels: C of the maps (B, C, H, W).
        activation: Name of the activation behind it.
        eps: Added to the variance.
        momentum: Share of the new statistics in the running ones; None: their plain mean.
        affine: Whether it has a weight and a bias.
        track_running_stats: Whether it keeps statistics for evaluation.
        backend: "auto", or a name from `paragone.kernels.choice.backends("norm_act")`.

    Example:
        >>> NormAct(8, "silu")(torch.randn(2, 8, 16, 16)).shape
        torch.Size([2, 8, 16, 16])
    """

    def __init__(
        self, channels: int, activation: str = "relu", *, eps: float = 1e-5,
        momentum: float | None = 0.1, affine: bool = True, track_running_stats: bool = True,
        backend: str = "auto", device: object = None, dtype: object = None,
    ) -> None:  # fmt: skip
        super().__init__(
            channels, eps, momentum, affine, track_running_stats,
            device=device, dtype=dtype,  # pyright: ignore
        )  # fmt: skip
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
        self.activation, self.backend = activation, backend

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        return norm_act(
            input, self.weight, self.bias, self.running_mean, self.running_var,
            training=self.training or self.running_mean is None, momentum=momentum, eps=self.eps,
            activation=self.activation, backend=self.backend,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}"


class DepthwiseConv(nn.Conv2d):
    """One filter for each channel: a convolution with as many groups as channels.

    Prefer it to `nn.Conv2d` with groups: it is the same function, and its 5x5 filters learn
    several times as fast on a CPU in channels-last order.

    Args:
        channels: C of input and output.
        kernel_size: Side of the filter in pixels.
        stride: Step in pixels.
        padding: Rows and columns of zeros around; half the kernel without it.
        dilation: Step between the taps of a filter.
        bias: Whether a number is added to each channel.
        backend: "auto", or a name from `paragone.kernels.choice.backends("depthwise_conv")`.
    """

    def __init__(
        self, channels: int, kernel_size: int = 3, stride: int = 1, padding: int | None = None,
        dilation: int = 1, bias: bool = False, backend: str = "auto", device: object = None,
        dtype: object = None,
    ) -> None:  # fmt: skip
        padding = (kernel_size - 1) * dilation // 2 if padding is None else padding
        super().__init__(
            channels, channels, kernel_size, stride, padding, dilation, channels, bias,
            device=device, dtype=dtype,  # pyright: ignore
        )  # fmt: skip
        self.backend = backend

    def forward(self, input: Tensor) -> Tensor:
        if self.kernel_size != (5, 5) or self.padding_mode != "zeros":
            return super().forward(input)
        assert not isinstance(self.padding, str)
        return depthwise_conv(
            input, self.weight, self.bias, stride=self.stride[0], padding=self.padding[0],
            dilation=self.dilation[0], backend=self.backend,
        )  # fmt: skip


class PointwiseConv(nn.Conv2d):
    """A convolution of one pixel: the same linear layer at every place.

    With one thread and fewer than 16 images torch takes a slow path; a map in channels-last order
    is a matrix, and one product does it.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        bias: Whether a number is added to each channel.
    """

    def __init__(
        self, in_channels: int, out_channels: int, bias: bool = False,
        device: object = None, dtype: object = None,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, 1, bias=bias, device=device, dtype=dtype  # pyright: ignore
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        if _as_product(input):
            y = functional.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
            return y.permute(0, 3, 1, 2)
        return super().forward(input)


def _as_product(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling() and x.dim() == 4 and x.shape[0] < 16
        and x.device.type == "cpu" and torch.get_num_threads() == 1
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
    )  # fmt: skip
