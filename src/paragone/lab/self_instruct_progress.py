"""How a self-instruct run shows on a terminal: rows, requests, cost and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from paragone.lab import format as fmt
from paragone.lab.live_line import LiveLine
from paragone.language.self_instruct import Asked

__all__ = ["InstructProgress", "described"]


def described(event: Asked) -> str:
    """One event as a line.

    Example:
        >>> described(Asked(requests=2, rows=12, count=30, cost=None, seconds=4.0, left=6.0))
        '12/30 rows  2 requests  ETA 6.0 s'
    """
    parts = [f"{event.rows}/{event.count} rows", f"{event.requests} requests"]
    if event.cost is not None:
        parts.append(f"cost {event.cost:.4f}")
    if event.left:
        parts.append(f"ETA {fmt.seconds(round(event.left))}")
    return "  ".join(parts)


class InstructProgress(LiveLine):
    """Shows a run; give it as `progress` and use it as a context.

    Args:
        console: Where to show; None: standard error.
        clock: Seconds that only grow.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(console, clock)
        self._line = Text("asking the teacher")

    def line(self) -> Text:
        return self._line

    def __call__(self, event: Asked) -> None:
        """Takes one event."""
        words = described(event)
        self._line = self.bar(min(event.rows / max(event.count, 1), 1.0)).append(f"  {words}")
        if not self.live and self.due():
            self.say(Text(words))
