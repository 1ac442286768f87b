"""Lion: against its definition in float64, lion-pytorch, and the bound that decay sets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paragone.training import Lion


def path(gradients, start, lr, betas, decay, wrong=False):
    """The definition in NumPy; `wrong` decays through the gradient, as a planted bug."""
    w, m = np.array(start, np.float64), np.zeros(len(start))
    for g in gradients:
        if wrong:
            g = g + decay * w
        else:
            w = w * (1 - lr * decay)
        w = w - lr * np.sign(betas[0] * m + (1 - betas[0]) * g)
        m = betas[1] * m + (1 - betas[1]) * g
    return w


def walked(gradients, start, **options):
    w = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = Lion([w], **options)
    for g in gradients:
        w.grad = torch.tensor(g)
        optimizer.step()
    return w.detach().numpy()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-4, 1.0), st.floats(0.0, 0.5), st.floats(0.0, 0.99))
def test_the_definition(seed, lr, decay, beta):
    rng = np.random.default_rng(seed)
    gradients, start = rng.normal(size=(6, 5)), rng.normal(size=5)
    options = {"lr": lr, "betas": (beta, 0.9), "weight_decay": decay}
    expected = path(gradients, start, lr, (beta, 0.9), decay)
    np.testing.assert_allclose(
        walked(gradients, start, **options), expected, rtol=1e-12, atol=1e-12
    )


def test_decay_through_the_gradient_would_be_seen():
    rng = np.random.default_rng(0)
    gradients, start = 0.01 * rng.normal(size=(6, 5)), rng.normal(size=5)
    wrong = path(gradients, start, 0.1, (0.9, 0.99), 0.5, wrong=True)
    right = walked(gradients, start, lr=0.1, weight_decay=0.5)
    assert np.abs(right - wrong).max() > 0.05


def test_weights_end_inside_the_bound():
    w = nn.Parameter(torch.tensor([5.0, -5.0, 0.0]))
    optimizer = Lion([w], lr=0.05, weight_decay=0.5)
    for _ in range(400):
        w.grad = torch.tensor([-1.0, 1e-6, -1e3])
        optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor([2.0, -2.0, 2.0]), rtol=1e-3, atol=0.0)


def test_complex_numbers_move_along_their_phase():
    w = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    w.grad = torch.tensor([3.0 + 4.0j, 0.0])
    Lion([w], lr=1.0).step()
    torch.testing.assert_close(w.detach(), torch.tensor([-0.6 - 0.8j, 0.0 + 0.0j]))


@pytest.mark.peers
def test_equals_lion_pytorch():
    peer = pytest.importorskip("lion_pytorch", reason="pip install lion-pytorch")
    rng = torch.Generator().manual_seed(2)
    start = [torch.randn(s, generator=rng) for s in ((), (5,), (3, 4))]
    mine, others = ([nn.Parameter(w.clone()) for w in start] for _ in range(2))
    a = Lion(mine, lr=0.01, betas=(0.9, 0.98), weight_decay=0.2)
    b = peer.Lion(others, lr=0.01, betas=(0.9, 0.98), weight_decay=0.2)
    for _ in range(10):
        for p, q in zip(mine, others, strict=True):
            p.grad = torch.randn(p.shape, generator=rng)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(mine, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(a.state[p]["exp_avg"], b.state[q]["exp_avg"])


def test_what_cannot_be_is_said():
    w = [nn.Parameter(torch.zeros(2))]
    for options, word in [({"lr": -1.0}, "lr"), ({"betas": (1.0, 0.9)}, "beta1"),
                          ({"betas": (0.9, 1.1)}, "beta2")]:  # fmt: skip
        with pytest.raises(ValueError, match=word):
            Lion(w, **options)
