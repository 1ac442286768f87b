"""The collectives that a program calls: checked on all ranks, then run as their schedule says.

Before any data moves, the ranks tell each other what they were called with (log2 P small
messages, as in Bruck's all-gather), so that different shapes, types or arguments are one and the
same `ValueError` on every rank in place of a hang or a wrong sum. `check=False` leaves that out.

References:
    Bruck et al. (1997), "Efficient algorithms for all-to-all communications in multiport
    message-passing systems", section 3 (the agreement).

Shapes: n elements, P ranks.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from typing import Any

import torch
import torch.distributed as dist

from paragone.training.collectives.choice import choose
from paragone.training.collectives.costs import default_chunks
from paragone.training.collectives.execution import (
    GroupTransport,
    Trace,
    Transport,
    check_op,
    drive,
    reduced,
    spread,
)  # fmt: skip
from paragone.training.collectives.machine import LOOPBACK, Machine
from paragone.training.collectives.schedules import Schedule, broadcast_schedule, schedule

__all__ = [
    "agree",
    "all_gather",
    "all_reduce",
    "broadcast",
    "local_ranks",
    "open_transport",
    "reduce_scatter",
]

_WORDS = 256
_TAG = 1 << 30
_TAGS = 1 << 20
_counts: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def open_transport(group: Any, timeout: float | None) -> GroupTransport:
    """A transport with a tag of its own; every rank of the group must open it in the same order.

    Args:
        group: A process group; None is the default one.
        timeout: Seconds that a message may take (None: the group's own timeout).
    """
    if not dist.is_initialized():
        raise ValueError(
            "torch.distributed is not initialised: call init_process_group first, or start the "
            "program with torchrun"
        )
    if timeout is not None and timeout <= 0:
        raise ValueError(f"timeout={timeout}: give seconds above 0, or None for the group's own")
    group = dist.group.WORLD if group is None else group
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("this rank is not in the group: only its members may call")
    with _lock:
        # Every call gets a tag of its own, so that a late message never joins the next call.
        number = next(_counts.setdefault(group, itertools.count()))
    return GroupTransport(group, _TAG + number % _TAGS, timeout)


def agree(transport: Transport, call: str, problem: str = "") -> None:
    """Raises the same `ValueError` on all ranks unless all of them call the same.

    Args:
        transport: To the other ranks.
        call: What this rank was called with; at most 200 bytes count.
        problem: What is wrong on this rank already.
    """
    if transport.size == 1:
        if problem:
            raise ValueError(problem)
        return
    text = (f"!{problem}" if problem else call).encode()[:_WORDS].ljust(_WORDS)
    known = torch.frombuffer(bytearray(text), dtype=torch.uint8).clone()
    reach, p = 1, transport.size
    while reach < p:
        count = min(reach, p - reach)
        more = torch.empty(count * _WORDS, dtype=torch.uint8)
        transport.exchange(
            [((transport.rank - reach) % p, known[: count * _WORDS])],
            [((transport.rank + reach) % p, more)],
        )
        known = torch.cat([known, more])
        reach *= 2
    order = [(transport.rank + place) % p for place in range(p)]
    texts = [bytes(row.tolist()).decode(errors="replace").strip() for row in known.view(p, -1)]
    said = dict(sorted(zip(order, texts, strict=True)))
    wrong = {rank: text[1:] for rank, text in said.items() if text.startswith("!")}
    if wrong:
        rank, text = next(iter(wrong.items()))
        raise ValueError(f"{text} (on rank {rank})" if p > 1 else text)
    if len(set(said.values())) > 1:
        words = "; ".join(f"rank {rank}: {text}" for rank, text in said.items())
        raise ValueError(f"the ranks called different things; make the calls equal: {words}")


def local_ranks(ranks: int) -> int:
    """Ranks of a node: torchrun's LOCAL_WORLD_SIZE, else the divisor nearest below sqrt(P)."""
    told = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if 1 < told < ranks and ranks % told == 0:
        return told
    return max(d for d in range(1, ranks + 1) if d * d <= ranks and ranks % d == 0)


def _plan(
    algorithm: str, ranks: int, nbytes: int, chunks: int | None, per_node: int | None,
    machine: Machine | None,
) -> Schedule:  # fmt: skip
    if algorithm == "auto":
        algorithm = choose(ranks, nbytes, machine or LOOPBACK).algorithm
    if algorithm == "hierarchical" and per_node is None:
        per_node = local_ranks(ranks)
    if algorithm == "tree" and chunks is None:
        chunks = default_chunks(nbytes)
    return schedule(algorithm, ranks, chunks=chunks or 1, ranks_per_node=per_node or 1)


def _said(name: str, tensor: torch.Tensor, *more: Any) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return " ".join(map(str, (name, shape, str(tensor.dtype).removeprefix("torch."), *more)))


def _wrong(tensor: torch.Tensor) -> str:
    if tensor.layout != torch.strided:
        return f"a tensor of layout {tensor.layout}: give a dense one"
    return "" if not tensor.is_quantized else "a quantized tensor: give its int_repr()"


def _ready(tensor: torch.Tensor) -> torch.Tensor:
    """The elements as one row: the tensor's own memory if that is contiguous, else a copy."""
    return tensor.detach().contiguous().view(-1)


def _give(flat: torch.Tensor, tensor: torch.Tensor) -> None:
    if flat.data_ptr() != tensor.data_ptr() or not tensor.is_contiguous():
        tensor.detach().copy_(flat.view(tensor.shape))


def _settle(transport: Transport, said: str, problem: str, check: bool) -> None:
    """Raises the same on all ranks if they disagree; without `check` a rank its own problem."""
    if check:
        agree(transport, said, problem)
    elif problem:
        raise ValueError(problem)


def all_reduce(
    tensor: torch.Tensor,
    algorithm: str = "ring",
    group: Any = None,
    *,
    op: str = "sum",
    ordered: bool = False,
    trace: Trace | None = None,
    chunks: int | None = None,
    ranks_per_node: int | None = None,
    machine: Machine | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> torch.Tensor:
    """Replaces the tensor by the sum over all ranks; the same bits on each of them.

    Prefer it to `torch.distributed.all_reduce` where the result must not depend on the algorithm
    (`ordered`), where 16-bit sums must be exact to one rounding, or to see what an algorithm does
    (`trace`). For speed on one host take a shared-memory group; across hosts with GPUs, NCCL.

    Args:
        tensor: Any shape, contiguous or not; float, complex, integer or bool. Changed in place.
        algorithm: "ring", "tree", "halving_doubling", "bcube", "hierarchical", "naive", or "auto"
            for what `choose` says for this size.
        group: A process group whose `isend` and `irecv` work on the tensor; None is the default.
        op: "sum", "avg", "max", "min" or "prod"; of bools "sum" is or, "prod" is and.
        ordered: Whether to add in the order of ranks, bit for bit as a loop over them would.
        trace: Is told every message.
        chunks: Pieces of each half for "tree" (None: by size).
        ranks_per_node: For "hierarchical" (None: LOCAL_WORLD_SIZE, else near the root of P).
        machine: For "auto"; from `fit`. None stands for gloo on one host.
        check: Whether all ranks first agree on shape, type and arguments.
        timeout: Seconds that a message may take (None: the group's own timeout).

    Returns:
        The tensor.

    Raises:
        ValueError: On all ranks, if a shape, type or argument is wrong or differs.
        CollectiveError: A rank is missing, dead, or called something else with `check=False`.
    """
    transport = open_transport(group, timeout)
    plan, problem = None, _wrong(tensor) or check_op(op, tensor.dtype)
    nbytes = tensor.numel() * tensor.element_size()
    try:
        plan = _plan(algorithm, transport.size, nbytes, chunks, ranks_per_node, machine)
    except ValueError as reason:
        problem = problem or str(reason)
    said = "" if plan is None else (plan.name, plan.blocks, ranks_per_node)
    _settle(transport, _said("all_reduce", tensor, op, said, f"ordered={ordered}"), problem, check)
    assert plan is not None
    flat = _ready(tensor)
    steps = reduced(plan, transport.rank, flat, op=op, ordered=ordered)
    done = drive(steps, transport, trace)
    drive(spread(plan, transport.rank, flat), transport, trace, done)
    _give(flat, tensor)
    return tensor


def _shared(
    name: str, algorithm: str, whole: torch.Tensor, part: torch.Tensor, transport: Transport
) -> tuple[Schedule | None, str]:
    """The schedule for shares of equal size, and what is wrong."""
    p = transport.size
    if part.numel() * p != whole.numel() or part.dtype != whole.dtype:
        return None, (
            f"{name}: a share of {part.numel()} {part.dtype} for {p} ranks and a whole of "
            f"{whole.numel()} {whole.dtype}; give a whole of {p} times the share"
        )
    try:
        plan = _plan(algorithm, p, whole.numel() * whole.element_size(), None, None, None)
    except ValueError as reason:
        return None, str(reason)
    if not plan.in_order:
        return None, f"{name} with algorithm={plan.name!r}: use 'ring' or 'bcube'"
    return plan, _wrong(whole) or _wrong(part)


def reduce_scatter(
    output: torch.Tensor,
    tensor: torch.Tensor,
    algorithm: str = "ring",
    group: Any = None,
    *,
    op: str = "sum",
    ordered: bool = False,
    trace: Trace | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> torch.Tensor:
    """Adds over all ranks and gives rank r the r-th of P equal shares.

    Prefer it to `torch.distributed.reduce_scatter_tensor` for sums in the order of ranks.

    Args:
        output: The share (n / P elements), written.
        tensor: What this rank contributes (n elements); left as it is.
        algorithm: "ring", "bcube", or "halving_doubling" with a power of two of ranks.
        group: As for `all_reduce`.
        op: As for `all_reduce`.
        ordered: As for `all_reduce`.
        trace: As for `all_reduce`.
        check: As for `all_reduce`.
        timeout: As for `all_reduce`.

    Returns:
        `output`.

    Raises:
        ValueError: As for `all_reduce`, or sizes that do not fit.
        CollectiveError: As for `all_reduce`.
    """
    transport = open_transport(group, timeout)
    plan, problem = _shared("reduce_scatter", algorithm, tensor, output, transport)
    problem = problem or check_op(op, tensor.dtype)
    _settle(transport, _said("reduce_scatter", tensor, op, algorithm, ordered), problem, check)
    assert plan is not None
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).view(-1)
    drive(reduced(plan, transport.rank, flat, op=op, ordered=ordered), transport, trace)
    share = output.numel()
    output.detach().copy_(flat[transport.rank * share :][:share].view(output.shape))
    return output


def all_gather(
    output: torch.Tensor,
    tensor: torch.Tensor,
    algorithm: str = "ring",
    group: Any = None,
    *,
    trace: Trace | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> torch.Tensor:
    """Gives every rank the shares of all ranks, one after the other.

    Args:
        output: All shares (n elements), written.
        tensor: This rank's share (n / P elements).
        algorithm: "ring", "bcube", or "halving_doubling" with a power of two of ranks.
        group: As for `all_reduce`.
        trace: As for `all_reduce`.
        check: As for `all_reduce`.
        timeout: As for `all_reduce`.

    Returns:
        `output`.

    Raises:
        ValueError: As for `all_reduce`, or sizes that do not fit.
        CollectiveError: As for `all_reduce`.
    """
    transport = open_transport(group, timeout)
    plan, problem = _shared("all_gather", algorithm, output, tensor, transport)
    _settle(transport, _said("all_gather", tensor, algorithm), problem, check)
    assert plan is not None
    flat, share = _ready(output), tensor.numel()
    flat[transport.rank * share :][:share] = tensor.detach().reshape(-1)
    drive(spread(plan, transport.rank, flat), transport, trace)
    _give(flat, output)
    return output


def broadcast(
    tensor: torch.Tensor,
    source: int = 0,
    algorithm: str = "binomial",
    group: Any = None,
    *,
    trace: Trace | None = None,
    chunks: int | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> torch.Tensor:
    """Gives every rank the tensor of one of them.

    Args:
        tensor: The same shape and type everywhere; written on all ranks but the source.
        source: Rank within the group whose tensor it is.
        algorithm: "binomial" (log2 P steps of the whole), or "chain" (pieces along a line, for
            large tensors).
        group: As for `all_reduce`.
        trace: As for `all_reduce`.
        chunks: Pieces for "chain" (None: by size).
        check: As for `all_reduce`.
        timeout: As for `all_reduce`.

    Returns:
        The tensor.

    Raises:
        ValueError: As for `all_reduce`.
        CollectiveError: As for `all_reduce`.
    """
    transport = open_transport(group, timeout)
    plan, problem = None, _wrong(tensor)
    pieces = chunks or (default_chunks(tensor.nbytes) if algorithm == "chain" else 1)
    try:
        plan = broadcast_schedule(algorithm, transport.size, source, chunks=pieces)
    except ValueError as reason:
        problem = problem or str(reason)
    _settle(transport, _said("broadcast", tensor, source, algorithm, pieces), problem, check)
    assert plan is not None
    flat = _ready(tensor)
    drive(spread(plan, transport.rank, flat), transport, trace)
    _give(flat, tensor)
    return tensor
