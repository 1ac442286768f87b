"""How an agent's training shows on a terminal: stage, what it comes to, time used and left."""

from __future__ import annotations

import math
from typing import Any

from paragone.lab import format as fmt
from paragone.lab.live_line import JobLine

__all__ = ["AgentTrainProgress", "described"]

_NAMES = {
    "collect": "demonstrations", "imitate": "imitation", "mistakes": "mistakes",
    "bootstrap": "bootstrapping", "again": "imitation with mistakes", "prefer": "preference",
    "check": "check",
}  # fmt: skip
_SHARES = ("success", "mistakes", "accuracy", "right", "pointed")


def described(event: Any) -> str:
    """One event as a line.

    Example:
        >>> from paragone.multimodal.agent.train_agent import AgentTraining
        >>> described(AgentTraining("stage", "imitate", 2, 7, seconds=360.0, left=1440.0))
        '2/7 imitation  360 s of 30 min'
    """
    if event.kind == "note":
        return event.text
    if event.kind == "end":
        return f"done in {fmt.seconds(event.seconds)}"
    whole = event.seconds + event.left
    parts = [f"{event.number}/{event.count} {_NAMES.get(event.stage, event.stage)}"]
    parts += [event.text] if event.text else []
    for name, value in event.metrics.items():
        if name in _SHARES and math.isfinite(value):
            parts.append(f"{name} {value:.0%}")
        elif name in ("loss", "margin") and math.isfinite(value):
            parts.append(f"{name} {value:.3f}")
    parts.append(f"{fmt.seconds(round(event.seconds))} of {fmt.seconds(round(whole))}")
    if event.kind == "step":
        parts.append(f"ETA {fmt.seconds(round(event.left))}")
    return "  ".join(parts)


class AgentTrainProgress(JobLine):
    """Shows a training; give it as `progress` and use it as a context."""

    before = "opening tasks"

    def described(self, event: Any) -> str:
        """One event as a line."""
        return described(event)
