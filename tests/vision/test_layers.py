"""Layers that all networks share: a convolution of one pixel as a product."""

import pytest
import torch
from torch.nn import functional

from paragone.vision import layers
from paragone.vision.layers import PointwiseConv, activate

LAST = torch.channels_last


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("order", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("batch", [0, 1, 3, 16])
def test_pointwise_is_a_convolution(one_thread, bias, order, batch):
    layer = PointwiseConv(5, 7, bias).to(memory_format=order)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 5, 4, 3, generator=generator).contiguous(memory_format=order)
    x.requires_grad_()
    y = layer(x)
    assert batch == 0 or y.is_contiguous(memory_format=order)
    dy = torch.randn(y.shape, generator=generator)
    found = torch.autograd.grad(y, [x, *layer.parameters()], dy)
    moved = x.detach().requires_grad_()
    z = functional.conv2d(moved, layer.weight, layer.bias)
    expected = torch.autograd.grad(z, [moved, *layer.parameters()], dy)
    torch.testing.assert_close(y, z)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_product_is_taken_where_torch_is_slow(one_thread, monkeypatch):
    taken = []
    product = functional.linear
    monkeypatch.setattr(
        layers.functional, "linear", lambda *given: taken.append(1) or product(*given)
    )
    x, layer = torch.ones(2, 3, 4, 4), PointwiseConv(3, 3)
    layer(x)
    assert not taken, "the map is not in channels-last order"
    layer(torch.ones(16, 3, 4, 4).contiguous(memory_format=LAST))
    assert not taken, "oneDNN serves batches"
    layer(x.contiguous(memory_format=LAST))
    assert taken
    torch.set_num_threads(2)
    layer(x.contiguous(memory_format=LAST))
    assert len(taken) == 1, "oneDNN serves several threads"


def test_keys_and_errors():
    assert PointwiseConv(3, 4, True).weight.shape == (4, 3, 1, 1)
    assert PointwiseConv(3, 4, device="meta", dtype=torch.float64).weight.dtype == torch.float64
    with pytest.raises(ValueError, match="relu6"):
        activate(torch.ones(1), "mish")
    assert activate(torch.tensor([-1.0, 7.0]), "relu6").tolist() == [0.0, 6.0]
