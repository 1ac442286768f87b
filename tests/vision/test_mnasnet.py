"""MnasNet against its counts."""

import pytest
import torch

from paragone.vision import mnasnet

# Parameters and multiply-adds at 224 pixels: timm 1.0.31.
GOLDEN = {1.0: (4_383_312, 314_415_872), 0.5: (2_218_512, None), 1.3: (6_282_256, None)}


@pytest.mark.parametrize("width", GOLDEN)
def test_parameters_and_multiply_adds_are_exact(width):
    parameters, macs = GOLDEN[width]
    net = mnasnet(width=width, device="meta")
    assert net.parameter_count() == parameters
    if macs:
        assert net.macs() == macs


def test_its_table():
    net = mnasnet(device="meta")
    assert not net.blocks[0][0].has_skip
    assert not net.blocks[-1][0].has_skip
    assert [len(stage) for stage in net.blocks] == [1, 3, 3, 3, 2, 4, 1]
    assert [stage[0].conv_dw.kernel_size[0] for stage in net.blocks] == [3, 3, 5, 5, 3, 5, 3]
    assert not any("se." in name for name, _ in net.named_parameters())


def test_odd_images_and_bad_arguments():
    net = mnasnet(width=0.35, num_classes=0, in_channels=1).eval()
    with torch.no_grad():
        assert net(torch.zeros(2, 1, 31, 47)).shape == (2, 1280)
    with pytest.raises(ValueError, match="width=-1 is no factor"):
        mnasnet(width=-1)
