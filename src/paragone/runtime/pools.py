r"""Pools of threads and of processes with one interface, and arrays that are not copied.

Threads share memory and Python's lock: they help where tasks wait or run outside the lock (I/O,
NumPy, Numba). Processes have locks of their own and share nothing: they help pure Python, and pay
for their start, their memory and every byte that is sent. If a share f of the work can be done at
once, n workers are faster than one by at most (Amdahl)

$$ S(n) = \frac{1}{(1 - f) + f / n} . $$

Both pools are `concurrent.futures.Executor`s, so that one is swapped for the other, or for those
of the standard library, by its name. `map_array` gives workers blocks of rows of an array and
writes their results into another: threads see both as they are, processes through `SharedArray`.

Cost: a task costs microseconds on a thread and tens of them on a process; `map` sends many items
as one task. A thread starts in 0.1 ms, a process in tens (`paragone compare workers` measures it).

References:
    Amdahl (1967), "Validity of the single processor approach to achieving large scale computing
    capabilities".
    Silberschatz, Galvin and Gagne (2018), "Operating system concepts", chapters 3 and 4.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from multiprocessing import util
from typing import Any

from paragone.runtime._pool_base import Pool, checked_count, processors
from paragone.runtime._pool_crew import Crew
from paragone.runtime._pool_outcome import Caught, WorkerDied, settle
from paragone.runtime._pool_worker import Setting, WorkerInfo, enter_thread, worker_info

__all__ = ["ProcessPool", "ThreadPool", "WorkerDied", "worker_info"]


class ThreadPool(Pool):
    """Threads that wait for tasks.

    Prefer it to `ProcessPool` for I/O and for code that releases Python's lock (NumPy on large
    arrays, kernels with `nogil=True`, decoders, compression): nothing is copied or pickled. Prefer
    it to `concurrent.futures.ThreadPoolExecutor` for `map` over many small items, which go in
    chunks here, and for bounded streams (`imap`). Pure Python gains nothing from either.

    On an error or an interrupt inside its `with` block it cancels what has not begun and waits
    for what runs: threads cannot be killed.

    Args:
        workers: Threads; None: one for each processor.
        threads: Threads that OpenMP and Numba may use in each worker; None: as they are.
        initializer: Called in each worker at its start.
        initargs: Its arguments.

    Raises:
        ValueError: Fewer than one worker.

    Example:
        >>> with ThreadPool(2) as pool:
        ...     print(list(pool.map(abs, [-1, -2, -3])))
        [1, 2, 3]
    """

    kind = "thread"

    def __init__(
        self,
        workers: int | None = None,
        *,
        threads: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        self.workers = processors() if workers is None else checked_count(workers, "workers")
        if threads is not None:
            checked_count(threads, "threads")
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock, self._closed = threading.Lock(), False
        self._broken: list[BaseException] = []
        start = (threads, initializer, initargs, self._broken)
        infos = [WorkerInfo(i, self.workers, "thread") for i in range(self.workers)]
        self._threads = [
            threading.Thread(
                target=_thread,
                args=(info, self._tasks, *start),
                name=f"paragone-worker-{info.id}",
                daemon=True,
            )
            for info in infos
        ]
        for thread in self._threads:
            thread.start()
        self._finalize = weakref.finalize(self, _dismiss, self._tasks, self.workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Starts `fn(*args, **kwargs)` on a thread and returns its future."""
        future: Future = Future()
        with self._lock:
            if self._broken:
                raise _broken(self._broken[0])
            if self._closed:
                raise RuntimeError("this pool is closed; make a new one")
            self._tasks.put((future, fn, args, kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more tasks, and ends the threads when what waits is done.

        Args:
            wait: Whether to wait for them.
            cancel_futures: Whether to cancel what has not begun.
        """
        with self._lock:
            self._closed = True
            if cancel_futures:
                _empty(self._tasks, None)
            self._finalize()
        if wait:
            for thread in self._threads:
                if thread is not threading.current_thread():
                    thread.join()

    def terminate(self) -> None:
        """Cancels what has not begun and waits for what runs."""
        self.shutdown(wait=True, cancel_futures=True)


def _dismiss(tasks: queue.SimpleQueue[Any], count: int) -> None:
    for _ in range(count):
        tasks.put(None)


def _broken(cause: BaseException) -> BrokenExecutor:
    error = BrokenExecutor("a worker's initializer failed")
    error.__cause__ = cause
    return error


def _empty(tasks: queue.SimpleQueue[Any], cause: BaseException | None) -> None:
    """Takes all waiting tasks off the queue: they are cancelled, or fail for a cause."""
    ends = 0
    while not tasks.empty():
        try:
            task = tasks.get_nowait()
        except queue.Empty:
            break
        if task is None:
            ends += 1
        elif cause is None:
            task[0].cancel()
            task[0].set_running_or_notify_cancel()
        elif task[0].set_running_or_notify_cancel():
            task[0].set_exception(_broken(cause))
    _dismiss(tasks, ends)


def _limit(threads: int) -> None:
    """Limits of this thread alone: OpenMP's and Numba's are kept for each thread."""
    import threadpoolctl

    threadpoolctl.threadpool_limits(threads, user_api="openmp")
    if "numba" in sys.modules:
        numba = sys.modules["numba"]
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def _thread(
    info: WorkerInfo,
    tasks: queue.SimpleQueue[Any],
    threads: int | None,
    initializer: Callable[..., Any] | None,
    initargs: tuple[Any, ...],
    broken: list[BaseException],
) -> None:
    """A worker's life; it knows the queue, not the pool, so that a forgotten pool can end."""
    enter_thread(info)
    with Caught() as caught:
        if threads is not None:
            _limit(threads)
        if initializer is not None:
            initializer(*initargs)
    if caught.error is not None:
        broken.append(caught.error)
    del caught
    while True:
        if broken:
            _empty(tasks, broken[0])
        task = tasks.get()
        if task is None:
            return
        if broken:
            tasks.put(task)
            continue
        _run(*task)
        del task


def _run(future: Future, fn: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    result = None
    with Caught() as caught:
        result = fn(*args, **kwargs)
    settle(future, caught.error, result)


class ProcessPool(Pool):
    """Worker processes, each with an interpreter of its own.

    Prefer it to `ThreadPool` for pure Python and for code that is not safe in threads. Prefer it
    to `concurrent.futures.ProcessPoolExecutor` and `multiprocessing.Pool` for arrays (they travel
    as 100 bytes in a `SharedArray`), for lower cost of a task, and for clear ends: a worker that
    dies fails its task at once, with its exit code; a killed parent leaves no worker behind; an
    interrupt ends them all. Functions and arguments are pickled: functions must be importable.

    Args:
        workers: Processes; None: one for each processor.
        start: "forkserver" (default: workers are forked from a clean server), "spawn" (each a new
            interpreter), or "fork" (a copy of this process; refused while it has other threads,
            whose locks the copy would hold for ever: OpenMP and Numba pools hang so).
        threads: Threads that native libraries may use in each worker; None: its share of the
            processors. For pools of OpenMP, BLAS, torch and Numba.
        initializer: Called in each worker at its start.
        initargs: Its arguments.

    Raises:
        ValueError: An unknown way to start, fewer than one worker, or "fork" beside threads.
        WorkerDied: From a future: its worker, or another of this pool, ended.

    Example:
        >>> ProcessPool(0)
        Traceback (most recent call last):
        ValueError: workers=0 is no number of workers: use 1 and above
    """

    kind = "process"

    def __init__(
        self,
        workers: int | None = None,
        *,
        start: str = "forkserver",
        threads: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        self.workers = processors() if workers is None else checked_count(workers, "workers")
        limit = max(processors() // self.workers, 1)
        limit = limit if threads is None else checked_count(threads, "threads")
        if start not in ("forkserver", "spawn", "fork"):
            raise ValueError(f"start={start!r} is none of 'forkserver', 'spawn', 'fork'")
        if start == "fork" and (others := other_threads()):
            raise ValueError(
                f"start='fork' would copy a process with {', '.join(others)}, whose locks would "
                "stay locked in the copies; use start='forkserver' or 'spawn'"
            )
        self.start = start
        main = threading.current_thread() is threading.main_thread()
        settings = [
            Setting(
                info=WorkerInfo(i, self.workers, "process"),
                parent=0 if start == "forkserver" else os.getpid(),
                leash=main or start == "forkserver",
                threads=limit, initializer=initializer, initargs=initargs,
            )
            for i in range(self.workers)
        ]  # fmt: skip
        self._crew = Crew(multiprocessing.get_context(start), settings)
        # At exit multiprocessing joins its children after finalizers like this one have run.
        self._finalize = util.Finalize(self, self._crew.terminate, exitpriority=10)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [member.pid for member in self._crew.members]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Sends `fn(*args, **kwargs)` to a process and returns its future.

        What cannot be pickled fails the future, as in the standard library.
        """
        future: Future = Future()
        task = b""
        with Caught() as caught:
            task = pickle.dumps((fn, args, kwargs), 5)
        if caught.error is not None:
            future.set_exception(caught.error)
        else:
            self._crew.submit(task, future)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more tasks, and ends the workers when what waits is done.

        Args:
            wait: Whether to wait for them.
            cancel_futures: Whether to cancel what has not begun.
        """
        self._crew.close(wait=wait, cancel=cancel_futures)
        if wait:
            self._finalize.cancel()

    def terminate(self) -> None:
        """Ends the workers at once; tasks that run fail with `BrokenExecutor`."""
        self._finalize()


def other_threads() -> list[str]:
    """Names what runs in this process besides the calling thread, as far as a fork must know.

    Threads of OpenBLAS, which survive a fork, are not counted.
    """
    current = threading.current_thread()
    python = [t for t in threading.enumerate() if t is not current]
    found = [f"thread {t.name!r}" for t in python]
    if getattr(sys.modules.get("numba.np.ufunc.parallel"), "_is_initialized", False):
        found.append("Numba's threads")
    import threadpoolctl

    safe = sum(
        max(pool["num_threads"], processors()) - 1
        for pool in threadpoolctl.threadpool_info()
        if pool.get("internal_api") == "openblas"
    )
    native = len(os.listdir("/proc/self/task")) - 1 - len(python) - safe
    if native > 0 and len(found) == len(python):
        found.append(f"{native} native threads")
    return found
