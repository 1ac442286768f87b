"""Fully convolutional networks: sizes, the sum of scores, the bilinear start."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from paragone.vision import FCN
from paragone.vision.contract import Backbone
from paragone.vision.upsampling import METHODS


class Trunk(Backbone):
    """Five convolutions of stride 2."""

    def __init__(self, least=2):
        super().__init__()
        self.num_classes, self.in_channels, self.image_size = 0, 3, (64, 64)
        self.channels = {s: 4 for s in (2, 4, 8, 16, 32) if s >= least}
        self.layers = nn.ModuleList(
            nn.Conv2d(3 if i == 0 else 4, 4, 3, 2, padding=1) for i in range(5)
        )

    def steps(self):
        return [(2 ** (i + 1), layer) for i, layer in enumerate(self.layers)]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("variant", ["32s", "16s", "8s"])
@pytest.mark.parametrize("upsampling", [m for m in METHODS if m not in ("unpool", "nearest-exact")])
def test_the_output_has_the_images_size(variant, upsampling):
    model = FCN(5, Trunk(), variant, upsampling=upsampling)
    for size in ((32, 64), (65, 37)):
        y = model(drawn(1, 3, *size))
        assert y.shape == (1, 5, *size)
    y.square().sum().backward()
    for name, value in model.named_parameters():
        deep = name.startswith("backbone")
        assert deep or value.grad is not None, name


def test_8s_is_the_sum_of_three_scores():
    model, x = FCN(3, Trunk(), "8s").double().eval(), drawn(1, 3, 64, 96).double()
    maps = model.backbone.feature_maps(x, (8, 16, 32))
    with torch.no_grad():
        fine = [score(maps[s]) for score, s in zip(model.score, (32, 16, 8), strict=True)]
        total = fine[0]
        for part in fine[1:]:
            total = part + functional.interpolate(total, scale_factor=2, mode="bilinear")
        expected = functional.interpolate(total, scale_factor=8, mode="bilinear")
        torch.testing.assert_close(model(x), expected)


def test_transposed_starts_as_bilinear():
    plain, learned = (
        FCN(3, Trunk(), "32s", upsampling=m).double() for m in ("bilinear", "transposed")
    )
    learned.load_state_dict(plain.state_dict(), strict=False)
    x = drawn(1, 3, 160, 160).double()
    with torch.no_grad():
        inner = (..., slice(32, -32), slice(32, -32))
        torch.testing.assert_close(learned(x)[inner], plain(x)[inner])
    assert learned.last[0].up.weight.shape == (3, 3, 64, 64)


def test_a_named_backbone():
    model = FCN(21, device="meta")
    assert model(torch.empty(1, 3, 65, 97, device="meta")).shape == (1, 21, 65, 97)
    assert model.score[0].weight.shape == (21, 512, 1, 1)


def test_refusals():
    with pytest.raises(ValueError, match="none of 32s"):
        FCN(2, Trunk(), "4s")
    with pytest.raises(ValueError, match="needs UNet"):
        FCN(2, Trunk(), upsampling="unpool")
    with pytest.raises(ValueError, match="no map of stride 8"):
        FCN(2, Trunk(least=16))
