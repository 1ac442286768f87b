"""Units of a kernel are done once each, by as many threads as are asked for."""

import os
import threading

import numpy as np
import pytest

from paragone.kernels import teams
from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.teams import share


@njit(nogil=True, error_model="numpy")
def squares(counter, units, out):
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        out[unit] += unit * unit
        unit = fetch_add(counter, 0, 1)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("units", [0, 1, 2, 1009])
def test_each_unit_is_done_once(units, threads):
    out = np.zeros(units)
    share(squares, units, out, threads=threads)
    assert (out == np.arange(units) ** 2).all()


def test_threads_work_side_by_side_and_an_error_comes_out():
    meet = threading.Barrier(3, timeout=20)
    share(lambda counter, units: meet.wait(), 3, threads=3)

    def failing(counter, units):
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("in the team")

    with pytest.raises(ValueError, match="in the team"):
        share(failing, 3, threads=2)


def test_a_pool_serves_where_openmp_is_not_torchs(monkeypatch):
    monkeypatch.setattr(teams, "_openmp", lambda: None)
    test_each_unit_is_done_once(1009, 3)
    test_threads_work_side_by_side_and_an_error_comes_out()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_its_own_team():
    import torch

    torch.ones(100_000).add_(1)
    test_each_unit_is_done_once(1009, 2)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        test_each_unit_is_done_once(1009, 2)
        os.write(writer, b"done")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 4) == b"done"
