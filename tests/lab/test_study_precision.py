"""The studies of precision: nets, contestants, a run, claims, pictures; casts of equal work."""

import functools

import numpy as np
import pytest
import torch

from paragone._core.errors import UsageError
from paragone.lab import guests, nets, studies
from paragone.lab.build import bind
from paragone.lab.contestants import casters
from paragone.lab.outcome import Cell, Row, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Job, Request
from paragone.lab.studies import _precision_pictures as pictures
from paragone.lab.tasks import precision
from paragone.lab.tasks.sweep import relative_error

STUDY, SPEED = studies.load("precision"), studies.load("cast_speed")
CONTESTANTS = [c for c in STUDY.contestants(Request()) if guests.installed(c)]


@pytest.mark.parametrize("study", [STUDY, SPEED])
@pytest.mark.parametrize("quick", [True, False])
def test_inputs_and_measures_are_well_formed(study, quick):
    found = study.workloads(Request(quick=quick))
    assert len({w.id for w in found}) == len(found) > 1
    ids = [c.id for c in study.contestants(Request())]
    assert len(set(ids)) == len(ids)
    assert study.reference in ids
    for role in {m.role for m in study.measures}:
        assert sum(m.primary for m in study.measures if m.role == role) <= 1


@functools.cache
def inputs(problem):
    return nets.load(problem)


@pytest.mark.parametrize("problem", ["digits", "share", "text", "detail"])
def test_nets_learn_and_are_the_same_for_a_seed(problem):
    x, y, x_judge, _ = inputs(problem)
    assert len(x) > 8 * len(x_judge) > 0
    one, two = (nets.make_model(problem, 4) for _ in range(2))
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    optimizer, losses = torch.optim.AdamW(one.parameters(), 3e-3), []
    for inputs_, targets in nets.batches(problem, x, y, 25, 1):
        loss = nets.loss(problem, one(inputs_), targets)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.mean(losses[-5:]) < 0.97 * losses[0]
    assert -1.0 <= nets.right(problem, one(inputs_), targets) <= 1.0


def job(contestant, problem, steps):
    place = next(w for w in STUDY.workloads(Request()) if w.id == problem)
    return Job(key="", task=STUDY.task, contestant=contestant, workload=place, threads=1,
               block=Block(workload=place.id, index=0, split=0, seed=3),
               options={**STUDY.options, "steps": {problem: steps}})  # fmt: skip


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda c: c.id)
def test_every_contestant_runs(contestant, tmp_path):
    probe = Probe(tmp_path)
    precision.run(job(contestant, "share", 12), probe)
    values = probe.values
    assert {"loss", "right", "skipped", "diverged", "scale", "step_s"} <= set(values)
    assert values["skipped"] <= 0.5
    assert ("underflow" in values) is (contestant.id not in ("fp32", "torch_bf16", "torch_fp16"))
    if contestant.id == "fp8_plain":
        assert values["underflow"] > 0.3
    if contestant.id == "fp16_static":
        assert values["scale"] > 65536.0
    assert probe.curves["loss over steps"]["x"][-1] == 12


def test_a_users_text_and_what_is_wrong_with_it(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("the cat sat on the mat. " * 2000)
    found = STUDY.workloads(Request(data=str(path)))
    assert [w.id for w in found] == ["text"]
    x, y, _, _ = nets.load(**found[0].params)
    assert x.shape[1:] == (nets.CONTEXT,)
    assert y.max() < nets.LETTERS
    with pytest.raises(UsageError, match="no columns"):
        STUDY.workloads(Request(data=str(path), target="x"))
    path.write_text("short")
    with pytest.raises(UsageError, match="5 bytes"):
        STUDY.workloads(Request(data=str(path)))
    with pytest.raises(UsageError, match="no such file"):
        STUDY.workloads(Request(data=str(tmp_path / "none.txt")))
    with pytest.raises(UsageError, match="makes its own"):
        SPEED.workloads(Request(data="x.txt"))


@pytest.mark.peers
@pytest.mark.parametrize("workload", SPEED.workloads(Request(options={"rows": 5000})),
                         ids=lambda w: w.id)  # fmt: skip
def test_all_casts_are_the_right_one(workload):
    x, name = casters.numbers(**workload.params)
    exact = casters.truth(x, name)
    for contestant in SPEED.contestants(Request()):
        if guests.installed(contestant):
            assert relative_error(bind(contestant)(x, name), exact) == 0.0
    assert relative_error(x, exact) > 0.0


def summary(values):
    """A study in which contestants have these numbers on both inputs of a short one."""
    places = STUDY.workloads(Request(quick=True))
    tables = {
        w.id: [
            Row(contestant=name, title=name, origin="", cells={
                measure: Cell(value=value) for measure, value in cells.items()
            })
            for name, cells in values.items()
        ]
        for w in places
    }  # fmt: skip
    return Summary(study="precision", question="?", workloads=places, tables=tables,
                   contestants=STUDY.contestants(Request()))  # fmt: skip


def test_claims_and_findings():
    good = {"fp32": 1.0, "bf16": 1.0, "fp16": 1.01, "fp16_plain": 1.8, "fp16_static": 1.0,
            "fp16_bare": 1.0, "bf16_bare": 1.15, "fp8": 1.02, "fp8_plain": 9.0}  # fmt: skip
    bad = {"fp32": 1.0, "bf16": 1.2, "fp16": 1.2, "fp16_plain": 1.2, "fp16_static": 1.2,
           "fp16_bare": 1.2, "bf16_bare": 1.2, "fp8": 1.2}  # fmt: skip
    more = {"underflow": 0.45, "skipped": 0.0, "scale": 1024.0}
    found = summary({name: {"loss": loss, **more} for name, loss in good.items()})
    assert [claim.check(found).verdict for claim in STUDY.claims] == ["holds"] * 6
    told = STUDY.findings(found)
    assert "yes on share (45.0% of the gradients vanish, loss +80.0%" in told[0]
    assert "bf16 share +15.0%" in told[1]
    assert "not scaled share +800.0%" in told[2]
    found = summary({name: {"loss": loss, **more} for name, loss in bad.items()})
    assert [claim.check(found).verdict for claim in STUDY.claims] == ["does not hold"] * 6
    empty = Summary(study="precision", question="?")
    assert [claim.check(empty).verdict for claim in STUDY.claims] == ["not tested"] * 6
    assert STUDY.findings(empty) == []


@pytest.mark.parametrize("draw", [pictures.exponents, pictures.scales])
def test_pictures_are_drawn(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "STEPS", 2)
    monkeypatch.setattr(pictures, "summarize", lambda folder: summary({}))
    draw("", str(tmp_path / "p.svg"))
    assert (tmp_path / "p.svg").read_text().count('class="curve') >= 2
