"""Blocks that draft: every guess against the block run anew over its whole path."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from paragone.language import Engine, Llama, LlamaConfig, Plan, Sampling
from paragone.language._block_growth import Growth
from paragone.language._block_pages import Pages
from paragone.language._draft_block import BlockHead, Merge
from paragone.language.llama import Block, RMSNorm

SIZES = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 40,
}  # fmt: skip
CONFIG = LlamaConfig(**SIZES)
GREEDY = Sampling(temperature=0.0)


def drawn(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.requires_grad_(False)
        more = torch.randn(p.shape, generator=generator)
        p.copy_(0.4 * more if p.ndim > 1 else 1 + 0.1 * more)
    return module


@pytest.fixture(scope="module")
def model():
    return drawn(Llama(CONFIG), 0)


@pytest.fixture(scope="module")
def text(model):
    """Tokens, and the stream that each was predicted from."""
    ids = np.random.default_rng(0).integers(0, 61, 21)
    with torch.no_grad():
        hidden = model(torch.from_numpy(ids)[None]).hidden[0].numpy()
    return ids, np.concatenate([np.zeros_like(hidden[:1]), hidden[:-1]])


def head_of(model, blocks=1, norm=RMSNorm, ids=None, backend="numba", **more):
    makers = (lambda: Block(CONFIG, 0), lambda: Merge(24, bias=True), lambda: norm(24))
    parts = [[drawn(make(), 10 * at + n) for n in range(blocks)] for at, make in enumerate(makers)]
    weight = model.lm_head.weight if ids is None else model.lm_head.weight[ids]
    head = BlockHead(*parts, weight, ids, model.model.embed_tokens.weight, CONFIG, **more)
    if backend == "torch":
        head._engine = lambda own, threads: Engine.make(own, "torch")
    return head


def opened(head, model):
    return head.open(Engine.make(model, "numba", threads=1))


def scores_behind(head, model, text, path):
    """Scores behind a path of drafts, every block run anew over all that it reads."""
    ids, streams = text
    whole = torch.from_numpy(np.concatenate([ids, path]).astype(np.int64))
    read, last = torch.from_numpy(streams[1:]), len(head.models) - 1

    def run(at, tokens, read):
        own = head.models[at]
        x = head.merges[at](head.embedding[tokens], read)
        return own.model.norm(own.model.layers[0](x[None], None, None, None)[0])[0]

    with torch.no_grad():
        # Block k reads the stream that block k - 1 left one token before.
        for at in range(min(len(path), last) + 1):
            count = len(ids) - 1
            found = run(at, whole[1 + at : 1 + at + count], read)
            read = found
        first = 1 + min(len(path), last)
        tokens = whole[first : first + count]
        read = _read_by(head, run, whole, streams, min(len(path), last), count)
        for token in path[last:] if len(path) > last else []:
            tokens = torch.cat([tokens, torch.tensor([token])])
            read = torch.cat([read, found[-1:]])
            found = run(last, tokens, read)
    return (found @ head.models[-1].lm_head.weight.T).numpy()[-1]


def _read_by(head, run, whole, streams, number, count):
    """The streams that a block reads."""
    read = torch.from_numpy(streams[1:])
    for at in range(number):
        read = run(at, whole[1 + at : 1 + at + count], read)
    return read


KINDS = {
    "one": {}, "streams as they are": {"norm": lambda width: nn.Identity()},
    "three": {"blocks": 3}, "few tokens": {"ids": torch.arange(0, 61, 2)},
}  # fmt: skip


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_chains_are_those_of_the_block_run_anew(model, text, kind, backend):
    head = head_of(model, backend=backend, **KINDS[kind])
    drafting = opened(head, model)
    ids, streams = text
    drafting.add("a", [], GREEDY)
    for part in (slice(0, 9), slice(9, 10), slice(10, 21)):
        drafting.observe(["a"], [ids[part]], [streams[part]])
        found = drafting.draft(["a"], Plan(4, 4))[0]
    path = []
    for _ in range(4):
        best = int(scores_behind(head, model, text, path).argmax())
        path.append(best if head.ids is None else int(head.ids[best]))
    assert found.tokens.tolist() == path
    assert found.parents.tolist() == [-1, 0, 1, 2]


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_trees_hold_the_worthiest_paths(model, text, blocks, backend):
    head = head_of(model, blocks, backend=backend)
    drafting = opened(head, model)
    drafting.add("a", [], GREEDY)
    drafting.observe(["a"], [text[0]], [text[1]])
    plan = Plan(9, 3, 3)
    found = drafting.draft(["a"], plan)[0]

    level, every = [((), 0.0)], []
    for _ in range(3):
        new = []
        for path, worth in level:
            x = scores_behind(head, model, text, list(path)).astype(np.float64)
            logs = x - x.max() - np.log(np.exp(x - x.max()).sum())
            new += [((*path, int(t)), worth + logs[t]) for t in np.argsort(-logs)[:3]]
        every += new
        level = sorted(new, key=lambda one: -one[1])[:3]
    best = {path for path, _ in sorted(every, key=lambda one: -one[1])[:9]}
    paths = []
    for token, parent in zip(found.tokens.tolist(), found.parents.tolist(), strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    assert set(paths) == best


def test_company_and_taken_back_drafts_change_nothing(model, text):
    head = head_of(model, 2)
    ids, streams = text
    together, alone = opened(head, model), opened(head, model)
    for key, count in (("a", 13), ("b", 21), ("c", 2)):
        together.add(key, [], GREEDY)
        together.observe([key], [ids[: count - 1]], [streams[: count - 1]])
    together.draft(["b", "a"], Plan(12, 4, 3))
    keys, counts = ["c", "a", "b"], [2, 13, 21]
    together.observe(keys, [ids[n - 1 : n] for n in counts], [streams[n - 1 : n] for n in counts])
    drafts = together.draft(keys, Plan(8, 4, 2))
    for key, count, draft in zip(keys, counts, drafts, strict=True):
        alone.add(key, [], GREEDY)
        alone.observe([key], [ids[:count]], [streams[:count]])
        own = alone.draft([key], Plan(8, 4, 2))[0]
        assert own.tokens.tolist() == draft.tokens.tolist()
        assert own.parents.tolist() == draft.parents.tolist()
        together.drop(key)
    assert len(together.modules[0].pages._free) == together.modules[0].pages.pool.pages


def test_it_begins_anew_behind_a_stretch_without_streams(model, text):
    head = head_of(model, 2)
    ids, streams = text
    drafting = opened(head, model)
    drafting.add("a", ids[:4], GREEDY)
    assert not len(drafting.draft(["a"], Plan(2, 2))[0].tokens)
    drafting.observe(["a"], [ids[4:8]], [streams[4:8]])
    assert len(drafting.draft(["a"], Plan(2, 2))[0].tokens) == 2
    drafting.observe(["a"], [ids[8:11]], [None])
    assert not len(drafting.draft(["a"], Plan(2, 2))[0].tokens)
    drafting.observe(["a"], [ids[11:15]], [streams[11:15]])
    late = drafting.draft(["a"], Plan(3, 3))[0].tokens
    fresh = opened(head, model)
    fresh.add("b", ids[:11], GREEDY)
    fresh.observe(["b"], [ids[11:15]], [streams[11:15]])
    assert late.tolist() == fresh.draft(["b"], Plan(3, 3))[0].tokens.tolist()


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_pools_grow_and_keep_what_they_hold(model, backend):
    engine = Engine.make(model, backend)
    ids = np.random.default_rng(1).integers(0, 61, 40)
    pages = Pages(engine)
    pages.add("a")
    table = pages.cover("a", 40)
    engine.forward(pages.pool, ids[:30], [30], [0], [table], logits="none")
    pages.add("b")
    pages.cover("b", 16 * 70)
    assert pages.pool.pages > 70
    late = engine.forward(pages.pool, ids[30:], [10], [30], [table])
    pool = engine.new_pool(3)
    np.testing.assert_allclose(
        late, engine.forward(pool, ids, [40], [0], [[0, 1, 2]]), atol=1e-5, rtol=1e-5
    )


def test_paged_pools_grow(model):
    from paragone.language._engine_paged import PagedEngine

    pool = PagedEngine(model).new_pool(2)
    pool.parts[0][0].fill_(3.0)
    pool.grow(5)
    assert pool.parts[1][1].shape[0] == pool.pages == 5
    assert bool((pool.parts[0][0][:2] == 3).all())
    assert not bool(pool.parts[0][0][2:].any())


def grown(seed, plan, logits, sampling, ids=None, vocabulary=5):
    growth = Growth(plan, sampling.replace(seed=seed), True, ids, vocabulary, [1], 1)
    while growth.front:
        growth.extend(np.stack([logits] * len(growth.front)))
    return growth.draft()


def test_drawn_siblings_have_the_chances_of_draws_without_replacement():
    logits = np.array([0.3, 1.0, -0.5, 0.0], np.float32)
    sampling = Sampling(temperature=0.7, top_k=3)
    ids = np.array([0, 1, 3, 4])
    p = np.zeros(5)
    p[ids] = sampling.probabilities(logits)
    counts = {}
    for seed in range(4000):
        draft = grown(seed, Plan(2, 1, 2), logits, sampling, ids)
        np.testing.assert_allclose(draft.shares[-1], p)
        pair = tuple(draft.tokens.tolist())
        counts[pair] = counts.get(pair, 0) + 1
    chances = {
        (a, b): p[a] * p[b] / (1 - p[a]) for a, b in itertools.permutations(np.flatnonzero(p), 2)
    }
    assert set(counts) == {(int(a), int(b)) for a, b in chances}
    found = [counts[int(a), int(b)] for a, b in chances]
    assert stats.chisquare(found, 4000 * np.array(list(chances.values()))).pvalue > 1e-3
    # One who drew with replacement would be found out.
    wrong = np.array([p[a] * p[b] for a, b in chances])
    assert stats.chisquare(found, 4000 * wrong / wrong.sum()).pvalue < 1e-3


def test_drawn_trees_have_a_shape_that_draws_do_not_decide():
    logits = np.array([0.0, 0.1, 0.2, 0.3, 3.0], np.float32)
    shapes = set()
    for seed in range(20):
        draft = grown(seed, Plan(7, 3, 2), logits, Sampling(temperature=1.0))
        assert len(draft.tokens) <= 7
        assert all(len(set(draft.tokens[draft.parents == at])) == (draft.parents == at).sum()
                   for at in set(draft.parents.tolist()))  # fmt: skip
        shapes.add(tuple(draft.depths.tolist()))
    assert shapes == {(1, 1, 2, 2, 3, 3)}


def test_penalties_and_biases_reach_drafts():
    logits = np.array([3.0, 2.0, 1.0], np.float32)
    sampling = Sampling(temperature=0.0, logit_bias={3: -np.inf}, presence_penalty=1.5)
    growth = Growth(Plan(3, 3), sampling, False, np.array([3, 0, 2]), 4, [1], 1)
    while growth.front:
        growth.extend(logits[None])
    # 3 is forbidden, 0 comes, then 2 has the larger score, and then 0 again.
    assert growth.draft().tokens.tolist() == [0, 2, 0]


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(ValueError, match=r"head_weight has shape \(61, 24\); \(3, 24\) fits"):
        BlockHead(
            Block(CONFIG, 0), Merge(24), RMSNorm(24), model.lm_head.weight, [1, 2, 3],
            model.model.embed_tokens.weight, CONFIG,
        )  # fmt: skip
    with pytest.raises(ValueError, match="ids are to rise"):
        head_of(model, ids=torch.tensor([3, 2]))
    with pytest.raises(ValueError, match="2 parts for 1 blocks"):
        BlockHead(
            Block(CONFIG, 0), [Merge(24)] * 2, RMSNorm(24), model.lm_head.weight, None,
            model.model.embed_tokens.weight, CONFIG,
        )  # fmt: skip
    other = Llama(CONFIG.replace(vocab_size=33))
    with pytest.raises(ValueError, match="61 tokens; this one has 24 and 33"):
        opened(head_of(model), other)


def test_plans_and_chances(model):
    head = head_of(model, depth=4, accuracies=[0.7, 0.5])
    assert [plan.depth for plan in head.plans()] == [1, 2, 3, 4, 3, 4]
    assert head.chances(Plan(3, 3)).tolist() == pytest.approx([0.7, 0.5, 0.5])
    assert (head.chances(Plan(6, 3, 2)) > [0.7, 0.5, 0.5]).all()


def test_eight_bits_draft_nearly_the_same(model, text):
    drafting = opened(head_of(model, weights="int8"), model)
    assert drafting.modules[0].engine.weights == "int8"
    drafting.add(0, [], GREEDY)
    drafting.observe([0], [text[0]], [text[1]])
    assert len(drafting.draft([0], Plan(3, 3))[0].tokens) == 3
