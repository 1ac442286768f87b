"""The same runs wherever they happen."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

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


def perform(folder, timed, repeats=2, **more):
    one, asked, contestants, workloads = parts()
    fails = [contestant("fails"), Contestant(id="quits", title="q", make="os:_exit")]
    changed = study(task=one.task, preload=one.preload, timed=timed)
    everyone = [*contestants, *fails]
    return execute(changed, asked, everyone, workloads, folder, repeats=repeats, **more)


def test_quality_only_runs_go_to_several_places_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    places = []
    original = LocalEngine.__init__

    def spy(self, setting, scratch, count):
        places.append(count)
        original(self, setting, scratch, count)

    monkeypatch.setattr(LocalEngine, "__init__", spy)
    events = []
    many = perform(tmp_path / "many", timed=False, on_event=events.append)
    assert places == [3]
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    one = perform(tmp_path / "one", timed=False)
    assert places == [3, 1]
    assert without_times(many) == without_times(one)
    assert sum(e.kind == "start" for e in events) == sum(e.kind == "run" for e in events) == 16
    assert many.study["complete"]


def test_timed_runs_go_one_at_a_time(tmp_path):
    engine = open_engine(
        None, threads=1, preload=(), device="cpu", timed=True, token="t", scratch=tmp_path
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
