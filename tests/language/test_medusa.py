"""Medusa: what each head predicts, the packed pass, trees at work, files, known traps."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from paragone.language import Llama, LlamaConfig, Medusa, Plan, generate
from paragone.language._draft_stale import StaleHeadsWarning
from paragone.language._heads_data import HeadBatch, streams
from paragone.language._medusa_draft import HeadsPass
from paragone.language._medusa_heads import MedusaHeads, heads_loss, true_ranks
from paragone.language.engine import engine_of
from paragone.language.sampling import Sampling

SIZES = {"vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "max_position_embeddings": 128, "bos_token_id": 1}  # fmt: skip
PATTERN = [3, 14, 15, 9, 2, 6, 5, 35, 8, 7]


def _model(seed=0):
    return Llama(LlamaConfig(**SIZES), generator=torch.Generator().manual_seed(seed))


def _filled(heads, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in heads.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 4)
    return heads


@pytest.fixture(scope="module")
def model():
    return _model()


@pytest.fixture(scope="module")
def sure():
    """A model that has learnt a pattern by heart, and heads for it."""
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    row = torch.tensor([PATTERN * 5])
    for _ in range(120):
        loss = nn.functional.cross_entropy(model(row[:, :-1]).logits[0], row[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rows = [np.array(PATTERN * 5)[at : at + 30] for at in range(10)]
    heads = Medusa.train(model, None, rows=rows, heads=3, steps=150, batch=4, lr=1e-2)
    return model, heads


def _reference(heads, shared, hidden):
    """Scores of all heads in float64, from the equation."""
    found = []
    for k in range(len(heads)):
        x = hidden.astype(np.float64)
        for block in heads.blocks(k):
            y = x @ block.linear.weight.detach().double().numpy().T
            y = y + block.linear.bias.detach().double().numpy()
            y = y / (1 + np.exp(-y))
            x = x + (y @ block.out.weight.detach().double().numpy().T if heads.inner else y)
        found.append(x @ heads.matrix(k, shared).detach().double().numpy().T)
    return np.stack(found, 1)


@pytest.mark.parametrize(
    ("layers", "words", "inner"), [(0, 37, 0), (1, 37, 0), (2, 0, 24), (2, 37, 0)],
    ids=["matrix", "published", "shared", "two"],
)  # fmt: skip
def test_the_packed_pass_is_the_equation(model, layers, words, inner):
    heads = _filled(MedusaHeads(3, 16, layers, words, inner))
    hidden = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    shared = model.lm_head.weight.detach()
    want = _reference(heads, shared, hidden)
    run = HeadsPass(heads, shared)
    for depth in (1, 3):
        np.testing.assert_allclose(run(hidden, depth).numpy(), want[:, :depth], atol=2e-5)
    own = torch.stack(heads(torch.from_numpy(hidden), shared), 1).detach()
    np.testing.assert_allclose(own.numpy(), want, atol=2e-5)
    narrow = HeadsPass(heads, shared, "int8")(hidden, 3).numpy()
    assert np.abs(narrow - want).max() < 0.05 * np.abs(want).max()


def test_heads_share_no_block():
    """`[block] * n` would train one block under many names."""
    heads = MedusaHeads(3, 8, 2, 9)
    assert len({p.data_ptr() for p in heads.parameters()}) == len(list(heads.parameters())) == 15


@pytest.mark.parametrize("soft", [False, True], ids=["token", "soft"])
def test_loss_of_each_head_is_of_the_token_behind_its_distance(model, soft):
    """Head k at t is compared with t + k + 2, in float64 and by hand; its gradient too."""
    heads = _filled(MedusaHeads(2, 16, 1, 0, 8)).double()
    shared = model.lm_head.weight.detach().double()
    tokens = torch.tensor([[4, 8, 1, 0, 6], [7, 2, 9, 0, 0]])
    hidden = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator())
    batch = HeadBatch(tokens, torch.tensor([5, 3]), hidden)
    found = heads_loss(heads, shared, batch, None, soft=soft)
    scores = [s.log_softmax(-1) for s in heads(batch.hidden, shared)]
    teacher = (batch.hidden @ shared.T).softmax(-1)
    want, counts = [0.0, 0.0], [0, 0]
    for k in range(2):
        for row, length in enumerate((5, 3)):
            for t in range(length - k - 2):
                label = int(tokens[row, t + k + 2])
                one = -(teacher[row, t + k + 1] * scores[k][row, t]).sum()
                want[k] = want[k] + (one if soft else -scores[k][row, t, label])
                counts[k] += 1
    assert int(found.count) == counts[0] == 4
    assert counts[1] == 2
    torch.testing.assert_close(found.total.double(), want[0] + 0.8 * want[1], rtol=1e-6, atol=1e-6)
    found.total.backward()
    mine = [p.grad.clone() for p in heads.parameters()]
    heads.zero_grad()
    (want[0] + 0.8 * want[1]).backward()
    for one, p in zip(mine, heads.parameters(), strict=True):
        torch.testing.assert_close(one, p.grad, rtol=1e-5, atol=1e-6)


def test_an_off_by_one_would_be_seen(model):
    """Heads made to predict t + k + 2 on purpose have rank 0 there, and not one place before."""
    rows = [np.arange(12), np.arange(3, 30)]
    batch = streams(model, rows)
    hidden = torch.nn.functional.one_hot(batch.tokens % 16, 16).float()
    batch = HeadBatch(batch.tokens % 16, batch.lengths, hidden)
    heads = MedusaHeads(2, 16, 0, 16)
    with torch.no_grad():
        for k in range(2):
            heads.matrix(k, hidden).copy_(torch.eye(16).roll(k + 2, 0))
    shared = torch.zeros(16, 16)
    assert (true_ranks(heads, shared, [batch], None, 5) == 0).all()
    with torch.no_grad():
        heads.matrix(1, hidden).copy_(torch.eye(16).roll(2, 0))
    assert (true_ranks(heads, shared, [batch], None, 5)[:, 1] > 0).all()


def test_ranks_are_those_of_sorting_and_ties_go_to_the_lower(model):
    heads = MedusaHeads(1, 16, 0, 37)
    with torch.no_grad():
        heads.matrix(0, model.lm_head.weight).copy_(model.lm_head.weight.round(decimals=1))
    rows = [np.random.default_rng(1).integers(0, 37, 40)]
    batch = streams(model, rows)
    ranks = true_ranks(heads, model.lm_head.weight, [batch], None, 37)
    scores = heads(batch.hidden)[0][0].detach().numpy()
    for at, rank in enumerate(ranks[:, 0]):
        order = np.argsort(-scores[at], kind="stable")
        assert order[rank] == rows[0][at + 2]


@pytest.mark.parametrize("tree", ["dynamic", "static"])
def test_what_is_known_by_heart_comes_at_once(sure, tree):
    """Heads of a model that knows a pattern are right, and the text is that of plain decoding."""
    model, heads = sure
    heads.tree = tree
    assert heads.accuracies[:, 0].min() > 0.9
    plain = generate(model, None, PATTERN, max_new_tokens=40)
    for plan in (Plan(3, 3), Plan(8, 3, 4)):
        made = generate(model, None, PATTERN, max_new_tokens=40, speculate=heads, draft=plan)
        assert made.tokens == plain.tokens
        assert made.tokens_per_step > 3
    heads.tree = "dynamic"


def test_sampled_text_is_that_of_the_same_seed(sure):
    model, heads = sure
    prompts = [PATTERN[:3], PATTERN[4:], [1]]
    options = {"max_new_tokens": 25, "temperature": 1.3, "top_p": 0.95, "seed": 5}
    plain = generate(model, None, prompts, **options)
    made = generate(model, None, prompts, **options, speculate=heads, draft=Plan(6, 3, 3))
    assert [m.tokens for m in made] == [p.tokens for p in plain]


def test_drafts_do_not_depend_on_the_company(model):
    heads = Medusa(_filled(MedusaHeads(3, 16, 1, 0, 8)), model)
    drafting = heads.open(engine_of(model))
    generator = np.random.default_rng(0)
    hidden = [generator.normal(size=(2, 16)).astype(np.float32) for _ in range(3)]
    for key in "abc":
        drafting.add(key, [], Sampling(temperature=0.7))
    drafting.observe("abc", [np.array([1, 2])] * 3, hidden)
    drafting.observe("c", [np.array([4])], [None])
    plan = Plan(7, 3, 3)
    whole = drafting.draft("abc", plan)
    for key, draft in zip("abc", whole, strict=True):
        alone = drafting.draft([key], plan)[0]
        assert alone.tokens.tolist() == draft.tokens.tolist()
        assert alone.parents.tolist() == draft.parents.tolist()
    assert [len(draft.tokens) for draft in whole] == [7, 7, 0]
    siblings = [whole[0].tokens[whole[0].parents == p].tolist() for p in range(-1, 7)]
    assert all(len(set(some)) == len(some) for some in siblings)
    drafting.drop("a")
    with pytest.raises(KeyError):
        drafting.draft("a", plan)


def test_a_trimmed_vocabulary_drafts_its_own_tokens(model):
    rows = [np.array([1, 5, 9, 1, 5, 9, 1, 5, 9, 30])] * 2
    heads = Medusa.train(model, None, rows=rows, heads=2, steps=2, vocabulary=3, soft=True)
    assert heads.ids is not None
    assert heads.ids.tolist() == [1, 5, 9]
    drafting = heads.open(engine_of(model))
    drafting.add(0, [], Sampling(temperature=0.0))
    drafting.observe([0], [np.array([2])], [np.ones((1, 16), np.float32)])
    assert set(drafting.draft([0], Plan(12, 2, 8))[0].tokens.tolist()) <= {1, 5, 9}


def test_files_come_back_and_hold_what_was_measured(sure, tmp_path):
    model, heads = sure
    again = Medusa.load(heads.save(tmp_path / "heads"), model)
    for one, other in zip(heads.heads.parameters(), again.heads.parameters(), strict=True):
        assert torch.equal(one, other)
    np.testing.assert_array_equal(again.accuracies, heads.accuracies)
    assert again.paths == heads.paths
    plan = Plan(8, 3, 4)
    assert again.chances(plan).tolist() == heads.chances(plan).tolist()
    assert [p.nodes for p in again.plans()] == sorted(p.nodes for p in again.plans())
    with pytest.warns(StaleHeadsWarning, match="trained for other weights"):
        Medusa.load(tmp_path / "heads", _model(1))


@pytest.mark.parametrize("kind", ["safetensors", "pt", "within"])
def test_published_layouts_are_read(model, tmp_path, kind):
    heads = _filled(MedusaHeads(2, 16, 1, 37))
    state = {k: v.detach().half() for k, v in heads.state_dict().items()}
    config = {"medusa_num_heads": 2, "medusa_num_layers": 1, "base_model_name_or_path": "x"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if kind == "pt":
        torch.save(state, tmp_path / "medusa_lm_head.pt")
    elif kind == "safetensors":
        save_file(state, tmp_path / "medusa_lm_head.safetensors")
    else:
        more = {"model.norm.weight": torch.ones(16)}
        state = {f"medusa_head.{k}": v for k, v in state.items()}
        save_file(state | more, tmp_path / "model.safetensors")
    found = Medusa.load(tmp_path, model)
    for name, x in found.heads.state_dict().items():
        torch.testing.assert_close(x, heads.state_dict()[name], rtol=1e-3, atol=1e-3)
    assert len(found.plans()) > 3


def test_files_that_do_not_fit_say_all_that_is_wrong(model, tmp_path):
    heads = Medusa(_filled(MedusaHeads(2, 16, 1, 37)), model)
    path = heads.save(tmp_path) / "medusa_lm_head.safetensors"
    state = load_file(path)
    state["0.1.weight"] = torch.zeros(36, 16)
    del state["1.0.linear.bias"]
    save_file(state, path)
    with pytest.raises(ValueError, match=r"0\.1\.weight has shape \(36, 16\)") as error:
        Medusa.load(tmp_path, model)
    assert "1.0.linear.bias is missing" in str(error.value)
    path.write_bytes(b"none")
    with pytest.raises(ValueError, match="could not read"):
        Medusa.load(tmp_path, model)
    with pytest.raises(ValueError, match="has no heads"):
        Medusa.load(tmp_path / "nowhere", model)
    torch.save({"a": print}, tmp_path / "medusa_lm_head.pt")
    with pytest.raises(ValueError, match="could not read"):
        Medusa.load(tmp_path / "medusa_lm_head.pt", model)


def test_more_heads_than_the_file_says_are_used_and_told(model, tmp_path):
    Medusa(MedusaHeads(3, 16, 1, 37), model).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"medusa_num_heads": 2}))
    with pytest.warns(UserWarning, match="medusa_num_heads=2"):
        assert len(Medusa.load(tmp_path, model).heads) == 3


def test_another_models_engine_is_refused(model):
    other = Llama(LlamaConfig(**{**SIZES, "vocab_size": 38}))
    with pytest.raises(ValueError, match="37 tokens"):
        Medusa(MedusaHeads(1, 16, 1, 0, 4), model).open(engine_of(other))


def test_joint_training_moves_both_and_goes_on_from_heads():
    """medusa-2 trains the model, too; `start` takes heads over."""
    model = _model()
    before = model.lm_head.weight.detach().clone()
    rows = [np.array(PATTERN * 3) for _ in range(3)]
    heads = Medusa.train(model, None, rows=rows, heads=2, kind="medusa-2", steps=8, base_rate=0.1)
    assert 0 < float((model.lm_head.weight.detach() - before).abs().max()) < 4 * 4e-4
    assert heads.fitted is not None
    assert {"validation_main", "validation_head_1"} <= set(heads.fitted.metrics)
    again = Medusa.train(model, None, rows=rows, steps=1, lr=1e-9, start=heads)
    for one, other in zip(heads.heads.parameters(), again.heads.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="kind='medusa-3'"):
        Medusa.train(model, None, rows=rows, kind="medusa-3")  # pyright: ignore


@pytest.mark.parametrize("size", [0, 1, 63, 65])
def test_odd_numbers_of_sequences(model, size):
    run = HeadsPass(MedusaHeads(2, 16, 1, 0, 8), model.lm_head.weight.detach())
    wide = np.zeros((size, 32), np.float32)
    assert run(wide[:, ::2], 2).shape == (size, 2, 37)
