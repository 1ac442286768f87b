"""LRU: poles on a ring, a state of unit variance, and the dense recurrence."""

import math

import numpy as np
import pytest
import torch

from paragone.mixers import LRU


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_poles_start_uniform_on_the_ring():
    """Trap 34, arXiv:2303.06349, lemma 3.2: uniform in area between the radii and in phase."""
    layer = LRU(2, 4000, r_min=0.4, r_max=0.9, max_phase=math.pi / 5)
    radius, phase = (-layer.log_decay.exp()).exp(), layer.log_phase.exp()
    share = (radius**2 - 0.4**2) / (0.9**2 - 0.4**2)
    assert -1e-5 <= share.min() <= share.max() <= 1 + 1e-5
    assert abs(share.mean() - 0.5) < 0.02
    assert abs(phase.mean() / (math.pi / 5) - 0.5) < 0.02
    torch.testing.assert_close(layer.log_gamma.exp(), (1 - radius**2).sqrt(), rtol=1e-4, atol=1e-5)


def test_gamma_gives_the_state_unit_variance():
    """White noise of variance 1 leaves states of variance 1, whatever the radius."""
    layer = LRU(8, 400, r_min=0.5, r_max=0.99)
    hidden = layer(torch.randn(64, 500, 8))[1].hidden
    assert abs(hidden.square().sum(1).mean() - 1) < 0.1
    radius = (-layer.log_decay.exp()).exp()
    slow = hidden[:, :, radius > 0.95].square().sum(1).mean()
    fast = hidden[:, :, radius < 0.7].square().sum(1).mean()
    assert abs(slow / fast - 1) < 0.25


def test_it_is_the_dense_recurrence():
    layer = LRU(3, 5, skip=False, activation=None, output=None, dtype=torch.float64)
    pole = torch.exp(torch.complex(-layer.log_decay.exp(), layer.log_phase.exp())).detach().numpy()
    B = torch.complex(*layer.B.detach()).numpy()
    C = torch.complex(*layer.C[0].detach().unbind(1)).numpy()
    gamma = layer.log_gamma.exp().detach().numpy()
    x, s, wanted = torch.randn(30, 3).double(), np.zeros(5), []
    for u in x.numpy():
        s = pole * s + gamma * (B @ u)
        wanted.append((C @ s).real)
    np.testing.assert_allclose(layer(x[None])[0][0].detach(), wanted, atol=1e-12)
