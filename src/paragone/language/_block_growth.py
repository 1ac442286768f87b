r"""How a tree of drafts grows: which tokens hang on a node, and which nodes are followed.

Chosen drafts are those most likely to be agreed to. A node's worth is the chance of its whole path
under the drafter, and the tree that has the greatest expected number of agreed nodes is simply that
of the worthiest ones, since no node is worth more than its parent:

$$ v(x_1 \dots x_d) = \prod_{i \le d} q(x_i \mid x_{<i}), \qquad
   \mathrm{E}[\text{agreed}] = \sum_{\text{nodes}} v . $$

Level by level the `width` worthiest nodes get `width` children each, and of all that were seen the
`nodes` worthiest are offered.

Drawn drafts must have exactly the distribution that the verifier is told, so nothing may be left
out for what it turned out to be: how many children a node gets is settled before they are drawn,
one after the other and without replacement. What level gets is an equal share of the nodes, the
worthiest parents first.

References:
    Li et al. (2024), "EAGLE-2", arXiv:2406.16858, section 4 (expansion and reranking).
    Wang et al. (2024), "OPT-Tree", arXiv:2406.17276, section 3 (the sum that is maximised).

Shapes: F nodes that are followed, V tokens that the drafter knows, W those of the model.
"""

from __future__ import annotations

import numpy as np

from paragone.language.drafting import Draft, Plan
from paragone.language.sampling import Sampling, uniform

__all__ = ["Growth", "neutral"]

_OWN = 0x5851F42D4C957F2D
"""What sets the draws of drafts apart from those of the verifier with the same seed."""


def neutral(sampling: Sampling) -> bool:
    """Whether scores are drawn from as they are: no penalty and no bias."""
    return (
        sampling.repetition_penalty == 1
        and not sampling.presence_penalty
        and not sampling.frequency_penalty
        and not sampling.logit_bias
    )


class Growth:
    """The tree of one sequence while it grows.

    Args:
        plan: How large it becomes.
        sampling: How the sequence's tokens are drawn.
        drawn: Whether drafts are drawn; at temperature 0 they are chosen all the same.
        ids: (V,) tokens that the drafter's scores are of (None: all).
        vocabulary: W.
        known: Tokens so far, for penalties.
        prompt: How many of them are the prompt's.
        draws: Draws made for this sequence before.

    Attributes:
        front: Nodes whose children come next; at first the root, -1.
        draws: Draws made, these included.
    """

    def __init__(
        self, plan: Plan, sampling: Sampling, drawn: bool, ids: np.ndarray | None,
        vocabulary: int, known: list[int], prompt: int, draws: int = 0,
    ):  # fmt: skip
        self.plan, self.sampling, self.ids = plan, sampling, ids
        self.drawn = drawn and sampling.temperature > 0
        self.vocabulary, self.known, self.prompt = vocabulary, known, prompt
        self.plain = neutral(sampling)
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.worth: list[float] = []
        self.shares: dict[int, np.ndarray] = {}
        self.front, self.level, self.draws = [-1], 0, draws

    def path(self, node: int) -> list[int]:
        """Nodes from the root's child to this one."""
        found = []
        while node >= 0:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    def extend(self, scores: np.ndarray) -> None:
        """Hangs a level of children on the nodes in `front`.

        Args:
            scores: (F, V) float32 scores behind each.
        """
        before = len(self.tokens)
        self.level += 1
        if self.drawn:
            self._draw(scores)
        elif self.plan.width == 1 and self.plain:
            best = int(scores[0].argmax())
            self._hang(self.front[0], best if self.ids is None else int(self.ids[best]), 0.0)
        else:
            self._choose(scores)
        new = range(before, len(self.tokens))
        order = sorted(new, key=lambda node: -self.worth[node])
        self.front = [] if self.level >= self.plan.depth else sorted(order[: self.plan.width])

    def draft(self) -> Draft:
        """The tree, no larger than planned."""
        count, most = len(self.tokens), self.plan.nodes
        kept = range(count)
        if count > most:
            kept = sorted(sorted(kept, key=lambda node: -self.worth[node])[:most])
        place = {-1: -1, **{node: at for at, node in enumerate(kept)}}
        return Draft(
            np.array([self.tokens[node] for node in kept], np.int64),
            np.array([place[self.parents[node]] for node in kept], np.int64),
            self.shares,
        )

    def _hang(self, parent: int, token: int, worth: float) -> None:
        self.tokens.append(token)
        self.parents.append(parent)
        self.worth.append(worth + (self.worth[parent] if parent >= 0 else 0.0))

    def _choose(self, scores: np.ndarray) -> None:
        by = self.sampling.temperature or 1.0
        for parent, row in zip(self.front, scores, strict=True):
            x = self._scores(parent, row) / by
            top = _largest(x, self.plan.width)
            logs = x[top] - x[top[0]] - np.log(np.exp(x - x[top[0]]).sum())
            for token, log in zip(top, logs, strict=True):
                if log > -np.inf:
                    self._hang(parent, self._token(token), float(log))

    def _scores(self, parent: int, row: np.ndarray) -> np.ndarray:
        """Scores with penalties and bias, where there are any: then of all tokens."""
        if self.plain:
            return row.astype(np.float64)
        known = [*self.known, *(self.tokens[node] for node in self.path(parent))]
        return self.sampling.scores(self._whole(row), known, self.prompt)

    def _whole(self, row: np.ndarray) -> np.ndarray:
        if self.ids is None:
            return row
        found = np.full(self.vocabulary, -np.inf, np.float32)
        found[self.ids] = row
        return found

    def _token(self, at: int) -> int:
        return int(self.ids[at]) if self.plain and self.ids is not None else int(at)

    def _draw(self, scores: np.ndarray) -> None:
        plan = self.plan
        left = plan.nodes // plan.depth + (self.level <= plan.nodes % plan.depth)
        order = sorted(
            range(len(self.front)),
            key=lambda at: -(self.worth[self.front[at]] if self.front[at] >= 0 else 0.0),
        )
        for at in order:
            count = min(plan.width, left)
            if not count:
                return
            left -= self._drawn(self.front[at], scores[at], count)

    def _drawn(self, parent: int, row: np.ndarray, count: int) -> int:
        """Draws up to so many children of a node; returns how many there are."""
        if self.plain:
            share = self.sampling.probabilities(row)
        else:
            known = [*self.known, *(self.tokens[node] for node in self.path(parent))]
            share = self.sampling.probabilities(self._whole(row), known, self.prompt)
        if self.plain and self.ids is not None:
            whole = np.zeros(self.vocabulary)
            whole[self.ids] = share
            share = whole
        self.shares[parent] = share
        left = share.copy()
        for made in range(count):
            edges = np.cumsum(left)
            if not edges[-1] > 0:
                return made
            u = uniform(self.sampling.key ^ _OWN, self.draws)
            token = int(np.searchsorted(edges, u * edges[-1], side="right"))
            token = min(token, int(np.flatnonzero(left)[-1]))
            self.draws += 1
            self._hang(parent, token, float(np.log(share[token])))
            left[token] = 0.0
        return count


def _largest(x: np.ndarray, count: int) -> np.ndarray:
    """Where the largest stand, the first of equals first."""
    if count < len(x):
        edge = np.partition(x, len(x) - count)[len(x) - count]
        found = np.flatnonzero(x >= edge)
    else:
        found = np.arange(len(x))
    return found[np.argsort(-x[found], kind="stable")][:count]
