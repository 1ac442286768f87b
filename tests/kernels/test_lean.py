"""Lean vector functions against NumPy in float64, where they promise it."""

import numpy as np

from paragone.kernels.jit import njit
from paragone.kernels.lean import power, sigmoid
from paragone.kernels.simd import WIDTH, load, store


@njit(nogil=True, error_model="numpy")
def _powers(x, y):
    for i in range(0, x.size, WIDTH):
        store(y, i, power(load(x, i)))


@njit(nogil=True, error_model="numpy")
def _sigmoids(x, y):
    for i in range(0, x.size, WIDTH):
        store(y, i, sigmoid(load(x, i)))


def units(found, wanted):
    return np.abs(found - wanted) / np.spacing(wanted.astype(np.float32)).astype(np.float64)


def test_powers_of_two():
    x = np.linspace(-120, 0, 1 << 14, dtype=np.float32)
    y = np.empty_like(x)
    _powers(x, y)
    assert units(y, np.exp2(x.astype(np.float64))).max() <= 2.5
    assert y[-1] == 1.0
    special = np.full(WIDTH, -np.inf, np.float32)
    special[1] = np.nan
    found = np.empty_like(special)
    _powers(special, found)
    assert found[0] < 1e-37
    assert np.isnan(found[1])


def test_sigmoids():
    x = np.linspace(-80, 80, 1 << 14, dtype=np.float32)
    y = np.empty_like(x)
    _sigmoids(x, y)
    assert (units(y, 1 / (1 + np.exp(-x.astype(np.float64)))) <= 4 + 1.2 * np.abs(x)).all()
    special = np.zeros(WIDTH, np.float32)
    special[:3] = np.inf, -np.inf, np.nan
    found = np.empty_like(special)
    _sigmoids(special, found)
    assert found[0] == 1.0
    assert 0 <= found[1] < 1e-37
    assert np.isnan(found[2])
