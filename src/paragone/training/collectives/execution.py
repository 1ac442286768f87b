r"""Runs a schedule on one rank, over any way to exchange tensors with other ranks.

A rank's part is a generator that yields, for each round, what it sends and what it receives,
and goes on when all of that is through; `drive` hands these to a `Transport`. In a round no rank
sends a block that it also receives, so tensors are sent from where they lie while partial sums
arrive in a buffer beside them.

Sums of 16-bit numbers travel and add up as float32 and are rounded once, at the owner. In ordered
mode every rank sends each owner its part as it is, and the owner adds

$$ ((x_0 + x_1) + x_2) + \dots + x_{P-1} $$

which is the serial sum in the order of ranks, bit for bit, for any algorithm and any P; a rank
then sends as much as in the ring and holds P parts of its own share.

Shapes: n elements, P ranks, B blocks; block b holds elements from n b // B to n (b + 1) // B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist

from paragone.training.collectives.schedules import Round, Schedule

__all__ = [
    "OPS", "CollectiveError", "GroupTransport", "Message", "Trace", "Transport", "check_op",
    "drive", "reduced", "spread",
]  # fmt: skip

Part = tuple[int, torch.Tensor]
Steps = Iterator[tuple[list[Part], list[Part]]]

OPS = ("sum", "avg", "max", "min", "prod")
_HALVES = (torch.float16, torch.bfloat16)


class CollectiveError(RuntimeError):
    """A collective did not end: a rank is missing, died, or called something else."""


class Message(NamedTuple):
    """What a rank sent or received: the step it belongs to, to or from whom, how much."""

    step: int
    kind: str
    peer: int
    bytes: int


@dataclass
class Trace:
    """What one rank sent and received, filled in by a collective that is given it.

    Attributes:
        messages: All of them, in order, without those of the agreement on shapes.
    """

    messages: list[Message] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Steps in which this rank took part."""
        return len({message.step for message in self.messages})

    @property
    def sent(self) -> int:
        """Bytes that this rank sent."""
        return sum(message.bytes for message in self.messages if message.kind == "send")

    @property
    def received(self) -> int:
        """Bytes that this rank received."""
        return sum(message.bytes for message in self.messages if message.kind == "receive")


class Transport(Protocol):
    """A way to exchange tensors with the other ranks of a group."""

    rank: int
    size: int

    def exchange(self, sends: Sequence[Part], receives: Sequence[Part]) -> None:
        """Sends and receives all of these (peer, contiguous tensor) pairs at the same time.

        Messages between two ranks arrive in the order in which they were sent.
        """
        ...


class GroupTransport:
    """`isend` and `irecv` of a `torch.distributed` group.

    Args:
        group: The group; None is the default one.
        tag: Keeps the messages of different collectives apart.
        timeout: Seconds that a message may take (None: the group's own timeout).
    """

    def __init__(self, group: Any, tag: int, timeout: float | None) -> None:
        self.group, self.tag = group, tag
        self.timeout = None if timeout is None else timedelta(seconds=timeout)
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def exchange(self, sends: Sequence[Part], receives: Sequence[Part]) -> None:
        """See `Transport`."""
        ops = [
            dist.P2POp(call, _raw(tensor), group=self.group, tag=self.tag, group_peer=peer)
            for call, parts in ((dist.irecv, receives), (dist.isend, sends))
            for peer, tensor in parts
        ]
        peers = sorted({peer for peer, _ in (*sends, *receives)})
        try:
            for work in dist.batch_isend_irecv(ops):
                _ = work.wait() if self.timeout is None else work.wait(self.timeout)
        except RuntimeError as reason:
            raise CollectiveError(
                f"rank {self.rank} of {self.size} got no answer from ranks {peers}: one of them "
                f"is dead, too late, or called something else ({_first_line(reason)})"
            ) from reason


def _raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.uint8 else tensor.view(torch.uint8)


def _first_line(reason: BaseException) -> str:
    return (str(reason).splitlines() or [type(reason).__name__])[0][:200]


def drive(steps: Steps, transport: Transport, trace: Trace | None = None, first: int = 0) -> int:
    """Runs a rank's part to its end and returns the number of the next step.

    Args:
        steps: What `reduced` or `spread` returned.
        transport: Carries the messages.
        trace: Records them.
        first: Number of the first step.
    """
    step = first
    for step, (sends, receives) in enumerate(steps, first + 1):
        if trace is not None:
            for kind, parts in (("send", sends), ("receive", receives)):
                trace.messages += [Message(step - 1, kind, to, part.nbytes) for to, part in parts]
        if sends or receives:
            transport.exchange(sends, receives)
    return step


def check_op(op: str, dtype: torch.dtype) -> str:
    """Returns "" if the operation is defined for the type, else what is wrong and the remedy."""
    if op not in OPS:
        return f"op={op!r} is none of {', '.join(OPS)}"
    if op == "avg" and not (dtype.is_floating_point or dtype.is_complex):
        return f"op='avg' of {dtype} is no {dtype}: use 'sum' and divide"
    if op in ("max", "min") and dtype.is_complex:
        return f"op={op!r} of {dtype}: complex numbers have no order; use 'sum', 'avg' or 'prod'"
    return ""


def _combine(op: str, dtype: torch.dtype) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """`combine(held, arrived)` changes `held` in place."""
    if dtype == torch.bool:
        op = {"sum": "max", "prod": "min"}.get(op, op)
    if op == "max":
        return lambda held, arrived: _ignore(torch.maximum(held, arrived, out=held))
    if op == "min":
        return lambda held, arrived: _ignore(torch.minimum(held, arrived, out=held))
    if op == "prod":
        return lambda held, arrived: _ignore(held.mul_(arrived))
    return lambda held, arrived: _ignore(held.add_(arrived))


def _ignore(_: Any) -> None:
    return None


def _rounds(
    rounds: Sequence[Round], rank: int, bounds: Sequence[int]
) -> Iterator[tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]]:
    """(peer, first element, end) of what a rank sends and receives in each round."""
    for one in rounds:
        outgoing, incoming = one.of(rank)
        for repetition in range(one.repeat):
            blocks: list[int] = one.first_blocks(repetition).tolist()
            spans = []
            for messages, peers in ((outgoing, one.target), (incoming, one.source)):
                found = [
                    (int(peers[m]), bounds[blocks[m]], bounds[blocks[m] + one.width])
                    for m in messages
                ]
                spans.append([span for span in found if span[1] < span[2]])
            yield spans[0], spans[1]


def _bounds(n: int, blocks: int) -> list[int]:
    return [n * b // blocks for b in range(blocks + 1)]


def reduced(
    schedule: Schedule, rank: int, flat: torch.Tensor, *, op: str = "sum", ordered: bool = False
) -> Iterator[tuple[list[Part], list[Part]]]:
    """The steps after which a rank's own blocks of `flat` hold the result of all ranks.

    Args:
        schedule: The algorithm.
        rank: Who runs this.
        flat: (n,), contiguous; the blocks of other owners hold anything afterwards.
        op: One of `OPS`.
        ordered: Whether to add in the order of ranks.
    """
    bounds = _bounds(len(flat), schedule.blocks)
    wide = flat.dtype in _HALVES and op in ("sum", "avg", "prod")
    mine = [(bounds[first], bounds[end]) for first, end in schedule.ranges(rank)]
    combine = _combine(op, flat.dtype)
    if ordered and schedule.ranks > 1:
        yield from _in_rank_order(schedule, rank, flat, bounds, op, combine)
        return
    work = flat.float() if wide and schedule.ranks > 1 else flat
    buffer = work.new_empty(0)
    for outgoing, incoming in _rounds(schedule.reduce, rank, bounds):
        need = sum(end - first for _, first, end in incoming)
        if need > len(buffer):
            buffer = work.new_empty(need)
        arriving, used = [], 0
        for peer, first, end in incoming:
            arriving.append((peer, buffer[used : used + end - first]))
            used += end - first
        yield [(peer, work[first:end]) for peer, first, end in outgoing], arriving
        for (_, first, end), (_, part) in zip(incoming, arriving, strict=True):
            combine(work[first:end], part)
    for first, end in mine:
        if op == "avg":
            work[first:end] /= schedule.ranks
        if work is not flat:
            flat[first:end] = work[first:end]


def _in_rank_order(
    schedule: Schedule, rank: int, flat: torch.Tensor, bounds: list[int], op: str,
    combine: Callable[[torch.Tensor, torch.Tensor], None],
) -> Iterator[tuple[list[Part], list[Part]]]:  # fmt: skip
    p = schedule.ranks
    spans = [
        [(bounds[a], bounds[b]) for a, b in schedule.ranges(owner) if bounds[a] < bounds[b]]
        for owner in range(p)
    ]
    parts = {rank: [flat[a:b] for a, b in spans[rank]]}
    for turn in range(1, p):
        to, source = (rank + turn) % p, (rank - turn) % p
        parts[source] = [flat.new_empty(b - a) for a, b in spans[rank]]
        yield [(to, flat[a:b]) for a, b in spans[to]], [(source, t) for t in parts[source]]
    wide = flat.dtype in _HALVES and op in ("sum", "avg", "prod")
    for number, (a, b) in enumerate(spans[rank]):
        held = parts[0][number].to(torch.float32 if wide else flat.dtype, copy=True)
        for source in range(1, p):
            combine(held, parts[source][number])
        flat[a:b] = held / p if op == "avg" else held


def spread(
    schedule: Schedule, rank: int, flat: torch.Tensor
) -> Iterator[tuple[list[Part], list[Part]]]:
    """The steps after which every rank holds all blocks as their owners have them.

    Args:
        schedule: The algorithm.
        rank: Who runs this.
        flat: (n,), contiguous; received into as it lies.
    """
    bounds = _bounds(len(flat), schedule.blocks)
    for outgoing, incoming in _rounds(schedule.spread, rank, bounds):
        yield (
            [(peer, flat[first:end]) for peer, first, end in outgoing],
            [(peer, flat[first:end]) for peer, first, end in incoming],
        )
