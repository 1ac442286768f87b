"""U-Net: shapes of every form, the published sizes, and that it learns."""

import pytest
import torch
from torch import nn

from paragone.vision import UNet, count_macs
from paragone.vision.contract import Backbone
from paragone.vision.upsampling import METHODS


class Trunk(Backbone):
    """Five convolutions of stride 2, from `first` on."""

    def __init__(self, first=2):
        super().__init__()
        self.num_classes, self.in_channels, self.image_size = 0, 3, (64, 64)
        self.channels = {s: 4 for s in (2, 4, 8, 16, 32) if s >= first}
        self.layers = nn.ModuleList(
            nn.Conv2d(3 if i == 0 else 4, 4, 3, 2, padding=1) for i in range(5)
        )

    def steps(self):
        return [(2 ** (i + 1), layer) for i, layer in enumerate(self.layers)]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("upsampling", METHODS)
def test_any_size_of_image(upsampling):
    model = UNet(3, width=2, depth=3, upsampling=upsampling)
    for size in ((8, 8), (37, 13)):
        y = model(drawn(2, 3, *size))
        assert y.shape == (2, 3, *size)
    y.square().sum().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None, name
    with torch.no_grad():
        model.eval()
        x = drawn(2, 3, 19, 17)
        torch.testing.assert_close(torch.cat([model(x[:1]), model(x[1:])]), model(x), atol=1e-5,
                                   rtol=1e-4)  # fmt: skip


def test_the_published_network():
    model = UNet(2, 1, borders="crop", upsampling="transposed", stamp=2, init="default",
                 device="meta")  # fmt: skip
    assert model(torch.empty(1, 1, 572, 572, device="meta")).shape == (1, 2, 388, 388)
    assert 2 * model.lost_border == 572 - 388
    # 31,030,658 with biases and without norms; each norm has twice as many as a bias.
    assert sum(p.numel() for p in model.parameters()) == 31_030_658 + 5_888
    assert UNet(2, device="meta").lost_border == 0


def test_cropping_sees_what_padding_sees_inside():
    plain = UNet(1, 1, width=2, depth=1, upsampling="nearest").double().eval()
    cropped = UNet(1, 1, width=2, depth=1, upsampling="nearest", borders="crop").double().eval()
    cropped.load_state_dict(plain.state_dict())
    x, lost = drawn(1, 1, 76, 92).double(), cropped.lost_border
    with torch.no_grad():
        whole, part = plain(x), cropped(x)
    assert part.shape[2:] == (76 - 2 * lost, 92 - 2 * lost)
    torch.testing.assert_close(part, whole[..., lost:-lost, lost:-lost])


@pytest.mark.parametrize("first", [2, 4])
def test_a_backbone_in_place_of_the_way_down(first):
    trunk = Trunk(first)
    model = UNet(4, backbone=trunk, width=3, upsampling="pixel_shuffle")
    assert model(drawn(1, 3, 65, 97)).shape == (1, 4, 65, 97)
    assert model.depth == len(trunk.channels)
    with pytest.raises(ValueError, match="another method"):
        UNet(2, backbone=trunk, upsampling="unpool")
    with pytest.raises(ValueError, match="pads its borders"):
        UNet(2, backbone=trunk, borders="crop")
    with pytest.raises(ValueError, match="in_channels is 1"):
        UNet(2, 1, backbone=trunk)


def test_a_named_backbone():
    model = UNet(2, backbone="resnet18", width=4, device="meta")
    assert model(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 2, 64, 64)


def test_unpooling_brings_values_back_to_their_places():
    model = UNet(1, 1, width=2, depth=1, upsampling="unpool").eval()
    seen = {}
    model.up[0].register_forward_hook(lambda module, given, out: seen.update(y=out, at=given[2]))
    with torch.no_grad():
        model(drawn(1, 1, 5, 7))
    assert seen["y"].shape == (1, 2, 5, 7)
    hit = torch.zeros(1, 2, 35, dtype=torch.bool).scatter(2, seen["at"].flatten(2), True)
    assert not seen["y"].flatten(2)[~hit].any()


def test_it_learns_to_find_a_disc():
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    at = 6 + 12 * torch.rand(8, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    masks = ((y - at[:, 0]) ** 2 + (x - at[:, 1]) ** 2 < 30).float()
    images = masks[:, None] + 0.5 * drawn(8, 1, 24, 24)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UNet(1, 1, width=4, depth=2)
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(50):
        loss = nn.functional.binary_cross_entropy_with_logits(model(images)[:, 0], masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model(images)[:, 0] > 0
    overlap = (found & (masks > 0)).sum() / (found | (masks > 0)).sum()
    assert overlap > 0.8


def test_cost_of_a_level():
    cost = count_macs(UNet(1, width=8, depth=1, upsampling="nearest"), (3, 32, 32))
    pixels, w = 32 * 32, 8
    down = 9 * (3 * w + w * w) * pixels + 9 * (2 * w * w + 4 * w * w) * pixels // 4
    above = 2 * w * w * pixels // 4 + 9 * (2 * w * w + w * w) * pixels + w * pixels
    assert cost == down + above


def test_refusals():
    for given, words in (
        ({"borders": "mirror"}, "pad nor crop"), ({"depth": 0}, "at least 1"),
        ({"upsampling": "unpool", "borders": "crop"}, "use borders='pad'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            UNet(2, **given)
    model = UNet(2, width=2, depth=3)
    with pytest.raises(ValueError, match="smaller than 8"):
        model(drawn(1, 3, 7, 9))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        model(drawn(1, 1, 16, 16))
