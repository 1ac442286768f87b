"""The scale of the loss: constant, or grown after clean steps and cut after an overflow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["LossScale"]


class LossScale:
    """The number s that a loss is multiplied by.

    The sequence of scales is that of `torch.amp.GradScaler` for any pattern of overflows, in
    float32: cut at once, grown after `interval` clean steps in a row, never beyond float32.

    Args:
        start: First scale.
        dynamic: Whether it moves.
        growth: Factor after `interval` clean steps.
        backoff: Factor after an overflow.
        interval: Clean steps in a row before it grows.
    """

    def __init__(
        self, start: float = 65536.0, dynamic: bool = True, growth: float = 2.0,
        backoff: float = 0.5, interval: int = 2000,
    ) -> None:  # fmt: skip
        if not (math.isfinite(start) and start > 0):
            raise ValueError(f"loss_scale={start!r} scales nothing: use 'dynamic' or a number > 0")
        if not growth > 1.0:
            raise ValueError(f"growth_factor={growth} does not grow: use more than 1, such as 2")
        if not 0.0 < backoff < 1.0:
            raise ValueError(f"backoff_factor={backoff} is outside (0, 1): use 0.5")
        if interval != int(interval) or interval < 1:
            raise ValueError(f"growth_interval={interval} is no number of steps: use 1 and above")
        self.value = float(np.float32(start))
        self.dynamic, self.growth, self.backoff = dynamic, float(growth), float(backoff)
        self.interval, self.clean = int(interval), 0

    def update(self, overflow: bool) -> None:
        """Takes note of one step."""
        if not self.dynamic:
            return
        if overflow:
            self.value, self.clean = _single(self.value * self.backoff), 0
            return
        self.clean += 1
        if self.clean == self.interval:
            grown, self.clean = _single(self.value * self.growth), 0
            self.value = grown if math.isfinite(grown) else self.value

    def state_dict(self) -> dict[str, Any]:
        """Returns the state under the names that `torch.amp.GradScaler` uses."""
        return {
            "scale": self.value, "growth_factor": self.growth, "backoff_factor": self.backoff,
            "growth_interval": self.interval, "_growth_tracker": self.clean,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave, or what torch's scaler gave."""
        self.value, self.clean = float(state["scale"]), int(state["_growth_tracker"])
        self.growth, self.backoff = float(state["growth_factor"]), float(state["backoff_factor"])
        self.interval = int(state["growth_interval"])


def _single(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))
