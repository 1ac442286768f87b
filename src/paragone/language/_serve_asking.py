"""What a client asks for, read from the fields of OpenAI's API and checked one by one.

A field that is not known, or whose wish cannot be met, is refused with its name: nobody gets less
than what was asked for without being told. A few fields that only concern the bookkeeping of a
provider are taken and not used.

References:
    OpenAI API reference, "Create completion" and "Create chat completion" (names and limits).

Shapes: V vocabulary.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import Any

from paragone.language._serve_choice import Failure, Wishes
from paragone.language.sampling import Sampling

__all__ = ["MOST_SCORES", "Fields", "wishes"]

MOST_SCORES = 20
_MOST_STOPS = 16
_UNUSED = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "parallel_tool_calls",
}  # fmt: skip
_COMMON = {
    "model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "n", "stop", "seed",
    "presence_penalty", "frequency_penalty", "logit_bias", "logprobs",
    "top_k", "min_p", "typical_p", "repetition_penalty", "stop_token_ids", "ignore_eos",
}  # fmt: skip
_OWN = {
    "completion": {"prompt", "best_of", "echo", "suffix"},
    "chat": {
        "messages",
        "max_completion_tokens",
        "top_logprobs",
        "tools",
        "tool_choice",
        "response_format",
        "functions",
        "function_call",
        "modalities",
        "audio",
        "reasoning_effort",
        "verbosity",
        "prediction",
        "web_search_options",
    },
}
_IMPOSSIBLE: dict[str, tuple[tuple[Any, ...], str]] = {
    "suffix": (("",), "text cannot be inserted; the models here only continue"),
    "functions": (([],), "use tools"),
    "function_call": (("none", "auto"), "use tools"),
    "response_format": (({"type": "text"},), "only text can be written"),
    "modalities": ((["text"],), "only text can be written"),
    "audio": ((), "only text can be written"),
    "tool_choice": (("none", "auto"), "the model cannot be made to call a tool"),
    "reasoning_effort": (("none",), "the model writes as it was trained to"),
    "verbosity": (("medium",), "the model writes as it was trained to"),
    "prediction": ((), "no text is predicted"),
    "web_search_options": ((), "nothing is searched"),
}
"""Fields whose wish can be met only if the value is one of a few."""


class Fields:
    """The object that a client sent.

    Args:
        body: The object.
        kind: "completion" or "chat".

    Raises:
        Failure: It is no object, or has fields that cannot be met.
    """

    def __init__(self, body: Any, kind: str) -> None:
        if not isinstance(body, dict):
            raise Failure(f"a JSON object is expected, not {type(body).__name__}")
        self.body = {name: value for name, value in body.items() if value is not None}
        for name in self.body:
            if name not in _COMMON | _OWN[kind] | _UNUSED:
                raise Failure(f"unknown field {name!r}", param=name, code="unknown_parameter")
        for name, (allowed, words) in _IMPOSSIBLE.items():
            if name in self.body and self.body[name] not in allowed:
                raise Failure(
                    f"{name}={_short(self.body[name])} cannot be met: {words}", param=name,
                    code="unsupported_value",
                )  # fmt: skip

    def number(self, name: str, default: float | None, low: float, high: float) -> float | None:
        """A finite number between two."""
        value = self.body.get(name, default)
        if value is None:
            return None
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or not low <= value <= high:
            raise _wrong(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def integer(self, name: str, default: int | None, low: int, high: int) -> int | None:
        """A whole number between two."""
        value = self.body.get(name, default)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _wrong(name, value, f"a whole number from {low} to {high}")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.body.get(name, False)
        if not isinstance(value, bool):
            raise _wrong(name, value, "true or false")
        return value

    def strings(self, name: str, most: int) -> tuple[str, ...]:
        """A string or some, none of them empty."""
        value = self.body.get(name, [])
        value = [value] if isinstance(value, str) else value
        good = isinstance(value, list) and all(isinstance(one, str) and one for one in value)
        if not good or len(value) > most:
            raise _wrong(name, value, f"a string that is not empty, or up to {most} of them")
        return tuple(value)

    def ids(self, name: str, vocabulary: int) -> list[int]:
        """A list of tokens."""
        value = self.body.get(name, [])
        if not isinstance(value, list) or not all(is_token(one, vocabulary) for one in value):
            raise _wrong(name, value, f"a list of tokens from 0 to {vocabulary - 1}")
        return value

    def bias(self, name: str, vocabulary: int) -> dict[int, float] | None:
        """Tokens, as JSON writes them in an object's names, to numbers from -100 to 100."""
        value = self.body.get(name)
        if not value:
            return None
        wanted = f"an object of tokens from 0 to {vocabulary - 1} to numbers from -100 to 100"
        if not isinstance(value, dict):
            raise _wrong(name, value, wanted)
        found = {}
        for key, more in value.items():
            number = isinstance(more, int | float) and not isinstance(more, bool)
            token = int(key) if key.isascii() and key.isdigit() and len(key) < 12 else -1
            if not number or not -100 <= more <= 100 or not is_token(token, vocabulary):
                raise _wrong(name, {key: more}, wanted)
            found[token] = float(more)
        return found

    def include_usage(self) -> bool:
        """Whether a stream ends with the number of its tokens."""
        options = self.body.get("stream_options", {})
        if not isinstance(options, dict) or set(options) - {"include_usage", "include_obfuscation"}:
            raise _wrong("stream_options", options, '{"include_usage": true or false}')
        if options and not self.flag("stream"):
            raise _wrong("stream_options", options, "nothing where stream is not true")
        value = options.get("include_usage", False)
        if not isinstance(value, bool):
            raise _wrong("stream_options", options, '{"include_usage": true or false}')
        return value


def wishes(fields: Fields, kind: str, vocabulary: int, ends: frozenset[int], most: int) -> Wishes:
    """How texts are to be written, from the fields that both kinds share.

    Args:
        fields: What was sent.
        kind: "completion" or "chat".
        vocabulary: Tokens V.
        ends: Tokens that end a text.
        most: Most texts for a prompt.

    Raises:
        Failure: A value that cannot be met.
    """
    count = fields.integer("n", 1, 1, most) or 1
    echo = kind == "completion" and fields.flag("echo")
    length = fields.integer("max_tokens", 16 if kind == "completion" else None, 0, 1 << 30)
    written = count
    if kind == "chat":
        length = fields.integer("max_completion_tokens", length, 0, 1 << 30)
        scores = _chat_scores(fields)
    else:
        scores = fields.integer("logprobs", None, 0, MOST_SCORES)
        written = fields.integer("best_of", count, count, most) or count
    if length == 0 and not echo:
        raise _wrong("max_tokens", 0, "at least 1 (0 only with echo, to score a prompt)")
    options: dict[str, Any] = {
        "temperature": fields.number("temperature", 1.0, 0, 2),
        "top_p": fields.number("top_p", None, 0, 1),
        "top_k": fields.integer("top_k", None, -1, 1 << 30),
        "min_p": fields.number("min_p", None, 0, 1),
        "typical_p": fields.number("typical_p", None, 0, 1),
        "repetition_penalty": fields.number("repetition_penalty", 1.0, 1e-3, 1e3),
        "presence_penalty": fields.number("presence_penalty", 0.0, -2, 2),
        "frequency_penalty": fields.number("frequency_penalty", 0.0, -2, 2),
        "logit_bias": fields.bias("logit_bias", vocabulary),
    }
    if options["top_k"] == -1:
        options["top_k"] = None
    remembers = options["repetition_penalty"] != 1 or any(
        options[name] for name in ("presence_penalty", "frequency_penalty")
    )
    seed = fields.integer("seed", None, -(1 << 63), (1 << 64) - 1)
    ends = frozenset() if fields.flag("ignore_eos") else ends
    return Wishes(
        length,
        _samplings(options, seed, written),
        greedy=options["temperature"] == 0 and not remembers and not options["logit_bias"],
        remembers=remembers,
        stops=fields.strings("stop", _MOST_STOPS),
        stop_ids=ends | frozenset(fields.ids("stop_token_ids", vocabulary)),
        scores=scores,
        echo=echo,
        rank=written > count,
    )


def _chat_scores(fields: Fields) -> int | None:
    wanted = fields.flag("logprobs")
    top = fields.integer("top_logprobs", None, 0, MOST_SCORES)
    if top is not None and not wanted:
        raise _wrong("top_logprobs", top, "nothing where logprobs is not true")
    return (top or 0) if wanted else None


def _samplings(options: Mapping[str, Any], seed: int | None, count: int) -> list[Sampling]:
    """One for each text of a prompt; the first has the seed itself."""
    first = secrets.randbits(63) if seed is None else seed
    step = 0x9E3779B97F4A7C15
    try:
        return [Sampling(**options, seed=(first + i * step) % (1 << 63)) for i in range(count)]
    except ValueError as error:
        raise Failure(str(error)) from error


def is_token(value: Any, vocabulary: int) -> bool:
    """Whether a value is a token of the vocabulary."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocabulary


def _wrong(name: str, value: Any, wanted: str) -> Failure:
    return Failure(
        f"{name}={_short(value)}: {wanted} is expected", param=name, code="invalid_value"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
