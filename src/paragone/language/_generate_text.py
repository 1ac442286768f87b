"""Text out of tokens as they come: what may begin a stop string is held back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["StopText"]


class StopText:
    """Grows a text token by token, until one of the stop strings is in it.

    Args:
        tokenizer: Gives `stream()`; None: there is no text.
        stops: Strings that end the text, and are not part of it.

    Attributes:
        text: What is certain so far.
        stopped: Whether a stop string has come.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()):
        if any(not stop for stop in stops):
            raise ValueError("stop has an empty string; leave it out")
        if stops and tokenizer is None:
            raise ValueError("stop strings need a tokenizer; give one, or stop at token ids")
        self.stops = tuple(stops)
        self.text, self.stopped = "", False
        self._stream = None if tokenizer is None else tokenizer.stream()
        self._held = ""

    def push(self, token: int) -> str:
        """Takes a token; returns what has become certain."""
        return "" if self._stream is None else self._grow(self._stream.push(token))

    def flush(self) -> str:
        """Ends the text; returns the rest of it."""
        more = "" if self._stream is None else self._grow(self._stream.flush())
        if self.stopped:
            return more
        rest, self._held = self._held, ""
        self.text += rest
        return more + rest

    def _grow(self, piece: str) -> str:
        if self.stopped:
            return ""
        held = self._held + piece
        found = [at for at in (held.find(stop) for stop in self.stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            certain = held[: min(found)]
        else:
            keep = max((_overlap(held, stop) for stop in self.stops), default=0)
            certain, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.text += certain
        return certain


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that a stop string begins with."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)
