r"""Continuing many rows of texts and pictures side by side, under the grammar.

Each row is read up to three times, with a cache each: f the whole row, i what of it is pictures,
u nothing before the picture that is being drawn. Text comes from f; codes come from the mixture

$$ z = u + a\,(i - u) + b\,(f - i) . $$

i and u stand still while a row writes, and u forgets the picture before when a new one begins.
Rows stop by themselves and are then taken out of the batch.

Cost: 2 N operations a token and reading, for N weights.

References:
    Chameleon Team (2024), arXiv:2405.09818, section 2.4 (decoding by modality).
    Brooks et al. (2022), arXiv:2211.09800, eq. 3 (three readings).

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.multimodal._chameleon_sampling import draw_tokens, guided, penalised, uniforms
from paragone.multimodal.grammar import Grammar, GrammarState, Pictures

__all__ = ["Choice", "continue_rows"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """How tokens are chosen.

    Args:
        temperature: What logits are divided by; 0 takes the most likely.
        top_p: Share of the probability to choose from.
        text_guidance: b.
        image_guidance: a.
        repetition_penalty: What logits of text that was there are divided by.
        seed: Of the draws.

    Raises:
        ValueError: A number out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    text_guidance: float = 1.0
    image_guidance: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: a number from 0 on is expected")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: a share above 0, up to 1, is expected")
        if not self.repetition_penalty > 0:
            raise ValueError(
                f"repetition_penalty={self.repetition_penalty}: a number above 0; 1 for none"
            )
        for name in ("text_guidance", "image_guidance"):
            if not abs(getattr(self, name)) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}: a finite number is expected")

    @property
    def guides(self) -> bool:
        """Whether more than the whole row is read."""
        return self.text_guidance != 1 or self.image_guidance != 1


class _Reading:
    """Rows that are read along: caches, and the logits behind each row's last token."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        where = model.lm_head.weight.device
        ids = torch.tensor([id for row in prompts for id in row], device=where)
        self.lengths = torch.tensor([len(row) for row in prompts], device=where)
        several = len(prompts) > 1
        hidden, self.state = model.hidden(ids[None], lengths=self.lengths if several else None)
        self.logits = model.lm_head(hidden[0, self.lengths.cumsum(0) - 1])

    def feed(self, tokens: Tensor, live: Tensor) -> None:
        """Reads one more token in rows that are live."""
        if not bool(live.any()):
            return
        ends = None if bool(live.all()) else live.to(torch.int64)
        # Rows that rest get a token that is not counted.
        hidden, self.state = self.model.hidden(tokens[:, None], self.state, lengths=ends)
        fresh = self.model.lm_head(hidden[:, 0])
        self.logits = fresh if ends is None else torch.where(live[:, None], fresh, self.logits)
        self.lengths = self.lengths + live.to(torch.int64)

    def forget(self, rows: Tensor, kept: int) -> None:
        """Takes rows back to their first tokens."""
        self.lengths = torch.where(rows, kept, self.lengths)
        self.state = [cache.truncate(self.lengths, discard=True) for cache in self.state]

    def select(self, rows: Tensor) -> None:
        self.lengths, self.logits = self.lengths[rows], self.logits[rows]
        self.state = [cache.select(rows) for cache in self.state]


class _Rows:
    """All readings of the rows that are not done."""

    def __init__(
        self, model: Any, grammar: Grammar, prompts: Sequence[Sequence[int]], choice: Choice,
        draws: bool,
    ) -> None:  # fmt: skip
        self.grammar, self.choice = grammar, choice
        self.picturing = grammar.table[3].clone()
        self.picturing[[grammar.begin, grammar.end]] = True
        self.full = _Reading(model, prompts)
        self.image = self.none = None
        if draws and choice.guides:
            kept = [[row[0], *(id for id in row[1:] if self.picturing[id])] for row in prompts]
            self.image = _Reading(model, kept)
            self.none = _Reading(model, [row[:1] for row in prompts])
        self.seen = torch.zeros(self.full.logits.shape, dtype=torch.bool, device=ids_device(model))
        if choice.repetition_penalty != 1:
            for at, row in enumerate(prompts):
                self.seen[at, list(row)] = True

    def choose(self, state: GrammarState, draws: np.ndarray) -> Tensor:
        logits, choice = self.full.logits.float(), self.choice
        if choice.repetition_penalty != 1:
            text = ~state.drawing[:, None] & self.seen
            logits = penalised(logits, text, choice.repetition_penalty)
        if self.image is not None and self.none is not None and bool(state.drawing.any()):
            mixed = guided(
                self.full.logits.float(), self.image.logits.float(), self.none.logits.float(),
                choice.text_guidance, choice.image_guidance,
            )  # fmt: skip
            logits = torch.where(state.drawing[:, None], mixed, logits)
        return draw_tokens(
            logits, self.grammar.allowed(state), choice.temperature, choice.top_p,
            torch.from_numpy(draws).to(logits.device),
        )  # fmt: skip

    def feed(self, tokens: Tensor, live: Tensor) -> None:
        self.full.feed(tokens, live)
        if self.choice.repetition_penalty != 1:
            at = torch.arange(len(tokens), device=tokens.device)
            self.seen[at, tokens] |= live
        if self.image is None or self.none is None:
            return
        seen = live & self.picturing[tokens]
        self.image.feed(tokens, seen)
        begun = live & (tokens == self.grammar.begin)
        if bool(begun.any()):
            self.none.forget(begun, 1)
        self.none.feed(tokens, seen)

    def select(self, rows: Tensor) -> None:
        self.seen = self.seen[rows]
        for one in (self.full, self.image, self.none):
            if one is not None:
                one.select(rows)


def ids_device(model: Any) -> torch.device:
    """Where a model's tokens go."""
    return model.lm_head.weight.device


@torch.no_grad()
def continue_rows(
    model: Any, grammar: Grammar, prompts: Sequence[Sequence[int]], modes: Pictures,
    left: Sequence[int], choice: Choice,
) -> list[list[int]]:  # fmt: skip
    """Continues rows of tokens.

    Args:
        model: A `Chameleon`.
        grammar: What may come.
        prompts: Tokens of each row, the first one that of the beginning.
        modes: "none", "one" or "free".
        left: Tokens that may come in each row.
        choice: How they are chosen.

    Returns:
        What came in each row, the token that ends it included.
    """
    state = grammar.start(modes, left)
    made: list[list[int]] = [[] for _ in prompts]
    places = np.arange(len(prompts))
    live = (~state.done).nonzero()[:, 0]
    if not len(live):
        return made
    places, state = places[live.cpu().numpy()], state.select(live)
    rows = _Rows(model, grammar, [prompts[at] for at in places], choice, modes != "none")
    step = 0
    while True:
        tokens = rows.choose(state, uniforms(choice.seed, places, step))
        alive = (~state.done).tolist()
        for at, token, wanted in zip(places, tokens.tolist(), alive, strict=True):
            if wanted:
                made[at].append(token)
        state, step = grammar.advance(state, tokens), step + 1
        live = ~state.done
        count = int(live.sum())
        if not count:
            return made
        if count <= len(places) // 2:
            chosen = live.nonzero()[:, 0]
            rows.select(chosen)
            places, state, tokens = (
                places[chosen.cpu().numpy()],
                state.select(chosen),
                tokens[chosen],
            )
            live = live[chosen]
        rows.feed(tokens, live)
