"""The loop of drafts: whatever is guessed, texts, scores and ends are those of plain decoding."""

import numpy as np
import pytest
import torch
from tests.language.small_llamas import OPTIONS, made

from paragone.language import _draft_pace, _engine_numba, _speculate_loop
from paragone.language._engine_numba import KeyPool
from paragone.language._engine_paged import PagedEngine
from paragone.language._speculate_loop import plan_of
from paragone.language.checkpoints import load
from paragone.language.drafting import Draft, Drafter, Drafting, Plan
from paragone.language.engine import Engine
from paragone.language.generate import draft_of, generate, sample_batch
from paragone.language.llama import Llama
from paragone.language.sampling import Sampling

PROMPTS = [[1, 2, 3], [7], list(range(20)), [5, 5]]
TREE = Plan(8, 4, 2)


class Scripted(Drafter):
    """Guesses from texts that are given: chains, or trees of pairs of which one is right.

    `right(depth)` says whether the guess at a depth is the true token.
    """

    name = "scripted"

    def __init__(self, texts, vocabulary, tree=False, right=None, hidden=False, drawn=False):
        self.texts, self.vocabulary, self.tree = texts, vocabulary, tree
        self.rng = np.random.default_rng(0)
        self.right = right or (lambda depth: self.rng.random() < 0.75)
        self.hidden, self.drawn, self.opened = hidden, drawn, []

    def plans(self):
        return [Plan(2, 2), Plan(4, 4), Plan(8, 4, 2)]

    def chances(self, plan):
        return np.full(plan.depth, 0.75)

    def open(self, engine):
        self.opened.append(_Drafting(self))
        return self.opened[-1]


class _Drafting(Drafting):
    def __init__(self, drafter):
        self.drafter, self.hidden = drafter, drafter.hidden
        self.known, self.streams, self.dropped = {}, {}, []

    def add(self, key, tokens, sampling):
        self.known[key], self.streams[key] = list(tokens), []

    def observe(self, keys, tokens, hidden):
        for key, new, streams in zip(keys, tokens, hidden, strict=True):
            self.known[key] += [int(token) for token in new]
            text = self.drafter.texts[key]
            assert self.drafter.drawn or self.known[key] == text[: len(self.known[key])]
            assert streams is None or len(streams) == len(new)
            self.streams[key].append(streams)

    def draft(self, keys, plan):
        return [self._draft(key, plan) for key in keys]

    def drop(self, key):
        self.dropped.append(key)

    def _draft(self, key, plan):
        owner, at = self.drafter, len(self.known[key])
        tokens, parents, node = [], [], -1
        for depth in range(plan.depth):
            text = owner.texts[key]
            true = text[at + depth] if at + depth < len(text) else 0
            other = (true + 1 + int(owner.rng.integers(owner.vocabulary - 1))) % owner.vocabulary
            right = owner.right(depth)
            if owner.tree:
                pair = [true, other] if owner.rng.random() < 0.5 else [other, true]
                tokens += pair
                parents += [node, node]
                node = len(tokens) - 2 + pair.index(true if right else other)
            else:
                tokens.append(true if right else other)
                parents.append(node)
                node = len(tokens) - 1
        shares = {}
        if owner.drawn:
            shares = {-1: np.full(owner.vocabulary, 1 / owner.vocabulary)}
        return Draft(np.array(tokens), np.array(parents), shares)


@pytest.fixture(scope="module")
def model() -> Llama:
    return made()


class Letters:
    """A tokenizer whose tokens are letters; 39 ends a text."""

    eos_id, bos_id = 39, None

    def encode(self, text, bos=True, eos=False):
        return [ord(letter) - 65 for letter in text]

    def stream(self):
        return self

    def push(self, token):
        return chr(65 + token)

    def flush(self):
        return ""


def script(prompts, plain, **options) -> Scripted:
    texts = [list(p) + one.tokens + [39] for p, one in zip(prompts, plain, strict=True)]
    return Scripted(texts, 40, **options)


def same(found, plain) -> None:
    assert found.tokens == plain.tokens
    assert found.log_probs == plain.log_probs
    assert found.finish_reason == plain.finish_reason
    assert str(found) == str(plain)


@pytest.mark.parametrize("tree", [False, True], ids=["chains", "trees"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_chosen_drafts_change_no_bit_of_any_row(model, options, tree):
    plain = generate(model, None, PROMPTS, max_new_tokens=40, **options)
    drafter = script(PROMPTS, plain, tree=tree, hidden=True)
    found = generate(model, None, PROMPTS, max_new_tokens=40, speculate=drafter,
                     draft=TREE if tree else 4, **options)  # fmt: skip
    for ours, theirs in zip(found, plain, strict=True):
        same(ours, theirs)
    assert max(one.tokens_per_step for one in found) > 1.3
    assert sorted(drafter.opened[0].dropped) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "changes",
    [{"mixer": "window", "mixer_options": {"window": 7}, "num_key_value_heads": 4},
     {"num_key_value_heads": 1, "head_dim": 10, "qk_norm": True}],
    ids=["window", "odd widths"],
)  # fmt: skip
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_trees_of_other_models_and_teams(changes, weights, monkeypatch):
    monkeypatch.setattr(_engine_numba, "_WORTH_A_TEAM", 0)
    engine = Engine.make(made(**changes), "numba", weights, threads=2)
    options = {"max_new_tokens": 50, "temperature": 1.0, "seed": 2}
    plain = generate(engine, None, PROMPTS, **options)
    found = generate(engine, None, PROMPTS, speculate=script(PROMPTS, plain, tree=True),
                     draft=TREE, **options)  # fmt: skip
    for ours, theirs in zip(found, plain, strict=True):
        same(ours, theirs)


def test_without_moving_what_was_agreed_to_the_text_is_another(model, monkeypatch):
    plain = generate(model, None, PROMPTS, max_new_tokens=40)
    drafter = script(PROMPTS, plain, tree=True, drawn=True)
    monkeypatch.setattr(KeyPool, "move", lambda *given: None)
    found = generate(model, None, PROMPTS, max_new_tokens=40, speculate=drafter, draft=TREE)
    assert any(a.log_probs != b.log_probs for a, b in zip(found, plain, strict=True))


def test_drafters_get_the_streams_that_each_token_came_from(model):
    plain = generate(model, None, PROMPTS, max_new_tokens=20)
    drafter = script(PROMPTS, plain, tree=True, hidden=True)
    generate(model, None, PROMPTS, max_new_tokens=20, speculate=drafter, draft=TREE)
    drafting = drafter.opened[0]
    for key, tokens in drafting.known.items():
        streams = np.concatenate(drafting.streams[key])
        assert len(streams) == len(tokens)
        wanted = model(torch.tensor([tokens])).hidden[0, :-1].numpy()
        assert not streams[0].any()
        assert np.abs(streams[1:] - wanted).max() < 1e-4


@pytest.mark.parametrize("several", [False, True], ids=["one", "batch"])
def test_plain_stretches_between_drafts_leave_no_trace(model, several, monkeypatch):
    class Pace:
        stretch, told_steps = 3, []

        def __init__(self, engine, drafter, plan):
            self.count = 0

        def choose(self, rows, left):
            self.count += 1
            return TREE if self.count % 3 == 0 else None

        def told(self, plan, rows, drafting, passing, offered=(), accepted=(), steps=1):
            assert drafting >= 0 < passing
            assert plan is None or (np.asarray(accepted) <= offered).all()
            self.told_steps.append(steps)

    monkeypatch.setattr(_speculate_loop, "Pace", Pace)
    monkeypatch.setattr(_draft_pace, "worth_trying", lambda *_: True)
    prompts = PROMPTS if several else PROMPTS[2:3]
    options = {"max_new_tokens": 60, "temperature": 1.1, "seed": 9, "logit_bias": {39: -np.inf}}
    plain = generate(model, None, prompts, **options)
    for hidden in (False, True):
        drafter = script(prompts, plain, tree=True, hidden=hidden)
        found = generate(model, None, prompts, speculate=drafter, **options)
        for ours, theirs in zip(found, plain, strict=True):
            same(ours, theirs)
        told = [part is None for part in drafter.opened[0].streams[0]]
        assert not hidden or True in told
        assert not hidden or False in told[1:]
    assert max(Pace.told_steps) == 3


def test_auto_is_plain_decoding_to_the_bit(model):
    plain = generate(model, None, PROMPTS, max_new_tokens=60, temperature=1.0, seed=1)
    for at in (slice(0, 4), slice(0, 1)):
        drafter = script(PROMPTS[at], plain[at], hidden=True)
        found = generate(model, None, PROMPTS[at], max_new_tokens=60, temperature=1.0, seed=1,
                         speculate=drafter)  # fmt: skip
        for ours, theirs in zip(found, plain[at], strict=True):
            same(ours, theirs)


def test_texts_end_inside_a_run_where_they_would_end(model):
    letters = Letters()
    options = {"max_new_tokens": 30, "temperature": 1.5, "seed": 8}
    whole = generate(model, letters, "BCD", **options)

    def always():
        return script([[1, 2, 3]], [whole], right=lambda depth: True)

    ends: list[dict] = [
        {}, {"stop": whole[10:13]}, {"stop": whole.tokens[6]}, {"max_new_tokens": 7},
        {"max_new_tokens": 2}, {"max_new_tokens": 1}, {"max_new_tokens": 0},
        {"stop": [whole[4:6], whole.tokens[20]]},
    ]  # fmt: skip
    for more in ends:
        pieces = [], []
        plain = generate(model, letters, "BCD", stream=pieces[0].append, **{**options, **more})
        found = generate(model, letters, "BCD", stream=pieces[1].append, speculate=always(),
                         draft=4, **{**options, **more})  # fmt: skip
        same(found, plain)
        assert "".join(pieces[0]) == "".join(pieces[1]) == found
    eos = made(eos_token_id=whole.tokens[8])
    plain = generate(eos, None, [1, 2, 3], **options)
    found = generate(eos, None, [1, 2, 3], speculate=always(), draft=4, **options)
    same(found, plain)
    assert found.finish_reason == "stop"


def test_figures_of_a_text(model):
    plain = generate(model, None, [1, 2, 3], max_new_tokens=31)
    assert (plain.tokens_per_step, plain.accepted_by_depth) == (1.0, [])
    drafter = script([[1, 2, 3]], [plain], right=lambda depth: depth < 2)
    found = generate(model, None, [1, 2, 3], max_new_tokens=31, speculate=drafter, draft=Plan(3, 3))
    assert found.tokens_per_step == 3.0
    assert found.accepted_by_depth == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("kind", ["softmax", "linear", "paged"])
def test_other_engines_give_the_same_tokens(kind):
    model = made(**({"mixer": ("gqa", "linear")} if kind == "linear" else {}))
    engine = PagedEngine(model) if kind == "paged" else Engine.make(model, "torch")
    options = {"max_new_tokens": 14, "temperature": 0.9, "seed": 4}
    plain = generate(engine, None, PROMPTS[:2], **options)
    drafter = script(PROMPTS[:2], plain, tree=True, hidden=True)
    found = generate(engine, None, PROMPTS[:2], speculate=drafter, draft=TREE, **options)
    for ours, theirs in zip(found, plain, strict=True):
        assert ours.tokens == theirs.tokens
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-4)
    assert max(one.tokens_per_step for one in found) > 1
    if kind != "paged":
        auto = generate(engine, None, PROMPTS[0], speculate=drafter, **options)
        assert auto.tokens == plain[0].tokens


def test_many_rows_draw_as_in_plain_decoding(model):
    engine, prompts = Engine.make(model, threads=1), [[1], [2], [3]] * 3
    sampling = Sampling(temperature=1.2, seed=11)
    plain = sample_batch(engine, prompts, sampling, 25, [39])
    found = sample_batch(engine, prompts, sampling, 25, [39], speculate="prompt-lookup", draft=3)
    for ours, theirs in zip(found.ids, plain.ids, strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(np.concatenate(found.log_probs), np.concatenate(plain.log_probs))
    assert np.array_equal(found.finished, plain.finished)


def test_drawn_drafts_are_greedy_without_heat_and_the_seeds_own_with_it(model):
    plain = generate(model, None, PROMPTS, max_new_tokens=20)
    found, hot = [], []
    for _ in range(2):
        drafter = script(PROMPTS, plain, drawn=True, tree=True)
        found.append(generate(model, None, PROMPTS, max_new_tokens=20, speculate=drafter, draft=8))
        hot.append(generate(model, None, PROMPTS, max_new_tokens=20, temperature=1.0, seed=5,
                            speculate=script(PROMPTS, plain, drawn=True), draft=4))  # fmt: skip
    for ours, theirs in zip(found[0], plain, strict=True):
        same(ours, theirs)
    assert [one.tokens for one in hot[0]] == [one.tokens for one in hot[1]]


def test_forty_prompts_of_a_real_model(data_folder):
    path = data_folder / "language" / "stories260K"
    if not path.exists():
        pytest.skip("the real model is not there")
    engine = Engine.make(load(path)[0], threads=1)
    rng = np.random.default_rng(0)
    prompts = [[1, *rng.integers(3, 512, n).tolist()] for n in rng.integers(0, 30, 40)]
    plain = generate(engine, None, prompts, max_new_tokens=48)
    for draft in (4, TREE):
        found = generate(engine, None, prompts, max_new_tokens=48, speculate="prompt-lookup",
                         draft=draft)  # fmt: skip
        for ours, theirs in zip(found, plain, strict=True):
            same(ours, theirs)


def test_what_is_refused(model):
    plain = [generate(model, None, [1], max_new_tokens=3)]
    drafter = script([[1]], plain)
    for options, why in (
        ({"beams": 2}, "takes no drafts"),
        ({"acceptance": "sometimes"}, "none of 'exact'"),
        ({"draft": 0}, "from 1 on"),
        ({"draft": "much"}, "'auto', a Plan"),
        ({"speculate": "oracle"}, "'prompt-lookup', a Drafter"),
    ):
        with pytest.raises(ValueError, match=why):
            generate(model, None, [1], **{"speculate": drafter, **options})
    drafter.opened.clear()
    wide = script([[1]], plain, tree=True)
    with pytest.raises(ValueError, match="scripted drafted 8 tokens"):
        generate(model, None, [1], max_new_tokens=9, speculate=wide, draft=Plan(4, 4))


def test_plans_and_drafters_are_named(model):
    drafter = Scripted([], 40)
    assert plan_of(drafter, 5) == Plan(4, 4)
    assert plan_of(drafter, 9) == TREE
    assert plan_of(drafter, 1) == Plan(1, 1)
    assert plan_of(drafter, TREE) is TREE
    assert draft_of(None) is None
    assert draft_of(drafter) is drafter
    assert draft_of("prompt-lookup").name == "prompt-lookup"
    assert draft_of(model).name
