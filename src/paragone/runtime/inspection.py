r"""Every process and thread of a program, live: what Python knows and the kernel knows.

A process owns memory; its threads share it. Python lists the threads that it started, with their
names and stacks; the kernel lists all of them, those of OpenMP, BLAS and other libraries too, with
what each does at this moment: runs, sleeps, waits and for what. One table needs both. The two are
joined by the kernel's number of a thread (`native_id`), which is not Python's `ident`:

$$ \text{threads} = \text{kernel} \;\bowtie_{\text{native\_id}}\; \text{Python},
   \qquad \text{Python} \subseteq \text{kernel} . $$

An own snapshot holds the GIL throughout, so that no Python thread moves while it is taken; it
costs about 15 us a thread, and twice that with the wait channels of all. Of another process the
kernel's half is read in the same way; the stacks of its Python threads come from py-spy, where
that is installed.

Not the same number everywhere: names in `/proc` have 15 bytes, and before Python 3.14
`Thread(name=...)` does not set them, so both names are shown. Numbers of processes are used
again: a process is its number together with its start, and `inspect` compares both.

References:
    Silberschatz, Galvin and Gagne (2018), Operating system concepts, sections 3.1 and 4.1: what
    belongs to a process and what to a thread.
    proc(5), Linux manual pages: `/proc/pid/stat`, `/proc/pid/task`, `/proc/pid/wchan`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from paragone.runtime import _proc, _spy
from paragone.runtime._proc import ProcessFacts
from paragone.runtime.locks import deadlocks, waits

__all__ = ["Frame", "Snapshot", "ThreadInfo", "inspect", "report_on"]


class Frame(NamedTuple):
    """One call of a stack: `function` at `line` of `file`."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.function} ({os.path.basename(self.file)}:{self.line})"


class ThreadInfo(NamedTuple):
    """One thread of the operating system, and the Python thread that it is, if it is one.

    Attributes:
        native_id: The kernel's number.
        name: Python's name; the kernel's where Python does not know the thread.
        kernel_name: The kernel's name, 15 bytes at most.
        ident: Python's number (None: Python does not know the thread).
        daemon: Whether Python would end without waiting for it (None: not known).
        state: "running", "sleeping", "disk", "stopped", "traced", "zombie", "dead", "idle".
        user_s: CPU seconds in the program.
        system_s: CPU seconds in the kernel.
        age_s: Seconds since it began.
        last_cpu: The core that ran it last.
        wait_channel: The kernel function in which it waits ("" while it runs, and where
            `inspect` was not told to look).
        holds_gil: Whether it holds Python's lock (None: not known).
        waiting_for: What `paragone.runtime.Lock` it waits for, and who owns that.
        stack: Python calls, innermost first.
    """

    native_id: int
    name: str
    kernel_name: str
    ident: int | None
    daemon: bool | None
    state: str
    user_s: float
    system_s: float
    age_s: float
    last_cpu: int
    wait_channel: str
    holds_gil: bool | None
    waiting_for: str
    stack: tuple[Frame, ...]

    @property
    def python(self) -> bool:
        """Whether Python knows this thread."""
        return self.ident is not None

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


@dataclass(frozen=True)
class Snapshot:
    """What `inspect` found; `str()` is the table, `json()` the same as data.

    Attributes:
        process: The process itself.
        threads: Its threads, by native number: the first is the one that began it.
        children: Its child processes.
        taken_s: Seconds that it took.
        note: What could not be seen, and why ("" : nothing).
    """

    process: ProcessFacts
    threads: tuple[ThreadInfo, ...]
    children: tuple[ProcessFacts, ...]
    taken_s: float
    note: str = ""
    depth: int = field(default=3, repr=False)

    def thread(self, name: str) -> ThreadInfo:
        """Returns the thread of this name.

        Raises:
            ValueError: There is none.
        """
        for found in self.threads:
            if name in (found.name, found.kernel_name):
                return found
        names = ", ".join(each.name for each in self.threads)
        raise ValueError(f"no thread is named {name!r}; there are: {names}")

    def names(self) -> str:
        """The short listing, as Java's `ThreadMXBean` is used: a line of number and name each."""
        return "\n".join(f"[{each.native_id}] {each.name}" for each in self.threads)

    def json(self) -> str:
        """Everything, as JSON."""
        threads = [
            {**thread._asdict(), "stack": [call._asdict() for call in thread.stack]}
            for thread in self.threads
        ]
        data = {
            "process": self.process._asdict(), "threads": threads,
            "children": [child._asdict() for child in self.children],
            "taken_s": self.taken_s, "note": self.note,
        }  # fmt: skip
        return json.dumps(data, indent=2)

    def __str__(self) -> str:
        from paragone.runtime._listing import listing

        return listing(self)


def inspect(
    pid: int | Literal["self"] | None = None,
    *,
    stacks: bool = True,
    depth: int = 50,
    children: bool = True,
    channels: bool | None = None,
) -> Snapshot:
    """Lists every process and thread of a program, at this moment.

    Prefer it to `threading.enumerate` where native threads count, to psutil where Python's names
    and stacks do, and to `py-spy dump` for one's own process: it takes no other program, no
    rights and no start of an interpreter, and is two orders of magnitude faster. py-spy alone
    sees the stacks of other processes, and is asked for them.

    Args:
        pid: Number of a process; this one without it, or with "self".
        stacks: Whether to collect Python stacks.
        depth: Innermost calls of each stack that are kept.
        children: Whether to look for child processes, which reads all processes there are.
        channels: Whether to read the kernel function in which each thread waits, which doubles
            the time; None reads it of threads that have no Python stack to tell more.

    Raises:
        ProcessLookupError: There is no such process, or it ended meanwhile.
        ValueError: `pid` is no positive integer, `depth` is negative.
        OSError: This system has no `/proc`.

    Example:
        >>> snapshot = inspect()
        >>> snapshot.thread("MainThread").ident == threading.main_thread().ident
        True
    """
    if not os.path.isdir("/proc/self/task"):
        raise OSError("this system has no /proc/self/task; inspect() reads it (Linux)")
    if depth < 0:
        raise ValueError(f"depth={depth} is negative; give the number of calls to keep")
    own = pid in (None, "self") or pid == os.getpid()
    if not own and (isinstance(pid, bool) or not isinstance(pid, int) or pid <= 0):
        raise ValueError(f'pid={pid!r} is no process number; give a positive integer or "self"')
    began = time.perf_counter()
    if own:
        number, note = os.getpid(), ""
        threads = _own(stacks, depth, channels)
    else:
        assert isinstance(pid, int)
        number = pid
        threads, note = _other(number, stacks, depth, channels is not False)
    taken = time.perf_counter() - began
    found = _proc.children_of(number) if children else ()
    return Snapshot(
        _proc.facts_of(number), threads, tuple(filter(None, map(_still, found))), taken, note
    )


def _still(pid: int) -> ProcessFacts | None:
    try:
        return _proc.facts_of(pid)
    except ProcessLookupError:
        return None


def _own(stacks: bool, depth: int, channels: bool | None = True) -> tuple[ThreadInfo, ...]:
    """This process; from the list of numbers on, the GIL is not given up until all is read."""
    now, me = time.clock_gettime(time.CLOCK_BOOTTIME), threading.get_native_id()
    with _proc.Reader("/proc/self/task") as reader:
        names = reader.names()
        known = {thread.native_id: thread for thread in threading.enumerate()}
        frames = sys._current_frames() if stacks else {}
        try:
            told = {str(number) for number in known} if channels is None and stacks else set()
            kernel = [reader.thread(name, channels is not False and name not in told)
                      for name in names]  # fmt: skip
            pending = waits()
            found = []
            for seen in filter(None, kernel):
                python = known.get(seen.native_id)
                ident = python.ident if python else None
                frame = frames.get(ident) if ident is not None else None
                skip = _HERE if seen.native_id == me else 0
                found.append(ThreadInfo(
                    seen.native_id, python.name if python else seen.name, seen.name, ident,
                    python.daemon if python else None, seen.state, seen.user_s, seen.system_s,
                    now - seen.started_s, seen.last_cpu, seen.wait_channel,
                    seen.native_id == me, pending.get(ident, "") if ident is not None else "",
                    _walk(frame, depth, skip),
                ))  # fmt: skip
        finally:
            # A frame that is kept keeps all its locals alive.
            frames.clear()
    return tuple(sorted(found, key=lambda thread: thread.native_id))


_HERE = 2
"""Calls of the inspecting thread that are ours: `_own` and `inspect`."""


def _walk(frame: Any, depth: int, skip: int) -> tuple[Frame, ...]:
    found = []
    while frame is not None and len(found) < depth:
        if skip:
            skip -= 1
        else:
            code = frame.f_code
            found.append(Frame(code.co_qualname, code.co_filename, frame.f_lineno or 0))
        frame = frame.f_back
    return tuple(found)


def _other(
    pid: int, stacks: bool, depth: int, channels: bool
) -> tuple[tuple[ThreadInfo, ...], str]:
    """Another process: the kernel's half here, the Python half from py-spy."""
    started = _proc.start_of(pid)
    spied, note = _spy.dump(pid) if stacks else ({}, "")
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    with _proc.Reader(f"/proc/{pid}/task") as reader:
        kernel = [reader.thread(name, channels) for name in reader.names()]
    if _proc.start_of(pid) != started:
        raise ProcessLookupError(f"process {pid} ended, and another one has its number now")
    found = []
    for seen in filter(None, kernel):
        python = spied.get(seen.native_id)
        found.append(ThreadInfo(
            seen.native_id, python.name if python and python.name else seen.name, seen.name,
            python.ident if python else None, None, seen.state, seen.user_s, seen.system_s,
            now - seen.started_s, seen.last_cpu, seen.wait_channel,
            python.holds_gil if python else None, "", _frames(python, depth),
        ))  # fmt: skip
    return tuple(sorted(found, key=lambda thread: thread.native_id)), note


def _frames(python: _spy.Spied | None, depth: int) -> tuple[Frame, ...]:
    calls: Sequence[tuple[str, str, int]] = python.calls if python else ()
    return tuple(Frame(*call) for call in calls[:depth])


def report_on(signal_number: int = signal.SIGUSR1) -> None:
    """Prints a snapshot and any deadlock to the standard error whenever the signal arrives.

    Call it once in a program that may hang; then `kill -USR1 PID` asks it where it stands. The
    main thread answers, also while it waits for a lock, but not inside native code.

    Args:
        signal_number: The signal to answer.

    Raises:
        ValueError: Called outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("report_on() sets a signal handler: call it from the main thread")

    def answer(number: int, frame: object) -> None:
        text = "\n\n".join([str(inspect(channels=True)), *map(str, deadlocks())])
        print(text, file=sys.stderr, flush=True)

    signal.signal(signal_number, answer)
