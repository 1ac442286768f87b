r"""Pairs as tokens, in an order that follows from the seed, and what a run on them gives back.

Shapes: n pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paragone.language._preference_forward import Group
from paragone.language._preference_reference import parts_of
from paragone.language.rows import EncodedPair, encode_pair, read_pairs

__all__ = ["Aligned", "Feed", "Micro", "encoded_pairs", "group_of", "template_of"]

_MICRO_TOKENS = 8192


@dataclasses.dataclass(frozen=True)
class Aligned:
    """What a run has come to.

    Attributes:
        model: The model that was given, trained.
        history: A dict for each line: step, seconds, loss and what the method measures.
        metrics: The last line with measurements.
        notes: What was left out, cut or found, in sentences.
        seconds: Seconds of the run.
        folder: Where it lies, or None.
    """

    model: Any
    history: list[dict[str, Any]]
    metrics: dict[str, Any]
    notes: list[str]
    seconds: float
    folder: Path | None = None


def template_of(tokenizer: Any, template: Any = None) -> Any:
    """Returns a chat template: the given one, the tokenizer's, or "alpaca", in its words.

    Args:
        tokenizer: With `chat_template`, or None.
        template: A `ChatTemplate`, a name of one, a Jinja text, or None.
    """
    from paragone.language.chat import NAMED, ChatTemplate

    template = template or getattr(tokenizer, "chat_template", None) or "alpaca"
    if not isinstance(template, str):
        return template
    found = ChatTemplate.named(template) if template in NAMED else ChatTemplate(template)
    if not hasattr(tokenizer, "piece"):
        return found
    ends = (tokenizer.bos_id, tokenizer.eos_id)
    return found.with_tokens(*(None if id is None else tokenizer.piece(id) for id in ends))


def encoded_pairs(
    tokenizer: Any,
    pairs: Any,
    template: Any = None,
    max_length: int | None = None,
    vocabulary: int | None = None,
) -> tuple[list[EncodedPair], list[str]]:
    """Returns pairs as tokens, and notes on what was left out or cut.

    Args:
        tokenizer: A `Tokenizer`; None if all pairs are `EncodedPair`s. One without a template
            gets the one that is used.
        pairs: Whatever `read_pairs` takes, or `EncodedPair`s.
        template: As in `template_of`.
        max_length: Most tokens of a text.
        vocabulary: Tokens that the model has (None: not looked at).

    Raises:
        ValueError: Nothing can be used, or a token that the model has not.
    """
    if isinstance(pairs, Sequence) and pairs and isinstance(pairs[0], EncodedPair):
        return _known(list(pairs), vocabulary), []
    if tokenizer is None:
        raise ValueError("pairs of text need a tokenizer; without one give EncodedPairs")
    found = read_pairs(pairs)
    notes = [found.told()] if found.skipped else []
    chat = template_of(tokenizer, template)
    if getattr(tokenizer, "chat_template", chat) is None:
        tokenizer.chat_template = chat
    encoded: list[EncodedPair] = []
    lost = cut = tokens = 0
    for pair in found:
        one = encode_pair(tokenizer, pair, chat, max_length)
        if one is None:
            lost += 1
            continue
        encoded.append(one)
        cut += one.cut > 0
        tokens += one.cut
    if lost:
        notes.append(f"left out: {lost} pairs of which max_length={max_length} leaves no answer")
    if cut:
        notes.append(f"cut: {cut} pairs at max_length={max_length}, by {tokens} tokens in all")
    if not encoded:
        raise ValueError(
            f"no pair is left of {len(found)}: max_length={max_length} leaves no answer; raise it"
        )
    return _known(encoded, vocabulary), notes


def _known(pairs: list[EncodedPair], vocabulary: int | None) -> list[EncodedPair]:
    highest = max(max([*pair.prompt, *pair.chosen, *pair.rejected]) for pair in pairs)
    if vocabulary is not None and highest >= vocabulary:
        raise ValueError(
            f"the tokenizer gives {highest}, but the model has {vocabulary} tokens: it is another "
            "model's"
        )
    return pairs


def group_of(pair: EncodedPair) -> Group:
    """Returns the prompt with the chosen and the rejected answer.

    What a template writes behind an answer's last scored token changes nothing and is left out.

    Args:
        pair: Tokens.
    """
    marks = (pair.chosen_targets, pair.rejected_targets)
    ends = [max((at + 1 for at, mark in enumerate(row) if mark), default=0) for row in marks]
    return Group(
        pair.prompt, [pair.chosen[: ends[0]], pair.rejected[: ends[1]]],
        [marks[0][: ends[0]], marks[1][: ends[1]]],
    )  # fmt: skip


@dataclasses.dataclass
class Micro:
    """Pairs that are forwarded at once.

    Attributes:
        indices: Numbers of the pairs.
        step: Numbers of all pairs of the step.
        shared: What the micro-batches of a step have in common; filled by the first.
    """

    indices: list[int]
    step: list[int]
    shared: dict[str, Any]


class Feed:
    """Step to micro-batches: each round through the pairs has an order of its own.

    Args:
        groups: All pairs.
        batch: Pairs of a step, over all ranks.
        rounds: How often each pair is seen; the last step may be a short one.
        seed: Of the orders.
        tokens: About how many tokens are forwarded at once.
        rank: Of this process.
        ranks: How many there are.
    """

    def __init__(
        self, groups: Sequence[Group], batch: int, rounds: float, seed: int,
        tokens: int = _MICRO_TOKENS, rank: int = 0, ranks: int = 1,
    ) -> None:  # fmt: skip
        if batch < ranks or rounds <= 0:
            raise ValueError(
                f"batch={batch}, epochs={rounds}: a pair for each of {ranks} ranks at least, and "
                "epochs above 0"
            )
        self.groups, self.batch, self.seed, self.tokens = groups, batch, seed, tokens
        self.rank, self.ranks = rank, ranks
        self.total = max(1, round(rounds * len(groups)))
        self.steps = -(-self.total // batch)

    def __call__(self, step: int) -> list[Micro]:
        first = step * self.batch
        # With several ranks the last step is a full one: no rank may be without a pair.
        last = first + self.batch if self.ranks > 1 else min(first + self.batch, self.total)
        orders: dict[int, np.ndarray] = {}
        count = len(self.groups)
        chosen = []
        for at in range(first, last):
            turn = at // count
            if turn not in orders:
                orders[turn] = np.random.default_rng((self.seed, turn)).permutation(count)
            chosen.append(int(orders[turn][at % count]))
        own = chosen[self.rank :: self.ranks]
        shared: dict[str, Any] = {}
        micros, at = [], 0
        for part in parts_of([self.groups[i] for i in own], self.tokens):
            micros.append(Micro(own[at : at + len(part)], own, shared))
            at += len(part)
        return micros
