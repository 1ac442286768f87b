"""Ranks of one run: processes that a run forks, watches and ends before it returns.

A run is forked from the lab's server with torch loaded and no thread started, so that its ranks
cost milliseconds to start where torchrun costs seconds a rank. They find what torchrun would give
them (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE) and meet through a file.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["run_ranks"]

_GRACE = 5.0
_POLL = 0.005


def run_ranks(
    world: int, function: Callable[..., Any], *args: Any, timeout: float = 300.0
) -> list[Any]:
    """Returns [function(rank, world, meeting, *args) of rank 0, 1, ...], each in a process.

    Args:
        world: Number of ranks.
        function: What a rank does; `meeting` is an address for `init_process_group`.
        args: Passed on.
        timeout: Seconds until all are killed.

    Raises:
        RuntimeError: A rank raised, died or did not end; the text names the first.
    """
    folder = Path(tempfile.mkdtemp(prefix="paragone-ranks-"))
    running: dict[int, int] = {}
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        for rank in range(world):
            pid = os.fork()
            if pid == 0:
                _be(rank, world, folder, function, args)
            running[pid] = rank
        problem = _wait(running, time.monotonic() + timeout)
        return _results(world, folder, problem)
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(running: dict[int, int], deadline: float) -> str:
    """Takes ended ranks out of `running`; returns what went wrong first."""
    problem = ""
    while running:
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                rank, code = running.pop(pid), os.waitstatus_to_exitcode(status)
                if code and not problem:
                    problem = f"rank {rank} ended with code {code}"
                    deadline = min(deadline, time.monotonic() + _GRACE)
        if running and time.monotonic() > deadline:
            return problem or f"ranks {sorted(running.values())} did not end in time"
        time.sleep(_POLL)
    return problem


def _results(world: int, folder: Path, problem: str) -> list[Any]:
    found = []
    for rank in range(world):
        path = folder / f"{rank}.result"
        if not path.exists():
            raise RuntimeError(problem or f"rank {rank} of {world} left no result")
        when, failure, value = pickle.loads(path.read_bytes())
        found.append((when, rank, failure, value))
    failed = sorted(item[:3] for item in found if item[2])
    if failed:
        raise RuntimeError(f"rank {failed[0][1]} of {world}: {failed[0][2]}")
    return [value for *_, value in found]


def _be(
    rank: int, world: int, folder: Path, function: Callable[..., Any], args: tuple[Any, ...]
) -> NoReturn:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world),
        GLOO_SOCKET_IFNAME=os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
    )  # fmt: skip
    code, finished = 1, (time.monotonic(), "did not begin", None)
    try:
        value = function(rank, world, f"file://{folder}/meeting", *args)
        finished, code = (time.monotonic(), "", value), 0
    except BaseException as error:
        # Whatever a rank raises is its result; the process ends here and nowhere else.
        traceback.print_exc()
        finished = (time.monotonic(), f"{type(error).__name__}: {error}"[:400], None)
    partial = folder / f"{rank}.partial"
    partial.write_bytes(pickle.dumps(finished))
    partial.rename(folder / f"{rank}.result")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
