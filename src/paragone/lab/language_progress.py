"""How a run of `paragone.language` goes, in a line: loss, tokens a second, time left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.text import Text

from paragone.lab import format as fmt
from paragone.lab.live_line import LiveLine

__all__ = ["LanguageProgress", "described"]


class LanguageProgress(LiveLine):
    """Shows a run; give it as `progress` and use it as a context.

    Args:
        console: Where to show; None: standard error.
        clock: Seconds that only grow.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(console, clock)
        self._line = Text("reading model and text")

    def line(self) -> Text:
        return self._line

    def __call__(self, event: Any) -> None:
        """Takes one event of `paragone.language.fitting`."""
        words = described(event)
        if event.kind == "step":
            self._line = self.bar(event.done).append(f"  {words}")
            if self.live or not self.due():
                return
        self.say(Text(words))


def described(event: Any) -> str:
    """One event as a line."""
    if event.kind == "note":
        return event.text
    if event.kind == "end":
        return f"done in {fmt.seconds(event.seconds)}"
    parts = [f"step {event.step}/{event.steps}"]
    if not math.isnan(event.loss):
        parts.append(f"loss {event.loss:.3f}")
    parts += [f"{name.replace('_', ' ')} {value:.3f}" for name, value in event.metrics.items()]
    if not math.isnan(event.tokens_per_second):
        parts.append(f"{event.tokens_per_second:,.0f} tokens/s")
    if event.left is not None and event.kind == "step":
        parts.append(f"ETA {fmt.seconds(round(event.left))}")
    return "  ".join(parts)
