"""Linformer against the package of that name, its definition, and its own masks."""

import pytest
import torch

from paragone.mixers import Linformer


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def definition(mixer, x, length):
    """Each head by itself, masked keys first, in the order of the paper's equation."""
    x = x[:length]
    q = mixer.to_q(x).unflatten(-1, (mixer.heads, -1))
    k = mixer.to_k(x).unflatten(-1, (mixer.key_heads, -1))
    v = k if mixer.tied_values else mixer.to_v(x).unflatten(-1, (mixer.key_heads, -1))
    found = []
    for head in range(mixer.heads):
        e = mixer.proj_k[head] if mixer.sharing == "none" else mixer.proj_k
        f = getattr(mixer, "proj_v", mixer.proj_k)
        f = f[head] if mixer.sharing == "none" else f
        at = head if mixer.key_heads > 1 else 0
        mixed_k, mixed_v = e[:length].T @ k[:, at], f[:length].T @ v[:, at]
        scores = q[:, head] @ mixed_k.T / q.shape[-1] ** 0.5
        found.append(torch.softmax(scores, -1) @ mixed_v)
    return mixer.to_out(torch.cat(found, -1))


SHARED = [
    {"sharing": "none"},
    {"sharing": "headwise"},
    {"sharing": "key-value"},
    {"sharing": "layerwise"},
    {"sharing": "headwise", "key_heads": 1},
    {"sharing": "key-value", "tied_values": True},
]


@pytest.mark.parametrize("options", SHARED, ids=str)
def test_is_its_definition_for_each_length_and_sharing(options):
    mixer = Linformer(24, 3, 40, 8, dtype=torch.float64, **options)
    x = normal(4, 33, 24, dtype=torch.float64)
    lengths = torch.tensor([33, 1, 0, 17])
    poisoned = x.clone()
    for row, length in enumerate(lengths):
        poisoned[row, length:] = torch.nan
    y, state = mixer(poisoned, lengths=lengths)
    assert state is None
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(y[row, :length], definition(mixer, x[row], length))


def test_gradcheck():
    mixer = Linformer(6, 2, 5, 3, dtype=torch.float64)
    x = normal(1, 4, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: mixer(t)[0], (x,))


def test_layers_share_one_mixture():
    first = Linformer(16, 2, 20, 4, "layerwise")
    second = Linformer(16, 2, 20, 4, "layerwise", projection=first.proj_k)
    kept = first.proj_k.detach().clone()
    assert second.proj_k is first.proj_k
    assert torch.equal(first.proj_k, kept)
    (first(normal(1, 20, 16))[0] + second(normal(1, 20, 16))[0]).sum().backward()
    assert first.proj_k.grad.abs().sum() > 0
    layers = torch.nn.ModuleList([first, second])
    assert sum(p.numel() for p in layers.parameters()) == 20 * 4 + 2 * (4 * 16 * 16 + 16)


@pytest.mark.peers
@pytest.mark.parametrize("time", [40, 23, 1])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, {}),
        ({"one_kv_head": True}, {"key_heads": 1}),
        ({"share_kv": True}, {"sharing": "key-value", "tied_values": True}),
        ({"share_kv": True, "one_kv_head": True},
         {"sharing": "key-value", "tied_values": True, "key_heads": 1}),
    ],
    ids=str,
)  # fmt: skip
def test_is_the_package_of_that_name_and_loads_its_weights(theirs, ours, time):
    peer = pytest.importorskip("linformer", reason="the package linformer is not installed")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        known = peer.LinformerSelfAttention(24, 40, k=8, heads=3, **theirs)
    mixer = Linformer(24, 3, 40, 8, **ours)
    mixer.load_state_dict(known.state_dict())
    x = normal(2, time, 24)
    torch.testing.assert_close(mixer(x)[0], known(x), rtol=1e-6, atol=1e-6)
    padded = torch.cat([x, torch.full((2, 40 - time, 24), torch.nan)], 1)
    y, _ = mixer(padded, lengths=torch.tensor([time, time]))
    torch.testing.assert_close(y[:, :time], known(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"causal": True}, "has no causal form"),
        ({"heads": 3}, "width=16 is no multiple of heads=3"),
        ({"sharing": "all"}, "sharing='all' is none of none, headwise"),
        ({"rank": 50}, "rank=50 is not in 1..length=40"),
        ({"key_heads": 4}, "key_heads=4 is neither 1 nor heads=2"),
        ({"key_heads": 1, "sharing": "none"}, "leave key_heads out"),
        ({"backend": "numba"}, "backend='numba'"),
        ({"projection": torch.nn.Parameter(torch.zeros(40, 8))}, "'layerwise' does"),
        ({"projection": torch.nn.Parameter(torch.zeros(40, 7)), "sharing": "layerwise"}, "40, 7"),
    ],
)
def test_bad_options_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        Linformer(**{"width": 16, "heads": 2, "length": 40, "rank": 8, **options})


def test_too_many_tokens_are_named():
    with pytest.raises(ValueError, match="41 tokens, but length=40"):
        Linformer(16, 2, 40, 8)(normal(1, 41, 16))
    with pytest.raises(ValueError, match="no state and no step"):
        Linformer(16, 2, 40, 8).step(normal(1, 16), None)
