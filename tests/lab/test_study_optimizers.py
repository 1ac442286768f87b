"""The study of optimizers: problems, the task and its search, contestants, claims, pictures."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch

from paragone._core.errors import UsageError
from paragone.lab import guests, problems, studies
from paragone.lab.outcome import Cell, Difference, Row, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Request, Workload
from paragone.lab.studies import _optimizers_findings as findings
from paragone.lab.studies import _optimizers_pictures as pictures
from paragone.lab.tasks import training

STUDY = studies.load("optimizers")
CONTESTANTS = [c for c in STUDY.contestants(Request()) if guests.installed(c)]


pytestmark = pytest.mark.usefixtures("preloaded")


def job(contestant, kind="digits", tmp_path="", seed=0, **facts):
    workload = Workload(
        id="w", title="w", load="paragone.lab.problems:load", params={"kind": kind},
        facts={"steps": 8, "trials": 2, **facts},
    )  # fmt: skip
    return Job(
        key="k", task=STUDY.task, contestant=contestant, workload=workload,
        block=Block(workload="w", index=0, split=0, seed=seed), threads=1, folder=str(tmp_path),
    )  # fmt: skip


@pytest.mark.parametrize("quick", [True, False])
def test_inputs_and_measures_are_well_formed(quick):
    found = STUDY.workloads(Request(quick=quick))
    assert [w.id for w in found] == ["digits", "text", "photographs"][: 2 if quick else 3]
    assert all("loss" in w.measures and w.facts["threads"] == 1 for w in found)
    for role in ("quality", "time", "memory", "count"):
        assert sum(m.primary for m in STUDY.measures if m.role == role) == 1
    ids = [c.id for c in STUDY.contestants(Request())]
    assert len(set(ids)) == len(ids)
    assert STUDY.reference in ids
    with pytest.raises(UsageError, match="--target"):
        STUDY.workloads(Request(target="x"))


@pytest.mark.parametrize("kind", ["digits", "text", "photographs"])
def test_problems_hold_out_what_they_judge_by(kind):
    for number in (0, 4):
        found = problems.load(kind, number)
        parts = [set(rows.tolist()) for rows in found.parts.values()]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts)) <= len(found.x)
        model = found.model(3)
        twin = found.model(3)
        assert all(map(torch.equal, model.parameters(), twin.parameters()))
        x, y = next(found.batches(5, 1, ("train", "valid")))
        again = next(found.batches(5, 1, ("train", "valid")))
        assert torch.equal(x, again[0])
        assert torch.equal(y, again[1])
        loss = float(found.loss(model, x, y).detach())
        if found.classes:
            assert 0.5 * math.log(found.classes) < loss < 3 * math.log(found.classes)
    told = found.judge(model, "test")
    assert ("accuracy" in told) == bool(found.classes)
    assert found.judge(model, "test", 30)["loss"] == pytest.approx(told["loss"], rel=0.3)


def test_characters_do_not_see_what_comes():
    found = problems.load("text")
    model, x = found.model(0), found.x[:2].clone()
    before = model(x)
    x[:, 40:] = 0
    after = model(x)
    torch.testing.assert_close(before[:, :40], after[:, :40])
    assert not torch.allclose(before[:, 41:], after[:, 41:])
    stretches = found.parts["test"]
    assert np.ptp(stretches) < len(found.x) / 9, "whole stretches are held out"


def test_a_users_table_and_text(tmp_path):
    rng = np.random.default_rng(0)
    table = tmp_path / "mine.csv"
    rows = [f"{a:.3f},{'xyz'[i % 3]},{'' if i % 7 == 0 else i % 5},{a + (i % 3):.3f}"
            for i, a in enumerate(rng.normal(size=200))]  # fmt: skip
    table.write_text("a,b,c,y\n" + "\n".join(rows))
    request = Request(data=str(table), target="y", cache=str(tmp_path / "c"), quick=True)
    (found,) = STUDY.workloads(request)
    assert "accuracy" not in found.measures
    made = problems.load(split=1, **found.params)
    assert made.x.shape == (200, 6)  # a; x, y, z; c and whether it is missing
    assert torch.isfinite(made.x).all()
    assert abs(float(made.y[torch.from_numpy(made.parts["train"])].mean())) < 1e-5
    text = tmp_path / "mine.txt"
    text.write_text("to be or not to be, that is the question. " * 600)
    (found,) = STUDY.workloads(Request(data=str(text), cache=str(tmp_path)))
    assert problems.load(**found.params).classes == len(set(text.read_text()))
    with pytest.raises(UsageError, match="no column 'y'"):
        STUDY.workloads(Request(data=str(text), target="y"))
    text.write_text("short")
    with pytest.raises(UsageError, match="5 characters"):
        STUDY.workloads(Request(data=str(text)))
    with pytest.raises(UsageError, match="no text"):
        STUDY.workloads(Request(data=str(tmp_path / "nothing.txt")))


@pytest.mark.parametrize("at", [-4.0, -2.6, -2.5, -2.4, -1.3, 0.2])
def test_the_search_finds_a_valley_and_tries_as_often_as_told(at):
    seen = []

    def valley(rate):
        seen.append(rate)
        return abs(math.log10(rate) - at)

    tried = training.search(valley, 1e-4, 1e-1, 9)
    assert list(tried) == pytest.approx(seen)
    assert len(seen) == 9
    assert seen[0] == pytest.approx(10**-2.5)
    assert min(tried.values()) < 0.13
    flat = training.search(lambda rate: 1.0, 1e-4, 1e-1, 7)
    assert len(flat) == 7
    cliff = training.search(lambda rate: math.inf if rate > 1e-3 else 1.0, 1e-4, 1e-1, 6)
    assert min(cliff, key=cliff.get) <= 1e-3


def test_the_rate_rises_and_falls_to_zero():
    shares = [training.factor(t, 100, False) for t in range(1, 101)]
    assert shares[0] == 0.1
    assert max(shares) == shares[9] == 1.0
    assert shares[-1] < 1e-3
    assert all(b < a for a, b in itertools.pairwise(shares[9:]))
    assert [training.factor(t, 100, True) for t in (5, 10, 100)] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=[c.id for c in CONTESTANTS])
def test_every_contestant_learns_and_records(contestant, tmp_path):
    probe = Probe(tmp_path)
    training.run(job(contestant, tmp_path=tmp_path, steps=24, decay_probe=True), probe)
    values, curves = probe.values, probe.curves
    assert values["loss"] < 2.3
    assert values["trials"] == 2
    assert {"accuracy", "loss_half", "loss_quarter", "rate", "train_s", "optimizer_s"} <= set(
        values
    )
    size = sum(p.numel() for p in problems.load("digits").model(0).parameters())
    assert values["state_bytes"] == pytest.approx(values["state_per"] * size)
    bounds = {"adafactor": (0.05, 0.2), "adamw_8bit": (2.0, 2.5), "lion": (4, 4), "muon": (4, 5),
              "lion_pytorch": (4, 4), "sgd": (4, 4)}  # fmt: skip
    low, high = bounds.get(contestant.id, (8, 8))
    assert low - 1e-3 <= values["state_per"] <= high + 1e-3
    assert len(curves["loss over steps"]["x"]) == training.MARKS
    assert curves["loss over steps"]["x"][-1] == 24
    assert curves["loss over budget"]["x"] == [6, 12, 24]
    assert len(curves["kept by gradient"]["y"]) == training.SHARES
    json.dumps({"values": values, "curves": curves}, allow_nan=False)


def test_a_run_that_diverges_is_told_and_a_guest_is_a_class(tmp_path):
    wild = Contestant(
        id="wild", title="wild", make="torch.optim:SGD", origin="guest",
        space={"lr": {"low": 1e12, "high": 1e14}},
    )  # fmt: skip
    probe = Probe(tmp_path)
    training.run(job(wild, tmp_path=tmp_path), probe)
    assert probe.values["diverged"] == 1.0
    assert probe.values["loss"] == pytest.approx(2 * 2.3, rel=0.1)
    training.one_call(job(wild))()()


def test_equal_contestants_get_equal_work(tmp_path):
    ours = next(c for c in CONTESTANTS if c.id == "sgd")
    theirs = Contestant(id="torch_sgd", title="torch", make="torch.optim:SGD", params=ours.params,
                        space=ours.space)  # fmt: skip
    a, b = Probe(tmp_path), Probe(tmp_path)
    training.run(job(ours), a)
    training.run(job(theirs), b)
    assert a.digests == b.digests
    for name in ("loss", "loss_half", "rate", "valid", "state_bytes"):
        assert a.values[name] == b.values[name], "SGD is PyTorch's bit for bit"


def test_gains_in_steps():
    slow = (2.0, 1.0, 0.5)
    assert findings.gain(slow, slow) == pytest.approx(1.0)
    assert findings.gain((1.0, 0.5, 0.25), slow) == pytest.approx(2.0)
    assert findings.gain((0.1, 0.1, 0.1), slow) == 4.0
    assert findings.gain(slow, (1.0, 0.5, 0.25)) == pytest.approx(0.5)
    assert findings.gain((3.0, 3.0, 3.0), slow) == 0.25


def record(name, losses, place="digits", block=0, curve=(), edge=0.0, state=8.0):
    values = dict(zip(("loss_quarter", "loss_half", "loss"), losses, strict=True))
    curves = {"loss over steps": {"x": list(range(len(curve))), "y": list(curve)}} if curve else {}
    return {"contestant": name, "workload": place, "block": block, "status": "ok",
            "values": {**values, "edge": edge, "state_per": state}, "curves": curves}  # fmt: skip


def summary(records, curves=(), word="same"):
    contestants = STUDY.contestants(Request())
    return Summary(
        study="optimizers", question="?", workloads=STUDY.workloads(Request(quick=True)),
        contestants=contestants, records=records, curves=curves,
        differences=[Difference(a="adamw_8bit", b="adamw", measure="loss", workload="digits",
                                word=word)],
        tables={"digits": [Row(contestant="adamw", title="AdamW", origin="paragone",
                               cells={"loss": Cell(value=1.0)})]},
    )  # fmt: skip


def test_claims_and_findings():
    told = summary(
        [
            record("adamw", (2.0, 1.0, 0.5), curve=(4.0, 3.0, 2.0, 0.5)),
            record("muon", (1.6, 0.8, 0.4), curve=(3.0, 2.5, 1.9, 0.4)),
            record("schedule_free", (2.0, 1.0, 0.5), curve=(2.0, 1.0, 0.9, 0.6)),
            record("adafactor", (2.0, 1.0, 0.55), state=0.2, edge=1.0),
        ],
        [
            ("adam", "digits", "kept by gradient", (0.5, 1.0), (0.2, 0.8)),
            ("adamw", "digits", "kept by gradient", (0.5, 1.0), (0.8, 0.8)),
            ("adamw", "digits", "valid over rate", (1e-3, 3.16e-3, 1e-2), (0.6, 0.5, 0.75)),
            ("muon", "digits", "valid over rate", (1e-3, 3.16e-3, 1e-2), (0.45, 0.4, 0.44)),
        ],
    )
    told = dataclasses.replace(told, workloads=[
        Workload(id="digits", title="d", load="", primary="loss")
    ])  # fmt: skip
    verdicts = [claim.check(told).verdict for claim in STUDY.claims]
    assert verdicts == ["holds"] * 6
    texts = STUDY.findings(told)
    assert texts[0].startswith("Gain in steps over AdamW")
    assert "Muon 1.2x" in texts[0] or "Muon 1.3x" in texts[0]
    assert "Muon 12%" in texts[1]
    assert "AdamW 50%" in texts[1]
    assert texts[2].startswith("More trials might help Adafactor")


def test_claims_that_do_not_hold_and_nothing_measured():
    told = summary(
        [
            record("adamw", (2.0, 1.0, 0.5), curve=(4.0, 3.0, 2.0, 0.5)),
            record("muon", (0.4, 0.2, 0.1), curve=(3.0, 2.0, 1.0, 0.1)),
            record("schedule_free", (4.0, 3.0, 2.0), curve=(5.0, 5.0, 4.0, 2.0)),
            record("adafactor", (2.0, 1.0, 0.5), state=8.0),
        ],
        [
            ("adam", "digits", "kept by gradient", (0.5, 1.0), (0.8, 0.2)),
            ("adamw", "digits", "kept by gradient", (0.5, 1.0), (0.8, 0.8)),
        ],
    )
    verdicts = [claim.check(told).verdict for claim in STUDY.claims]
    assert verdicts[:3] == ["does not hold"] * 3
    assert verdicts[4:] == ["does not hold"] * 2
    empty = Summary(study="optimizers", question="?")
    assert [claim.check(empty).verdict for claim in STUDY.claims] == ["not tested"] * 6
    assert STUDY.findings(empty) == []


def test_pictures_are_drawn(tmp_path, monkeypatch):
    drawn = [
        (who, place, name, xs, [y * scale for y in ys])
        for who, scale in (("adamw", 1.0), ("adam", 1.2), ("muon", 0.9))
        for place in ("digits", "text")
        for name, xs, ys in (
            ("loss over steps", [10.0, 20.0, 30.0], [3.0, 2.0, 1.0]),
            ("valid over rate", [1e-3, 3.1623e-3, 1e-2], [2.0, 1.0, 1.5]),
            ("kept by gradient", [0.25, 0.5, 1.0], [0.2, 0.5, 0.8]),
        )
    ]
    monkeypatch.setattr(pictures, "summarize", lambda folder: summary([], drawn))
    for draw in (pictures.curves, pictures.rates, pictures.decay):
        draw("", str(tmp_path / "p.svg"))
        assert (tmp_path / "p.svg").read_text().count('class="curve') >= 3
    monkeypatch.setattr(pictures, "summarize", lambda folder: summary([], []))
    with pytest.raises(SystemExit, match="nothing to draw"):
        pictures.curves("", str(tmp_path / "q.svg"))
