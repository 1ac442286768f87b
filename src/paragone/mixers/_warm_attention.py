"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from paragone.mixers.flash_attention import attention

__all__ = ["CALLS"]


def _both_passes() -> None:
    q = torch.zeros(1, 2, 65, 16, requires_grad=True)
    mask = torch.ones(65, 65, dtype=torch.bool)
    attention(q, q, q, mask=mask, causal=True).sum().backward()


CALLS: tuple[Callable[[], None], ...] = (_both_passes,)
