"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CALLS"]


def _norm_and_filters() -> None:
    import torch

    from paragone.vision.layers import DepthwiseConv, NormAct

    x = torch.randn(2, 17, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    norm = NormAct(17, "silu", backend="numba")
    norm(DepthwiseConv(17, 5, backend="numba")(x)).sum().backward()
    with torch.no_grad():
        norm.eval()(x)


def _answers() -> None:
    import torch
    from torch import nn

    from paragone.vision.ops.answer.layers import Activate, Interleave, Pointwise, SqueezeExcite

    x = torch.randn(1, 17, 3, 3).contiguous(memory_format=torch.channels_last)
    weight = nn.Linear(17, 17).weight
    y = SqueezeExcite((weight, None), (weight, None), ("silu", "sigmoid"))(
        Activate("silu")(Pointwise(weight, None, "silu")(x))
    )
    last = y.permute(0, 2, 3, 1)
    Interleave()(last, last)


CALLS: tuple[Callable[[], None], ...] = (_norm_and_filters, _answers)
"""Calls without arguments."""
