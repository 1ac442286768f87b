"""A conversation with a model in the same process, answered token by token.

Every answer is a job of a lane that keeps its pages, so what was said before is not read again.
When the context is full, the oldest turns are left out, and it is said.

Shapes: none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from paragone.language._serve_choice import Failure, Job, Wishes
from paragone.language._serve_model import Served
from paragone.language.sampling import Sampling

__all__ = ["Conversation"]


class Conversation:
    """What was said, and the model that answers.

    Args:
        served: The model.
        system: What the model is told before everything else.
        max_tokens: Most tokens of an answer.
        stops: Strings that end an answer.
        seed: Seed of the first answer; each has another.
        sampling: Further arguments of `Sampling`.

    Raises:
        ValueError: The model has no chat template.
    """

    def __init__(
        self,
        served: Served,
        system: str = "",
        *,
        max_tokens: int = 512,
        stops: tuple[str, ...] = (),
        seed: int = 0,
        **sampling: Any,
    ) -> None:
        if served.template is None:
            raise ValueError(f"{served.name} has no chat template; name one")
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens}: at least 1 is expected")
        self.served, self.system, self.max_tokens = served, system, max_tokens
        ids, words = served.chat_ends
        self._stop_ids, self._stops = served.ends | ids, (*words, *stops)
        self._sampling = Sampling(**sampling)
        self._seeds = itertools.count(seed)
        self.turns: list[dict[str, str]] = []
        self.left_out = 0

    def reset(self) -> None:
        """Forgets all turns; what the model is told before stays."""
        self.turns, self.left_out = [], 0

    def say(self, text: str) -> Iterator[str]:
        """Says something and yields the answer in pieces.

        Closing the iterator ends the answer; what was written by then stays in the conversation.

        Args:
            text: What the user says.

        Raises:
            ValueError: It alone is longer than the context, or the template refuses it.
        """
        self.turns.append({"role": "user", "content": text})
        written: list[str] = []
        try:
            job = self._job()
            lane = self.served.lane
            lane.submit(job)
            try:
                while not job.choices[0].done:
                    news = lane.step()
                    for update in news:
                        if update.failure is not None:
                            raise update.failure
                        written.append(update.text)
                    # Also where nothing is new: whoever reads may want to end.
                    yield "".join(update.text for update in news)
            finally:
                lane.cancel(job)
        except Failure as failure:
            self.turns.pop()
            raise ValueError(failure.message) from failure
        finally:
            if self.turns and self.turns[-1]["role"] == "user" and written:
                self.turns.append({"role": "assistant", "content": "".join(written).strip()})

    def _job(self) -> Job:
        room = self.served.context
        reserve = min(self.max_tokens, room // 4)
        while True:
            before = [{"role": "system", "content": self.system}] if self.system else []
            ids = self.served.conversation([*before, *self.turns])
            if len(ids) + reserve <= room:
                break
            if len(self.turns) < 3:
                raise Failure(f"this takes {len(ids)} of the context's {room} tokens, and an "
                              f"answer needs {reserve}; say less")  # fmt: skip
            del self.turns[:2]
            self.left_out += 2
        wishes = Wishes(
            min(self.max_tokens, room - len(ids)),
            [self._sampling.replace(seed=next(self._seeds))],
            stops=self._stops,
            stop_ids=self._stop_ids,
        )
        return Job(
            self.served.tokenizer, [ids], wishes, stream=True, context=room,
            vocabulary=self.served.vocabulary, namespace=self.served.namespace,
        )  # fmt: skip
