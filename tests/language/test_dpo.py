"""DPO runs: what is learned, what is kept of the reference, what is refused."""

import copy
import math
import signal

import numpy as np
import pytest
import torch

from paragone.language import Llama, LlamaConfig, dpo
from paragone.language import dpo as public
from paragone.language._preference_forward import Group
from paragone.language._preference_pairs import Feed, encoded_pairs, group_of
from paragone.language._preference_reference import Kept, answer_key, group_scores, weights_hash
from paragone.language.rows import EncodedPair

QUIET = {"samples": 0, "cache": None}
SIZES = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 32}  # fmt: skip


def llama(seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return Llama(LlamaConfig(**SIZES, **options), generator=generator)


def pairs(n=12, seed=0):
    """Chosen answers have even tokens, rejected ones odd."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        prompt = [1, *random.integers(3, 20, random.integers(1, 5))]
        good = [int(x) for x in 2 * random.integers(2, 10, random.integers(1, 5))]
        bad = [int(x) for x in 2 * random.integers(2, 10, random.integers(1, 5)) - 1]
        ids = ([int(x) for x in prompt], [*good, 2], [*bad, 2])
        found.append(EncodedPair(*ids, [True] * len(ids[1]), [True] * len(ids[2])))
    return found


def test_it_learns_and_reports():
    model, events = llama(), []
    found = public(
        model, None, pairs(), beta=0.1, epochs=10, batch=6, lr=1e-2, evaluation=pairs(6, 1),
        evaluate_every=20, cache=None, samples=8, max_new_tokens=4, reward=evenness,
        progress=events.append,
    )  # fmt: skip
    first, last = found.history[0], found.history[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["margin"] == pytest.approx(0, abs=1e-5)
    assert last["loss"] < 0.5
    assert last["accuracy"] == 1.0
    assert last["margin"] == pytest.approx(last["rewards_chosen"] - last["rewards_rejected"])
    assert last["validation_accuracy"] > 0.8
    assert last["kl"] > 0
    assert last["kl_error"] > 0
    assert 0 <= last["reward"] <= 1
    assert "log_probs_rejected" in last
    assert found.metrics == last
    assert found.model is model
    assert not model.training
    assert {event.kind for event in events} >= {"note", "validated", "end"}


def evenness(prompts, answers):
    return [sum(x % 2 == 0 for x in answer) / max(len(answer), 1) for answer in answers]


def test_rewards_are_beta_times_the_ratios():
    model = llama()
    start = copy.deepcopy(model)
    data = pairs(4)
    last = public(model, None, data, beta=0.3, batch=4, epochs=3, lr=1e-3, **QUIET).history[-1]
    before = copy.deepcopy(start)
    public(before, None, data, beta=0.3, batch=4, epochs=3, lr=1e-3, **QUIET)
    groups = [group_of(pair) for pair in data]
    now, then = group_scores(model, groups), group_scores(start, groups)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)
    )
    gap = torch.tensor(now) - torch.tensor(then)
    assert float(0.3 * gap[0::2].mean()) > last["rewards_chosen"] > 0


def test_parts_of_a_batch_give_the_whole_batchs_step():
    # trap 9, and KTO's and the token mean's shared numbers
    loss = {"sigmoid": 1.0, "kto": 0.5, "sft": 0.1}
    whole, parts = llama(), llama()
    public(whole, None, pairs(), loss=loss, batch=8, lr=1e-3, optimizer="sgd", **QUIET)
    public(parts, None, pairs(), loss=loss, batch=8, lr=1e-3, optimizer="sgd", micro_tokens=1,
           **QUIET)  # fmt: skip
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-4)


def test_dropout_is_off():
    quiet = llama()
    noisy = llama(mixer_options={"dropout": 0.5})
    noisy.load_state_dict(quiet.state_dict())
    for model in (quiet, noisy):
        model.train()
        public(model, None, pairs(4), batch=4, lr=1e-3, **QUIET)
    for a, b in zip(quiet.parameters(), noisy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_live_model_is_no_reference():
    model = llama()
    with pytest.raises(ValueError, match="is the model that is trained"):
        public(model, None, pairs(2), reference=model, **QUIET)
    view = llama()
    view.model.embed_tokens.weight = model.model.embed_tokens.weight
    with pytest.raises(ValueError, match=r"it shares model\.embed_tokens\.weight"):
        public(model, None, pairs(2), reference=view, **QUIET)


def test_another_reference_is_measured_against():
    other = llama(seed=5)
    first = public(llama(), None, pairs(4), reference=other, batch=4, **QUIET).history[0]
    groups = [group_of(pair) for pair in pairs(4)]
    gap = torch.tensor(group_scores(llama(), groups)) - torch.tensor(group_scores(other, groups))
    assert first["rewards_chosen"] == pytest.approx(0.1 * float(gap[0::2].mean()), abs=1e-5)


def test_reference_scores_are_kept_by_content(tmp_path):
    def known(model, data):
        notes = public(model, None, data, batch=4, samples=0, cache=tmp_path).notes
        return next(note for note in notes if note.startswith("reference"))

    assert "8 answers scored, 0 known" in known(llama(), pairs(4))
    assert "0 answers scored, 8 known" in known(llama(), pairs(4))
    assert "4 answers scored, 8 known" in known(llama(), [*pairs(4), *pairs(2, seed=9)])
    assert "8 answers scored, 0 known" in known(llama(seed=1), pairs(4))
    changed = llama()
    changed.model.norm.weight.data[3] += 1e-6
    assert "8 answers scored" in known(changed, pairs(4))
    same = known(llama(rope_theta=500.0), pairs(4))
    assert "8 answers scored" in same


def test_keys_tell_prompt_from_answer():
    keys = {
        answer_key([1], [2, 3], None), answer_key([1, 2], [3], None),
        answer_key([1], [2, 3], [True, False]), answer_key([1], [2], None),
    }  # fmt: skip
    assert len(keys) == 4
    assert answer_key([1], [2], [True]) == answer_key([1], [2], None)
    assert weights_hash(llama()) == weights_hash(llama()) != weights_hash(llama(seed=1))


def test_a_broken_cache_says_so(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"x\.npz: expected kept log-probabilities"):
        Kept("x", tmp_path)


def test_adapter_is_its_own_reference():
    model = llama()
    start = copy.deepcopy(model.state_dict())
    found = public(
        model, None, pairs(), lora_rank=2, epochs=12, batch=6, lr=1e-2, cache=None, samples=6,
        max_new_tokens=3,
    )  # fmt: skip
    assert found.history[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert found.metrics["accuracy"] == 1.0
    assert found.metrics["kl"] != 0
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora" in name for name in trained)
    embedding = "model.embed_tokens.weight"
    assert torch.equal(model.state_dict()[embedding], start[embedding])
    again = public(model, None, pairs(), reference="base", epochs=1, batch=12, **QUIET)
    assert again.history[0]["margin"] > 0.05
    with pytest.raises(ValueError, match="has no adapter"):
        public(llama(), None, pairs(2), reference="base", **QUIET)


def test_a_run_goes_on_bit_for_bit(tmp_path):
    whole = llama()
    how = {"epochs": 4, "batch": 4, "lr": 1e-3, **QUIET}
    public(whole, None, pairs(), **how)

    def stop(event):
        if event.kind == "validated" and event.step == 6:
            signal.raise_signal(signal.SIGINT)

    parted = llama()
    with pytest.raises(KeyboardInterrupt):
        public(parted, None, pairs(), evaluate_every=6, out=tmp_path, progress=stop, **how)
    with pytest.raises(ValueError, match="another run"):
        public(llama(), None, pairs(), loss="ipo", evaluate_every=6, out=tmp_path, **how)
    parted = llama()
    found = public(parted, None, pairs(), evaluate_every=6, out=tmp_path, **how)
    for a, b in zip(whole.parameters(), parted.parameters(), strict=True):
        assert torch.equal(a, b)
    assert found.history[-1]["step"] == 12
    assert (tmp_path / "config.json").exists()
    assert (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("loss", ["ipo", "kto", "orpo", "simpo", "aot", "apo_down"])
def test_other_losses_separate(loss):
    found = public(llama(), None, pairs(), loss=loss, epochs=8, batch=6, lr=1e-2, **QUIET)
    last = found.history[-1]
    assert last["accuracy"] > 0.9
    assert last["loss"] < found.history[0]["loss"]


def test_pairs_of_text_share_their_prompt(data_folder):
    # trap 8: merges across the boundary differ; only whole texts are tokenised
    from paragone.language import Tokenizer

    tokenizer = Tokenizer.load(data_folder / "language" / "tok512.model")
    rows = [{"prompt": "Say it", "chosen": "nothing", "rejected": "now here"}]
    encoded, _ = encoded_pairs(tokenizer, rows, "plain", 256)
    (pair,) = encoded
    texts = [tokenizer.decode([*pair.prompt, *answer]) for answer in (pair.chosen, pair.rejected)]
    assert "nothing" in texts[0]
    assert "now here" in texts[1]
    group = group_of(pair)
    assert group.answers[0][-1] == tokenizer.eos_id == group.answers[1][-1]
    assert all(marks[-1] for marks in group.scored)


def test_feed_sees_every_pair_once_a_round():
    groups = [Group([1], [[2], [3]])] * 7
    feed = Feed(groups, 4, 2, seed=0)
    seen = [at for step in range(feed.steps) for micro in feed(step) for at in micro.indices]
    assert sorted(seen) == sorted([*range(7)] * 2)
    assert [m.indices for m in feed(1)] == [m.indices for m in feed(1)]
    two = [Feed(groups, 4, 2, seed=0, rank=rank, ranks=2)(1) for rank in (0, 1)]
    assert sorted(i for part in two for m in part for i in m.indices) == sorted(
        Feed(groups, 4, 2, seed=0)(1)[0].indices
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "dop"}, "none of sigmoid"),
        ({"batch": 0}, "a pair for each"),
        ({"loss": "kto"}, "two pairs or more"),
        ({"reference": "start"}, "None, 'base' or a model"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        dpo(llama(), None, pairs(1), **{**QUIET, **options})


def test_text_without_a_tokenizer():
    with pytest.raises(ValueError, match="need a tokenizer"):
        dpo(llama(), None, [{"prompt": "a", "chosen": "b", "rejected": "c"}], **QUIET)


def test_narrow_runs_have_a_narrow_reference(tmp_path):
    model = llama()
    first = public(model, None, pairs(4), precision="bf16", batch=4, samples=0, cache=tmp_path)
    assert first.history[0]["margin"] == pytest.approx(0, abs=1e-3)
    assert [path.stem.rpartition("-")[2] for path in tmp_path.glob("*.npz")] == ["bf16"]


def test_another_models_tokens():
    wrong = [EncodedPair([1], [25, 2], [3, 2], [True] * 2, [True] * 2)]
    with pytest.raises(ValueError, match="it is another model's"):
        public(llama(), None, wrong, **QUIET)
