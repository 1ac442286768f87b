"""GhostNet against its counts, its module against the formula."""

import pytest
import torch
from torch.nn import functional

from paragone.vision import ghostnet
from paragone.vision._mobile_style import Style
from paragone.vision.blocks.ghost import GhostBottleneck, GhostModule

# Parameters and multiply-adds at 224 pixels: timm 1.0.31.
GOLDEN = {"v1": (5_182_508, 141_150_512), "v2": (6_156_908, 167_048_288)}
F64 = torch.float64


def seeded(make, seed=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


@pytest.mark.parametrize("version", GOLDEN)
def test_parameters_and_multiply_adds_are_exact(version):
    net = ghostnet(version, device="meta")
    assert (net.parameter_count(), net.macs()) == GOLDEN[version]


def test_attention_begins_with_the_third_block():
    net = ghostnet("v2", device="meta")
    has = [b.ghost1.short_conv is not None for s in net.blocks[:-1] for b in s]
    assert has == [False] * 2 + [True] * 14
    squeezed = net.blocks[3][0].se
    assert (squeezed.conv_reduce.out_channels, squeezed.gate) == (20, "hard_sigmoid")


@pytest.mark.parametrize("outputs", [7, 8])
def test_half_of_the_maps_are_filtered_from_the_others_and_cut_to_size(outputs):
    module = seeded(lambda: GhostModule(5, outputs, style=Style(eps=0.0, dtype=F64))).eval()
    x = torch.randn(2, 5, 6, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    first = functional.conv2d(x, module.primary_conv[0].weight).relu()
    cheap = functional.conv2d(first, module.cheap_operation[0].weight, padding=1, groups=4).relu()
    torch.testing.assert_close(module(x), torch.cat([first, cheap], 1)[:, :outputs])
    assert module(x).shape[1] == outputs


@pytest.mark.parametrize("size", [(1, 1), (6, 6), (7, 5)])
def test_attention_weighs_by_rows_and_columns_at_half_the_size(size):
    module = seeded(
        lambda: GhostModule(4, 6, attention=True, style=Style(eps=0.0, dtype=F64))
    ).eval()
    x = torch.randn(2, 4, *size, dtype=F64, generator=torch.Generator().manual_seed(1))
    layers, module.short_conv = module.short_conv, None
    plain, module.short_conv = module(x), layers
    pooled = x if size == (1, 1) else functional.avg_pool2d(x, 2)
    y = functional.conv2d(pooled, layers[0].weight)
    y = functional.conv2d(y, layers[2].weight, padding=(0, 2), groups=6)
    y = functional.conv2d(y, layers[4].weight, padding=(2, 0), groups=6).sigmoid()
    rows = torch.arange(size[0]) * y.shape[2] // size[0]
    columns = torch.arange(size[1]) * y.shape[3] // size[1]
    torch.testing.assert_close(module(x), plain * y[:, :, rows][:, :, :, columns])


def test_a_shortcut_is_the_input_or_a_separable_convolution():
    assert len(GhostBottleneck(8, 8, inner=12).shortcut) == 0
    changed = GhostBottleneck(8, 12, inner=20, kernel_size=5, stride=2)
    assert changed.shortcut[0].kernel_size == changed.conv_dw.kernel_size == (5, 5)
    assert changed(torch.zeros(2, 8, 9, 9)).shape == (2, 12, 5, 5)


def test_small_images_and_bad_arguments():
    net = ghostnet("v2", width=0.5, num_classes=3).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    with pytest.raises(ValueError, match="version 'v3' is none of v1, v2"):
        ghostnet("v3")
