"""Squared-ReLU attention: kernel against the definition in float64, value and gradients."""

import pytest
import torch

from paragone.kernels import choice
from paragone.mixers.ops.gau import _relu2, relu2_attention
from paragone.mixers.ops.gau.reference import relu2_attention as reference

SIZES = [
    (1, 1, 1, 2, 1), (2, 63, 63, 8, 5), (1, 65, 64, 6, 64), (2, 97, 97, 16, 65),
    (1, 131, 131, 128, 130), (1, 5, 300, 4, 7), (1, 300, 300, 2, 3), (1, 40, 7, 4, 9),
]  # fmt: skip


def given(rows, time, keys, depth, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, time, depth), (rows, keys, depth), (rows, keys, width))
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_kernel_is_the_definition(sizes, causal):
    single = [t.requires_grad_() for t in given(*sizes)]
    double = [t.detach().double().requires_grad_() for t in single]
    found = relu2_attention(*single, causal=causal, backend="numba")
    wanted = reference(*double, causal=causal)
    weights = torch.linspace(-1, 1, found.numel()).view_as(found)
    pairs = [(found, wanted)]
    pairs += zip(
        torch.autograd.grad((found * weights).sum(), single),
        torch.autograd.grad((wanted * weights).sum(), double),
        strict=True,
    )
    for one, two in pairs:
        scale = two.abs().max().clamp(min=1)
        torch.testing.assert_close(one.double() / scale, two / scale, rtol=1e-5, atol=2e-6)


def test_gradcheck_of_the_definition():
    inputs = [t.double().requires_grad_() for t in given(1, 6, 6, 3, 4)]
    assert torch.autograd.gradcheck(lambda *t: reference(*t, causal=True), inputs)


def test_strides_and_empty_input():
    q, k, v = given(2, 70, 70, 8, 12)
    wanted = relu2_attention(q, k, v, causal=True)
    turned = [t.mT.contiguous().mT for t in (q, k, v)]
    torch.testing.assert_close(relu2_attention(*turned, causal=True), wanted, rtol=0, atol=0)
    one = relu2_attention(q[:1].expand(2, -1, -1), k[:1].expand(2, -1, -1), v, causal=True)
    torch.testing.assert_close(one[0], wanted[0], rtol=0, atol=0)
    for sizes in ((0, 3, 3, 2, 2), (1, 0, 0, 2, 2), (1, 3, 0, 2, 2), (1, 3, 3, 2, 0)):
        y = relu2_attention(*given(*sizes))
        assert y.shape == (sizes[0], sizes[1], sizes[4])
        assert (y == 0).all()


def test_later_keys_change_no_bit_and_threads_neither():
    q, k, v = given(1, 200, 200, 16, 200)
    before = relu2_attention(q, k, v, causal=True)
    k[:, 150:] *= 9
    v[:, 150:] += 3
    assert torch.equal(relu2_attention(q, k, v, causal=True)[:, :150], before[:, :150])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = relu2_attention(q, k, v)
        torch.set_num_threads(3)
        assert torch.equal(relu2_attention(q, k, v), one)
    finally:
        torch.set_num_threads(threads)


def test_a_dropped_square_would_be_caught():
    q, k, v = given(1, 30, 30, 4, 4)
    planted = (q @ k.mT).relu().tril() @ v
    assert not torch.allclose(relu2_attention(q, k, v, causal=True), planted, rtol=0.1)


def test_operation_is_registered_in_full():
    inputs = [t.requires_grad_() for t in given(1, 9, 9, 4, 6)]
    torch.library.opcheck(_relu2, (*inputs, True))
    assert choice.backends("relu2_attention")[0] == "numba"
    with pytest.raises(ValueError, match=r"float64, not torch\.float32"):
        relu2_attention(*(t.double() for t in inputs), backend="numba")
    with pytest.raises(ValueError, match=r"\(1, 9, 4\), \(1, 8, 4\)"):
        relu2_attention(inputs[0], inputs[1][:, :8], inputs[2])
