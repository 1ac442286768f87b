"""The study of memory, its command, estimators, claims and pictures."""

import dataclasses
import json

import pytest

from paragone._core.errors import UsageError
from paragone.lab import api, guests, memory_view, studies, training_steps
from paragone.lab.build import bind
from paragone.lab.contestants import planners
from paragone.lab.outcome import Cell, Row, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Job, Request
from paragone.lab.studies import _memory_pictures as pictures
from paragone.lab.tasks import count, sweep
from paragone.training import memory

STUDY, SPEED = studies.load("memory"), studies.load("memory_speed")
CONTESTANTS = {c.id: c for c in STUDY.contestants(Request()) if guests.installed(c)}


@pytest.mark.parametrize("study", [STUDY, SPEED])
@pytest.mark.parametrize("quick", [True, False])
def test_inputs_and_measures_are_well_formed(study, quick):
    found = study.workloads(Request(quick=quick))
    assert len({w.id for w in found}) == len(found)
    ids = [c.id for c in study.contestants(Request())]
    assert len(set(ids)) == len(ids)
    assert study.reference in ids
    for role in {m.role for m in study.measures}:
        assert sum(m.primary for m in study.measures if m.role == role) <= 1
    with pytest.raises(UsageError, match="--data"):
        study.workloads(Request(data="x.csv"))


def problem_of(id):
    workload = next(w for w in STUDY.workloads(Request()) if w.id == id)
    (problem,) = training_steps.load(**workload.params)
    return problem


def test_estimators_on_a_real_step():
    """The traced plan and torch's tracker are exact, 16 bytes a parameter far below."""
    problem = problem_of("step_llama")
    errors = {
        name: planners.score(problem, bind(contestant)(problem, seed=0))["signed"]
        for name, contestant in CONTESTANTS.items()
        if "measured" in contestant.needs.get("kind", ["measured"])
    }
    assert errors["memory"] == 0.0
    assert abs(errors["torch_memory"]) < 1e-3
    assert abs(errors["memory_config"]) < 0.05
    assert errors["sixteen"] < -0.5
    assert errors["deepspeed"] < -0.4


def test_estimators_on_published_runs():
    found = {}
    for workload in STUDY.workloads(Request()):
        if workload.facts["kind"] == "published":
            (problem,) = training_steps.load(**workload.params)
            for name in ("memory", "sixteen", "textbook", "deepspeed"):
                answer = bind(CONTESTANTS[name])(problem, seed=0)
                found[name, workload.id] = planners.score(problem, answer)["error"]
    ours = [error for (name, _), error in found.items() if name == "memory"]
    assert sorted(ours)[-3] < 0.035
    assert all(error > 0.7 for (name, _), error in found.items() if name == "sixteen")
    assert max(error for (name, _), error in found.items() if name == "textbook") > 0.3


def test_deepspeeds_formula_is_its_published_table():
    """t5-small (60.5 M, largest layer 16.4 M) on one GPU: 1.08 GB (DeepSpeed's own output)."""
    assert f"{(18 * 60_506_624 + 4 * 16_449_536) / 2**30:.2f}" == "1.08"
    shares = memory.plan(60_506_624, precision="bf16-fp32-gradients").states
    assert shares == 18 * 60_506_624


def test_a_run_of_sharded_states_and_of_speed(tmp_path):
    workload = next(w for w in STUDY.workloads(Request()) if w.id == "sharded_64")
    job = Job(key="", task=STUDY.task, contestant=CONTESTANTS["memory"], workload=workload,
              block=Block(workload=workload.id, index=0, split=0, seed=0), threads=1,
              options=STUDY.options)  # fmt: skip
    probe = Probe(tmp_path)
    count.run(job, probe)
    assert probe.values["error"] < 0.01
    assert probe.values["bytes_each"] == pytest.approx(16 / 64, rel=0.01)
    assert probe.values["sent_each"] == pytest.approx(12.0, rel=0.01)
    told = summary({}, [{"values": probe.values}])
    assert [c.check(told).verdict for c in STUDY.claims] == [
        "holds", "holds", "not tested", "not tested",
    ]  # fmt: skip
    question = training_steps.question("mlp")
    truth = training_steps.answer(*question)
    for contestant in SPEED.contestants(Request()):
        assert bind(contestant)(*question) == pytest.approx(truth, rel=1e-3)
    asked = SPEED.workloads(Request())[0]
    start = dataclasses.replace(job, workload=asked, options={})
    assert sweep.one_call(start)()() == truth


def summary(errors, records=()):
    places = STUDY.workloads(Request())
    tables = {
        w.id: [
            Row(contestant=name, title=name, origin="", cells={"error": Cell(value=by[w.id])})
            for name, by in errors.items() if w.id in by
        ]
        for w in places
    }  # fmt: skip
    return Summary(study="memory", question="?", workloads=places, tables=tables,
                   records=list(records), contestants=STUDY.contestants(Request()))  # fmt: skip


def test_claims_and_findings():
    good = summary({"memory": {"step_mlp": 0.0, "titan_8": 0.03, "titan_128": 0.01},
                    "sixteen": {"step_mlp": 0.2, "titan_8": 0.8}})  # fmt: skip
    verdicts = [claim.check(good).verdict for claim in STUDY.claims]
    assert verdicts == ["not tested", "not tested", "holds", "holds"]
    told = STUDY.findings(good)
    assert told[0].startswith("Largest error on real steps of small models: paragone 0")
    assert "16 B a parameter 80%" in told[1]
    bad = summary({"memory": {"titan_8": 0.2}, "sixteen": {"titan_8": 0.1}},
                  [{"values": {"bytes_each": 16.0, "sent_each": 8.0}}])  # fmt: skip
    assert [claim.check(bad).verdict for claim in STUDY.claims] == ["does not hold"] * 4
    empty = Summary(study="memory", question="?")
    assert [claim.check(empty).verdict for claim in STUDY.claims] == ["not tested"] * 4
    assert STUDY.findings(empty) == []


@pytest.mark.parametrize("draw", [pictures.stages, pictures.batches])
def test_pictures_are_drawn(draw, tmp_path):
    draw("", str(tmp_path / "p.svg"))
    text = (tmp_path / "p.svg").read_text()
    assert text.startswith("<svg")
    assert text.count("<rect") >= 6 + 5 * 4


def test_the_command_shows_the_plan_the_stages_and_what_fits(tmp_path):
    path = tmp_path / "stages.svg"
    found = api.memory("llama-7b", gpus=8, zero=3, batch=1, sequence=4096, fits="80GB",
                       checkpointing="full", out=str(path))  # fmt: skip
    text = str(found)
    for words in ("6,738,415,616 parameters on 8 GPUs", "stage 3", "80GB: fits", "too large",
                  "largest batch that fits", "█ parameters", f"picture: {path}"):  # fmt: skip
        assert words in text
    assert "GB on one GPU" in path.read_text()
    data = json.loads(found.json())
    assert data["fits"] is True
    assert data["largest_batch"] == found.plan.largest("batch", "80GB")
    assert data["stages"]["stage 3"] == data["total"]
    sizes = memory_view.groups(found.plan)
    assert sum(sizes.values()) == found.plan.total
    small = str(api.memory("llama-70b", batch=1, sequence=4096, fits="24GB"))
    assert "too large by" in small
    assert "not even a batch of 1 fits" in small
    assert "107.8" in str(api.memory("llama-7b", precision="fp16"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "lama"}, "give one of llama-7b"), ({"fits": "much"}, "give bytes"),
        ({"gpus": 0}, "gpus is 0"), ({"out": "x.png"}, r"ends in \.svg"),
        ({"out": "/nowhere/x.svg"}, "a folder that exists"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(options, words):
    with pytest.raises(UsageError, match=words):
        api.memory(**{"model": "gpt2", **options})
