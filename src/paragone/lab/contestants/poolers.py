"""Ways to run a function many times behind one interface; libraries are imported when opened.

A pool here has `open()`, `map(function, items)`, `call(function, item)` (one task, there and back),
`rows(function, array)` (blocks of rows in, an array out) and `close()`. Rivals work as their
manuals show it, with their own defaults; processes start from a clean server with all that can.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

from paragone._core.lazy import resolve

__all__ = ["Futures", "Joblib", "MultiprocessingPool", "Ours", "Serial"]

Function = Callable[[Any], Any]
_BLOCKS = 4


class Serial:
    """One after the other, in the caller's thread."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def open(self) -> None:
        """Starts the workers."""

    def close(self) -> None:
        """Ends them."""

    def map(self, function: Function, items: Sequence[Any]) -> list[Any]:
        """Results in order."""
        return [function(item) for item in items]

    def call(self, function: Function, item: Any) -> Any:
        """One task, and its result."""
        return function(item)

    def rows(self, function: Function, array: Any) -> Any:
        """The function's rows for all rows of an array."""
        import numpy as np

        parts = np.array_split(array, _BLOCKS * self.workers)
        return np.concatenate(self.map(function, parts))


class Ours(Serial):
    """`ThreadPool` or `ProcessPool`."""

    def __init__(self, workers: int, *, target: str, **options: Any) -> None:
        super().__init__(workers)
        self.target, self.options = target, options
        self.source: Any = None

    def open(self) -> None:
        """Starts the workers."""
        self.pool = resolve(self.target)(self.workers, **self.options)

    def close(self) -> None:
        """Ends them."""
        self.pool.close()

    def map(self, function: Function, items: Sequence[Any]) -> list[Any]:
        """Results in order."""
        return list(self.pool.map(function, items))

    def call(self, function: Function, item: Any) -> Any:
        """One task, and its result."""
        return self.pool.submit(function, item).result()

    def rows(self, function: Function, array: Any) -> Any:
        """Rows in, rows out; processes find the array in shared memory, where it was put once."""
        import numpy as np

        if self.pool.kind == "process" and self.source is None:
            self.source = resolve("paragone.runtime:SharedArray").from_array(array)
        source = array if self.source is None else self.source
        return np.asarray(self.pool.map_array(function, source))


class Futures(Serial):
    """`concurrent.futures`, "Thread" or "Process"."""

    def __init__(self, workers: int, *, kind: str) -> None:
        super().__init__(workers)
        self.kind = kind

    def open(self) -> None:
        """Starts the workers."""
        make = resolve(f"concurrent.futures:{self.kind}PoolExecutor")
        context = multiprocessing.get_context("forkserver")
        more = {"mp_context": context} if self.kind == "Process" else {}
        self.pool = make(self.workers, **more)

    def close(self) -> None:
        """Ends them."""
        self.pool.shutdown()

    def map(self, function: Function, items: Sequence[Any]) -> list[Any]:
        """Results in order."""
        return list(self.pool.map(function, items))

    def call(self, function: Function, item: Any) -> Any:
        """One task, and its result."""
        return self.pool.submit(function, item).result()


class MultiprocessingPool(Serial):
    """`multiprocessing.Pool`."""

    def open(self) -> None:
        """Starts the workers."""
        self.pool = multiprocessing.get_context("forkserver").Pool(self.workers)

    def close(self) -> None:
        """Ends them."""
        self.pool.close()
        self.pool.join()

    def map(self, function: Function, items: Sequence[Any]) -> list[Any]:
        """Results in order."""
        return self.pool.map(function, items)

    def call(self, function: Function, item: Any) -> Any:
        """One task, and its result."""
        return self.pool.apply(function, (item,))


class Joblib(Serial):
    """`joblib.Parallel` on its processes ("loky") or threads; the pool stays open."""

    def __init__(self, workers: int, *, backend: str = "loky") -> None:
        super().__init__(workers)
        self.backend = backend

    def open(self) -> None:
        """Starts the workers."""
        self.pool = resolve("joblib:Parallel")(self.workers, backend=self.backend)
        self.pool.__enter__()

    def close(self) -> None:
        """Ends them."""
        self.pool.__exit__(None, None, None)
        if self.backend == "loky":
            resolve("joblib.externals.loky:get_reusable_executor")().shutdown(kill_workers=True)

    def map(self, function: Function, items: Sequence[Any]) -> list[Any]:
        """Results in order."""
        delayed = resolve("joblib:delayed")
        return self.pool(delayed(function)(item) for item in items)

    def call(self, function: Function, item: Any) -> Any:
        """One task, and its result."""
        return self.map(function, [item])[0]
