"""What both pools share: an `Executor` with maps in chunks, streams of bounded length, and rows."""

from __future__ import annotations

import itertools
import math
import os
import queue
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from paragone.runtime._pool_outcome import Failure, call_each
from paragone.runtime.shared import SharedArray

__all__ = ["Pool", "processors"]

_CHUNKS = 4
"""Chunks that each worker gets of a map: more balance better, fewer cost less."""


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def checked_count(value: Any, name: str) -> int:
    """A whole number of at least 1."""
    if value != int(value) or value < 1:
        raise ValueError(f"{name}={value!r} is no number of {name}: use 1 and above")
    return int(value)


def _on_rows(
    function: Callable[[np.ndarray], Any], source: Any, out: Any, start: int, stop: int
) -> np.ndarray | None:
    """Calls the function with a view of rows; stores what it returns, or hands it back."""
    rows = np.asarray(source)[start:stop]
    result = np.asarray(function(rows))
    if result.shape[:1] != rows.shape[:1]:
        raise ValueError(
            f"the function got rows {rows.shape} and returned an array {result.shape}; it must "
            f"return {len(rows)} rows"
        )
    if out is None:
        return result
    np.copyto(np.asarray(out)[start:stop], result, casting="same_kind")
    return None


class Pool(Executor):
    """Workers with one interface, whether they are threads or processes.

    Attributes:
        workers: Number of workers.
        kind: "thread" or "process".
    """

    workers: int
    kind: str

    @abstractmethod
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Starts `fn(*args, **kwargs)` on a worker and returns its future."""

    @abstractmethod
    def terminate(self) -> None:
        """Ends the pool without waiting for tasks that have not begun."""

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        **more: Any,
    ) -> Iterator[Any]:
        """Calls `fn` with the items of the iterables side by side, as the built-in `map`.

        All items are read and given to the workers at once (`imap` reads as it goes).

        Args:
            fn: What to call.
            iterables: Its arguments; the shortest ends the map.
            timeout: Seconds from now on until the last result.
            chunksize: Items that go to a worker together; None: a quarter of a worker's share.
            more: Further keywords of newer `Executor.map`s are refused.

        Returns:
            Results in order; the first error is raised in its place.

        Raises:
            TimeoutError: While iterating: a result was not there in time.
        """
        if more:
            raise TypeError(f"map has no argument {', '.join(more)}: `imap` has a bounded prefetch")
        return self.starmap(fn, zip(*iterables, strict=False), timeout=timeout, chunksize=chunksize)

    def starmap(
        self,
        fn: Callable[..., Any],
        arguments: Iterable[tuple],
        *,
        timeout: float | None = None,
        chunksize: int | None = None,
    ) -> Iterator[Any]:
        """`fn(*args)` for each tuple of arguments; all else as `map`."""
        items = list(arguments)
        if chunksize is None:
            size = max(1, math.ceil(len(items) / (_CHUNKS * self.workers)))
        else:
            size = checked_count(chunksize, "chunksize")
        end = None if timeout is None else time.monotonic() + timeout
        starts = range(0, len(items), size)
        futures = deque(self.submit(call_each, fn, items[i : i + size]) for i in starts)
        return _results(futures, end)

    def imap(
        self,
        fn: Callable[[Any], Any],
        iterable: Iterable[Any],
        *,
        ordered: bool = True,
        prefetch: int | None = None,
        chunksize: int = 1,
        timeout: float | None = None,
    ) -> Iterator[Any]:
        """Calls `fn` with each item of a stream that may be endless; reads a bounded way ahead.

        Args:
            fn: What to call.
            iterable: Read in the caller's thread, as results are taken.
            ordered: Whether results come in the order of the items, or as they are done.
            prefetch: Chunks under way at most; None: two for each worker.
            chunksize: Items that go to a worker together.
            timeout: Seconds to wait for any one chunk.

        Returns:
            Results. Closing the iterator (or leaving its loop) cancels what has not begun.

        Raises:
            TimeoutError: While iterating: no result in `timeout` seconds.
        """
        most = 2 * self.workers if prefetch is None else checked_count(prefetch, "prefetch")
        size = checked_count(chunksize, "chunksize")
        stream = iter(iterable)
        chunks = iter(lambda: [(item,) for item in itertools.islice(stream, size)], [])
        started = (self.submit(call_each, fn, chunk) for chunk in chunks)
        flow = _in_order if ordered else _as_done
        return flow(started, most, timeout)

    def map_array(
        self,
        function: Callable[[np.ndarray], Any],
        array: Any,
        out: Any = None,
        *,
        chunk: int | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Calls a function with blocks of an array's rows; results go straight into `out`.

        Threads see any array as it is. Processes see a `SharedArray`; another array is copied
        into one first, once for all workers.

        Args:
            function: Gets a view of some rows (m, ...) and returns as many rows. It must not
                change what it gets.
            array: Rows (n, ...).
            out: Array of n rows for the results; None: made like the first block's result.
            chunk: Rows of a block; None: a quarter of a worker's share.
            timeout: Seconds until all is done.

        Returns:
            `out`: an array for threads, a `SharedArray` for processes.

        Raises:
            ValueError: Rows do not match, or `out` is not shared where it must be.
            TimeoutError: It was not done in time.
        """
        count = len(array)
        size = max(1, math.ceil(count / (_CHUNKS * self.workers)))
        size = size if chunk is None else checked_count(chunk, "chunk")
        end = None if timeout is None else time.monotonic() + timeout
        source = self._visible(array)
        first = 0
        if out is None:
            first = min(size, count)
            block = self.submit(_on_rows, function, source, None, 0, first).result(timeout)
            out = self._like(block, count)
            np.asarray(out)[:first] = block
        elif len(out) != count:
            raise ValueError(f"out has {len(out)} rows and the array {count}; give as many")
        elif self.kind == "process" and not isinstance(out, SharedArray):
            raise ValueError("out must be a SharedArray: other arrays are not seen by processes")
        futures = deque(
            self.submit(_on_rows, function, source, out, i, min(i + size, count))
            for i in range(first, count, size)
        )
        try:
            while futures:
                futures.popleft().result(_left(end))
        finally:
            _cancel(futures)
        return out

    def _visible(self, array: Any) -> Any:
        return SharedArray.from_array(array) if self.kind == "process" else np.asarray(array)

    def _like(self, block: np.ndarray, count: int) -> Any:
        make = SharedArray if self.kind == "process" else np.zeros
        return make((count, *block.shape[1:]), block.dtype)

    def close(self) -> None:
        """Waits for all tasks and ends the workers."""
        self.shutdown(wait=True)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.shutdown(wait=True)
        else:
            self.terminate()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.workers})"


def _left(end: float | None) -> float | None:
    return None if end is None else max(0.0, end - time.monotonic())


def _cancel(futures: Iterable[Future]) -> None:
    for future in futures:
        future.cancel()


def _unpacked(answer: tuple[list, Failure | None]) -> Iterator[Any]:
    results, failure = answer
    yield from results
    if failure is not None:
        raise failure.error


def _results(futures: deque[Future], end: float | None) -> Iterator[Any]:
    try:
        while futures:
            yield from _unpacked(futures.popleft().result(_left(end)))
    finally:
        _cancel(futures)


def _in_order(started: Iterator[Future], most: int, timeout: float | None) -> Iterator[Any]:
    pending: deque[Future] = deque()
    try:
        pending.extend(itertools.islice(started, most))
        while pending:
            answer = pending[0].result(timeout)
            pending.popleft()
            pending.extend(itertools.islice(started, 1))
            yield from _unpacked(answer)
    finally:
        _cancel(pending)


def _as_done(started: Iterator[Future], most: int, timeout: float | None) -> Iterator[Any]:
    pending: set[Future] = set()
    done: queue.SimpleQueue[Future] = queue.SimpleQueue()

    def start(count: int) -> None:
        for future in itertools.islice(started, count):
            pending.add(future)
            future.add_done_callback(done.put)

    try:
        start(most)
        while pending:
            try:
                future = done.get(timeout=timeout)
            except queue.Empty:
                raise TimeoutError(f"no result in {timeout} seconds") from None
            pending.discard(future)
            start(1)
            yield from _unpacked(future.result())
    finally:
        _cancel(pending)
