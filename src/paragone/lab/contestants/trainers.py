"""Precisions behind one call: `(model, optimizer, pilot) -> trainer`.

A trainer has three methods, which are those of `MixedPrecision`: `autocast()` around the forward
pass, `backward(loss)`, `step() -> whether it was taken`; and the numbers `loss_scale` and
`underflow`. `pilot()` yields some batches as (inputs, targets, loss function) for contestants that
look at gradients before they choose.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from paragone._core.lazy import resolve

__all__ = ["Autocast", "mixed", "recommended"]

Pilot = Callable[[], Iterable[Any]]
_MIXED = "paragone.training:MixedPrecision"


def mixed(model: Any, optimizer: Any, pilot: Pilot, **options: Any) -> Any:
    """Paragone's `MixedPrecision`."""
    return resolve(_MIXED)(model, optimizer, **options)


def recommended(model: Any, optimizer: Any, pilot: Pilot, **options: Any) -> Any:
    """The same with the constant scale that a recorder recommends after some float32 steps."""
    trial = copy.deepcopy(model)
    recorder = resolve("paragone.training:UnderflowRecorder")(trial, every=1)
    for inputs, targets, judge in pilot():
        recorder.begin()
        judge(trial(inputs), targets).backward()
    scale = recorder.histogram().recommend(options["precision"])
    return mixed(model, optimizer, pilot, loss_scale=scale, **options)


class Autocast:
    """PyTorch's own: `torch.autocast` and `torch.amp.GradScaler` on a CPU."""

    def __init__(
        self, model: Any, optimizer: Any, pilot: Pilot, *, dtype: str, scaled: bool
    ) -> None:
        self.optimizer, self.dtype = optimizer, getattr(torch, dtype)
        self.scaler = torch.amp.GradScaler("cpu", enabled=scaled)
        self.underflow = math.nan

    @property
    def loss_scale(self) -> float:
        return float(self.scaler.get_scale())

    def autocast(self) -> Any:
        return torch.autocast("cpu", dtype=self.dtype)

    def backward(self, loss: Any) -> None:
        self.scaler.scale(loss).backward()

    def step(self) -> bool:
        before = self.loss_scale
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.loss_scale >= before
