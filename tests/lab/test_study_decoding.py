"""The study of decoding: prompts, a run, the answer, claims, pictures, and its study of speed."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from paragone._core.errors import UsageError
from paragone.lab import drafting_problem, session, studies
from paragone.lab.contestants import decoding as contestants
from paragone.lab.contestants import drafting_calls as calls
from paragone.lab.outcome import Difference, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Job, Request
from paragone.lab.studies import _decoding_findings as findings
from paragone.lab.studies import _decoding_pictures as pictures
from paragone.lab.tasks import decoding as task
from paragone.language import Llama, LlamaConfig, Tokenizer

STUDY = studies.load("decoding")
SPEED = studies.load("drafting_speed")

pytestmark = pytest.mark.usefixtures("preloaded")


@pytest.fixture(autouse=True)
def no_real_data(monkeypatch, tmp_path):
    monkeypatch.setenv("PARAGONE_DATA", str(tmp_path / "nowhere"))


@pytest.fixture(scope="module")
def parts():
    words = Tokenizer.train(["the cat sat on the mat and had fun. "] * 9, 280)
    config = LlamaConfig(vocab_size=words.vocab_size, hidden_size=32, intermediate_size=32,
                         num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=96,
                         bos_token_id=words.bos_id, eos_token_id=words.eos_id)  # fmt: skip
    return Llama(config, generator=torch.Generator().manual_seed(0)).eval(), words


@pytest.fixture
def problem(parts, tmp_path):
    model, words = parts
    prompts = [words.encode(text, bos=True) for text in ("the cat", "fun and", "mat")]
    (tmp_path / "home").mkdir()
    return drafting_problem.Problem(
        model, words, prompts, None, 8, 0.0, False, 3, tmp_path / "home", "digest"
    )


def test_prompts_of_a_user(tmp_path):
    text = tmp_path / "p.txt"
    text.write_text("first\nstill first\n\nsecond\n")
    assert drafting_problem.read_prompts(str(text)) == ["first\nstill first", "second"]
    text.write_text("one\ntwo\n")
    assert drafting_problem.read_prompts(str(text)) == ["one", "two"]
    rows = tmp_path / "p.jsonl"
    asked = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant",
                                                                 "content": "So."}]}  # fmt: skip
    rows.write_text("\n".join(map(json.dumps, [{"prompt": "Hi"}, {"question": "How?"}, asked])))
    found = drafting_problem.read_prompts(str(rows))
    assert found[:2] == ["Hi", "How?"]
    assert "Why?" in found[2]
    assert "So." not in found[2]
    rows.write_text(json.dumps({"other": 1}))
    for path, words in ((rows, "no prompt found"), (tmp_path / "none.txt", "no such file")):
        with pytest.raises(UsageError, match=words):
            drafting_problem.read_prompts(str(path))


def test_what_the_user_may_bring(tmp_path):
    with pytest.raises(UsageError, match="--target"):
        STUDY.workloads(Request(target="x"))
    with pytest.raises(UsageError, match="no model there"):
        STUDY.workloads(Request(data=str(tmp_path / "x.txt")))
    with pytest.raises(UsageError, match="no such file"):
        STUDY.workloads(Request(options={"prompts": str(tmp_path / "x.txt")}))
    with pytest.raises(UsageError, match="takes no --prompts"):
        session.prepare(session.Wanted(study="scaling", prompts="x.txt"), dry=True)
    (tmp_path / "small.bin").write_bytes(b"")
    (tmp_path / "tok9.model").write_bytes(b"")
    (tmp_path / "p.txt").write_text("Once")
    request = Request(data=str(tmp_path), options={"prompts": str(tmp_path / "p.txt")})
    found = STUDY.workloads(request)
    assert [w.id for w in found] == ["greedy", "drawn", "together"]
    assert found[0].params["tokenizer"].endswith("tok9.model")
    assert found[0].params["prompts"].endswith("p.txt")
    (tmp_path / "p.txt").write_text("Twice")
    assert STUDY.workloads(request)[0].facts["stamp"] != found[0].facts["stamp"]


def test_a_model_of_the_user_is_read_and_its_texts_are_kept(parts, tmp_path):
    model, words = parts
    from paragone.language.checkpoints import save

    save(model, words, tmp_path / "m")
    (tmp_path / "p.txt").write_text("\n\n".join(f"the cat {i}" for i in range(40)))
    params = {"cache": str(tmp_path / "c"), "count": 3, "length": 8,
              **drafting_problem.chosen_model(str(tmp_path / "m"))}  # fmt: skip
    given = drafting_problem.load(**params, prompts=str(tmp_path / "p.txt"))
    assert len(given.prompts) == 3
    assert len(given.texts or ()) == 37
    asked = {tuple(p) for p in given.prompts}
    assert not asked & {tuple(words.encode(t, bos=True)) for t in given.texts or ()}
    own = drafting_problem.load(**params)
    assert own.texts is None
    assert own.prompts == drafting_problem.load(**params).prompts
    assert len({tuple(p) for p in own.prompts}) == 3
    with pytest.raises(UsageError, match="made for 96 tokens"):
        drafting_problem.load(**{**params, "length": 96})


FACTS = {"way": "greedy", "crew": "all", "budget": 1.0, "least": 0.0, "model": "small"}


def job(id, folder, **facts):
    contestant = next(c for c in STUDY.contestants(Request()) if c.id == id)
    first = STUDY.workloads(Request(cache=str(folder)))[0]
    return Job(
        key="k", task=STUDY.task, contestant=contestant, threads=1, folder=str(folder),
        workload=dataclasses.replace(first, facts={**FACTS, **facts}),
        block=Block(workload="greedy", index=0, split=0, seed=1),
    )  # fmt: skip


def guesses(stage):
    """A drafter for tests: the verifier itself as the draft model, so that every guess is right."""
    stage.plan = (2, 2, 1)
    return stage.model


def test_plain_decoding_is_measured_against_itself(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "load_inputs", lambda job: (problem,))
    probe = Probe(tmp_path)
    task.run(job("plain", tmp_path), probe)
    values = probe.values
    assert values["same"] == 1.0
    assert values["steps"] == 1.0
    assert values["train_s"] == 0.0
    assert values["gain"] > 0
    assert probe.curves["cost of a pass"]["x"] == list(task.PASSES)
    assert probe.curves["cost of a pass"]["y"][0] == pytest.approx(1.0)
    json.dumps({"values": values, "curves": probe.curves}, allow_nan=False)


def test_a_drafter_that_is_always_right_fills_its_steps(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "load_inputs", lambda job: (problem,))
    monkeypatch.setattr(contestants, "draft_model", guesses)
    probe = Probe(tmp_path)
    task.run(job("draft_model", tmp_path), probe)
    values = probe.values
    assert values["same"] == values["full_same"] == 1.0
    assert values["accepted"] == 1.0
    assert 2.0 < values["full_steps"] <= 3.0
    assert probe.curves["accepted by depth"]["y"] == [1.0, 1.0]


def test_other_tokens_are_noticed(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "load_inputs", lambda job: (problem,))

    def wrong(stage):
        plain = task._speaker(stage, None)
        return lambda prompt, count: [1 + t for t in plain([prompt]).ids[0]]

    monkeypatch.setattr(contestants, "look_up", wrong)
    probe = Probe(tmp_path)
    task.run(job("prompt_lookup", tmp_path), probe)
    assert probe.values["same"] == 0.0
    assert "full_steps" not in probe.values


@pytest.mark.parametrize("together", [False, True])
def test_prompts_alone_and_together(problem, together, tmp_path):
    given = dataclasses.replace(problem, together=together, temperature=0.8)
    stage = task.Stage(given, FACTS, 1)
    plain = task._speaker(stage, None)
    reference = task._reference(plain, given)
    assert task._reference(plain, dataclasses.replace(given)) == reference
    told, times = task._by_turns(plain, task._speaker(stage, "prompt-lookup"), given, 0.0)
    assert told.ids == reference
    assert times.shape == (1, 2, 2)


def test_shares_by_depth_are_weighed_by_steps():
    told = task.Told([[1] * 9, [1] * 5, [7]], [2.0, 1.0, 1.0], [[1.0, 0.5], [0.0], []])
    assert task.by_depth(told) == [0.5, 0.5]
    assert told.per_step == pytest.approx(12 / 8)
    assert task.by_depth(task.Told([[1]], [1.0], [[]])) == []


def test_what_is_trained_is_trained_once_and_its_cost_is_told(problem, tmp_path):
    made = []

    class Thing:
        def save(self, folder):
            made.append(folder)

    for _ in range(2):
        stage = task.Stage(problem, FACTS, 1)
        assert stage.trained("x", Thing, lambda folder: folder).endswith("made")
        assert stage.cost[0] > 0
    assert len(made) == 1

    def broken():
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        stage.trained("y", broken, str)
    assert not list(problem.home.glob("y-*")), "half of a training was kept"
    assert stage.clock >= 1.0


def summary(word="better", ratio=0.5, steps=2.5, model="stories260K"):
    place = dataclasses.replace(
        STUDY.workloads(Request(quick=True, cache="c"))[0], facts={**FACTS, "model": model}
    )
    ids = ["plain", "prompt_lookup", "medusa", "mtp", "transformers"]
    values = {"same": 1.0, "token_s": 1e-3, "token_cpu_s": 1e-3, "steps": 1.0, "per_second": 1e3,
              "train_cpu_s": 0.0}  # fmt: skip
    own = {"full_steps": steps, "full_gain": 0.7, "full_nodes": 4.0, "full_same": 1.0,
           "accepted": 0.7}  # fmt: skip
    records = []
    for id in ids:
        more = own if id not in ("plain", "transformers") else {}
        if id == "medusa":
            more = {**more, "token_cpu_s": ratio * 1e-3, "train_cpu_s": 20.0, "steps": 2.0}
        records += [{"contestant": id, "workload": "greedy", "block": b, "status": "ok",
                     "values": {**values, **more}} for b in range(3)]  # fmt: skip
    how = {"medusa": (word, ratio), "prompt_lookup": ("worse", 1.25), "mtp": ("same", 1.0)}
    differences = [
        Difference(a=id, b="plain", measure="token_s", workload="greedy", estimate=r, ratio=True,
                   low=0.95 * r, high=1.05 * r, method="paired", n=3, word=w)
        for id, (w, r) in how.items()
    ]  # fmt: skip
    curves = [("plain", "greedy", "cost of a pass", (1, 2, 4, 8, 16), (1, 1.1, 1.3, 1.9, 3.3))]
    curves += [(id, "greedy", "accepted by depth", (1, 2), (0.7, 0.6)) for id in ids[1:4]]
    crew = [c for c in STUDY.contestants(Request()) if c.id in ids]
    return Summary(study="decoding", question="?", workloads=[place], contestants=crew,
                   records=records, differences=differences, curves=curves,
                   measures=list(STUDY.measures), tables={"greedy": ()})  # fmt: skip


def test_the_answer_is_a_drafter_where_one_is_faster():
    text = findings.answer(summary())
    assert "use Medusa, 2.00x [1.90, 2.11] the speed of plain decoding" in text
    assert "repaid after 40,000 tokens" in text


@pytest.mark.parametrize(
    ("word", "said"), [("same", "no drafter is faster"), ("inconclusive", "no drafter is shown")]
)
def test_the_answer_is_plain_decoding_with_the_reason_where_none_is(word, said):
    text = findings.answer(summary(word, ratio=0.99))
    assert f"use plain decoding, {said}" in text
    assert "2.50 tokens a step, and a pass over 5 tokens takes 1.4 times one" in text


def test_a_drafter_that_changes_the_text_is_not_recommended():
    told = summary()
    for record in told.records:
        if record["contestant"] == "medusa":
            record["values"]["same"] = 0.5
    assert "use plain decoding" in findings.answer(told)
    assert "Not the tokens of plain decoding: Medusa (50 %" in " ".join(findings.findings(told))


def test_findings_and_claims():
    told = summary()
    text = " ".join(findings.findings(told))
    assert "8 tokens 1.90" in text
    assert "agreed to by depth 0.70 / 0.60" in text
    assert "Every run of every contestant gave the very tokens" in text
    assert "transformers" in text
    verdicts = {c.text: c.check(told).verdict for c in STUDY.claims}
    assert set(verdicts.values()) == {"holds", "does not hold", "not tested"}
    (controlled,) = (c for c in STUDY.claims if "0.97" in c.text)
    assert controlled.check(told).verdict == "does not hold"
    by_source = [c.check(summary(steps=3.0)).verdict for c in STUDY.claims[-2:]]
    assert by_source == ["holds", "holds"]
    assert [c.check(summary(model="x")).verdict for c in STUDY.claims[-2:]] == ["not tested"] * 2
    empty = Summary(study="decoding", question="?")
    assert [c.check(empty).verdict for c in STUDY.claims] == ["not tested"] * len(STUDY.claims)
    assert findings.answer(empty) == ""
    assert findings.findings(empty) == []


def test_pictures_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "summarize", lambda folder: summary())
    for draw in (pictures.passes, pictures.depth):
        draw(str(tmp_path), str(tmp_path / "p.svg"))
        assert "Medusa" in (tmp_path / "p.svg").read_text()
    monkeypatch.setattr(pictures, "summarize", lambda folder: Summary(study="s", question="?"))
    for draw in (pictures.passes, pictures.depth):
        with pytest.raises(SystemExit, match="nothing to draw"):
            draw("", str(tmp_path / "q.svg"))


def test_the_study_of_speed_measures_equal_work(problem, monkeypatch):
    places = SPEED.workloads(Request(cache="c", options={"bench": True}))
    assert [w.id for w in places[:3]] == ["decode", "15m-1", "15m-2"]
    assert len(places) == 11
    bench = SPEED.contestants(Request(options={"bench": True}))
    assert {c.id for c in bench if c.origin == "rival"} == {
        "transformers_medusa", "transformers_multi_token_prediction"
    }  # fmt: skip
    monkeypatch.setitem(calls._FIT, "medusa", guesses)
    truth = calls.truth("decode", lambda: problem, 8)
    np.testing.assert_array_equal(calls.Ours("medusa")("decode", lambda: problem, 8), truth)
    monkeypatch.setitem(calls.SHAPES, "15m", {
        "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    })  # fmt: skip
    ours = calls.Ours()
    assert [ours("pass", "15m", n)[0] for n in (1, 5)] == [1, 5]
    assert SPEED.findings(Summary(study="s", question="?")) == []


@pytest.mark.peers
def test_other_libraries_give_the_same_tokens(problem):
    pytest.importorskip("transformers", reason="transformers is not installed")
    stage = task.Stage(problem, FACTS, 1)
    reference = task._reference(task._speaker(stage, None), problem)
    plain = contestants.Hugging(stage)
    assert [plain(p, problem.length) for p in problem.prompts] == reference
    looking = contestants.Hugging(stage, "lookup")
    assert [looking(p, problem.length) for p in problem.prompts] == reference
