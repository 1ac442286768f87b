"""Depthwise convolution: its definition, the kernel for the gradient of 5x5 filters."""

import pytest
import torch
from torch.nn import functional

from paragone.kernels import choice
from paragone.vision.layers import DepthwiseConv
from paragone.vision.ops.depthwise.interface import depthwise_conv, weight_gradient
from paragone.vision.ops.depthwise.reference import (
    depthwise_conv_reference,
    weight_gradient_reference,
)

LAST = torch.channels_last
SHAPES = [
    (1, 1, 5, 5, 1, 2), (2, 7, 9, 8, 1, 2), (3, 17, 9, 8, 2, 2), (9, 65, 3, 3, 1, 2),
    (2, 16, 1, 1, 1, 2), (1, 33, 2, 7, 2, 2), (1, 63, 70, 67, 1, 2), (2, 4, 11, 6, 1, 0),
    (2, 4, 11, 6, 2, 3),
]  # fmt: skip


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("batch", "channels", "height", "width", "stride", "padding"), SHAPES)
def test_gradients_are_the_definitions(batch, channels, height, width, stride, padding):
    layer = DepthwiseConv(channels, 5, stride, padding, bias=True, backend="numba")
    x = numbers(batch, channels, height, width).contiguous(memory_format=LAST).requires_grad_()
    y = layer(x)
    exact = x.detach().double()
    weight = layer.weight.detach().double()
    expected = depthwise_conv_reference(exact, weight, stride, padding)
    expected = expected + layer.bias.detach().double()[:, None, None]
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    dy = numbers(*y.shape, seed=1)
    dx, dweight, dbias = torch.autograd.grad(y, [x, layer.weight, layer.bias], dy)
    right = weight_gradient_reference(exact, dy.double(), 5, stride, padding)
    limit = 3e-6 * float(right.abs().max())
    torch.testing.assert_close(dweight.double(), right, rtol=1e-5, atol=limit)
    moved = exact.requires_grad_()
    z = functional.conv2d(moved, weight, None, stride, padding, 1, channels)
    (right,) = torch.autograd.grad(z, [moved], dy.double())
    torch.testing.assert_close(dx.double(), right, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dbias, dy.sum((0, 2, 3)), rtol=1e-5, atol=1e-4)


def test_reference_is_torchs_and_has_its_gradient():
    x, weight = numbers(2, 3, 6, 5).double(), numbers(3, 1, 5, 5).double().requires_grad_()
    y = functional.conv2d(x, weight, None, 2, 2, 1, 3)
    torch.testing.assert_close(depthwise_conv_reference(x, weight, 2, 2), y)
    dy = numbers(*y.shape).double()
    (expected,) = torch.autograd.grad(y, [weight], dy)
    found = weight_gradient_reference(x, dy, 5, 2, 2)
    torch.testing.assert_close(found, expected)
    wrong = weight_gradient_reference(x.roll(1, 3), dy, 5, 2, 2)
    assert not torch.allclose(wrong, expected), "a shifted window must be caught"
    small, taps = numbers(1, 2, 5, 5).double(), numbers(2, 1, 3, 3).double()
    assert torch.autograd.gradcheck(
        lambda a, b: depthwise_conv_reference(a, b, 1, 1),
        [small.requires_grad_(), taps.requires_grad_()],
    )


def test_sums_over_many_places_do_not_drift():
    x = (numbers(1, 2, 400, 500) + 2).contiguous(memory_format=LAST)
    dy = (numbers(1, 2, 400, 500, seed=1) + 1).contiguous(memory_format=LAST)
    found = weight_gradient(x, dy, 1, 2)
    expected = weight_gradient_reference(x.double(), dy.double(), 5, 1, 2)
    torch.testing.assert_close(found.double(), expected, rtol=3e-6, atol=1e-2)


def test_threads_change_nothing():
    x = numbers(9, 24, 31, 33).contiguous(memory_format=LAST)
    dy = numbers(9, 24, 31, 33, seed=1).contiguous(memory_format=LAST)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(weight_gradient(x, dy, 1, 2))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_registered_operation_passes_torchs_own_check():
    x = numbers(2, 5, 7, 6).contiguous(memory_format=LAST)
    torch.library.opcheck(weight_gradient, (x, numbers(2, 5, 7, 6, seed=1), 1, 2))


@pytest.mark.parametrize("kind", ["nchw", "dilated", "3x3", "float64", "small", "empty"])
def test_the_rest_is_torchs(kind):
    x = numbers(2, 4, 12, 12).contiguous(memory_format=LAST)
    weight, dilation, padding = numbers(4, 1, 5, 5), 1, 2
    if kind == "nchw":
        x = x.contiguous()
    elif kind == "dilated":
        dilation, padding = 2, 4
    elif kind == "3x3":
        weight, padding = numbers(4, 1, 3, 3), 1
    elif kind == "float64":
        x, weight = x.double(), weight.double()
    elif kind == "small":
        x, padding = x[:, :, :4, :4].contiguous(memory_format=LAST), 0
    elif kind == "empty":
        x = x[:0]
    with pytest.raises(ValueError, match=r"torch is quick|channels-last|float32|smaller"):
        depthwise_conv(x, weight, padding=padding, dilation=dilation, backend="numba")
    if kind == "small":
        return
    y = depthwise_conv(x, weight.requires_grad_(), padding=padding, dilation=dilation)
    y.sum().backward()
    other = weight.detach().clone().requires_grad_()
    z = functional.conv2d(x, other, None, 1, padding, dilation, 4)
    z.sum().backward()
    torch.testing.assert_close(weight.grad, other.grad)


def test_autocast_keeps_its_dtype():
    layer = DepthwiseConv(4, 5)
    x = numbers(2, 4, 12, 12).contiguous(memory_format=LAST)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_a_call_can_be_explained():
    x = numbers(1, 4, 9, 9).contiguous(memory_format=LAST)
    told = choice.explain(
        "depthwise_conv", x=x, weight=numbers(4, 1, 3, 3), stride=1, padding=1, dilation=1
    )
    assert "torch: yes, and would be taken" in told


def test_keys_are_a_convolutions():
    assert set(DepthwiseConv(4, 5, bias=True).state_dict()) == {"weight", "bias"}
    assert DepthwiseConv(4, 3, 2)(torch.ones(1, 4, 9, 9)).shape == (1, 4, 5, 5)
    assert DepthwiseConv(4, 5, device="meta").weight.is_meta
