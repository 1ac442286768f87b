"""Studies that the page starts: `paragone compare` in a process group of its own, one at a time.

Times that are compared need the machine alone, so what is asked for waits in a queue, also for
studies that somebody else runs in the same folder. A study is stopped as Ctrl-C stops it, and as
it keeps all that it measured, the same command continues it. What runs when the server ends is
interrupted in this way, too: nothing goes on unseen.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paragone._core.errors import UsageError
from paragone.lab.api import PROGRAM
from paragone.lab.runner import sweep

__all__ = ["COMPARE", "Desk", "Task", "continuing", "holder", "interrupt_holder"]

COMPARE = (sys.executable, "-P", "-m", "paragone", "compare")
"""What starts a study; its words follow."""
PATIENCE = 30.0
"""Seconds that an interrupted study has to write what it knows."""
TAIL_BYTES, TAIL_LINES = 16_000, 60

State = Literal["waiting", "running", "stopping", "done", "interrupted", "failed"]
_ENDS: dict[int, tuple[State, str]] = {
    0: ("done", ""),
    1: ("done", "a contestant failed"),
    2: ("failed", "the command was refused; its last line says why"),
    3: ("failed", "nothing finished"),
    130: ("interrupted", "stopped; what was measured is kept"),
    -signal.SIGINT: ("interrupted", "stopped before anything was measured"),
}


@dataclass
class Task:
    """A study that was asked for.

    Attributes:
        words: What follows `paragone compare`.
        folder: The study's folder, absolute.
        log: File of all that it prints.
        state: What became of it.
        note: A word on that.
        begun: `time.time()` of its start, 0 before it.
        ended: `time.time()` of its end, 0 before it.
        process: Its process, once it was started.
    """

    words: tuple[str, ...]
    folder: Path
    log: Path
    state: State = "waiting"
    note: str = ""
    begun: float = 0.0
    ended: float = 0.0
    process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> str:
        """The shell line that does the same in a terminal."""
        program = os.environ.get(PROGRAM, "paragone").split()
        return shlex.join([*program, "compare", *self.words])

    @property
    def open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in {"waiting", "running", "stopping"}

    def tail(self) -> str:
        """The last lines that it printed."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        kept = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
        return "\n".join(kept.splitlines()[-TAIL_LINES:])


class Desk:
    """The queue, and the thread that works it off.

    Args:
        command: Program and first words; the task's words follow.
        busy: Says who else uses the machine, "" if nobody; asked each second while one waits.
        patience: Seconds from the interrupt to the kill when the desk closes.
    """

    def __init__(
        self,
        command: Sequence[str] = COMPARE,
        busy: Callable[[], str] = lambda: "",
        patience: float = PATIENCE,
    ):
        self._program, self._busy, self._patience = tuple(command), busy, patience
        self._tasks: list[Task] = []
        self._changed = threading.Condition()
        self._closing = False
        self._logs = Path(tempfile.mkdtemp(prefix="paragone-serve-"))
        self._number = 0
        self._thread = threading.Thread(target=self._work, daemon=True, name="paragone-desk")
        self._thread.start()

    def tasks(self) -> list[Task]:
        """All tasks, the newest of each folder, in the order in which they were asked for."""
        with self._changed:
            return list(self._tasks)

    def task(self, folder: Path) -> Task | None:
        """The newest task of a folder."""
        return next((task for task in self.tasks() if task.folder == folder), None)

    def add(self, words: Sequence[str], folder: Path) -> Task:
        """Queues a study.

        Args:
            words: What follows `paragone compare`.
            folder: The study's folder, absolute.

        Raises:
            UsageError: That folder's study already waits or runs, or the server is ending.
        """
        with self._changed:
            before = next((task for task in self._tasks if task.folder == folder), None)
            if before is not None and before.open:
                raise UsageError(f"{folder.name}: this study is {before.state} already")
            if (before is None or before.process is None) and (pid := holder(folder)):
                raise UsageError(f"{folder.name}: process {pid} is running this study")
            if self._closing:
                raise UsageError("the server is ending; start it again")
            self._tasks = [task for task in self._tasks if task.folder != folder]
            self._number += 1
            task = Task(tuple(words), folder, self._logs / f"{self._number}.txt")
            self._tasks.append(task)
            self._changed.notify_all()
        return task

    def stop(self, task: Task) -> None:
        """Takes a task out of the queue, or interrupts it as Ctrl-C does."""
        with self._changed:
            if task.state == "waiting":
                self._tasks.remove(task)
            elif task.open:
                task.state, task.note = "stopping", "it writes down what it has measured"
                self._signal(task, signal.SIGINT)

    def kill(self, task: Task) -> None:
        """Ends a task that does not heed the interrupt; the run that was under way is lost."""
        with self._changed:
            if task.open and task.process is not None:
                token = _mark(task.folder)[1]
                self._signal(task, signal.SIGKILL)
                sweep(token)

    def close(self) -> list[Task]:
        """Interrupts what runs and waits for it; returns what it interrupted or never started."""
        with self._changed:
            self._closing = True
            left = [task for task in self._tasks if task.open]
            for task in left:
                if task.process is not None:
                    self.stop(task)
            self._changed.notify_all()
        self._thread.join(self._patience)
        if self._thread.is_alive():
            for task in left:
                self.kill(task)
            self._thread.join()
        shutil.rmtree(self._logs, ignore_errors=True)
        return left

    def blocked(self) -> str:
        """Who else uses the machine, "" if nobody."""
        return self._busy()

    def _signal(self, task: Task, number: signal.Signals) -> None:
        assert task.process is not None
        # The group is the process's own; it is gone only once `wait` has reaped its leader.
        if task.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(task.process.pid, number)

    def _work(self) -> None:
        while (task := self._next()) is not None:
            assert task.process is not None
            code = task.process.wait()
            with self._changed:
                signalled = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
                task.state, task.note = _ENDS.get(code, ("failed", signalled))
                task.ended = time.time()

    def _next(self) -> Task | None:
        """Starts the first that waits, once the machine is free; None at the end."""
        with self._changed:
            while not self._closing:
                task = next((task for task in self._tasks if task.state == "waiting"), None)
                if task is None:
                    self._changed.wait()
                elif self._busy():
                    self._changed.wait(1.0)
                else:
                    self._launch(task)
                    return task
        return None

    def _launch(self, task: Task) -> None:
        calm = {"NO_COLOR": "1", "COLUMNS": "110", "TERM": "dumb"}
        with task.log.open("wb") as log:
            task.process = subprocess.Popen(
                [*self._program, *task.words], stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, env={**os.environ, **calm}, start_new_session=True,
            )  # fmt: skip
        task.state, task.begun = "running", time.time()


def _mark(folder: Path) -> tuple[int, str]:
    """Process and mark that stand in a study's lock."""
    try:
        pid, _, token = (folder / ".lock").read_text(encoding="utf-8").partition(" ")
        return int(pid), token.strip()
    except (OSError, ValueError):
        return 0, ""


def holder(folder: Path) -> int:
    """Process that writes to a study's folder, 0 if there is none.

    The number in the lock counts only while that process has the lock open: numbers of processes
    are used again.
    """
    pid, _ = _mark(folder)
    if pid <= 0:
        return 0
    lock = os.stat(folder / ".lock")
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), lock):
                    return pid
    except PermissionError:
        return pid  # another user's: it lives, and cannot be asked
    except OSError:
        return 0
    return 0


def interrupt_holder(folder: Path) -> None:
    """Interrupts a study that was started elsewhere, as Ctrl-C in its terminal would.

    Raises:
        UsageError: Nobody runs it, or it belongs to another user.
    """
    pid = holder(folder)
    if not pid:
        raise UsageError(f"{folder.name}: this study is not running")
    try:
        os.kill(pid, signal.SIGINT)
    except PermissionError:
        raise UsageError(f"{folder.name}: process {pid} belongs to another user") from None
    except ProcessLookupError:
        pass


_VALUES = {
    "--data", "--target", "--methods", "--budget", "--repeats", "--prefer", "--max-latency",
    "--max-memory", "--tune", "--task", "--prompts", "--device", "--threads", "--seed",
}  # fmt: skip


def continuing(command: str) -> tuple[str, ...]:
    """The words after `compare` that continue a study, from the command in its `study.json`.

    A folder may come from anywhere, so its command is never run as it stands: words that are
    known to only choose what is compared are taken over, and any other is an error.

    Raises:
        UsageError: The command brings code, goes to other machines, or is not `compare`.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if "compare" not in words[:-1]:
        raise UsageError("this study was not made by `compare`: continue it in a terminal")
    study, *rest = words[words.index("compare") + 1 :]
    found = [study]
    while rest:
        option = rest.pop(0)
        if option == "--quick":
            found.append(option)
        elif option in _VALUES | {"--out"} and rest:
            value = rest.pop(0)
            found += [f"{option}={value}"] if option != "--out" else []
        else:
            raise UsageError(f"{option} is not taken from a file: continue it in a terminal")
    if study.startswith("-"):
        raise UsageError("this study's command is not understood: continue it in a terminal")
    return tuple(found)
