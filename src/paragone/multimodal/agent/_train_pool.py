"""Browsers at work for a training: exercises that are led by a judge or by an agent, in processes.

Each worker has a browser, and the agent where one is needed. It is told one exercise at a time and
answers with what there is to learn from it, as lines for the folder of samples; only this process
appends them, so a run that is killed leaves whole lines. A worker that dies or is silent costs its
exercise, and another takes its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from paragone._core.errors import MissingPackageError, UsageError
from paragone._core.lazy import resolve
from paragone.multimodal.agent.contract import OperatorError, Policy, Task

__all__ = ["Job", "Work", "carried_out"]

_START = 120.0
"""Seconds that a worker may take to open its browser and its agent."""
_PATIENCE = 90.0
_LOST = 3
"""Workers lost in a row, for each that there is, after which nothing is tried any more."""

Job = tuple[int, int]
"""Which task, and which seed."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What is done with each exercise.

    Attributes:
        kind: "demonstrate": the judge leads; "mistakes": the agent leads and the judge mends;
            "bootstrap": the agent leads with a temperature, and what succeeds is kept; "check": the
            agent leads, and its success is told.
        tasks: Kinds of exercises.
        folder: Where samples go.
        agent: The agent's folder.
        model: Import target of its class.
        browser: Import target of what makes a browser.
        options: Further arguments of what is done.
        threads: Threads of torch in a worker.
    """

    kind: Literal["demonstrate", "mistakes", "bootstrap", "check"]
    tasks: tuple[Task, ...]
    folder: Path
    agent: Path | None = None
    model: str = ""
    browser: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    threads: int | None = 1


class _Hand:
    """A browser, an agent, and a pen."""

    browser: Any

    def __init__(self, work: Work, policy: Policy | None = None) -> None:
        self.work, self.policy = work, policy
        self.known: set[Any] = set()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> _Hand:
        from paragone.multimodal.agent.demonstrations import DemonstrationWriter
        from paragone.multimodal.agent.open_tasks import view_of

        work = self.work
        if self.policy is None and work.agent is not None:
            self.policy = resolve(work.model).from_pretrained(work.agent)
        width, height = view_of(work.tasks)
        self.browser = self._open.enter_context(resolve(work.browser)(width=width, height=height))
        self.pen = self._open.enter_context(DemonstrationWriter(work.folder))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def do(self, job: Job) -> dict[str, Any]:
        """One exercise: what it came to, and its samples as lines."""
        task, seed = self.work.tasks[job[0]], job[1]
        told: dict[str, Any] = {"task": task.name, "seed": seed}
        begun = time.monotonic()
        try:
            found, samples = getattr(self, f"_{self.work.kind}")(task, seed)
        except OperatorError as error:
            self.browser.restart()
            found, samples = {"error": str(error)}, []
        lines = [self.pen.line(sample) for sample in samples]
        spent = round(time.monotonic() - begun, 4)
        return {**told, **found, "samples": len(lines), "seconds": spent, "lines": lines}

    def _demonstrate(self, task: Task, seed: int) -> tuple[dict[str, Any], Sequence[Any]]:
        from paragone.multimodal.agent.demonstrations import demonstrate

        samples, reward = demonstrate(task, self.browser, seed, **self.work.options)
        # A judge that fails without having been led astray says what is not right.
        astray = any(sample.rejected for sample in samples)
        return {"reward": reward}, samples if reward == 1 or astray else []

    def _mistakes(self, task: Task, seed: int) -> tuple[dict[str, Any], Sequence[Any]]:
        from paragone.multimodal.agent._mistakes import mistakes_in

        assert self.policy is not None
        samples = mistakes_in(self.policy, task, self.browser, seed, **self.work.options)
        return {"mistake": bool(samples)}, samples

    def _bootstrap(self, task: Task, seed: int) -> tuple[dict[str, Any], Sequence[Any]]:
        from paragone.multimodal.agent.bootstrap import FILTERS, tried

        assert self.policy is not None
        options: dict[str, Any] = {"temperature": 0.5, "extra": 2, **self.work.options}
        one, refused, samples = tried(
            self.policy, task, self.browser, seed, filters=FILTERS, known=self.known, **options
        )
        return {"reward": one.reward, "refused": refused}, samples

    def _check(self, task: Task, seed: int) -> tuple[dict[str, Any], Sequence[Any]]:
        from paragone.multimodal.agent.loop import run

        assert self.policy is not None
        exercise = task.start(self.browser, seed)
        try:
            episode = run(
                self.policy, exercise.operator, exercise.instruction, max_steps=task.max_steps,
                done=lambda: exercise.reward() is not None,
            )  # fmt: skip
            reward = exercise.reward() or 0.0
        finally:
            exercise.close()
        return {"reward": reward, "steps": len(episode.steps), "outcome": episode.outcome}, []


def carried_out(
    work: Work,
    jobs: Iterable[Job],
    *,
    workers: int = 1,
    stop: Callable[[], bool],
    policy: Policy | None = None,
    patience: float = _PATIENCE,
) -> Iterator[dict[str, Any]]:
    """Yields what each exercise came to, as they end, until all are done or it is time to stop.

    Args:
        work: What is done.
        jobs: With which exercises.
        workers: 1: this process; else processes of their own.
        stop: Asked before each exercise.
        policy: The agent, if it is open already; for one worker.
        patience: Seconds of silence that end a worker.

    Raises:
        MissingPackageError: What drives a browser is missing.
        OperatorError: No browser starts.
        ValueError: What is done cannot be done at all.
    """
    if workers <= 1:
        with _Hand(work, policy) as hand:
            for job in jobs:
                if stop():
                    return
                yield hand.do(job)
        return
    yield from _Pool(work, iter(jobs), workers, stop, patience).results()


_KINDS = {MissingPackageError: MissingPackageError, UsageError: UsageError, ValueError: ValueError}
"""Errors that trying again does not mend."""


def _serve(pipe: Connection, work: Work) -> None:
    """A worker's life. Ctrl-C is the parent's to hear: it lets this one finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if work.threads is not None and work.agent is not None:
        resolve("torch").set_num_threads(work.threads)
    try:
        with _Hand(work) as hand:
            pipe.send({})
            while (job := pipe.recv()) is not None:
                pipe.send(hand.do(job))
    except (ValueError, ImportError, OSError, OperatorError) as error:
        with contextlib.suppress(OSError):
            pipe.send((_KINDS.get(type(error), OperatorError), str(error)))
    except EOFError:
        return


@dataclasses.dataclass
class _Worker:
    process: Any
    pipe: Connection
    since: float
    job: Job | None = None
    ready: bool = False


class _Pool:
    def __init__(
        self, work: Work, jobs: Iterator[Job], count: int, stop: Callable[[], bool],
        patience: float,
    ) -> None:  # fmt: skip
        self.work, self.jobs, self.stop, self.patience = work, jobs, stop, patience
        self.context = multiprocessing.get_context("spawn")
        self.lost, self.most = 0, _LOST * count
        self.workers = [self._started() for _ in range(count)]

    def _started(self) -> _Worker:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.work), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, time.monotonic())

    def _end(self, one: _Worker) -> float:
        return one.since + (self.patience if one.ready else max(_START, self.patience))

    def results(self) -> Iterator[dict[str, Any]]:
        try:
            while self.workers:
                room = min(self._end(one) for one in self.workers) - time.monotonic()
                heard = wait([one.pipe for one in self.workers], max(room, 0.0))
                for one in list(self.workers):
                    if one.pipe in heard:
                        told = self._heard(one)
                    elif time.monotonic() > self._end(one):
                        told = self._gone(one, "no answer")
                    else:
                        continue
                    if told:
                        yield told
        finally:
            self._close()

    def _heard(self, one: _Worker) -> dict[str, Any] | None:
        try:
            told = one.pipe.recv()
        except (EOFError, ConnectionError):
            return self._gone(one, "its process ended")
        if isinstance(told, tuple):
            kind, why = told
            if kind is not OperatorError:
                raise kind(why)
            return self._gone(one, why)
        one.ready = True
        if told:
            self.lost = 0
        job = None if self.stop() else next(self.jobs, None)
        one.job, one.since = job, time.monotonic()
        with contextlib.suppress(OSError):
            one.pipe.send(job)
        if job is None:
            self.workers.remove(one)
            self._ended(one, 10.0)
        return told

    def _gone(self, one: _Worker, why: str) -> dict[str, Any] | None:
        """What its exercise came to; another worker takes its place."""
        self.workers.remove(one)
        self._ended(one, 0.0)
        self.lost += 1
        if self.lost >= self.most:
            raise OperatorError(f"{why} ({self.lost} browsers were lost one after the other)")
        if not self.stop():
            self.workers.append(self._started())
        if one.job is None:
            return None
        task, seed = self.work.tasks[one.job[0]], one.job[1]
        return {"task": task.name, "seed": seed, "error": why, "samples": 0, "lines": []}

    def _ended(self, one: _Worker, wait_for: float) -> None:
        one.process.join(wait_for)
        if one.process.is_alive():
            one.process.kill()
            one.process.join()
        one.pipe.close()

    def _close(self) -> None:
        for one in self.workers:
            with contextlib.suppress(OSError):
                one.pipe.send(None)
        for one in self.workers:
            self._ended(one, 10.0)
