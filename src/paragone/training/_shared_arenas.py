"""Memory in which the tensors of all ranks lie side by side, so that sums need no copies.

An arena is one piece of memory on each rank, each mapped by all: made for a new tensor, or the
storage of a tensor that torch has moved into a shared file. Arenas get the same number on all
ranks, since all make them in the same order. A sum runs in place only if all ranks name the same
arena: each of them then has mapped the parts of all. The mappings of the others' parts go when the
own part goes.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from paragone.training import _shared_memory as layout
from paragone.training._shared_collectives import Collectives
from paragone.training._shared_station import MismatchError, SharedGroupError, Station

__all__ = ["Arenas"]


class _Arena:
    """Where the own part begins and ends, what keeps it, and the mappings of the others' parts."""

    def __init__(self, number: int, begin: int, size: int, owner: Any, peers: list[Any]) -> None:
        self.number, self.begin, self.end, self.peers = number, begin, begin + size, peers
        self._owner = owner

    @property
    def alive(self) -> bool:
        if isinstance(self._owner, StorageWeakRef):
            return not self._owner.expired()
        return self._owner() is not None


class Arenas:
    """The arenas of one rank; `bases[number, k]` is where this rank sees the part of rank k."""

    def __init__(self, station: Station, collectives: Collectives) -> None:
        self.bases = np.zeros((8, station.world), np.int64)
        self._station, self._collectives = station, collectives
        self._living: list[_Arena] = []
        self._made = 0

    def find(self, address: int, size: int) -> tuple[int, int]:
        """Returns the arena of this memory and the offset in it, or (-1, 0)."""
        for arena in self._living:
            if arena.begin <= address and address + size <= arena.end:
                # Dead memory may have come back as somebody else's.
                if arena.alive:
                    return arena.number, address - arena.begin
                self._sweep()
                break
        return -1, 0

    def _sweep(self) -> None:
        for arena in self._living:
            if not arena.alive:
                self.bases[arena.number] = 0
        self._living = [arena for arena in self._living if arena.alive]

    def make(self, size: int) -> torch.Tensor:
        """Returns new bytes in an arena of their own."""
        room = max(size, 1)
        handle, memory = layout.anonymous(room, f"{self._station.name}-tensor")
        try:
            tensor = torch.frombuffer(memory, dtype=torch.uint8)
            self._register(tensor.data_ptr(), size, room, handle, weakref.ref(memory))
        finally:
            os.close(handle)
        return tensor[:size]

    def move(self, storage: torch.UntypedStorage) -> None:
        """Moves a storage, with all tensors that lie in it, into an arena."""
        handle, size = storage._share_fd_cpu_()[:2]
        self._register(storage.data_ptr(), size, size, handle, StorageWeakRef(storage))

    def _register(self, begin: int, size: int, room: int, handle: int, owner: Any) -> None:
        """Exchanges file numbers, maps the parts of the others, and waits until all have."""
        self._sweep()
        station, world = self._station, self._station.world
        told = torch.empty(world, 2, dtype=torch.int64)
        self._collectives.all_gather([*told], torch.tensor([handle, size]))
        sizes = told[:, 1].tolist()
        if len(set(sizes)) > 1:
            raise MismatchError(f"shared tensors differ in size: {sizes} bytes on the ranks")
        row, peers, problem = np.zeros(world, np.int64), [], ""
        for k, (peer, number) in enumerate(zip(station.peers, told[:, 0].tolist(), strict=True)):
            if k == station.rank:
                row[k] = begin
                continue
            try:
                peers.append(np.frombuffer(layout.adopt(peer["pid"], number, room), np.uint8))
                row[k] = peers[-1].ctypes.data
            except (SharedGroupError, OSError, ValueError) as error:
                problem = problem or str(error)
        failed = torch.empty(world, dtype=torch.int64)
        self._collectives.all_gather([*failed.view(world, 1)], torch.tensor([len(problem)]))
        if int(failed.max()):
            raise MismatchError(f"ranks could not map shared tensors: {problem or failed.tolist()}")
        if self._made == len(self.bases):
            self.bases = np.concatenate([self.bases, np.zeros_like(self.bases)])
        self.bases[self._made] = row
        self._living.append(_Arena(self._made, begin, size, owner, peers))
        self._made += 1
