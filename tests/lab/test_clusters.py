"""Real clusters of two worker processes: the same records as here, and what a death costs."""

import contextlib
import itertools
import os
import sys
import time
from pathlib import Path

import pytest

from paragone._core.errors import MissingPackageError, UsageError
from paragone.lab import clusters
from paragone.lab.build import resolve_target
from paragone.lab.clusters import DaskCluster, RayCluster, Setting, perform_there
from paragone.lab.engines import ClusterEngine, find_cluster
from paragone.lab.plan import Plan
from paragone.lab.protocol import execute
from paragone.lab.runner import Ticket, new_token
from paragone.lab.spec import Contestant, Job

pytestmark = pytest.mark.xdist_group("clusters")

SMALL = str(Path(__file__).with_name("small.py"))
JOBS = str(Path(__file__).with_name("cluster_jobs.py"))
parts = resolve_target(f"{SMALL}:parts")
study, request_, workload, contestant = (
    resolve_target(f"{SMALL}:{name}") for name in ("study", "request", "workload", "contestant")
)


@pytest.fixture(scope="module")
def dask_cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        yield f"dask:{cluster.scheduler_address}"


@pytest.fixture(scope="module")
def ray_cluster():
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            logging_level="ERROR",
        )  # fmt: skip
        yield "ray"
        ray.shutdown()


@pytest.fixture(params=["dask", "ray"])
def engine(request):
    return request.getfixturevalue(f"{request.param}_cluster")


def told(store):
    """What must not depend on where a run happened, for each run."""
    return {
        row["key"]: (
            row["contestant"], row["workload"], row["block"], row["status"], row["message"],
            row["values"].get("error"), row["digests"], row["seed"], row["split"], row["threads"],
            sorted(row["artifacts"]), bool(row["log"]), row["curves"], row["attempt"],
            row["setup"], row["machine"], row["limits"],
        )
        for row in store.records(every=True)
    }  # fmt: skip


@pytest.mark.parametrize("timed", [False, True], ids=["quality", "timed"])
def test_a_cluster_gives_the_same_records(tmp_path, engine, timed):
    one, asked, everyone, workloads = parts()
    everyone += [contestant("fails"), Contestant(id="quits", title="q", make="os:_exit")]
    changed = study(task=one.task, preload=one.preload, timed=timed)

    def perform(name, where):
        return execute(
            changed, asked, everyone, workloads, tmp_path / name, repeats=1, engine=where
        )

    here, there = perform("here", "local"), perform("there", engine)
    assert told(there) == told(here)
    assert len(there.records(every=True)) == len(told(here)) == 10 + 2 * timed
    assert there.study["complete"]
    for row in there.records():
        assert all((there.folder / path).is_file() for path in row["artifacts"].values())
    blocks = [(row["workload"], row["block"]) for row in there.records()]
    if timed:
        # A block comes as a whole.
        assert len(set(blocks)) == sum(a != b for a, b in itertools.pairwise(blocks)) + 1


def guests(name, count, **params):
    return [
        Contestant(id=f"{name}{i}", title=name, make=f"{JOBS}:{name}", params=params)
        for i in range(count)
    ]


def good(store, count):
    rows = store.records(every=True)
    assert [row["message"] for row in rows if row["status"] != "ok"] == []
    assert len(rows) == len({row["key"] for row in rows}) == count
    return True


def test_quality_only_runs_go_to_all_workers_at_once(tmp_path, engine):
    both = guests("meets", 2, place=str(tmp_path / "met"), others=2)
    assert good(
        execute(study(timed=False), request_(), both, [workload("w")], tmp_path / "s", repeats=2,
                engine=engine), 4)  # fmt: skip


def test_timed_runs_are_alone_on_their_machine(tmp_path, engine):
    both = guests("alone", 2, place=str(tmp_path / "busy"))
    inputs = [workload("w"), workload("v"), workload("u")]
    assert good(
        execute(study(timed=True), request_(), both, inputs, tmp_path / "s", repeats=1,
                engine=engine), 9)  # fmt: skip


@pytest.mark.parametrize("timed", [False, True], ids=["quality", "timed"])
def test_the_runs_of_a_killed_worker_are_repeated(tmp_path, engine, timed):
    begun = tmp_path / "begun"
    everyone = [*guests("kills_its_worker", 1, place=str(begun)), contestant("mean")]
    asked = study(timed=timed, reference="mean")
    assert good(
        execute(asked, request_(), everyone, [workload("w")], tmp_path / "s", repeats=1,
                engine=engine), 2 + timed)  # fmt: skip
    assert len(begun.read_text().splitlines()) == 2


def tickets(contestants):
    one, asked = study(timed=False), request_()
    plan = Plan(one, asked, contestants, [workload("w")], "", 60.0, 0)
    block = plan.block("w", 0)
    return [
        Ticket(
            job=Job(
                key=plan.key(c.id, block), task=one.task, contestant=c, workload=workload("w"),
                block=block, threads=1,
            ),
            limit=60.0,
        )
        for c in contestants
    ]  # fmt: skip


def marked(token):
    """Number of a study's processes to that of its parent; runs are children of fork servers."""
    mark, found = f"PARAGONE_LAB={token}.".encode(), {}
    for place in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in place.read_bytes():
                stat = place.with_name("stat").read_text()
                found[place.parent.name] = stat.rpartition(")")[2].split()[1]
    return found


def running(token):
    found = marked(token)
    return [pid for pid, parent in found.items() if parent in found]


def vanishes(count):
    for _ in range(3000):
        if not count():
            return True
        time.sleep(0.01)
    return False


def test_what_runs_is_ended_when_nobody_waits_for_it(engine):
    slow = [contestant("mean"), *(contestant("slow", id=i, params={"pause": 300}) for i in "ab")]
    token = new_token()
    setting = Setting(threads=1, preload=(), device="cpu", token=token)
    place = ClusterEngine(setting, find_cluster(engine, 1), timed=False)
    answers = place.run(tickets(slow), lambda ticket: None)
    ticket, outcome = next(answers)
    assert (ticket.job.contestant.id, outcome.status) == ("mean", "ok")
    answers.close()
    assert vanishes(lambda: running(token))
    place.close()


def test_a_fork_server_without_work_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "IDLE", 0.3)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    token = new_token()
    setting = Setting(threads=1, preload=(), device="cpu", token=token)
    done = perform_there(tickets([contestant("mean")]), setting, True)
    assert [outcome.status for _, outcome in done] == ["ok"]
    assert vanishes(lambda: marked(token))
    assert vanishes(lambda: list(tmp_path.glob("paragone-worker-*")))


def test_workers_of_another_version_are_refused():
    setting = Setting(threads=1, preload=(), device="cpu", token="t", version="0.0.0")
    with pytest.raises(UsageError, match="install one version on all machines"):
        perform_there([], setting, False)


def test_another_version_on_the_workers_is_told_here(engine):
    setting = Setting(threads=1, preload=(), device="cpu", token="t", version="0.0.0")
    cluster = find_cluster(engine, 1)
    with cluster, pytest.raises(UsageError, match=r"0\.0\.0 asks it for runs"):
        list(cluster.perform([tickets([contestant("mean")])], setting, False))


def test_names_of_engines():
    found = [find_cluster(name, 2) for name in ("dask:tcp://a:1", "dask://a:1", "dask")]
    assert [c.address for c in found] == ["tcp://a:1", "a:1", ""]
    assert all(isinstance(c, DaskCluster) and c.threads == 2 for c in found)
    assert find_cluster("local", 1) is None
    with pytest.raises(UsageError, match="local, dask, dask:ADDRESS, ray or ray:ADDRESS"):
        find_cluster("spark", 1)


def test_names_of_ray():
    pytest.importorskip("ray")
    found = [find_cluster(name, 1) for name in ("ray:a:6379", "ray://a:10001", "ray")]
    assert [c.address for c in found] == ["a:6379", "ray://a:10001", ""]
    assert all(isinstance(c, RayCluster) for c in found)


def test_no_scheduler_at_the_address(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(clusters, "PATIENCE", 0.2)
    with pytest.raises(UsageError, match=r"no scheduler at tcp://127\.0\.0\.1:9"):
        execute(study(timed=False), request_(), [contestant("mean")], [workload("w")], tmp_path,
                engine="dask:tcp://127.0.0.1:9")  # fmt: skip


@pytest.mark.parametrize("address", ["ray:127.0.0.1:9", "ray://127.0.0.1:9"])
def test_no_head_at_the_address(monkeypatch, address):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with find_cluster(address, 1) as cluster, pytest.raises(UsageError, match="lets us in"):
        assert cluster.machine


@pytest.mark.parametrize(
    ("engine", "module", "line"),
    [
        ("dask", "distributed", r"pip install 'dask\[distributed\]'"),
        ("ray", "ray", "pip install ray"),
    ],
)
def test_an_engine_that_is_not_installed_names_the_pip_line(monkeypatch, engine, module, line):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=line):
        find_cluster(engine, 1)


def test_folders_of_killed_workers_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    gone = tmp_path / "paragone-worker-4194305-x"
    mine = tmp_path / f"paragone-worker-{os.getpid()}-y"
    gone.mkdir()
    mine.mkdir()
    new = clusters._scratch()
    assert (gone.exists(), mine.exists(), new.is_dir()) == (False, True, True)
