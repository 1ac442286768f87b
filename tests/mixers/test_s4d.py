"""S4D: initial modes of the paper, step sizes, decay by exponentials, the factor of 2."""

import math

import numpy as np
import pytest
import torch

from paragone.mixers import S4D, hippo
from paragone.mixers.s4d import initial_modes


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_initial_modes_are_those_of_the_paper():
    """arXiv:2206.11893, eq. 6 (Inv), 7 (Lin), section 4.1 (LegS, Real); N = 8."""
    n = np.arange(4)
    np.testing.assert_allclose(initial_modes("lin", 8)[0], -0.5 + 1j * math.pi * n)
    inverse = 8 / math.pi * (8 / (2 * n + 1) - 1)
    np.testing.assert_allclose(initial_modes("inv", 8)[0], -0.5 + 1j * inverse)
    np.testing.assert_allclose(initial_modes("real", 4)[0], -(n + 1.0))
    poles = initial_modes("legs", 8)[0]
    np.testing.assert_allclose(poles.real, -0.5)
    A = hippo.matrices("legs", 8)[0] + 0.5 * np.outer(*[hippo.matrices("legs", 8)[1]] * 2)
    found = np.linalg.eigvals(A)
    np.testing.assert_allclose(poles.imag, np.sort(found.imag)[4:], atol=1e-9)


@pytest.mark.parametrize("init", ["lin", "real"])
@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_kernel_is_the_sum_over_all_modes(init, method):
    """Trap: modes of a conjugate pair count twice, real ones once."""
    layer = S4D(3, 6, init=init, method=method, dtype=torch.float64)
    found = layer._system(0).kernel(20).detach().numpy()
    turn = 0 * layer.log_decay if layer.frequency is None else layer.frequency
    poles = (-layer.log_decay.exp() + 1j * turn).detach().numpy()
    B, C = (
        torch.complex(p[..., 0, :], p[..., 1, :]).detach().numpy() for p in (layer.B, layer.C[0])
    )
    dt = layer.log_dt.exp().detach().numpy()[:, None]
    if method == "zoh":
        A, B = np.exp(dt * poles), (np.exp(dt * poles) - 1) / poles * B
    else:
        A, B = (1 + dt * poles / 2) / (1 - dt * poles / 2), dt * B / (1 - dt * poles / 2)
    halves = [(A, B, C)] if init == "real" else [(A, B, C), (A.conj(), B.conj(), C.conj())]
    lags = np.arange(20)[:, None, None]
    wanted = sum((c * b * a**lags).sum(-1) for a, b, c in halves)
    np.testing.assert_allclose(found, wanted.real.T, atol=1e-12)


def test_steps_are_log_uniform_and_decay_stays_negative():
    """Trap 32: dt between 1e-3 and 1e-1, uniform in the logarithm; the real part is -exp."""
    layer = S4D(4000, 2)
    low, high = math.log(1e-3), math.log(1e-1)
    share = (layer.log_dt.detach() - low) / (high - low)
    assert 0 <= share.min() <= share.max() <= 1
    assert abs(share.mean() - 0.5) < 0.02
    assert abs(share.var() - 1 / 12) < 0.005
    torch.nn.init.constant_(layer.log_decay, 30.0)
    assert (layer._system(0).rate[:, 0] < 0).all()
    y, _ = S4D(3, 4)(torch.randn(1, 500, 3))
    assert y.isfinite().all()


def test_single_precision_error_of_the_forms():
    """Trap 32: float32 against float64 at 64 states and 4000 steps: 1e-5 of the largest."""
    layer = S4D(4, 64, activation=None, output=None)
    x = torch.randn(1, 4000, 4)
    wanted, end = layer.double()(x.double())
    layer.float()
    for form in ("convolution", "scan"):
        layer.form = form
        y, state = layer(x)
        assert (y - wanted).abs().max() < 1e-5 * wanted.abs().max()
        assert (state.hidden - end.hidden).abs().max() < 2e-5 * end.hidden.abs().max()


def test_automatic_choice_of_the_form():
    layer = S4D(3)
    assert layer._chosen(torch.zeros(1, 2, 3)) == "scan"
    assert layer._chosen(torch.zeros(1, 2, 3, dtype=torch.float64)) == "convolution"
    assert S4D(3, backend="torch")._chosen(torch.zeros(1, 2, 3)) == "convolution"
