"""How many threads, and when they pay.

A parallel region costs some ten microseconds, and far more while another process holds a core,
so small work stays serial. Numba's work-queue layer may not be entered by two threads at once:
one lock guards every parallel region of the family. No result depends on the number of threads.

Numba's threads start with the first parallel region, not before: a process that fits small
tables only never has them. (A serial kernel that may call a parallel one needs them as soon as
it is loaded; `paragone.kernels` starts them then.)
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numba
from numba.np.ufunc import parallel

from paragone.kernels.jit import start_threads

__all__ = ["PARALLEL_WORK", "num_threads", "parallel_region", "worth_threads"]

PARALLEL_WORK = 1 << 18
"""Elementary steps (rows x columns) below which one thread is quicker than two."""

_LOCK = threading.RLock()


def _now() -> int:
    """Returns Numba's present number of threads, without starting them."""
    # Before the start nobody can have changed it; asking Numba would start them.
    if getattr(parallel, "_is_initialized", True):
        return numba.get_num_threads()
    return numba.config.NUMBA_NUM_THREADS  # pyright: ignore


def num_threads(n_jobs: int | None) -> int:
    """Returns the number of threads for `n_jobs` (None: numba's setting; -1: all of them).

    Example:
        >>> num_threads(1)
        1
    """
    if n_jobs is None:
        return _now()
    if n_jobs == 0 or n_jobs != int(n_jobs):
        raise ValueError(f"n_jobs={n_jobs} is no number of threads: use None, -1, or 1 and above")
    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore
    return min(n_jobs, most) if n_jobs > 0 else max(1, most + 1 + n_jobs)


def worth_threads(work: int) -> bool:
    """Whether `work` elementary steps are worth a parallel region."""
    return work >= PARALLEL_WORK


@contextlib.contextmanager
def parallel_region(threads: int) -> Iterator[None]:
    """Holds the lock and the thread count while parallel kernels run; free for one thread."""
    if threads <= 1:
        yield
        return
    with _LOCK:
        before = start_threads()
        numba.set_num_threads(threads)
        try:
            yield
        finally:
            numba.set_num_threads(before)
