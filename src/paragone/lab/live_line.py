"""A line at the bottom of a terminal; plain lines with the time of day anywhere else.

On a terminal the line is redrawn twice a second (more would cost the clocks that are being read),
and what is said scrolls past above it. Elsewhere a log file stays a log file: no carriage
returns, no escape codes, and what can wait comes at most every ten seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

__all__ = ["JobLine", "LiveLine"]

_EVERY = 10.0
_BAR = 24


class LiveLine:
    """Base of what shows progress; subclasses write `line`, and use it as a context.

    Args:
        console: Where to show; None: standard error, so that a pipe of results stays clean.
        clock: Seconds that only grow; a test may give its own.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._clock, self._told = clock, -_EVERY
        self._live: Live | None = None

    def line(self) -> Text:
        """The line at the bottom, as of now."""
        raise NotImplementedError

    @property
    def live(self) -> bool:
        """Whether there is a line at the bottom."""
        return self._live is not None

    def due(self) -> bool:
        """Whether the last plain line is long enough ago."""
        return self._clock() - self._told >= _EVERY

    def say(self, words: Text) -> None:
        """Prints a line of its own."""
        if self._live is not None:
            self.console.print(words)
            return
        self._told = self._clock()
        stamp = datetime.now().astimezone().strftime("%H:%M:%S")
        self.console.print(Text(f"{stamp}  {words}"), soft_wrap=True)

    def redraw(self) -> None:
        """Brings the line at the bottom up to date."""
        if self._live is not None:
            self._live.refresh()

    @staticmethod
    def bar(share: float) -> Text:
        """A bar that is full at 1."""
        full = round(_BAR * min(max(share, 0.0), 1.0))
        line = Text(no_wrap=True, overflow="ellipsis")
        return line.append("━" * full, style="green").append(
            "━" * (_BAR - full), style="bright_black"
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                console=self.console, get_renderable=self.line, refresh_per_second=2,
                transient=True,
            )  # fmt: skip
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._live is not None:
            self._live.stop()
            self._live = None


class JobLine(LiveLine):
    """Base of what shows one run: a bar and the last event; elsewhere a line now and then.

    Subclasses say what stands there `before` the first event, and write `described`.

    Args:
        console: Where to show; None: standard error.
        clock: Seconds that only grow.
    """

    before = ""

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(console, clock)
        self._line = Text(self.before)

    def line(self) -> Text:
        return self._line

    def described(self, event: Any) -> str:
        """One event as a line."""
        raise NotImplementedError

    def share(self, event: Any) -> float | None:
        """How full the bar is; None for an event that is told in a line of its own."""
        return event.done if event.kind == "step" else None

    def __call__(self, event: Any) -> None:
        """Takes one event."""
        words, share = self.described(event), self.share(event)
        if share is not None:
            self._line = self.bar(share).append(f"  {words}")
            if self.live or not self.due():
                return
        self.say(Text(words))
