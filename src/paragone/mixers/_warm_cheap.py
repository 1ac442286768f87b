"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from paragone.mixers.ops.gau import relu2_attention

__all__ = ["CALLS"]


def _relu2() -> None:
    x = torch.zeros(1, 2, 2)
    relu2_attention(x, x, x, causal=True)


CALLS: tuple[Callable[[], None], ...] = (_relu2,)
