"""Live progress of a study: who runs now, for how long, how much is done, how long it will take.

On a terminal failures scroll past above the line; elsewhere they are told at once, and what goes
well at most every ten seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.text import Text

from paragone.lab import format as fmt
from paragone.lab.live_line import LiveLine
from paragone.lab.protocol import Event

__all__ = ["Progress"]

_ENDS = {
    "settled": "every verdict is settled", "most": "all planned blocks ran",
    "budget": "the budget is spent", "interrupted": "interrupted; the same command continues",
}  # fmt: skip


class Progress(LiveLine):
    """Shows events; give it as `on_event` and use it as a context.

    Args:
        console: Where to show; None: standard error, so that a pipe of results stays clean.
        titles: Contestant id to the name that people know.
        clock: Seconds that only grow; a test may give its own.

    Example:
        >>> with Progress(Console(quiet=True)) as progress:
        ...     progress(Event(kind="start", contestant="gbdt", planned=4))
    """

    def __init__(
        self,
        console: Console | None = None,
        titles: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__(console, clock)
        self._titles = titles or {}
        self._event = Event(kind="study")
        self._running: dict[tuple[str, str, int], float] = {}
        self._begun = self._at = clock()

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        now = self._clock()
        self._event, self._at = event, now
        key = (event.contestant, event.workload, event.block)
        if event.kind == "start":
            self._running[key] = now
        else:
            self._running.pop(key, None)
        if event.kind == "end":
            self._running.clear()
        urgent = event.kind in {"study", "end"} or event.status not in {"", "ok"}
        # On a terminal the line itself shows what goes well.
        if (urgent and event.kind != "study") if self.live else (urgent or self.due()):
            self.say(self._words(event))
        self.redraw()

    def _name(self, contestant: str) -> str:
        base = contestant.removesuffix("~2")
        name = self._titles.get(base, base)
        return f"{name} (duplicate)" if contestant != base else name

    def _words(self, event: Event) -> Text:
        """One event as a line."""
        share = f"{event.done}/{event.planned}" if event.planned else str(event.done)
        block = f", block {event.block}" if event.block >= 0 else ""
        place = f"{self._name(event.contestant)} on {event.workload}{block}"
        eta = f"  ETA {fmt.seconds(event.eta)}" if event.eta is not None else ""
        if event.kind == "study":
            return Text(f"{share} runs done, {event.planned - event.done} to do{eta}")
        if event.kind == "end":
            end = _ENDS.get(event.status, event.status)
            return Text(f"{share} runs done in {fmt.seconds(event.elapsed)}: {end}")
        if event.kind == "start":
            return Text(f"{share}  {place}{eta}")
        status = "" if event.status == "ok" else f"  {event.status}: {event.message}".rstrip(": ")
        style = "" if event.status == "ok" else "yellow"
        return Text(f"{share}  {place}  {fmt.seconds(event.elapsed)}{status}{eta}", style=style)

    def line(self) -> Text:
        now, event = self._clock(), self._event
        share = event.done / event.planned if event.planned else 0.0
        line = self.bar(share)
        line.append(f" {event.done}/{event.planned or '?'}")
        if event.eta is not None:
            left = max(0.0, event.eta - (now - self._at))
            line.append(f"  ETA {_clock(left)}", style="cyan")
        else:
            line.append(f"  {_clock(now - self._begun)}", style="cyan")
        if not event.planned:
            line.append("  reading the data")
        running = list(self._running.items())
        if running:
            (contestant, workload, block), since = running[0]
            line.append(f"  {self._name(contestant)}", style="bold")
            where = f", block {block}" if block >= 0 else ""
            line.append(f" on {workload}{where}, {_clock(now - since)}")
        if len(running) > 1:
            line.append(f" and {len(running) - 1} more")
        return line


def _clock(seconds: float) -> str:
    """Whole seconds: a running clock with decimals cannot be read."""
    return f"{seconds:.0f} s" if seconds < 99.5 else fmt.seconds(round(seconds))
