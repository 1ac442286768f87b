"""Draft models: they draft what they would say; what comes out is what the large one says."""

import numpy as np
import pytest
import torch

from paragone.language import DraftModel, Engine, Llama, LlamaConfig, Plan, Sampling, generate

SIZES = {
    "vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 40, "eos_token_id": None,
}  # fmt: skip
GREEDY = Sampling(temperature=0.0)


def made(seed, **changes):
    model = Llama(
        LlamaConfig(**{**SIZES, **changes}), generator=torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(8)
    return model.eval()


@pytest.fixture(scope="module")
def large():
    return made(0)


@pytest.fixture(scope="module")
def small(large):
    """A model that says much of what the large one says."""
    model = made(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.03 * p.std(correction=0) * torch.randn(
                p.shape, generator=torch.Generator().manual_seed(1)))  # fmt: skip
    return model


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_chains_are_what_the_small_model_says(large, small, backend):
    drafting = DraftModel(Engine.make(small, backend)).open(Engine.make(large))
    text = [1, 4, 9, 30, 2, 2, 7, 41, 3]
    drafting.add("a", text[:2], GREEDY)
    assert not drafting.hidden
    # Drafts agreed to, drafts refused, and both at once.
    known, found = text[:2], None
    for new in ([9, 30], [2], "agreed", [7, 41], "agreed"):
        if new == "agreed":
            assert found is not None
            new = [*found.tokens[:2].tolist(), 5]
        known += new
        drafting.observe(["a"], [np.array(new)], [None])
        found = drafting.draft(["a"], Plan(4, 4))[0]
        said = generate(Engine.make(small, backend), None, known, max_new_tokens=4).tokens
        assert found.tokens.tolist() == said


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_trees_in_company_are_those_alone(large, small, backend):
    both, text = DraftModel(Engine.make(small, backend)), [1, 4, 9, 30, 2, 2, 7, 41, 3]
    together = both.open(Engine.make(large))
    for key, count in (("a", 5), ("b", 9), ("c", 1)):
        together.add(key, [], GREEDY)
        together.observe([key], [np.array(text[:count])], [None])
    together.draft(["b", "a"], Plan(6, 3, 3))
    together.observe(["a"], [np.array([6, 7])], [None])
    drafts = together.draft(["c", "a", "b"], Plan(8, 3, 3))
    for known, draft in zip((text[:1], [*text[:5], 6, 7], text), drafts, strict=True):
        alone = both.open(Engine.make(large))
        alone.add(0, known, GREEDY)
        own = alone.draft([0], Plan(8, 3, 3))[0]
        assert own.tokens.tolist() == draft.tokens.tolist()
        assert own.parents.tolist() == draft.parents.tolist()
        scores = small(torch.tensor([known])).logits[0, -1]
        assert draft.tokens[0] == int(scores.argmax())


@pytest.mark.parametrize("plan", [Plan(4, 4), Plan(8, 3, 3)], ids=["chain", "tree"])
def test_texts_are_those_of_plain_decoding(large, small, plan):
    prompts = [[1, 5, 9], [1, 30], [8] * 20]
    for options in ({}, {"temperature": 0.8, "seed": 3}, {"repetition_penalty": 1.3}):
        plain = generate(large, None, prompts, max_new_tokens=24, **options)
        drafted = generate(
            large, None, prompts, max_new_tokens=24, draft=plan, speculate=DraftModel(small),
            **options,
        )  # fmt: skip
        assert [one.tokens for one in drafted] == [one.tokens for one in plain]
    # The last ones are greedy; drawn from so flat a distribution, the likeliest token is rare.
    assert min(one.tokens_per_step for one in drafted) > 1.5


def test_the_model_itself_is_always_agreed_to(large):
    for options in ({}, {"temperature": 1.0, "seed": 1}):
        drafted = generate(
            large, None, [1, 5, 9], max_new_tokens=20, draft=3, **options,
            speculate=DraftModel(large, drawn=True),
        )  # fmt: skip
        assert drafted.accepted_by_depth[:3] == pytest.approx([1.0, 1.0, 1.0])


def test_a_draft_is_empty_where_nothing_is_known_and_vocabularies_must_agree(large, small):
    drafting = DraftModel(small).open(Engine.make(large))
    drafting.add(0, [], GREEDY)
    assert not len(drafting.draft([0], Plan(2, 2))[0].tokens)
    with pytest.raises(ValueError, match="has 33 tokens, the model 50"):
        DraftModel(made(0, vocab_size=33)).open(Engine.make(large))
