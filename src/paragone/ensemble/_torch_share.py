"""The share of one process among many, over torch.distributed with the gloo back end.

Sums of whole numbers go through gloo's all-reduce, in place on the kernel's own memory. What one
process computes for all goes through a gather to process 0 and a broadcast. Every wait ends after
`timeout` seconds at the latest, and at once when a connection breaks: then `LostWorkerError`.
"""

from __future__ import annotations

import ctypes
import datetime
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from paragone._core.network import agreed
from paragone.ensemble._share import LostWorkerError, Share

__all__ = ["TorchShare"]

T = TypeVar("T")
_GROUPS: weakref.WeakValueDictionary[tuple[float, ...], Any] = weakref.WeakValueDictionary()
"""By world, timeout and ranks: the groups that were made."""
_TOLD = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError, ImportError,
    RuntimeError, MemoryError, AssertionError,
)  # fmt: skip
"""What other processes are told of, so that they do not wait for one that has failed."""
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


class TorchShare(Share):
    """The rows of this process among those of a gloo group.

    Args:
        group: A `torch.distributed` group, or None for all processes.
        timeout: Seconds to wait for another process.
    """

    def __init__(self, group: Any = None, timeout: float = 60.0) -> None:
        import torch.distributed as dist

        if not dist.is_available() or not dist.is_initialized():
            raise ValueError(
                "process_group needs torch.distributed: call "
                "paragone.ensemble.distributed.connect() under torchrun, or init_process_group()"
            )
        if not timeout > 0:
            raise ValueError(f"timeout={timeout} must be > 0 seconds")
        self.timeout, self._dist = timeout, dist
        ranks = dist.get_process_group_ranks(dist.group.WORLD if group is None else group)
        if dist.get_rank() not in ranks:
            raise ValueError(f"this process, rank {dist.get_rank()}, is not in the process group")
        self.ranks, self.rank, self.size = ranks, ranks.index(dist.get_rank()), len(ranks)
        self._store = dist.distributed_c10d._get_default_store()
        self._error: BaseException | None = None
        self._group: Any = None
        self._offsets = np.zeros(self.size + 1, np.int64)
        # Kept here: ctypes frees the code when the last reference goes.
        self._callback: Any = _CALLBACK(self._add_up)
        self.address = ctypes.cast(self._callback, ctypes.c_void_p).value or 0
        self._group = self._guard(self._open)

    def _open(self) -> Any:
        """A group of our own: gloo whatever the default is, and our timeout; kept for later."""
        dist, world = self._dist, self._dist.group.WORLD
        key = (id(world), self.timeout, *self.ranks)
        group = _GROUPS.get(key)
        if group is None:
            # All of the world joins in without a word; a part of it meets through the store.
            part = len(self.ranks) < dist.get_world_size()
            wait = datetime.timedelta(seconds=self.timeout)
            group = dist.new_group(
                self.ranks, timeout=wait, backend="gloo", use_local_synchronization=part
            )
            _GROUPS[key] = group
        return group

    def _leave(self) -> None:
        """Closes our connections, so that whoever waits for us notices at once."""
        group, self._group = self._group, None
        for key in [key for key, known in _GROUPS.items() if known is group]:
            del _GROUPS[key]
        if group is not None:
            self._dist.destroy_process_group(group)

    def close(self) -> None:
        # torch keeps the group, for the next fit; here it must not outlive torch.distributed.
        self._group = self._callback = None

    def _guard(self, action: Callable[[], T]) -> T:
        if self._error is not None:
            raise self._error
        begun = time.monotonic()
        try:
            return action()
        except RuntimeError as error:
            self._error = self._lost(error, time.monotonic() - begun)
            raise self._error from error

    def _lost(self, error: Exception, waited: float) -> LostWorkerError:
        self._leave()
        missing = self._roll_call()
        who = f"rank {', '.join(map(str, missing))}" if missing else "another process"
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
        return LostWorkerError(
            f"{who} of {self.size} was lost: no answer to rank {self.rank} after {waited:.1f} s "
            f"(timeout {self.timeout:g} s; {reason}); fit again with the same checkpoint to go on",
            missing,
        )

    def _roll_call(self) -> list[int]:
        """Who still answers: each process that noticed the loss signs a list in the store."""
        wait = datetime.timedelta(seconds=min(2.0, self.timeout))
        try:
            self._store.set(f"paragone/lost/{self.ranks[self.rank]}", "here")
            until, missing = time.monotonic() + wait.total_seconds(), self.ranks
            while missing and time.monotonic() < until:
                missing = [r for r in missing if not self._store.check([f"paragone/lost/{r}"])]
                time.sleep(0.05)
            return list(missing)
        except RuntimeError:
            # The store went with the process that kept it.
            return []

    def _add_up(self, address: int, count: int) -> None:
        """What kernels call; it may not raise, so a failure empties the sums and waits."""
        whole = np.ctypeslib.as_array((ctypes.c_int64 * count).from_address(address))
        done = False
        try:
            self._sum(whole)
            done = True
        except RuntimeError as error:
            self._error = self._error or error
        finally:
            if not done:
                self._error = self._error or KeyboardInterrupt()
                whole[:] = 0

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def _sum(self, whole: np.ndarray) -> None:
        import torch

        tensor = torch.from_numpy(whole)
        self._guard(lambda: self._dist.all_reduce(tensor, group=self._group))

    def span(self, number, tops):
        # One message for sums and maxima: everyone sees all parts and combines them.
        both = np.append(np.asarray(tops, np.float64).view(np.int64), np.int64(number))
        parts = self._gather_all(both)
        numbers = parts[:, -1]
        highest = np.ascontiguousarray(parts[:, :-1]).view(np.float64).max(axis=0)
        return int(numbers[: self.rank].sum()), int(numbers.sum()), highest

    def add(self, whole):
        flat = np.array(whole, np.int64).ravel()
        self._sum(flat)
        return flat.reshape(whole.shape)

    def _gather_all(self, own: np.ndarray) -> np.ndarray:
        import torch

        parts = torch.empty((self.size, len(own)), dtype=torch.from_numpy(own).dtype)
        self._guard(
            lambda: self._dist.all_gather(
                list(parts), torch.from_numpy(own), group=self._group
            )
        )  # fmt: skip
        return parts.numpy()

    def total(self, rows: int) -> int:
        counts = self._gather_all(np.array([rows], np.int64))[:, 0]
        self._offsets = np.concatenate(([0], np.cumsum(counts)))
        return int(self._offsets[-1])

    def part(self, rows):
        begin, end = (int(row) for row in self._offsets[self.rank : self.rank + 2])
        low, high = np.searchsorted(rows, [begin, end])
        return slice(low, high), begin

    def objects(self, value):
        found: list[Any] = [None] * self.size
        self._guard(lambda: self._dist.all_gather_object(found, value, group=self._group))
        return found

    def agree(self, what, action):
        return agreed(what, action, self.objects, _TOLD, (LostWorkerError,))

    def everything(self, array):
        return self._collect(array, everyone=True)

    def _collect(self, array: np.ndarray, everyone: bool) -> np.ndarray:
        """Joins arrays along the last axis, at process 0 or at all; elsewhere it is empty."""
        import torch

        array = np.ascontiguousarray(array)
        sizes = self._gather_all(np.array([array.shape[-1]], np.int64))[:, 0]
        shapes = [(*array.shape[:-1], int(size)) for size in sizes]
        kind = torch.from_numpy(array[..., :0].copy()).dtype
        parts = [torch.empty(shape, dtype=kind) for shape in shapes]
        parts[self.rank] = torch.from_numpy(array if array.flags.writeable else array.copy())
        for root in range(self.size if everyone else 1):
            waits = []
            if self.rank == root:
                others = [r for r in range(self.size) if r != root and sizes[r]]
                waits = [self._receive(parts[r], r) for r in others]
            elif sizes[self.rank]:
                waits = [self._send(parts[self.rank], root)]
            for wait in waits:
                self._guard(wait.wait)
        if not everyone and self.rank:
            return array[..., :0]
        return np.concatenate([part.numpy() for part in parts], axis=-1)

    def _send(self, tensor: Any, to: int) -> Any:
        return self._guard(lambda: self._dist.isend(tensor, self.ranks[to], group=self._group))

    def _receive(self, tensor: Any, source: int) -> Any:
        return self._guard(lambda: self._dist.irecv(tensor, self.ranks[source], group=self._group))

    def on_root(self, compute, *arrays):
        joined = [self._collect(array, everyone=False) for array in arrays]
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer = [compute(*joined), None]
            except _TOLD as error:
                answer = [None, error]
        self._guard(
            lambda: self._dist.broadcast_object_list(answer, self.ranks[0], group=self._group)
        )
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def by_owner(
        self, columns: list[np.ndarray], compute: Callable[[int, np.ndarray], T]
    ) -> list[T]:
        import torch

        found: dict[int, T] = {}
        lengths = np.diff(self._offsets)
        for first in range(0, len(columns), self.size):
            waits, parts = [], []
            for owner, column in enumerate(columns[first : first + self.size]):
                own = torch.from_numpy(np.array(column))
                if owner != self.rank:
                    waits += [self._send(own, owner)] if len(own) else []
                    continue
                parts = [torch.empty(int(n), dtype=own.dtype) for n in lengths]
                parts[self.rank] = own
                others = [r for r in range(self.size) if r != self.rank and lengths[r]]
                waits += [self._receive(parts[r], r) for r in others]
            for wait in waits:
                self._guard(wait.wait)
            if parts:
                whole = np.concatenate([part.numpy() for part in parts])
                found[first + self.rank] = compute(first + self.rank, whole)
        merged = {i: value for part in self.objects(found) for i, value in part.items()}
        return [merged[i] for i in range(len(columns))]
