"""The study of multi-token training: equal budgets, what is judged, the sentence that answers."""

import json

import numpy as np
import pytest
import torch

from paragone._core.errors import UsageError
from paragone.lab import studies
from paragone.lab.outcome import Difference, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Request, Workload
from paragone.lab.studies import _multi_token_findings as findings
from paragone.lab.studies import _multi_token_pictures as pictures
from paragone.lab.tasks import multi_token_training as task

STUDY = studies.load("multi_token_training")
HERE = "paragone.lab.contestants.multi_token:"

pytestmark = pytest.mark.usefixtures("preloaded")


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("the cat sat on the mat, and the dog on the log. " * 3000)
    return path


def job(folder, book, make="next_token", budget="tokens", tokens=8192, **params):
    contestant = Contestant(id="w", title="w", make=HERE + make, params=params)
    workload = Workload(
        id="t", title="t", load="paragone.lab.tasks.language_scaling:load",
        params={"path": str(book)},
        facts={"size": "small", "budget": budget, "width": 16, "layers": 1, "tokens": tokens},
    )  # fmt: skip
    return Job(key="k", task=STUDY.task, contestant=contestant, workload=workload, threads=1,
               block=Block(workload="t", index=0, split=0, seed=1), folder=str(folder))  # fmt: skip


def run(tmp_path, *args, **params):
    probe = Probe(tmp_path)
    task.run(job(tmp_path, *args, **params), probe)
    json.dumps({"values": probe.values, "curves": probe.curves}, allow_nan=False)
    return probe


def test_plain_training_learns(tmp_path, book):
    values = run(tmp_path, book).values
    assert values["tokens"] == 8192
    assert values["loss"] < 2.9
    assert values["in_training"] == values["parameters"]
    assert values["tokens_ahead"] == 1
    assert 0.5 < values["a_step"] < 2


@pytest.mark.parametrize(("kind", "depth"), [("sequential", 2), ("parallel", 3)])
def test_further_losses_train_the_same_model(tmp_path, book, kind, depth, monkeypatch):
    plain = run(tmp_path, book, tokens=1024)
    monkeypatch.setattr(task, "_ratio", lambda *_: 1.0)
    ahead = run(tmp_path, book, "ahead", tokens=1024, kind=kind, depth=depth, weight=0.3)
    assert ahead.digests == plain.digests
    assert ahead.values["in_training"] > ahead.values["parameters"] == plain.values["parameters"]
    assert ahead.values["loss"] != plain.values["loss"]
    assert abs(ahead.values["loss"] - plain.values["loss"]) < 0.5
    assert len(ahead.curves["accepted by depth"]["y"]) == depth
    silent = run(tmp_path, book, "ahead", tokens=1024, kind=kind, depth=depth, weight=0.0)
    assert silent.values["loss"] == pytest.approx(plain.values["loss"], abs=2e-3)


def test_equal_time_is_fewer_tokens_by_the_cost_of_a_step(tmp_path, book, monkeypatch):
    monkeypatch.setattr(task, "_ratio", lambda *_: 2.0)
    assert run(tmp_path, book, budget="time").values["tokens"] == 4096
    assert run(tmp_path, book, budget="tokens").values["tokens"] == 8192


def test_trying_steps_leaves_the_model_as_it_was(book):
    text = task.load_inputs(job("", book))[0]
    model = task._model(text, {"width": 16, "layers": 1}, 3)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    assert task._ratio(task._plain(model), model, task.windows(text.train, 4)) > 0.3
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    again = task._model(text, {"width": 16, "layers": 1}, 3)
    assert all(torch.equal(before[name], x) for name, x in again.state_dict().items())


def test_workloads_and_what_is_refused(tmp_path, book):
    quick = STUDY.workloads(Request(quick=True, data=str(book)))
    assert [w.id for w in quick] == ["small-tokens", "small-time"]
    assert len(STUDY.workloads(Request())) == 4
    crews = [
        [c.id for c in STUDY.contestants(Request())
         if w.facts["crew"] in c.needs.get("crew", [w.facts["crew"]])] for w in quick
    ]  # fmt: skip
    assert crews == [["next", "sequential1", "sequential2", "parallel2", "parallel4"],
                     ["next", "sequential1", "parallel2"]]  # fmt: skip
    with pytest.raises(UsageError, match="--target"):
        STUDY.workloads(Request(target="x"))
    with pytest.raises(UsageError, match="no text"):
        STUDY.workloads(Request(data=str(tmp_path / "none")))


def summary(small, large=None, a_step=1.5, turned=False):
    """A summary in which contestants differ from plain training as told: (estimate, word)."""
    places = [w for w in STUDY.workloads(Request()) if large is not None or "small" in w.id]
    records, differences = [], []
    for place in places:
        gaps = small if "small" in place.id else large
        for name, (gap, word) in {"next": (0.0, "same"), **gaps}.items():
            for seed in range(3):
                records.append({
                    "contestant": name, "workload": place.id, "block": seed, "status": "ok",
                    "values": {"loss": 2.0 + gap + 0.001 * seed, "a_step": a_step, "epochs": 0.5,
                               "tokens_ahead": 1.9, "accepted": 0.7},
                })  # fmt: skip
            if name == "next":
                continue
            ends = {"low": gap - 0.01, "high": gap + 0.01, "estimate": gap, "word": word}
            if turned:
                other = {"better": "worse", "worse": "better"}
                ends = {"low": -gap - 0.01, "high": -gap + 0.01, "estimate": -gap,
                        "word": other.get(word, word)}  # fmt: skip
            pair = ("next", name) if turned else (name, "next")
            differences.append(Difference(
                a=pair[0], b=pair[1], measure="loss", workload=place.id, n=3, **ends))  # fmt: skip
    return Summary(study="multi_token_training", question="?", workloads=places, records=records,
                   contestants=STUDY.contestants(Request()), differences=differences)  # fmt: skip


WORSE = {"sequential1": (0.02, "worse"), "parallel4": (0.08, "worse")}


@pytest.mark.parametrize(
    ("gaps", "says"),
    [
        (WORSE, "no, all of it harmed (best: 1 module"),
        ({"sequential1": (-0.05, "better"), "parallel4": (0.08, "worse")}, "yes, 1 module helped"),
        ({"sequential1": (0.0, "same"), "parallel4": (0.001, "same")}, "no, nothing changed"),
        ({"sequential1": (0.0, "inconclusive"), "parallel4": (0.08, "worse")}, "none helped, 4 he"),
        ({"sequential1": (0.0, "inconclusive")}, "undecided"),
    ],
)
def test_the_answer_says_who_helps_and_who_harms(gaps, says):
    told = findings.answer(summary(gaps))
    assert f"At equal tokens, small model: {says}" in told
    assert "At equal CPU time, small model" in told
    assert findings.answer(summary(gaps, turned=True)) == told


def test_nothing_measured_is_nothing_said():
    empty = Summary(study="multi_token_training", question="?")
    assert findings.answer(empty) == ""
    assert findings.findings(empty) == []
    assert {claim.check(empty).verdict for claim in STUDY.claims} == {"not tested"}


def test_claims_and_findings():
    better = {"sequential1": (-0.05, "better"), "parallel4": (0.02, "worse")}
    told = summary(WORSE, better)
    verdicts = [claim.check(told).verdict for claim in STUDY.claims]
    assert verdicts == ["does not hold", "does not hold", "does not hold", "holds", "holds",
                        "does not hold", "does not hold"]  # fmt: skip
    text = " ".join(findings.findings(told))
    for words in ("1 module 1.50", "tokens a step", "3 seeds; the rate"):
        assert words in text
    only = summary({"parallel4": (0.0, "inconclusive"), "sequential1": (-0.02, "better")})
    assert [claim.check(only).verdict for claim in STUDY.claims][:5] == [
        "holds", "does not hold", "not tested", "not tested", "not tested"]  # fmt: skip


def test_pictures_are_drawn(tmp_path, monkeypatch):
    told = summary(WORSE, WORSE)
    curves = [(c, w.id, kind, [1.0, 2.0, 3.0], [0.5, 0.4, np.exp(-1)])
              for c in WORSE for w in told.workloads
              for kind in ("loss over tokens", "accepted by depth")]  # fmt: skip
    object.__setattr__(told, "curves", curves)
    monkeypatch.setattr(pictures, "summarize", lambda folder: told)
    for draw, mark in ((pictures.gap_bars, "error"), (pictures.losses, "curve"),
                       (pictures.depths, "curve")):  # fmt: skip
        draw("", str(tmp_path / "p.svg"))
        assert f'class="{mark}' in (tmp_path / "p.svg").read_text()
    monkeypatch.setattr(pictures, "summarize", lambda folder: Summary(study="s", question="?"))
    for draw in (pictures.gap_bars, pictures.losses):
        with pytest.raises(SystemExit, match="nothing to draw"):
            draw("", str(tmp_path / "q.svg"))
