"""The contract of every backbone in the registry, the same questions for all."""

import functools

import pytest
import safetensors.torch
import torch

from paragone.vision import backbone, backbones

LARGE = {
    *(f"efficientnet_b{i}" for i in range(1, 8)), "efficientnet_v2_s", "efficientnet_v2_m",
    "efficientnet_v2_l", "inception_v4", "mobilenet_v4_medium", "mobilenet_v4_large", "resnet50",
    "snet535",
}  # fmt: skip
"""What has the same code as a smaller one: asked on the meta device only."""

ALL = backbones()
SMALL = [name for name in ALL if name not in LARGE]


def make(name, **more):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return backbone(name, num_classes=7, **more).eval()


def images(batch, channels=3, side=80, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, side, side, generator=generator)


@functools.cache
def settled(name):
    """A net whose norms have seen images: without that some networks blow up rounding errors."""
    net = make(name).train()
    norms = [part for part in net.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.random.fork_rng(), torch.no_grad():
        net(images(4, seed=1))
    return net.eval()


@pytest.mark.parametrize("name", ALL)
def test_stands_without_memory_and_says_what_it_costs(name):
    net = backbone(name, device="meta")
    assert net.num_classes == 1000
    assert net.macs((128, 128)) > 0
    assert all(p.is_meta for p in net.parameters())
    maps = net.feature_maps(torch.empty(1, 3, 128, 128, device="meta"))
    for stride, found in maps.items():
        assert found.shape[1] == net.channels[stride]


@pytest.mark.parametrize("name", SMALL)
def test_gives_logits_and_every_parameter_a_gradient(name):
    net = make(name, in_channels=1).train()
    logits = net(images(2, channels=1))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", SMALL)
def test_an_image_is_judged_alone_and_in_any_memory_order(name):
    net, x = settled(name), images(3)
    with torch.no_grad():
        whole = net(x)
        alone = net(x[1:2])
        last = net(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(last, whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_saves_and_loads(name, tmp_path):
    net, x = make(name), images(2, side=80)
    safetensors.torch.save_model(net, str(tmp_path / "net.safetensors"))
    other = backbone(name, num_classes=7).eval()
    safetensors.torch.load_model(other, str(tmp_path / "net.safetensors"))
    with torch.no_grad():
        assert torch.equal(net(x), other(x))


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2", "ghostnet_v2"])
def test_is_exported_for_any_number_of_images(name):
    net, x = settled(name), images(3, side=64)
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    program = torch.export.export(net, (x,), dynamic_shapes=(batch,))
    more = images(17, side=64, seed=2)
    torch.testing.assert_close(program.module()(more), net(more), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_those_of_the_whole(name):
    net, x = settled(name), images(1)
    with torch.no_grad():
        maps = net.feature_maps(x)
        last = net.forward_features(x)
    assert torch.equal(maps[max(maps)], last)
    assert list(maps) == sorted(maps)
    assert {stride: found.shape[1] for stride, found in maps.items()} == net.channels


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v2", "shufflenet_v2", "googlenet"])
def test_bad_input_is_told(name):
    net = make(name)
    with pytest.raises(ValueError, match="this backbone takes"):
        net(images(1, channels=4))
    with pytest.raises(ValueError, match="no map of stride 3"):
        net.feature_maps(images(1), [3])
    with pytest.raises(ValueError, match="give floats"):
        net(images(1).to(torch.uint8))


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="mobilenet_v2"):
        backbone("resnext")
