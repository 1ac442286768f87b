"""The study's side of a run: hands jobs to a fork server and judges what came back.

A run's fate is read from three places: the server's answer (exit code, limit that was hit),
the result file (written whole or not at all), and the phase that was entered last. Together
they give one status: "ok", "failed", "timeout", "memory" or "crashed".
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from paragone._core.errors import UsageError
from paragone.lab.probe import fingerprint
from paragone.lab.spec import Job

__all__ = ["Outcome", "Server", "ServerError", "Ticket", "new_token", "sweep", "thread_variables"]

_MARK = "PARAGONE_LAB"
_CLOSING = 15.0
_KEPT = (".npy", ".txt")


class ServerError(UsageError):
    """The fork server could not be started; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """One run that is due.

    Attributes:
        job: What to run.
        limit: Seconds that it may take.
        memory: Bytes that its processes may hold (0: no limit).
        deadline: `time.time()` at which the study's budget ends.
        extra: What the scheduler wants back with the outcome.
    """

    job: Job
    limit: float
    memory: int = 0
    deadline: float = float("inf")
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Outcome:
    """What became of a run.

    Attributes:
        status: "ok", "failed", "timeout", "memory", "crashed", or "cut" when the study's
            budget ended before the run's own limit (such a run leaves no record).
        message: The error in one line.
        result: What the probe recorded: values, phases, curves, digests, versions.
        wall: Seconds of the whole run.
        cpu: CPU seconds of the whole run, with children.
        peak: Most bytes that its processes held together, sampled.
        load: Load of the machine meanwhile.
        machine: Fingerprint of the machine.
        files: Name to file, or to bytes when it came from another machine.
        folder: Scratch folder of the run, to be removed once its files were taken.
    """

    status: str
    message: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    wall: float = 0.0
    cpu: float = 0.0
    peak: int = 0
    load: dict[str, float] = field(default_factory=dict)
    machine: str = ""
    files: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def discard(self) -> None:
        """Removes what is left of the run's scratch folder."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def thread_variables(threads: int, device: str = "cpu") -> dict[str, str]:
    """Returns the environment that gives every contestant the same threads.

    Example:
        >>> thread_variables(2)["OMP_NUM_THREADS"]
        '2'
    """
    count = str(threads)
    names = (
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
        "NUMBA_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
        "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "LOKY_MAX_CPU_COUNT",
    )  # fmt: skip
    fixed = {"PYTHONHASHSEED": "0"}
    hidden = {} if device.startswith("cuda") else {"CUDA_VISIBLE_DEVICES": ""}
    return dict.fromkeys(names, count) | fixed | hidden


def _inherited() -> dict[str, str]:
    """This process's environment without what makes threads wait in another than the usual way.

    Runs are alone on the machine, so each library may wait as its makers meant it to: told to
    sleep (`OMP_WAIT_POLICY=PASSIVE`) OpenMP libraries lose a factor of ten on small tables.
    """
    waiting = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    return {name: value for name, value in os.environ.items() if name not in waiting}


def new_token() -> str:
    """Returns a mark for all processes of one study."""
    return secrets.token_hex(8)


def sweep(token: str) -> int:
    """Kills every process that carries a study's mark; returns how many there were.

    The mark is in the environment that the fork server was started with, so all that came of
    it carries it, whoever its parent is now.
    """
    if not token or not os.path.isdir("/proc/self"):
        return 0
    mark = f"{_MARK}={token}.".encode()
    killed: set[int] = set()
    for _ in range(50):
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            marked = False
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                marked = any(line.startswith(mark) for line in file.read().split(b"\0"))
            if marked and int(name) != os.getpid():
                found.append(int(name))
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            break
        killed.update(found)
        time.sleep(0.02)
    return len(killed)


class Server:
    """A fork server and the one run that it performs at a time.

    It starts with the first run and again after it died. Not for several threads at once.

    Args:
        threads: Threads that every run may use.
        preload: Neutral modules that it imports once.
        device: "cpu" or "cuda".
        token: The study's mark.
        scratch: Folder for the files of running runs.

    Attributes:
        preload: What is preloaded in fact: nothing from the first module on that starts threads.
        complaints: What could not be preloaded, and why.
    """

    def __init__(
        self,
        *,
        threads: int,
        preload: Sequence[str] = (),
        device: str = "cpu",
        token: str = "",
        scratch: Path | None = None,
    ):
        self.threads, self.preload, self.device = threads, tuple(preload), device
        self.token = f"{token or new_token()}.{new_token()}"
        self._own_scratch = scratch is None
        self.scratch = scratch or Path(tempfile.mkdtemp(prefix="paragone-"))
        self.complaints: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._number = 0
        self._machine = fingerprint()

    def _start(self) -> None:
        variables = thread_variables(self.threads, self.device)
        # One BLAS thread while preloading, so that no pool exists at the fork; each run sets
        # its own number. Arrow's allocator would start a background thread as well.
        quiet = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
        environment = {**_inherited(), **variables, **quiet, _MARK: f"{self.token}."}
        self._rest = b""
        with open(self.scratch / f"server-{id(self):x}.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "paragone.lab.worker", "--serve"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0,
                env=environment, start_new_session=True,
            )  # fmt: skip
        self._process = process
        self._send({"preload": self.preload, "path": self._path()})
        ready = self._receive()
        if ready is None:
            log_text = (self.scratch / f"server-{id(self):x}.log").read_text(errors="replace")
            last = (log_text.strip().splitlines() or ["no output"])[-1]
            self._bury()
            raise ServerError(f"the fork server did not start: {last}")
        self.complaints += [text for text in ready["complaints"] if text not in self.complaints]
        if restless := ready["restless"]:
            # Threads do not survive a fork, so this server must not fork. The next one stops
            # short of the module; runs import it themselves and are slower to start.
            self._bury()
            self.complaints.append(f"{restless} starts threads and is not preloaded")
            self.preload = self.preload[: self.preload.index(restless)]
            self._start()

    @staticmethod
    def _path() -> list[str]:
        return [entry or os.getcwd() for entry in sys.path]

    def _send(self, content: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(content).encode() + b"\n")

    def _receive(self, patience: float | None = None) -> dict[str, Any] | None:
        """One answer, or None if the server died or is silent for longer than `patience`."""
        assert self._process is not None
        assert self._process.stdout is not None
        stream: IO[bytes] = self._process.stdout
        end = float("inf") if patience is None else time.monotonic() + patience
        while b"\n" not in self._rest:
            # Waking up each second lets this thread see a Ctrl-C that another one caught.
            if not select.select([stream], [], [], 1.0)[0]:
                if time.monotonic() < end:
                    continue
                return None
            part = os.read(stream.fileno(), 65536)
            if not part:
                return None
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def perform(self, ticket: Ticket) -> Outcome:
        """Performs one run and returns its outcome; its files lie in the scratch folder.

        Raises:
            ServerError: The server cannot be started at all.
        """
        limit = min(ticket.limit, ticket.deadline - time.time())
        if limit <= 0:
            return Outcome(status="cut")
        self._number += 1
        folder = self.scratch / f"{os.getpid():x}-{id(self):x}-{self._number}"
        folder.mkdir(parents=True)
        job = dataclasses.replace(ticket.job, folder=str(folder))
        exec_start = job.contestant.start == "exec" or job.device.startswith("cuda")
        order = {
            "job": dataclasses.asdict(job), "folder": str(folder), "limit": limit,
            "memory": ticket.memory, "threads": job.threads, "path": self._path(),
            "start": "exec" if exec_start else "fork",
            "environment": thread_variables(job.threads, job.device),
        }  # fmt: skip
        (folder / "ticket.json").write_text(json.dumps(order), encoding="utf-8")
        process = self._process
        if process is None or process.poll() is not None:
            if process is not None:
                self._bury()
            self._start()
        began = time.monotonic()
        self._send({key: value for key, value in order.items() if key != "job"})
        # The server keeps the limit; it is itself gone or stuck when even its patience is over.
        answer = self._receive(limit + 60.0)
        if answer is None:
            self._bury()
        outcome = self._judge(answer, folder, ticket, limit)
        outcome.wall = answer["wall"] if answer else time.monotonic() - began
        outcome.machine, outcome.folder = self._machine, folder
        return outcome

    def _judge(
        self, answer: dict[str, Any] | None, folder: Path, ticket: Ticket, limit: float
    ) -> Outcome:
        phase = folder / "phase"
        where = f" in {phase.read_text(encoding='utf-8')}" if phase.exists() else ""
        files = {p.name: p for p in sorted(folder.iterdir()) if p.suffix in _KEPT}
        files = {name: path for name, path in files.items() if path.stat().st_size}
        if answer is None:
            message = f"the run took its fork server down with it{where}"
            return Outcome(status="crashed", message=message, files=files)
        outcome = Outcome(
            status="crashed", cpu=answer["cpu"], peak=answer["peak"], load=answer["load"],
            files=files,
        )  # fmt: skip
        if answer["reason"] == "timeout":
            outcome.status = "timeout" if limit >= ticket.limit else "cut"
            outcome.message = f"ran past its limit of {limit:.3g} s{where}"
        elif answer["reason"] == "memory":
            outcome.status = "memory"
            outcome.message = f"held more than {ticket.memory / 2**20:,.0f} MiB{where}"
        elif (folder / "result.json").exists():
            outcome.result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            outcome.status = outcome.result.pop("status")
            outcome.message = outcome.result.pop("message")
        else:
            outcome.message = _last_words(answer["exit"]) + where
        return outcome

    def _bury(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None
        sweep(self.token)

    def close(self) -> None:
        """Ends the server and whatever still runs in it."""
        process = self._process
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            try:
                process.wait(_CLOSING)
            except subprocess.TimeoutExpired:
                self._bury()
            else:
                process.stdout.close()
                self._process = None
        if self._own_scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _last_words(code: int | None) -> str:
    if code is None:
        return "the process could not be killed"
    if code >= 0:
        return f"the process ended without a result (exit code {code})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL":
        return "killed by SIGKILL, not by the lab: often the system, for want of memory"
    return f"killed by {name}"
