r"""Who sends what to whom, round by round: all-reduce algorithms as data.

The tensor is cut into B blocks. A `Round` is a list of messages (from, to, blocks) that travel
at the same time; a rank enters the next round when its own messages of this one are through. A
`Schedule` is a row of rounds that reduce, until every block is complete at its owner, and a row
that spreads complete blocks. The same object is executed (`_execution`), counted (`counts`) and
simulated (`simulation`), so what is predicted is what runs.

With P ranks, n bytes, block b of rank r:

- *ring*: B = P. In step s rank r sends block r - 1 - s to its right neighbour and adds the block
  that comes from the left; after P - 1 steps block r is complete at rank r, and goes around once
  more. $2(P-1)$ steps, $2 \frac{P-1}{P} n$ bytes a rank, which is the least possible.
- *tree*: two binary trees, each for half of the tensor, cut into chunks that follow each other;
  a rank that is inside one tree is a leaf of the other, so that no link idles.
- *halving_doubling*: exchange half of what is left with the rank at distance P/2, P/4 ... 1, then
  back. $2 \log_2 P$ steps, the bytes of the ring. Where P is no power of two, the excess ranks
  first hand all they have to a neighbour and get the result from it at the end.
- *bcube*: the same with mixed radix: in a group of f ranks everyone exchanges with f - 1 others
  at once. Any P whose prime factors are at most 64.
- *hierarchical*: ring inside a node, rings across nodes, each on its share, ring inside.
- *naive*: all send to rank 0, which adds in order and sends the sum to each. The floor.

References:
    Patarasuk and Yuan (2009), "Bandwidth optimal all-reduce algorithms for clusters of
    workstations", section 3.
    Thakur, Rabenseifner and Gropp (2005), "Optimization of collective communication operations
    in MPICH", section 4.5.
    Sanders, Speck and Träff (2009), "Two-tree algorithms for full bandwidth broadcast, reduction
    and scan", section 3.

Shapes: P ranks, B blocks, M messages of a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = [
    "ALGORITHMS",
    "BROADCASTS",
    "Round",
    "Schedule",
    "bcube_factors",
    "broadcast_schedule",
    "schedule",
]

ALGORITHMS = ("ring", "tree", "halving_doubling", "bcube", "hierarchical", "naive")
BROADCASTS = ("binomial", "chain")

_MOST_FACTOR = 64


@dataclass(frozen=True, eq=False)
class Round:
    """Messages that travel at the same time, perhaps repeated with blocks moved on.

    In repetition i message m holds the blocks from
    `base[m] + (offset[m] + i * shift) % modulus` on, `width` of them.

    Attributes:
        source: Sending rank (M,).
        target: Receiving rank (M,).
        offset: First block, counted from `base` (M,).
        width: Blocks in a message.
        base: (M,) or 0.
        shift: By how much the blocks move in each repetition.
        modulus: Where they wrap around.
        repeat: Number of repetitions.
    """

    source: np.ndarray
    target: np.ndarray
    offset: np.ndarray
    width: int = 1
    base: np.ndarray | int = 0
    shift: int = 0
    modulus: int = 1 << 40
    repeat: int = 1

    def first_blocks(self, repetition: int = 0) -> np.ndarray:
        """The first block of each message (M,)."""
        return self.base + (self.offset + repetition * self.shift) % self.modulus

    def of(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the messages that the rank sends, and of those that it receives."""
        return np.flatnonzero(self.source == rank), np.flatnonzero(self.target == rank)


@dataclass(frozen=True, eq=False)
class Schedule:
    """An algorithm for a number of ranks.

    Attributes:
        name: One of `ALGORITHMS` or `BROADCASTS`.
        ranks: P.
        blocks: B.
        owner: The rank at which each block is complete after `reduce` (B,).
        reduce: Rounds whose messages are added to what the receiver holds.
        spread: Rounds whose messages replace what the receiver holds.
    """

    name: str
    ranks: int
    blocks: int
    owner: np.ndarray
    reduce: tuple[Round, ...]
    spread: tuple[Round, ...]

    @property
    def in_order(self) -> bool:
        """Whether rank r owns block r alone, as reduce-scatter and all-gather need it."""
        return np.array_equal(self.owner, np.arange(self.ranks))

    def ranges(self, rank: int) -> list[tuple[int, int]]:
        """The runs of blocks that the rank owns, as (first, end)."""
        mine = np.flatnonzero(self.owner == rank)
        if not len(mine):
            return []
        cuts = np.flatnonzero(np.diff(mine) > 1) + 1
        return [(int(run[0]), int(run[-1]) + 1) for run in np.split(mine, cuts)]


def _reversed(rounds: list[Round]) -> tuple[Round, ...]:
    """The same messages backwards: what was reduced along them is spread along them."""
    return tuple(Round(r.target, r.source, r.offset, r.width) for r in reversed(rounds))


def _ring(p: int) -> Schedule:
    rank = np.arange(p)
    right = (rank + 1) % p
    if p == 1:
        return Schedule("ring", 1, 1, rank, (), ())
    reduce = Round(rank, right, (rank - 1) % p, shift=-1, modulus=p, repeat=p - 1)
    spread = Round(rank, right, rank, shift=-1, modulus=p, repeat=p - 1)
    return Schedule("ring", p, p, rank, (reduce,), (spread,))


def _in_order_tree(p: int) -> tuple[np.ndarray, np.ndarray]:
    """Parent and depth of positions 1 ... p (index 0 is unused) of a binary search tree.

    Odd positions are leaves; a position divisible by 2^i stands at height i. The root's parent
    is 0.
    """
    parent, depth = np.zeros(p + 1, np.int64), np.zeros(p + 1, np.int64)
    top = 1 << (p.bit_length() - 1)
    pending = [(top, 0, 0, top)]
    while pending:
        position, above, level, reach = pending.pop()
        parent[position], depth[position] = above, level
        step = reach >> 1
        if step:
            pending.append((position - step, position, level + 1, step))
        while step and position + step > p:
            step >>= 1
        if step:
            pending.append((position + step, position, level + 1, step))
    return parent, depth


def _trees(p: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(parent, depth) by rank for two trees; who is inside one is a leaf of the other."""
    parent, depth = _in_order_tree(p)
    rank = np.arange(p)
    second = p - rank if p % 2 == 0 else (rank + 1) % p + 1
    found = []
    for position in (rank + 1, second):
        at = np.zeros(p + 1, np.int64)
        at[position] = rank
        above = parent[position]
        found.append((np.where(above > 0, at[above], -1), depth[position]))
    return found


def _colours(trees: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """0 or 1 for the edge from each rank to its parent, by tree.

    A rank's two edges upwards differ, and so do those of its two children in one tree: edges
    that meet form cycles of even length, along which the colours alternate. So in each half of
    a round every rank sends one message at most, and receives one.
    """
    p = len(trees[0][0])
    colour = [np.full(p, -1), np.full(p, -1)]
    brother = []
    for parent, _ in trees:
        first: dict[int, int] = {}
        other: dict[int, int] = {}
        for rank, above in enumerate(parent.tolist()):
            if above >= 0 and (twin := first.setdefault(above, rank)) != rank:
                other[rank], other[twin] = twin, rank
        brother.append(other)
    for start in range(2 * p):
        walk = [(start % p, start // p, 0)]
        while walk:
            rank, tree, shade = walk.pop()
            if trees[tree][0][rank] < 0 or colour[tree][rank] >= 0:
                continue
            colour[tree][rank] = shade
            walk.append((rank, 1 - tree, 1 - shade))
            if rank in brother[tree]:
                walk.append((brother[tree][rank], tree, 1 - shade))
    return colour


def _tree(p: int, chunks: int) -> Schedule:
    if p == 1:
        return Schedule("tree", 1, 1, np.zeros(1, np.int64), (), ())
    trees = _trees(p)
    deepest = max(int(depth.max()) for _, depth in trees)
    owner = np.repeat([int(np.flatnonzero(parent < 0)[0]) for parent, _ in trees], chunks)
    child = np.concatenate([np.flatnonzero(parent >= 0) for parent, _ in trees])
    tree = np.repeat([0, 1], p - 1)
    parent, depth, colour = (
        np.stack(part)[tree, child] for part in (*zip(*trees, strict=True), _colours(trees))
    )
    up, down = [], []
    for t in range(2 * (deepest + chunks - 1)):
        for rounds, level in ((up, deepest - depth), (down, depth - 1)):
            chunk = t // 2 - level
            on = np.flatnonzero((chunk >= 0) & (chunk < chunks) & (colour == t % 2))
            ends = (child[on], parent[on]) if rounds is up else (parent[on], child[on])
            rounds.append(Round(*ends, tree[on] * chunks + chunk[on]))
    return Schedule("tree", p, 2 * chunks, owner, tuple(up), tuple(down))


def _halving_doubling(p: int) -> Schedule:
    core = 1 << (p.bit_length() - 1)
    rest = p - core
    new = np.arange(core)
    # The first 2 * rest ranks go in pairs (even, odd); the odd one takes part for both.
    old = np.where(new < rest, 2 * new + 1, new + rest)
    rounds = []
    if rest:
        even = 2 * np.arange(rest)
        rounds.append(Round(even, even + 1, np.zeros(rest, np.int64), width=core))
    distance = core // 2
    while distance:
        partner = new ^ distance
        # After this exchange a rank keeps the part of `distance` blocks that holds its number.
        rounds.append(Round(old, old[partner], partner // distance * distance, width=distance))
        distance //= 2
    return Schedule("halving_doubling", p, core, old, tuple(rounds), _reversed(rounds))


def bcube_factors(p: int) -> list[int]:
    """The sizes of the groups in which "bcube" exchanges: prime factors, with 2 * 2 as 4."""
    found, rest = [], p
    for f in range(2, _MOST_FACTOR + 1):
        while rest % f == 0:
            found.append(f)
            rest //= f
    if rest > 1:
        raise ValueError(
            f"bcube with {p} ranks: a prime factor of {rest} is above {_MOST_FACTOR}; use 'ring' "
            "or 'halving_doubling'"
        )
    twos = found.count(2)
    return [4] * (twos // 2) + [2] * (twos % 2) + [f for f in found if f > 2]


def _bcube(p: int) -> Schedule:
    factors = bcube_factors(p)
    rank, rounds, span = np.arange(p), [], p
    for f in factors:
        width = span // f
        digit = rank // width % f
        shares = []
        for turn in range(1, f):
            peer = rank + ((digit + turn) % f - digit) * width
            shares.append((rank, peer, peer // width * width))
        source, target, offset = (np.concatenate(part) for part in zip(*shares, strict=True))
        rounds.append(Round(source, target, offset, width=width))
        span = width
    return Schedule("bcube", p, p, rank, tuple(rounds), _reversed(rounds))


def _hierarchical(p: int, local: int) -> Schedule:
    if local < 1 or p % local:
        raise ValueError(
            f"ranks_per_node={local} does not divide {p} ranks; give a divisor, or use 'ring'"
        )
    nodes, rank = p // local, np.arange(p)
    node, place = rank // local, rank % local
    inside = node * local + (place + 1) % local
    across = (node + 1) % nodes * local + place
    reduce, spread = [], []
    if local > 1:
        more = {"width": nodes, "shift": -nodes, "modulus": p, "repeat": local - 1}
        reduce.append(Round(rank, inside, (place - 1) % local * nodes, **more))
        spread.append(Round(rank, inside, place * nodes, **more))
    if nodes > 1:
        more = {"base": place * nodes, "shift": -1, "modulus": nodes, "repeat": nodes - 1}
        reduce.append(Round(rank, across, (node - 1) % nodes, **more))
        spread.insert(0, Round(rank, across, node, **more))
    owner = np.empty(p, np.int64)
    owner[place * nodes + node] = rank
    return Schedule("hierarchical", p, p, owner, tuple(reduce), tuple(spread))


def _naive(p: int) -> Schedule:
    zero = np.zeros(1, np.int64)
    rounds = [Round(np.array([r]), zero, zero) for r in range(1, p)]
    back = [Round(r.target, r.source, r.offset) for r in rounds]
    return Schedule("naive", p, 1, zero, tuple(rounds), tuple(back))


@lru_cache(maxsize=64)
def schedule(algorithm: str, ranks: int, *, chunks: int = 1, ranks_per_node: int = 1) -> Schedule:
    """The rounds of an all-reduce.

    Args:
        algorithm: One of `ALGORITHMS`.
        ranks: P, at least 1.
        chunks: Pieces into which "tree" cuts each half of the tensor.
        ranks_per_node: Ranks of a node, for "hierarchical"; must divide P. Rank r is on node
            `r // ranks_per_node`.

    Raises:
        ValueError: An unknown algorithm, or one that cannot take this number of ranks.

    Example:
        >>> ring = schedule("ring", 4)
        >>> sum(r.repeat for r in ring.reduce + ring.spread)
        6
    """
    if ranks < 1:
        raise ValueError(f"ranks={ranks}: at least 1 is needed")
    if chunks < 1:
        raise ValueError(f"chunks={chunks}: at least 1 is needed")
    match algorithm:
        case "ring":
            return _ring(ranks)
        case "tree":
            return _tree(ranks, chunks)
        case "halving_doubling":
            return _halving_doubling(ranks)
        case "bcube":
            return _bcube(ranks)
        case "hierarchical":
            return _hierarchical(ranks, ranks_per_node)
        case "naive":
            return _naive(ranks)
    raise ValueError(f"algorithm={algorithm!r} is none of {', '.join(ALGORITHMS)}")


@lru_cache(maxsize=64)
def broadcast_schedule(algorithm: str, ranks: int, source: int = 0, *, chunks: int = 1) -> Schedule:
    """The rounds of a broadcast: "binomial" (log2 P rounds) or "chain" (for large tensors).

    Args:
        algorithm: One of `BROADCASTS`.
        ranks: P.
        source: The rank that has the tensor.
        chunks: Pieces that follow each other along the chain.
    """
    if algorithm not in BROADCASTS:
        raise ValueError(f"algorithm={algorithm!r} is none of {', '.join(BROADCASTS)}")
    if not 0 <= source < ranks:
        raise ValueError(f"source={source} is no rank of {ranks}: use 0 to {ranks - 1}")
    rounds = []
    if algorithm == "binomial":
        chunks, reach = 1, 1
        while reach < ranks:
            have = np.arange(min(reach, ranks - reach))
            rounds.append(Round((have + source) % ranks, (have + reach + source) % ranks, 0 * have))
            reach *= 2
    else:
        place = np.arange(ranks - 1)
        for t in range(ranks - 2 + chunks if ranks > 1 else 0):
            who = place[(t - place >= 0) & (t - place < chunks)]
            rounds.append(Round((who + source) % ranks, (who + 1 + source) % ranks, t - who))
    owner = np.full(chunks, source)
    return Schedule(algorithm, ranks, chunks, owner, (), tuple(rounds))
