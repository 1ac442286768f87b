"""The study of scaling: the law and its fit, the task, the sentence that answers, pictures."""

import json
import math

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from paragone._core.errors import UsageError
from paragone.lab import scaling_law as laws
from paragone.lab import studies
from paragone.lab.contestants.scaling import decoder
from paragone.lab.outcome import Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Request, Workload
from paragone.lab.studies import _scaling_findings as findings
from paragone.lab.studies import _scaling_pictures as pictures
from paragone.lab.tasks import language_scaling as task

STUDY = studies.load("scaling")

pytestmark = pytest.mark.usefixtures("preloaded")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(findings, "_DRAWS", 24)


def grid(law, noise=0.0, seeds=3, sizes=(3e3, 9e3, 3e4, 9e4, 3e5), computes=(1e10, 1e11, 1e12)):
    rng = np.random.default_rng(0)
    n, c = (part.ravel() for part in np.meshgrid(sizes, computes))
    n, c = np.repeat(n, seeds), np.repeat(c, seeds)
    d = c / 6 / n
    return laws.Runs(n, d, c, law.loss(n, d) * np.exp(noise * rng.standard_normal(len(n))))


@pytest.mark.parametrize("exponents", [(0.34, 0.28), (0.5, 0.25), (0.25, 0.5)])
def test_the_fit_finds_a_law_that_is_there(exponents):
    alpha, beta = exponents
    true = laws.Law(1.2, 3.0 * 1e4**alpha / 8, alpha, 3.0 * 1e6**beta / 8, beta)
    found = laws.fit_law(grid(true))
    assert found.share == pytest.approx(true.share, abs=2e-3)
    assert found.e == pytest.approx(true.e, rel=0.02)
    assert found.best(1e11)[0] == pytest.approx(true.best(1e11)[0], rel=0.03)


def test_the_best_split_is_the_least_of_its_line():
    law = laws.Law(1.0, 30.0, 0.4, 200.0, 0.5)
    n, d = law.best(1e11)
    assert 6 * n * d == pytest.approx(1e11)
    line = np.geomspace(n / 10, n * 10, 1001)
    assert line[law.loss(line, 1e11 / 6 / line).argmin()] == pytest.approx(n, rel=0.01)
    further = law.best(1e12)[0]
    assert math.log10(further / n) == pytest.approx(law.share)


def test_bottoms_intervals_and_too_few_runs():
    law = laws.Law(1.0, 30.0, 0.4, 200.0, 0.5)
    runs = grid(law, 0.003)
    assert laws.slope(runs) == pytest.approx(law.share, abs=0.12)
    drawn = laws.bootstrap(runs, lambda some: laws.fit_law(some, ((0.4, 0.5, 0.5),)).share, 40)
    low, high = laws.interval(drawn)
    assert low < law.share < high
    assert laws.minimum(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])) is None
    assert laws.interval([0.5] * 5) is None
    with pytest.raises(ValueError, match="five runs or more"):
        laws.fit_law(runs.take(np.arange(3)))


def test_operations_are_counted_as_torch_counts_them():
    model = decoder(50, 32, 2)
    ids = torch.zeros(3, task.TIME, dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    with counter:
        task.scores(model, ids).sum().backward()
    told = task.counted(model, ids.numel())
    weights = sum(p.numel() for p in model.parameters())
    assert 0.9 < told / (6 * weights * ids.numel()) < 2
    # torch counts whole squares of attention, of which a causal one needs half, or none at all.
    pairs = 12.0 * 2 * 32 * ids.numel()
    matrices = told - pairs * (task.TIME + 1) / 2
    assert matrices <= counter.get_total_flops() * 1.001
    assert counter.get_total_flops() <= matrices + pairs * task.TIME * 1.2


def test_a_text_is_cut_into_parts_that_do_not_touch(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(97, 117)) * 8000)
    text = task.load(str(path))
    assert text.symbols == 21
    assert len(text.train) + len(text.valid) + len(text.test) == 160_000
    assert text.windows("test", 5).shape == (5, task.TIME + 1)
    path.write_bytes(b"short")
    with pytest.raises(UsageError, match="needs 100,000"):
        STUDY.workloads(Request(data=str(path)))
    with pytest.raises(UsageError, match="no text"):
        STUDY.workloads(Request(data=str(tmp_path / "none")))
    with pytest.raises(UsageError, match="--target"):
        STUDY.workloads(Request(target="x"))


@pytest.mark.parametrize("quick", [True, False])
def test_every_line_has_sizes_about_it(quick):
    places = STUDY.workloads(Request(quick=quick))
    assert [w.counts for w in places] == [False] * (len(places) - 1) + [True]
    for place in places:
        crew = [c for c in STUDY.contestants(Request())
                if place.facts["line"] in c.needs["line"]]  # fmt: skip
        assert len(crew) >= 4
        assert STUDY.reference in [c.id for c in crew] or not quick


def job(folder, factors, make="paragone.lab.contestants.scaling:decoder", **params):
    contestant = Contestant(id="w", title="w", make=make, params=params)
    workload = Workload(
        id="c", title="c", load="paragone.lab.tasks.language_scaling:load",
        facts={"line": "a", "compute": 2e8, "factors": factors},
    )  # fmt: skip
    return Job(key="k", task=STUDY.task, contestant=contestant, workload=workload, threads=1,
               block=Block(workload="c", index=0, split=0, seed=1), folder=str(folder))  # fmt: skip


def test_a_run_spends_its_compute_and_learns(tmp_path):
    probe = Probe(tmp_path)
    task.run(job(tmp_path, [0.5, 1.0], width=8, layers=1), probe)
    values = probe.values
    assert values["compute"] == pytest.approx(2e8, rel=0.02)
    assert values["loss"] < 4.2
    assert values["edge"] == 1.0
    assert np.load(tmp_path / "example_loss.npy").mean() == pytest.approx(values["loss"])
    json.dumps({"values": values, "curves": probe.curves}, allow_nan=False)


def records(runs):
    return [
        {"contestant": "w16", "workload": f"c{c:.0e}", "block": 0, "status": "ok",
         "values": {"parameters": n, "tokens": d, "loss": loss, "train_cpu_s": n / 1e3,
                    "compute": c, "counted": 1.05 * c, "epochs": 0.5}}
        for n, d, c, loss in zip(runs.n, runs.d, runs.c, runs.loss, strict=True)
    ]  # fmt: skip


def summary(law, noise=0.002):
    runs = grid(law, noise)
    places = [Workload(id=f"c{c:.0e}", title="t", load="", facts={"compute": c})
              for c in np.unique(runs.c)]  # fmt: skip
    return Summary(study="scaling", question="?", workloads=places, records=records(runs),
                   contestants=STUDY.contestants(Request()))  # fmt: skip


def test_the_answer_is_data_parameters_or_undecided():
    data = summary(laws.Law(1.0, 3e3, 0.9, 60.0, 0.3))
    assert findings.answer(data).startswith("For the same compute data help more")
    more = summary(laws.Law(1.0, 6.0, 0.25, 6e4, 0.9))
    assert findings.answer(more).startswith("For the same compute parameters help more")
    alike = summary(laws.Law(1.0, 30.0, 0.4, 100.0, 0.4), 0.02)
    assert findings.answer(alike).startswith("Undecided")
    few = Summary(study="scaling", question="?")
    assert findings.answer(few).startswith("Undecided: 0 runs")
    assert findings.findings(few) == []


def test_claims_and_findings():
    told = summary(laws.Law(1.0, 30.0, 0.4, 100.0, 0.4))
    verdicts = [claim.check(told).verdict for claim in STUDY.claims]
    assert verdicts[0] == "holds"
    assert verdicts[1] == "does not hold"
    assert verdicts[3:] == ["holds", "holds"]
    text = " ".join(findings.findings(told))
    for words in ("had the least loss", "The law of 45 runs", "foretells", "were not tuned"):
        assert words in text
    empty = Summary(study="scaling", question="?")
    assert [claim.check(empty).verdict for claim in STUDY.claims] == ["not tested"] * 5


def test_pictures_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(
        pictures, "summarize", lambda folder: summary(laws.Law(1.0, 30.0, 0.4, 100.0, 0.4))
    )
    for draw in (pictures.lines, pictures.front, pictures.plane):
        draw("", str(tmp_path / "p.svg"))
        assert 'class="curve' in (tmp_path / "p.svg").read_text()
    monkeypatch.setattr(pictures, "summarize", lambda folder: Summary(study="s", question="?"))
    with pytest.raises(SystemExit, match="nothing to draw"):
        pictures.lines("", str(tmp_path / "q.svg"))
