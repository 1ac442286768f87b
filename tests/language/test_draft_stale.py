"""Stale heads: what is measured, what the card keeps, when a warning comes."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch

from paragone.language import Llama, LlamaConfig, finetune, generate, train
from paragone.language import _draft_stale as stale
from paragone.language.drafting import Draft, Drafter, Drafting, Plan
from paragone.language.multi_token_prediction import MultiTokenPrediction

SIZES = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    made = Llama(LlamaConfig(**SIZES), generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.mul_(10)
    return made


class Knowing(Drafter):
    """Drafts what a model says greedily, and errs at every so many-th token of the text."""

    name = "knowing"

    def __init__(self, teacher, wrong=0, streams=False, siblings=False):
        self.teacher, self.wrong, self.streams = teacher, wrong, streams
        self.siblings = siblings

    def plans(self):
        return [Plan(1, 1), Plan(3, 3), Plan(6, 6), Plan(6, 3, 2)]

    def open(self, engine):
        return Reading(self)


class Reading(Drafting):
    def __init__(self, owner):
        self.owner, self.hidden, self.texts = owner, owner.streams, {}

    def add(self, key, tokens, sampling):
        assert sampling.temperature == 0
        self.texts[key] = list(tokens)

    def observe(self, keys, tokens, hidden):
        for key, new, rows in zip(keys, tokens, hidden, strict=True):
            if self.hidden:
                begun = len(self.texts[key])
                assert rows.shape == (len(new), SIZES["hidden_size"])
                assert (begun == 0) == (not rows[0].any())
                head = self.owner.teacher.lm_head.weight.detach().numpy()
                # All but the tokens of the prompt were the likeliest ones.
                assert (rows @ head.T).argmax(1)[-1] == new[-1]
            self.texts[key] += new.tolist()

    def draft(self, keys, plan):
        made = []
        for key in keys:
            text, wrong = self.texts[key], self.owner.wrong
            said = generate(self.owner.teacher, None, text, max_new_tokens=plan.depth).tokens
            tokens = [
                (t + 1) % 40 if wrong and (len(text) + i) % wrong == 0 else t
                for i, t in enumerate(said)
            ]
            if not self.owner.siblings:
                made.append(Draft.chain(tokens))
                continue
            # Each depth has a wrong node before or behind the right one.
            nodes, parents, last = [], [], -1
            for i, token in enumerate(said):
                pair = [token, (token + 1) % 40]
                nodes += pair if i % 2 else pair[::-1]
                parents += [last, last]
                last = len(nodes) - (2 if i % 2 else 1)
            made.append(Draft(np.array(nodes), np.array(parents)))
        return made

    def drop(self, key):
        del self.texts[key]


def test_a_digest_changes_with_weights_alone(model):
    other = copy.deepcopy(model)
    assert stale.digest(other) == stale.digest(model)
    assert stale.digest(other.double()) == stale.digest(model)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(1.001)
    assert stale.digest(other) != stale.digest(model)


@pytest.mark.parametrize("how", ["chain", "streams", "tree"])
def test_a_perfect_drafter_is_agreed_to(model, how):
    drafter = Knowing(model, streams=how == "streams", siblings=how == "tree")
    plan = Plan(6, 3, 2) if how == "tree" else Plan(3, 3)
    found = stale.agreement(drafter, model, plan, prompts=[[1], [1, 5, 7]], tokens=13)
    assert found.by_depth == (1.0, 1.0, 1.0)
    assert found.tokens_per_step == 4.0
    assert found.steps == 6


def test_acceptance_is_that_of_a_walk_by_hand(model):
    drafter = Knowing(model, wrong=5)
    found = stale.agreement(drafter, model, Plan(3, 3), prompts=[[1]], tokens=30)
    text, at, steps = generate(model, None, [1], max_new_tokens=30).tokens, 1, []
    while len(text) - at >= 4:
        agreed = 0
        while agreed < 3 and (1 + at + agreed) % 5:
            agreed += 1
        steps.append(agreed)
        at += agreed + 1
    reached = [sum(s >= d for s in steps) for d in range(4)]
    assert found.tokens_per_step == pytest.approx(1 + np.mean(steps))
    assert found.by_depth == pytest.approx([reached[d + 1] / reached[d] for d in range(3)])
    assert 0 < found.by_depth[0] < 1


def test_a_plan_is_chosen_and_short_texts_are_refused(model):
    assert stale.agreement(Knowing(model), model, prompts=[[1]], tokens=9).plan == Plan(3, 3)
    with pytest.raises(ValueError, match=r"texts of 3 tokens.*needs 5"):
        stale.agreement(Knowing(model), model, Plan(3, 3), tokens=3)
    ending = copy.deepcopy(model)
    ending.config = ending.config.replace(
        eos_token_id=int(generate(model, None, [1], max_new_tokens=1).tokens[0])
    )
    with pytest.raises(ValueError, match="longer prompts"):
        stale.agreement(Knowing(model), ending, Plan(3, 3), prompts=[[1]])


def test_large_models_are_asked_less():
    with torch.device("meta"):
        sizes = [torch.nn.Linear(10**4, width) for width in (1, 10**4, 10**6)]
    amounts = [stale._amount(module) for module in sizes]
    assert amounts[0] == (12, 64)
    assert amounts[2] == (2, 16)
    assert 2 <= amounts[1][0] <= 12


@pytest.mark.parametrize(
    ("now", "spread", "steps", "worse"),
    [(1.9, 1.0, 1000, True), (1.9, 1.0, 20, False), (1.99, 0.0, 1000, False), (2.2, 0.0, 9, False)],
)
def test_less_means_beyond_chance_and_a_fiftieth(now, spread, steps, worse):
    before = stale.Agreement(Plan(1, 1), (1.0,), 2.0, spread, steps)
    assert stale.Agreement(Plan(1, 1), (now - 1,), now, spread, steps).below(before) is worse


def test_a_changed_model_is_warned_about_with_both_figures(model):
    drafter = Knowing(model)
    kept = json.loads(json.dumps(stale.card(drafter, model)))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight.copy_(model.lm_head.weight.roll(3, 0))
    with pytest.warns(
        stale.StaleHeadsWarning, match=r"4.00 tokens a step \(accepted by depth 1.00"
    ):
        found = stale.check(drafter, other, kept)
    assert found is not None
    assert found.tokens_per_step < 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stale.check(drafter, model, kept) is None
        assert stale.check(drafter, other, None) is None
        # Weights that changed and say the same are no reason to worry.
        doubled = copy.deepcopy(model)
        with torch.no_grad():
            doubled.lm_head.weight.mul_(2)
        assert stale.check(drafter, doubled, kept) is not None


ASKED = "User: count\nAssistant: "
UP = "one two three four five six seven eight nine ten "
DOWN = "ten nine eight seven six five four three two one "


def test_the_whole_way_from_heads_to_stale_heads_and_back(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 48, "max_position_embeddings": 128}  # fmt: skip
    run = train([ASKED + UP * 3] * 20, model=sizes, vocab_size=290, length=64, batch=2, lr=2e-2,
                tokens=8000, precision="fp32", compile=False)  # fmt: skip
    model, tokenizer = run.model, run.tokenizer
    options = {"tokens": 1500, "steps": 40, "length": 64, "batch": 4, "lr": 2e-2, "unroll": 2}
    heads = MultiTokenPrediction.train(model, tokenizer, **options)
    heads.save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heads = MultiTokenPrediction.load(tmp_path, model)
    rows = [{"prompt": "count", "completion": DOWN * 3}] * 48
    finetune(model, tokenizer, rows, epochs=2, batch=4, lr=1e-2, template="plain", packed=False,
             precision="fp32")  # fmt: skip
    with pytest.warns(stale.StaleHeadsWarning, match="start=heads"):
        heads = MultiTokenPrediction.load(tmp_path, model)
    fresh, before, now = stale.refit(heads, model, tokenizer, **options)
    assert before.below(now)
    fresh.save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = MultiTokenPrediction.load(tmp_path, model)
    assert stale.agreement(loaded, model) == now
    prompt = tokenizer.encode(ASKED, bos=True)
    plain = generate(model, tokenizer, prompt, max_new_tokens=30)
    ahead = generate(model, tokenizer, prompt, max_new_tokens=30, speculate=loaded, draft=2)
    assert ahead.tokens == plain.tokens
