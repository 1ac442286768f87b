r"""Collecting demonstrations: many exercises, each led by what its own page says is right.

Exercises run in processes of their own, each with its own browser; only this one appends to
`samples.jsonl`. One exercise that fails, crashes its browser or hangs costs itself alone: its
process is ended after a while and replaced. What is done is read from the folder, so the same call
goes on after any stop, and a folder that holds enough is left as it is.

With w workers, d seconds of a step (screenshot, question to the page, action) and k steps of an
exercise, n samples take about

$$ \frac{n\,(d + s/k)}{w} $$

seconds, s being the start of an exercise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from paragone.multimodal.agent.contract import OperatorError
from paragone.multimodal.agent.demonstrations import Demonstrations, DemonstrationWriter
from paragone.multimodal.agent.open_tasks import open_tasks, view_of

__all__ = ["Collected", "collect"]

_PATIENCE = 6
_START = 120.0

WORKER = [sys.executable, "-m", "paragone.multimodal.agent._collect_worker"]
"""What is run for each worker."""


@dataclasses.dataclass(frozen=True)
class Collected:
    """How far collecting is.

    Args:
        folder: Where the samples are.
        samples: How many the folder holds.
        asked: How many were asked for.
        episodes: Exercises that this call led.
        succeeded: Those with a reward of 1.
        slipped: Those that a wrong action of `noise` ended; their samples are kept.
        failures: Why others failed, as "task seed: reason".
        seconds: Of this call.
        fresh: Samples that this call added.
    """

    folder: str
    samples: int
    asked: int
    episodes: int = 0
    succeeded: int = 0
    slipped: int = 0
    failures: tuple[str, ...] = ()
    seconds: float = 0.0
    fresh: int = 0


class _Worker:
    """A process that leads one exercise after another."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.job: tuple[str, int] | None = None
        self.deadline = 0.0
        self.held = b""
        self._process = subprocess.Popen(
            WORKER,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.tell(settings)

    @property
    def output(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def tell(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()

    def end(self, patience: float = 0.0) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()


class _Collection:
    """What is done, and what comes next."""

    def __init__(self, names: Sequence[str], folder: Path, first_seed: int) -> None:
        self.names = names
        self.path = folder / "episodes.jsonl"
        self.writer = DemonstrationWriter(folder)
        held = Demonstrations(folder)
        self.samples = self.before = len(held)
        self.done = held.exercises()
        if self.path.exists():
            raw = self.path.read_bytes()
            whole = raw.rfind(b"\n") + 1
            os.truncate(self.path, whole)
            for line in raw[:whole].splitlines():
                told = json.loads(line)
                self.done.add((told["task"], told["seed"]))
        self.episodes = self.succeeded = self.slipped = 0
        self.failures: list[str] = []
        self.bad = dict.fromkeys(names, 0)
        self._first = first_seed

    def jobs(self) -> Iterator[tuple[str, int]]:
        seed = self._first
        while True:
            live = [name for name in self.names if self.bad[name] < _PATIENCE]
            if not live:
                return
            yield from ((name, seed) for name in live if (name, seed) not in self.done)
            seed += 1

    def take(self, job: tuple[str, int], told: dict[str, Any]) -> None:
        task, seed = job
        reward, error = told.get("reward", 0.0), told.get("error", "")
        lines, slipped = told.get("lines", []), told.get("slipped", False)
        kept = reward == 1 or slipped
        if kept:
            self.writer.append(lines)
            self.samples += len(lines)
        self.episodes += 1
        self.succeeded += reward == 1
        self.slipped += slipped
        self.bad[task] = 0 if kept else self.bad[task] + 1
        if not kept:
            self.failures.append(f"{task} {seed}: {error or f'a reward of {reward:g}'}")
        row = {"task": task, "seed": seed, "reward": reward, "samples": len(lines) if kept else 0}
        with self.path.open("a") as file:
            file.write(json.dumps({**row, "error": error} if error else row) + "\n")


def collect(
    tasks: str | Sequence[str],
    count: int,
    *,
    folder: str | Path,
    workers: int = 2,
    first_seed: int = 0,
    noise: float = 0.0,
    screenshots: int = 5,
    width: int | None = None,
    height: int | None = None,
    device_pixel_ratio: float = 1.0,
    timeout: float = 60.0,
    progress: Callable[[Collected], None] | None = None,
) -> Collected:
    """Fills a folder with demonstrations; the same call goes on where it stopped.

    Args:
        tasks: Names for `open_tasks`; exercises go round them.
        count: Samples that the folder is to hold.
        folder: For `Demonstrations`.
        workers: Processes with a browser each.
        first_seed: Of the exercises.
        noise: Probability of a wrong action before a right one.
        screenshots: The last ones that a sample holds.
        width: Of the browser's view, in CSS pixels (None: what the tasks need).
        height: Of the browser's view.
        device_pixel_ratio: Pixels of a screenshot to one CSS pixel.
        timeout: Seconds after which an exercise is given up (a browser's start has two minutes).
        progress: Called after each exercise.

    Returns:
        What was done.

    Raises:
        ValueError: Tasks that have no teacher, or numbers that make no sense.
        OperatorError: No browser starts, or every task fails again and again.
    """
    opened = open_tasks(tasks)
    mute = [task.name for task in opened if not getattr(task, "taught", True)]
    if mute:
        raise ValueError(
            f"{', '.join(mute)}: no teacher knows what is right there; it can be scored alone"
        )
    if count < 1 or workers < 1 or not 0 <= noise <= 1:
        raise ValueError(
            f"count {count} and workers {workers} must be at least 1, noise {noise} a share"
        )
    view = view_of(opened)
    settings = {
        "folder": str(folder), "noise": noise, "screenshots": screenshots,
        "width": width or view[0], "height": height or view[1],
        "device_pixel_ratio": device_pixel_ratio,
    }  # fmt: skip
    DemonstrationWriter(folder).close()
    state = _Collection([task.name for task in opened], Path(folder), first_seed)
    started = time.monotonic()

    def told() -> Collected:
        return Collected(
            str(folder), state.samples, count, state.episodes, state.succeeded, state.slipped,
            tuple(state.failures), time.monotonic() - started, state.samples - state.before,
        )  # fmt: skip

    with state.writer:
        if state.samples < count:
            _lead(state, settings, count, workers, timeout, progress and (lambda: progress(told())))
    if state.samples < count:
        raise OperatorError(f"every task failed; such as {state.failures[-1]}")
    return told()


def _lead(
    state: _Collection,
    settings: dict[str, Any],
    count: int,
    workers: int,
    timeout: float,
    progress: Callable[[], None] | None,
) -> None:
    """Keeps the workers busy until there are enough samples, or no task is left."""
    jobs = state.jobs()
    crew: dict[int, _Worker] = {}
    with selectors.DefaultSelector() as ready:

        def give(worker: _Worker) -> None:
            worker.job = next(jobs, None)
            if worker.job is not None:
                worker.deadline = time.monotonic() + timeout
                worker.tell({"task": worker.job[0], "seed": worker.job[1]})

        def hire() -> None:
            worker = _Worker(settings)
            crew[worker.output] = worker
            ready.register(worker.output, selectors.EVENT_READ)
            give(worker)
            worker.deadline = time.monotonic() + _START

        def dismiss(output: int) -> None:
            ready.unregister(output)
            crew.pop(output).end()

        try:
            for _ in range(workers):
                hire()
            while state.samples < count and any(worker.job for worker in crew.values()):
                for key, _ in ready.select(0.5):
                    output = key.fd
                    worker = crew[output]
                    chunk = os.read(output, 1 << 20)
                    worker.held += chunk
                    lost = not chunk and worker.job is not None
                    while b"\n" in worker.held and worker.job is not None:
                        line, _, worker.held = worker.held.partition(b"\n")
                        answer = json.loads(line)
                        if "ready" in answer:
                            worker.deadline = time.monotonic() + timeout
                            continue
                        if "fatal" in answer:
                            raise OperatorError(answer["fatal"])
                        state.take(worker.job, answer)
                        give(worker)
                        if progress is not None:
                            progress()
                    if lost and worker.job is not None:
                        state.take(worker.job, {"error": "its process ended"})
                    if not chunk:
                        dismiss(output)
                        hire()
                now = time.monotonic()
                for output, worker in list(crew.items()):
                    if worker.job is not None and now > worker.deadline:
                        state.take(worker.job, {"error": f"no end after {timeout:g} s"})
                        dismiss(output)
                        hire()
        finally:
            for worker in crew.values():
                worker.end(0.0 if worker.job is not None else 5.0)
