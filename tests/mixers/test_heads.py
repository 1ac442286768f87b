"""Heads: published modules as peers, caches that agree with the whole, rotary positions."""

import pytest
import torch

from paragone.mixers import GroupedQueryAttention, MultiHeadAttention, MultiQueryAttention
from paragone.mixers.cache import KeyValueCache
from paragone.mixers.paged_cache import PagedCache
from paragone.mixers.rotary import Rotary

WIDTH = 48


def made(kind=GroupedQueryAttention, heads=6, dtype=torch.float32, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(WIDTH, heads, dtype=dtype, **options).eval()


def rows(batch, time, seed=0, dtype=torch.float32):
    return torch.randn(batch, time, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


OPTIONS = {
    "plain": {}, "window": {"window": 5}, "softcap": {"softcap": 2.0}, "norm": {"qk_norm": True},
    "sinks": {"sinks": True}, "bias": {"bias": True}, "wide": {"value_size": 12, "head_size": 10},
    "still": {"rotary": False}, "pairs": {"rotary": Rotary(8, layout="interleaved")},
    "all": {"kv_heads": 6}, "one": {"kv_heads": 1}, "windowed_sinks": {"window": 3, "sinks": True},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_steps_and_drafts_through_the_kernel_are_the_whole_in_float64(name):
    mixer = made(**OPTIONS[name])
    double = made(**OPTIONS[name], backend="torch").double()
    if mixer.sinks is not None:
        mixer.sinks.data = double.sinks.data.uniform_(-1, 1).float()
        double.sinks.data = mixer.sinks.data.double()
    double.load_state_dict({key: x.double() for key, x in mixer.state_dict().items()})
    x = rows(2, 23)
    with torch.no_grad():
        wanted = double(x.double())[0]
        y, state = mixer(x[:, :9])
        found = [y]
        for t in range(9, 14):
            y, state = mixer.step(x[:, t], state)
            found.append(y[:, None])
        y, state = mixer(x[:, 14:21], state=state)
        found.append(y)
        y, state = mixer(x[:, 21:], state=state, lengths=torch.tensor([2, 2]))
        found.append(y)
    torch.testing.assert_close(torch.cat(found, 1).double(), wanted, rtol=3e-5, atol=3e-5)


def test_a_paged_cache_serves_as_well():
    mixer, x = made(), rows(3, 80)
    lengths = torch.tensor([70, 0, 33])
    with torch.no_grad():
        plain, pages = mixer.new_cache(), PagedCache()
        y, plain = mixer(x, state=plain, lengths=lengths)
        z, pages = mixer(x, state=pages, lengths=lengths)
        torch.testing.assert_close(y, z)
        for t in range(3):
            y, plain = mixer.step(x[:, t], plain)
            z, pages = mixer.step(x[:, t], pages)
            torch.testing.assert_close(y, z)
        more = rows(3, 12, seed=4)
        torch.testing.assert_close(mixer(more, state=plain)[0], mixer(more, state=pages)[0])


def test_a_narrow_cache_costs_half_and_errs_little():
    mixer, narrow, x = made(), made(cache_dtype=torch.bfloat16), rows(2, 40)
    with torch.no_grad():
        y, state = mixer(x)
        z, small = narrow(x)
        assert 2 * small.bytes_per_token == state.bytes_per_token
        for t in range(3):
            y, state = mixer.step(x[:, t], state)
            z, small = narrow.step(x[:, t], small)
            torch.testing.assert_close(y, z, rtol=2e-2, atol=2e-2)


def test_steps_without_no_grad_have_gradients():
    mixer, x = made(dtype=torch.float64), rows(2, 6, dtype=torch.float64)
    given = x.clone().requires_grad_()
    y, state = mixer(given[:, :3])
    for t in range(3, 6):
        y, state = mixer.step(given[:, t], state)
    whole = x.clone().requires_grad_()
    wanted = torch.autograd.grad(mixer(whole)[0][:, -1].square().sum(), whole)[0]
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), given)[0], wanted)


def test_cache_bytes_of_the_kinds():
    x = rows(1, 4)
    assert made(MultiHeadAttention)(x)[1].bytes_per_token == 2 * 6 * 8 * 4
    assert made(MultiQueryAttention)(x)[1].bytes_per_token == 2 * 8 * 4
    assert made(kv_heads=2)(x)[1].bytes_per_token == 2 * 2 * 8 * 4


def test_dropout_is_for_training_alone():
    mixer, x = made(dropout=0.5), rows(2, 9)
    assert torch.equal(mixer(x)[0], mixer(x)[0])
    mixer.train()
    assert not torch.equal(mixer(x)[0], mixer(x)[0])


@pytest.mark.peers
@pytest.mark.parametrize("groups", [6, 2])
def test_llama_weights_give_llama_outputs(groups):
    llama = pytest.importorskip("transformers.models.llama.modeling_llama", reason="no peer")
    from transformers import DynamicCache, LlamaConfig

    scaling = {"rope_type": "llama3", "rope_theta": 5e4, "factor": 4.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    config = LlamaConfig(
        hidden_size=WIDTH, num_attention_heads=6, num_key_value_heads=groups,
        rope_parameters=scaling, attention_bias=True, max_position_embeddings=256,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    torch.manual_seed(1)
    peer = llama.LlamaAttention(config, 0).eval()
    turned = llama.LlamaRotaryEmbedding(config)
    ours = made(kv_heads=groups, bias=True, rotary=Rotary(8, base=5e4, scaling=scaling))
    ours.load_state_dict(peer.state_dict())
    x, cache = rows(2, 40), DynamicCache()
    at = torch.arange(40)[None]
    with torch.no_grad():
        mask = torch.ones(39, 39).tril().bool()[None, None]
        wanted = peer(x[:, :39], turned(x, at[:, :39]), mask, cache)[0]
        last = peer(x[:, 39:], turned(x, at[:, 39:]), None, cache)[0]
        y, state = ours(x[:, :39])
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.step(x[:, 39], state)[0], last[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.peers
def test_rotary_scalings_are_the_published_ones():
    ropes = pytest.importorskip("transformers.modeling_rope_utils", reason="no peer")
    from transformers import LlamaConfig

    common = {"rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 512}
    for kind, more in (
        ("linear", {}), ("llama3", {"low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        ("yarn", {}), ("yarn", {"beta_fast": 16.0, "beta_slow": 2.0, "mscale": 1.0,
                                "mscale_all_dim": 0.5}),
        ("yarn", {"attention_factor": 1.5, "truncate": False}),
    ):  # fmt: skip
        given = {"rope_type": kind, **common, **more}
        config = LlamaConfig(hidden_size=256, num_attention_heads=4, rope_parameters=dict(given))
        wanted, amplitude = ropes.ROPE_INIT_FUNCTIONS[kind](config, "cpu")
        ours = Rotary(64, scaling=given)
        torch.testing.assert_close(torch.tensor(ours.frequencies), wanted, rtol=2e-6, atol=1e-9)
        assert ours.amplitude == pytest.approx(amplitude)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_rotary_scores_know_the_distance_alone(layout):
    rotary = Rotary(16, layout=layout)
    q, k = torch.randn(2, 1, 1, 1, 20, dtype=torch.float64)
    found = [
        (rotary(q, torch.tensor([[p + 7]])) * rotary(k, torch.tensor([[p]]))).sum()
        for p in (0, 3, 100, 10**6)
    ]
    for one in found:
        torch.testing.assert_close(one, found[0], rtol=1e-8, atol=1e-8)
    x = torch.randn(2, 3, 5, 20)
    pairs = torch.stack([rotary(x, 4), rotary(x, torch.arange(4, 9).expand(2, -1))])
    assert torch.equal(pairs[0], pairs[1])
    assert torch.equal(pairs[0][..., 16:], x[..., 16:])
    # The definition: pairs of coordinates as complex numbers.
    first, second = (0, 8) if layout == "half" else (0, 1)
    step = torch.exp(torch.tensor(4j, dtype=torch.complex128))
    turned = torch.complex(x[0, 0, 0, first].double(), x[0, 0, 0, second].double()) * step
    found = torch.complex(pairs[0][0, 0, 0, first], pairs[0][0, 0, 0, second])
    torch.testing.assert_close(found, turned.to(torch.complex64))


def test_the_layouts_differ():
    x = torch.randn(1, 1, 3, 8)
    assert not torch.allclose(Rotary(8)(x, 1), Rotary(8, layout="interleaved")(x, 1))


def test_what_does_not_fit_is_named():
    for options, text in (
        ({"kv_heads": 4}, "kv_heads=4"), ({"heads": 5}, "heads=5"), ({"dropout": 1.0}, "dropout"),
        ({"window": 0}, "window=0"), ({"head_size": 7}, "even"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            made(**options)
    with pytest.raises(ValueError, match="x_t has shape"):
        made().step(torch.zeros(2, 1, WIDTH), None)
    with pytest.raises(ValueError, match="no state and no step"):
        made(causal=False).step(torch.zeros(2, WIDTH), None)
    with pytest.raises(ValueError, match="does not go on"):
        made().step(torch.zeros(2, WIDTH), KeyValueCache().append(*[torch.zeros(2, 3, 4, 8)] * 2))
    for options, text in (
        ({"layout": "third"}, "third"), ({"scaling": {"rope_type": "ntk"}}, "ntk"),
        ({"scaling": {"rope_type": "yarn", "factor": 2.0}}, "needs"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            Rotary(8, **options)
    assert "interleaved" in repr(Rotary(8, layout="interleaved"))


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize(
    "sizes", [(2, 5, 3, 8), (0, 4, 1, 2), (1, 1, 2, 10), (3, 67, 1, 66)], ids=str
)
def test_turning_before_heads_are_an_axis_is_turning(sizes, layout):
    source = torch.Generator().manual_seed(0)
    x = torch.randn(*sizes, generator=source)
    rotary = Rotary(2 * (sizes[3] // 4) or 2, layout=layout)
    for places in (3, torch.randint(0, 99, sizes[:2], generator=source)):
        table = rotary.table(places, sizes[1], x, torch.float32)
        found, wanted = x.clone().requires_grad_(), x.clone().double().requires_grad_()
        turned = rotary.turn_early(found, *table)
        plain = rotary.turn(wanted.transpose(1, 2), *(part.double() for part in table))
        torch.testing.assert_close(turned.double(), plain, rtol=1e-6, atol=1e-6)
        slope = torch.randn(turned.shape, generator=source)
        turned.backward(slope)
        plain.backward(slope.double())
        torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=1e-6, atol=1e-6)
    jacobian = torch.func.vmap(lambda row: rotary.turn_early(row[None], *table0(rotary, x))[0])(x)
    torch.testing.assert_close(jacobian, rotary.turn(x.transpose(1, 2), *table0(rotary, x)))


def table0(rotary, x):
    return rotary.table(0, x.shape[1], x, torch.float32)


def test_packed_rows_leave_a_state_to_go_on_from():
    mixer, x = made(), rows(1, 12)
    lengths = torch.tensor([5, 0, 7])
    token = rows(3, 1, seed=4)[:, 0]
    with torch.no_grad():
        _, state = mixer(x, lengths=lengths)
        after, longer = mixer.step(token, state)
        for row, (start, end) in enumerate(((0, 5), (5, 5), (5, 12))):
            alone = mixer(x[:, start:end])[1] if end > start else None
            wanted = mixer.step(token[row : row + 1], alone)[0]
            torch.testing.assert_close(after[row : row + 1], wanted, rtol=1e-4, atol=1e-5)
    assert longer.lengths.tolist() == [6, 1, 8]
    with pytest.raises(ValueError, match="holds tokens already"):
        longer.adopt_packed(*longer.parts, lengths)
    y, state = mixer(x.clone().requires_grad_(), lengths=lengths)
    y.sum().backward()
    assert state._store._padded is None, "training pads nothing"
