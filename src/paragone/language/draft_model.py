r"""A draft model: a smaller model of the same vocabulary guesses, the large one checks.

A guess of a model that reads all of the text is agreed to more often than one of a head, and costs
passes of a whole model. With c the cost of a pass of the small model in passes of the large one,
a step of D chained drafts that are each agreed to with chance a yields

$$ \mathrm{E}[\text{tokens}] = \frac{1 - a^{D+1}}{1 - a}
   \quad \text{at the price of} \quad \frac{T(1 + D)}{T(1)} + c\,D . $$

Drafts are chosen, the likeliest first, or drawn from the small model's own distribution under the
same temperature and filters.

Cost: D passes of the small model a step, the accepted tokens read with the first of them.

References:
    Leviathan et al. (2023), arXiv:2211.17192, theorem 3.8.
    Chen et al. (2023), arXiv:2302.01318, algorithm 2.

Shapes: F nodes that are followed, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np

from paragone.language._block_growth import Growth, neutral
from paragone.language._block_pages import Lanes, Pages, rectangular
from paragone.language.drafting import (
    Draft,
    Drafter,
    Drafting,
    Plan,
    chances_by_depth,
    plans_within,
)
from paragone.language.engine import Engine, engine_of

__all__ = ["DraftModel"]

_CHAINS = (1, 2, 3, 4, 5, 6, 8, 10)
_TREES = (Plan(4, 3, 2), Plan(8, 4, 2), Plan(16, 5, 3))
_PRIOR = 0.7


class DraftModel(Drafter):
    """Drafts of a smaller `Llama`, through an engine of its own.

    Prefer it to `Eagle` and `MultiTokenPrediction` where such a model exists already and is ten
    times as fast: nothing is trained, and it serves each model of its vocabulary. Heads on the
    model's own streams are cheaper, and agree nearly as often.

    Args:
        model: A `Llama`, or an `Engine` of one, of the same tokens as the model that decides.
        drawn: Whether drafts are drawn from its distribution. Chosen ones (False) give the very
            text of plain decoding with the same seed; where texts are drawn at high temperatures,
            drawn ones are agreed to more often: with chance sum(min(p, q)), not p of the likeliest.
        weights: "float32" or "int8": how the engine keeps it, where the Numba engine serves it.
        depth: Most drafts behind each other that `plans` names.
        accuracies: Chances that a draft of depth d is agreed to, as far as they were measured.

    Example:
        >>> from paragone.language import Llama, LlamaConfig
        >>> sizes = dict(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
        >>> DraftModel(Llama(LlamaConfig(**sizes)), depth=2).plans()[-1]
        Plan(nodes=2, depth=2, width=1)
    """

    name = "draft model"

    def __init__(
        self, model: Any, *, drawn: bool = False, weights: Literal["float32", "int8"] = "float32",
        depth: int = 8, accuracies: Sequence[float] = (),
    ):  # fmt: skip
        self.model, self.drawn, self.weights, self.depth = model, drawn, weights, depth
        self.accuracies = tuple(accuracies)

    def plans(self) -> list[Plan]:
        return plans_within(self.depth, _CHAINS, _TREES)

    def chances(self, plan: Plan) -> np.ndarray:
        return chances_by_depth(self.accuracies or (_PRIOR,), plan)

    def open(self, engine: Any) -> Drafting:
        own = engine_of(self.model, weights=self.weights, threads=getattr(engine, "threads", None))
        if own.config.vocab_size != engine.config.vocab_size:
            raise ValueError(
                f"the draft model has {own.config.vocab_size} tokens, the model "
                f"{engine.config.vocab_size}: both are to have the same vocabulary"
            )
        return _ModelDrafting(own, self.drawn)


@dataclasses.dataclass
class _Sequence:
    """What is known of a sequence.

    Attributes:
        sampling: How its tokens are drawn.
        known: Tokens so far.
        prompt: How many of them are the prompt's (-1: not told yet).
        draws: Draws that its drafts have taken.
        held: Tokens whose keys are kept and certain.
        trail: Drafted tokens whose keys stand behind them.
        scores: Scores behind the root, None until it was read.
    """

    sampling: Any
    known: list[int]
    prompt: int = -1
    draws: int = 0
    held: int = 0
    trail: list[int] = dataclasses.field(default_factory=list)
    scores: np.ndarray | None = None


class _ModelDrafting(Drafting):
    """A `DraftModel` at work."""

    def __init__(self, engine: Engine, drawn: bool):
        self.engine, self.drawn, self.pages = engine, drawn, Pages(engine)
        self.sequences: dict[Hashable, _Sequence] = {}

    def add(self, key: Hashable, tokens: Sequence[int], sampling: Any) -> None:
        self.sequences[key] = _Sequence(sampling, [int(token) for token in tokens])
        self.pages.add(key)

    def drop(self, key: Hashable) -> None:
        del self.sequences[key]
        self.pages.drop(key)

    def observe(
        self, keys: Sequence[Hashable], tokens: Sequence[np.ndarray],
        hidden: Sequence[np.ndarray | None],
    ) -> None:  # fmt: skip
        for key, new in zip(keys, tokens, strict=True):
            one = self.sequences[key]
            one.known += [int(token) for token in new]
            one.scores = None
            if one.prompt < 0:
                one.prompt = len(one.known) - 1

    def draft(self, keys: Sequence[Hashable], plan: Plan) -> list[Draft]:
        ready = [key for key in keys if self.sequences[key].known]
        if not ready:
            return [Draft.chain([]) for _ in keys]
        if len(ready) == 1 and self._alone(self.sequences[ready[0]], plan):
            made = {ready[0]: self._chained(ready[0], plan)}
        else:
            made = self._grown(ready, plan)
        return [made.get(key, Draft.chain([])) for key in keys]

    def _alone(self, one: _Sequence, plan: Plan) -> bool:
        """Whether the engine's compiled loop gives this draft."""
        chosen = not self.drawn or one.sampling.temperature == 0
        return (
            self.engine.backend == "numba" and plan.width == 1 and chosen
            and one.scores is None and neutral(one.sampling)
        )  # fmt: skip

    def _chained(self, key: Hashable, plan: Plan) -> Draft:
        """A chain of the likeliest tokens, in one compiled call."""
        one = self.sequences[key]
        _settled(one)
        table = self.pages.cover(key, len(one.known) + plan.depth)
        greedy = dataclasses.replace(one.sampling, temperature=0.0, seed=0)
        found = self.engine.continued(
            one.known, greedy, plan.depth, (), lambda token: False, pool=self.pages.pool,
            table=np.array(table), held=one.held,
        )  # fmt: skip
        assert found is not None
        one.held, one.trail = len(one.known), found[0][:-1]
        return Draft.chain(found[0])

    def _grown(self, keys: list[Hashable], plan: Plan) -> dict[Hashable, Draft]:
        self._read([key for key in keys if self.sequences[key].scores is None])
        grown: dict[Hashable, Growth] = {}
        lanes: dict[Hashable, Lanes] = {}
        for key in keys:
            one, held = self.sequences[key], len(self.sequences[key].known)
            grown[key] = growth = Growth(
                plan, one.sampling, self.drawn, None, self.engine.config.vocab_size, one.known,
                one.prompt, one.draws,
            )  # fmt: skip
            assert one.scores is not None
            growth.extend(one.scores[None])
            table = self.pages.cover(key, held + plan.depth)
            lanes[key] = Lanes(self.pages, table, held, held + plan.depth)
        for level in range(plan.depth - 1):
            left = [key for key in keys if grown[key].front]
            if left:
                self._level(left, grown, lanes, level)
        self.pages.settle()
        for key, growth in grown.items():
            self.sequences[key].draws = growth.draws
        return {key: growth.draft() for key, growth in grown.items()}

    def _level(
        self, keys: list[Hashable], grown: dict[Hashable, Growth], lanes: dict[Hashable, Lanes],
        level: int,
    ) -> None:  # fmt: skip
        """Reads the nodes in front, and hangs children on them."""
        past, tables, tokens = [], [], []
        for key in keys:
            growth, one = grown[key], self.sequences[key]
            own = lanes[key].place(growth.front, growth.parents)
            tables += own
            past += [len(one.known) + level] * len(own)
            new = [growth.tokens[node] for node in growth.front]
            tokens += new
            one.trail = one.trail[:level]
            one.trail += [t for t, lane in zip(new, own, strict=True) if lane is lanes[key].table]
        scores = self.engine.forward(
            self.pages.pool, tokens, [1] * len(tokens), past, rectangular(tables)
        )
        at = 0
        for key in keys:
            count = len(grown[key].front)
            grown[key].extend(scores[at : at + count])
            at += count

    def _read(self, keys: list[Hashable]) -> None:
        """Reads what is certain and not read yet, at least the last token."""
        if not keys:
            return
        sequences = [self.sequences[key] for key in keys]
        for one in sequences:
            _settled(one)
        new = [one.known[one.held :] for one in sequences]
        past = [one.held for one in sequences]
        tables = [
            self.pages.cover(key, len(one.known)) for key, one in zip(keys, sequences, strict=True)
        ]
        scores = self.engine.forward(
            self.pages.pool, np.concatenate(new), list(map(len, new)), past, rectangular(tables)
        )
        for one, row in zip(sequences, scores, strict=True):
            one.scores, one.held, one.trail = row, len(one.known), []


def _settled(one: _Sequence) -> None:
    """Counts drafted tokens that were agreed to and whose keys are kept; the last is read anew."""
    most = len(one.known) - 1
    for token in one.trail:
        if one.held >= most or one.known[one.held] != token:
            break
        one.held += 1
    one.held, one.trail = min(one.held, most), []
