"""Live progress of a tour: one bar and one ETA over all studies, and who runs now."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from paragone.lab import format as fmt
from paragone.lab.live_line import LiveLine
from paragone.lab.tour import TourEvent

__all__ = ["TourProgress"]


class TourProgress(LiveLine):
    """Shows a tour's events; give it as `progress` and use it as a context.

    Args:
        console: Where to show; None: standard error.
        clock: Seconds that only grow; a test may give its own.

    Example:
        >>> with TourProgress(Console(quiet=True)) as progress:
        ...     progress(TourEvent(kind="study", study="ensembles", count=21))
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic):
        super().__init__(console, clock)
        self._event = TourEvent(kind="tour")
        self._at = clock()

    def __call__(self, event: TourEvent) -> None:
        """Takes one event."""
        self._event, self._at = event, self._clock()
        if event.kind == "run":
            if not self.live and self.due():
                self.say(Text(f"{self._head()}  {self._inner()}"))
        elif event.kind != "end":
            style = {"failed": "yellow", "study": "bold"}.get(event.kind, "")
            self.say(Text(self._words(event), style=style))
        self.redraw()

    def _head(self) -> str:
        event = self._event
        eta = f"  ETA {_clock(event.eta)}" if event.eta is not None else ""
        return f"{event.number}/{event.count} studies{eta}"

    def _words(self, event: TourEvent) -> str:
        """What begins or ends, in a line."""
        message = event.message.splitlines()[0] if event.message else ""
        if event.kind == "study":
            return f"{self._head()}  {event.study}: {message}"
        if event.kind == "tour":
            return self._head()
        took = {
            "done": _clock(event.elapsed), "kept": "done before",
            "failed": "failed, the tour goes on",
        }[event.kind]  # fmt: skip
        return f"{self._head()}  {event.study}: {took}. {message}"

    def _inner(self) -> str:
        """What the study does that runs now."""
        inner = self._event.event
        if inner is None or inner.kind == "end":
            return f"{self._event.study}: pictures and report"
        done = f"{inner.done}/{inner.planned or '?'} runs"
        who = f", {inner.contestant} on {inner.workload}" if inner.contestant else ""
        return f"{self._event.study}: {done}{who}"

    def line(self) -> Text:
        event = self._event
        line = self.bar(event.share).append(f" {event.number}/{event.count or '?'}")
        if event.eta is not None:
            left = max(0.0, event.eta - (self._clock() - self._at))
            line.append(f"  ETA {_clock(left)}", style="cyan")
        if event.kind == "run":
            line.append(f"  {self._inner()}")
        elif event.kind == "study":
            line.append(f"  {event.study}: reading the data")
        return line


def _clock(seconds: float) -> str:
    """Whole seconds: a running clock with decimals cannot be read."""
    return f"{seconds:.0f} s" if seconds < 99.5 else fmt.seconds(round(seconds))
