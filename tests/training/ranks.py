"""Real gloo ranks for tests: `run_ranks(3, check, 5)` calls `check(rank, 3, 5)` in 3 processes.

    from tests.training.ranks import run_ranks

A server process imports torch once and forks the ranks, so a set of ranks starts in about 0.1 s
in place of 3 s of CPU a rank. The server has no threads when it forks; a rank may start some.
Ranks run alone in their process group, are killed with everything that they started when the
call ends, and find a gloo group that is ready (`torch.distributed` is initialised).

    python tests/training/ranks.py      is the server
"""

import atexit
import importlib
import importlib.util
import inspect
import os
import pickle
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import types
from pathlib import Path

__all__ = ["RankError", "run_ranks"]

_PRELOADED = (
    "torch.distributed", "torch.nn.parallel", "torch._dynamo", "torch.testing", "numba", "pytest",
    "hypothesis",
)  # fmt: skip
"""Optimizers and `assert_close` import torch._dynamo when they are first called: 3 s of CPU."""

_GRACE = 5.0
"""Seconds that the other ranks get to end by themselves after one has failed."""


class RankError(AssertionError):
    """A rank raised, died or did not end; the text holds its traceback."""


def run_ranks(world, target, *args, timeout=60, init=True, dead_ok=False):
    """Returns [target(rank, world, *args) of rank 0, 1, ...].

    Args:
        world: Number of ranks.
        target: A top-level function of a test file or module, or `"module:function"`.
        args: Plain data (pickled).
        timeout: Seconds until all are killed and `RankError` is raised; also the group's timeout.
        init: Whether `torch.distributed` is initialised with gloo; without it, ranks find
            MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE in the environment only.
        dead_ok: A rank that dies (killed, `os._exit`) counts as None instead of as a failure.

    Raises:
        RankError: With the first traceback.
    """
    server = _Server.running()
    place = _place(target)
    job = {
        "world": world, "target": place, "args": args, "timeout": timeout, "init": init,
        "dead_ok": dead_ok, "path": sys.path,
    }  # fmt: skip
    results, problem = server.ask(job, timeout + 2 * _GRACE + 20)
    if problem:
        raise RankError(problem)
    return results


def _place(target):
    if isinstance(target, str):
        module, _, name = target.partition(":")
        return "", module, name
    if "<" in target.__qualname__:
        raise ValueError(f"{target.__qualname__}: give a top-level function, ranks look it up")
    if target.__module__ == "__main__":
        raise ValueError(f"{target.__qualname__} is in a script, which every rank would run again")
    return inspect.getsourcefile(target), target.__module__, target.__qualname__


def _send(file, thing):
    data = pickle.dumps(thing)
    file.write(struct.pack("<q", len(data)) + data)
    file.flush()


def _receive(file):
    head = file.read(8)
    if len(head) < 8:
        return None
    return pickle.loads(file.read(struct.unpack("<q", head)[0]))


class _Server:
    """The test process's side of the server."""

    _only = None

    def __init__(self):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1",
               "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}  # fmt: skip
        mine, theirs = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(theirs)], stdin=subprocess.PIPE, pass_fds=(theirs,),
            env=env, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.answers = os.fdopen(mine, "rb")
        atexit.register(self.close)

    @classmethod
    def running(cls):
        if cls._only is None or cls._only.process.poll() is not None:
            cls._only = cls()
        return cls._only

    def ask(self, job, timeout):
        _send(self.process.stdin, job)
        ready, _, _ = select.select([self.answers], [], [], timeout)
        answer = _receive(self.answers) if ready else None
        if answer is None:
            self.close()
            raise RankError("the server of ranks died" if ready else "the server of ranks hangs")
        return answer

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.answers.close()
        atexit.unregister(self.close)
        type(self)._only = None


def _serve(answers):
    for name in _PRELOADED:
        importlib.import_module(name)
    jobs = sys.stdin.buffer
    while (job := _receive(jobs)) is not None:
        folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        try:
            _send(answers, _run(job, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _run(job, folder):
    """Forks the ranks, waits for them and returns (results, the first problem or "")."""
    tasks = len(os.listdir("/proc/self/task"))
    assert tasks == 1, f"the server of ranks has {tasks} threads; it must fork without any"
    started, open_ = time.monotonic(), {}
    for rank in range(job["world"]):
        pid = os.fork()
        if pid == 0:
            _be_rank(job, rank, folder)
        open_[pid] = rank
    everyone, ended, late = list(open_), {}, ""
    deadline = started + job["timeout"]
    while open_:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in open_:
            ended[open_.pop(pid)] = os.waitstatus_to_exitcode(status)
            if status and not job["dead_ok"]:
                deadline = min(deadline, time.monotonic() + _GRACE)
            continue
        if time.monotonic() > deadline:
            late = f"ranks {sorted(open_.values())} of {job['world']} did not end in time"
            break
        time.sleep(0.002)
    for pid in everyone:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for pid in open_:
        os.waitpid(pid, 0)
    return _collect(job, ended, late, folder)


def _collect(job, ended, late, folder):
    results, problems = [], []
    for rank in range(job["world"]):
        output = folder / f"{rank}.result"
        result = None
        if output.exists():
            when, problem, result = pickle.loads(output.read_bytes())
            if problem:
                problems.append((when, f"rank {rank} of {job['world']}:\n{problem}"))
        elif rank in ended and not job["dead_ok"]:
            problems.append((float("inf"), f"rank {rank} died with code {ended[rank]}"))
        results.append(result)
    first = min(problems)[1] if problems else late
    if first:
        logs = [path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.log"))]
        first += "".join(f"\n--- output of a rank:\n{text}" for text in logs if text.strip())
    return results, first


def _be_rank(job, rank, folder):
    """Everything a rank does, after the fork; never returns."""
    os.setpgid(0, 0)
    log = os.open(folder / f"{rank}.log", os.O_CREAT | os.O_WRONLY, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(job["world"]), LOCAL_RANK=str(rank))
    problem, result, code = "", None, 0
    try:
        result = _work(job, rank, folder)
        pickled = pickle.dumps((time.monotonic(), "", result))
    except BaseException:
        problem, code = traceback.format_exc(), 1
        pickled = pickle.dumps((time.monotonic(), problem, None))
    partial = folder / f"{rank}.partial"
    partial.write_bytes(pickled)
    partial.rename(folder / f"{rank}.result")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _work(job, rank, folder):
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    sys.path[:] = job["path"]
    _know_tests()
    torch.set_num_threads(1)
    if job["init"]:
        dist.init_process_group(
            "gloo", rank=rank, world_size=job["world"],
            store=dist.FileStore(str(folder / "store"), job["world"]),
            timeout=timedelta(seconds=job["timeout"]),
        )  # fmt: skip
    result = _find(*job["target"])(rank, job["world"], *job["args"])
    if job["init"] and dist.is_initialized():
        dist.destroy_process_group()
    return result


def _know_tests():
    """Makes `tests.training` importable as pytest does, whatever else is called `tests`."""
    here = Path(__file__).parent
    for name, place in (("tests", here.parent), ("tests.training", here)):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(place)]


def _find(file, module, name):
    if file:
        spec = importlib.util.spec_from_file_location(module, file)
        found = importlib.util.module_from_spec(spec)
        sys.modules[module] = found
        spec.loader.exec_module(found)
    else:
        found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[1]), "wb") as stream:
        _serve(stream)
