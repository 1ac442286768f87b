"""Inception: published sizes, auxiliary heads in training alone, input in other units."""

import copy

import pytest
import torch

from paragone.vision import inception
from paragone.vision.blocks.inception import GoogLeNetBlock, InceptionBlock

# Parameters (torchvision 0.28, with auxiliary heads where there are any; timm 1.0.31) and
# multiply-adds.
SIZES = {
    ("googlenet", False): (6624904, 1498376192),
    ("googlenet", True): (13004888, 1498376192),
    ("v3", False): (23834568, 5713216096),
    ("v3", True): (27161264, 5713216096),
    ("v4", False): (42679816, 12253974624),
}


def image(side, batch=1, seed=0, **kind):
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed)).to(
        **kind
    )


@pytest.mark.parametrize(("version", "aux"), SIZES)
def test_has_the_published_size(version, aux):
    net = inception(version, aux=aux, device="meta")
    assert (net.parameter_count(), net.macs()) == SIZES[version, aux]


@pytest.mark.parametrize(("version", "heads"), [("googlenet", 2), ("v3", 1)])
def test_auxiliary_heads_speak_in_training_alone(version, heads):
    net = inception(version, aux=True, width=0.125, num_classes=4)
    x = image(96, batch=3)
    out = net.train()(x)
    assert out.logits.shape == (3, 4)
    assert [y.shape for y in out.auxiliary] == [(3, 4)] * heads
    (out.logits.sum() + 0.3 * sum(y.sum() for y in out.auxiliary)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.eval()(x).shape == (3, 4)
    plain = inception(version, width=0.125, num_classes=4).eval()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain(x), net(x))
    assert isinstance(plain.train()(x), torch.Tensor)
    twin = copy.deepcopy(net).train()
    assert len(twin(x).auxiliary) == heads
    with pytest.raises(RuntimeError, match="Missing key"):
        inception(version, aux=True, width=0.125, num_classes=4).load_state_dict(plain.state_dict())


def test_the_largest_filters_are_3x3_unless_the_paper_is_asked_for():
    usual, paper = inception("googlenet"), inception("googlenet", five=5, device="meta")
    assert usual.inception3a.get_submodule("branch3.1").conv.kernel_size == (3, 3)
    assert paper.inception3a.get_submodule("branch3.1").conv.kernel_size == (5, 5)
    assert paper.parameter_count() > usual.parameter_count()
    assert GoogLeNetBlock(8, (4, 2, 4, 2, 4, 4)).branches[2][1][0].kernel == (5, 5)


@pytest.mark.parametrize("version", ["googlenet", "v3"])
def test_input_comes_in_other_units(version):
    net = inception(version, width=0.0625, num_classes=3, transform_input=True).double().eval()
    raw = copy.deepcopy(net)
    raw.transform_input = False
    x = image(80, dtype=torch.float64)
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=x.dtype)[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225], dtype=x.dtype)[:, None, None]
    torch.testing.assert_close(net((x - mean) / deviation), raw((x - 0.5) / 0.5))
    maps = net.feature_maps((x - mean) / deviation, [4])
    torch.testing.assert_close(maps[4], raw.feature_maps((x - 0.5) / 0.5, [4])[4])
    with pytest.raises(ValueError, match="transform_input=True is for RGB"):
        inception(version, transform_input=True, in_channels=1)


def test_a_fork_and_the_two_means_are_as_defined():
    table = ["a=2@1 b=3@1x3|c=4@3x1", "mean d=2@1", "avg e=2@1", "max/2"]
    block = InceptionBlock(3, table[:3]).double().eval()
    x = image(6, dtype=torch.float64)
    squeezed = block.a(x)
    counts = torch.nn.functional.avg_pool2d(torch.ones_like(x), 3, 1, 1)
    average = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    parts = (block.b(squeezed), block.c(squeezed), block.d(average / counts), block.e(average))
    torch.testing.assert_close(block(x), torch.cat(parts, 1))
    alone = InceptionBlock(3, table[3:])
    assert alone.out_channels == 3
    assert torch.equal(alone(x), torch.nn.functional.max_pool2d(x, 3, 2))


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_padding_keeps_halves(version):
    net = inception(version, padding="same", width=0.125, device="meta").eval()
    for stride, found in net.feature_maps(torch.empty(2, 3, 96, 64, device="meta")).items():
        assert found.shape[2:] == (96 // stride, 64 // stride)
    usual = inception(version, width=0.125, device="meta").eval()
    assert usual(torch.empty(2, 3, 75, 75, device="meta")).shape == (2, 1000)
    with pytest.raises(ValueError, match='give 75 px or more, or build it with padding="same"'):
        usual(torch.empty(1, 3, 74, 90, device="meta"))


def test_bad_arguments_are_told():
    with pytest.raises(ValueError, match="version='v2' is none of"):
        inception("v2")
    with pytest.raises(ValueError, match="v4 has no auxiliary heads"):
        inception("v4", aux=True)
    with pytest.raises(ValueError, match="padding='full'"):
        inception("v3", padding="full")
    with pytest.raises(ValueError, match="five=5"):
        inception("v3", five=5)
    with pytest.raises(ValueError, match="width=0"):
        inception("v3", width=0)
