r"""An all-reduce message by message, on ranks that share network cards.

Each rank has a way out and a way in, each node a card that all of its ranks share, each of them
busy with one message at a time. A message from r to q starts when both ranks have come to its
round and every way that it takes is free:

$$ s = \max(\text{out}_r, \text{in}_q, \text{card}_r, \text{card}_q), \qquad
   e = s + \alpha + n\beta, $$

it holds the ranks' ways until e (the receiver then adds, $n\gamma$) and the cards for their own
time a byte. A rank enters its next round when its messages of this one are through; no clock is
common to all. Messages of a round are served in the order in which their senders are ready, those
of an earlier round first. Without shared cards this is the model of `costs`.

A round that repeats, as in a ring, is followed until every rank and every card is exactly one
period further than before; from there on all repetitions are equal, and are added at once.

Cost: O(messages) until the period repeats.

Shapes: P ranks, M messages of a round.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paragone.training.collectives.costs import best_chunks
from paragone.training.collectives.machine import Machine
from paragone.training.collectives.schedules import Round, Schedule, schedule

__all__ = ["Simulation", "simulate"]

_MOST_RANKS = 1 << 16


@dataclass(frozen=True)
class Simulation:
    """How an all-reduce went.

    Attributes:
        algorithm: Its name.
        seconds: When the last rank was done.
        finish: When each rank was done (P,).
        messages: Messages of all ranks together.
        network_bytes: Bytes that went from one node to another.
    """

    algorithm: str
    seconds: float
    finish: np.ndarray
    messages: int
    network_bytes: float


def simulate(
    algorithm: str,
    *,
    ranks: int,
    bytes: float,
    machine: Machine,
    chunks: int | None = None,
    start: np.ndarray | None = None,
) -> Simulation:
    """Runs an all-reduce of this size on a machine that is only described.

    Prefer it to `cost` where ranks share a network card or do not start together.

    Args:
        algorithm: One of those of `all_reduce`; "hierarchical" takes the machine's nodes.
        ranks: P, at most 65536.
        bytes: Size of the tensor.
        machine: The links.
        chunks: Pieces of each half for "tree" (None: the best for equal links).
        start: When each rank calls (P,); None: all at 0.

    Raises:
        ValueError: An argument is out of range or the algorithm cannot take these ranks.

    Example:
        >>> two = Machine(alpha=1e-5, beta=1e-10)
        >>> round(simulate("ring", ranks=64, bytes=2**20, machine=two).seconds * 1e6)
        1466
    """
    if not 1 <= ranks <= _MOST_RANKS or not 0 <= bytes < float("inf"):
        raise ValueError(f"ranks={ranks}, bytes={bytes}: use 1 to {_MOST_RANKS} ranks, 0 up")
    if algorithm == "tree" and chunks is None:
        chunks = best_chunks(ranks, bytes, machine.alpha, machine.beta + machine.gamma / 2)
    plan = schedule(
        algorithm, ranks, chunks=chunks or 1, ranks_per_node=machine.ranks_per_node
    )  # fmt: skip
    ready = np.zeros(ranks) if start is None else np.array(start, dtype=np.float64)
    if ready.shape != (ranks,) or not np.all(np.isfinite(ready)):
        raise ValueError(f"start has shape {ready.shape}: give {ranks} finite times")
    return _Run(plan, float(bytes), machine, ready).all()


class _Run:
    """State of a simulation: when each rank and each card is free."""

    def __init__(self, plan: Schedule, nbytes: float, machine: Machine, ready: np.ndarray) -> None:
        nodes = -(-plan.ranks // machine.ranks_per_node)
        self.plan, self.machine, self.block = plan, machine, nbytes / plan.blocks
        self.ready, self.out, self.into = ready, ready.copy(), ready.copy()
        self.cards = np.zeros((2, nodes))
        # Imported here: who runs collectives needs no Numba.
        from paragone.training.collectives import _serving

        self.one_round = _serving.one_round
        times = (machine.alpha, machine.beta, *machine.inside, machine.nic, machine.gamma)
        self.times = np.array(times, dtype=np.float64)
        self.messages, self.network_bytes = 0, 0.0

    def all(self) -> Simulation:
        for one in self.plan.reduce:
            self.repeat(one, True)
        for one in self.plan.spread:
            self.repeat(one, False)
        return Simulation(
            self.plan.name, float(self.ready.max()), self.ready, self.messages, self.network_bytes
        )

    def repeat(self, one: Round, adds: bool) -> None:
        width = self.machine.ranks_per_node
        across = one.source // width != one.target // width
        self.messages += len(one.source) * one.repeat
        self.network_bytes += float(across.sum()) * one.width * self.block * one.repeat
        for done in range(1, one.repeat + 1):
            before, cards = self.ready.copy(), self.cards.copy()
            self.once(one, adds)
            period = self.period(before, cards)
            if period is not None:
                self.ready += period * (one.repeat - done)
                self.cards += np.where(self.cards > cards, period * (one.repeat - done), 0.0)
                return

    def once(self, one: Round, adds: bool) -> None:
        order = np.argsort(self.ready[one.source], kind="stable")
        self.one_round(
            self.ready, self.out, self.into, self.cards[0], self.cards[1], order, one.source,
            one.target, one.width * self.block, self.machine.ranks_per_node, self.times, adds,
        )  # fmt: skip

    def period(self, before: np.ndarray, cards: np.ndarray) -> float | None:
        """By how much everything moved on, if by the same; cards not in use stand still."""
        moved = self.ready - before
        used = self.cards > cards
        gone = np.concatenate([moved, (self.cards - cards)[used]])
        first = float(moved[0])
        return first if np.all(np.abs(gone - first) <= 1e-12 * self.ready.max()) else None
