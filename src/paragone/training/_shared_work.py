"""What calls of the shared group return: handles of work that is done, or of a message under way.

Collectives run in the call itself: on a host where every core has a rank, a thread that
communicates beside the computation would take its core. Messages are different: two ranks that
send to each other before they receive must not wait for each other. So `send` and `recv` fill and
empty what boxes they can, and the rest goes on whenever this rank waits for anything.
"""

from __future__ import annotations

import time
from collections import deque
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from paragone.training import _shared_channels as channels
from paragone.training import _shared_kernels as kernels
from paragone.training._shared_station import MismatchError, Station

__all__ = ["Done", "Message", "Messages"]

_Work: Any = vars(dist)["_Work"]


class Done(_Work):
    """Work that was finished before it was returned."""

    def __init__(self, results: Any) -> None:
        super().__init__()
        self._results = results

    def wait(self, timeout: Any = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True

    def exception(self) -> None:
        return None

    def result(self) -> Any:
        return self._results

    def get_future(self) -> torch.futures.Future[Any]:
        future: torch.futures.Future[Any] = torch.futures.Future()
        future.set_result(self._results)
        return future


class Message(_Work):
    """A message under way; `wait` moves it, and all others of this rank, until it is through."""

    def __init__(
        self, board: Messages, tensor: torch.Tensor, peer: int | None, tag: int, incoming: bool
    ) -> None:
        super().__init__()
        self.board, self.tensor, self.peer, self.tag = board, tensor, peer, tag
        plain = tensor.is_contiguous() and not tensor.is_neg() and not tensor.is_conj()
        if plain:
            self.flat = tensor
        elif incoming:
            self.flat = torch.empty_like(tensor, memory_format=torch.contiguous_format)
        else:
            self.flat = tensor.resolve_conj().resolve_neg().contiguous()
        self.total = self.flat.numel() * self.flat.element_size()
        self.done, self.error = -1, ""

    def finish(self) -> None:
        """Brings what has come to where it belongs."""
        if self.flat is not self.tensor:
            self.tensor.copy_(self.flat)

    @property
    def through(self) -> bool:
        return self.done >= self.total

    def wait(self, timeout: timedelta | None = None) -> bool:
        seconds = None if timeout is None else timeout.total_seconds()
        self.board.wait(self, seconds if seconds and seconds > 0 else None)
        return True

    def is_completed(self) -> bool:
        self.board.progress()
        return self.through or bool(self.error)

    def is_success(self) -> bool:
        return self.through and not self.error

    def result(self) -> list[torch.Tensor]:
        return [self.tensor]

    def _source_rank(self) -> int:
        return -1 if self.peer is None else self.peer

    source_rank = _source_rank

    def get_future(self) -> torch.futures.Future[Any]:
        self.wait()
        future: torch.futures.Future[Any] = torch.futures.Future()
        future.set_result([self.tensor])
        return future


class _Stray:
    """A message that came before anyone asked for one with its tag."""

    def __init__(self, source: int, tag: int, total: int) -> None:
        self.source, self.tag, self.total, self.done = source, tag, total, -1
        self.flat = torch.empty(total, dtype=torch.uint8)


class Messages:
    """All messages of a rank: in the order of their posting by channel and tag."""

    def __init__(self, station: Station) -> None:
        self._station = station
        world = station.world
        self._sends: list[deque[Message]] = [deque() for _ in range(world)]
        self._receives: list[Message] = []
        self._strays: list[_Stray] = []
        self._coming: list[Message | _Stray | None] = [None] * world
        self._seen = np.zeros(2 * world, np.int64)
        station.progress = self.progress

    def send(self, tensor: torch.Tensor, target: int, tag: int) -> Message:
        message = Message(self, tensor, target, tag, False)
        self._station.whole(self._post, self._sends[target], message)
        return message

    def receive(self, tensor: torch.Tensor, source: int | None, tag: int) -> Message:
        message = Message(self, tensor, source, tag, True)
        self._station.whole(self._post, self._receives, message)
        return message

    def _post(self, queue: Any, message: Message) -> None:
        queue.append(message)
        self._move()

    def progress(self) -> None:
        """Moves what can be moved now."""
        with self._station.lock:
            self._move()

    @property
    def pending(self) -> list[int]:
        """Ranks to which messages are still to be sent."""
        return [k for k, queue in enumerate(self._sends) if queue]

    def _move(self) -> None:
        words, me, world = self._station.words, self._station.rank, self._station.world
        for target, queue in enumerate(self._sends):
            while queue:
                head = queue[0]
                address = head.flat.data_ptr()
                head.done = channels.send_some(
                    words, me, world, target, address, head.total, head.done, head.tag
                )
                if not head.through:
                    break
                queue.popleft()
        if self._receives and self._strays:
            self._claim_strays()
        for source in range(world):
            while self._coming[source] is not None or self._begin(source):
                item: Any = self._coming[source]
                address = item.flat.data_ptr()
                item.done = channels.receive_some(
                    words, me, world, source, address, item.total, item.done
                )
                if item.done < item.total:
                    break
                self._coming[source] = None
                if isinstance(item, Message):
                    item.finish()
                else:
                    self._strays.append(item)
                    self._claim_strays()

    def _wanted(self, source: int, tag: int) -> Message | None:
        for message in self._receives:
            if message.tag == tag and message.peer in (None, source):
                return message
        return None

    def _begin(self, source: int) -> bool:
        """Whether a message from this rank is to be taken in now."""
        if not any(message.peer in (None, source) for message in self._receives):
            return False
        tag, total = channels.peek(
            self._station.words, self._station.rank, self._station.world, source
        )
        if total < 0:
            return False
        wanted = self._wanted(source, tag)
        earlier = any(s.source == source and s.tag == tag for s in self._strays)
        if wanted is None or earlier or wanted.total != total:
            self._coming[source] = _Stray(source, tag, total)
            return True
        self._receives.remove(wanted)
        wanted.peer = source
        self._coming[source] = wanted
        return True

    def _claim_strays(self) -> None:
        for stray in list(self._strays):
            wanted = self._wanted(stray.source, stray.tag)
            if wanted is None:
                continue
            self._strays.remove(stray)
            self._receives.remove(wanted)
            wanted.peer = stray.source
            if wanted.total != stray.total:
                wanted.error = (
                    f"rank {self._station.rank} receives {wanted.total} bytes with tag "
                    f"{stray.tag}, but rank {stray.source} has sent {stray.total}"
                )
                continue
            wanted.flat.view(-1).view(torch.uint8).copy_(stray.flat)
            wanted.done = wanted.total
            wanted.finish()

    def wait(self, message: Message, timeout: float | None) -> None:
        if not message.through and not message.error:
            self._station.whole(self._wait, message, timeout)
        if message.error:
            raise MismatchError(message.error)

    def _wait(self, message: Message, timeout: float | None) -> None:
        station = self._station
        begun = time.monotonic()
        limit = station.timeout if timeout is None else timeout

        def turn() -> int:
            status = kernels.DONE
            while not message.through and not message.error and status == kernels.DONE:
                channels.look(station.words, station.rank, station.world, self._seen)
                self._move()
                if message.through or message.error:
                    return kernels.DONE
                status = channels.await_change(
                    station.words, station.rank, station.world, self._seen
                )
                # Others may keep the channels busy while this message stands still.
                if status == kernels.DONE and time.monotonic() - begun > limit:
                    return kernels.WAITING
            return status

        def missing() -> list[int]:
            if message.through or message.error:
                return []
            if message.peer is not None:
                return [message.peer]
            others = [k for k in range(station.world) if k != station.rank]
            late = time.monotonic() - begun > limit
            return others if late or all(station.gone(k) for k in others) else []

        status = turn()
        if status != kernels.DONE:
            station.stay(status, turn, missing, max(0.0, limit))

    def flush(self, seconds: float) -> None:
        """Sends what is still to be sent, for so long at most, before the group is destroyed."""
        until = time.monotonic() + seconds
        while self.pending and time.monotonic() < until:
            gone = [k for k in self.pending if self._station.gone(k)]
            for k in gone:
                self._sends[k].clear()
            self.progress()
            time.sleep(0.001)
