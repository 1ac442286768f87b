r"""Prompt look-up: what followed the last time that these words stood here follows again.

No model drafts. The last n tokens are looked for in the text so far, prompt included, and what
stood behind them there is proposed:

$$ \hat x_{t+1..t+d} = x_{s+1..s+d}, \qquad
   s = \max\{ s < t : x_{s-n+1..s} = x_{t-n+1..t} \}, $$

with the largest n at most N for which there is such a place. Plans wider than 1 take several of
the latest places, the longest matches first, and merge what followed them into a tree.

It pays where answers repeat their prompts: summaries, edits of code, questions about a text. In
free text it finds little, and a draft of nothing costs nothing.

Cost: N entries of a table for each token; a draft some microseconds.

References:
    Saxena (2023), "Prompt lookup decoding"; Yang et al. (2023), "LLMA", arXiv:2304.04487,
    section 3.

Shapes: n nodes of a draft.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from paragone.language.drafting import Draft, Drafter, Drafting, Plan

__all__ = ["PromptLookup"]


class PromptLookup(Drafter):
    """Drafts what followed the same tokens before.

    Prefer it to heads and draft models where the output copies from the input: it needs no
    training and no memory. Prefer those in free text.

    Args:
        longest: Most tokens N that are looked for.
        shortest: Fewest; 1 drafts often, and is often wrong.

    Raises:
        ValueError: `shortest` below 1, or above `longest`.

    Example:
        >>> drafting = PromptLookup().open(None)
        >>> drafting.add("a text", [], None)
        >>> drafting.observe(["a text"], [np.array([5, 6, 7, 8, 5, 6])], [None])
        >>> drafting.draft(["a text"], Plan(nodes=3, depth=3))[0].tokens.tolist()
        [7, 8, 5]
    """

    name = "prompt-lookup"

    def __init__(self, longest: int = 3, shortest: int = 1):
        if not 1 <= shortest <= longest:
            raise ValueError(f"shortest={shortest}, longest={longest}: 1 <= shortest <= longest")
        self.longest, self.shortest = longest, shortest

    def plans(self) -> Sequence[Plan]:
        """Chains of 2 to 16, and a tree."""
        return Plan(2, 2), Plan(4, 4), Plan(8, 8), Plan(8, 4, 2), Plan(16, 16)

    def chances(self, plan: Plan) -> np.ndarray:
        """Of free text; where much is copied they turn out higher."""
        return np.minimum(0.3 + 0.15 * np.arange(plan.depth), 0.8)

    def open(self, engine: Any) -> Drafting:
        """Makes room for sequences; any engine will do."""
        return _Lookup(self.longest, self.shortest)


class _Lookup(Drafting):
    """Sequences with their tables of what stood where."""

    def __init__(self, longest: int, shortest: int):
        self.longest, self.shortest = longest, shortest
        self.texts: dict[Hashable, _Text] = {}

    def add(self, key: Hashable, tokens: Sequence[int], sampling: Any) -> None:
        self.texts[key] = _Text(self.longest, self.shortest)
        self.texts[key].grow([int(token) for token in tokens])

    def observe(
        self, keys: Sequence[Hashable], tokens: Sequence[np.ndarray],
        hidden: Sequence[np.ndarray | None],
    ) -> None:  # fmt: skip
        for key, new in zip(keys, tokens, strict=True):
            self.texts[key].grow(np.asarray(new).tolist())

    def draft(self, keys: Sequence[Hashable], plan: Plan) -> list[Draft]:
        return [self.texts[key].draft(plan) for key in keys]

    def drop(self, key: Hashable) -> None:
        del self.texts[key]


class _Text:
    """Tokens so far, and behind which place each run of them stood last.

    `before[t]` tells of the run of `shortest` tokens that ends at t where it stood before: all
    places are found by following it.
    """

    def __init__(self, longest: int, shortest: int):
        self.sizes = range(longest, shortest - 1, -1)
        self.tokens: list[int] = []
        self.last: dict[tuple[int, ...], int] = {}
        self.earlier: dict[tuple[int, ...], int] = {}

    def grow(self, new: list[int]) -> None:
        """Takes tokens; what the latest ones follow is known from before they came."""
        tokens = self.tokens
        for token in new:
            tokens.append(token)
            end = len(tokens)
            for size in self.sizes:
                if size <= end:
                    run = tuple(tokens[end - size :])
                    at = self.last.get(run)
                    if at is not None:
                        self.earlier[run] = at
                    self.last[run] = end

    def draft(self, plan: Plan) -> Draft:
        """A tree of what followed, of at most `plan.width` places."""
        tokens, end = self.tokens, len(self.tokens)
        found: list[list[int]] = []
        for size in self.sizes:
            at = self.earlier.get(tuple(tokens[end - size :])) if size <= end else None
            if at is None:
                continue
            # Behind the end the text goes on as the draft itself does.
            follows, span = [], end - at
            for step in range(plan.depth):
                follows.append(tokens[at + step % span])
            if follows not in found:
                found.append(follows)
            if len(found) == plan.width:
                break
        return _merged(found, plan)


def _merged(found: list[list[int]], plan: Plan) -> Draft:
    """A tree of several continuations; each may take what the ones before leave of the nodes."""
    children: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    for follows in found:
        node = -1
        for token in follows:
            known = children.get((node, token))
            if known is None:
                if len(tokens) == plan.nodes:
                    break
                known = children[node, token] = len(tokens)
                tokens.append(token)
                parents.append(node)
            node = known
    return Draft(np.array(tokens, np.int64), np.array(parents, np.int64))
