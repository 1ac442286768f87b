"""Exponentials relative to a running maximum: kernel against the definition in float64."""

import pytest
import torch

from paragone.mixers.ops.features import NEVER, exp_features
from paragone.mixers.ops.features.exponentials import _exps


def given(rows, heads, time, features, seed=0):
    generator = torch.Generator().manual_seed(seed)
    reach = 6 * torch.randn(rows, heads, time, features, generator=generator)
    return reach, torch.randn(rows, heads, time, generator=generator)


SIZES = [(1, 1, 1, 1), (2, 3, 5, 15), (1, 2, 63, 64), (1, 1, 64, 65), (1, 2, 7, 131), (1, 2, 0, 3)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("running", [True, False])
def test_kernel_is_the_definition(sizes, running):
    reach, shift = given(*sizes)
    shift[..., 1::4] = torch.inf
    start = torch.full(sizes[:2], 1.5) if running else None
    found, level = exp_features(reach, shift, start, lowest=-9.0)
    more = None if start is None else start.double()
    wanted, wanted_level = exp_features(reach.double(), shift.double(), more, lowest=-9.0)
    torch.testing.assert_close(found.double(), wanted, rtol=3e-6, atol=1e-7)
    seen = shift.isfinite() if start is None else slice(None)
    torch.testing.assert_close(level[seen].double(), wanted_level[seen], rtol=1e-6, atol=1e-6)


def test_levels_run_on_and_hidden_tokens_leave_them():
    reach = torch.tensor([1.0, 5.0, 2.0]).view(1, 1, 3, 1)
    shift = torch.tensor([0.0, torch.inf, 0.0]).view(1, 1, 3)
    found, level = exp_features(reach, shift, torch.full((1, 1), NEVER))
    assert level.flatten().tolist() == [1, 1, 2]
    assert found.flatten().tolist() == [1, 0, 1]


def test_gradient_takes_the_level_as_a_constant():
    reach, shift = (t.requires_grad_() for t in given(1, 2, 4, 5))
    double = [t.detach().double().requires_grad_() for t in (reach, shift)]
    for tensors in ((reach, shift), tuple(double)):
        start = torch.zeros(1, 2, dtype=tensors[0].dtype)
        found, _ = exp_features(*tensors, start)
        found.square().sum().backward()
    for one, two in zip((reach, shift), double, strict=True):
        torch.testing.assert_close(one.grad.double(), two.grad, rtol=1e-5, atol=1e-6)


def test_operation_is_registered_in_full():
    reach, shift = (t.requires_grad_() for t in given(1, 2, 4, 5))
    torch.library.opcheck(_exps, (reach, shift, torch.zeros(1, 2), True, -60.0))
    with pytest.raises(ValueError, match=r"float64, not torch\.float32"):
        exp_features(reach.double(), shift.double(), backend="numba")


def test_threads_change_no_bit():
    reach, shift = given(1, 5, 300, 64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = exp_features(reach, shift, torch.zeros(1, 5))
        torch.set_num_threads(3)
        two = exp_features(reach, shift, torch.zeros(1, 5))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    turned = exp_features(reach.mT.contiguous().mT, shift, torch.zeros(1, 5))
    assert torch.equal(turned[0], one[0])
