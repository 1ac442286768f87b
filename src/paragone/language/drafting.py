r"""The contract of drafters: who guesses tokens ahead, and what a guess looks like.

A step of speculative decoding is three calls: a drafter proposes a tree of tokens behind the last
one that is certain, one pass of the model scores all of them, and the verifier walks down the tree
as far as the model agrees, and adds one token of its own. With the chance $a_d$ that a draft of
depth d is agreed to once its parent was, a step of depth D yields

$$ \mathrm{E}[\text{tokens}] = 1 + \sum_{d=1}^{D} \prod_{e \le d} a_e , \qquad
   \text{and pays if it exceeds}\quad \frac{T(1 + n) + T_\text{draft}}{T(1)} , $$

T(n) being the time of a pass over n tokens of a sequence.

Whoever can guess implements `Drafter` and `Drafting`; `generate(speculate=…)`, `serve` and the
study `decoding` know nothing else of it. What drafters propose changes how quick a text comes,
never which text, or with drawn drafts never its distribution.

References:
    Leviathan et al. (2023), arXiv:2211.17192, section 3; Chen et al. (2023), arXiv:2302.01318.
    Miao et al. (2024), "SpecInfer", arXiv:2305.09781, section 4 (trees).

Shapes: n nodes of a draft, V vocabulary, M model width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["Draft", "Drafter", "Drafting", "Plan", "chances_by_depth", "plans_within"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much to draft in a step.

    Args:
        nodes: Most drafted tokens of a sequence.
        depth: Most of them one behind the other.
        width: Most children of a node; 1 for chains.

    Raises:
        ValueError: A number below 1, or more depth than nodes.
    """

    nodes: int
    depth: int
    width: int = 1

    def __post_init__(self) -> None:
        if min(self.nodes, self.depth, self.width) < 1 or self.depth > self.nodes:
            raise ValueError(f"{self}: nodes >= depth >= 1 and width >= 1 are expected")


@dataclasses.dataclass(frozen=True)
class Draft:
    """A tree of tokens behind the last certain token of a sequence, its root.

    Args:
        tokens: (n,) int64; siblings are different tokens, the likeliest first.
        parents: (n,) int64, the node before each, -1 for the root; parents stand before children.
        shares: Node (-1: the root) to the (V,) distribution that its children were drawn from, one
            after the other and without replacement. Children of nodes that are not named were
            chosen, not drawn: then the same seed gives the same text as plain decoding.
    """

    tokens: np.ndarray
    parents: np.ndarray
    shares: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def chain(
        cls, tokens: Sequence[int] | np.ndarray, shares: Mapping[int, np.ndarray] | None = None
    ) -> Draft:
        """A draft without branches.

        Example:
            >>> Draft.chain([7, 8, 9]).parents.tolist()
            [-1, 0, 1]
        """
        tokens = np.asarray(tokens, np.int64)
        return cls(tokens, np.arange(-1, len(tokens) - 1), shares or {})

    @property
    def depths(self) -> np.ndarray:
        """(n,) how far each node is from the root, from 1."""
        found = np.empty(len(self.parents), np.int64)
        for node, parent in enumerate(self.parents):
            found[node] = 1 if parent < 0 else found[parent] + 1
        return found

    def seen(self) -> np.ndarray:
        """(n + 1, n + 1) uint8: what the root and each node see of them, themselves included."""
        count = len(self.parents) + 1
        found = np.eye(count, dtype=np.uint8)
        found[:, 0] = 1
        for node, parent in enumerate(self.parents, 1):
            found[node] |= found[parent + 1]
        return found


class Drafter:
    """Who guesses tokens ahead.

    `PromptLookup`, `DraftModel`, `Medusa`, `Eagle` and `MultiTokenPrediction` are such.

    Attributes:
        name: For tables.
    """

    name: str = "drafter"

    def plans(self) -> Sequence[Plan]:
        """Plans that are worth considering, the smallest first."""
        raise NotImplementedError

    def chances(self, plan: Plan) -> np.ndarray:
        """What is known beforehand of how good the guesses are.

        Args:
            plan: What would be drafted.

        Returns:
            (plan.depth,) chances that a draft of depth d is agreed to, once its parent was.
        """
        raise NotImplementedError

    def open(self, engine: Any) -> Drafting:
        """Makes room for sequences that are decoded by an engine.

        Args:
            engine: The `Engine` of the model that decides.

        Raises:
            ValueError: This drafter was not made for that model.
        """
        raise NotImplementedError


class Drafting:
    """A drafter at work on some sequences, each known by a key of the caller's.

    Attributes:
        hidden: Whether it wants the normalised streams of certain tokens; "trunk": those before
            the last layer.
    """

    hidden: bool | str = False

    def add(self, key: Hashable, tokens: Sequence[int], sampling: Any) -> None:
        """A sequence begins.

        Args:
            key: Its name.
            tokens: What is certain and was read before anything is observed: perhaps nothing, and
                the beginning of the prompt where its keys were kept from an earlier request.
            sampling: The `Sampling` that its tokens are drawn by.
        """
        raise NotImplementedError

    def observe(
        self, keys: Sequence[Hashable], tokens: Sequence[np.ndarray],
        hidden: Sequence[np.ndarray | None],
    ) -> None:  # fmt: skip
        """Tokens became certain.

        The first call tells the whole prompt behind what `add` told and the first drawn token; the
        last token of all is the root that the next draft hangs on.

        Args:
            keys: Sequences.
            tokens: Of each, the (a,) tokens that are new.
            hidden: Of each, (a, M) float32 streams: row i is the one that token i was predicted
                from, so of the token before it. The very first token of a text, which nothing
                predicts, has a row of zeros. None where a stretch was decoded without a draft: the
                drafter does without, and begins anew where streams are told again.
        """
        raise NotImplementedError

    def draft(self, keys: Sequence[Hashable], plan: Plan) -> list[Draft]:
        """Guesses what follows the root of each sequence.

        Args:
            keys: Sequences.
            plan: At most so much; a draft may be smaller, or empty.
        """
        raise NotImplementedError

    def drop(self, key: Hashable) -> None:
        """A sequence ends."""
        raise NotImplementedError


def plans_within(depth: int, chains: Sequence[int], trees: Sequence[Plan]) -> list[Plan]:
    """Chains and trees that go no deeper than a drafter can.

    Args:
        depth: How far it can look ahead.
        chains: Lengths of chains.
        trees: Plans of trees.

    Example:
        >>> len(plans_within(2, (1, 2, 4), [Plan(4, 2, 2), Plan(8, 4, 2)]))
        3
    """
    found = [Plan(length, length) for length in chains if length <= depth]
    return found + [plan for plan in trees if plan.depth <= depth]


def chances_by_depth(known: Sequence[float], plan: Plan) -> np.ndarray:
    """Chances of a plan, from those of a chain at each depth; the last one holds beyond.

    Args:
        known: Of one guess at depth 1, 2, …; at least one.
        plan: What would be drafted.

    Example:
        >>> chances_by_depth([0.7, 0.6], Plan(3, 3)).tolist()
        [0.7, 0.6, 0.6]
    """
    found = np.array([known[min(d, len(known) - 1)] for d in range(plan.depth)])
    # One more guess at a place finds about a third of what those before have missed.
    return 1 - (1 - found) * (2 / 3) ** (plan.width - 1)
