"""The study of all-reduce: its inputs, ranks of a run, contestants, findings, claims, pictures."""

import os
import time

import pytest

from paragone._core.errors import UsageError
from paragone.lab import guests, studies
from paragone.lab.build import bind
from paragone.lab.outcome import Cell, Row, Summary
from paragone.lab.probe import Probe
from paragone.lab.ranks import run_ranks
from paragone.lab.spec import Block, Job, Request
from paragone.lab.studies import _collective_cluster as cluster
from paragone.lab.studies import _collective_findings as findings
from paragone.lab.studies import _collective_pictures as pictures
from paragone.lab.tasks import collective
from paragone.training.collectives import Machine, cost

STUDY = studies.load("collectives")
CONTESTANTS = [c for c in STUDY.contestants(Request()) if guests.installed(c)]


@pytest.mark.parametrize("request_", [
    Request(), Request(quick=True), Request(options={"bench": True})
])  # fmt: skip
def test_inputs_and_measures_are_well_formed(request_):
    found = STUDY.workloads(request_)
    assert len({w.id for w in found}) == len(found)
    assert {w.facts["ranks"] for w in found} >= {2, 4}
    for w in found:
        assert w.axis == {f"bytes on {w.facts['ranks']} ranks": w.facts["bytes"]}
    ids = [c.id for c in STUDY.contestants(request_)]
    assert len(set(ids)) == len(ids)
    assert {STUDY.reference, "all_reduce", "gloo_all_reduce"} <= set(ids)
    for role in {m.role for m in STUDY.measures}:
        assert sum(m.primary for m in STUDY.measures if m.role == role) == 1
    with pytest.raises(UsageError, match="leave it out"):
        STUDY.workloads(Request(data="x.csv"))


def adds(rank, world, meeting, number):
    return rank, world, meeting.startswith("file:///"), number, os.environ["RANK"]


def fails(rank, world, meeting):
    if rank:
        raise ValueError("no good")
    time.sleep(30)


def dies(rank, world, meeting):
    os._exit(9 * rank)


def test_ranks_of_a_run_give_results_or_the_first_error():
    assert run_ranks(2, adds, 5) == [(r, 2, True, 5, str(r)) for r in range(2)]
    for function, words in ((fails, "rank 1 of 2: ValueError: no good|code 1"), (dies, "code 9")):
        start = time.monotonic()
        with pytest.raises(RuntimeError, match=words):
            run_ranks(2, function, timeout=8)
        assert time.monotonic() - start < 20
    with pytest.raises(RuntimeError, match="did not end in time"):
        run_ranks(1, lambda *_: time.sleep(30), timeout=0.2)


def check(rank, world, meeting):
    """Every contestant on the ranks of one run, so that they start once."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    done = []
    for contestant in CONTESTANTS:
        if contestant.needs and world not in contestant.needs["ranks"]:
            continue
        made = bind(contestant)
        made.open()
        x = made.tensor(1000)
        x.copy_(torch.arange(1000.0)).mul_(rank + 1)
        made.reduce(x)
        assert torch.equal(x, torch.arange(1000.0) * (world * (world + 1) / 2)), contestant.id
        dist.barrier()
        made.close()
        done.append(contestant.id)
    return done


@pytest.mark.peers
def test_every_contestant_reduces():
    done = run_ranks(4, check, timeout=100)
    assert done[0] == [c.id for c in CONTESTANTS]
    assert done.count(done[0]) == 4


def test_a_run_records_times_and_errors(tmp_path):
    workload = next(w for w in STUDY.workloads(Request(quick=True)) if w.facts["ranks"] == 2)
    ring = next(c for c in CONTESTANTS if c.id == "ring")
    job = Job(key="k", task=STUDY.task, contestant=ring, workload=workload,
              block=Block(workload=workload.id, index=0, split=0, seed=0), threads=1, quick=True,
              options={"least_time": 0.01, "most_calls": 5})  # fmt: skip
    probe = Probe(tmp_path)
    collective.run(job, probe)
    assert probe.values["error"] == 0
    assert 3 <= probe.values["calls"] <= 5
    nbytes, call = workload.facts["bytes"], probe.values["call_s"]
    assert probe.values["bus_gbs"] == pytest.approx(nbytes / call / 1e9)
    assert {m.name for m in STUDY.measures} <= set(probe.values)


HERE = Machine(alpha=1e-4, beta=1e-9)


def summary(slow=1.0, shared=20.0):
    """As if this machine were `HERE`; the ring takes `slow` times as long."""
    tables, workloads = {}, STUDY.workloads(Request())
    for w in workloads:
        p, n = w.facts["ranks"], w.facts["bytes"]
        times = {
            name: cost(name, ranks=p, bytes=n, alpha=HERE.alpha, beta=HERE.beta)
            for name in ("ring", "halving_doubling", "naive")
        }
        times["ring"] *= slow
        times["gloo_all_reduce"] = times["naive"]
        times["all_reduce"] = times["naive"] / shared
        tables[w.id] = [
            Row(contestant=name, title=name, origin="paragone",
                cells={"call_s": Cell(value=value)}) for name, value in times.items()
        ]  # fmt: skip
    return Summary(study="collectives", question="?", workloads=workloads, tables=tables)


def test_findings_name_leaders_links_and_the_cluster():
    told = findings.findings(summary())
    text = " ".join(told)
    assert "halving-doubling" in text
    assert "on 3 ranks" in text
    assert "20x at 1 KiB" in text
    assert "100 µs a message and 1 GB/s on 4 ranks" in text
    assert "4,096 simulated ranks" in text


def test_claims_hold_where_they_should_and_fail_where_they_should():
    good = [claim.check(summary()) for claim in STUDY.claims]
    assert [c.verdict for c in good if "Shared" in c.text or "Two numbers" in c.text] == [
        "holds", "holds"]  # fmt: skip
    assert good[0].verdict == "holds"
    bad = [claim.check(summary(slow=2.0, shared=1.5)) for claim in STUDY.claims]
    assert bad[0].verdict == "does not hold"
    assert next(c for c in bad if "Shared" in c.text).verdict == "does not hold"
    empty = Summary(study="collectives", question="?", workloads=[], tables={})
    assert STUDY.claims[0].check(empty).verdict == "not tested"


def test_cluster_and_pictures(tmp_path):
    for ranks in (8, 4096):
        for nbytes in (1 << 10, 1 << 26):
            name = cluster.best(ranks, nbytes)
            times = {a: cluster.seconds(a, ranks, nbytes) for a in cluster.SIMULATED}
            assert times[name] == min(times.values())
    for name, words in (("scaling", "ranks"), ("best", "hierarchical")):
        path = tmp_path / f"{name}.svg"
        getattr(pictures, name)(str(tmp_path), str(path))
        assert words in path.read_text()
