"""The same runs wherever they happen."""

import itertools
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from paragone._core.errors import MissingPackageError
from paragone.lab.build import resolve_target
from paragone.lab.engines import LocalEngine, open_engine
from paragone.lab.protocol import execute
from paragone.lab.spec import Contestant
from paragone.lab.store import read_records, read_study

SMALL = str(Path(__file__).with_name("small.py"))
parts = resolve_target(f"{SMALL}:parts")
study, request_, workload, contestant = (
    resolve_target(f"{SMALL}:{name}") for name in ("study", "request", "workload", "contestant")
)


def without_times(store):
    """What must not depend on where a run happened, for each run."""
    return {
        (row["contestant"], row["workload"], row["block"]): (
            row["status"], row["message"], row["values"].get("error"), row["digests"],
            row["seed"], row["split"], row["threads"], sorted(row["artifacts"]),
            bool(row["log"]), row["curves"], row["attempt"],
        )
        for row in store.records()
    }  # fmt: skip


def perform(folder, engine, timed, repeats=2, **more):
    one, asked, contestants, workloads = parts()
    fails = [contestant("fails"), Contestant(id="quits", title="q", make="os:_exit")]
    changed = study(task=one.task, preload=one.preload, timed=timed)
    everyone = [*contestants, *fails]
    return execute(
        changed, asked, everyone, workloads, folder, repeats=repeats, engine=engine, **more
    )


def test_quality_only_runs_go_to_several_places_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    places = []
    original = LocalEngine.__init__

    def spy(self, setting, scratch, count):
        places.append(count)
        original(self, setting, scratch, count)

    monkeypatch.setattr(LocalEngine, "__init__", spy)
    events = []
    many = perform(tmp_path / "many", "local", timed=False, on_event=events.append)
    assert places == [3]
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    one = perform(tmp_path / "one", "local", timed=False)
    assert places == [3, 1]
    assert without_times(many) == without_times(one)
    assert sum(e.kind == "start" for e in events) == sum(e.kind == "run" for e in events) == 16
    assert many.study["complete"]


def test_timed_runs_go_one_at_a_time(tmp_path):
    engine = open_engine(
        "local", threads=1, preload=(), device="cpu", timed=True, token="t", scratch=tmp_path
    )
    assert engine.places == 1
    engine.close()


@pytest.mark.filterwarnings("ignore:.*tasks.*:UserWarning")
@pytest.mark.parametrize("timed", [False, True])
def test_ctrl_c_ends_what_runs(tmp_path, monkeypatch, timed):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    psutil = pytest.importorskip("psutil")
    slow = [contestant("slow", id=f"s{i}", params={"pause": 60}) for i in range(3)]
    press = threading.Timer(1.5, os.kill, [os.getpid(), signal.SIGINT])
    press.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        execute(study(timed=timed), request_(), slow, [workload("w")], tmp_path)
    assert time.monotonic() - begun < 50
    assert read_study(tmp_path)["ended"] == "interrupted"
    assert read_records(tmp_path) == []
    left = [p for p in psutil.Process().children(recursive=True) if "worker" in str(p.cmdline())]
    assert left == []


@pytest.mark.parametrize(
    ("engine", "module", "line"),
    [
        ("dask", "distributed", r"pip install 'dask\[distributed\]'"),
        ("ray", "ray", "pip install ray"),
    ],
)
def test_an_engine_that_is_not_installed_names_the_pip_line(
    tmp_path, monkeypatch, engine, module, line
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=line):
        perform(tmp_path, engine, timed=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dask_gives_the_same_records(tmp_path, monkeypatch):
    """A real cluster of two worker processes; quality-only runs, then whole timed blocks."""
    distributed = pytest.importorskip("distributed")
    local = perform(tmp_path / "local", "local", timed=False, repeats=1)
    local_timed = perform(tmp_path / "local_timed", "local", timed=True, repeats=1)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert len(client.scheduler_info()["workers"]) == 2
        dask = perform(tmp_path / "dask", "dask", timed=False, repeats=1)
        address = f"dask:{cluster.scheduler_address}"
        timed = perform(tmp_path / "timed", address, timed=True, repeats=1)
    assert without_times(dask) == without_times(local)
    assert without_times(timed) == without_times(local_timed)
    assert all(row["machine"] == local.records()[0]["machine"] for row in dask.records())
    assert dask.study["complete"]
    for row in dask.records():
        assert all((dask.folder / path).is_file() for path in row["artifacts"].values())
    blocks = [(row["workload"], row["block"]) for row in timed.records()]
    assert len(set(blocks)) == sum(a != b for a, b in itertools.pairwise(blocks)) + 1
