"""Gated linear attention against a loop over tokens, and fla's."""

import pytest
import torch
from torch.nn import functional

from paragone.mixers import GatedLinearAttention
from paragone.mixers.ops.linear.interface import linear_attention


def test_layer_is_a_loop_over_tokens():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        mixer = GatedLinearAttention(12, 2, tau=4.0, dtype=torch.float64)
        x = torch.randn(1, 21, 12, dtype=torch.float64)
    memory, outputs = torch.zeros(2, 3, 6, dtype=torch.float64), []
    for token in x[0]:
        q, k = (part.view(2, 3) for part in mixer.to_qk(token).chunk(2))
        v, g = mixer.to_vg(token).chunk(2)
        alpha = torch.sigmoid(mixer.to_gate(mixer.to_rank(token))).view(2, 3) ** 0.25
        memory = alpha[..., None] * memory + k[..., None] * v.view(2, 1, 6)
        o = torch.einsum("hd,hde->he", q, memory) * 3**-0.5
        o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        outputs.append(mixer.to_out(o.flatten() * functional.silu(g)))
    y, state = mixer(x)
    torch.testing.assert_close(y[0], torch.stack(outputs), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state.memory[0], memory, rtol=1e-9, atol=1e-9)


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ValueError, match="tau=0 is no root"):
        GatedLinearAttention(12, 2, tau=0)
    with pytest.raises(ValueError, match="no causal=False form"):
        GatedLinearAttention(12, 2, causal=False)
    with pytest.raises(ValueError, match="width=12 is no multiple of heads=5"):
        GatedLinearAttention(12, 5)


@pytest.mark.peers
def test_recurrence_is_that_of_fla():
    naive = pytest.importorskip("fla.ops.gla.naive", reason="fla-core is not installed")
    draw = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 50, 2, 8, generator=draw)
    gate = functional.logsigmoid(torch.randn(1, 50, 2, 8, generator=draw))
    begun = torch.randn(1, 2, 8, 8, generator=draw)
    wanted, last = naive.naive_recurrent_gla(q, k, v, gate, begun, True)
    from paragone.mixers.ops.linear.reference import LinearState

    o, state = linear_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), gate=gate.transpose(1, 2), scale=8**-0.5,
        state=LinearState(begun, begun[..., :0, 0]),
    )  # fmt: skip
    torch.testing.assert_close(o.transpose(1, 2), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.memory, last, rtol=1e-4, atol=1e-5)


@pytest.mark.peers
def test_without_a_gate_it_is_that_of_fla():
    naive = pytest.importorskip("fla.ops.linear_attn.naive", reason="fla-core is not installed")
    q, k, v = torch.rand(3, 1, 50, 2, 8, generator=torch.Generator().manual_seed(0))
    wanted, _ = naive.naive_recurrent_linear_attn(q, k, v, normalize=True)
    o = linear_attention(*(x.transpose(1, 2) for x in (q, k, v)), normalize=True)[0]
    torch.testing.assert_close(o.transpose(1, 2), wanted, rtol=1e-4, atol=1e-5)
