r"""Teachers: an endpoint of the OpenAI API, a local model, or any function of a prompt.

A request that fails for a passing reason (429, 5xx, no connection, an answer that is no JSON) is
sent again after

$$ \min(60, 2^{a}) \, (1 + u / 4) \ \text{seconds}, \quad u \in [0, 1], $$

or after what the server asks for; one that fails for good (a wrong key, an unknown model) is not.
A prompt that leaves too little room is sent again with a shorter longest answer.

References:
    OpenAI API reference: "Create chat completion", "Create completion", "Error codes".
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

__all__ = ["Ask", "Endpoint", "LocalTeacher", "Reply", "Teacher", "TeacherError", "as_teacher"]


class TeacherError(RuntimeError):
    """The teacher did not answer; `passing` tells whether asking again may help.

    Args:
        message: What happened.
        passing: Whether it may pass.
        wait: Seconds that the server asks for, if it does.
    """

    def __init__(self, message: str, passing: bool = False, wait: float | None = None) -> None:
        super().__init__(message)
        self.passing, self.wait = passing, wait


@dataclasses.dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        prompt: The text.
        max_tokens: Longest answer.
        temperature: Of the draws.
        top_p: Share of the probability that is drawn from.
        stop: Texts that end an answer.
        seed: Of the draws, where the teacher takes one.
    """

    prompt: str
    max_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        text: What was written.
        finish_reason: "stop" or "length".
        prompt_tokens: Tokens read; None: not told.
        completion_tokens: Tokens written; None: not told.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Teacher(Protocol):
    """What answers."""

    name: str

    def ask(self, ask: Ask) -> Reply: ...


class Endpoint:
    """A server that speaks the OpenAI API.

    Args:
        url: Its base, such as http://127.0.0.1:8000/v1.
        model: The model's name there.
        api_key: The key; None: that of the environment variable OPENAI_API_KEY, if it is set.
        chat: Whether to ask as a chat; False: as a completion.
        timeout: Seconds to wait for an answer.
        retries: How often a request that failed in passing is sent again.
        sleep: What waits; a test gives its own.

    Raises:
        ValueError: A URL that is not http or https.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        chat: bool = True,
        timeout: float = 300.0,
        retries: int = 6,
        sleep: Callable[[float], Any] = time.sleep,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url={url!r}: expected one that begins with http:// or https://")
        self.url, self.model, self.chat = url.rstrip("/"), model, chat
        self.name = f"{model} at {self.url}"
        self.timeout, self.retries, self._sleep = timeout, retries, sleep
        self._key = os.environ.get("OPENAI_API_KEY") if api_key is None else api_key

    def ask(self, ask: Ask) -> Reply:
        """Sends a request, again where that may help.

        Raises:
            TeacherError: It failed for good, or too often.
        """
        rng, attempt, limit = np.random.default_rng(ask.seed), 0, ask.max_tokens
        while True:
            try:
                return self._once(dataclasses.replace(ask, max_tokens=limit))
            except TeacherError as error:
                if _is_too_long(error) and limit > 128:
                    limit = max(limit * 4 // 5, 128)
                    continue
                if not error.passing or attempt >= self.retries:
                    raise
                wait = min(60.0, 2.0**attempt) * (1 + rng.random() / 4)
                self._sleep(wait if error.wait is None else min(error.wait, 300.0))
                attempt += 1

    def _once(self, ask: Ask) -> Reply:
        body: dict[str, Any] = {
            "model": self.model, "max_tokens": ask.max_tokens, "temperature": ask.temperature,
            "top_p": ask.top_p, "seed": ask.seed,
        }  # fmt: skip
        if ask.stop:
            body["stop"] = list(ask.stop)
        if self.chat:
            body["messages"] = [{"role": "user", "content": ask.prompt}]
        else:
            body["prompt"] = ask.prompt
        data = self._post("/chat/completions" if self.chat else "/completions", body)
        try:
            choice = data["choices"][0]
            text = choice["message"]["content"] if self.chat else choice["text"]
            usage = data.get("usage") or {}
            return Reply(
                text or "", choice.get("finish_reason") or "stop", usage.get("prompt_tokens"),
                usage.get("completion_tokens"),
            )  # fmt: skip
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise TeacherError(
                f"{self.name}: expected choices in the answer, got {str(data)[:200]}", True
            ) from error

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")[:500]
            raise TeacherError(
                f"{self.name}: {error.code} {text}",
                error.code in (408, 409, 425, 429) or error.code >= 500,
                _seconds(error.headers.get("Retry-After")),
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TeacherError(f"{self.name}: {error or type(error).__name__}", True) from error


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(float(text), 0.0)
    except ValueError:
        return None


def _is_too_long(error: TeacherError) -> bool:
    words = str(error).lower()
    told = ("context length", "context_length", "max_tokens", "reduce")
    return " 400 " in words and any(word in words for word in told)


class LocalTeacher:
    """A model of ours.

    Args:
        model: A `Llama` or an `Engine`.
        tokenizer: Its tokenizer.
        chat: Whether to ask through the tokenizer's chat template, where there is one.
    """

    def __init__(self, model: Any, tokenizer: Any, *, chat: bool = True) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.chat = chat and tokenizer.chat_template is not None
        self.name = "a local model"

    def ask(self, ask: Ask) -> Reply:
        """Generates an answer."""
        from paragone.language.generate import generate

        text = ask.prompt
        if self.chat:
            text = self.tokenizer.chat_template.render([{"role": "user", "content": text}], True)
        ids = self.tokenizer.encode(text)
        made = generate(
            self.model, self.tokenizer, ids, max_new_tokens=ask.max_tokens,
            temperature=ask.temperature, top_p=ask.top_p, seed=ask.seed, stop=ask.stop,
        )  # fmt: skip
        return Reply(str(made), made.finish_reason, len(ids), len(made.tokens))


class _Function:
    def __init__(self, call: Callable[[str], Any], name: str) -> None:
        self.call, self.name = call, name

    def ask(self, ask: Ask) -> Reply:
        found = self.call(ask.prompt)
        return found if isinstance(found, Reply) else Reply(str(found))


def as_teacher(teacher: Any) -> Teacher:
    """What answers: an `Endpoint`, (model, tokenizer), or a function of the prompt.

    Raises:
        ValueError: Something else.
    """
    if hasattr(teacher, "ask"):
        return teacher
    if isinstance(teacher, Sequence) and not isinstance(teacher, str) and len(teacher) == 2:
        return LocalTeacher(*teacher)
    if callable(teacher):
        return _Function(teacher, getattr(teacher, "__name__", "a function"))
    raise ValueError(
        f"teacher={teacher!r}: expected an Endpoint(url, model), a pair (model, tokenizer), or a "
        "function that takes a prompt and returns a text"
    )
