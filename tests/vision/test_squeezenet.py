"""SqueezeNet: published sizes, late pools, scales."""

import pytest
import torch

from paragone.vision import squeezenet

# torchvision 0.28.
SIZES = {"1.0": (1248424, 818924576), "1.1": (1235496, 349151936)}


@pytest.mark.parametrize("version", SIZES)
def test_has_the_published_size(version):
    net = squeezenet(version, device="meta")
    assert (net.parameter_count(), net.macs((224, 224))) == SIZES[version]


def test_version_1_1_pools_earlier():
    assert squeezenet("1.0", device="meta").channels == {2: 96, 4: 256, 8: 512, 16: 512}
    assert squeezenet("1.1", device="meta").channels == {2: 64, 4: 128, 8: 256, 16: 512}


def test_logits_are_means_of_maps_and_never_negative():
    net = squeezenet(width=0.25, num_classes=5).eval()
    x = torch.rand(2, 3, 63, 65, generator=torch.Generator().manual_seed(0))
    maps = net.classifier[1](net.forward_features(x)).relu()
    torch.testing.assert_close(net(x), maps.mean((2, 3)))
    assert (net(x) >= 0).all()


def test_scales_and_refuses():
    assert squeezenet(width=0.5, num_classes=0, device="meta").classifier is None
    assert squeezenet(width=0.5, device="meta").channels[16] == 256
    with pytest.raises(ValueError, match=r"version='2\.0' is none of 1\.0, 1\.1"):
        squeezenet("2.0")
    with pytest.raises(ValueError, match="width=0"):
        squeezenet(width=0)
    with pytest.raises(ValueError, match="num_classes=-2"):
        squeezenet(num_classes=-2)
