"""Feature maps and the layer `LinearAttention`; the contract of all mixers is tested elsewhere."""

import pytest
import torch

from paragone.mixers import LinearAttention
from paragone.mixers.feature_maps import FEATURE_MAPS, feature_map_for


def make(name="elu1", width=24, heads=2, dtype=torch.float64, **options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        options.setdefault("normalize", name != "identity")
        return LinearAttention(width, heads, feature_map=name, dtype=dtype, **options)


def tokens(rows, time, width=24, scale=1.0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(2)
    return scale * torch.randn(rows, time, width, generator=draw, dtype=torch.float64).to(dtype)


def pairs(name, q, k, causal):
    """Weights by their own definition, (B, H, T, T), before they are normalised."""
    scores = q @ k.transpose(-1, -2)
    if name == "taylor1":
        norms = q.norm(dim=-1)[..., None] * k.norm(dim=-1)[..., None, :]
        weights = 1 + (1 - 1e-5) * scores / norms
    elif name == "taylor2":
        x = scores / q.shape[-1] ** 0.5
        weights = 1 + x + x * x / 2
    elif name == "double_softmax":
        every = torch.ones_like(scores).bool()
        mask = every.tril() if causal else every
        shares = k[:, :, None].expand(*scores.shape, -1).masked_fill(~mask[..., None], -torch.inf)
        return (q.softmax(-1)[:, :, :, None] * shares.softmax(3)).sum(-1)
    else:
        phi = {"elu1": lambda x: torch.where(x > 0, x + 1, x.exp()), "relu": torch.relu,
               "exp": torch.exp, "identity": lambda x: x}[name]  # fmt: skip
        weights = phi(q) @ phi(k).transpose(-1, -2)
    return weights.tril() if causal else weights


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", [*FEATURE_MAPS])
def test_layer_is_its_weights_over_all_pairs(name, causal):
    mixer, x = make(name, causal=causal), tokens(2, 37)
    q, k, v = mixer._heads(x)
    weights = pairs(name, q, k, causal)
    if mixer.normalize:
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-300)
    elif name == "identity":
        weights = weights * q.shape[-1] ** -0.5
    wanted = mixer.to_out((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixer(x)[0], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["exp", "double_softmax"])
def test_large_keys_do_not_overflow(name):
    """Trap 23: in float32, where exp(k) alone is infinite; padding and resuming included."""
    mixer = make(name, dtype=torch.float32)
    x = tokens(2, 90, scale=150.0, dtype=torch.float32)
    double = make(name)
    double.load_state_dict(mixer.state_dict())
    wanted = double(x.double())[0]
    leaf = x.clone().requires_grad_()
    y, state = mixer(leaf)
    y.square().sum().backward()
    assert leaf.grad.isfinite().all()
    assert all(part.isfinite().all() for part in state)
    assert (y - wanted).abs().max() < 2e-3 * wanted.abs().max()
    first, begun = mixer(x[:, :50])
    rest = mixer(x[:, 50:], state=begun)[0]
    assert (torch.cat([first, rest], 1) - y).abs().max() < 1e-3 * wanted.abs().max()
    cut = mixer(x, lengths=torch.tensor([50, 0]))[1]
    torch.testing.assert_close(cut.offset[:1], begun.offset[:1])
    torch.testing.assert_close(cut.memory[:1], begun.memory[:1])


def test_taylor_features():
    """Trap 24."""
    x = tokens(1, 50).view(1, 1, 50, 24)
    first, second = feature_map_for("taylor1"), feature_map_for("taylor2")
    q, k, *_ = first(x, -x, None, None, True)
    assert (q @ k.transpose(-1, -2)).min() > 0
    assert q.shape[-1] == first.width(24) == 25
    assert second.features(x).shape[-1] == second.width(24) == 1 + 24 + 24 * 24
    assert make("taylor2", width=64, heads=2).keys == 16


@pytest.mark.parametrize("causal", [True, False])
def test_second_order_by_blocks_is_the_whole(causal, monkeypatch):
    """Trap 22: features of one block at a time, computed again in the backward pass."""
    mixer, x = make("taylor2", causal=causal), tokens(2, 45).requires_grad_()
    lengths = torch.tensor([45, 18])
    found = []
    for block in (256, 8):
        monkeypatch.setattr("paragone.mixers.linear_attention._BULK", block)
        y = mixer(x, lengths=lengths)[0]
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *mixer.parameters()])])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_own_functions_and_modules_are_maps():
    x = tokens(1, 9)
    mixer = make(lambda x: torch.cat([torch.relu(x), torch.relu(-x)], -1))
    y, state = mixer(x)
    assert state.memory.shape == (1, 2, 24, 12)
    torch.testing.assert_close(mixer.step(x[:, 0], None)[0], y[:, 0])
    own = torch.nn.Sequential(torch.nn.Linear(12, 7, dtype=torch.float64), torch.nn.Softplus())
    mixer = make(own)
    mixer(x)[0].sum().backward()
    assert own[0].weight.grad.abs().sum() > 0


def test_forms_and_back_ends_agree_in_float32():
    x = tokens(2, 70, dtype=torch.float32)
    wanted = make(dtype=torch.float32).double()(x.double())[0]
    for options in ({}, {"form": "parallel"}, {"form": "recurrent"}, {"backend": "torch"},
                    {"chunk": 128}):  # fmt: skip
        y = make(dtype=torch.float32, **options)(x)[0]
        torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-6)


def test_acceptance_call():
    mixer = LinearAttention(width=64, heads=4, feature_map="elu1")
    x = torch.randn(2, 30, 64)
    y, state = mixer(x)
    assert y.shape == x.shape
    y_t, _ = mixer.step(x[:, 0], state)
    assert y_t.shape == (2, 64)


def test_what_cannot_be_is_refused_by_name():
    for options, text in (
        ({"heads": 5}, "width=24 is no multiple of heads=5"),
        ({"name": "cosine"}, "'cosine' is none of elu1"),
        ({"name": "identity", "normalize": True}, "pass normalize=False"),
        ({"name": "exp", "normalize": False}, "pass normalize=True"),
        ({"form": "fast"}, "form='fast' is none of"),
        ({"chunk": 0}, "chunk=0 holds no token"),
    ):
        with pytest.raises(ValueError, match=text):
            make(**options)
    with pytest.raises(ValueError, match="no state and no step"):
        make(causal=False).step(tokens(2, 1)[:, 0], None)
