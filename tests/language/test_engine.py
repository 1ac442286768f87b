"""Engines: each number against a float64 decoder, and its bits against other company."""

import gc
import weakref

import numpy as np
import pytest
import torch

from paragone.kernels import explain
from paragone.language import _engine_numba
from paragone.language._engine_paged import PagedEngine
from paragone.language._engine_torch import TorchEngine
from paragone.language.config import LlamaConfig
from paragone.language.engine import Engine, engine_of
from paragone.language.llama import Llama
from paragone.language.ops.decoding.reference import decoder_reference

SIZES = {
    "vocab_size": 101, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "intermediate_size": 100,
}  # fmt: skip
KINDS = {
    "grouped": {},
    "interleaved": {"rope_layout": "interleaved"},
    "biases and norms": {"attention_bias": True, "mlp_bias": True, "qk_norm": True,
                         "rope_layout": "interleaved"},
    "qkv biases, tied, odd width": {"attention_bias": "qkv", "tie_word_embeddings": True,
                                    "head_dim": 10, "hidden_size": 37, "vocab_size": 64},
    "window": {"mixer": "window", "mixer_options": {"window": 7}, "num_key_value_heads": 6},
    "one key head, llama3": {"mixer": "mqa", "num_key_value_heads": 1, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                              "original_max_position_embeddings": 16}},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
}  # fmt: skip


def made(**changes) -> Llama:
    generator = torch.Generator().manual_seed(0)
    model = Llama(LlamaConfig(**{**SIZES, **changes}), generator=generator).requires_grad_(False)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(0.3 * drawn if drawn.ndim > 1 else 1 + 0.1 * drawn)
    return model


def truth(model: Llama, ids, **more):
    rotary = model.model.layers[0].self_attn.rotary
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    weights.setdefault("lm_head.weight", model.lm_head.weight.numpy())
    return decoder_reference(
        weights, model.config, ids, theta=np.array(rotary.frequencies),
        amplitude=rotary.amplitude, window=model.model.layers[0].self_attn.window or 0, **more,
    )  # fmt: skip


def ids_of(model: Llama, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, count)


def table_of(engine: Engine, tokens: int, page: int, seed: int = 0):
    """A pool and a table of pages in no order."""
    need = -(-tokens // page)
    table = np.random.default_rng(seed).permutation(need + 2)[None, :need]
    return engine.new_pool(need + 2, page), table


@pytest.fixture(scope="module")
def plain() -> tuple[Llama, Engine]:
    model = made()
    return model, Engine.make(model, "numba", threads=1)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_streams_are_those_of_the_definition(kind):
    model = made(**KINDS[kind])
    engine, ids = Engine.make(model, "numba", threads=1), ids_of(model, 37)
    pool, table = table_of(engine, 37, 16)
    found, streams = engine.forward(pool, ids, [37], [0], table, logits="all", hidden=True)
    scores, h = truth(model, ids)
    assert np.abs(found - scores).max() < 2e-5 * max(1, np.abs(scores).max())
    assert np.abs(streams - h).max() < 2e-5 * max(1, np.abs(h).max())
    module = model(torch.from_numpy(ids)[None]).logits[0]
    assert np.abs(module.numpy() - scores).max() < 2e-5 * max(1, np.abs(scores).max())


def test_the_definition_catches_the_other_rotary_layout():
    model = made()
    model.config = model.config.replace(rope_layout="interleaved")
    engine = Engine.make(model, "numba", threads=1)
    ids = ids_of(model, 9)
    pool, table = table_of(engine, 9, 16)
    found = engine.forward(pool, ids, [9], [0], table, logits="all")
    assert np.abs(found - truth(model, ids)[0]).max() > 0.1


@pytest.mark.parametrize("page", [1, 5, 16, 24, 64])
def test_decoding_gives_the_bits_of_the_whole_at_every_position(plain, page):
    model, engine = plain
    ids = ids_of(model, 65)
    pool, table = table_of(engine, 65, page)
    whole = engine.forward(pool, ids, [65], [0], table, logits="all")
    pool, table = table_of(engine, 65, page, seed=1)
    parts, past = [], 0
    for count in [1, 1, 2, 3, 4, 5, 7, 8, 9, 12, 13]:
        part = ids[past : past + count]
        parts.append(engine.forward(pool, part, [count], [past], table, logits="all"))
        past += count
    assert past == 65
    assert np.array_equal(np.concatenate(parts), whole)


def test_a_long_prompt_is_cut_without_a_trace(plain, monkeypatch):
    model, engine = plain
    counts, past = [130, 1, 60], [0, 0, 0]
    ids = ids_of(model, 191)
    tables = np.arange(3 * 9).reshape(3, 9)
    whole = engine.forward(engine.new_pool(27), ids, counts, past, tables, hidden=True)
    monkeypatch.setattr(_engine_numba, "_PIECE", 50)
    cut = engine.forward(engine.new_pool(27), ids, counts, past, tables, hidden=True)
    assert np.array_equal(whole[0], cut[0])
    assert np.array_equal(whole[1], cut[1])


def test_no_sequence_depends_on_its_neighbours(plain):
    model, engine = plain
    counts, past = [3, 1, 6, 2], [0, 17, 4, 30]
    every = [
        ids_of(model, p + c, seed=s) for s, (p, c) in enumerate(zip(past, counts, strict=True))
    ]
    pool, tables = engine.new_pool(12), np.arange(12).reshape(4, 3)
    alone = []
    for own, p, c, table in zip(every, past, counts, tables, strict=True):
        if p:
            engine.forward(pool, own[:p], [p], [0], [table], logits="none")
        alone.append(engine.forward(pool, own[p:], [c], [p], [table])[0])
    new = np.concatenate([own[p:] for own, p in zip(every, past, strict=True)])
    together = engine.forward(pool, new, counts, past, tables)
    assert np.array_equal(together, np.stack(alone))
    order = [2, 0, 3, 1]
    shuffled = np.concatenate([every[s][past[s] :] for s in order])
    other = engine.forward(pool, shuffled, [counts[s] for s in order], [past[s] for s in order],
                           tables[order])  # fmt: skip
    assert np.array_equal(other, together[order])


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_rollback_sharing_and_copies_of_pages(backend):
    model = made()
    engine, ids = Engine.make(model, backend, threads=1), ids_of(model, 40)
    pool = engine.new_pool(8)
    engine.forward(pool, ids[:32], [32], [0], [[0, 1, 2]], logits="none")
    engine.forward(pool, ids[:6] + 1, [6], [32], [[0, 1, 2]], logits="none")
    back = engine.forward(pool, ids[32:], [8], [32], [[0, 1, 2]])
    shared = engine.forward(pool, ids[32:], [8], [32], [[0, 1, 3]])
    pool.copy(2, 4)
    copied = engine.forward(pool, ids[36:], [4], [36], [[0, 1, 4]])
    fresh = engine.forward(engine.new_pool(3), ids, [40], [0], [[2, 0, 1]])
    scores = truth(model, ids)[0][-1]
    for found in (back, shared, copied, fresh):
        assert np.abs(found[0] - scores).max() < 1e-4
    if backend == "numba":
        assert np.array_equal(back, fresh)
        assert np.array_equal(shared, fresh)
        assert np.array_equal(copied, fresh)


@pytest.mark.parametrize("paged", [False, True])
def test_a_tree_of_drafts_sees_its_own_branch(plain, paged):
    model, engine = plain
    engine = PagedEngine(model) if paged else engine
    ids = ids_of(model, 26)
    parents = [-1, 0, 0, 1, 2, 4]
    sees = np.zeros((6, 6), np.uint8)
    for node, parent in enumerate(parents):
        sees[node] = sees[parent] if parent >= 0 else 0
        sees[node, node] = 1
    places = 20 + sees.sum(1) - 1
    pool, table = table_of(engine, 26, 16)
    engine.forward(pool, ids[:20], [20], [0], table, logits="none")
    found = engine.forward(pool, ids[20:], [6], [20], table, logits="all", positions=places,
                           seen=sees)  # fmt: skip
    seen = np.tril(np.ones((26, 26), bool))
    seen[20:, 20:] = sees
    scores, _ = truth(model, ids, places=np.concatenate([np.arange(20), places]), seen=seen)
    assert np.abs(found - scores[20:]).max() < 1e-4


@pytest.mark.parametrize("kind", ["biases and norms", "window", "one key head, llama3", "experts"])
def test_the_engine_of_gpus_agrees(kind):
    model = made(**KINDS.get(kind, {"n_routed_experts": 3, "num_experts_per_tok": 2}))
    slow, paged = TorchEngine(model), PagedEngine(model)
    every, past, counts = [ids_of(model, n, seed=n) for n in (31, 9, 20)], [17, 0, 16], [14, 9, 4]
    found = []
    for engine in (slow, paged):
        pool, tables = engine.new_pool(13, 5), np.random.default_rng(1).permutation(13)
        tables = np.stack([tables[:7], [*tables[7:9], *[-1] * 5], [*tables[9:], *[99] * 3]])
        engine.forward(pool, np.concatenate([every[0][:17], every[2][:16]]), [17, 16], [0, 0],
                       tables[[0, 2]], logits="none")  # fmt: skip
        new = np.concatenate(
            [own[p : p + c] for own, p, c in zip(every, past, counts, strict=True)]
        )
        first = engine.forward(pool, new, counts, past, tables, logits="all", hidden=True)
        back = engine.forward(pool, new[[17, 3]], [1, 1], [5, 19], tables[[1, 0]])
        pool.copy(int(tables[1][0]), int(tables[2][3]))
        found.append((*first, back))
        assert pool.bytes_per_page > 0
    for ours, wanted in zip(found[1], found[0], strict=True):
        assert np.abs(ours - wanted).max() < 1e-4


def test_threads_change_no_bit(plain, monkeypatch):
    model, engine = plain
    monkeypatch.setattr(_engine_numba, "_WORTH_A_TEAM", 0)
    team = Engine.make(model, "numba", threads=3)
    counts, past, tables = [5, 1, 9], [0, 0, 0], np.arange(3)[:, None]
    ids = ids_of(model, 15)
    one = engine.forward(engine.new_pool(3), ids, counts, past, tables, hidden=True)
    three = team.forward(team.new_pool(3), ids, counts, past, tables, hidden=True)
    assert np.array_equal(one[0], three[0])
    assert np.array_equal(one[1], three[1])


def test_eight_bits_are_exact_where_weights_are(plain):
    model = made()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed" not in name:
            parameter.copy_(torch.round(parameter * 100).clamp(-127, 127) / 128)
            parameter[:, 0] = 127 / 128
    ids = ids_of(model, 20)
    engine = Engine.make(model, "numba", "int8", threads=1)
    pool, table = table_of(engine, 20, 16)
    found = engine.forward(pool, ids, [20], [0], table, logits="all")
    scores = truth(model, ids)[0]
    assert np.abs(found - scores).max() < 2e-5 * np.abs(scores).max()
    single = [engine.forward(pool, ids[i : i + 1], [1], [i], table)[0] for i in range(20)]
    assert np.array_equal(np.stack(single), found)


def test_eight_bits_are_near_elsewhere(plain):
    model, exact = plain
    engine, ids = Engine.make(model, "numba", "int8", threads=1), ids_of(model, 30)
    pool, table = table_of(engine, 30, 16)
    found = engine.forward(pool, ids, [30], [0], table, logits="all")
    scores = truth(model, ids)[0]
    assert np.linalg.norm(found - scores) < 0.1 * np.linalg.norm(scores)
    assert engine.packed.panels.nbytes * 4 <= exact.packed.panels.nbytes + 4 * 65536


def test_changed_weights_are_taken():
    model = made()
    engine = engine_of(model, "numba", threads=1)
    assert engine_of(model, "numba", threads=1) is engine
    model.lm_head.weight.mul_(2)
    again = engine_of(model, "numba", threads=1)
    assert again is not engine
    engine.refresh(model)
    ids = ids_of(model, 3)
    both = [e.forward(e.new_pool(1), ids, [3], [0], [[0]]) for e in (engine, again)]
    assert np.array_equal(*both)
    assert np.abs(both[0][0] - truth(model, ids)[0][-1]).max() < 1e-4


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_a_model_that_nobody_wants_is_let_go(backend):
    model = made(num_hidden_layers=1)
    engine_of(model, backend, threads=1)
    left = weakref.ref(model)
    del model
    gc.collect()
    assert left() is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"n_routed_experts": 4}, "MixtureOfExperts"),
        ({"mixer": ("gqa", "linear")}, "LinearAttention.*layer 1"),
        ({"mixer": ("gqa", "window"), "num_key_value_heads": 6}, "same heads"),
        ({"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8},
         "LatentAttention"),
    ],
    ids=["experts", "linear", "mixed", "latent"],
)  # fmt: skip
def test_other_models_go_to_torch_with_the_reason(changes, why):
    model = Llama(LlamaConfig(**{**SIZES, **changes})).requires_grad_(False)
    engine = Engine.make(model)
    assert engine.backend == "torch"
    with pytest.raises(ValueError, match=why):
        Engine.make(model, "numba")
    assert engine.reason in explain("decoding", model=model, weights="float32")
    ids = ids_of(model, 12)
    pool = engine.new_pool(2)
    engine.forward(pool, ids[:7], [7], [0], [[1, 0]], logits="none")
    found = engine.forward(pool, ids[7:], [5], [7], [[1, 0]], logits="all", hidden=True)
    whole = model.eval()(torch.from_numpy(ids)[None])
    assert np.abs(found[0] - whole.logits[0, 7:].numpy()).max() < 1e-4
    assert np.abs(found[1] - whole.hidden[0, 7:].numpy()).max() < 1e-4


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tokens": [1, 2, 101]}, "knows 0 to 100"),
        ({"tokens": [1, 2, -1]}, "knows 0 to 100"),
        ({"counts": [2]}, "together 3 tokens"),
        ({"counts": [3, 0], "past": [0, 0], "tables": [[0], [1]]}, "at least 1"),
        ({"past": [-1]}, "at least 0"),
        ({"past": [14]}, "needs 2 pages"),
        ({"tables": [[2]]}, "the pool has 2"),
        ({"tables": [0]}, "are expected"),
        ({"logits": "first"}, "none of"),
        ({"positions": [0]}, "fits"),
        ({"seen": [[1]]}, "fits"),
    ],
)
def test_what_does_not_fit_is_refused(plain, change, why):
    given = {"tokens": [1, 2, 3], "counts": [3], "past": [0], "tables": [[0]], **change}
    with pytest.raises(ValueError, match=why):
        plain[1].forward(plain[1].new_pool(2), **given)


def test_options_that_are_refused(plain):
    with pytest.raises(ValueError, match="int4"):
        Engine.make(plain[0], weights="int4")
    with pytest.raises(ValueError, match="for the Numba engine"):
        Engine.make(plain[0], "torch", "int8")
    with pytest.raises(ValueError, match="at least 1"):
        plain[1].new_pool(0)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("backend", ["numba", "paged", "torch"])
def test_streams_before_the_last_layer_are_told(backend, layers):
    model = Llama(LlamaConfig(**{**SIZES, "num_hidden_layers": layers}))
    engine = PagedEngine(model) if backend == "paged" else Engine.make(model, backend, threads=2)
    ids = np.arange(1, 301) % SIZES["vocab_size"]
    want = model.model.embed_tokens(torch.from_numpy(ids)[None])
    for block in model.model.layers[:-1]:
        want, _ = block(want, None, None, None)
    pool, table = engine.new_pool(20), np.arange(20)[None]
    for first, end in ((0, 250), (250, 257), (257, 300)):
        found, told = engine.forward(
            pool, ids[first:end], [end - first], [first], table, hidden="trunk"
        )
        np.testing.assert_allclose(told, want[0, first:end].detach(), atol=2e-6)
    whole = model(torch.from_numpy(ids)[None], logits="last").logits[0]
    np.testing.assert_allclose(found, whole.detach(), atol=2e-5)
    with pytest.raises(ValueError, match="hidden='first'"):
        engine.forward(pool, [1], [1], [0], table, hidden="first")
