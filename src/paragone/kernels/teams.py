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

Compiled code without a parallel region loads in a third of the time, and starts no OpenMP.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

__all__ = ["share"]


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix=f"paragone-team-{process}")


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
    threads = min(threads, units)
    if threads <= 1:
        kernel(counter, units, *arguments)
        return
    pool = _pool(threads - 1, os.getpid())
    others = [pool.submit(kernel, counter, units, *arguments) for _ in range(threads - 1)]
    try:
        kernel(counter, units, *arguments)
    finally:
        for other in others:
            other.result()
