"""Ranks without processes: one thread steps them in random order and carries their messages.

A message is read from the sender's memory as late as can be, when the receiver waits for it, so
that a rank which writes where it still sends from is caught. A run in which nobody can go on is
an error, not a hang.
"""

import random
from collections import deque

__all__ = ["HangError", "run"]


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
