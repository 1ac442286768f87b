"""The delta rule's layers against loops over tokens, what they are for, and fla's."""

import pytest
import torch
from torch.nn import functional

from paragone.mixers import DeltaNet, GatedDeltaNet
from paragone.mixers.delta_rule import KimiDeltaAttention
from paragone.mixers.ops.linear.interface import linear_attention
from paragone.mixers.ops.linear.reference import LinearState


def make(kind, dtype=torch.float64, **options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return kind(12, 2, dtype=dtype, **options)


def tokens(time, rows=1, dtype=torch.float64):
    draw = torch.Generator().manual_seed(2)
    return torch.randn(rows, time, 12, generator=draw, dtype=torch.float64).to(dtype)


def looped(mixer, x):
    """The layer by its equations, a token at a time."""
    memory, outputs = torch.zeros(2, 6, 6, dtype=x.dtype), []
    past = [torch.zeros(36, dtype=x.dtype)] * 3
    for token in x[0]:
        raw = mixer.to_qkv(token)
        if mixer.short is None:
            mixed = raw
        else:
            past = [*past[-3:], raw]
            mixed = sum(w * y for w, y in zip(mixer.short.weight, past, strict=True))
        q, k, v = (part.view(2, 6) for part in functional.silu(mixed).chunk(3))
        q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
        beta = mixer.to_beta(token).sigmoid() * (2 if mixer.negative else 1)
        gate = mixer._gate(token[None, None])
        alpha = torch.ones(2, 1, dtype=x.dtype) if gate is None else gate.exp().view(2, -1)
        memory = alpha[..., None] * memory
        error = v - torch.einsum("hd,hde->he", k, memory)
        memory = memory + beta[:, None, None] * k[..., None] * error[:, None]
        o = torch.einsum("hd,hde->he", q, memory) * 6**-0.5
        outputs.append(mixer._finished(o[None, :, None], token[None, None])[0, 0])
    return torch.stack(outputs), memory


@pytest.mark.parametrize("options", [{}, {"taps": 0, "negative": True}])
@pytest.mark.parametrize("kind", [DeltaNet, GatedDeltaNet, KimiDeltaAttention])
def test_layer_is_a_loop_over_tokens(kind, options):
    mixer, x = make(kind, **options), tokens(75)
    wanted, memory = looped(mixer, x)
    y, state = mixer(x)
    torch.testing.assert_close(y[0], wanted, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(state.memory[0], memory, rtol=1e-8, atol=1e-8)
    single = mixer.float()(x.float())[0]
    torch.testing.assert_close(single[0].double(), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [GatedDeltaNet, KimiDeltaAttention])
def test_gate_of_the_paper(kind):
    mixer, x = make(kind), tokens(4)
    with torch.no_grad():
        mixer.log_rate.fill_(1.3)
        mixer.decay_bias.fill_(-0.7)
        mixer.to_decay.weight.zero_()
    wanted = -torch.tensor(1.3).double().exp() * functional.softplus(torch.tensor(-0.7).double())
    torch.testing.assert_close(mixer._gate(x), wanted.expand(mixer._gate(x).shape))


@pytest.mark.parametrize("kind", [KimiDeltaAttention])
def test_kda_keeps_the_contract(kind):
    mixer, x = make(kind, torch.float32), tokens(40, 3, torch.float32)
    whole, _ = mixer(x)
    first, state = mixer(x[:, :17])
    rest, _ = mixer(x[:, 17:], state=state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixer.step(x[:, 17], state)[0], whole[:, 17], rtol=1e-4, atol=1e-5)
    cut, after = mixer(x, lengths=torch.tensor([17, 0, 40]))
    torch.testing.assert_close(cut[0, :17], whole[0, :17], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.tail[0], state.tail[0])
    whole.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in mixer.parameters())
    assert all(p.is_meta for p in KimiDeltaAttention(12, 2, device="meta").parameters())


def test_a_key_recalls_its_latest_value():
    """What addition cannot do: the second value under a key replaces the first."""
    key = torch.eye(8)[None, None, [3, 5, 3]]
    values = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    one = torch.ones(1, 1, 3)
    _, state = linear_attention(key, key, values, beta=one)
    torch.testing.assert_close(state.memory[0, 0, 3], values[0, 0, 2])
    _, added = linear_attention(key, key, values)
    torch.testing.assert_close(added.memory[0, 0, 3], values[0, 0, 0] + values[0, 0, 2])


def test_beta_of_two_reflects_and_never_grows():
    """Trap 21: 1000 reflections keep the memory's length, in float32 by chunks."""
    draw = torch.Generator().manual_seed(0)
    k = functional.normalize(torch.randn(1, 1, 1000, 16, generator=draw), dim=-1)
    begun = LinearState(torch.randn(1, 1, 16, 4, generator=draw), torch.zeros(1, 1, 0))
    two = torch.full((1, 1, 1000), 2.0)
    _, after = linear_attention(k, k, torch.zeros(1, 1, 1000, 4), beta=two, state=begun)
    torch.testing.assert_close(after.memory.norm(), begun.memory.norm(), rtol=1e-4, atol=0)


def test_keys_of_length_zero_have_finite_gradients():
    """Trap 21: the epsilon of the keys' norm."""
    mixer = make(DeltaNet, torch.float32, taps=0)
    x = torch.zeros(1, 5, 12, requires_grad=True)
    mixer(x)[0].sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in mixer.parameters())


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ValueError, match="DeltaNet corrects in order"):
        DeltaNet(12, 2, causal=False)
    with pytest.raises(ValueError, match="taps=-1"):
        DeltaNet(12, 2, taps=-1)
    with pytest.raises(ValueError, match="width=12 is no multiple of heads=5"):
        GatedDeltaNet(12, 5)


@pytest.mark.peers
@pytest.mark.parametrize("gate", [0, 1, 2])
def test_recurrence_is_that_of_fla(gate):
    draw = torch.Generator().manual_seed(0)
    q, v = torch.randn(2, 1, 2, 60, 8, generator=draw)
    k = functional.normalize(torch.randn(q.shape, generator=draw), dim=-1)
    beta = torch.rand(1, 2, 60, generator=draw)
    g = functional.logsigmoid(torch.randn(*q.shape[:3], 8, generator=draw))
    turn = [x.transpose(1, 2) for x in (q, k, v)]
    reason = "fla-core is not installed"
    if gate == 0:
        naive = pytest.importorskip("fla.ops.delta_rule.naive", reason=reason)
        wanted, last = naive.delta_rule_recurrence(q, k, v, beta)
        g = None
    elif gate == 1:
        naive = pytest.importorskip("fla.ops.gated_delta_rule.naive", reason=reason)
        g = g[..., 0]
        wanted, last = naive.naive_recurrent_gated_delta_rule(
            *turn, beta.transpose(1, 2), g.transpose(1, 2), output_final_state=True
        )
        wanted = wanted.transpose(1, 2)
    else:
        naive = pytest.importorskip("fla.ops.kda.naive", reason=reason)
        wanted, last = naive.naive_recurrent_kda(
            *turn, g.transpose(1, 2), beta.transpose(1, 2), output_final_state=True
        )
        wanted = wanted.transpose(1, 2)
    for backend in ("numba", "torch"):
        o, state = linear_attention(q, k, v, gate=g, beta=beta, scale=8**-0.5, backend=backend)
        torch.testing.assert_close(o, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state.memory, last, rtol=1e-4, atol=1e-5)
