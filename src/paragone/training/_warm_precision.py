"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from paragone.training import formats
from paragone.training.precision import UnderflowRecorder

__all__ = ["CALLS"]


def _casts() -> None:
    x = torch.linspace(-1.0, 1.0, 9)
    for name in ("bf16", "fp16", "e4m3"):
        formats.cast(x, name, storage=True)
    formats.cast(x, "fp16")
    formats.cast(x, "fp16", rounding="stochastic")
    formats.cast(x, "e4m3", rounding="stochastic", storage=True)


def _records() -> None:
    model = nn.Linear(3, 1)
    recorder = UnderflowRecorder(model)
    recorder.begin()
    model(torch.ones(4, 3)).sum().backward()
    recorder.remove()


CALLS: tuple[Callable[[], None], ...] = (_casts, _records)
