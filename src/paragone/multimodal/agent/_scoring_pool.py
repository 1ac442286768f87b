"""Who carries out the episodes of a score: this process, or several with a browser each.

A worker is told one episode at a time and answers with how it went. One that dies or is silent for
too long is ended, its episode counts as failed, and another worker takes its place: a hostile page
costs its own episode alone, even where it stops a whole process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from paragone._core.lazy import resolve
from paragone.multimodal.agent._scoring_attempts import (
    Attempt,
    PolicyFactory,
    attempt,
    factory_of,
)
from paragone.multimodal.agent._scoring_log import Key
from paragone.multimodal.agent.contract import OperatorError, Task
from paragone.multimodal.agent.open_tasks import view_of

__all__ = ["Order", "carried_out"]

_START = 120.0
"""Seconds that a worker may take to open its browser and its agent."""
_BROWSER = "paragone.multimodal.agent.browser:Browser"
Where = Callable[[str, str, int, bool], Path | None]
"""Folder of an episode by agent, task, seed and success."""


@dataclasses.dataclass(frozen=True)
class Order:
    """An episode to be carried out.

    Attributes:
        task: What is tried.
        seed: Of the exercise.
        key: Of the log.
    """

    task: Task
    seed: int
    key: Key


def _opener(
    browser: str | Callable[[], Any] | None, view: tuple[int, int]
) -> Callable[[], Any]:  # fmt: skip
    """Makes a browser; the usual one with a view no larger than the tasks need."""
    if browser is None:
        return functools.partial(resolve(_BROWSER), width=view[0], height=view[1])
    return resolve(browser) if isinstance(browser, str) else browser


def _kept(one: Attempt, episode: Any, folder: Path | None) -> Attempt:
    if episode is None or folder is None:
        return one
    episode.save(folder)
    return dataclasses.replace(one, kept=str(folder))


def carried_out(
    orders: Sequence[Order], agent: str | Path | PolicyFactory, where: Where, *, name: str,
    workers: int, browser: str | Callable[[], Any] | None, threads: int | None, patience: float,
    max_steps: int | None, max_seconds: float | None,
) -> Generator[tuple[Order, Attempt], None, None]:  # fmt: skip
    """Yields each order with how it went, as they end.

    Args:
        orders: What is to be done.
        agent: For `factory_of`.
        where: Tells where an episode is kept.
        name: Of the agent.
        workers: 1: this process.
        browser: Makes a browser.
        threads: Threads of each worker.
        patience: Seconds of silence that end a worker.
        max_steps: Most steps; None: the task's.
        max_seconds: Most seconds; None: no limit.
    """
    limits = {"max_steps": max_steps, "max_seconds": max_seconds, "agent": name}
    if not orders:
        return
    view = view_of([order.task for order in orders])
    if workers > 1 and len(orders) > 1:
        setup = (str(agent), browser, view, threads, limits)
        yield from _Pool(orders, setup, min(workers, len(orders)), patience, where, name).results()
    else:
        factory = factory_of(agent)
        with _opener(browser, view)() as page:
            for order in orders:
                one, episode = attempt(order.task, page, order.seed, factory, **limits)
                folder = where(name, order.task.name, order.seed, one.success)
                yield order, _kept(one, episode, folder)


def _work(pipe: Connection, setup: tuple[Any, ...]) -> None:
    """A worker's life: opens its browser and its agent, then carries out what it is told."""
    agent, browser, view, threads, limits = setup
    if threads is not None:
        resolve("torch").set_num_threads(threads)
    try:
        factory = factory_of(agent)
        # What an episode needs is imported before the clock of the first one runs.
        for part in ("loop", "coordinates"):
            resolve(f"paragone.multimodal.agent.{part}")
        with _opener(browser, view)() as page:
            pipe.send("")
            while (told := pipe.recv()) is not None:
                task, seed, folders = told
                one, episode = attempt(task, page, seed, factory, **limits)
                pipe.send(dataclasses.asdict(_kept(one, episode, folders[one.success])))
    except (ValueError, ImportError, OSError, OperatorError) as error:
        pipe.send(f"{type(error).__name__}: {error}")


@dataclasses.dataclass
class _Worker:
    process: Any
    pipe: Connection
    order: Order | None = None
    since: float = 0.0


class _Pool:
    """Workers, and who does what."""

    def __init__(
        self, orders: Sequence[Order], setup: tuple[Any, ...], count: int, patience: float,
        where: Where, name: str,
    ):  # fmt: skip
        self.left, self.setup, self.patience = list(reversed(orders)), setup, patience
        self.where, self.name = where, name
        self.context = multiprocessing.get_context("spawn")
        self.workers = [self._started() for _ in range(count)]

    def _started(self) -> _Worker:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_work, args=(theirs, self.setup), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, since=time.monotonic())

    def _end(self, one: _Worker) -> float:
        return one.since + (max(self.patience, _START) if one.order is None else self.patience)

    def _ended(self, one: _Worker) -> None:
        one.process.kill()
        one.process.join()
        one.pipe.close()

    def _give(self, one: _Worker) -> None:
        one.order, one.since = self.left.pop(), time.monotonic()
        task, seed = one.order.task, one.order.seed
        folders = {ok: self.where(self.name, task.name, seed, ok) for ok in (True, False)}
        with contextlib.suppress(OSError):
            # One that is gone is noticed when it should answer.
            one.pipe.send((task, seed, folders))

    def _lost(self, one: _Worker, why: str) -> tuple[Order, Attempt]:
        """The episode of a worker that is gone; another worker takes its place.

        Raises:
            OperatorError: It had not even started.
        """
        order = one.order
        self._ended(one)
        if order is None:
            raise OperatorError(f"a worker did not start: {why}")
        if self.left:
            self.workers[self.workers.index(one)] = self._started()
        else:
            self.workers.remove(one)
        return order, Attempt(self.name, order.task.name, order.seed, error=why)

    def _heard(self, one: _Worker) -> tuple[Order, Attempt] | None:
        try:
            told: str | dict[str, Any] = one.pipe.recv()
        except (EOFError, ConnectionError):
            one.process.join()
            return self._lost(one, f"its process ended with code {one.process.exitcode}")
        if isinstance(told, str) and told:
            return self._lost(one, told)
        found = None
        if one.order is not None and not isinstance(told, str):
            found = one.order, Attempt(**told)
        if self.left:
            self._give(one)
        else:
            one.pipe.send(None)
            one.process.join(self.patience)
            self._ended(one)
            self.workers.remove(one)
        return found

    def results(self) -> Iterator[tuple[Order, Attempt]]:
        """Yields what is done until all is."""
        try:
            while self.workers:
                ends = [self._end(one) for one in self.workers]
                room = max(min(ends) - time.monotonic(), 0.0)
                ready = wait([one.pipe for one in self.workers], room)
                for one in list(self.workers):
                    found = None
                    if one.pipe in ready:
                        found = self._heard(one)
                    elif time.monotonic() > self._end(one):
                        found = self._lost(one, f"no answer for {self._end(one) - one.since:g} s")
                    if found is not None:
                        yield found
        finally:
            for one in self.workers:
                self._ended(one)
