"""Retention against the sum over all pairs of its paper, and fla's."""

import pytest
import torch

from paragone.mixers import Retention
from paragone.mixers.ops.linear.interface import linear_attention
from paragone.mixers.retention import _turned


def make(**options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Retention(16, 2, dtype=torch.float64, **options)


def tokens(time):
    draw = torch.Generator().manual_seed(2)
    return torch.randn(2, time, 16, generator=draw, dtype=torch.float64)


def test_layer_is_the_parallel_form_of_the_paper():
    mixer, x = make(), tokens(70)
    q, k = (part.unflatten(-1, (2, 8)) for part in mixer.to_qk(x).chunk(2, -1))
    v, g = mixer.to_vg(x).chunk(2, -1)
    places = torch.arange(70, dtype=torch.float64)
    turn = torch.exp(1j * places[:, None] * 10000.0 ** -(torch.arange(4).double() / 3))
    q, k = (torch.view_as_complex(y.unflatten(-1, (4, 2)).contiguous()) * turn[:, None]
            for y in (q, k))  # fmt: skip
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k.conj()).real * 8**-0.5
    gamma = 1 - 2.0 ** (-5 - torch.arange(2, dtype=torch.float64))
    decay = (gamma[:, None, None] ** (places[:, None] - places)).tril()
    o = torch.einsum("bhqk,bkhe->bqhe", scores * decay, v.unflatten(-1, (2, 16)))
    o = torch.nn.functional.layer_norm(o, (16,)).flatten(2)
    wanted = mixer.to_out(o * torch.nn.functional.silu(g))
    torch.testing.assert_close(mixer(x)[0], wanted, rtol=1e-8, atol=1e-8)


def test_places_count_on_from_the_state_and_can_be_given():
    mixer, x = make(), tokens(20)
    whole, state = mixer(x, lengths=torch.tensor([20, 12]))
    assert state.place.tolist() == [20, 12]
    apart = mixer(x, positions=torch.arange(20) + 1000)[0]
    torch.testing.assert_close(apart[0], whole[0], rtol=1e-7, atol=1e-7)
    assert not torch.allclose(mixer(x, positions=2 * torch.arange(20))[0][0], whole[0])


def test_turning_keeps_lengths():
    x = tokens(5)[:, None]
    angles = torch.linspace(0, 7, 8, dtype=torch.float64)
    turned = _turned(x, angles.cos(), angles.sin())
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ValueError, match="make it even"):
        Retention(15, 3)
    with pytest.raises(ValueError, match="no causal=False form"):
        Retention(16, 2, causal=False)


@pytest.mark.peers
def test_decay_is_that_of_fla():
    naive = pytest.importorskip("fla.ops.retention.naive", reason="fla-core is not installed")
    q, k, v = torch.randn(3, 1, 4, 50, 8, generator=torch.Generator().manual_seed(0))
    gate = torch.log1p(-torch.exp2(-5 - torch.arange(4.0)))[:, None].expand(1, 4, 50)
    found = linear_attention(q, k, v, gate=gate, scale=8**-0.5)[0]
    torch.testing.assert_close(found, naive.naive_retention(q, k, v), rtol=1e-4, atol=1e-4)
