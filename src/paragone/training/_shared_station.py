"""One rank's place in the shared memory of a group: meeting the others, and giving up in time.

Every wait of a `Station` ends: with the others, after `timeout` seconds, within a fraction of a
second when a rank that is waited for has died or left, and at once when another rank gave up.
Whoever gives up says so in the segment; from then on the group is of no use, and each call raises.
"""

from __future__ import annotations

import json
import mmap
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np

from paragone.training import _shared_kernels as kernels
from paragone.training import _shared_memory as layout
from paragone.training._shared_memory import RANK_WORDS, SharedGroupError

__all__ = ["MismatchError", "Station"]

T = TypeVar("T")
_TIMEOUT, _DEAD, _LEFT, _FAILED = 1, 2, 3, 4
_LOOK = 0.1
"""Seconds of waiting between two looks whether the others still live."""


class MismatchError(ValueError):
    """Ranks called different operations, or the same one with other sizes, types or roots."""


class Station:
    """The segment of a group as this rank sees it.

    Args:
        store: A `torch.distributed` store that all ranks of the group use.
        rank: Number of this rank in the group.
        world: Number of ranks.
        timeout: Seconds that any wait may last.
        name: Of the group, for messages and for /proc/<pid>/maps.
        describe: Turns a descriptor's (code, number) into words, for messages.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        world: int,
        timeout: float,
        name: str,
        describe: Callable[[int, int], str] = lambda code, number: f"{code} of {number}",
    ) -> None:
        self.rank, self.world, self.timeout, self.name = rank, world, timeout, name
        self.state = np.zeros(3, np.int64)
        self.lock = threading.RLock()
        self.broken: str | None = None
        self.left = False
        self.progress: Callable[[], None] = lambda: None
        self._describe = describe
        self.memory = self._open(store)
        self.words = np.frombuffer(self.memory, np.int64)
        self.lanes = np.frombuffer(self.memory, np.uint8, offset=layout.lanes_at(world))
        self.run(kernels.meet, -1, 0)

    def _open(self, store: Any) -> mmap.mmap:
        """Makes or opens the segment; every rank learns from the store if one could not."""
        wait = timedelta(seconds=self.timeout)
        size = layout.lanes_at(self.world) + 2 * self.world * layout.LANE
        handle, memory = -1, None
        known = layout.identity()
        if self.rank == 0:
            handle, memory = layout.anonymous(size, self.name)
            token = os.urandom(16)
            memory[8 * layout.TOKEN : 8 * layout.TOKEN + 16] = token
            known |= {"file": handle, "token": token.hex()}
        try:
            first = self._exchange(store, "who", json.dumps(known), wait)
            self.peers, problem = layout.refuse_strangers(first), ""
            if self.rank != 0:
                root = self.peers[0]
                try:
                    memory = layout.attach(
                        root["pid"], root["file"], size, bytes.fromhex(root["token"])
                    )
                except (SharedGroupError, OSError, ValueError) as error:
                    problem = f"rank {self.rank}: {error}"
            for answer in self._exchange(store, "attached", problem or "yes", wait):
                if answer != b"yes":
                    raise SharedGroupError(answer.decode())
        finally:
            # Whoever has mapped the file keeps it; nobody else can open it any more.
            if handle >= 0:
                os.close(handle)
        assert memory is not None
        return memory

    def _exchange(self, store: Any, what: str, value: str, wait: timedelta) -> list[bytes]:
        store.set(f"{what}/{self.rank}", value)
        found = []
        for k in range(self.world):
            try:
                store.wait([f"{what}/{k}"], wait)
            except RuntimeError as error:
                raise SharedGroupError(
                    f"rank {k} of {self.world} did not come within {wait.total_seconds():g} s "
                    f"(seen by rank {self.rank}): {str(error).splitlines()[0]}"
                ) from error
            found.append(store.get(f"{what}/{k}"))
        return found

    def _word(self, rank: int, which: int) -> int:
        return int(self.words[(rank + 1) * RANK_WORDS + which])

    def whole(self, operation: Callable[..., T], *arguments: Any) -> T:
        """Runs an operation of several rounds; if it breaks off, so does the group."""
        with self.lock:
            if self.broken is not None:
                raise SharedGroupError(self.broken)
            if self.words[layout.GIVEN_UP]:
                raise SharedGroupError(self._why())
            before, whole = int(self.state[0]), False
            try:
                result = operation(*arguments)
                whole = True
            except (MismatchError, SharedGroupError):
                whole = True
                raise
            finally:
                # What was refused before the first round has disturbed nobody.
                if not whole and self.state[0] != before:
                    self._give_up(_FAILED, self.rank)
            return result

    def run(self, kernel: Any, *arguments: Any, timeout: float | None = None) -> None:
        """Calls a kernel until it is done, looking around meanwhile."""
        status = kernel(self.words, self.state, self.rank, self.world, *arguments)
        if status != kernels.DONE:
            self.stay(
                status,
                lambda: kernel(self.words, self.state, self.rank, self.world, *arguments),
                self._missing,
                timeout,
            )

    def meet(self, code: int, number: int, timeout: float | None = None) -> None:
        """One round without a message."""
        self.run(kernels.meet, code, number, timeout=timeout)

    def stay(
        self,
        status: int,
        again: Callable[[], int],
        missing: Callable[[], list[int]],
        timeout: float | None = None,
    ) -> None:
        """Waits on: calls `again` until it is done; `missing` names the ranks waited for."""
        begun = time.monotonic()
        limit = self.timeout if timeout is None else timeout
        glance = begun + _LOOK
        while status == kernels.WAITING:
            now = time.monotonic()
            if now - begun > limit:
                absent = missing()
                if absent:
                    self._give_up(_TIMEOUT, absent[0])
                    raise SharedGroupError(
                        f"rank {self.rank} of group {self.name!r} waited {now - begun:.1f} s for "
                        f"rank {', '.join(map(str, absent))} (timeout {limit:g} s)"
                    )
            if now > glance:
                glance = now + _LOOK
                self._look_around(missing)
            self.progress()
            status = again()
        if status == kernels.GAVE_UP:
            raise SharedGroupError(self._why())
        if status == kernels.MISMATCH:
            raise MismatchError(self._difference())

    def _missing(self) -> list[int]:
        count = self.state[0]
        return [k for k in range(self.world) if self._word(k, layout.ARRIVED) < count]

    def gone(self, rank: int) -> bool:
        """Whether this rank has left or died."""
        peer = self.peers[rank]
        left = self._word(rank, layout.LEFT) != 0
        return left or not layout.alive(peer["pid"], peer["started"])

    def _look_around(self, missing: Callable[[], list[int]]) -> None:
        for k in missing():
            left = self._word(k, layout.LEFT) != 0
            if not self.gone(k):
                continue
            # What it did before it went may have come between the two looks.
            self.progress()
            if k in missing():
                self._give_up(_LEFT if left else _DEAD, k)
                raise SharedGroupError(self._why())

    def _give_up(self, reason: int, whom: int) -> None:
        words = self.words
        if words[layout.GIVEN_UP] == 0:
            words[layout.WHO], words[layout.WHOM] = self.rank, whom
            words[layout.GIVEN_UP] = reason
            kernels.ring_bells(words, self.rank, self.world)
        self.broken = self._why()

    def _why(self) -> str:
        words = self.words
        reason, who, whom = (int(words[i]) for i in (layout.GIVEN_UP, layout.WHO, layout.WHOM))
        story = {
            _TIMEOUT: f"rank {whom} did not come within the timeout of rank {who}",
            _DEAD: f"rank {whom} (process {self.peers[whom]['pid']}) has died",
            _LEFT: f"rank {whom} has left the group while rank {who} waited for it",
            _FAILED: f"rank {who} broke off in the middle of an operation",
        }[reason]
        self.broken = f"group {self.name!r} is broken: {story}; seen by rank {self.rank}"
        return self.broken

    def _difference(self) -> str:
        place = layout.DESCRIPTORS + 16 * (int(self.state[0]) & 1)
        calls = [
            self._describe(self._word(k, place), self._word(k, place + 1))
            for k in range(self.world)
        ]
        told = "; ".join(f"rank {k}: {call}" for k, call in enumerate(calls))
        return f"ranks of group {self.name!r} do not call the same operation: {told}"

    def leave(self) -> None:
        """Tells the others that this rank will not come again, and lets go of the memory."""
        with self.lock:
            self.words[(self.rank + 1) * RANK_WORDS + layout.LEFT] = 1
            kernels.ring_bells(self.words, self.rank, self.world)
            self.left = True
            self.broken = f"group {self.name!r} was destroyed on rank {self.rank}"
