"""Xception: published size, the order of its layers, scales."""

import pytest
import torch
from torch import nn

from paragone.vision import NormAct, xception
from paragone.vision.blocks.separable import SeparableConv, XceptionBlock


def test_has_the_published_size():
    net = xception(device="meta")
    assert net.parameter_count() == 22855952  # timm 1.0.31, legacy_xception
    assert net.macs((299, 299)) == 8357403496


def test_the_activation_stands_before_the_separable_convolution():
    """And none between its depthwise and pointwise parts, nor behind the last norm."""
    layers = [type(layer) for layer in XceptionBlock(4, 4, 2).rep]
    assert layers == [nn.ReLU, SeparableConv, NormAct, SeparableConv, NormAct]
    first = XceptionBlock(4, 8, 2, stride=2, first=False)
    assert type(first.rep[0]) is SeparableConv
    assert [layer.activation for layer in first.rep if isinstance(layer, NormAct)] == [
        "relu", "none"
    ]  # fmt: skip
    x = -torch.ones(1, 4, 5, 5)
    block = XceptionBlock(4, 4, 1).eval()
    assert torch.equal(block(x), x), "what is negative is cut before the filters, not beside them"
    conv = SeparableConv(4, 4)
    torch.testing.assert_close(conv(-x), -conv(x))


def test_blocks_widen_first_but_for_the_last():
    net = xception(width=0.125, device="meta")
    assert net.block2.rep.get_submodule("1").pointwise.out_channels == 32
    assert net.block12.rep.get_submodule("1").pointwise.out_channels == 91
    assert net.block12.rep.get_submodule("4").pointwise.out_channels == 128


def test_scales_and_refuses():
    few = xception(depth=0.25, width=0.25, device="meta")
    assert few.channels == {2: 16, 4: 32, 8: 64, 16: 182, 32: 512}
    assert len([part for part in few.modules() if isinstance(part, XceptionBlock)]) == 6
    with pytest.raises(ValueError, match="depth=0"):
        xception(depth=0)
