"""Ranks without processes, and the sums that all-reduce is held against.

One thread steps the ranks in random order and carries their messages.
A message is read from the sender's memory as late as can be, when the receiver waits for it, so
that a rank which writes where it still sends from is caught. A run in which nobody can go on is
an error, not a hang.
"""

import functools
import operator
import random
from collections import deque

import torch

__all__ = ["HangError", "close", "contributions", "run", "serial"]


class HangError(AssertionError):
    """Every rank waits for a message that nobody sends, or of another size."""


def run(generators, seed=0):
    """Runs the generators of (sends, receives) of rank 0, 1, ... to their ends.

    Returns:
        For each rank the list of (step, kind, peer, bytes).
    """
    chance = random.Random(seed)
    posted, wanted = {}, {}
    open_ = dict.fromkeys(range(len(generators)), 0)
    seen = [[] for _ in generators]
    alive, step = set(open_), dict.fromkeys(open_, -1)
    while alive:
        movable = [rank for rank in alive if open_[rank] == 0]
        routes = [r for r, queue in wanted.items() if queue and posted.get(r)]
        if routes and (not movable or chance.random() < 0.5):
            source, target = route = chance.choice(routes)
            tensor, held = posted[route].popleft(), wanted[route].popleft()
            if tensor.shape != held.shape or tensor.dtype != held.dtype:
                raise HangError(
                    f"{source} sends {tuple(tensor.shape)}, {target} wants {held.shape}"
                )
            held.copy_(tensor)
            open_[source] -= 1
            open_[target] -= 1
        elif movable:
            rank = chance.choice(movable)
            exchange = next(generators[rank], None)
            if exchange is None:
                alive.discard(rank)
                continue
            step[rank] += 1
            for kind, parts in zip(("send", "receive"), exchange, strict=True):
                for peer, tensor in parts:
                    assert tensor.is_contiguous()
                    route = (rank, peer) if kind == "send" else (peer, rank)
                    queues = posted if kind == "send" else wanted
                    queues.setdefault(route, deque()).append(tensor)
                    seen[rank].append((step[rank], kind, peer, tensor.nbytes))
                    open_[rank] += 1
        else:
            raise HangError(f"ranks {sorted(alive)} wait for each other")
    assert not any(posted.values()), "a message was sent that nobody took"
    return seen


def contributions(p, n, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(1000 * p + n + seed)
    x = torch.randn(p, n, generator=generator, dtype=torch.float64)
    if dtype == torch.bool:
        return x > 0
    if not (dtype.is_floating_point or dtype.is_complex):
        return (5 * x).abs().to(dtype)
    return x.to(dtype) * (1 + 1j) if dtype.is_complex else x.to(dtype)


def serial(rows, op="sum"):
    """The loop over ranks that all algorithms stand for, 16-bit numbers in float32."""
    wide = rows.dtype in (torch.float16, torch.bfloat16) and op in ("sum", "avg", "prod")
    rows = rows.float() if wide else rows
    boolean = {"sum": operator.or_, "prod": operator.and_}
    call = {
        "sum": operator.add, "avg": operator.add, "prod": operator.mul, "max": torch.maximum,
        "min": torch.minimum, **(boolean if rows.dtype == torch.bool else {}),
    }[op]  # fmt: skip
    total = functools.reduce(call, list(rows))
    return (total / len(rows) if op == "avg" else total).to(torch.promote_types(*[rows.dtype] * 2))


def close(found, rows, op):
    """Within the rounding of the type of what float64 gives."""
    exact = serial(rows.to(torch.complex128 if rows.is_complex() else torch.float64), op)
    scale = rows.abs().to(torch.float64).sum(0) + 1
    eps = torch.finfo(rows.dtype).eps
    assert torch.all((found.to(exact.dtype) - exact).abs() <= len(rows) * eps * scale)
