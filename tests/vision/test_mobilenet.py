"""MobileNets against the papers' counts, their blocks against plain formulas."""

import copy
import math

import pytest
import torch
from torch import nn

from paragone.vision import count_macs, efficientnet, mnasnet, mobilenet
from paragone.vision._mobile_names import torchvision_names
from paragone.vision._mobile_style import Style
from paragone.vision._mobile_table import parse
from paragone.vision.blocks.conv_norm import ConvNorm
from paragone.vision.blocks.fused_residual import FusedResidual
from paragone.vision.blocks.ghost import GhostModule
from paragone.vision.blocks.inverted_residual import InvertedResidual
from paragone.vision.blocks.mobile_attention import MobileAttention, MultiQueryAttention
from paragone.vision.blocks.mobile_separable import SeparableResidual
from paragone.vision.blocks.universal_bottleneck import UniversalBottleneck

# Parameters, side in pixels, multiply-adds: timm 1.0.31.
GOLDEN = {
    ("v1", 1.0): (4_231_976, 224, 568_740_352),
    ("v2", 1.0): (3_504_872, 224, 300_774_272),
    ("v2", 0.5): (1_968_680, 224, 97_131_840),
    ("v2", 1.4): (6_108_776, 224, 582_195_824),
    ("v3-large", 1.0): (5_483_032, 224, 216_589_760),
    ("v3-small", 1.0): (2_542_856, 224, 56_510_400),
    ("v4-conv-small", 1.0): (3_774_024, 224, 186_005_568),
    ("v4-conv-medium", 1.0): (9_715_512, 256, 1_080_244_224),
    ("v4-conv-large", 1.0): (32_590_864, 384, 6_376_220_672),
    ("v4-hybrid-medium", 1.0): (11_074_648, 256, 1_229_240_320),
}
F64 = torch.float64


def seeded(make, seed=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("version", "width"), GOLDEN)
def test_parameters_and_multiply_adds_are_exact(version, width):
    parameters, side, macs = GOLDEN[version, width]
    net = mobilenet(version, width=width, device="meta")
    assert net.parameter_count() == parameters
    assert net.image_size == (side, side)
    assert net.macs() == macs


def test_the_first_version_has_an_activation_behind_every_layer_and_no_skip():
    net = mobilenet("v1", device="meta")
    norms = [m.activation for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == ["relu6"] * 27
    assert not any(block.has_skip for stage in net.blocks for block in stage)


def test_the_second_version_has_linear_bottlenecks_and_does_not_expand_at_first():
    net = mobilenet("v2", device="meta")
    assert isinstance(net.blocks[0][0], SeparableResidual)
    assert net.blocks[0][0].bn2.activation == "none"
    for stage in net.blocks[1:]:
        for i, block in enumerate(stage):
            assert [b.activation for b in (block.bn1, block.bn2, block.bn3)] == [
                "relu6", "relu6", "none",
            ]  # fmt: skip
            assert block.conv_pw.out_channels == 6 * block.conv_pw.in_channels
            assert block.has_skip == (i > 0)
    assert mobilenet("v2", width=0.5, device="meta").features == 1280
    assert mobilenet("v2", width=1.4, device="meta").features == 1792


def test_the_third_version_squeezes_the_expanded_and_averages_before_its_last_layer():
    net = mobilenet("v3-small", device="meta")
    widths = [b.se.conv_reduce.out_channels for s in net.blocks[:-1] for b in s
              if not isinstance(b.se, nn.Identity)]  # fmt: skip
    assert widths == [8, 24, 64, 64, 32, 40, 72, 144, 144]
    gates = {(b.se.activation, b.se.gate) for s in net.blocks[:-1] for b in s
             if not isinstance(b.se, nn.Identity)}  # fmt: skip
    assert gates == {("relu", "hard_sigmoid")}
    assert net.blocks[1][0].bn1.activation == "relu"
    assert net.blocks[2][0].bn1.activation == net.bn1.activation == "hard_swish"
    assert net.bn1.eps == 1e-3
    assert net.conv_head.bias is not None
    assert not hasattr(net, "bn2")
    small = seeded(lambda: mobilenet("v3-small", num_classes=4, dtype=F64)).eval()
    x = drawn(2, 576, 3, 3)
    hidden = x.mean((2, 3)) @ small.conv_head.weight[:, :, 0, 0].T + small.conv_head.bias
    hidden = hidden * (hidden + 3).clamp(0, 6) / 6
    expected = hidden @ small.classifier.weight.T + small.classifier.bias
    torch.testing.assert_close(small.head(x), expected)
    assert mobilenet("v3-small", width=0.5, device="meta").conv_stem.out_channels == 16


@pytest.mark.parametrize(("start", "middle"), [(0, 3), (5, 0), (0, 0), (3, 5)])
def test_the_universal_bottleneck_has_its_four_forms(start, middle):
    block = UniversalBottleneck(
        8, 8, start_size=start, kernel_size=middle, expand=2,
        style=Style(layer_scale=0.5, dtype=F64),
    ).eval()  # fmt: skip
    x = drawn(2, 8, 7, 6)

    def conv(layer, y, groups):
        w = layer.conv.weight
        pad = w.shape[-1] // 2
        y = nn.functional.conv2d(y, w, padding=pad, groups=groups)
        return y / math.sqrt(1 + 1e-5)

    y = conv(block.dw_start, x, 8) if start else x
    y = conv(block.pw_exp, y, 1).relu()
    y = conv(block.dw_mid, y, 16).relu() if middle else y
    y = x + 0.5 * conv(block.pw_proj, y, 1)
    torch.testing.assert_close(block(x), y)


def test_a_stride_is_at_the_filters_within_or_else_at_the_start():
    both = UniversalBottleneck(8, 8, start_size=3, kernel_size=5, stride=2)
    assert (both.dw_start.conv.stride, both.dw_mid.conv.stride) == ((1, 1), (2, 2))
    start = UniversalBottleneck(8, 8, start_size=3, kernel_size=0, stride=2)
    assert start.dw_start.conv.stride == (2, 2)
    with pytest.raises(ValueError, match="stride=2 needs filters"):
        UniversalBottleneck(8, 8, kernel_size=0, stride=2)


@pytest.mark.parametrize("stride", [1, 2])
def test_attention_is_a_sum_over_pixels_head_by_head(stride):
    layer = seeded(
        lambda: MultiQueryAttention(6, heads=3, head_width=4, stride=stride, style=Style(dtype=F64))
    ).eval()
    x = drawn(2, 6, 5, 3)
    q, k, v = (part(x).flatten(2) for part in (layer.query, layer.key, layer.value))
    expected = torch.zeros(2, 12, 15, dtype=F64)
    for b in range(2):
        for h in range(3):
            for n in range(15):
                weights = (q[b, 4 * h : 4 * h + 4, n] @ k[b] / 2).softmax(0)
                expected[b, 4 * h : 4 * h + 4, n] = v[b] @ weights
    expected = layer.output(expected.reshape(2, 12, 5, 3))
    torch.testing.assert_close(layer(x), expected)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(last), expected)
    # The planted mistake: channels taken as (width, heads).
    wrong = q.unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2)
    assert (wrong - q).abs().max() > 0.1


def test_attention_joins_its_input_and_learns():
    style = Style(layer_scale=1e-5, dtype=F64)
    block = seeded(lambda: MobileAttention(6, heads=2, head_width=4, stride=2, style=style))
    x = drawn(2, 6, 4, 4).requires_grad_()
    y = block(x)
    assert 0 < (y - x).abs().max() < 1e-3
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    assert torch.autograd.gradcheck(block.eval().attn, (x,), atol=1e-6)


def test_the_hybrid_starts_its_attention_uniformly():
    net = mobilenet("v4-hybrid-medium", num_classes=3, width=0.25)
    layers = [m for m in net.modules() if isinstance(m, MultiQueryAttention)]
    assert len(layers) == 8
    weight = layers[0].query.proj.weight
    assert weight.abs().max() <= math.sqrt(6 / sum(weight.shape[:2]))


@pytest.mark.parametrize(
    ("block", "macs"),
    [
        (ConvNorm(8, 16, kernel_size=3, stride=2), 6 * 10 * 8 * 16 * 9 // 4),
        (SeparableResidual(8, 16), 6 * 10 * 8 * (9 + 16)),
        (InvertedResidual(8, 16, kernel_size=5, stride=2, expand=3),
         6 * 10 * 24 * (8 + (25 + 16) / 4)),
        (InvertedResidual(8, 8, expand=2, squeeze=0.25),
         6 * 10 * 16 * (8 + 9 + 8) + 2 * 16 * 2),
        (FusedResidual(8, 16, stride=2, expand=2), 6 * 10 * 16 * (9 * 8 + 16) / 4),
        (UniversalBottleneck(8, 8, start_size=5, expand=2), 6 * 10 * (25 * 8 + 16 * (8 + 9 + 8))),
        (MobileAttention(8, heads=2, head_width=4, stride=2),
         60 * 8 * 2 * 8 + 15 * 8 * (2 * 9 + 8)),
        (GhostModule(8, 12), 6 * 10 * 6 * (8 + 9)),
        (GhostModule(8, 12, attention=True), 6 * 10 * 6 * (8 + 9) + 15 * 12 * (8 + 10)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_block_costs_what_its_page_says(block, macs):
    assert count_macs(block, (8, 6, 10)) == macs


@pytest.mark.parametrize(
    "make",
    [
        lambda **w: mobilenet("v2", width=0.25, **w),
        lambda **w: mobilenet("v3-small", width=0.25, **w),
        lambda **w: mnasnet(width=0.25, **w),
        lambda **w: efficientnet("b0", width=0.25, **w),
    ],
    ids=["v2", "v3", "mnasnet", "efficientnet"],
)
def test_a_copy_inside_another_module_still_reads_torchvisions_names(make):
    net = make(num_classes=3)
    theirs = {ours: name for name, ours in torchvision_names(net).items()}
    assert len(theirs) == len(torchvision_names(net))
    state = {}
    for key, value in net.state_dict().items():
        layer, _, parameter = key.rpartition(".")
        state[f"0.{theirs[layer]}.{parameter}"] = value
    other = nn.Sequential(copy.deepcopy(make(num_classes=3)))
    other.load_state_dict(state)
    for key, value in other[0].state_dict().items():
        assert torch.equal(value, net.state_dict()[key]), key


def test_tables_say_what_they_mean():
    (stage,) = parse("ir x2 k5 s2 e2.5 c40 se0.25 relu; cn k1 c8 skip\n\n", depth=1.2)
    assert [(s.kind, s.x, s.k, s.s, s.e, s.c, s.se, s.skip, s.relu) for s in stage] == [
        ("ir", 3, 5, 2, 2.5, 40, 0.25, None, True), ("cn", 2, 1, 1, 1.0, 8, 0.0, True, False),
    ]  # fmt: skip


def test_features_and_odd_images():
    for version in ("v1", "v3-small", "v4-conv-small"):
        net = mobilenet(version, width=0.25, num_classes=0, in_channels=2).eval()
        with torch.no_grad():
            y = net(torch.zeros(1, 2, 37, 53))
        assert y.shape == (1, net.features)


def test_an_unknown_version_lists_the_known():
    with pytest.raises(ValueError, match="version 'v5' is none of v1, v2"):
        mobilenet("v5")
    with pytest.raises(ValueError, match="dropout=-1 is no rate"):
        mobilenet("v2", dropout=-1, device="meta")
