"""Answers in the form of OpenAI's API, whole or as pieces of a stream.

References:
    OpenAI API reference, "The completion object", "The chat completion object" and its chunk.

Shapes: none.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from paragone import __version__
from paragone.language._serve_choice import Job, Update
from paragone.language._serve_text import Scored, shown

__all__ = ["Asked", "Reply", "event"]


@dataclasses.dataclass(slots=True)
class Asked:
    """A job and what its answer looks like.

    Attributes:
        job: The job.
        kind: "completion" or "chat".
        model: Name of the model.
        count: Texts to return for each prompt, the likeliest if more are written.
        include_usage: Whether a stream ends with numbers of tokens.
    """

    job: Job
    kind: str
    model: str
    count: int
    include_usage: bool = False


@dataclasses.dataclass(slots=True)
class _Text:
    text: str = ""
    entries: list[Scored] = dataclasses.field(default_factory=list)
    last: Update | None = None
    begun: bool = False


class Reply:
    """Puts news together to an answer.

    Args:
        asked: What was asked.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._texts = [_Text() for _ in asked.job.choices]
        self._open = len(self._texts)
        chat = asked.kind == "chat"
        self._head = {
            "id": ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12),
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()), "model": asked.model,
            "system_fingerprint": f"paragone-{__version__}",
        }  # fmt: skip
        self._piece_head = dict(self._head, object="chat.completion.chunk") if chat else self._head

    @property
    def complete(self) -> bool:
        """Whether all texts have ended."""
        return self._open == 0

    def take(self, update: Update) -> None:
        """Takes news of a text that has not failed."""
        text = self._texts[update.index]
        text.text += update.text
        text.entries += update.entries
        text.last = update
        self._open -= update.finish is not None

    def whole(self) -> dict[str, Any]:
        """The answer, when all texts have ended."""
        choices, each, job = [], self.asked.count, self.asked.job
        for first in range(0, len(self._texts), job.each):
            group = self._texts[first : first + job.each]
            if job.each > each:
                group = sorted(group, key=lambda t: -t.last.rank if t.last else 0.0)[:each]
            choices += [self._choice(len(choices) + i, text) for i, text in enumerate(group)]
        return {**self._head, "choices": choices, "usage": self._usage()}

    def pieces(self, update: Update) -> Iterator[bytes]:
        """Events of a stream for news that were just taken."""
        text, chat = self._texts[update.index], self.asked.kind == "chat"
        if chat and not text.begun:
            text.begun = True
            yield self._piece(update.index, {"delta": {"role": "assistant", "content": ""}})
        if update.text or update.entries or (update.finish and not chat):
            body: dict[str, Any] = {"text": update.text}
            if chat:
                body = {"delta": {"content": update.text}}
            yield self._piece(
                update.index, body, update.entries, None if chat else update.finish
            )  # fmt: skip
        if chat and update.finish:
            yield self._piece(update.index, {"delta": {}}, finish=update.finish)

    def last_pieces(self) -> Iterator[bytes]:
        """Events that end a stream."""
        if self.asked.include_usage:
            yield event({**self._piece_head, "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _piece(
        self, index: int, body: dict[str, Any], entries: Sequence[Scored] = (),
        finish: str | None = None,
    ) -> bytes:  # fmt: skip
        choice = {"index": index, **body, "logprobs": self._scores(entries) if entries else None,
                  "finish_reason": finish}  # fmt: skip
        piece = {**self._piece_head, "choices": [choice]}
        if self.asked.include_usage:
            piece["usage"] = None
        return event(piece)

    def _choice(self, index: int, text: _Text) -> dict[str, Any]:
        assert text.last is not None
        wanted = self.asked.job.wishes.scores is not None
        end = {"logprobs": self._scores(text.entries) if wanted else None,
               "finish_reason": text.last.finish}  # fmt: skip
        if self.asked.kind == "completion":
            return {"index": index, "text": text.text, **end}
        message = {"role": "assistant", "content": text.text, "refusal": None}
        return {"index": index, "message": message, **end}

    def _usage(self) -> dict[str, Any]:
        last = [text.last for text in self._texts if text.last is not None]
        prompt, written = self.asked.job.prompt_tokens, sum(update.tokens for update in last)
        # The texts of a prompt share it: what the first of them met counts.
        cached = sum(update.cached for update in last if update.index % self.asked.job.each == 0)
        return {
            "prompt_tokens": prompt, "completion_tokens": written,
            "total_tokens": prompt + written, "prompt_tokens_details": {"cached_tokens": cached},
        }  # fmt: skip

    def _scores(self, entries: Sequence[Scored]) -> dict[str, Any]:
        raw = self.asked.job.tokenizer.token_bytes
        if self.asked.kind == "chat":
            return {"content": [_chat_entry(entry, raw) for entry in entries], "refusal": None}
        return {
            "tokens": [entry.text for entry in entries],
            "token_logprobs": [entry.log_prob for entry in entries],
            "top_logprobs": [_by_text(entry, raw) for entry in entries],
            "text_offset": [entry.offset for entry in entries],
        }


def event(body: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _by_text(entry: Scored, raw: Any) -> dict[str, float] | None:
    """The likeliest tokens by their text, the one that was taken included."""
    if entry.log_prob is None:
        return None
    found: dict[str, float] = {}
    for token, log_prob in [*entry.top, (entry.id, entry.log_prob)]:
        text = entry.text if token == entry.id else shown(bytes(raw(token)))
        found[text] = max(log_prob, found.get(text, log_prob))
    return found


def _chat_entry(entry: Scored, raw: Any) -> dict[str, Any]:
    def told(text: str, data: bytes, log_prob: float | None) -> dict[str, Any]:
        return {"token": text, "logprob": log_prob, "bytes": list(data)}

    top = [
        told(entry.text if token == entry.id else shown(bytes(raw(token))), bytes(raw(token)), p)
        for token, p in entry.top
    ]
    return {**told(entry.text, entry.raw, entry.log_prob), "top_logprobs": top}
