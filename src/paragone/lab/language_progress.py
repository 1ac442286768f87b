"""How a run of `paragone.language` goes, in a line: loss, tokens a second, time left."""

from __future__ import annotations

import math
from typing import Any

from paragone.lab import format as fmt
from paragone.lab.live_line import JobLine

__all__ = ["LanguageProgress", "described"]


FEW_STEPS = 10
"""A run that ends before this many steps has learned next to nothing."""


class LanguageProgress(JobLine):
    """Shows a run; give it as `progress` and use it as a context."""

    before = "reading model and text"

    def described(self, event: Any) -> str:
        """One event of `paragone.language.fitting` as a line."""
        return described(event)


def described(event: Any) -> str:
    """One event as a line."""
    if event.kind == "note":
        return event.text
    if event.kind == "end":
        told = f"done in {fmt.seconds(event.seconds)}"
        if event.step < min(event.steps, FEW_STEPS):
            told += f", after {event.step} of at most {event.steps} steps: little was learned"
        return told
    parts = [f"step {event.step}/{event.steps}"]
    if not math.isnan(event.loss):
        parts.append(f"loss {event.loss:.3f}")
    parts += [f"{name.replace('_', ' ')} {value:.3f}" for name, value in event.metrics.items()]
    if not math.isnan(event.tokens_per_second):
        parts.append(f"{event.tokens_per_second:,.0f} tokens/s")
    if event.left is not None and event.kind == "step":
        parts.append(f"ETA {fmt.seconds(round(event.left))}")
    return "  ".join(parts)
