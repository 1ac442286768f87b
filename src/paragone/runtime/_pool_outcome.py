"""What became of a task: a result, an error that keeps its worker's traceback, a dead worker."""

from __future__ import annotations

import pickle
import signal
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future
from typing import Any

__all__ = ["Caught", "Failure", "WorkerDied", "WorkerError", "call_each", "settle"]


class WorkerError(RuntimeError):
    """Stands for an error of a worker process that cannot be pickled; its text is kept."""


class WorkerTraceback(Exception):  # noqa: N818
    """The cause of an error that comes from another process: where it was raised there."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class WorkerDied(BrokenExecutor):
    """A worker process ended in the middle of its work.

    Attributes:
        exitcode: As of `multiprocessing.Process`: negative is the signal that killed it.
        pid: The process.
    """

    def __init__(self, exitcode: int | None, pid: int, doing: str) -> None:
        super().__init__(exitcode, pid, doing)
        self.exitcode, self.pid, self.doing = exitcode, pid, doing

    def __str__(self) -> str:
        how = f"ended with exit code {self.exitcode}"
        if self.exitcode is not None and self.exitcode < 0:
            known = {s.value: s.name for s in signal.Signals}
            name = known.get(-self.exitcode, f"signal {-self.exitcode}")
            how = f"was killed by {name} (exit code {self.exitcode})"
        return f"worker process {self.pid} {how} {self.doing}"


class Caught:
    """A `with` block that keeps what its body raised: the border at which errors become results.

    Example:
        >>> with Caught() as caught:
        ...     1 // 0
        >>> caught.error
        ZeroDivisionError('integer division or modulo by zero')
    """

    error: BaseException | None = None

    def __enter__(self) -> Caught:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self.error = error
        return error is not None


class Failure:
    """An error on its way to the one who asked; pickled, it takes its traceback along as text."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        text = "".join(traceback.format_exception(self.error))
        with Caught() as caught:
            content = pickle.dumps(self.error)
            pickle.loads(content)
        if caught.error is not None:
            last = traceback.format_exception_only(self.error)[-1].strip()
            content = pickle.dumps(WorkerError(last))
        return _failure, (content, text)


def _failure(content: bytes, text: str) -> Failure:
    error = pickle.loads(content)
    error.__cause__ = WorkerTraceback(text)
    return Failure(error)


def call_each(function: Callable[..., Any], chunk: Sequence[tuple]) -> tuple[list, Failure | None]:
    """Results of a chunk of calls up to the first error, and the error."""
    done: list[Any] = []
    with Caught() as caught:
        for args in chunk:
            done.append(function(*args))
    return done, None if caught.error is None else Failure(caught.error)


def settle(future: Future, error: BaseException | None, result: Any = None) -> None:
    """Gives a running future its end; one that has an end already keeps it."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
