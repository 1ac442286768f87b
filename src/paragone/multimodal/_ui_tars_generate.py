r"""Proposals of a `UITars`: a grammar decides on names and marks, the model on all else.

Each row is in a state, and a state allows tokens; all others have probability zero,

$$ w_t \sim P(w \mid w_{<t}, o)\, [\, w \in A(s_t) \,], \qquad s_{t+1} = \delta(s_t, w_t) , $$

so whatever the weights are, a proposal is a thought, a name and the arguments of that name. Rows of
a batch may be in different states. A point is the mean of the nine patches around the best one,
weighted by their probability: places are finer than patches.

Cost: one pass over the prompt, then one token a step; keys and values of screens and of earlier
tokens are kept.

References:
    Willard and Louf (2023), arXiv:2307.09702, section 3 (states that allow tokens).
    Wu et al. (2025), GUI-Actor, arXiv:2506.03143, section 3.2 (a place from patches).

Shapes: R rows, T tokens, V vocabulary, P fine patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.multimodal._ui_tars_language import Cache, Memory
from paragone.multimodal._ui_tars_samples import ARGUMENTS, collated, prompt_of
from paragone.multimodal._ui_tars_words import Words
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Context

__all__ = ["Grammar", "State", "answers", "placed", "propose_all"]

_SAID = 0.6
"""Share of an answer that thoughts may take."""
_DIRECTIONS = ("up", "down", "left", "right")


@dataclasses.dataclass
class State:
    """Where a row is.

    Attributes:
        phase: "start", "reflection", "thought", "name", "point", "text" or "end".
        name: Of the action, once it is known.
        argument: Number of the argument that is being written.
        written: Tokens of the part that is being written.
        parts: Texts so far: "reflection" and "thought".
        arguments: Those that are whole.
        tokens: All tokens so far.
    """

    phase: str = "start"
    name: str = ""
    argument: int = 0
    written: list[int] = dataclasses.field(default_factory=list)
    parts: dict[str, str] = dataclasses.field(default_factory=dict)
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    tokens: list[int] = dataclasses.field(default_factory=list)

    @property
    def action(self) -> Action:
        """What has been said."""
        return Action(
            self.name, dict(self.arguments), self.parts.get("thought", ""),
            self.parts.get("reflection", ""),
        )  # fmt: skip


class Grammar:
    """What may be said, and what follows.

    Args:
        words: Vocabulary.
        longest: Most tokens of an answer.
    """

    def __init__(self, words: Words, longest: int) -> None:
        self.words, self.longest = words, longest
        self._names = {token: name for name, token in words.names.items()}
        text = torch.zeros(len(words), dtype=torch.bool)
        text[words.text_tokens.start :] = True
        text[[words.marks["join"], words.marks["word"]]] = True
        self._masks: dict[tuple[str, ...], Tensor] = {}
        self._text = text
        ways = [words.encode(way) for way in _DIRECTIONS]
        self._ways = {tuple(way[:n]) for way in ways for n in range(len(way) + 1)}
        self._whole = {tuple(way) for way in ways}

    def allowed(self, state: State) -> Tensor:
        """Which tokens (V,) may come next."""
        left = self.longest - len(state.tokens)
        if state.phase == "start":
            return self._mask("text", "reflection", "do")
        if state.phase == "reflection":
            return (
                self._mask("thought") if self._spent(state, 0.5) else self._mask("text", "thought")
            )
        if state.phase == "thought":
            return self._mask("do") if self._spent(state, 1.0) else self._mask("text", "do")
        if state.phase == "name":
            return self._mask("names")
        if state.phase == "point":
            return self._mask("point")
        if state.phase == "text":
            if ARGUMENTS[state.name][state.argument] == "direction":
                return self._direction(tuple(state.written))
            if left <= 2:
                return self._mask("end")
            # What is typed, pressed or opened is something.
            empty = not state.written and state.name != "finished"
            return self._mask("text") if empty else self._mask("text", "end")
        return self._mask("eos")

    def _spent(self, state: State, share: float) -> bool:
        return len(state.tokens) >= share * _SAID * self.longest

    def _mask(self, *kinds: str) -> Tensor:
        if kinds not in self._masks:
            mask = torch.zeros(len(self.words), dtype=torch.bool)
            for kind in kinds:
                if kind == "text":
                    mask |= self._text
                elif kind == "names":
                    mask[list(self._names)] = True
                else:
                    mask[self.words.marks[kind]] = True
            self._masks[kinds] = mask
        return self._masks[kinds]

    def _direction(self, written: tuple[int, ...]) -> Tensor:
        mask = torch.zeros(len(self.words), dtype=torch.bool)
        size = len(written)
        mask[[w[size] for w in self._ways if len(w) == size + 1 and w[:size] == written]] = True
        mask[self.words.marks["end"]] = written in self._whole
        return mask

    def follow(self, state: State, token: int, place: tuple[float, float] | None) -> None:
        """Takes a token; of a point, its place."""
        state.tokens.append(token)
        marks, names = self.words.marks, self._names
        if token == marks["reflection"]:
            state.phase = "reflection"
        elif token == marks["thought"]:
            state.parts["reflection"] = self._taken(state)
            state.phase = "thought"
        elif token == marks["do"]:
            state.parts["thought"] = self._taken(state)
            state.phase = "name"
        elif token in names:
            state.name = names[token]
            self._next(state, 0)
        elif token == marks["point"]:
            state.arguments[ARGUMENTS[state.name][state.argument]] = place
            self._next(state, state.argument + 1)
        elif token == marks["end"]:
            state.arguments[ARGUMENTS[state.name][state.argument]] = self._taken(state)
            self._next(state, state.argument + 1)
        elif token == marks["eos"]:
            state.phase = "over"
        else:
            state.written.append(token)
            state.phase = "thought" if state.phase == "start" else state.phase

    def _taken(self, state: State) -> str:
        text = self.words.decode(state.written)
        state.written = []
        return text

    def _next(self, state: State, argument: int) -> None:
        state.argument = argument
        names = ARGUMENTS[state.name]
        if argument >= len(names):
            state.phase = "end"
        else:
            state.phase = "point" if names[argument].endswith("_box") else "text"


def placed(
    logits: Tensor, grid: tuple[int, int], patch: int, draw: Any = None, temperature: float = 0.0
) -> tuple[float, float]:
    """A place in pixels from logits of patches (P,).

    Args:
        logits: Of the patches, row by row.
        grid: Rows and columns of them.
        patch: Pixels of a patch's side.
        draw: Generator, where the patch is drawn.
        temperature: Of drawing; 0: the most likely patch.
    """
    rows, columns = grid
    values = logits[: rows * columns].double().cpu().numpy()
    chances = np.exp(values - values.max())
    if temperature > 0:
        soft = np.exp((values - values.max()) / temperature)
        best = _drawn(soft, draw)
    else:
        best = int(chances.argmax())
    row, column = divmod(best, columns)
    down = np.arange(max(0, row - 1), min(rows, row + 2))
    across = np.arange(max(0, column - 1), min(columns, column + 2))
    near = chances.reshape(rows, columns)[np.ix_(down, across)]
    # A patch drawn against all odds has neighbours of no weight.
    near = near / near.sum() if near.sum() > 0 else np.full(near.shape, 1 / near.size)
    x = float((near.sum(0) * (across + 0.5)).sum() * patch)
    y = float((near.sum(1) * (down + 0.5)).sum() * patch)
    return round(x, 2), round(y, 2)


def _drawn(weights: np.ndarray, draw: Any) -> int:
    total = np.cumsum(weights)
    return min(int(np.searchsorted(total, draw.random() * total[-1], "right")), len(total) - 1)


def propose_all(
    model: Any, contexts: Sequence[Context], temperature: float, seed: int
) -> list[Action]:
    """What `answers` says, as actions; points are in pixels of the model."""
    return [state.action for state in answers(model, contexts, temperature, seed)]


@torch.inference_mode()
def answers(model: Any, contexts: Sequence[Context], temperature: float, seed: int) -> list[State]:
    """Answers to contexts, token by token, points in pixels of the model.

    Args:
        model: A `UITars`.
        contexts: At least one.
        temperature: 0 takes the most likely token.
        seed: Of what is drawn.
    """
    config, words = model.config, model.words
    memory, scales = model.see(contexts)
    prompts = [
        prompt_of(one, words, config.max_prompt, scale)
        for one, scale in zip(contexts, scales, strict=True)
    ]
    rows = collated([[one] for one in prompts], model.device)
    x = model.language.embedded(rows.tokens, rows.points, memory, config.patch)
    hidden, pairs = model.language(x, memory)
    lengths = torch.tensor([len(one.tokens) for one in prompts], device=model.device)
    talk = _Talk(model, memory, rows.tokens, hidden, pairs, lengths)
    draws = [np.random.default_rng((seed, at)) for at in range(len(contexts))]
    grammar = Grammar(words, config.max_answer)
    states = [State() for _ in contexts]
    grids = torch.stack([memory.rows, memory.columns], 1).tolist()
    while True:
        allowed = torch.stack([grammar.allowed(state) for state in states]).to(model.device)
        chosen = _chosen(talk.chances(), allowed, temperature, draws)
        places: list[Any] = [None] * len(states)
        if words.marks["point"] in chosen:
            logits = model.pointing(talk.state, memory, talk.every)
            for at, token in enumerate(chosen):
                if token == words.marks["point"]:
                    places[at] = placed(
                        logits[at], tuple(grids[at]), config.patch, draws[at], temperature
                    )
        for at, state in enumerate(states):
            if state.phase != "over":
                grammar.follow(state, chosen[at], places[at])
        if all(state.phase in ("over", "end") for state in states):
            return states
        talk.say(chosen, places)


def _chosen(
    chances: Tensor, allowed: Tensor, temperature: float, draws: Sequence[Any]
) -> list[int]:  # fmt: skip
    kept = chances.masked_fill(~allowed, -1.0)
    if temperature == 0:
        return kept.argmax(-1).tolist()
    weights = kept.clamp(min=0).double().cpu().numpy() ** (1 / temperature)
    allow = allowed.cpu().numpy()
    found = []
    for own, may, draw in zip(weights, allow, draws, strict=True):
        # Where nothing allowed has any weight, all that is allowed has the same.
        found.append(_drawn(own if own.sum() > 0 else may.astype(float), draw))
    return found


class _Talk:
    """Rows that grow by a token at a time."""

    def __init__(
        self, model: Any, memory: Memory, tokens: Tensor, hidden: Tensor,
        pairs: Sequence[tuple[Tensor, Tensor]], lengths: Tensor,
    ) -> None:  # fmt: skip
        self.model, self.memory, self.lengths = model, memory, lengths
        more = model.config.max_answer + 1
        self.tokens = torch.nn.functional.pad(tokens, (0, more))
        grown = [tuple(torch.nn.functional.pad(x, (0, 0, 0, more)) for x in pair) for pair in pairs]
        self.cache = Cache(grown, torch.nn.functional.pad(hidden, (0, 0, 0, more)))  # type: ignore[arg-type]
        self.every = torch.arange(len(tokens), device=tokens.device)
        self.state = hidden[self.every, lengths - 1]

    def chances(self) -> Tensor:
        """Probabilities (R, V) of the next token."""
        language = self.model.language
        logits = language.written(self.state, self.memory).float().softmax(-1)
        gate = language.gate(self.state).float().sigmoid()
        known = (
            torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]
        )
        read = self.model.copyable(self.tokens) & known
        taken = language.copied(self.state[:, None], self.cache.hidden, read[:, None])[:, 0]
        return (gate * logits).scatter_add(1, self.tokens, (1 - gate) * taken.float())

    def say(self, chosen: Sequence[int], places: Sequence[tuple[float, float] | None]) -> None:
        """Appends a token to each row."""
        new = torch.tensor(chosen, device=self.tokens.device)
        before = self.tokens[self.every, self.lengths - 1]
        self.tokens[self.every, self.lengths] = new
        spots = [at for at, place in enumerate(places) if place is not None]
        points = None
        if spots:
            index = torch.tensor(spots, device=new.device)
            xy = torch.tensor([places[at] for at in spots], device=new.device)
            points = (index, torch.zeros_like(index), xy)
        patch = self.model.config.patch
        x = self.model.language.embedded(new[:, None], points, self.memory, patch, before[:, None])
        hidden, _ = self.model.language(x, self.memory, self.cache, self.lengths)
        self.state = hidden[:, 0]
        self.cache.hidden[self.every, self.lengths] = self.state
        # Rows that are over stay where they are: what they say is not read.
        self.lengths = (self.lengths + 1).clamp(max=self.tokens.shape[1] - 1)
