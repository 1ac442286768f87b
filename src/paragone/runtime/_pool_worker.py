"""The worker's side of a `ProcessPool`: receive a task, run it, send what became of it.

A worker ends when its pipe does: the parent closed it, or is dead. Where it may (`leash`) it also
asks the kernel to be killed with its parent, so that a task in an endless loop is no orphan.
Interrupts go to the parent alone, which ends its workers. This module loads the standard library
alone, so that a worker is up before NumPy is.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from paragone.runtime._pool_outcome import Caught, Failure

__all__ = ["Setting", "WorkerInfo", "enter_thread", "limit_threads", "serve", "worker_info"]

_VARIABLES = (
    "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class WorkerInfo:
    """Which worker this is: number `id` of `workers`, of a pool of threads or processes."""

    id: int
    workers: int
    kind: str


@dataclass(frozen=True)
class Setting:
    """What a worker process gets at its start."""

    info: WorkerInfo
    parent: int
    leash: bool
    threads: int
    initializer: Callable[..., Any] | None
    initargs: tuple[Any, ...]
    close: tuple[Connection, ...] = ()


class _Own:
    """Who works here: a process says so for all its threads, a thread for itself."""

    process: WorkerInfo | None = None
    thread = threading.local()


def worker_info() -> WorkerInfo | None:
    """The worker that this code runs in, of a pool or a `Loader`; None elsewhere."""
    return getattr(_Own.thread, "info", _Own.process)


def enter_thread(info: WorkerInfo) -> None:
    """Makes the calling thread a worker."""
    _Own.thread.info = info


def limit_threads(count: int) -> None:
    """Holds native pools of this process to `count` threads, those still to be loaded too."""
    launched = getattr(sys.modules.get("numba.np.ufunc.parallel"), "_is_initialized", False)
    os.environ.update(dict.fromkeys(_VARIABLES[launched:], str(count)))
    if "numpy" in sys.modules or "torch" in sys.modules:
        import threadpoolctl

        threadpoolctl.threadpool_limits(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    if "numba" in sys.modules:
        numba = sys.modules["numba"]
        if launched:
            numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
        else:
            numba.config.reload_config()


def _tether(parent: int) -> None:
    """Asks to be killed with the parent; one that is gone already cannot kill any more."""
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(1)


def serve(connection: Connection, setting: Setting) -> None:
    """Works until the pipe ends or an empty message comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in setting.close:
        other.close()
    if setting.leash:
        _tether(setting.parent)
    _Own.process = setting.info
    limit_threads(setting.threads)
    with Caught() as caught:
        if setting.initializer is not None:
            setting.initializer(*setting.initargs)
            limit_threads(setting.threads)
    if caught.error is not None:
        connection.send_bytes(pickle.dumps((None, Failure(caught.error))))
        return
    with connection:
        while _one(connection):
            pass


def _one(connection: Connection) -> bool:
    """One task, in a frame of its own: nothing of it is kept alive while the next is awaited."""
    try:
        task = connection.recv_bytes()
        if not task:
            return False
        connection.send_bytes(_answer(task))
    except (EOFError, ConnectionError):
        return False
    return True


def _answer(task: bytes) -> bytes:
    with Caught() as caught:
        function, args, kwargs = pickle.loads(task)
        return pickle.dumps((True, function(*args, **kwargs)), 5)
    assert caught.error is not None
    return pickle.dumps((False, Failure(caught.error)), 5)
