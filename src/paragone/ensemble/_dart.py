r"""DART: trees are dropped while a new one is grown, so that no tree is left a mere correction.

In each round a random set D of the earlier rounds is dropped, the new round is fitted to the
gradients at the reduced score, and both are scaled so that the sum keeps its size. With learning
rate $\eta$ (already in the leaves) and $k = |D|$,

$$ w_{new} = \tfrac{1}{k + \eta}, \quad w_d \leftarrow \tfrac{k}{k + \eta} w_d \ \text{("tree")};
   \qquad w_{new} = \tfrac{1}{1 + \eta}, \quad
   w_d \leftarrow \tfrac{1}{1 + \eta} w_d \ \text{("forest")} . $$

A prediction uses all trees. Naively a round predicts all dropped trees again; here the leaf of
every training row is kept per tree (1 byte, or 2 for trees of more than 256 nodes), so dropping
one tree costs one gather: n steps, four trees at a time.

References:
    Vinayak & Gilad-Bachrach (2015), "DART: dropouts meet multiple additive regression trees",
    algorithm 2.
"""

from __future__ import annotations

import numpy as np

from paragone.ensemble._tree import Tree
from paragone.kernels.jit import njit

__all__ = ["Dropout", "Leaves"]


TOGETHER = 4
"""Trees of at most 256 nodes whose values are added in one pass over the score."""


@njit(nogil=True, error_model="numpy")
def _add_leaves(leaves, values, out):
    for i in range(np.uint64(len(leaves))):
        out[i] += values[np.uint64(leaves[i])]


@njit(nogil=True, error_model="numpy")
def _add_four(a, b, c, d, values, out):
    """Adds values[0, a], values[1, b] ... in this order: the sums are those of single passes."""
    flat = values.ravel()
    one = np.uint64(values.shape[1])
    two, three = one + one, one + one + one
    for i in range(np.uint64(len(out))):
        first = (out[i] + flat[np.uint64(a[i])]) + flat[one + np.uint64(b[i])]
        out[i] = (first + flat[two + np.uint64(c[i])]) + flat[three + np.uint64(d[i])]


class Leaves:
    """Where each row of one table stands in every tree, and the values there."""

    def __init__(self) -> None:
        self.rounds: list[list[tuple[np.ndarray, np.ndarray]]] = []

    def remember(self, trees: list[Tree], leaves: list[np.ndarray]) -> None:
        """Adds a round with the leaf of every row."""
        kept = []
        for tree, leaf in zip(trees, leaves, strict=True):
            size = tree.num_nodes
            kind = np.uint8 if size <= 1 << 8 else np.uint16 if size <= 1 << 16 else np.int32
            small = leaf.astype(kind)
            kept.append((small, np.ascontiguousarray(tree.value[:, 0])))
        self.rounds.append(kept)

    def score(self, chosen: np.ndarray, weights: list[float], out: np.ndarray) -> np.ndarray:
        """Adds what the chosen rounds contribute to each row to `out` (K, n)."""
        for k in range(len(out)):
            waiting: list[tuple[np.ndarray, np.ndarray]] = []
            for index in chosen:
                leaf, values = self.rounds[index][k]
                waiting.append((leaf, weights[index] * values))
                if leaf.dtype != np.uint8 or len(waiting) == TOGETHER:
                    _add(waiting, out[k])
                    waiting = []
            _add(waiting, out[k])
        return out


def _add(trees: list[tuple[np.ndarray, np.ndarray]], out: np.ndarray) -> None:
    """Adds the values at the leaves of a few trees, in their order."""
    if len(trees) == TOGETHER and all(leaf.dtype == np.uint8 for leaf, _ in trees):
        values = np.zeros((TOGETHER, 256))
        for tree, (_, own) in enumerate(trees):
            values[tree, : len(own)] = own
        _add_four(*(leaf for leaf, _ in trees), values, out)
        return
    for leaf, values in trees:
        _add_leaves(leaf, values, out)


class Dropout:
    """The weights of the rounds so far, and which of them to drop.

    Args:
        rate: Share of rounds dropped on average.
        skip: Chance that a round drops nothing.
        one: Whether at least one round is dropped.
        sample: "uniform", or "weighted" (by the rounds' weights).
        normalize: "tree" or "forest".
        learning_rate: Eta of the formulas.
    """

    def __init__(
        self, rate: float, skip: float, one: bool, sample: str, normalize: str, learning_rate: float
    ) -> None:
        for name, share in (("rate_drop", rate), ("skip_drop", skip)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share} must lie in [0, 1]")
        if sample not in ("uniform", "weighted"):
            raise ValueError(f"sample_type={sample!r} must be 'uniform' or 'weighted'")
        if normalize not in ("tree", "forest"):
            raise ValueError(f"normalize_type={normalize!r} must be 'tree' or 'forest'")
        self.rate, self.skip, self.one = rate, skip, one
        self.sample, self.normalize, self.learning_rate = sample, normalize, learning_rate
        self.weights: list[float] = []

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Draws the rounds to drop."""
        count = len(self.weights)
        if count == 0 or generator.random() < self.skip:
            return np.zeros(0, np.int64)
        chance = np.full(count, self.rate)
        if self.sample == "weighted":
            chance = self.rate * count * np.array(self.weights) / np.sum(self.weights)
        dropped = np.flatnonzero(generator.random(count) < chance)
        if self.one and len(dropped) == 0:
            dropped = np.array([generator.integers(count)])
        return dropped

    def rescale(self, dropped: np.ndarray) -> tuple[float, float]:
        """Scales the dropped rounds and adds one; returns (its weight, factor of the dropped)."""
        count = len(dropped)
        if count == 0:
            self.weights.append(1.0)
            return 1.0, 1.0
        if self.normalize == "forest":
            new = factor = 1.0 / (1.0 + self.learning_rate)
        else:
            new = 1.0 / (count + self.learning_rate)
            factor = count * new
        for index in dropped:
            self.weights[index] *= factor
        self.weights.append(new)
        return new, factor
