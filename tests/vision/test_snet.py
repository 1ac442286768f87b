"""SNet: the published tables, what they cost, and the wider view of 5x5 filters."""

import pytest
import torch

from paragone.vision import snet
from paragone.vision.layers import DepthwiseConv

# Counted from the paper's table of channels (table 1) with equal halves; SNet535 is exactly what
# its name says, SNet146 is not.
MACS = {"49": 51205832, "146": 161137848, "535": 535354640}
CHANNELS = {
    "49": (24, 24, 60, 120, 512),
    "146": (24, 24, 132, 264, 528),
    "535": (48, 48, 248, 496, 992),
}


@pytest.mark.parametrize("variant", MACS)
def test_has_the_published_table(variant):
    net = snet(variant, device="meta")
    assert net.macs((224, 224)) == MACS[variant]
    assert tuple(net.channels.values()) == CHANNELS[variant]
    assert (net.conv5 is None) == (variant != "49")
    depthwise = [layer for layer in net.modules() if isinstance(layer, DepthwiseConv)]
    assert {layer.kernel_size for layer in depthwise} == {(5, 5)}
    maps = net.feature_maps(torch.empty(1, 3, 320, 320, device="meta"), (16, 32))
    assert [tuple(x.shape[1:]) for x in maps.values()] == [
        (CHANNELS[variant][3], 20, 20), (CHANNELS[variant][4], 10, 10)
    ]  # fmt: skip


def test_the_authors_unequal_halves_cost_more():
    assert snet("146", wiring="megvii", device="meta").macs((224, 224)) == 162520824


@pytest.mark.parametrize("kernel", [3, 5])
def test_larger_filters_see_further(kernel):
    """A place of stride 8 sees 7 px through the stem, and k - 1 steps of each filter more."""
    net = snet("49", width=0.1, kernel=kernel, num_classes=0).double().eval()
    for parameter in net.parameters():
        if parameter.dim() > 1:
            torch.nn.init.constant_(parameter, 0.1)
    x = 1 + torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0)).double()
    x.requires_grad_()
    net.feature_maps(x, (8,))[8][0, :, 10, 10].sum().backward()
    seen = (x.grad[0].abs().amax((0, 1)) > 0).nonzero().flatten()
    assert seen[-1] - seen[0] + 1 == 7 + (kernel - 1) * (4 + 3 * 8)


def test_names_and_scales():
    assert snet("snet49", device="meta").channels == snet("49", device="meta").channels
    half = snet("49", width=0.5, depth=0.5, device="meta")
    assert half.channels[16] == 60
    assert len(half.stage3) == 4
    with pytest.raises(ValueError, match="variant='50' is none of 49, 146, 535"):
        snet("50")
    with pytest.raises(ValueError, match="depth=0"):
        snet("49", depth=0)
