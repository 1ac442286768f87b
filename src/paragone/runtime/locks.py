r"""Locks that know who owns them and who waits, so that a deadlock can be told, not guessed.

Four conditions make a deadlock: a thing that one thread holds alone, held while waiting for
another, not taken away by force, and a circle of such waits. The first three are what a lock is;
the fourth can be seen. With $o(l)$ the owner of lock $l$ and $w(t)$ the lock that thread $t$ waits
for, the threads that wait form a graph in which each has one successor,

$$ t \to o(w(t)), \qquad \text{deadlock} \iff t = (o \circ w)^k(t) \text{ for some } k \ge 1 . $$

A lock costs a dictionary entry while it waits and an assignment when it does not (about 0.2 us
more than `threading.Lock`); `deadlocks` costs O(waiting threads).

References:
    Coffman, Elphick and Shoshani (1971), System deadlocks, Computing Surveys 3(2), section 2: the
    four conditions; section 4: detection by circular waits.
    Silberschatz, Galvin and Gagne (2018), Operating system concepts, section 8.6.1: one instance
    of each resource, the wait-for graph.
"""

from __future__ import annotations

import itertools
import sys
import threading
from dataclasses import dataclass
from typing import Any

__all__ = ["Deadlock", "DeadlockError", "Lock", "RLock", "Wait", "deadlocks", "waits"]

_WAITING: dict[int, tuple[_Owned, bool]] = {}
"""Thread to the lock it waits for, and whether it will give up by itself."""

_numbers = itertools.count(1)


class DeadlockError(RuntimeError):
    """To wait for this lock would have closed a circle of waiting threads."""


class _Owned:
    """What both kinds of lock share: a name, an owner, and how to wait."""

    def __init__(self, name: str | None = None, *, detect: bool = False) -> None:
        self.name = name or f"{type(self).__name__.lower()}-{next(_numbers)}"
        self.detect = detect
        self._inner = threading.Lock()
        self._owner: int | None = None

    @property
    def owner(self) -> int | None:
        """`ident` of the thread that holds the lock (None: nobody)."""
        return self._owner

    def locked(self) -> bool:
        return self._inner.locked()

    def _take(self, blocking: bool, timeout: float) -> bool:
        if not blocking:
            if not self._inner.acquire(False, timeout):
                return False
        elif not self._inner.acquire(False) and not self._wait(timeout):
            return False
        self._owner = threading.get_ident()
        return True

    def _wait(self, timeout: float) -> bool:
        me = threading.get_ident()
        _WAITING[me] = (self, timeout >= 0)
        try:
            # All enter their wait before they look, so of two that close a circle one sees it.
            if self.detect and (circle := _circle(me)):
                raise DeadlockError(
                    f"waiting for {self.name!r} would never end: {_told(circle)}; "
                    "take locks in one order everywhere"
                )
            return self._inner.acquire(True, timeout)
        finally:
            del _WAITING[me]

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError

    def __repr__(self) -> str:
        held = "free" if self._owner is None else f"held by {_name(self._owner)}"
        return f"<{type(self).__name__} {self.name!r}, {held}>"


class Lock(_Owned):
    """`threading.Lock` that knows its owner; take it in its place where a program hangs.

    Args:
        name: What reports call it; numbered without it.
        detect: Raise `DeadlockError` in place of a wait that would close a circle.

    Example:
        >>> with Lock("stock") as taken:
        ...     taken
        True
    """

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Takes the lock as `threading.Lock.acquire` does.

        Args:
            blocking: Whether to wait.
            timeout: Seconds to wait at most; -1 waits without end.

        Raises:
            DeadlockError: With `detect`, where the wait could not end.
        """
        return self._take(blocking, timeout)

    def release(self) -> None:
        """Gives the lock back; any thread may, as with `threading.Lock`."""
        self._owner = None
        self._inner.release()


class RLock(_Owned):
    """`threading.RLock` that knows its owner; its owner may take it again.

    Works inside `threading.Condition`. Arguments are those of `Lock`.

    Example:
        >>> lock = RLock()
        >>> with lock, lock:
        ...     lock.owner == threading.get_ident()
        True
    """

    def __init__(self, name: str | None = None, *, detect: bool = False) -> None:
        super().__init__(name, detect=detect)
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Takes the lock, or takes it once more; see `Lock.acquire`."""
        if self._owner != threading.get_ident() and not self._take(blocking, timeout):
            return False
        self._count += 1
        return True

    def release(self) -> None:
        """Undoes one `acquire`.

        Raises:
            RuntimeError: The caller does not own the lock.
        """
        if self._owner != threading.get_ident():
            raise RuntimeError(f"{self!r} is not this thread's to release")
        self._count -= 1
        if not self._count:
            self._owner = None
            self._inner.release()

    def _is_owned(self) -> bool:
        return self._owner == threading.get_ident()

    def _release_save(self) -> int:
        count, self._count = self._count, 0
        self._owner = None
        self._inner.release()
        return count

    def _acquire_restore(self, count: int) -> None:
        self._take(True, -1)
        self._count = count


@dataclass(frozen=True, slots=True)
class Wait:
    """One thread of a circle: it holds what its predecessor waits for.

    Attributes:
        thread: Its name.
        ident: Its number in Python.
        lock: The lock it waits for.
        owner: Name of the thread that holds that.
        ends: Whether the wait has a timeout.
        stack: Where it waits: "function (file:line)", innermost first.
    """

    thread: str
    ident: int
    lock: str
    owner: str
    ends: bool
    stack: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deadlock:
    """Threads that wait for each other in a circle; `str()` tells who, for what, and where."""

    waits: tuple[Wait, ...]

    @property
    def forever(self) -> bool:
        """Whether no timeout will break the circle."""
        return not any(wait.ends for wait in self.waits)

    def __str__(self) -> str:
        count = len(self.waits)
        head = "a thread waits for itself" if count == 1 else f"{count} threads wait in a circle"
        lines = [f"deadlock: {head}" + ("" if self.forever else ", until a timeout")]
        for wait in self.waits:
            lines.append(f"  {wait.thread} waits for {wait.lock!r}, held by {wait.owner}")
            lines += [f"    at {call}" for call in wait.stack]
        return "\n".join(lines)


def _name(ident: int) -> str:
    for thread in threading.enumerate():
        if thread.ident == ident:
            return thread.name
    return f"a thread that has ended ({ident})"


def _circle(start: int) -> list[tuple[int, _Owned, bool]]:
    """The circle that `start` is in; empty where its chain of waits ends."""
    chain, seen, at = [], set(), start
    while (waiting := _WAITING.get(at)) is not None and at not in seen:
        seen.add(at)
        lock, ends = waiting
        chain.append((at, lock, ends))
        owner = lock.owner
        if owner is None:
            return []
        at = owner
    return chain if at == start and chain else []


def _told(circle: list[tuple[int, _Owned, bool]]) -> str:
    return ", ".join(f"{_name(at)} waits for {lock.name!r}" for at, lock, _ in circle)


def deadlocks(*, depth: int = 5) -> tuple[Deadlock, ...]:
    """Returns the circles of threads that wait for each other's `Lock` or `RLock` now.

    Prefer it to `faulthandler.dump_traceback` for a program that hangs: that shows where all
    threads stand, this who waits for whom. Only the locks of this module are seen.

    Args:
        depth: Calls of each stack to tell.

    Example:
        >>> deadlocks()
        ()
    """
    frames = sys._current_frames()
    found: list[Deadlock] = []
    told: set[int] = set()
    for ident in list(_WAITING):
        circle = [] if ident in told else _circle(ident)
        told.update(at for at, _, _ in circle)
        if circle:
            found.append(Deadlock(tuple(
                Wait(_name(at), at, lock.name, _name(lock.owner or 0), ends,
                     _stack(frames.get(at), depth))
                for at, lock, ends in circle
            )))  # fmt: skip
    frames.clear()
    return tuple(found)


def _stack(frame: Any, depth: int) -> tuple[str, ...]:
    calls = []
    while frame is not None and len(calls) < depth:
        code = frame.f_code
        if code.co_filename != __file__:
            calls.append(f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})")
        frame = frame.f_back
    return tuple(calls)


def waits() -> dict[int, str]:
    """Returns each waiting thread's `ident` with the lock it waits for, in words."""
    return {
        ident: f"{lock.name!r}, held by {_name(lock.owner)}" if lock.owner else repr(lock.name)
        for ident, (lock, _) in list(_WAITING.items())
    }
