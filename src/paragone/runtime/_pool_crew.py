"""The parent's side of a `ProcessPool`: who is idle, what waits, and who has died.

Each worker has a pipe of its own and at most one task. A task goes from the caller straight to an
idle worker; one thread, the collector, waits for answers and deaths together and hands out what
waits. No lock is shared between processes, so a killed worker can block nobody:

    poll(pipes, process descriptors, wake)  ->  answer: next task;  death: all futures fail.

The pool holds the crew and the collector holds the crew, but not the pool: a forgotten pool is
collected, and its workers end.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Future
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from paragone.runtime._pool_outcome import Caught, WorkerDied, settle
from paragone.runtime._pool_worker import Setting, serve

__all__ = ["Crew"]

_GRACE = 1.0
"""Seconds between asking a worker to end and killing it."""


class _Member:
    """One worker process as the parent sees it."""

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self.process, self.connection = process, connection
        assert process.pid is not None
        self.pid = process.pid
        self.watch = os.pidfd_open(process.pid)
        self.task: Future | None = None
        self.answered = False


class Crew:
    """Worker processes and the tasks that they have."""

    def __init__(self, context: BaseContext, settings: Sequence[Setting]) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future, bytes]] = deque()
        self._closed, self._broken = False, ""
        self._died: tuple[int | None, int] | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self.members: list[_Member] = []
        try:
            for setting in settings:
                self.members.append(self._start(context, setting))
        finally:
            if len(self.members) < len(settings):
                self._collect_all(killed=True)
        self._idle = list(self.members)
        self._collector = threading.Thread(
            target=self._collect, name="paragone-pool-collector", daemon=True
        )
        self._collector.start()

    def _start(self, context: Any, setting: Setting) -> _Member:
        ours, theirs = context.Pipe()
        others: tuple[Connection, ...] = ()
        if context.get_start_method() == "fork":
            others = (ours, *(member.connection for member in self.members))
        with theirs:
            setting = Setting(**{**setting.__dict__, "close": others})
            process = context.Process(target=serve, args=(theirs, setting))
            process.start()
        return _Member(process, ours)

    # Called by the pool's users.

    def submit(self, task: bytes, future: Future) -> None:
        """Sends a pickled task to an idle worker, or lets it wait for one."""
        with self._lock:
            if self._broken:
                raise self._death("which broke this pool earlier")
            if self._closed:
                raise RuntimeError("this pool is closed; make a new one")
            if not self._idle:
                self._waiting.append((future, task))
                return
            member = self._idle.pop()
            member.task = future
        future.set_running_or_notify_cancel()
        self._send(member, task)

    def close(self, *, wait: bool, cancel: bool) -> None:
        """Takes no more tasks; the workers end when what waits is done."""
        with self._lock:
            self._closed = True
            cancelled = [future for future, _ in self._waiting] if cancel else []
            if cancel:
                self._waiting.clear()
        for future in cancelled:
            future.cancel()
            future.set_running_or_notify_cancel()
        self._nudge()
        if wait and threading.current_thread() is not self._collector:
            self._collector.join()

    def terminate(self) -> None:
        """Ends all workers now; tasks that run fail."""
        self.close(wait=False, cancel=True)
        with self._lock:
            self._broken = self._broken or "the pool was terminated while its task ran"
        self._nudge()
        if threading.current_thread() is not self._collector:
            self._collector.join(3 * _GRACE)

    def _nudge(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _send(self, member: _Member, task: bytes) -> None:
        # A worker that is gone is found by its process descriptor, which says how it ended.
        with contextlib.suppress(ConnectionError, OSError):
            member.connection.send_bytes(task)

    # The collector.

    def _collect(self) -> None:
        poller = select.poll()
        alive = {}
        for member in self.members:
            for descriptor in (member.connection.fileno(), member.watch):
                alive[descriptor] = member
                poller.register(descriptor, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        left = len(self.members)
        while left and not self._broken:
            for descriptor, _ in poller.poll():
                member = alive.get(descriptor)
                if member is None:
                    os.eventfd_read(self._wake)
                    self._release()
                elif descriptor == member.watch:
                    self._drain(member)
                    self._bury(member)
                    poller.unregister(member.watch)
                    left -= 1
                elif not self._receive(member):
                    poller.unregister(descriptor)
        self._fail()
        self._collect_all(killed=bool(self._broken))

    def _release(self) -> None:
        """Sends idle workers home once the pool is closed and nothing waits."""
        with self._lock:
            free = self._idle if self._closed and not self._waiting else []
            self._idle = [] if free else self._idle
        for member in free:
            self._send(member, b"")

    def _drain(self, member: _Member) -> None:
        with contextlib.suppress(OSError):
            while member.connection.poll(0) and self._receive(member):
                pass

    def _receive(self, member: _Member) -> bool:
        """Takes one answer and gives the worker its next task; False at the end of the pipe."""
        try:
            content = member.connection.recv_bytes()
        except (EOFError, OSError):
            return False
        future, member.task, member.answered = member.task, None, True
        with Caught() as caught:
            fine, result = pickle.loads(content)
        if caught.error is not None:
            fine, error = False, caught.error
        else:
            error = None if fine else result.error
        if fine is None:
            self._broken = "in its initializer"
            self._initial = error
            member.task = future
            return False
        self._next(member)
        if future is not None:
            settle(future, error, None if error else result)
        return True

    def _next(self, member: _Member) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    leave = self._closed
                    if not leave:
                        self._idle.append(member)
                    break
                future, task = self._waiting.popleft()
                member.task = future
            if future.set_running_or_notify_cancel():
                self._send(member, task)
                return
            member.task = None
        if leave:
            self._send(member, b"")
            self._release()

    def _bury(self, member: _Member) -> None:
        """A worker has ended: as it should when the pool is closed, else the pool is broken."""
        with self._lock:
            if (self._closed and member.task is None) or self._broken:
                return
            self._broken = "while it ran a task" if member.task else "while it was idle"
            if not member.answered:
                self._broken = (
                    "before its first answer; if it could not even start, put the code that makes "
                    "the pool under `if __name__ == '__main__':`"
                )
        member.process.join(_GRACE)
        self._died = member.process.exitcode, member.pid

    _initial: BaseException | None = None

    def _death(self, doing: str) -> BaseException:
        if self._initial is not None:
            error = BrokenExecutor("a worker's initializer failed")
            error.__cause__ = self._initial
            return error
        if self._died is None:
            return BrokenExecutor(doing if doing.startswith("the pool") else self._broken)
        return WorkerDied(*self._died, doing)

    def _fail(self) -> None:
        """Gives all futures of a broken pool their error."""
        with self._lock:
            waiting = [future for future, _ in self._waiting]
            self._waiting.clear()
            running = [m.task for m in self.members if m.task is not None]
            self._idle = []
        for future in waiting:
            if future.set_running_or_notify_cancel():
                settle(future, self._death(f"{self._broken}; this task had not begun"))
        for future in running:
            settle(future, self._death(self._broken))

    def _collect_all(self, *, killed: bool) -> None:
        """Ends and reaps every worker, and closes what belongs to them."""
        for number in (signal.SIGTERM, signal.SIGKILL) if killed else ():
            for member in self.members:
                if member.process.is_alive():
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(member.watch, number)
            for member in self.members:
                member.process.join(_GRACE)
        for member in self.members:
            member.process.join(_GRACE)
            member.connection.close()
            os.close(member.watch)
            with contextlib.suppress(ValueError):
                member.process.close()
        with self._lock:
            os.close(self._wake)
            self._wake = -1
