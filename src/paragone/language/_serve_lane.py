r"""Continuous batching: every step reads a few tokens of many sequences in one call of the engine.

A step has a budget of C tokens. Sequences that are being written need one each and come first;
what is left goes to prompts in order of arrival, in pieces, so that a long prompt delays the
others by at most a step of C tokens:

$$ c_s = \min\big(n_s - \mathrm{past}_s,\; C - \textstyle\sum_{r < s} c_r\big) . $$

When pages run out, the sequence that came last gives its pages away and waits at the front; its
pages may still be known when it returns, and what is not is read again. Since any single sequence
fits into the memory, the oldest one always ends. Nothing that is drawn depends on any of this:
draws follow from a choice's seed and the number of the token.

A sequence whose prompt begins with pages that another one is just reading waits for them, so that
clients who come together with the same system prompt have it read once.

A sequence whose scores cannot be used fails by itself. If a whole call fails, its sequences are
tried one by one, and those that fail alone are the ones that are given up.

With a drafter, a sequence brings guessed tokens behind its last one: see `_serve_drafts`. They use
what the budget and the pages have left, so they change when a text comes, and nothing else of it.

Cost: one call of the engine a step, and some ten microseconds of Python a sequence.

References:
    Yu et al. (2022), Orca, OSDI 22, section 3 (scheduling by iteration).
    Agrawal et al. (2024), Sarathi-Serve, arXiv:2403.02310, section 4 (prompts in pieces).
    Kwon et al. (2023), arXiv:2309.06180, section 4.5 (preemption by computing anew).

Shapes: S sequences in a call, N tokens of them, P pages in a table, V vocabulary.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from paragone.language._serve_choice import Choice, Failure, Job, Update
from paragone.language._serve_drafts import KNOWN_ERRORS, Drafts, Part, layout, walk
from paragone.language._serve_pages import Pages

__all__ = ["Lane"]


class Lane:
    """All sequences of one model; used by one thread.

    Args:
        engine: What reads tokens (`paragone.language.Engine`).
        pages: Pages in memory.
        page_size: Tokens of a page.
        most: Most sequences in a step.
        chunk: Most tokens in a step.
        drafter: Who guesses tokens ahead (None: nobody).
        draft: How much: a `Plan`, a number of tokens, or "auto" for what pays by the clock.
    """

    def __init__(
        self, engine: Any, pages: int, page_size: int = 16, most: int = 32, chunk: int = 256,
        *, drafter: Any = None, draft: Any = "auto",
    ) -> None:  # fmt: skip
        if most < 1 or chunk < 1:
            raise ValueError(f"{most} sequences and {chunk} tokens in a step; at least 1 of each")
        self.engine, self.most, self.chunk = engine, most, chunk
        self.pages = Pages(pages, page_size)
        self.pool = engine.new_pool(pages, page_size)
        self.running: list[Choice] = []
        self.waiting: deque[Choice] = deque()
        self.counts: defaultdict[str, float] = defaultdict(int)
        self._news: list[Update] = []
        self.drafts = None if drafter is None else Drafts(engine, drafter, draft, self.pages)

    @property
    def capacity(self) -> int:
        """Most tokens that a single sequence can have."""
        return self.pages.count * self.pages.size

    @property
    def busy(self) -> bool:
        """Whether there is something to do."""
        return bool(self.running or self.waiting)

    def submit(self, job: Job) -> None:
        """Takes a job; its choices wait for their turn."""
        self.waiting.extend(job.choices)
        self.counts["requests"] += 1

    def cancel(self, job: Job) -> None:
        """Forgets what is left of a job and frees its pages."""
        left = [choice for choice in job.choices if not choice.done]
        for choice in left:
            self._leave(choice)
        self.counts["cancelled"] += bool(left)

    def step(self) -> list[Update]:
        """Reads some tokens and returns what is new."""
        plan = self._plan()
        if plan:
            self.counts["steps"] += 1
            self._read_with_drafts(plan)
        news, self._news = self._news, []
        return news

    def _plan(self) -> list[Part]:
        budget, plan = self.chunk, list[Part]()
        for choice in sorted(self.running, key=lambda c: (c.pending > 1, c.number)):
            if budget == 0:
                break
            count = min(choice.pending, budget)
            if choice.table is None or not self._make_room(choice, choice.past + count):
                continue
            plan.append(Part(choice, count))
            budget -= count
        # Room for a later sequence may have been made by sending an earlier one of the plan away.
        plan = [part for part in plan if part.choice.table is not None]
        for choice in list(self.waiting):
            if budget == 0 or len(self.running) >= self.most:
                break
            if any(self._reads_for(other, choice) for other in self.running):
                continue
            if not self._admit(choice):
                break
            count = min(choice.pending, budget)
            self.pages.grow(choice.held, choice.past + count)
            plan.append(Part(choice, count))
            budget -= count
        return plan

    def _reads_for(self, other: Choice, choice: Choice) -> bool:
        """Whether another sequence is just reading pages that this one begins with, too."""
        if other.pending < 2 or other.job.namespace != choice.job.namespace:
            return False
        if choice.wants_prompt_scores:
            return False
        size = self.pages.size
        most = min(len(other.ids), len(choice.ids) - 1) // size * size
        if other.past >= most or other.ids[:size] != choice.ids[:size]:
            return False
        at = other.past // size * size
        return other.ids[: at + size] == choice.ids[: at + size]

    def _make_room(self, choice: Choice, tokens: int) -> bool:
        while not self.pages.grow(choice.held, tokens):
            last = max(self.running, key=lambda c: c.number)
            self._send_away(last)
            if last is choice:
                return False
        return True

    def _send_away(self, choice: Choice) -> None:
        self._close(choice)
        choice.past = 0
        at = sum(1 for other in self.waiting if other.number < choice.number)
        self.waiting.insert(at, choice)
        self.counts["preemptions"] += 1

    def _admit(self, choice: Choice) -> bool:
        table, known = self.pages.open(
            choice.job.namespace, choice.ids, known=not choice.wants_prompt_scores
        )
        need = self.pages.pages_for(len(choice.ids) + 1) - len(table.pages)
        # A page for each of the others, so that who comes in is not sent away at once.
        if self.running and need + len(self.running) > self.pages.available:
            self.pages.close(table)
            return False
        if choice.cached is None:
            choice.cached = known
            self.counts["prompt_tokens"] += choice.prompt_length
            self.counts["cached_tokens"] += known
        choice.table, choice.past = table, known
        self.waiting.remove(choice)
        self.running.append(choice)
        if self.drafts is not None:
            self.drafts.begin(choice)
        return True

    def _read_with_drafts(self, plan: list[Part]) -> None:
        if self.drafts is None:
            return self._read(plan)
        self.drafts.guess(plan, self.chunk - sum(part.count for part in plan))
        began = time.perf_counter()
        self._read(plan)
        self.drafts.done(plan, time.perf_counter() - began)
        for part in plan:
            if part.draft is not None and part.choice.table is not None:
                self.pages.shrink(part.choice.held, part.choice.past)
        for name, count in self.drafts.counts.items():
            self.counts[name] = count
        return None

    def _read(self, plan: list[Part]) -> None:
        try:
            rows, streams = self._forward(plan)
        except KNOWN_ERRORS as error:
            if len(plan) == 1 and plan[0].draft is None:
                return self._fail(plan[0].choice, error)
            for part in plan:
                # What cannot be read may be what was guessed.
                part.draft = part.draft if len(plan) > 1 else None
                self._read([part])
            return None
        for part, scores, stream in zip(plan, rows, streams, strict=True):
            try:
                self._advance(part, scores, stream)
            except KNOWN_ERRORS as error:
                self._fail(part.choice, error)
        return None

    def _forward(
        self, plan: list[Part]
    ) -> tuple[Sequence[np.ndarray | None], Sequence[np.ndarray | None]]:
        """Scores for each part of the plan, (size, V) or (1, V) of the last token, and streams."""
        counts = np.array([part.size for part in plan], np.int32)
        past = np.array([part.choice.past for part in plan], np.int32)
        tokens = np.concatenate([part.tokens for part in plan]).astype(np.int32)
        longest = max(len(part.choice.held.pages) for part in plan)
        tables = np.zeros((len(plan), longest), np.int32)
        for row, part in zip(tables, plan, strict=True):
            row[: len(part.choice.held.pages)] = part.choice.held.pages
        mode, more = "none", {}
        if any(part.choice.wants_prompt_scores or part.draft is not None for part in plan):
            mode = "all"
        elif any(part.choice.pending == part.count for part in plan):
            mode = "last"
        if self.drafts is not None:
            more["hidden"] = self.drafts.hidden
            more["positions"], more["seen"] = layout(plan)
        out = self.engine.forward(self.pool, tokens, counts, past, tables, logits=mode, **more)
        out, hidden = out if more.get("hidden") else (out, None)
        self.counts["tokens"] += len(tokens)
        ends, none = np.cumsum(counts)[:-1], [None] * len(plan)
        streams = none if hidden is None else np.split(hidden, ends)
        if mode == "last":
            return np.split(out, len(plan)), streams
        return none if mode == "none" else np.split(out, ends), streams

    def _advance(self, part: Part, scores: np.ndarray | None, streams: np.ndarray | None) -> None:
        choice, first = part.choice, part.choice.past
        # Some models have scores for tokens that no tokenizer knows.
        rows = None if scores is None else scores[:, : choice.job.vocabulary]
        before, finish = choice.drawn, None
        certain = np.arange(part.count)
        if part.draft is not None:
            assert scores is not None
            assert rows is not None
            finish, path = walk(part, rows, scores)
            certain = np.concatenate([certain, path + 1])
            if (path != np.arange(len(path))).any():
                table = np.array(choice.held.pages, np.int64)
                self.pool.move(table, first + certain, first + np.arange(len(certain)))
        if self.drafts is not None and streams is not None:
            self.drafts.read(choice, streams[certain])
        choice.past += len(certain)
        self.pages.seal(choice.held, choice.ids, choice.past)
        if choice.wants_prompt_scores:
            assert rows is not None
            choice.score_prompt(first, rows)
        if part.draft is None:
            if choice.pending:
                return
            assert rows is not None
            finish = choice.draw(rows[-1])
        self.counts["drawn_tokens"] += choice.drawn - before
        if not before:
            self.counts["first_tokens"] += 1
            self.counts["first_token_seconds"] += time.monotonic() - choice.begun
        if finish is not None:
            self.counts["texts"] += 1
            self.counts["text_seconds"] += time.monotonic() - choice.begun
            self._leave(choice)
            self._news.append(choice.update(finish))
        elif choice.job.stream:
            update = choice.update()
            if update.text or update.entries:
                self._news.append(update)

    def _fail(self, choice: Choice, error: BaseException) -> None:
        self._leave(choice)
        self.counts["failed"] += 1
        failure = Failure(f"the text could not be continued: {error}", 500, "server_error")
        self._news.append(choice.update(failure=failure))

    def _leave(self, choice: Choice) -> None:
        choice.done = True
        if choice.table is None:
            self.waiting.remove(choice)
            return
        self._close(choice)

    def _close(self, choice: Choice) -> None:
        if self.drafts is not None:
            self.drafts.end(choice)
        self.pages.close(choice.held)
        choice.table = None
        self.running.remove(choice)
