"""From tokens to text that may be sent: whole characters, no beginning of a stop string.

A token may end in the middle of a character, and a stop string may lie across tokens. So text is
held back while it could still become a stop string: the longest end of it that is the beginning
of one. A token is sent with its scores when the place where its text begins has been sent.

Cost: O(stop strings x their length) a token.

Shapes: V vocabulary; offsets count characters of the text that is sent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Scored", "Writer", "score"]


@dataclasses.dataclass(slots=True)
class Scored:
    """A token with its scores, as it is told to a client.

    Attributes:
        id: The token.
        text: What it adds, or "bytes:\\xNN" if that is no whole character.
        raw: Its bytes.
        offset: Where its text begins.
        log_prob: Its log-probability under the model (None: the first token of a prompt).
        top: (id, log-probability) of the likeliest tokens, best first.
    """

    id: int
    text: str
    raw: bytes
    offset: int
    log_prob: float | None
    top: list[tuple[int, float]]


class Writer:
    """Text of one choice, token by token.

    Args:
        tokenizer: Its tokens.
        before: Tokens before the first one that is pushed; they decide about leading spaces.
        stops: Strings that end the text and are no part of it.
        lead: Text that is sent first, such as an echoed prompt.
    """

    def __init__(
        self, tokenizer: Any, before: Sequence[int], stops: Sequence[str] = (), lead: str = ""
    ) -> None:
        self._stream = tokenizer.stream()
        for token in before:
            self._stream.push(token)
        self._bytes = tokenizer.token_bytes
        self.stops = tuple(stops)
        self._held = ""
        self._ready = lead
        self._waiting: list[Scored] = []
        self._length = len(lead)
        self.stopped = False

    def push(self, token: int, log_prob: float | None = None, top: Any = None) -> None:
        """Takes the next token; `top` is None where no scores are wanted."""
        piece = self._stream.push(token)
        if top is not None:
            raw = bytes(self._bytes(token))
            entry = Scored(token, shown(raw, piece), raw, self._length, log_prob, top)
            self._waiting.append(entry)
        self._length += len(piece)
        self._held += piece
        if self.stops and piece:
            self._look_for_stop()
        if not self.stops:
            self._ready, self._held = self._ready + self._held, ""

    def finish(self) -> None:
        """Says that no token follows: nothing is held back any more."""
        if self.stopped:
            return
        self._ready += self._held + self._stream.flush()
        self._held = ""
        self._length = 1 << 62

    def take(self) -> tuple[str, list[Scored]]:
        """Returns what may be sent by now, once."""
        text, self._ready = self._ready, ""
        if not self._waiting:
            return text, []
        sent = self._length - len(self._held)
        count = 0
        while count < len(self._waiting) and self._waiting[count].offset < sent:
            count += 1
        entries, self._waiting = self._waiting[:count], self._waiting[count:]
        return text, entries

    def _look_for_stop(self) -> None:
        found = [at for stop in self.stops if (at := self._held.find(stop)) >= 0]
        if found:
            self._length += min(found) - len(self._held)
            self._ready += self._held[: min(found)]
            self._held, self.stopped = "", True
            return
        keep = max(_overlap(self._held, stop) for stop in self.stops)
        cut = len(self._held) - keep
        self._ready, self._held = self._ready + self._held[:cut], self._held[cut:]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that is a beginning of the stop string."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


def shown(raw: bytes, piece: str | None = None) -> str:
    r"""A token as text: its characters, or its bytes where they are not whole characters.

    Args:
        raw: Its bytes.
        piece: What it added to the text, if that is known: a text's first space may be missing.

    Example:
        >>> shown(b" caf"), shown(b" caf", "caf"), shown(b"\xc3")
        (' caf', 'caf', 'bytes:\\xc3')
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
    return piece if piece and text == " " + piece else text


def score(logits: np.ndarray, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Log-probability of a token and the likeliest ones.

    Args:
        logits: (V,) scores.
        token: The token.
        count: How many of the likeliest to list; ties go to the lower number.
    """
    top = float(logits.max())
    rest = np.log(np.exp(logits - top, dtype=np.float64).sum()) + top
    if count == 0:
        return float(logits[token] - rest), []
    least = np.partition(logits, -count)[-count]
    best = np.flatnonzero(logits >= least)
    best = best[np.lexsort((best, -logits[best]))][:count]
    return float(logits[token] - rest), [(int(i), float(logits[i] - rest)) for i in best]
