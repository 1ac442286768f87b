"""Multiply-adds of a network, counted by running it on shapes alone.

A convolution does k_h k_w C_in / groups of them for each number it puts out, a linear layer
C_in; norms, activations, pooling and interpolation are left out, as the papers and timm do.

References:
    Howard et al. (2017), "MobileNets", arXiv:1704.04861, section 3.1 (eq. 2-5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["count_macs", "macs_by_layer"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _cost(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    if isinstance(layer, nn.Linear):
        return y.numel() * layer.in_features
    if isinstance(layer, _TRANSPOSED):
        return x.numel() * math.prod(layer.kernel_size) * layer.out_channels // layer.groups
    assert isinstance(layer, _CONVOLUTIONS)
    return y.numel() * math.prod(layer.kernel_size) * layer.in_channels // layer.groups


def macs_by_layer(module: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Returns the multiply-adds of each convolution and linear layer for one input.

    Args:
        module: Called with one tensor; it is put into evaluation while it is counted.
        shape: Shape of one input, without the batch.
    """
    counts: dict[str, int] = {}
    handles: list[Any] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(layer: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> None:
            counts[name] = counts.get(name, 0) + _cost(layer, given[0], y)

        return hook

    modes = {part: part.training for part in module.modules()}
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    try:
        for name, layer in module.named_modules():
            if isinstance(layer, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)):
                handles.append(layer.register_forward_hook(watch(name)))
        module.eval()
        shapes = {k: torch.empty_like(v, device="meta") for k, v in state.items()}
        kind = next((v.dtype for v in state.values() if v.is_floating_point()), torch.float32)
        x = torch.empty(1, *shape, dtype=kind, device="meta")
        with torch.no_grad():
            torch.func.functional_call(module, shapes, (x,))
    finally:
        for handle in handles:
            handle.remove()
        for part, training in modes.items():
            part.training = training
    return counts


def count_macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Returns the multiply-adds of one input's way through a network.

    Args:
        module: Called with one tensor.
        shape: Shape of one input, without the batch: (C, H, W).

    Example:
        >>> count_macs(nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 32, 32))
        55296
    """
    return sum(macs_by_layer(module, shape).values())
