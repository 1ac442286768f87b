"""The process side of a run: a small fork server, and the run itself.

A fresh interpreter that imports scikit-learn costs seconds, more than many a run. So one
single-threaded server a study imports the neutral modules once and forks a child for each run:
the child is as fresh as a new process (own session, own memory, no threads to inherit) and
starts in milliseconds. Contestants that must not start by fork (CUDA, torchrun) get a new
interpreter instead, under the same watch.

    study process --ticket--> server --fork--> run (setsid) --> its children
                  <--answer--                        \\-> result.json, log.txt, arrays

The server is a *subreaper*: whatever a run leaves behind, however often it forked or called
`setsid`, becomes the server's child and is killed with the run. When the study process dies, the
server's standard input ends, and it kills its run and itself; when the server dies, the kernel
kills the run (`PR_SET_PDEATHSIG`).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from paragone.lab.build import resolve_target
from paragone.lab.probe import LoadMeter, Probe, descendants, resident
from paragone.lab.spec import Block, Contestant, Job, Workload

__all__ = ["job_from", "main", "perform"]

_POLL = 0.1
_LOG_LIMIT = 32 << 20
_LOG_HEAD, _LOG_TAIL = 64 << 10, 192 << 10
_PATIENCE = 10.0
_SET_PDEATHSIG, _SET_SUBREAPER = 1, 36
_DUMP = signal.SIGXCPU


def job_from(content: Mapping[str, Any]) -> Job:
    """Builds a `Job` from the JSON of `dataclasses.asdict(job)`."""
    parts = {
        "contestant": Contestant(**content["contestant"]),
        "workload": Workload(**content["workload"]),
        "block": Block(**content["block"]),
    }
    return Job(**{**content, **parts})


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


# The run's own process.


def perform(folder: Path) -> None:
    """Performs the job in `folder/ticket.json` and writes `folder/result.json` atomically.

    Whatever the task raises is this run's result and no one else's, so it is caught here, at
    the border of the process, and nowhere else.
    """
    ticket = json.loads((folder / "ticket.json").read_text(encoding="utf-8"))
    probe = Probe(folder)
    status, message = "ok", ""
    try:
        job = job_from(ticket["job"])
        resolve_target(job.task)(job, probe)
    except BaseException as error:
        traceback.print_exc()
        status = "memory" if isinstance(error, MemoryError) else "failed"
        lines = traceback.format_exception_only(error)[-1].strip().splitlines()
        message = (lines or [type(error).__name__])[0][:500]
    result = {
        "status": status, "message": message, "values": probe.values, "phases": probe.phases,
        "curves": probe.curves, "digests": probe.digests,
        "versions": _versions(ticket["job"]["contestant"]["make"]),
    }  # fmt: skip
    partial = folder / "result.partial"
    partial.write_text(json.dumps(result, allow_nan=False), encoding="utf-8")
    os.replace(partial, folder / "result.json")


def _versions(make: str) -> dict[str, str]:
    names = {"numpy", "scipy", "sklearn", "numba", "torch", "paragone", make.partition(".")[0]}
    names.add(make.partition(":")[0].partition(".")[0])
    found = {n: getattr(sys.modules.get(n), "__version__", None) for n in sorted(names)}
    return {"python": sys.version.split()[0]} | {k: str(v) for k, v in found.items() if v}


def _run_and_exit(folder: Path) -> NoReturn:
    faulthandler.enable(all_threads=True)
    faulthandler.register(_DUMP, all_threads=True)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    finished = False
    try:
        perform(folder)
        finished = True
    finally:
        if not finished:
            traceback.print_exc()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0 if finished else 1)


def _set_threads(count: int, variables: Mapping[str, str]) -> None:
    """Brings pools that the server loaded to the run's number, and those still to come."""
    other = count > 1 or os.environ.get("OMP_NUM_THREADS") != str(count)
    os.environ.update(variables)
    if other and "numpy" in sys.modules:
        import threadpoolctl

        threadpoolctl.threadpool_limits(count)


def _enter(ticket: Mapping[str, Any], server: int, keep_out: Iterable[int]) -> NoReturn:
    """Turns the forked child into the run."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)
    for descriptor in keep_out:
        os.close(descriptor)
    folder = Path(ticket["folder"])
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ["JOBLIB_TEMP_FOLDER"] = str(folder)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ticket["memory"] and ticket["start"] == "fork":
        # Twice the limit plus a reserve: thread stacks and allocator arenas count here too, and
        # the watch on resident pages is the real limit.
        cap = 2 * int(ticket["memory"]) + (4 << 30)
        resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    if ticket["start"] == "exec":
        command = [sys.executable, "-P", "-m", "paragone.lab.worker", "--run", str(folder)]
        os.execve(sys.executable, command, {**os.environ, **ticket["environment"]})
    _set_threads(int(ticket["threads"]), ticket["environment"])
    _run_and_exit(folder)


# The server.


class _Watch:
    """Supervises one run: its end, its limits, and all that it leaves behind."""

    def __init__(self, ticket: Mapping[str, Any], commands: int, wake: int, closed: Iterable[int]):
        self.ticket, self.commands, self.wake = ticket, commands, wake
        self.log = Path(ticket["folder"]) / "log.txt"
        self.cpu, self.peak, self.interval = 0.0, 0, _POLL
        self.exit: int | None = None
        self.meter, self.began = LoadMeter(), time.monotonic()
        server = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _enter(ticket, server, closed)
            finally:
                traceback.print_exc()
                os._exit(1)

    def outcome(self) -> dict[str, Any]:
        reason = self._wait()
        wall = time.monotonic() - self.began
        self._kill()
        self._trim_log()
        return {
            "exit": self.exit, "reason": reason, "wall": wall, "cpu": self.cpu,
            "peak": self.peak, "load": self.meter.stop(self.cpu),
        }  # fmt: skip

    def _wait(self) -> str:
        deadline = self.began + self.ticket["limit"]
        while True:
            self._reap()
            if self.exit is not None:
                return ""
            if time.monotonic() >= deadline:
                return "timeout"
            pause = min(self.interval, max(deadline - time.monotonic(), 0.0))
            ready, _, _ = select.select([self.commands, self.wake], [], [], pause)
            if self.commands in ready:
                # The study process died or stopped: no ticket comes while a run is on.
                self._kill()
                os._exit(0)
            if self.wake in ready:
                os.read(self.wake, 4096)
                continue
            if self._too_much_memory():
                return "memory"
            self._bound_log()

    def _reap(self) -> None:
        while True:
            try:
                pid, code, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.cpu += usage.ru_utime + usage.ru_stime
            if pid == self.pid:
                self.exit = os.waitstatus_to_exitcode(code)

    def _too_much_memory(self) -> bool:
        began = time.perf_counter()
        family = descendants(os.getpid())
        held = sum(map(resident, family))
        limit = self.ticket["memory"]
        if limit and held > limit:
            held = sum(resident(pid, shared=False) for pid in family)
        self.peak = max(self.peak, held)
        self.interval = max(_POLL, 20 * (time.perf_counter() - began))
        return bool(limit) and held > limit

    def _bound_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > _LOG_LIMIT:
                self._trim_log()

    def _trim_log(self) -> None:
        """Keeps the log's beginning and end; writers append, so it may shrink under them."""
        with contextlib.suppress(FileNotFoundError), open(self.log, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= _LOG_HEAD + _LOG_TAIL:
                return
            head = file.read(_LOG_HEAD)
            file.seek(size - _LOG_TAIL)
            tail = file.read(_LOG_TAIL)
            note = f"\n[... {size - _LOG_HEAD - _LOG_TAIL:,} bytes left out ...]\n".encode()
            file.seek(0)
            file.write(head + note + tail)
            file.truncate()

    def _kill(self) -> None:
        """Ends the run and all below it; a run cut short first dumps its Python stacks."""
        if self.exit is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, _DUMP)
                time.sleep(0.1)
        give_up = time.monotonic() + _PATIENCE
        while family := descendants(os.getpid()) or self._group():
            for pid in family:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()
            if time.monotonic() > give_up:
                break
            time.sleep(0.002)
        self._reap()

    def _group(self) -> list[int]:
        """Off Linux nobody lists descendants: the run's group is all that can be reached."""
        if sys.platform == "linux" or self.exit is not None:
            return []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return [self.pid]


def _preload(modules: Iterable[str]) -> tuple[list[str], str]:
    """Imports neutral modules; returns complaints, and the first that started a thread."""
    complaints, before = [], _thread_count()
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            complaints.append(f"{name} cannot be preloaded: {error}")
        if _thread_count() > before:
            return complaints, name
    return complaints, ""


def _thread_count() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def _line(descriptor: int, rest: bytearray) -> bytes | None:
    while b"\n" not in rest:
        part = os.read(descriptor, 65536)
        if not part:
            return None
        rest += part
    line, _, after = bytes(rest).partition(b"\n")
    rest[:] = after
    return line


def _serve() -> None:
    commands, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    _prctl(_SET_SUBREAPER, 1)
    wake, wake_end = os.pipe()
    os.set_blocking(wake_end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rest = bytearray()

    def answer(content: Mapping[str, Any]) -> None:
        os.write(answers, json.dumps(content).encode() + b"\n")

    first = _line(commands, rest)
    if first is None:
        return
    setting = json.loads(first)
    sys.path += [entry for entry in setting["path"] if entry not in sys.path]
    complaints, restless = _preload(setting["preload"])
    if "numpy" in sys.modules:
        _preload(["threadpoolctl"])
    answer({"ready": os.getpid(), "complaints": complaints, "restless": restless})
    gc.collect()
    gc.freeze()
    while (line := _line(commands, rest)) is not None:
        closed = (commands, answers, wake, wake_end)
        answer(_Watch(json.loads(line), commands, wake, closed).outcome())


def main(arguments: list[str] | None = None) -> None:
    """Entry point: `--serve` (tickets on standard input), or `--run FOLDER` (one job)."""
    mode, *rest = sys.argv[1:] if arguments is None else arguments
    if mode == "--serve":
        _serve()
    else:
        folder = Path(rest[0])
        ticket = json.loads((folder / "ticket.json").read_text(encoding="utf-8"))
        sys.path += [entry for entry in ticket["path"] if entry not in sys.path]
        _run_and_exit(folder)


if __name__ == "__main__":
    main()
