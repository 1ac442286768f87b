"""Small calls that lead through every compiled kernel of MoonViT, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from paragone.mixers.flash_attention import attention_packed
from paragone.multimodal.ops.dense import feed, linear, projected

__all__ = ["CALLS"]


def _both_passes() -> None:
    x = torch.zeros(8, 8, requires_grad=True)
    weight, bias = torch.zeros(24, 8), torch.zeros(24)
    angles = torch.zeros(8, 4)
    qkv = projected(x, weight, bias, angles, angles, 1, backend="numba")
    q, k, v = qkv.unbind(1)
    y = attention_packed(q, k, v, torch.tensor([5, 3])).flatten(1)
    y = linear(y, weight[:8], bias[:8], x, backend="numba")
    for one in (y, y.detach()):
        z = feed(one, weight, bias, weight.t(), bias[:8], one, backend="numba")
        if z.requires_grad:
            z.sum().backward()


CALLS: tuple[Callable[[], None], ...] = (_both_passes,)
