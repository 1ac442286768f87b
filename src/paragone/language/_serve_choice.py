"""One request, and each of the texts that it asks for.

A `Job` is what a client asked; a `Choice` is one text of it, a sequence of tokens of which `past`
stand in pages. Whatever is between (a prompt that is half read, a sequence that gave its pages
away and is read again, a text that is being written) is the same: `len(ids) - past` tokens have to
be read, and after the last of them the next token is drawn.

Shapes: V vocabulary.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from paragone.language._serve_pages import Table
from paragone.language._serve_text import Scored, Writer, score

__all__ = ["Choice", "Failure", "Job", "Update", "Wishes"]

_NUMBERS = itertools.count()


class Failure(Exception):  # noqa: N818
    """A refusal with its words for the client.

    Args:
        message: What is wrong and what would be right.
        status: HTTP status.
        kind: OpenAI's type of the error.
        param: The field that is wrong.
        code: OpenAI's code of the error.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.kind, self.param, self.code = (
            message, status, kind, param, code,
        )  # fmt: skip

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's form."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param,
                          "code": self.code}}  # fmt: skip


@dataclasses.dataclass(slots=True)
class Wishes:
    """How all texts of a job are to be written.

    Attributes:
        max_tokens: Most tokens to draw; None: to the end of the context.
        samplings: One `Sampling` for each choice of a prompt, each with a seed of its own.
        greedy: Whether the likeliest token is taken and nothing else is asked.
        remembers: Whether draws depend on earlier tokens by a penalty.
        stops: Strings that end a text.
        stop_ids: Tokens that end a text.
        scores: How many likeliest tokens to tell (None: no scores at all).
        echo: Whether the prompt is part of the text.
        rank: Whether the mean log-probability of each text is needed.
    """

    max_tokens: int | None
    samplings: Sequence[Any]
    greedy: bool = False
    remembers: bool = True
    stops: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    scores: int | None = None
    echo: bool = False
    rank: bool = False


@dataclasses.dataclass(slots=True)
class Update:
    """News of one choice.

    Attributes:
        job: The job.
        index: Number of the choice in it.
        text: What is new.
        entries: Tokens that are new, if scores are wanted.
        finish: "stop", "length", or None while it goes on.
        failure: Why it ended otherwise.
        tokens: Tokens drawn so far.
        cached: Tokens of the prompt that were not computed again.
        rank: Mean log-probability of the tokens drawn, if it was wanted.
    """

    job: Job
    index: int
    text: str
    entries: list[Scored]
    finish: str | None
    failure: Failure | None
    tokens: int
    cached: int
    rank: float


class Choice:
    """One text of a job.

    Args:
        job: The job.
        index: Number of the choice.
        prompt: Tokens of the prompt.
        sampling: How tokens are drawn.
    """

    def __init__(self, job: Job, index: int, prompt: Sequence[int], sampling: Any) -> None:
        self.job, self.index, self.sampling = job, index, sampling
        self.begun = time.monotonic()
        self.number = next(_NUMBERS)
        self.ids = list(prompt)
        self.prompt_length = len(self.ids)
        self.table: Table | None = None
        self.past = 0
        self.cached: int | None = None
        self.done = False
        self._log_prob_sum = 0.0
        wishes = job.wishes
        self._scored = 0 if wishes.echo and wishes.scores is not None else self.prompt_length
        # An echoed prompt with scores is written token by token, and no stop string ends it.
        aloud = self.wants_prompt_scores
        lead = job.texts[index // job.each] if wishes.echo and not aloud else ""
        before = () if aloud else self.ids[-8:]
        self.writer = Writer(job.tokenizer, before, () if aloud else wishes.stops, lead)

    @property
    def pending(self) -> int:
        """Tokens that have to be read before the next one is drawn."""
        return len(self.ids) - self.past

    @property
    def held(self) -> Table:
        """The pages; only while there are some."""
        assert self.table is not None
        return self.table

    @property
    def drawn(self) -> int:
        """Tokens drawn so far."""
        return len(self.ids) - self.prompt_length

    @property
    def rest(self) -> int:
        """Most tokens that may still be drawn."""
        room, most = self.job.context - len(self.ids), self.job.wishes.max_tokens
        return max(0, room if most is None else min(room, most - self.drawn))

    @property
    def wants_prompt_scores(self) -> bool:
        """Whether there are tokens of the prompt left that have no score yet."""
        return self._scored < self.prompt_length

    def score_prompt(self, first: int, rows: np.ndarray) -> None:
        """Scores tokens of the prompt.

        Args:
            first: Place of the token that the first row was read from.
            rows: (N, V) scores after each token that was read.
        """
        wanted = self.job.wishes.scores or 0
        if self._scored == 0:
            self.writer.push(self.ids[0], None, [])
            self._scored = 1
        for at in range(self._scored, min(first + len(rows) + 1, self.prompt_length)):
            token = self.ids[at]
            self.writer.push(token, *score(rows[at - 1 - first], token, wanted))
            self._scored = at + 1
        if self._scored == self.prompt_length:
            self.writer.stops = self.job.wishes.stops

    def draw(self, row: np.ndarray) -> str | None:
        """Draws the next token; returns why the text ends, if it does.

        Args:
            row: (V,) scores.

        Raises:
            ValueError: No score is a finite number.
        """
        wishes = self.job.wishes
        if wishes.max_tokens == 0:
            return "length"
        self.check(row)
        token = int(row.argmax())
        if not wishes.greedy:
            known, prompt = (self.ids, self.prompt_length) if wishes.remembers else ((), 0)
            token, _ = self.sampling.pick(row, known, self.drawn, prompt)
        return self.take(row, int(token))

    @staticmethod
    def check(rows: np.ndarray) -> None:
        """Refuses scores that nothing can be drawn by.

        Args:
            rows: (..., V) scores.

        Raises:
            ValueError: No score of a row is a finite number.
        """
        if not np.isfinite(rows.max(-1)).all():
            raise ValueError("the model's scores are no finite numbers")

    def take(self, row: np.ndarray, token: int) -> str | None:
        """Takes a token that was drawn; returns why the text ends, if it does.

        Args:
            row: (V,) scores that it was drawn by.
            token: The token.
        """
        wishes = self.job.wishes
        ends = token in wishes.stop_ids
        log_prob, top = None, None
        if wishes.scores is not None or wishes.rank:
            log_prob, top = score(row, token, wishes.scores or 0)
            self._log_prob_sum += log_prob
            top = None if wishes.scores is None else top
        self.ids.append(token)
        if ends:
            return "stop"
        self.writer.push(token, log_prob, top)
        if self.writer.stopped:
            return "stop"
        return None if self.rest else "length"

    def update(self, finish: str | None = None, failure: Failure | None = None) -> Update:
        """What is new since the last call."""
        if finish is not None:
            self.writer.finish()
        text, entries = self.writer.take()
        rank = self._log_prob_sum / max(self.drawn, 1)
        return Update(
            self.job, self.index, text, entries, finish, failure, self.drawn, self.cached or 0, rank
        )


class Job:
    """A request: prompts, and how their texts are to be written.

    Args:
        tokenizer: Tokens of the model.
        prompts: Tokens of each prompt.
        wishes: How texts are written; as many samplings as texts for each prompt.
        texts: The prompts as text, to be echoed.
        stream: Whether news are wanted at every token.
        context: Most tokens of a sequence.
        vocabulary: Tokens V that may be drawn (None: all that have scores).
        namespace: What keys and values depend on besides the tokens.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompts: Sequence[Sequence[int]],
        wishes: Wishes,
        *,
        texts: Sequence[str] = (),
        stream: bool = False,
        context: int = 1 << 30,
        vocabulary: int | None = None,
        namespace: str = "",
    ) -> None:
        self.tokenizer, self.wishes, self.texts = tokenizer, wishes, texts
        self.stream, self.context, self.namespace = stream, context, namespace
        self.vocabulary = vocabulary
        self.each = len(wishes.samplings)
        self.prompt_tokens = sum(map(len, prompts))
        self.choices: list[Choice] = []
        for prompt in prompts:
            for sampling in wishes.samplings:
                self.choices.append(Choice(self, len(self.choices), prompt, sampling))
        self.receiver: Any = None
