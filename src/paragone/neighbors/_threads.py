"""Threads over chunks of work whose results do not meet.

The kernels release the interpreter's lock, so plain threads run them side by side. Each chunk
writes its own part of the output: no result depends on how many there are. Small work starts
no thread at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["num_workers", "spread"]


def num_workers(workers: int | None) -> int:
    """Returns how many threads `workers` asks for; -1 is one for each processor, None is one.

    Example:
        >>> num_workers(3)
        3
    """
    if workers is None:
        return 1
    if workers == -1:
        if hasattr(os, "sched_getaffinity"):
            return max(1, len(os.sched_getaffinity(0)))
        return os.cpu_count() or 1
    if workers != int(workers) or workers < 1:
        raise ValueError(f"workers={workers} is no number of threads: use -1, or 1 and above")
    return int(workers)


def spread(
    job: Callable[[int, int], Any], count: int, workers: int, least: int, pieces: int = 4
) -> list[Any]:
    """Calls `job(first, last)` on consecutive parts of `range(count)`, on up to `workers` threads.

    Args:
        job: Called with bounds; must not write outside its part.
        count: Length of the range.
        workers: Most threads.
        least: Smallest part worth a thread of its own.
        pieces: Parts for each thread, so that none waits long for the last.

    Returns:
        What the calls returned, in the order of the parts.
    """
    threads = min(workers, count // max(1, least))
    if threads <= 1:
        return [job(0, count)] if count else []
    parts = min(threads * pieces, count // max(1, least))
    edges = [count * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(job, edges[:-1], edges[1:]))
