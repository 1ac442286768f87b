"""The gated attention unit against its definition in float64, and a known package."""

import math

import pytest
import torch
from torch.nn import functional

from paragone.mixers import GatedAttentionUnit
from paragone.mixers._cheap_rows import buckets


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(width=12, key_size=6, **options):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        unit = GatedAttentionUnit(width, key_size=key_size, dtype=torch.float64, **options)
        with torch.no_grad():
            for name, parameter in unit.named_parameters():
                if name in ("beta", "distances"):
                    parameter.normal_(std=0.3)
    return unit


def definition(unit, x):
    """One row (T, M), one query at a time."""
    gate, v = functional.silu(unit.to_hidden(x)).chunk(2, -1)
    z = functional.silu(unit.to_z(x))
    places = torch.arange(len(x))
    q, k = z * unit.gamma[0] + unit.beta[0], z * unit.gamma[1] + unit.beta[1]
    if unit.position == "rotary":
        q, k = unit.rotary(q, places), unit.rotary(k, places)
    found = []
    for i in range(len(x)):
        seen = i + 1 if unit.causal else len(x)
        scores = k[:seen] @ q[i] / math.sqrt(unit.key_size)
        stretch = math.log(max(seen, 2)) / math.log(512) if unit.activation == "softmax" else 1
        scores = scores * stretch
        if unit.position == "t5":
            bias = unit.distances[buckets(i - places[:seen], unit.causal)]
            scores = scores + bias * unit.key_size**0.5
        if unit.activation == "softmax":
            weights = torch.softmax(scores, -1)
        else:
            weights = scores.relu() ** 2 / seen
        found.append(weights @ v[:seen])
    return unit.to_out(gate * torch.stack(found))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"position": None},
        {"position": "t5"},
        {"activation": "softmax"},
        {"activation": "softmax", "position": "t5"},
        {"bias": True},
    ],
    ids=str,
)
def test_is_its_definition_for_each_true_length(causal, options):
    unit = make(causal=causal, **options)
    x = normal(4, 21, 12)
    lengths = torch.tensor([21, 1, 0, 8])
    poisoned = x.clone()
    for row, length in enumerate(lengths):
        poisoned[row, length:] = torch.nan
    y, state = unit(poisoned, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        if length:
            torch.testing.assert_close(y[row, :length], definition(unit, x[row, :length]))
    if causal:
        token = normal(4, 2, 12, seed=3)
        after, state = unit(token, state=state)
        last, _ = unit.step(token[:, 0], state)
        for row, length in enumerate(lengths.tolist()):
            whole = torch.cat([x[row, :length], token[row], token[row, :1]])
            wanted = definition(unit, whole)
            torch.testing.assert_close(after[row], wanted[length : length + 2])
            torch.testing.assert_close(last[row], wanted[-1])


def test_a_prefix_does_not_know_how_long_the_whole_is():
    unit, x = make(), normal(1, 40, 12)
    whole = unit(x)[0]
    for length in (1, 7, 39):
        torch.testing.assert_close(unit(x[:, :length])[0], whole[:, :length])
    far = unit(x, positions=torch.arange(40) + 100)[0]
    torch.testing.assert_close(far, whole)


def test_gradcheck_through_states():
    unit, x = make(6, 4), normal(1, 5, 6).requires_grad_()

    def both(t):
        y, state = unit(t[:, :3])
        return y, unit(t[:, 3:], state=state)[0]

    assert torch.autograd.gradcheck(both, (x,))


def test_offset_and_scale_start_as_in_the_paper():
    unit = GatedAttentionUnit(64, key_size=512, scale=0.02)
    assert unit.gamma.std().item() == pytest.approx(0.02, rel=0.1)
    assert unit.gamma.mean().abs() < 0.003
    assert (unit.beta == 0).all()


def test_two_units_have_the_parameters_of_attention_and_feed_forward():
    count = sum(p.numel() for p in GatedAttentionUnit(512).parameters())
    assert 2 * count == pytest.approx(12 * 512**2, rel=0.05)


def test_buckets_are_exact_when_near_and_few_when_far():
    assert buckets(torch.arange(16), True).tolist() == list(range(16))
    far = buckets(torch.tensor([16, 32, 64, 127, 128, 10_000]), True).tolist()
    assert far == sorted(far)
    assert far[-1] == 31
    both = buckets(torch.tensor([-3, 0, 3, -200]), False).tolist()
    assert both == [19, 0, 3, 31]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"key_size": 5}, "key_size=5"),
        ({"expansion": 0}, "expansion=0"),
        ({"position": "absolute"}, "position='absolute' is none of"),
        ({"activation": "gelu"}, "activation='gelu' is none of relu2"),
    ],
)
def test_bad_options_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        GatedAttentionUnit(16, **options)


@pytest.mark.peers
def test_known_package_agrees_but_its_prefix_knows_the_length():
    peer = pytest.importorskip("flash_pytorch", reason="FLASH-pytorch is not installed")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        known = peer.GAU(dim=12, query_key_dim=6, norm_klass=lambda width: torch.nn.Identity(),
                         add_residual=False).double()  # fmt: skip
        causal = peer.GAU(dim=12, query_key_dim=6, causal=True, add_residual=False).double()
    torch.nn.init.zeros_(known.rel_pos_bias.relative_attention_bias.weight)
    torch.nn.init.normal_(known.offsetscale.gamma)
    unit, x = make(causal=False, position=None, bias=True), normal(2, 17, 12)
    with torch.no_grad():
        for ours, theirs in (
            (unit.to_hidden, known.to_hidden[0]),
            (unit.to_z, known.to_qk[0]),
            (unit.to_out, known.to_out[0]),
        ):
            ours.load_state_dict(theirs.state_dict())
        # Theirs hands out values first, and squares after the division by n.
        swapped = [part.roll(24, 0) for part in (unit.to_hidden.weight, unit.to_hidden.bias)]
        unit.to_hidden.weight.copy_(swapped[0])
        unit.to_hidden.bias.copy_(swapped[1])
        factor = torch.tensor([[math.sqrt(6 / 17)], [1.0]], dtype=torch.float64)
        unit.gamma.copy_(known.offsetscale.gamma * factor)
        unit.beta.copy_(known.offsetscale.beta * factor)
    torch.testing.assert_close(unit(x)[0], known(x))
    assert not torch.allclose(causal(x)[:, :5], causal(x[:, :5]), rtol=1e-3)
