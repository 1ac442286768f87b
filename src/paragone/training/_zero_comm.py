"""What the ranks of a `Zero` say to each other: shares, ordered sums, agreement.

A reduce-scatter in fixed order is an all-to-all of the shares followed by a local sum over the
rows in the order of the ranks: rank r receives its own share from everybody, (N - 1)/N of the
buffer travels, as in a ring, and the sum has the same bits on every machine and at every timing.

Every wait is bounded by the timeout of the process group; a rank that is gone or on another
path gives a `RuntimeError` that names what was exchanged.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Pending", "Ranks", "bits_of", "float_of"]


def bits_of(value: float) -> int:
    """The 64 bits of a float as an integer, so that floats and masks travel in one message."""
    return struct.unpack("<q", struct.pack("<d", value))[0]


def float_of(bits: int) -> float:
    """Inverse of `bits_of`."""
    return struct.unpack("<d", struct.pack("<q", bits))[0]


class Pending:
    """A sum over the ranks that is under way; `rows` waits for it."""

    def __init__(self, ranks: Ranks, work: Any, rows: Tensor, what: str, keep: Tensor) -> None:
        self._ranks, self._work, self._rows, self._what = ranks, work, rows, what
        self._keep = keep  # the send buffer must live as long as the transfer

    def rows(self) -> Tensor:
        """Shares to be added in order (rows, share); one row where the back end has added."""
        if self._work is not None:
            with self._ranks.named(self._what):
                self._work.wait()
        return self._rows


class Ranks:
    """A process group, or a single process where there is none.

    Args:
        group: A group of `torch.distributed`; None is the default group, or one process if
            `torch.distributed` was not started.
        ordered: Sums in the order of the ranks; False leaves the order to the back end.
    """

    def __init__(self, group: Any, ordered: bool) -> None:
        self.group, self.ordered = group, ordered
        self.alone = not (dist.is_available() and dist.is_initialized())
        if self.alone and group is not None:
            raise ValueError(
                "group= was given but torch.distributed is not started: call "
                "torch.distributed.init_process_group() first (torchrun sets its variables)"
            )
        self.rank = 0 if self.alone else dist.get_rank(group)
        self.size = 1 if self.alone else dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("this process is no member of group: build Zero on its members only")

    @contextmanager
    def named(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"{what} failed on rank {self.rank} of {self.size}: another rank is gone, is "
                f"later than the group's timeout, or took another path ({error})"
            ) from error

    def reduce_scatter(self, send: Tensor, sizes: Sequence[int], what: str) -> Pending:
        """Starts the sum of each rank's share over all ranks.

        Args:
            send: Shares of all ranks behind each other (sum of sizes,).
            sizes: Elements of each share.
            what: Name for an error message.
        """
        mine, even = sizes[self.rank], len(set(sizes)) == 1
        if self.size == 1:
            return Pending(self, None, send.view(1, -1), what, send)
        native = not self.ordered and even and send.dtype.itemsize >= 4
        with self.named(what):
            if native:
                rows = send.new_empty(1, mine)
                call = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
                work = call(rows.view(-1), send, group=self.group, async_op=True)
            else:
                rows = send.new_empty(self.size, mine)
                splits = () if even else ([mine] * self.size, list(sizes))
                work = dist.all_to_all_single(
                    rows.view(-1), send, *splits, group=self.group, async_op=True
                )
        return Pending(self, work, rows, what, send)

    def all_gather(self, whole: Tensor, sizes: Sequence[int], what: str) -> None:
        """Fills `whole` (sum of sizes,), of which this rank has written its own share."""
        if self.size == 1:
            return
        start = sum(sizes[: self.rank])
        mine = whole[start : start + sizes[self.rank]]
        with self.named(what):
            if len(set(sizes)) == 1:
                call = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
                call(whole, mine, group=self.group)
            else:
                dist.all_to_all_single(
                    whole, mine.repeat(self.size), list(sizes), [len(mine)] * self.size,
                    group=self.group,
                )  # fmt: skip

    def broadcast(self, tensor: Tensor, what: str) -> None:
        """Copies the tensor of rank 0 to all."""
        if self.size > 1:
            with self.named(what):
                dist.broadcast(tensor, group=self.group, group_src=0)

    def exchange(self, values: Sequence[int], device: torch.device, what: str) -> list[list[int]]:
        """Integers of 64 bits, as many from each rank; returns those of all ranks."""
        mine = torch.tensor(list(values), dtype=torch.int64, device=device)
        whole = mine.new_zeros(self.size * len(mine))
        whole[self.rank * len(mine) : (self.rank + 1) * len(mine)] = mine
        self.all_gather(whole, [len(mine)] * self.size, what)
        return whole.view(self.size, -1).tolist()

    def objects(self, value: Any, what: str, *, everywhere: bool = True) -> list[Any] | None:
        """Python objects of all ranks, on every rank or on rank 0 alone (None elsewhere)."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self.named(what):
            if everywhere:
                dist.all_gather_object(found, value, group=self.group)
                return found
            at = found if self.rank == 0 else None
            dist.gather_object(value, at, group=self.group, group_dst=0)
        return at

    def same_everywhere(self, lines: Sequence[str], device: torch.device) -> None:
        """Compares descriptions over the ranks by their hash; the first difference is named.

        Raises:
            ValueError: On every rank, if any two ranks differ.
        """
        digest = hashlib.sha256(json.dumps(list(lines)).encode()).digest()
        hashes = self.exchange(struct.unpack("<4q", digest), device, "comparing the models")
        if all(row == hashes[0] for row in hashes):
            return
        everyone = self.objects(list(lines), "comparing the models") or []
        other = next(r for r, row in enumerate(hashes) if row != hashes[0])
        first, second = everyone[0], everyone[other]
        pairs = zip([*first, "nothing"], [*second, "nothing"], strict=False)
        a, b = next((a, b) for a, b in pairs if a != b)
        raise ValueError(
            f"rank {other} differs from rank 0: it has {b}, rank 0 has {a}; build the same model, "
            "groups and options on every rank"
        )
