"""The study of alignment: rewards, pairs, divergences, a stage, the answer, pictures."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch

from paragone._core.errors import UsageError
from paragone.lab import preferences, studies
from paragone.lab.contestants import alignment as contestants
from paragone.lab.outcome import Difference, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Job, Request
from paragone.lab.studies import _alignment_findings as findings
from paragone.lab.studies import _alignment_pictures as pictures
from paragone.lab.tasks import preference as task
from paragone.language import Llama, LlamaConfig, Tokenizer

STUDY = studies.load("alignment")

pytestmark = pytest.mark.usefixtures("preloaded")


def test_rewards_count_what_they_say():
    reward = preferences.wanted(["fun", "play", "joy", "hug", "nice", "kind"])
    texts = ["fun FUN fun", "", "played", "fun play joy hug nice kind"]
    assert reward([""] * 4, texts) == [0.2, 0.0, 0.0, 1.0]
    assert preferences.brevity([""] * 3, ["a b c.", "", "a b c d e f g h i j"]) == [1.0, 0.0, 0.5]


def test_pairs_are_best_against_worst_and_never_alike():
    answers = [[[1], [2], [3], [4]], [[5], [6], [7], [8]]]
    found = preferences.paired([[9], [8]], answers, np.array([[0.2, 0.9, 0.0, 0.5], [0.3] * 4]))
    assert [(p.prompt, p.chosen, p.rejected) for p in found] == [
        ([9], [2], [3]), ([9], [4], [1])
    ]  # fmt: skip


def test_reward_within_a_leash_stops_at_the_first_crossing():
    path = [(0.0, 0.1), (2.0, 0.3), (10.0, 0.7), (1.0, 0.9)]
    assert task.reward_within(path, 6.0) == pytest.approx(0.5)
    assert task.reward_within(path, 20.0) == 0.9
    assert task.reward_within(path[:1], 6.0) == 0.1
    assert task.reward_within([(0.0, 0.5), (9.0, 0.1)], 3.0) == 0.5


def test_best_of_n_is_the_mean_over_all_choices():
    rewards = np.random.default_rng(0).random((3, 6))
    for n in (1, 2, 5):
        exact = np.mean([row[list(some)].max() for row in rewards
                         for some in itertools.combinations(range(6), n)])  # fmt: skip
        kl, found = task.best_of(rewards, n)
        assert found == pytest.approx(exact)
        assert kl == pytest.approx(math.log(n) - (n - 1) / n)


@pytest.fixture(scope="module")
def problem():
    words = Tokenizer.train(["the cat sat on the mat and had fun. "] * 9, 280)
    config = LlamaConfig(vocab_size=words.vocab_size, hidden_size=32, intermediate_size=32,
                         num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64,
                         bos_token_id=words.bos_id, eos_token_id=words.eos_id)  # fmt: skip
    base = Llama(config, generator=torch.Generator().manual_seed(0)).eval()
    rng = np.random.default_rng(0)
    prompts = [[int(t) for t in rng.integers(3, 270, 4)] for _ in range(6)]
    answers = [[[int(t) for t in rng.integers(3, 270, 5)] for _ in range(4)] for _ in range(6)]
    pairs = preferences.paired(prompts, answers, rng.random((6, 4)))

    def reward(asked, texts):
        return [float(len(text) % 7) / 7 for text in texts]

    return preferences.Problem(base, words, prompts, prompts[:3], reward, "length", pairs,
                               pairs[:4], 24, 6)  # fmt: skip


def test_log_probs_of_padded_rows_are_those_of_single_ones(problem):
    prompts, answers = [[5, 6], [7, 8, 9, 10]], [[11, 12, 13], [14]]
    found = preferences.log_probs(problem.base, prompts, answers)
    for prompt, answer, told in zip(prompts, answers, found, strict=True):
        logits = problem.base(torch.tensor([prompt + answer])).logits[0].detach().log_softmax(-1)
        exact = sum(float(logits[len(prompt) - 1 + i, t]) for i, t in enumerate(answer))
        assert told == pytest.approx(exact, abs=1e-5)
    engine = contestants.resolve("paragone.language:Engine").make(problem.base, "torch")
    drawn = preferences.draw(engine, problem.tokenizer, prompts, 5, 3)
    again = preferences.log_probs(problem.base, drawn.prompts, drawn.ids)
    np.testing.assert_allclose(drawn.log_probs, again, atol=1e-4)


FACTS = {"effort": {"epochs": 1, "steps": 1}, "looks": 2, "judged": 3, "limit": 8.0,
         "backend": "torch"}  # fmt: skip


def job(id, folder):
    contestant = next(c for c in STUDY.contestants(Request()) if c.id == id)
    workload = dataclasses.replace(STUDY.workloads(Request(cache=str(folder)))[0], facts=FACTS)
    return Job(
        key="k", task=STUDY.task, contestant=contestant, workload=workload, threads=1,
        block=Block(workload="words", index=0, split=0, seed=1), folder=str(folder),
    )  # fmt: skip


@pytest.mark.parametrize("id", ["base", "dpo", "sft", "rm_grpo", "grpo"])
def test_a_run_goes_a_path_and_says_what_it_asked(id, problem, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "load_inputs", lambda job: (problem,))
    # A rewards' model and a policy of a tiny net are quick; their rates do not matter here.
    probe, before = Probe(tmp_path), [p.clone() for p in problem.base.parameters()]
    task.run(job(id, tmp_path), probe)
    assert all(map(torch.equal, before, problem.base.parameters())), "the base was changed"
    values, curve = probe.values, probe.curves["reward over kl"]
    assert curve["x"][0] == pytest.approx(0, abs=1e-4)
    assert values["reward_at"] >= curve["y"][0] - 1e-9
    asked = {"base": 0, "grpo": 48}.get(id, 24)
    assert values["labels"] == asked
    if id == "base":
        assert values["kl"] == pytest.approx(0, abs=1e-4)
        assert values["accuracy"] == 0.5
    texts = json.loads(np.load(tmp_path / "answers.npy").tobytes())
    assert len(texts["texts"]) == 3
    json.dumps({"values": values, "curves": probe.curves}, allow_nan=False)


def test_what_the_user_may_bring(tmp_path):
    pairs = tmp_path / "mine.jsonl"
    pairs.write_text(json.dumps({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}) + "\n")
    (found,) = STUDY.workloads(Request(data=str(pairs), cache=str(tmp_path)))
    assert found.facts["kind"] == "pairs"
    assert found.primary == "accuracy"
    with pytest.raises(UsageError, match="1 pairs fit"):
        preferences._given(
            Llama(LlamaConfig(300, 8, num_hidden_layers=1, num_attention_heads=1)),
            Tokenizer.train(["a b"], 260), str(pairs), 8, 0,
        )  # fmt: skip
    with pytest.raises(UsageError, match="neither a model"):
        STUDY.workloads(Request(data=str(tmp_path / "x.txt")))
    with pytest.raises(UsageError, match="--target"):
        STUDY.workloads(Request(target="x"))
    (tmp_path / "small.bin").write_bytes(b"")
    (tmp_path / "tok9.model").write_bytes(b"")
    assert preferences.find_base(tmp_path) == (tmp_path / "small.bin", tmp_path / "tok9.model")
    (found,) = STUDY.workloads(Request(data=str(tmp_path), cache=str(tmp_path), quick=True))
    assert found.params["tokenizer"].endswith("tok9.model")


def summary(word="better", gap=0.1, kl=9.0):
    place = dataclasses.replace(STUDY.workloads(Request(quick=True, cache="c"))[0], id="words")
    ids = ["dpo", "ipo", "rm_ppo", "sft", "base"]
    records = [
        {"contestant": id, "workload": "words", "block": seed, "status": "ok", "artifacts": {},
         "values": {"reward_at": 0.5 - 0.05 * i, "reward": 0.5, "kl": kl, "labels": 24.0,
                    "train_cpu_s": 2.0 + 4 * (id == "rm_ppo"), "chosen_gain": -3.0}}
        for i, id in enumerate(ids) for seed in range(3)
    ]  # fmt: skip
    differences = [
        Difference(a="rm_ppo", b="dpo", measure="reward_at", workload="words", estimate=-gap,
                   low=-gap - 0.05, high=-gap + 0.05, method="paired t", n=3,
                   word={"better": "worse", "worse": "better"}.get(word, word)),
        Difference(a="dpo", b="sft", measure="reward_at", workload="words", estimate=0.2,
                   low=0.1, high=0.3, method="paired t", n=3, word="better"),
    ]  # fmt: skip
    crew = [c for c in STUDY.contestants(Request()) if c.id in ids]
    curves = [(id, "words", "reward over kl", (0.0, 4.0, 9.0), (0.1, 0.3, 0.5)) for id in ids]
    return Summary(study="alignment", question="?", workloads=[place], contestants=crew,
                   records=records, differences=differences, curves=curves)  # fmt: skip


@pytest.mark.parametrize(
    ("word", "said"),
    [("better", "DPO is ahead"), ("worse", "reward model + PPO is ahead"),
     ("inconclusive", "undecided"), ("same", "they are alike")],
)  # fmt: skip
def test_the_answer_says_what_the_comparison_says(word, said):
    text = findings.answer(summary(word))
    assert said in text
    assert "3.0 times the CPU" in text


def test_claims_and_findings():
    told = summary()
    assert [c.check(told).verdict for c in STUDY.claims] == ["holds"] * 4
    assert STUDY.claims[0].check(summary("worse")).verdict == "does not hold"
    assert STUDY.claims[0].check(summary("inconclusive")).verdict == "not tested"
    text = " ".join(findings.findings(told))
    assert "no two are told apart" in text
    assert "Nothing is tuned in this study" in text
    assert "less than half of the leash" in " ".join(findings.findings(summary(kl=1.0)))
    empty = Summary(study="alignment", question="?")
    assert [c.check(empty).verdict for c in STUDY.claims] == ["not tested"] * 4
    assert findings.answer(empty) == ""
    assert findings.findings(empty) == []


def test_pictures_are_drawn(tmp_path, monkeypatch):
    content = {"about": "words", "texts": [{"prompt": "Once", "answer": "upon " * 40}]}
    np.save(tmp_path / "answers.npy", np.frombuffer(json.dumps(content).encode(), np.uint8))
    told = summary()
    for record in told.records:
        record["artifacts"]["answers"] = "answers.npy"
    monkeypatch.setattr(pictures, "summarize", lambda folder: told)
    pictures.frontier(str(tmp_path), str(tmp_path / "p.svg"))
    assert (tmp_path / "p.svg").read_text().count('class="curve') == 4
    pictures.texts(str(tmp_path), str(tmp_path / "p.svg"))
    assert (tmp_path / "p.svg").read_text().count("upon") >= 40
    monkeypatch.setattr(pictures, "summarize", lambda folder: Summary(study="s", question="?"))
    with pytest.raises(SystemExit, match="nothing to draw"):
        pictures.frontier("", str(tmp_path / "q.svg"))
