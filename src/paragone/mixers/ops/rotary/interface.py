"""Turning queries and keys as they come out of their projection, before heads become an axis.

Shapes: B rows, T time, H heads, D width of a head, W coordinates that are turned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter

from paragone.kernels.teams import share

__all__ = ["turned", "usable"]

_WORTH = 200_000
_PLAIN = (Tensor, Parameter)


def usable(*tensors: Tensor) -> bool:
    """Whether these are plain float32 tensors on the CPU that nobody traces."""
    return (
        all(
            type(x) in _PLAIN and x.dtype == torch.float32 and x.device.type == "cpu"
            for x in tensors
        )
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._get_tracing_state() is None
    )


def turned(x: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
    """As `Rotary.turn`, with time before heads.

    Args:
        x: (B, T, H, D) float32 on the CPU.
        cos: (T, W / 2) or (B, T, W / 2).
        sin: Like cos.
        layout: "half" or "interleaved".
    """
    return _Turn.apply(x, cos, sin, layout == "half")  # pyright: ignore[reportReturnType]


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, half: bool) -> Tensor:
        ctx.half = half
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1.0, half)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(dy, cos, sin, -1.0, ctx.half), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float, half: bool) -> Tensor:
    from paragone.mixers.ops.rotary import _cpu as kernels

    rows, time, heads, width = x.shape
    x = x.detach().contiguous()
    y, pairs = torch.empty_like(x), cos.shape[-1]
    tables = [table.detach().contiguous().view(-1, pairs).numpy() for table in (cos, sin)]
    count = rows * time
    share(
        kernels.turn, -(-count // kernels.BLOCK), x.view(-1).numpy(), heads * width, *tables,
        max(len(tables[0]), 1), np.float32(sign), y.view(-1).numpy(), count, heads, width,
        2 * pairs, half, threads=torch.get_num_threads() if x.numel() >= _WORTH else 1,
    )  # fmt: skip
    return y
