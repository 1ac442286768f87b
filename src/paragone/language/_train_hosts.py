"""Runs whose ranks are on several hosts: the same text for all, and the state that is furthest.

Hosts may share the run's folder, or each may have a disk of its own on which only the host of the
first rank finds a state; after a restart another host may have the first rank. So ranks tell each
other what they find, and all go on from the state that has come furthest, wherever it lies.

References:
    torch.distributed.elastic, "Rendezvous": ranks are not stable from one start to the next.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from paragone._core.network import agreed
from paragone.language._train_ranks import Ranks
from paragone.training.run_folder import Folder

__all__ = ["LostRankError", "furthest", "lost", "micro_batches", "same_text", "settings"]

_SIGNS = ("gloo", "nccl", "connection closed", "connection reset", "timed out", "is gone")


class LostRankError(RuntimeError):
    """Another rank has ended, or did not answer in time."""


def lost(error: RuntimeError, ranks: Ranks, step: int | None) -> LostRankError | None:
    """What a back end's error means, or None if it is none of those.

    Args:
        error: What was raised.
        ranks: Who takes part.
        step: Steps done.
    """
    words = str(error).strip()
    if ranks.size == 1 or not any(sign in words.lower() for sign in _SIGNS):
        return None
    after = "" if step is None else f" after step {step}"
    return LostRankError(
        f"rank {ranks.rank} of {ranks.size} ({socket.gethostname()}) lost another rank{after}: "
        f"{words.splitlines()[0][:200]}; the same command goes on from the last state in the "
        "run's folder (torchrun --max-restarts gives it by itself)"
    )


def same_text(mark: str, words: str, ranks: Ranks) -> None:
    """Compares what the ranks have read or made of it.

    Args:
        mark: Tells one text from another.
        words: What it is, for a reader.
        ranks: Who takes part.

    Raises:
        ValueError: On every rank, if two differ.
    """
    told = ranks.told((mark, f"({socket.gethostname()}) has {words}"))
    for rank, (other, theirs) in enumerate(told):
        if other != told[0][0]:
            raise ValueError(
                f"the hosts do not learn from the same text: rank 0 {told[0][1]}, rank {rank} "
                f"{theirs}; give every host the same files, or share the folder"
            )


def _found(folder: Folder) -> tuple[int, int, int]:
    """Steps of the state (-1: only settings, -2: nothing), and which file it is."""
    settings, state = folder.path / "run.json", folder.path / "last.pt"
    if not settings.exists():
        return -2, 0, 0
    step = folder.last_step()
    about = (settings if step is None else state).stat()
    return -1 if step is None else step, about.st_mtime_ns, about.st_size


def _leader(folder: Folder, ranks: Ranks) -> tuple[int | None, list[bool]]:
    """The first rank that has come furthest, and who finds the same file as it does."""
    found = ranks.told(agreed("reading the run's folder", lambda: _found(folder), ranks.told))
    best = max(range(len(found)), key=lambda rank: found[rank][0])
    return None if found[best][0] == -2 else best, [one == found[best] for one in found]


def settings(folder: Folder, ranks: Ranks) -> dict[str, Any] | None:
    """Returns run.json of the host that has come furthest, or None; every rank must call it."""
    leader, _ = _leader(folder, ranks)
    if leader is None:
        return None
    mine = None
    if ranks.rank == leader:
        mine = json.loads((folder.path / "run.json").read_text(encoding="utf-8"))
    return ranks.handed(mine, leader)


def furthest(folder: Folder, ranks: Ranks) -> tuple[dict[str, Any] | None, bool]:
    """Returns the state that has come furthest, or None, and whether it lies in this folder.

    It is read by each rank that finds it, and sent if some do not.
    """
    leader, own = _leader(folder, ranks)
    if leader is None:
        return None, True
    read = folder.last if own[ranks.rank] else lambda: None
    state = agreed("reading the state", read, ranks.told)
    if not all(own):
        state = ranks.handed(state if ranks.rank == leader else None, leader)
    return state, own[ranks.rank]


def micro_batches(rows: int, batch: int, accumulate: int, ranks: int) -> int:
    """Micro-batches a rank that make a step of as many rows as the run began with.

    Args:
        rows: Rows of a step when the run began.
        batch: Rows of a micro-batch.
        accumulate: Micro-batches as asked for, if the ranks are as many as then.
        ranks: Ranks now.

    Raises:
        ValueError: So many ranks cannot share the rows evenly.

    Example:
        >>> micro_batches(rows=32, batch=4, accumulate=2, ranks=2)
        4
    """
    if rows == batch * accumulate * ranks:
        return accumulate
    if rows % (batch * ranks):
        possible = [n for n in range(1, rows // batch + 1) if rows % (batch * n) == 0]
        raise ValueError(
            f"the run makes steps of {rows} rows, which {ranks} ranks cannot share in batches of "
            f"{batch}; go on with {', '.join(map(str, possible)) or 'as many as before'} ranks"
        )
    return rows // (batch * ranks)
