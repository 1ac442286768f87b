r"""Trees of drafts: which guesses are worth a place in the next pass of the model.

Heads that look one, two, … tokens ahead give ranked guesses for each depth, and a node of the tree
is a path of ranks $(r_1, \dots, r_d)$: the $r_e$-th guess at each depth e. A step yields, beside
the model's own token, one for each node on the right path, so a tree S of n nodes is best if

$$ \max_{S,\;|S| = n} \sum_{(r_1..r_d) \in S} P(\text{the path is right}) . $$

No path is likelier than its beginning, so that the n likeliest paths are a tree, and the best one.
Static trees take $P$ as counted on text (or as the product of each head's accuracy by rank);
dynamic ones take the product of what the heads themselves say in this place.

Cost: O(n log n) for n nodes.

References:
    Cai et al. (2024), "Medusa", arXiv:2401.10774, sections 2.1.2, 2.3.3 (trees from accuracies).
    Li et al. (2024), "EAGLE-2", arXiv:2406.16858, section 4.1 (trees by confidence).

Shapes: S places, K heads, W guesses of a head, n nodes.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from paragone.language.drafting import Draft, Plan

__all__ = ["Shape", "dynamic_tree", "path_shares", "static_tree"]

Path = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Shape:
    """A tree without its tokens.

    Attributes:
        parents: (n,) the node before each, -1 for the root; parents stand before children.
        depths: (n,) from 1.
        ranks: (n,) which guess of its depth a node takes, from 0.
        shares: (n,) chance that the path to a node is right.
    """

    parents: np.ndarray
    depths: np.ndarray
    ranks: np.ndarray
    shares: np.ndarray

    def filled(self, guesses: np.ndarray) -> Draft:
        """The draft with tokens.

        Args:
            guesses: (K, W) tokens of each depth, the likeliest first.

        Example:
            >>> static_tree(np.array([[0.5, 0.3]]), Plan(2, 1, 2)).filled(np.array([[7, 9]])).tokens
            array([7, 9])
        """
        return Draft(guesses[self.depths - 1, self.ranks].astype(np.int64), self.parents)

    def chances(self, depth: int) -> np.ndarray:
        """(depth,) chance that one at depth d is right once its parent was; 0 behind the tree."""
        held = np.array([1.0, *(self.shares[self.depths == d + 1].sum() for d in range(depth))])
        return np.divide(held[1:], held[:-1], out=np.zeros(depth), where=held[:-1] > 0)


def path_shares(ranks: np.ndarray, width: int, most: int = 512) -> dict[Path, float]:
    """How often each path of ranks was right.

    Args:
        ranks: (S, K) at which rank each head had the token that came.
        width: Ranks that count; paths end before others.
        most: Paths that are kept, the most frequent ones.

    Returns:
        Path to share of the places, the most frequent first; every path behind its beginning.

    Example:
        >>> path_shares(np.array([[0, 1], [0, 9], [3, 0], [0, 1]]), width=2)
        {(0,): 0.75, (0, 1): 0.5}
    """
    counts: Counter[Path] = Counter()
    for row in np.asarray(ranks).tolist():
        path = tuple(itertools.takewhile(lambda rank: rank < width, row))
        counts.update(path[:depth] for depth in range(1, len(path) + 1))
    first = sorted(counts.items(), key=lambda item: (-item[1], len(item[0]), item[0]))
    return {path: count / len(ranks) for path, count in first[:most]}


def static_tree(shares: Mapping[Path, float] | np.ndarray, plan: Plan) -> Shape:
    """The tree whose nodes are the likeliest to be right.

    Prefer it to `dynamic_tree` where heads were measured on such text as is to come, and their own
    probabilities are not to be trusted or cost too much, as with large vocabularies.

    Args:
        shares: What `path_shares` gives; or (K, W) accuracies, of the r-th guess of each head,
            which are multiplied along paths.
        plan: Most nodes, depth and children of a node.

    Returns:
        The tree; smaller than the plan where nothing else is known to be right ever.

    Raises:
        ValueError: No path at all, or accuracies that are none.
    """
    if isinstance(shares, np.ndarray):
        if shares.ndim != 2 or not shares.size or shares.min() < 0 or shares.max() > 1:
            raise ValueError(f"accuracies of shape {shares.shape}: (K, W) from 0 to 1 are expected")
        ordered = np.argsort(-shares, 1, kind="stable")
        with np.errstate(divide="ignore"):
            tree = dynamic_tree(np.log(np.take_along_axis(shares, ordered, 1)), plan)
        return dataclasses.replace(tree, ranks=ordered[tree.depths - 1, tree.ranks])
    known: dict[Path, int] = {(): -1}
    children: Counter[Path] = Counter()
    chosen: list[tuple[Path, float]] = []
    for path, share in sorted(shares.items(), key=lambda item: (-item[1], len(item[0]), item[0])):
        before = path[:-1]
        fits = len(path) <= plan.depth and children[before] < plan.width and before in known
        if fits and len(chosen) < plan.nodes:
            known[path] = len(chosen)
            children[before] += 1
            chosen.append((path, share))
    if not chosen:
        raise ValueError(f"{len(shares)} paths, none of which fits {plan}: heads are never right")
    return Shape(
        np.array([known[path[:-1]] for path, _ in chosen], np.int64),
        np.array([len(path) for path, _ in chosen], np.int64),
        np.array([path[-1] for path, _ in chosen], np.int64),
        np.array([share for _, share in chosen]),
    )


def dynamic_tree(log_probs: np.ndarray | Sequence[Sequence[float]], plan: Plan) -> Shape:
    """The tree that the heads' own probabilities make the best one.

    Prefer it to `static_tree` in general: where heads are sure it grows deep, else wide.

    Args:
        log_probs: (K, W) of the guesses of each head, falling along the second axis.
        plan: Most nodes, depth and children of a node.

    Example:
        >>> sure = np.log([[0.9, 0.05], [0.8, 0.1]])
        >>> dynamic_tree(sure, Plan(3, 2, 2)).parents.tolist()
        [-1, 0, 0]
    """
    rows = log_probs.tolist() if isinstance(log_probs, np.ndarray) else log_probs
    depth, width = min(plan.depth, len(rows)), min(plan.width, len(rows[0]) if len(rows) else 0)
    parents, depths, ranks, shares = [], [], [], []
    # (-log of the path, age, node before, its log, depth, rank); the older goes first of equals.
    front = [(-rows[0][0], 0, -1, 0.0, 1, 0)] if depth and width else []
    while front and len(parents) < plan.nodes:
        cost, _, before, held, level, rank = heapq.heappop(front)
        if cost == np.inf:
            break
        node = len(parents)
        parents.append(before)
        depths.append(level)
        ranks.append(rank)
        shares.append(-cost)
        if rank + 1 < width:
            more = held - rows[level - 1][rank + 1]
            heapq.heappush(front, (more, 2 * node + 1, before, held, level, rank + 1))
        if level < depth:
            heapq.heappush(front, (cost - rows[level][0], 2 * node + 2, node, cost, level + 1, 0))
    return Shape(
        np.array(parents, np.int64), np.array(depths, np.int64), np.array(ranks, np.int64),
        np.exp(np.array(shares)),
    )  # fmt: skip
