"""A team of threads that share the work units of one kernel.

The kernel is compiled with `nogil=True` and takes its units from a counter, so the threads need
no schedule: whoever is free takes the next one. Heavy units first give an even end. What a unit
computes must not depend on who computes it; then results do not depend on the number of threads.

    @njit(nogil=True, error_model="numpy")
    def kernel(counter, units, x, y):
        unit = fetch_add(counter, 0, 1)        # paragone.kernels.atomics
        while unit < units:
            ...
            unit = fetch_add(counter, 0, 1)

Compiled code without a parallel region loads in a third of the time.

Where PyTorch works with OpenMP of GNU, the team are its own threads. After an operation these wait
for the next one without leaving their cores; other threads of ours would have to share a core
with one that waits. Elsewhere, and in a forked child, a pool of Python's threads does the same.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["share"]

_HOME = os.getpid()
_CALLED = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix=f"paragone-team-{process}")


@functools.cache
def _openmp() -> Any:
    """`GOMP_parallel(function, data, threads, flags)` of the library that PyTorch has loaded."""
    torch = sys.modules["torch"]
    found = sorted((Path(torch.__file__ or "").parent / "lib").glob("libgomp*.so*"))
    if not found or not hasattr(os, "RTLD_NOLOAD"):
        return None
    try:
        library = ctypes.CDLL(str(found[0]), mode=os.RTLD_NOLOAD)
        start = library.GOMP_parallel
    except (OSError, AttributeError):
        return None
    start.argtypes = (_CALLED, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    start.restype = None
    return start


def share(kernel: Callable[..., Any], units: int, *arguments: Any, threads: int = 1) -> None:
    """Calls `kernel(counter, units, *arguments)` on a team until all units are done.

    Args:
        kernel: Takes units from `counter[0]` by `fetch_add` until it is `units` or more.
        units: How many there are.
        arguments: What else the kernel takes; shared by all threads.
        threads: Most threads that work at once, the calling one included. For torch tensors
            `torch.get_num_threads()`; 1 where the work is not worth waking a thread (some
            20 microseconds).
    """
    counter = np.zeros(1, np.int64)
    if threads <= 1 or units <= 1:
        kernel(counter, units, *arguments)
        return
    if "torch" in sys.modules and os.getpid() == _HOME:
        start = _openmp()
        if start is not None:
            _together(start, lambda: kernel(counter, units, *arguments), threads)
            return
    threads = min(threads, units)
    pool = _pool(threads - 1, os.getpid())
    others = [pool.submit(kernel, counter, units, *arguments) for _ in range(threads - 1)]
    try:
        kernel(counter, units, *arguments)
    finally:
        for other in others:
            other.result()


class _Held:
    """Keeps what a thread of the team raises: nothing may leave a function that C has called."""

    def __init__(self) -> None:
        self.problems: list[BaseException] = []

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, problem: BaseException | None, trace: Any) -> bool:
        if problem is not None:
            self.problems.append(problem)
        return True


def _together(start: Any, work: Callable[[], None], threads: int) -> None:
    """Runs `work` on each thread of a team of OpenMP's."""
    held = _Held()

    def call(_: int | None) -> None:
        with held:
            work()

    start(_CALLED(call), None, threads, 0)
    if held.problems:
        raise held.problems[0]
