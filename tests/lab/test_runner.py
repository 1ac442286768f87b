"""Fork server and exec start, as seen from both sides."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from paragone.lab.build import resolve_target
from paragone.lab.runner import Server, ServerError, Ticket, new_token, sweep, thread_variables

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is needed")
make = resolve_target(f"{Path(__file__).with_name('jobs.py')}:job")


def ticket(name, limit=20.0, memory=0, deadline=float("inf"), **options):
    return Ticket(job=make(name, **options), limit=limit, memory=memory, deadline=deadline)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    preload = ("numpy", "paragone.lab.tasks.sweep")
    with Server(threads=2, preload=preload, scratch=tmp_path_factory.mktemp("scratch")) as made:
        yield made
    assert sweep(made.token) == 0


@pytest.mark.parametrize("start", ["fork", "exec"])
def test_a_run_is_a_fresh_process_with_its_threads(server, start):
    outcome = server.perform(ticket("looks_around", start=start, threads=2))
    assert (outcome.status, outcome.message) == ("ok", "")
    seen = outcome.result["values"]
    assert seen["pid"] not in (os.getpid(), server._process.pid)
    assert seen["parent"] == server._process.pid
    assert seen["leads_session"]
    assert (seen["OMP"], seen["OPENBLAS"], seen["NUMBA"], seen["MKL"]) == (2, 2, 2, 2)
    assert seen["gpus_hidden"]
    assert seen["preloaded"] == (start == "fork")
    assert seen["open_files"] <= 4
    assert outcome.files["log.txt"].read_text() == "seen on standard output\n"
    np.testing.assert_array_equal(np.load(outcome.files["numbers.npy"]), np.arange(3))
    assert outcome.result["versions"]["numpy"] == np.__version__
    assert outcome.wall > 0
    assert set(outcome.load) == {"psi", "foreign"}
    outcome.discard()
    assert not outcome.folder.exists()


def test_fork_and_exec_see_the_same_hashes(server):
    hashes = {
        server.perform(ticket("looks_around", start=start)).result["values"]["hash"]
        for start in ("fork", "exec", "fork")
    }
    assert len(hashes) == 1


def test_the_server_preloads_with_one_thread_and_runs_get_theirs(server):
    server.perform(ticket("waits", seconds=0))
    assert len(os.listdir(f"/proc/{server._process.pid}/task")) == 1
    for start in ("fork", "exec"):
        seen = server.perform(ticket("blas_threads", threads=2, start=start)).result["values"]
        assert (seen["sum"], seen["least"], seen["most"]) == (27e6, 2, 2), start


def test_nothing_passes_from_run_to_run(server):
    for _ in range(2):
        assert server.perform(ticket("leaves_global")).result["values"]["before"] == 0


def test_a_cuda_run_starts_by_exec_and_sees_the_gpus(server):
    seen = server.perform(ticket("looks_around", device="cuda")).result["values"]
    assert not seen["preloaded"]


@pytest.mark.parametrize(("start", "limit"), [("fork", 0.3), ("exec", 3.0)])
def test_limits_tell_whose_they_were(server, start, limit):
    late = server.perform(ticket("waits", limit=limit, start=start, seconds=60))
    assert late.status == "timeout"
    assert late.message == f"ran past its limit of {limit:g} s"
    assert "in waits" in late.files["log.txt"].read_text()
    assert late.wall < 30


def test_the_end_of_the_budget_cuts_a_run_short(server):
    cut = server.perform(ticket("waits", seconds=60, deadline=time.time() + 0.3))
    assert cut.status == "cut"
    assert server.perform(ticket("waits", seconds=0, deadline=time.time() - 1)).status == "cut"


def test_an_allocation_that_cannot_be_is_a_memory_failure(server):
    outcome = server.perform(ticket("too_big", memory=256 << 20))
    assert outcome.status == "memory"
    assert "Unable to allocate" in outcome.message


def test_a_server_that_was_killed_starts_again(server):
    server.perform(ticket("waits", seconds=0))
    old = server._process.pid
    os.kill(old, signal.SIGKILL)
    server._process.wait()
    assert server.perform(ticket("waits", seconds=0)).status == "ok"
    assert server._process.pid != old


def test_closing_kills_the_run_and_what_it_started():
    """A study process that dies closes the pipe; here only the pipe closes."""
    import subprocess

    psutil = pytest.importorskip("psutil")
    code = (
        "import sys; from paragone.lab.build import resolve_target as r\n"
        "from paragone.lab.runner import Server, Ticket\n"
        "job = r(sys.argv[1])('waits', seconds=60)\n"
        "s = Server(threads=1); s._start(); print(s._process.pid, flush=True)\n"
        "s.perform(Ticket(job=job, limit=60))"
    )
    where = f"{Path(__file__).with_name('jobs.py')}:job"
    with subprocess.Popen([sys.executable, "-c", code, where], stdout=subprocess.PIPE) as study:
        server = psutil.Process(int(study.stdout.readline()))
        children = []
        for _ in range(200):
            children = server.children()
            if children:
                break
            time.sleep(0.02)
        study.kill()
        _, alive = psutil.wait_procs([server, *children], timeout=10)
    assert len(children) == 1
    assert alive == []


def test_a_preload_that_starts_threads_is_left_out(tmp_path, monkeypatch):
    module = tmp_path / "restless.py"
    module.write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with Server(threads=1, preload=("json", "restless", "csv")) as server:
        assert server.perform(ticket("waits", seconds=0)).status == "ok"
        assert len(os.listdir(f"/proc/{server._process.pid}/task")) == 1
        assert server.complaints == ["restless starts threads and is not preloaded"]
        assert server.preload == ("json",)


def test_a_preload_that_is_missing_costs_nothing_here():
    with Server(threads=1, preload=("no_such_module_at_all",)) as server:
        assert server.perform(ticket("waits", seconds=0)).status == "ok"
        assert "no_such_module_at_all" in server.complaints[0]


def test_a_server_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Server(threads=1) as server, pytest.raises(ServerError, match="did not start"):
        server.perform(ticket("waits", seconds=0))


def test_thread_variables_cover_the_pools():
    variables = thread_variables(3)
    assert {v for k, v in variables.items() if k.endswith("_THREADS")} == {"3"}
    assert "CUDA_VISIBLE_DEVICES" not in thread_variables(3, "cuda")


def test_a_sweep_finds_only_its_own_mark():
    import subprocess

    token = new_token()
    environment = {**os.environ, "PARAGONE_LAB": f"{token}.server."}
    with (
        subprocess.Popen(["sleep", "60"], env=environment) as marked,
        subprocess.Popen(["sleep", "60"]) as other,
    ):
        assert sweep("") == 0
        assert sweep(new_token()) == 0
        assert sweep(token) == 1
        assert marked.wait(5) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()
