"""The Numba kernels of CARAFE as operations that torch knows: shapes and gradients.

The kernels of the method come packed, (B, H, W, G, s s, k k): those of one input pixel together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.teams import share

__all__ = ["carafe"]

_WORTH = 400_000


def _nhwc(x: Tensor) -> Tensor:
    """The maps themselves if the channels of a pixel are neighbours in memory, else a copy."""
    if x.stride(1) == 1 or x.shape[1] == 1:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def _flat(x: Tensor) -> Any:
    first = x.storage_offset()
    size = x.untyped_storage().nbytes() // x.element_size() - first
    return x.detach().as_strided((size,), (1,)).numpy()


def _layout(x: Tensor, packed: Tensor, dy: Tensor | None = None) -> Any:
    scale, side = math.isqrt(packed.shape[4]), math.isqrt(packed.shape[5])
    steps = [v.stride(i) for v in (x, x if dy is None else dy) for i in (0, 2, 3)]
    batch, channels, height, width = x.shape
    return np.array([batch, height, width, channels, packed.shape[3], scale, side, *steps])


def _team(x: Tensor, packed: Tensor) -> int:
    work = x.numel() * packed.shape[4] * packed.shape[5]
    return torch.get_num_threads() if work >= _WORTH else 1


@torch.library.custom_op("paragone::carafe", mutates_args=(), device_types="cpu")
def carafe(x: Tensor, packed: Tensor) -> Tensor:
    """As `reference.carafe`, with packed kernels, in float32."""
    from paragone.vision.ops.carafe import _cpu

    y, inner, packed = _output(x, packed), _nhwc(x), packed.contiguous()
    if y.numel():
        share(
            _cpu.forward, x.shape[0] * x.shape[2], _layout(inner, packed), _flat(inner),
            _flat(packed), _flat(y), threads=_team(x, packed),
        )  # fmt: skip
    return y


def _output(x: Tensor, packed: Tensor) -> Tensor:
    scale = math.isqrt(packed.shape[4])
    batch, channels, height, width = x.shape
    return _empty(x, (batch, channels, height * scale, width * scale))


def _empty(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    form = torch.channels_last
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=form)


@carafe.register_fake
def _carafe_fake(x, packed):
    return _output(x, packed)


@torch.library.custom_op("paragone::carafe_backward", mutates_args=(), device_types="cpu")
def _backward(x: Tensor, packed: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    from paragone.vision.ops.carafe import _cpu

    dx, dpacked = _empty(x, x.shape).zero_(), _zeros(packed)
    inner, packed, dy = _nhwc(x), packed.contiguous(), _nhwc(dy)
    if dy.numel():
        at = _layout(inner, packed, dy)
        blocks = -(-(x.shape[1] // packed.shape[3]) // _cpu.PAIR)
        threads = _team(x, packed)
        share(
            _cpu.to_maps, x.shape[0] * packed.shape[3] * blocks, at, _flat(packed), _flat(dy),
            _flat(dx), threads=threads,
        )  # fmt: skip
        share(
            _cpu.to_kernels, x.shape[0] * x.shape[2], at, _flat(inner), _flat(dy),
            _flat(dpacked), threads=threads,
        )  # fmt: skip
    return dx, dpacked


def _zeros(packed: Tensor) -> Tensor:
    return packed.new_zeros(packed.shape)


@_backward.register_fake
def _backward_fake(x, packed, dy):
    return _empty(x, x.shape), _zeros(packed)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
    x, packed = ctx.saved_tensors
    return _backward(x, packed, dy)


carafe.register_autograd(_gradients, setup_context=_keep)
