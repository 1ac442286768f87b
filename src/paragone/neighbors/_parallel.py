"""Threads for queries: kernels without the interpreter lock, called on runs of rows.

A query does not touch another's answer, so any cut into runs gives the same bits. Plain Python
threads serve: they start no thread pool of Numba's, compile nothing twice, and may be called
from several threads at once. BLAS is held to one thread meanwhile, since the runs fill the cores.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["in_runs", "one_blas_thread"]

_LOCK = threading.Lock()
_STATE: dict[str, Any] = {"inside": 0, "limit": None}


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Holds BLAS to one thread; may be entered by several threads at once."""
    with _LOCK:
        if _STATE["inside"] == 0:
            _STATE["limit"] = _controller().limit(limits=1)
        _STATE["inside"] += 1
    try:
        yield
    finally:
        with _LOCK:
            _STATE["inside"] -= 1
            if _STATE["inside"] == 0:
                _STATE["limit"].restore_original_limits()


def in_runs(work: Callable[[int, int], None], n: int, workers: int, run: int) -> None:
    """Calls `work(start, stop)` for consecutive runs of at most `run` of n rows."""
    starts = range(0, n, max(1, run))
    if workers <= 1 or len(starts) <= 1:
        for start in starts:
            work(start, min(start + run, n))
        return
    with ThreadPoolExecutor(min(workers, len(starts))) as pool:
        for done in [pool.submit(work, start, min(start + run, n)) for start in starts]:
            done.result()
