"""What the kernel says of processes and threads, read from `/proc` without letting go of the GIL.

Python releases its lock around `open` and `read`. With a busy thread beside it every release costs
up to a switch interval (5 ms) until the lock comes back, and meanwhile the threads move on, so
that their stacks and their kernel states would be of different moments. The C library is called
through `ctypes.PyDLL`, which keeps the lock: a snapshot of one's own process is one moment for
all its Python threads, and takes 10 us a thread.

References:
    proc(5), Linux manual pages: the fields of `/proc/pid/stat`, in their order.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["KernelThread", "ProcessFacts", "Reader", "children_of", "facts_of", "start_of"]

STATES = {
    b"R": "running", b"S": "sleeping", b"D": "disk", b"T": "stopped", b"t": "traced",
    b"Z": "zombie", b"X": "dead", b"I": "idle", b"P": "parked",
}  # fmt: skip
_SIZE = 4096
_FLAGS = os.O_RDONLY | os.O_CLOEXEC


class KernelThread(NamedTuple):
    """A line of `/proc/pid/task/tid`: times in seconds of CPU, `started` after boot."""

    native_id: int
    name: str
    state: str
    user_s: float
    system_s: float
    started_s: float
    last_cpu: int
    wait_channel: str


class ProcessFacts(NamedTuple):
    """A process as the kernel knows it; times in seconds, memory in bytes."""

    pid: int
    parent: int
    name: str
    command: tuple[str, ...]
    state: str
    threads: int
    user_s: float
    system_s: float
    started_s: float
    memory: int


@functools.cache
def _tick() -> float:
    return 1.0 / os.sysconf("SC_CLK_TCK")


@functools.cache
def _page() -> int:
    return os.sysconf("SC_PAGE_SIZE")


@functools.cache
def _library() -> tuple[Any, Any, Any]:
    """`openat`, `read` and `close` that do not let go of the GIL."""
    library = ctypes.PyDLL(None)
    library.openat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    library.read.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    library.read.restype = ctypes.c_ssize_t
    library.close.argtypes = [ctypes.c_int]
    return library.openat, library.read, library.close


class Reader:
    """Reads small files below one folder; holds the GIL from the first byte to the last.

    Args:
        folder: Such as `/proc/self/task`.

    Raises:
        ProcessLookupError: The folder is not there.
    """

    def __init__(self, folder: str) -> None:
        self._openat, self._read, self._close = _library()
        self._buffer = ctypes.create_string_buffer(_SIZE)
        self._address = ctypes.addressof(self._buffer)
        self._view = memoryview(self._buffer).cast("B")
        try:
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ProcessLookupError(f"{folder} is gone: the process has ended") from None

    def names(self) -> list[str]:
        return os.listdir(self._folder)

    def read(self, path: bytes) -> bytes | None:
        """Returns the first 4 KiB, or None where the file is gone or not ours to read."""
        handle = self._openat(self._folder, path, _FLAGS)
        if handle < 0:
            return None
        size = self._read(handle, self._address, _SIZE)
        self._close(handle)
        return None if size < 0 else self._view[:size].tobytes()

    def thread(self, native_id: str, channel: bool = True) -> KernelThread | None:
        """Returns one thread of a `task` folder, or None if it has ended.

        Args:
            native_id: Its number.
            channel: Whether to read where it waits: a second file.
        """
        folder = native_id.encode()
        raw = self.read(folder + b"/stat")
        if raw is None:
            return None
        name, fields = _split(raw)
        state = fields[0]
        asked = channel and state != b"R"
        waits = (self.read(folder + b"/wchan") if asked else None) or b"0"
        tick = _tick()
        return KernelThread(
            int(native_id), name, _state(state), int(fields[11]) * tick, int(fields[12]) * tick,
            int(fields[19]) * tick, int(fields[36]), "" if waits == b"0" else waits.decode(),
        )  # fmt: skip

    def close(self) -> None:
        os.close(self._folder)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _state(letter: bytes) -> str:
    return STATES.get(letter) or letter.decode()


def _split(raw: bytes) -> tuple[str, list[bytes]]:
    """Name and the fields from the third (the state) on; a name may hold spaces and brackets."""
    first, last = raw.index(b"("), raw.rindex(b")")
    return raw[first + 1 : last].decode(errors="replace"), raw[last + 2 :].split()


def facts_of(pid: int) -> ProcessFacts:
    """Returns what the kernel says of a process.

    Raises:
        ProcessLookupError: No process of that number.
    """
    try:
        name, fields = _split(Path(f"/proc/{pid}/stat").read_bytes())
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"no process {pid}: it has ended, or never was") from None
    command = words.rstrip(b"\0").split(b"\0") if words else []
    return ProcessFacts(
        pid, int(fields[1]), name, tuple(word.decode(errors="replace") for word in command),
        _state(fields[0]), int(fields[17]),
        int(fields[11]) * _tick(), int(fields[12]) * _tick(), int(fields[19]) * _tick(),
        int(fields[21]) * _page(),
    )  # fmt: skip


def start_of(pid: int) -> float:
    """Seconds after boot at which this process began: with its number, its identity."""
    return facts_of(pid).started_s


def children_of(pid: int) -> list[int]:
    """Returns the children of a process, oldest number first; threads' children included."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            _, fields = _split(Path(f"/proc/{entry}/stat").read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(entry))
    return sorted(found)
