"""S5: block-diagonal start in HiPPO's basis, and the dense system that it stands for."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from paragone.mixers import S5, hippo


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_it_starts_block_diagonal():
    """Trap 34: each block has the poles of HiPPO-LegS's normal part, of its own size."""
    layer = S5(6, 24, blocks=3, dtype=torch.float64)
    poles = hippo.nplr("legs", 8).poles[4:]
    np.testing.assert_allclose(layer.frequency.detach().reshape(3, 4), [poles.imag] * 3)
    np.testing.assert_allclose(-layer.log_decay.exp().detach().numpy(), -0.5)
    B = torch.complex(*layer.B.detach()).numpy().reshape(3, 4, 6)
    V = hippo.nplr("legs", 8).V[:, 4:]
    real = V @ B + V.conj() @ B.conj()
    assert np.abs(real.imag).max() < 1e-12
    wide = S5(64, 256)
    B = torch.complex(*wide.B.detach()).numpy()
    V = hippo.nplr("legs", 256).V[:, 128:]
    assert abs((2 * (V @ B).real).std() * 8 - 1) < 0.05


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_it_is_the_dense_system(method):
    layer = S5(3, 8, method=method, skip=False, activation=None, output=None, dtype=torch.float64)
    poles = torch.complex(-layer.log_decay.exp(), layer.frequency).detach().numpy()
    B, C = torch.complex(*layer.B.detach()).numpy(), layer.C[0].detach()
    C, dt = torch.complex(C[:, 0], C[:, 1]).numpy(), layer.log_dt.exp().detach().numpy()
    A, eye = np.diag(dt * poles), np.eye(4)
    if method == "zoh":
        step = expm(A)
        inward = np.linalg.solve(np.diag(poles), (step - eye) @ B)
    else:
        left = np.linalg.inv(eye - A / 2)
        step, inward = left @ (eye + A / 2), left @ np.diag(dt) @ B
    x, s, wanted = torch.randn(30, 3).double(), np.zeros(4), []
    for u in x.numpy():
        s = step @ s + inward @ u
        wanted.append(2 * (C @ s).real)
    np.testing.assert_allclose(layer(x[None])[0][0].detach(), wanted, atol=1e-12)
