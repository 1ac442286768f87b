"""EfficientNet against the paper's counts, and each way in which it is commonly built wrong."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from paragone.vision import backbone, efficientnet
from paragone.vision._mobile_style import SameConv, SameDepthwiseConv, Style, round_channels
from paragone.vision.blocks.inverted_residual import InvertedResidual
from paragone.vision.blocks.squeeze_excite import SqueezeExcite
from paragone.vision.blocks.stochastic_depth import StochasticDepth
from paragone.vision.layers import activate

# Parameters, side in pixels, multiply-adds: timm 1.0.31 and the metadata of torchvision 0.28.
GOLDEN = {
    "b0": (5_288_548, 224, 385_814_752),
    "b1": (7_794_184, 240, 686_802_832),
    "b2": (9_109_994, 288, 1_087_529_456),
    "b3": (12_233_232, 300, 1_827_141_392),
    "b4": (19_341_616, 380, 4_393_771_024),
    "b5": (30_389_784, 456, 10_266_384_752),
    "b6": (43_040_704, 528, 19_067_593_536),
    "b7": (66_347_960, 600, 37_745_884_192),
    "v2-s": (21_458_488, 384, 8_365_617_152),
    "v2-m": (54_139_356, 480, 24_582_460_384),
    "v2-l": (118_515_272, 480, 56_079_699_008),
}


def seeded(make, seed=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def blocks(net):
    return [block for stage in net.blocks for block in stage]


@pytest.mark.parametrize("variant", GOLDEN)
def test_parameters_and_multiply_adds_are_exact(variant):
    parameters, side, macs = GOLDEN[variant]
    net = efficientnet(variant, device="meta")
    assert net.parameter_count() == parameters
    assert net.macs((side, side)) == macs


def test_sides_are_the_papers_and_timms_are_others():
    sides = {f"b{i}": s for i, s in enumerate((224, 240, 260, 300, 380, 456, 528, 600))}
    for variant, side in sides.items():
        if variant in ("b0", "b2"):
            assert efficientnet(variant, device="meta").image_size == (side, side)
    assert efficientnet("b2", device="meta").macs((256, 256)) == 859_853_760


def test_channels_are_rounded_and_repeats_are_rounded_up():
    assert [round_channels(c) for c in (7.9, 11.9, 12, 17, 20, 35.2)] == [8, 16, 16, 16, 24, 32]
    # 35.2 goes to 32, which is more than 0.9 of it; 8.9 would go to 8, which is less.
    assert round_channels(8.9) == 16
    net = efficientnet("b4", device="meta")
    assert net.conv_stem.out_channels == 48
    assert [b[-1].bn3.num_features for b in net.blocks[1:]] == [32, 56, 112, 160, 272, 448]
    assert net.features == 1792
    assert [len(stage) for stage in efficientnet("b1", device="meta").blocks] == [
        2,
        3,
        3,
        4,
        4,
        5,
        2,
    ]
    assert [len(stage) for stage in net.blocks] == [2, 4, 4, 6, 6, 8, 2]
    wide = efficientnet("b0", width=1.4, depth=1.8, device="meta")
    assert wide.parameter_count() == GOLDEN["b4"][0]


def test_only_the_first_block_of_a_stage_has_a_stride_and_skips_are_where_shapes_allow():
    net = efficientnet("b1", device="meta")
    before = net.conv_stem.out_channels
    for stage, stride in zip(net.blocks, (1, 2, 2, 2, 1, 2, 1), strict=True):
        for i, block in enumerate(stage):
            assert block.conv_dw.stride[0] == (stride if i == 0 else 1)
            last = block.bn3 if isinstance(block, InvertedResidual) else block.bn2
            assert block.has_skip == (i > 0)
            assert last.activation == "none"
            if i == 0:
                assert stride == 2 or before != last.num_features
            before = last.num_features


def test_squeeze_is_a_share_of_what_enters_the_block():
    net = efficientnet("b3", device="meta")
    for block in blocks(net):
        entering = block.conv_pw.in_channels
        assert block.se.conv_reduce.out_channels == int(0.25 * entering)
        assert (block.se.activation, block.se.gate) == ("silu", "sigmoid")
    # A share of the expanded channels, a common mistake, is seen in the count.
    wrong = Style("silu", squeeze_inner=True, device="meta")
    given = InvertedResidual(16, 24, squeeze=0.25, style=wrong)
    assert given.se.conv_reduce.out_channels == 24 != int(0.25 * 16)


def test_squeeze_and_excitation_is_its_formula():
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = seeded(lambda: SqueezeExcite(6, 2, dtype=torch.float64))
    w1, w2 = layer.conv_reduce.weight[:, :, 0, 0], layer.conv_expand.weight[:, :, 0, 0]
    s = x.mean((2, 3)) @ w1.T + layer.conv_reduce.bias
    gate = 1 / (1 + (-(s / (1 + (-s).exp()) @ w2.T + layer.conv_expand.bias)).exp())
    torch.testing.assert_close(layer(x), x * gate[:, :, None, None])


def test_norms_have_the_papers_eps_and_silu_and_the_momentum_that_is_asked_for():
    net = efficientnet("b0", device="meta")
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 49
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.1)}
    other = efficientnet("b0", norm_eps=1e-5, norm_momentum=0.01, device="meta")
    assert (other.bn2.eps, other.bn2.momentum) == (1e-5, 0.01)
    assert net.bn1.activation == net.bn2.activation == "silu"


def test_first_weights_go_by_fan_out_of_one_group():
    net = seeded(lambda: efficientnet("b0", num_classes=50))
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 4000:
            fan_out = math.prod(layer.kernel_size) * layer.out_channels / layer.groups
            std = layer.weight.std().item()
            assert std == pytest.approx(math.sqrt(2 / fan_out), rel=0.08), name
    bound = 1 / math.sqrt(50)
    weight = net.classifier.weight
    assert bound * 0.999 < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    biases = [p for n, p in net.named_parameters() if n.endswith("bias")]
    assert all(not bias.any() for bias in biases)


def test_stochastic_depth_grows_with_depth_and_keeps_the_mean():
    net = efficientnet("b0", drop_path=0.2, device="meta")
    rates = [block.drop_path.rate for block in blocks(net)]
    assert rates == pytest.approx([0.2 * i / 16 for i in range(16)])
    layer = StochasticDepth(0.25)
    x = torch.ones(4000, 2, 2, 2)
    y = seeded(lambda: layer(x))
    assert y.unique().tolist() == pytest.approx([0.0, 4 / 3])
    per_image = y.flatten(1)
    assert torch.equal(per_image.min(1).values, per_image.max(1).values)
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert layer.eval()(x) is x


def test_an_image_without_its_branch_keeps_its_skip():
    style = Style("silu", dtype=torch.float64)
    block = seeded(lambda: InvertedResidual(8, 8, drop_path=0.5, style=style))
    x = torch.randn(64, 8, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = seeded(lambda: block(x)) - x
    kept = whole.flatten(1).abs().amax(1) > 0
    assert 16 < kept.sum() < 48
    block.drop_path.rate = 0.0
    torch.testing.assert_close(whole[kept], 2 * (block(x) - x)[kept])


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 3)])
@pytest.mark.parametrize("side", [1, 2, 5, 8, 13])
def test_same_padding_is_tensorflows(kernel, stride, side):
    """Output i reads input from i stride - before on, where before = total // 2."""
    conv = seeded(lambda: SameConv(1, 1, kernel, stride, bias=False, dtype=torch.float64))
    x = torch.randn(1, 1, side, side + 1, dtype=torch.float64,
                    generator=torch.Generator().manual_seed(2))  # fmt: skip
    outs = [-(-n // stride) for n in x.shape[2:]]
    total = [max((o - 1) * stride + kernel - n, 0) for o, n in zip(outs, x.shape[2:], strict=True)]
    padded = torch.zeros(
        1, 1, *(n + t for n, t in zip(x.shape[2:], total, strict=True)), dtype=x.dtype
    )
    top, left = total[0] // 2, total[1] // 2
    padded[:, :, top : top + side, left : left + side + 1] = x
    windows = padded.unfold(2, kernel, stride).unfold(3, kernel, stride)[
        ..., : outs[0], : outs[1], :, :
    ]
    expected = (windows * conv.weight[0, 0]).sum((-1, -2))
    torch.testing.assert_close(conv(x), expected)
    deep = SameDepthwiseConv(1, kernel, stride, 0, dtype=torch.float64)
    deep.load_state_dict(conv.state_dict())
    torch.testing.assert_close(deep(x), expected)


def test_same_padding_is_another_network_at_even_sides_and_none_at_odd():
    ours = seeded(lambda: efficientnet("b0", num_classes=5)).eval()
    tf = efficientnet("b0", num_classes=5, padding="same").eval()
    tf.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 65, 65, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        torch.testing.assert_close(tf(x), ours(x))
        even = x[..., :64, :64]
        assert (tf(even) - ours(even)).abs().max() > 0.1 * ours(even).abs().max()


def test_silu_keeps_its_input_alone_for_the_gradient():
    x, kept = torch.randn(7, 5, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        activate(x, "silu")
    assert len(kept) == 1
    assert kept[0].data_ptr() == x.data_ptr()


def test_an_inverted_residual_is_its_formula():
    style = Style("silu", 1e-3, dtype=torch.float64)
    block = seeded(
        lambda: InvertedResidual(8, 8, kernel_size=5, expand=2, squeeze=0.25, style=style)
    ).eval()
    for name, buffer in block.named_buffers():
        if "num" not in name:
            buffer.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    x = torch.randn(2, 8, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def norm(y, b):
        scale = b.weight / (b.running_var + 1e-3).sqrt()
        return (y - b.running_mean[:, None, None]) * scale[:, None, None] + b.bias[:, None, None]

    y = norm(torch.einsum("oc,bchw->bohw", block.conv_pw.weight[:, :, 0, 0], x), block.bn1)
    y = functional.pad(y * y.sigmoid(), (2, 2, 2, 2)).unfold(2, 5, 1).unfold(3, 5, 1)
    y = norm(torch.einsum("bchwij,cij->bchw", y, block.conv_dw.weight[:, 0]), block.bn2)
    y = block.se(y * y.sigmoid())
    y = norm(torch.einsum("oc,bchw->bohw", block.conv_pwl.weight[:, :, 0, 0], y), block.bn3)
    torch.testing.assert_close(block(x), x + y)
    # The planted mistake: an activation behind the projection.
    assert (block(x) - x - y * y.sigmoid()).abs().max() > 0.01


def test_pooled_features_other_channels_and_the_registry():
    net = backbone("efficientnet_b0", num_classes=0, in_channels=1, width=0.5, depth=0.5).eval()
    with torch.no_grad():
        assert net(torch.zeros(2, 1, 33, 40)).shape == (2, 640)
    assert [len(stage) for stage in net.blocks] == [1, 1, 1, 2, 2, 2, 1]
    assert net.channels == {2: 8, 4: 16, 8: 24, 16: 56, 32: 160}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "b9"}, "variant 'b9' is none of b0"),
        ({"width": 0.0}, "width=0.0 is no factor"),
        ({"depth": math.nan}, "depth=nan is no factor"),
        ({"padding": "valid"}, "padding='valid' is none of"),
        ({"drop_path": 1.0}, "drop_path=1.0 is no rate"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"dropout": 1.5}, "dropout=1.5 is no rate"),
    ],
)
def test_bad_arguments_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        efficientnet(**{"device": "meta", **options})
