"""FLASH against its definition, token by token in float64, and a known package."""

import math

import pytest
import torch
from torch.nn import functional

from paragone.mixers import FLASH, GatedAttentionUnit
from paragone.mixers._cheap_rows import append_rows, buckets, take_rows


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(width=12, chunk=8, key_size=6, **options):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layer = FLASH(width, chunk, key_size=key_size, dtype=torch.float64, **options)
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                if name in ("beta", "distances"):
                    parameter.normal_(std=0.3)
    return layer


def definition(layer, x):
    """One row (T, M), one query at a time."""
    gate, v = functional.silu(layer.to_hidden(x)).chunk(2, -1)
    z, places = functional.silu(layer.to_z(x)), torch.arange(len(x))
    turned = [z * layer.gamma[at] + layer.beta[at] for at in range(4)]
    if layer.position == "rotary":
        turned = [layer.rotary(t, places) for t in turned]
    (q, linear_q, k, linear_k), root, found = turned, math.sqrt(layer.key_size), []
    for i in range(len(x)):
        start = i // layer.chunk * layer.chunk
        end = i + 1 if layer.causal else min(start + layer.chunk, len(x))
        scores = k[start:end] @ q[i] / root
        if layer.position == "t5":
            bias = layer.distances[buckets(i - places[start:end], layer.causal)]
            scores = scores + bias * root
        local = (scores.relu() ** 2 / (end - start)) @ v[start:end]
        before = start if layer.causal else len(x)
        far = (linear_k[:before] @ linear_q[i] / root) @ v[:before]
        found.append(local + far / max(before, 1))
    return layer.to_out(gate * torch.stack(found))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("options", [{}, {"position": "t5"}, {"position": None, "bias": True}],
                         ids=str)  # fmt: skip
def test_is_its_definition_for_each_true_length(causal, options):
    layer = make(causal=causal, **options)
    x = normal(5, 29, 12)
    lengths = torch.tensor([29, 1, 0, 8, 15])
    poisoned = x.clone()
    for row, length in enumerate(lengths):
        poisoned[row, length:] = torch.nan
    y, state = layer(poisoned, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        if length:
            torch.testing.assert_close(y[row, :length], definition(layer, x[row, :length]))
    if causal:
        more = normal(5, 12, 12, seed=3)
        some = torch.tensor([12, 7, 3, 0, 9])
        after, state = layer(more, state=state, lengths=some)
        last, _ = layer.step(more[:, 0], state)
        for row, (length, extra) in enumerate(zip(lengths.tolist(), some.tolist(), strict=True)):
            whole = torch.cat([x[row, :length], more[row, :extra], more[row, :1]])
            wanted = definition(layer, whole)
            torch.testing.assert_close(after[row, :extra], wanted[length : length + extra])
            torch.testing.assert_close(last[row], wanted[-1])


@pytest.mark.parametrize("chunk", [1, 7, 63, 64, 65, 300])
def test_sizes_of_chunks(chunk):
    layer, x = make(chunk=chunk), normal(1, 65, 12)
    torch.testing.assert_close(layer(x)[0][0], definition(layer, x[0]))


def test_state_is_one_matrix_and_less_than_a_chunk():
    layer = make()
    state = None
    for time in (3, 30, 9):
        state = layer(normal(2, time, 12), state=state)[1]
        assert state.sums.shape == (2, 6, 24)
        assert state.running.shape[1] == state.lengths[0] % 8


@pytest.mark.parametrize("position", ["rotary", "t5"])
def test_steps_over_the_edges_of_chunks(position):
    layer, x = make(chunk=4, position=position), normal(2, 13, 12)
    wanted, state = layer(x)[0], None
    for t in range(13):
        y, state = layer.step(x[:, t], state)
        torch.testing.assert_close(y, wanted[:, t])
        assert state.running.shape[1] == (t + 1) % 4
    y, again = layer(x[:, :5], state=state)
    torch.testing.assert_close(y, layer(torch.cat([x, x[:, :5]], 1))[0][:, 13:])
    assert again.lengths.tolist() == [18, 18]


def test_long_input_goes_by_segments(monkeypatch):
    layer, x = make(chunk=4), normal(1, 45, 12)
    whole, kept = layer(x)
    monkeypatch.setattr("paragone.mixers.flash._SEGMENT", 10)
    parts, state = layer(x, positions=torch.arange(45))
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(state.sums, kept.sums)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_single(dtype):
    layer, x = make(chunk=16).float(), normal(1, 200, 12, dtype=torch.float32)
    wanted = layer(x)[0]
    y, state = layer.to(dtype)(x.to(dtype))
    assert (y.dtype, state.sums.dtype) == (dtype, torch.float32)
    assert (y.float() - wanted).norm() < 4 * torch.finfo(dtype).eps * wanted.norm()
    last, after = layer.step(x[:, 0].to(dtype), state)
    assert (last.dtype, after.sums.dtype) == (dtype, torch.float32)


def test_quad_mode_is_the_gated_unit():
    layer = make(mode="quad")
    unit = GatedAttentionUnit(12, key_size=6, dtype=torch.float64)
    unit.load_state_dict(layer.state_dict())
    x = normal(2, 20, 12)
    torch.testing.assert_close(layer(x)[0], unit(x)[0], rtol=0, atol=0)


def test_gradcheck_through_states():
    layer, x = make(6, 3, 4), normal(1, 7, 6).requires_grad_()

    def both(t):
        y, state = layer(t[:, :4])
        return y, layer(t[:, 4:], state=state)[0]

    assert torch.autograd.gradcheck(both, (x,))


def test_rows_are_appended_where_they_end():
    old, new = torch.ones(3, 2, 1), torch.tensor([[[5.0], [6.0]]]).expand(3, 2, 1)
    found = append_rows(old, torch.tensor([2, 0, 1]), new)[..., 0]
    assert found[0].tolist() == [1, 1, 5, 6]
    assert found[1, :2].tolist() == [5, 6]
    assert found[2, :3].tolist() == [1, 5, 6]
    taken = take_rows(found[..., None], torch.tensor([3, 0, 4]), 2)[..., 0]
    assert taken.tolist() == [[6, 0], [5, 6], [0, 0]]


@pytest.mark.parametrize(
    ("options", "text"), [({"chunk": 0}, "chunk=0"), ({"mode": "half"}, "mode='half' is none of")]
)
def test_bad_options_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        FLASH(16, **options)


@pytest.mark.peers
def test_known_package_agrees_without_a_past():
    peer = pytest.importorskip("flash_pytorch", reason="FLASH-pytorch is not installed")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        known = peer.FLASH(dim=12, group_size=8, query_key_dim=6,
                           norm_klass=lambda width: torch.nn.Identity()).double()  # fmt: skip
    torch.nn.init.zeros_(known.rel_pos_bias.relative_attention_bias.weight)
    torch.nn.init.normal_(known.qk_offset_scale.gamma)
    layer, x = make(causal=False, position=None, bias=True), normal(2, 24, 12)
    with torch.no_grad():
        layer.to_z.load_state_dict(known.to_qk[0].state_dict())
        layer.to_out.load_state_dict(known.to_out.state_dict())
        # Theirs hands out values first, squares after the division, and scales no keys.
        layer.to_hidden.weight.copy_(known.to_hidden[0].weight.roll(24, 0))
        layer.to_hidden.bias.copy_(known.to_hidden[0].bias.roll(24, 0))
        factor = torch.tensor([[math.sqrt(6 / 8)], [math.sqrt(6)], [1], [1]], dtype=torch.float64)
        layer.gamma.copy_(known.qk_offset_scale.gamma * factor)
        layer.beta.copy_(known.qk_offset_scale.beta * factor)
    torch.testing.assert_close(layer(x)[0] + x, known(x))
