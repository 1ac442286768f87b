"""Work for pools and loaders: what waits, what holds Python's lock, what lets go of it.

Each chore is a function of one whole number (or of a block of rows) that workers import by name,
and returns what any way of running it must return. Importing this module loads no NumPy: a worker
that only waits stays as small as it can be.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

__all__ = ["CHORES", "chore", "empty", "load", "spin"]

_SECONDS = 0.005
_FILE = 4 << 20


def empty(x: int) -> int:
    """Nothing: what is left is the price of a task."""
    return x


def python(x: int) -> int:
    """Pure Python, about 10 ms: it holds the lock all the time."""
    total = x
    for i in range(100_000):
        total += i * i % 7
    return total


def numpy(x: int) -> float:
    """NumPy on an array that fits in the cache, about 10 ms: it lets go of the lock."""
    import numpy as np

    values = np.random.default_rng(x).random(20_000)
    for _ in range(10):
        values = np.sort(np.cos(values * 1000.0))
    return float(values[::7].sum())


def numba(x: int) -> int:
    """A kernel with `nogil=True`, about 10 ms."""
    return spin(5_000_000, x)


def spin(steps: int, seed: int = 1) -> int:
    """That kernel, with as many steps as are asked for."""
    from paragone.lab._chore_kernels import spin

    return int(spin(steps, seed))


def wait(x: int) -> int:
    """Waits 5 ms, as for an answer from the network."""
    time.sleep(_SECONDS)
    return x


def read(x: int) -> int:
    """Reads 4 MB of a file that the system holds in memory, and counts a byte."""
    with open(_file(), "rb", buffering=0) as file:
        return file.read().count(x % 7)


def rows(block: Any) -> Any:
    """Three numbers of each row: a little work for many bytes."""
    import numpy as np

    return np.stack([block.min(axis=1), block.max(axis=1), block.sum(axis=1)], axis=1)


CHORES: Mapping[str, Callable[[Any], Any]] = {
    f.__name__: f for f in (empty, python, numpy, numba, wait, read, rows)
}
"""Name to function."""


def chore(name: str) -> Callable[[Any], Any]:
    """Returns a chore by its name."""
    return CHORES[name]


@cache
def _file() -> str:
    """A file of 4 MB, made once for all processes of this user."""
    path = os.path.join(tempfile.gettempdir(), f"paragone-chore-{os.getuid()}")
    if not os.path.isfile(path) or os.path.getsize(path) != _FILE:
        handle, partial = tempfile.mkstemp(prefix="paragone-chore-")
        with os.fdopen(handle, "wb") as file:
            file.write(bytes(range(256)) * (_FILE // 256))
        os.replace(partial, path)
    return path


def load(work: str, items: int, workers: int, megabytes: int = 0) -> tuple[dict[str, Any], Any]:
    """The input of a run: what to do how often on how many workers, and rows where there are any.

    Returns:
        The setting, and an array (n, 1000) of float32 for "rows", else a range.
    """
    setting = {"work": work, "items": items, "workers": workers}
    if work != "rows":
        return setting, list(range(items))
    import numpy as np

    count = megabytes * 1_000_000 // 4000
    return setting, np.random.default_rng(0).random((count, 1000), dtype=np.float32)
