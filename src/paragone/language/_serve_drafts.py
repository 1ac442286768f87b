r"""Drafts in a lane: what is told to a drafter about each sequence, and what its guesses yield.

A step of a lane with drafts reads, of a sequence whose last token is certain, that token and the
n_s nodes of its draft, and yields

$$ 1 + \text{agreed}_s , \qquad \text{agreed}_s \le \mathrm{depth} , $$

tokens of it. Sequences with drafts of any size, without drafts, and short pieces of prompts stand
in one call. While longer pieces are read nobody guesses: such a step is bound by arithmetic, where
a drafted token costs as much as a certain one.

Drafts never take a page that another sequence waits for: a draft is cut to the room there is, and
what its tokens took is given back before the next step. Where the beginning of a prompt was found
in pages that others wrote, the stream that its first new token was predicted from is found with
them: it is kept for the last token of each full page.

A drafter that fails is no reason for a text to fail: its sequences go on without it.

Cost: M numbers a page beside its keys, where the drafter wants streams.

References:
    Leviathan et al. (2023), arXiv:2211.17192, section 3.
    Chen et al. (2024), "Sequoia", arXiv:2402.12374, section 3 (budgets of trees).

Shapes: n nodes of a draft, N tokens of a step, V vocabulary, M model width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paragone.language._draft_pace import Pace
from paragone.language._serve_choice import Choice
from paragone.language._serve_pages import Pages
from paragone.language._speculate_loop import first_chain, plan_of
from paragone.language.drafting import Draft, Drafter, Plan
from paragone.language.speculation import verify

__all__ = ["COUNTS", "KNOWN_ERRORS", "Drafts", "Part", "cut", "layout", "walk"]

COUNTS = ("drafted_tokens", "agreed_tokens", "draft_failures")
"""Guessed tokens, those that were agreed to, and texts that the drafter failed for."""

KNOWN_ERRORS = (
    ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, MemoryError,
)  # fmt: skip
"""What an engine, a sampler, a tokenizer or a drafter may raise for one sequence."""

_BESIDE = 16
"""Most tokens of prompts in a step with drafts: scores are computed for each of them, too."""


@dataclasses.dataclass(slots=True)
class Part:
    """What a step reads of one sequence.

    Attributes:
        choice: The sequence.
        count: Certain tokens of it.
        draft: What is guessed behind the last of them, which then is its only one.
        offered: Depths at which there was a guess to agree to.
        agreed: Depths at which one was agreed to.
    """

    choice: Choice
    count: int
    draft: Draft | None = None
    offered: int = 0
    agreed: int = 0

    @property
    def size(self) -> int:
        """All its tokens in the step."""
        return self.count + (0 if self.draft is None else len(self.draft.tokens))

    @property
    def tokens(self) -> np.ndarray:
        """(size,) tokens."""
        past = self.choice.past
        known = np.array(self.choice.ids[past : past + self.count], np.int64)
        return known if self.draft is None else np.concatenate([known, self.draft.tokens])


@dataclasses.dataclass(slots=True)
class _Told:
    """What the drafter knows of a sequence: its first tokens, and streams that are to follow."""

    count: int
    streams: list[np.ndarray]


class Drafts:
    """A drafter at work for a lane.

    Args:
        engine: The lane's.
        drafter: Who guesses.
        plan: How much: a `Plan`, a number of tokens, or "auto" for what pays by the clock.
        pages: Book of the lane's pages.

    Attributes:
        hidden: Whether steps are to give streams.
        counts: By name of `COUNTS`.
    """

    def __init__(self, engine: Any, drafter: Drafter, plan: Any, pages: Pages) -> None:
        self.engine, self.pages = engine, pages
        self.drafting = drafter.open(engine)
        self.hidden = self.drafting.hidden
        self.pace = Pace(engine, drafter, plan if plan == "auto" else plan_of(drafter, plan))
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        self._told: dict[int, _Told] = {}
        self._ends: np.ndarray | None = None
        self._plan: Plan | None = None
        self._plain = 0
        self._seconds = 0.0
        self._steps = 0, 0, 0.0

    def begin(self, choice: Choice) -> None:
        """A sequence got pages, perhaps with its first tokens in them."""
        told = _Told(choice.past, [])
        if self.hidden:
            told.streams.append(self._before(choice))
        known = choice.ids[: choice.past]
        self._told[choice.number] = told
        self._try([choice], lambda keys: self.drafting.add(keys[0], known, choice.sampling))

    def end(self, choice: Choice) -> None:
        """A sequence has ended, or gave its pages away."""
        if self._told.pop(choice.number, None) is not None:
            self._try([choice], lambda keys: self.drafting.drop(keys[0]))

    def guess(self, parts: Sequence[Part], budget: int) -> None:
        """Gives drafts to those parts of a step that may have one.

        Args:
            parts: The step.
            budget: Most drafted tokens of all.
        """
        self._plan, self._seconds = None, 0.0
        ready = [part for part in parts if self._ready(part)]
        beside = sum(part.count for part in parts) - len(ready)
        self._plain -= 1
        if not ready or self._plain > 0 or budget < len(ready) or beside > _BESIDE:
            return
        self._tell_plain()
        rest = [part.choice.rest - 1 for part in ready]
        plan = self.pace.choose(len(ready), max(rest) + 1)
        if plan is None:
            self._plain = self.pace.stretch
            return
        found: list[Draft] = []
        choices = [part.choice for part in ready]
        if not self._observe(choices):
            return
        self._try(choices, lambda keys: found.extend(self._checked(keys, plan)))
        for part, draft, depth in zip(ready, found, rest, strict=bool(found)):
            self._give(part, draft, budget // len(ready), depth)
        self._plan = plan

    def _checked(self, keys: Sequence[int], plan: Plan) -> Sequence[Draft]:
        """Drafts whose tokens the engine knows."""
        drafts, known = self.drafting.draft(keys, plan), self.engine.config.vocab_size
        for draft in drafts:
            if len(draft.tokens) and not 0 <= draft.tokens.min() <= draft.tokens.max() < known:
                raise ValueError(
                    f"drafted tokens {draft.tokens.tolist()}; there are 0 to {known - 1}"
                )
        return drafts

    def _give(self, part: Part, draft: Draft, nodes: int, depth: int) -> None:
        """Gives a draft to a part, as far as there is room for it."""
        choice = part.choice
        pages = len(choice.held.pages) + self.pages.available
        room = pages * self.pages.size - choice.past - 1
        draft = cut(draft if self.engine.trees else first_chain(draft), min(nodes, room), depth)
        if len(draft.tokens) and self.pages.grow(
            choice.held, choice.past + part.count + len(draft.tokens)
        ):
            part.draft = draft

    def read(self, choice: Choice, streams: np.ndarray) -> None:
        """Certain tokens of a sequence were read.

        Args:
            choice: The sequence, before they count as its past.
            streams: (a, M) their streams.
        """
        told = self._told.get(choice.number)
        if told is not None:
            told.streams.append(streams)
        if self._ends is None:
            self._ends = np.zeros((self.pages.count, streams.shape[1]), np.float32)
        ends, size = self._ends, self.pages.size
        for page in range(choice.past // size, (choice.past + len(streams)) // size):
            last = (page + 1) * size - 1 - choice.past
            ends[choice.held.pages[page]] = streams[last]

    def done(self, parts: Sequence[Part], seconds: float) -> None:
        """Learns how a step went.

        Args:
            parts: The step.
            seconds: What the call of the engine and the walks took.
        """
        if any(part.count > 1 for part in parts):
            return
        if self._plan is None:
            if self._steps[0] != len(parts):
                self._tell_plain()
            steps, before = self._steps[1:]
            self._steps = len(parts), steps + 1, before + seconds
            return
        offered, agreed = (np.array([getattr(p, x) for p in parts]) for x in ("offered", "agreed"))
        self.counts["drafted_tokens"] += sum(part.size - part.count for part in parts)
        self.counts["agreed_tokens"] += int(agreed.sum())
        depths = np.arange(self._plan.depth)[:, None]
        self.pace.told(
            self._plan, len(parts), self._seconds, seconds, (offered > depths).sum(1),
            (agreed > depths).sum(1),
        )  # fmt: skip

    def _tell_plain(self) -> None:
        rows, steps, seconds = self._steps
        if steps:
            self.pace.told(None, rows, 0.0, seconds, steps=steps)
        self._steps = 0, 0, 0.0

    def _observe(self, choices: Sequence[Choice]) -> bool:
        """Tells the drafter what has become certain since it guessed last."""
        told = [self._told[choice.number] for choice in choices]
        new = [
            np.array(choice.ids[one.count :], np.int64)
            for choice, one in zip(choices, told, strict=True)
        ]
        streams = [np.concatenate(one.streams) if one.streams else None for one in told]
        for choice, one in zip(choices, told, strict=True):
            one.count, one.streams = len(choice.ids), []
        return self._try(choices, lambda keys: self.drafting.observe(keys, new, streams))

    def _ready(self, part: Part) -> bool:
        choice = part.choice
        return choice.pending == 1 and choice.drawn > 0 and choice.number in self._told

    def _before(self, choice: Choice) -> np.ndarray:
        """(1, M) the stream before the first token that is read."""
        if choice.past == 0 or self._ends is None:
            return np.zeros((1, self.engine.config.hidden_size), np.float32)
        return self._ends[choice.held.pages[choice.past // self.pages.size - 1]][None].copy()

    def _try(self, choices: Sequence[Choice], call: Callable[[list[int]], Any]) -> bool:
        """Calls the drafter; returns whether it did not fail."""
        began = time.perf_counter()
        try:
            call([choice.number for choice in choices])
        except KNOWN_ERRORS as error:
            for choice in choices:
                if self._told.pop(choice.number, None) is not None:
                    with contextlib.suppress(*KNOWN_ERRORS):
                        self.drafting.drop(choice.number)
            self.counts["draft_failures"] += len(choices)
            warnings.warn(
                f"the drafter failed for {len(choices)} texts, which go on without it: {error}",
                stacklevel=2,
            )
            return False
        self._seconds += time.perf_counter() - began
        return True


def cut(draft: Draft, nodes: int, depth: int) -> Draft:
    """The first nodes of a draft that are not too deep.

    Args:
        draft: The draft.
        nodes: Most nodes.
        depth: Most nodes one behind the other.

    Example:
        >>> cut(Draft(np.arange(4), np.array([-1, -1, 0, 2])), 9, 2).tokens.tolist()
        [0, 1, 2]
    """
    kept, number = [], {-1: -1}
    for node, (parent, deep) in enumerate(zip(draft.parents.tolist(), draft.depths, strict=True)):
        if len(kept) >= nodes or deep > depth or parent not in number:
            continue
        number[node] = len(kept)
        kept.append(node)
    if len(kept) == len(draft.tokens):
        return draft
    parents = [number[parent] for parent in draft.parents[kept].tolist()]
    shares = {number[node]: share for node, share in draft.shares.items() if node in number}
    return Draft(draft.tokens[kept], np.array(parents, np.int64), shares)


def layout(parts: Sequence[Part]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Places and sight of the tokens of a step: see `Engine.forward`.

    Args:
        parts: The step.

    Returns:
        (N,) places and (N, C) what is seen; None for both where all drafts are chains.
    """
    drafts = [part.draft for part in parts if part.draft is not None]
    if all((draft.parents == np.arange(len(draft.parents)) - 1).all() for draft in drafts):
        return None, None
    seen = np.zeros((sum(part.size for part in parts), max(part.size for part in parts)), np.uint8)
    places, at = [], 0
    for part in parts:
        own = np.tri(part.size, dtype=np.uint8) if part.draft is None else part.draft.seen()
        seen[at : at + part.size, : part.size] = own
        places.append(part.choice.past + own.sum(1, dtype=np.int64) - 1)
        at += part.size
    return np.concatenate(places), seen


def walk(part: Part, rows: np.ndarray, full: np.ndarray) -> tuple[str | None, np.ndarray]:
    """Draws tokens of a sequence as long as they are those of its draft, and one more.

    Args:
        part: The sequence, its draft read.
        rows: (n + 1, V') scores of its root and nodes, of tokens that may be drawn.
        full: (n + 1, V) those of all tokens that the model has.

    Returns:
        Why the text ends, if it does, and the nodes that were agreed to.
    """
    choice, draft = part.choice, part.draft
    assert draft is not None
    path: list[int] = []
    if draft.shares:
        allowed = np.full(full.shape, -np.inf, np.float32)
        allowed[:, : rows.shape[1]] = rows
        found = verify(
            allowed, draft, choice.sampling, choice.ids, choice.prompt_length, choice.drawn,
            ends=sorted(choice.job.wishes.stop_ids), most=choice.rest,
        )  # fmt: skip
        choice.check(rows[[0, *(node + 1 for node in found.path)]])
        part.offered, part.agreed = found.tried, len(found.path)
        finish = None
        for node, token in zip([-1, *found.path], found.tokens, strict=False):
            finish = choice.take(rows[node + 1], token)
            if finish is not None:
                break
        return finish, np.array(found.path[: choice.pending - 1], np.int64)
    named = zip(draft.parents.tolist(), draft.tokens.tolist(), strict=True)
    child = {name: node for node, name in enumerate(named)}
    parents = {parent for parent, _ in child}
    finish, node = None, -1
    while finish is None:
        part.offered += node in parents
        finish = choice.draw(rows[node + 1])
        node = child.get((node, choice.ids[-1]), -1)
        if node < 0:
            break
        path.append(node)
    part.agreed = len(path)
    return finish, np.array(path, np.int64)
