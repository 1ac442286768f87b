"""The study of workers: equal answers of every pool, claims, findings, pictures; and its speed."""

import multiprocessing

import numpy as np
import pytest

from paragone._core.errors import UsageError
from paragone.lab import chores, feeds, guests, studies
from paragone.lab.build import build, load_inputs
from paragone.lab.contestants.poolers import Serial
from paragone.lab.outcome import Cell, Row, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Job, Request
from paragone.lab.studies import _workers_findings as findings
from paragone.lab.studies import _workers_pictures as pictures
from paragone.lab.tasks import sweep, workers

STUDY, SPEED = studies.load("workers"), studies.load("runtime_speed")
CONTESTANTS = [c for c in STUDY.contestants(Request()) if guests.installed(c)]
FAST = [c for c in SPEED.contestants(Request()) if guests.installed(c)]

multiprocessing.set_forkserver_preload(["numpy"])


@pytest.mark.parametrize("study", [STUDY, SPEED])
@pytest.mark.parametrize("quick", [True, False])
def test_inputs_and_measures_are_well_formed(study, quick):
    found = study.workloads(Request(quick=quick, threads=2))
    assert len({w.id for w in found}) == len(found)
    ids = [c.id for c in study.contestants(Request())]
    assert len(set(ids)) == len(ids)
    assert study.reference in ids
    for role in {m.role for m in study.measures}:
        assert sum(m.primary for m in study.measures if m.role == role) <= 1
    with pytest.raises(UsageError, match="leave it out"):
        study.workloads(Request(data="x.csv"))


def test_workers_are_swept_where_time_allows():
    swept = {w.id: w.axis["workers"] for w in STUDY.workloads(Request(threads=2)) if w.axis}
    assert swept == {"python_2": 2, "numba_2": 2, "python_1": 1, "python_4": 4, "numba_1": 1,
                     "numba_4": 4}  # fmt: skip
    assert STUDY.workloads(Request(quick=True))[2].facts["workers"] == 8


@pytest.mark.parametrize("name", sorted(chores.CHORES))
def test_chores_give_the_same_again(name, monkeypatch):
    monkeypatch.setattr(chores, "_SECONDS", 0.001)
    setting, items = chores.load(name, 2, 1, megabytes=1)
    work, alone = chores.chore(setting["work"]), Serial(3)
    way = alone.rows if name == "rows" else alone.map
    first = way(work, items)
    assert np.array_equal(first, way(work, items))
    assert len(first) == (250 if name == "rows" else 2)
    assert isinstance(chores.spin(10, 3), int)


QUICK = [c for c in CONTESTANTS if c.id not in ("joblib", "process_spawn", "process_fork")]


@pytest.mark.parametrize("contestant", QUICK, ids=lambda c: c.id)
def test_every_pool_gives_the_answers_of_none(contestant):
    pool = build(contestant, workers=2)
    rows = np.random.default_rng(0).random((41, 6), dtype=np.float32)
    pool.open()
    try:
        assert pool.map(chores.empty, [3, 1, 2]) == [3, 1, 2]
        assert pool.call(chores.empty, 5) == 5
        assert np.array_equal(pool.rows(chores.rows, rows), chores.rows(rows))
    finally:
        pool.close()


def job(study, contestant, workload, **options):
    return Job(
        key="", task=study.task, contestant=contestant, workload=workload, threads=2, quick=True,
        block=Block(workload=workload.id, index=0, split=0, seed=0), options=options,
    )  # fmt: skip


def test_a_run_records_its_measures():
    workload = STUDY.workloads(Request(quick=True))[2]
    probe = Probe()
    contestant = next(c for c in CONTESTANTS if c.id == "thread_pool")
    workers.run(job(STUDY, contestant, workload, turns=1, trips=5, burst=20), probe)
    for measure in STUDY.measures:
        assert measure.name in probe.values
    assert probe.values["speedup"] == probe.values["serial_s"] / probe.values["work_s"]


def test_a_pool_with_other_answers_is_refused(monkeypatch):
    contestant = next(c for c in CONTESTANTS if c.id == "serial")
    count = iter(range(100))
    monkeypatch.setitem(chores.CHORES, "python", lambda x: next(count))
    with pytest.raises(ValueError, match="not those of one after the other"):
        workers.run(job(STUDY, contestant, STUDY.workloads(Request(quick=True))[0]), Probe())


@pytest.mark.parametrize("contestant", FAST, ids=lambda c: c.id)
def test_the_study_of_speed_asks_for_the_same(contestant):
    for part in contestant.needs.get("part", ["rows", "crops_at_once", "threads"]):
        if part not in ("rows", "crops_at_once", "threads") or contestant.id == "loader_processes":
            continue
        data, setting = feeds.load(part, 70)
        call = build(contestant, **({"workers": 0} if part != "threads" else {}))
        if part == "threads":
            call = build(contestant)
        found = call(data, setting)
        assert sweep.relative_error(found, feeds.truth(data, setting)) < 1e-6
        assert np.array_equal(call(data, setting), found)
        getattr(call, "end", list)()


def test_crops_by_numpy_and_by_the_kernel_agree():
    data, setting = feeds.load("crops", 5)
    plain, whole = (feeds.dataset(part, data) for part in ("crops", "crops_at_once"))
    assert np.allclose(np.stack([plain[i] for i in range(5)]), whole.__getitems__(list(range(5))),
                       rtol=1e-5, atol=1e-5)  # fmt: skip
    workload = SPEED.workloads(Request())[0]
    assert load_inputs(job(SPEED, FAST[0], workload))[1] == {"part": "rows"}
    assert setting == {"part": "crops"}


def summary(numbers, kinds=("python", "numpy", "wait")):
    """A study in which both pools have these numbers by kind of work."""
    places = [w for w in STUDY.workloads(Request(quick=True, threads=2))
              if w.facts["work"] in kinds]  # fmt: skip
    tables = {
        w.id: [
            Row(contestant=name, title=name, origin="paragone", cells={
                "speedup": Cell(value=gains[w.facts["work"]]), "create_s": Cell(value=create),
                "trip_s": Cell(value=2e-5), "worker_ram": Cell(value=ram),
            })
            for name, (gains, create, ram) in numbers.items()
        ]
        for w in places
    }  # fmt: skip
    return Summary(study="workers", question="?", workloads=places, tables=tables,
                   contestants=STUDY.contestants(Request()))  # fmt: skip


TEXTBOOK = {
    "thread_pool": ({"python": 1.0, "numpy": 1.9, "wait": 7.6}, 1e-4, 1e5),
    "process_pool": ({"python": 1.9, "numpy": 1.8, "wait": 7.0}, 2e-2, 2e7),
}
ODD = {
    "thread_pool": ({"python": 1.8, "numpy": 1.0, "wait": 2.0}, 1e-2, 1e7),
    "process_pool": ({"python": 1.0, "numpy": 1.8, "wait": 2.0}, 2e-2, 1e7),
}


def test_claims_and_findings_of_the_textbook():
    found = summary(TEXTBOOK)
    assert [claim.check(found).verdict for claim in STUDY.claims] == ["holds"] * 5
    answer, prices, pays = STUDY.findings(found)
    assert "threads for NumPy (1.9x by threads, 1.8x by processes) and Waiting" in answer
    assert "processes for Pure Python (1.0x by threads, 1.9x by processes)" in answer
    assert prices.startswith("A thread takes 100 µs to create")
    assert "20 MB of memory" in prices
    # 2 workers of 20 ms at a speedup of 1.9: 0.04 / (1 - 1 / 1.9) s; share (1 - 1/1.9) / (1/2).
    assert "longer than 84.4 ms alone; of it 95% ran at once" in pays


def test_claims_that_do_not_hold_are_shown_as_such():
    found = summary(ODD)
    assert [claim.check(found).verdict for claim in STUDY.claims] == ["does not hold"] * 5
    assert len(STUDY.findings(found)) == 2
    empty = Summary(study="workers", question="?")
    assert [claim.check(empty).verdict for claim in STUDY.claims] == ["not tested"] * 5
    assert STUDY.findings(empty) == []
    flat = summary({n: ({"python": 1.0}, 1e-4, 1e5) for n in TEXTBOOK}, kinds=("python",))
    assert "neither for Pure Python" in findings.findings(flat)[0]


def test_pictures_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "summarize", lambda folder: summary(TEXTBOOK))
    for draw, marks in ((pictures.speedups, 6), (pictures.prices, 2)):
        draw("", str(tmp_path / "p.svg"))
        assert (tmp_path / "p.svg").read_text().count("<text") >= marks
    monkeypatch.setattr(pictures, "summarize", lambda folder: Summary(study="w", question="?"))
    for draw in (pictures.speedups, pictures.prices):
        with pytest.raises(SystemExit, match="nothing to draw"):
            draw("", str(tmp_path / "q.svg"))
    monkeypatch.setattr(pictures, "STEPS", (100, 1000))
    monkeypatch.setattr(pictures, "POOLS", pictures.POOLS[:2])
    monkeypatch.setattr(pictures, "TURNS", 1)
    pictures.lengths("", str(tmp_path / "r.svg"))
    assert (tmp_path / "r.svg").read_text().count('class="curve') >= 2
