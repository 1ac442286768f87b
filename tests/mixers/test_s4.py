"""S4 against the dense system that it stands for."""

import numpy as np
import pytest
import torch

from paragone.mixers import S4, hippo
from paragone.mixers import _spaces_systems as systems


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def dense(layer, channel):
    """A, B, C of a channel in the basis of V, all N modes, in float64."""

    def both(half):
        half = half.detach().double()
        half = (half[..., 0, :] + 1j * half[..., 1, :]).numpy()
        return np.concatenate([half, half.conj()], axis=-1)

    decay, turn = -layer.log_decay[channel].exp(), layer.frequency[channel]
    poles = both(torch.stack([decay, turn]))
    P = both(layer.P[:, channel])
    A = np.diag(poles) - P.T @ P.conj()
    return A, both(layer.B[channel]), both(layer.C[0, channel])


@pytest.mark.parametrize("method", ["bilinear", "zoh"])
@pytest.mark.parametrize("measure", ["legs", "legt", "fout"])
@pytest.mark.parametrize("length", [1, 2, 37, 64])
def test_kernel_is_that_of_the_dense_system(measure, method, length):
    layer = S4(2, 8, measure=measure, method=method, dtype=torch.float64)
    found = layer._system(0).kernel(length)
    for channel in range(2):
        A, B, C = dense(layer, channel)
        dt = float(layer.log_dt.detach()[channel].exp())
        A, B = _step(A, B, dt, method)
        wanted = [(C @ np.linalg.matrix_power(A, lag) @ B).real for lag in range(length)]
        np.testing.assert_allclose(found[channel].detach(), wanted, atol=1e-9)


def _step(A, B, dt, method):
    from scipy.linalg import expm

    if method == "zoh":
        step = expm(A * dt)
        return step, np.linalg.solve(A, (step - np.eye(len(A))) @ B)
    left = np.linalg.inv(np.eye(len(A)) - dt / 2 * A)
    return left @ (np.eye(len(A)) + dt / 2 * A), left @ B * dt


def test_it_starts_as_the_hippo_memory():
    """Its state is that of the LegS ODE with the basis turned; V turns it back."""
    layer = S4(3, 8, dtype=torch.float64)
    u = torch.randn(1, 50, 3, dtype=torch.float64)
    hidden = layer(u)[1].hidden[0].detach().numpy()
    A, B = hippo.matrices("legs", 8)
    V = hippo.nplr("legs", 8).V[:, 4:]
    for channel in range(3):
        step = hippo.discretize(A, B, float(layer.log_dt.detach()[channel].exp()), "bilinear")
        c = np.zeros(8)
        for value in u[0, :, channel].numpy():
            c = step[0] @ c + step[1] * value
        found = 2 * (V @ (hidden[channel, 0] + 1j * hidden[channel, 1])).real
        np.testing.assert_allclose(found, c, atol=1e-10)


def test_structured_and_dense_steps_and_kernels_agree():
    system = S4(3, 16, measure="legt", dtype=torch.float64)._system(0)
    plain = systems.Dense(system.A, system.B, system.C)
    torch.testing.assert_close(system.kernel(65), plain.kernel(65))
    u, state = torch.randn(2, 3).double(), torch.randn(2, 3, 16).double()
    for one, two in zip(system.step(u, state), plain.step(u, state), strict=True):
        torch.testing.assert_close(one, two)
    torch.testing.assert_close(plain.power(0), torch.eye(16).double().expand(3, 16, 16))


def test_single_precision_error_of_the_kernel():
    """Complex64 against float64 at 64 states and 1000 lags, steps from 1e-3 to 1e-1."""
    layer = S4(8, 64)
    kernel = layer._system(0).kernel(1000)
    wanted = layer.double()._system(0).kernel(1000)
    assert (kernel - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("measure", ["legs", "legt"])
def test_single_precision_error_of_the_forms(measure):
    """Float32 against float64 at 64 states and 1500 steps: 1e-5 of the largest."""
    layer = S4(3, 64, measure=measure, activation=None, output=None)
    x = torch.randn(1, 1500, 3)
    wanted, end = layer.double()(x.double())
    layer.float()
    for form in ("convolution", "scan"):
        layer.form = form
        y, state = layer(x)
        assert (y - wanted).abs().max() < 1e-5 * wanted.abs().max()
        assert (state.hidden - end.hidden).abs().max() < 2e-5 * end.hidden.abs().max()


def test_planted_error_is_seen(monkeypatch):
    """Without the cut at L terms the kernel's tail wraps around into its head."""
    monkeypatch.setattr(systems.Coupled, "power", lambda self, count: torch.zeros_like(self.A))
    with pytest.raises(AssertionError):
        test_kernel_is_that_of_the_dense_system("legs", "bilinear", 37)
