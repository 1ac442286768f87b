"""ResNet: published sizes and where it begins."""

import pytest
import torch

from paragone.vision import resnet
from paragone.vision.blocks.residual import BasicBlock, Bottleneck

# Parameters and multiply-adds of torchvision 0.28 (its weights' meta data; counted by fvcore).
SIZES = {18: (11689512, 1814073344), 34: (21797672, 3663761408), 50: (25557032, 4089184256),
         152: (60192808, 11513626624)}  # fmt: skip


@pytest.mark.parametrize("depth", SIZES)
def test_has_the_published_size(depth):
    net = resnet(depth, device="meta")
    assert (net.parameter_count(), net.macs((224, 224))) == SIZES[depth]


def test_the_stride_sits_in_the_3x3_convolution():
    block = Bottleneck(8, 2, stride=2)
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize("depth", [18, 50])
def test_begins_as_the_identity_where_asked(depth):
    net = resnet(depth, width=0.125, zero_init=True, num_classes=3).eval()
    for block in net.modules():
        if isinstance(block, BasicBlock | Bottleneck) and block.downsample is None:
            x = torch.rand(1, block.conv1.in_channels, 4, 4, generator=torch.Generator())
            assert torch.equal(block(x), x)


def test_scales_and_refuses():
    assert resnet(18, width=0.5, device="meta").channels[32] == 256
    assert resnet(50, num_classes=0, device="meta")(torch.empty(2, 3, 64, 64, device="meta")
                                                    ).shape == (2, 2048)  # fmt: skip
    with pytest.raises(ValueError, match="depth=20 is none of 18, 34"):
        resnet(20)
    with pytest.raises(ValueError, match="width=-1"):
        resnet(18, width=-1)
