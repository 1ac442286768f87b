"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from paragone.mixers.ops.features import exp_features
from paragone.mixers.ops.gau import relu2_attention

__all__ = ["CALLS"]


def _relu2() -> None:
    x = torch.zeros(1, 2, 2)
    relu2_attention(x, x, x, causal=True)


def _features() -> None:
    exp_features(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2))


CALLS: tuple[Callable[[], None], ...] = (_relu2, _features)
