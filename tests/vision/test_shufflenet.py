"""ShuffleNet: published sizes, both wirings against the definition, the authors' names."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from paragone.vision import NormAct, shufflenet
from paragone.vision.blocks.shuffle import ShuffleBlock, channel_shuffle
from paragone.vision.blocks.split import SplitBlock, interleave

# Parameters and multiply-adds of torchvision 0.28 (its weights' meta data; counted by fvcore).
V2 = {0.5: (1366792, 40476448), 1.0: (2278604, 144907992), 1.5: (3503624, 295759392),
      2.0: (7393996, 583253464)}  # fmt: skip
# Groups, width: parameters and multiply-adds in millions, from the README of
# megvii-model/ShuffleNet-Series, and channels of its network.py.
V1 = {
    (3, 0.5): (0.7, 38, (12, 120, 240, 480)),
    (8, 0.5): (1.0, 40, (16, 192, 384, 768)),
    (3, 1.0): (1.9, 138, (24, 240, 480, 960)),
    (8, 1.0): (2.4, 138, (24, 384, 768, 1536)),
    (3, 1.5): (3.4, 292, (24, 360, 720, 1440)),
    (3, 2.0): (5.4, 524, (48, 480, 960, 1920)),
}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unsettled(net, seed=0):
    """Norms as after training: nothing is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in itertools.chain(net.named_parameters(), net.named_buffers()):
            if value.dtype != torch.int64 and value.dim() == 1:
                value.copy_(torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5)
                if name.endswith(("bias", "mean")):
                    value.sub_(1)
            elif value.dim() > 1:
                scale = value[0].numel() ** -0.5
                value.copy_(
                    torch.randn(value.shape, generator=generator, dtype=torch.float64) * scale
                )
    return net.double().eval()


@pytest.mark.parametrize("width", V2)
def test_v2_has_the_published_size(width):
    net = shufflenet("v2", width=width, device="meta")
    assert (net.parameter_count(), net.macs((224, 224))) == V2[width]


@pytest.mark.parametrize(("groups", "width"), V1)
def test_v1_has_the_published_size(groups, width):
    net = shufflenet("v1", groups=groups, width=width, device="meta")
    parameters, macs, channels = V1[groups, width]
    assert tuple(net.channels.values())[1:] == channels
    assert net.parameter_count() / 1e6 == pytest.approx(parameters, abs=0.05)
    assert net.macs((224, 224)) / 1e6 == pytest.approx(macs, abs=0.6)


def test_other_widths_lie_between():
    sizes = [shufflenet("v2", width=w, device="meta").macs((224, 224))
             for w in (0.25, 0.5, 0.75, 2.0, 2.5)]  # fmt: skip
    assert sizes == sorted(sizes)
    few = shufflenet("v2", depth=0.5, device="meta")
    assert [len(stage) for stage in (few.stage2, few.stage3, few.stage4)] == [2, 4, 2]
    assert shufflenet("v2", last_channels=0, device="meta").channels[32] == 464


def test_v1_cuts_all_pointwise_convolutions_into_groups_but_the_first():
    net = shufflenet("v1", groups=3, device="meta")
    first, *others = [block.branch_main_1[0].groups for block in net.features]
    assert first == 1
    assert set(others) == {3}
    assert {block.branch_main_2[0].groups for block in net.features} == {3}


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_channels_are_dealt_out(memory):
    x = noise(2, 12, 3, 5).contiguous(memory_format=memory)
    y = channel_shuffle(x, 3)
    for i, j in itertools.product(range(3), range(4)):
        assert torch.equal(y[:, j * 3 + i], x[:, i * 4 + j])
    assert y.is_contiguous(memory_format=memory)
    for kind in (torch.float32, torch.float64, torch.bfloat16):
        a, b = x.to(kind).chunk(2, 1)
        pairs = interleave(a, b.contiguous(memory_format=memory))
        assert torch.equal(pairs[:, ::2], a)
        assert torch.equal(pairs[:, 1::2], b)
        assert pairs.is_contiguous(memory_format=memory)
    with pytest.raises(ValueError, match="12 channels are no multiple of 5"):
        channel_shuffle(x, 5)


def norm(state, name, x):
    parts = (state[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
    mean, var, weight, bias = (part[:, None, None] for part in parts)
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def conv(state, name, x, stride=1, groups=1):
    w = state[f"{name}.weight"]
    return functional.conv2d(x, w, None, stride, w.shape[-1] // 2, 1, groups)


def stem(state, x):
    x = norm(state, "first_conv.1", conv(state, "first_conv.0", x, 2)).relu()
    return functional.max_pool2d(x, 3, 2, 1)


def authors_v1(state, x, groups):
    """The published network, from its paper and names alone."""
    x = stem(state, x)
    for i in range(16):
        stride = 2 if i in (0, 4, 12) else 1
        one, two = f"features.{i}.branch_main_1", f"features.{i}.branch_main_2"
        y = conv(state, f"{one}.0", x, 1, groups if i else 1)
        y = norm(state, f"{one}.1", y).relu()
        y = norm(state, f"{one}.4", conv(state, f"{one}.3", y, stride, y.shape[1]))
        y = y.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
        y = norm(state, f"{two}.1", conv(state, f"{two}.0", y, 1, groups))
        if stride == 1:
            x = (x + y).relu()
        else:
            pooled = functional.conv2d(
                x, x.new_full((x.shape[1], 1, 3, 3), 1 / 9), None, 2, 1, 1, x.shape[1]
            )
            x = torch.cat((pooled, y.relu()), 1)
    return x.mean((2, 3)) @ state["classifier.0.weight"].T


def authors_v2(state, x):
    """The published network: even channels pass, odd channels are worked on."""
    x = stem(state, x)
    for i in range(16):
        stride = 2 if i in (0, 4, 12) else 1
        main, side = f"features.{i}.branch_main", f"features.{i}.branch_proj"
        y = x[:, 1::2] if stride == 1 else x
        y = norm(state, f"{main}.1", conv(state, f"{main}.0", y)).relu()
        y = norm(state, f"{main}.4", conv(state, f"{main}.3", y, stride, y.shape[1]))
        y = norm(state, f"{main}.6", conv(state, f"{main}.5", y)).relu()
        if stride == 1:
            z = x[:, ::2]
        else:
            z = norm(state, f"{side}.1", conv(state, f"{side}.0", x, 2, x.shape[1]))
            z = norm(state, f"{side}.3", conv(state, f"{side}.2", z)).relu()
        x = torch.cat((z, y), 1)
    x = norm(state, "conv_last.1", conv(state, "conv_last.0", x)).relu()
    return x.mean((2, 3)) @ state["classifier.0.weight"].T


@pytest.mark.parametrize(("groups", "width"), [(3, 0.5), (8, 0.25)])
def test_v1_is_the_authors_network(groups, width):
    net = unsettled(shufflenet("v1", groups=groups, width=width, num_classes=5))
    x = noise(2, 3, 40, 53)
    torch.testing.assert_close(net(x), authors_v1(net.state_dict(), x, groups), rtol=1e-9, atol=0)


def as_authors(state, repeats=(4, 8, 4)):
    """Our names of v2 as the authors published them."""
    places = [f"stage{s}.{i}." for s, n in enumerate(repeats, 2) for i in range(n)]
    table = [("conv1.", "first_conv."), ("conv5.", "conv_last."), ("fc.", "classifier.0."),
             *((place, f"features.{i}.") for i, place in enumerate(places)),
             ("branch1.", "branch_proj."), ("branch2.", "branch_main.")]  # fmt: skip
    renamed = {}
    for name, value in state.items():
        for ours, theirs in table:
            name = name.replace(ours, theirs)
        renamed[name] = value
    return renamed


def test_v2_is_the_authors_network_and_loads_their_names():
    net = unsettled(shufflenet("v2", width=0.5, wiring="megvii", num_classes=5))
    theirs, x = as_authors(net.state_dict()), noise(2, 3, 40, 53)
    other = shufflenet("v2", width=0.5, wiring="megvii", num_classes=5).double().eval()
    whole = torch.nn.ModuleDict({"backbone": other})
    whole.load_state_dict({f"backbone.{name}": value for name, value in theirs.items()})
    torch.testing.assert_close(other(x), authors_v2(theirs, x), rtol=1e-9, atol=0)
    thunder = {
        name.replace("stage2.", "stage.0.").replace("stage3.", "stage.1.")
        .replace("stage4.", "stage.2.").replace("branch1.", "branch_left.")
        .replace("branch2.", "branch."): value
        for name, value in net.state_dict().items()
    }  # fmt: skip
    assert "stage.2.3.branch.6.weight" in thunder
    third = shufflenet("v2", width=0.5, wiring="megvii", num_classes=5).double().eval()
    third.load_state_dict(thunder)
    assert torch.equal(third(x), other(x))


def test_the_other_wiring_is_another_network():
    net = unsettled(shufflenet("v2", width=0.5, wiring="megvii", num_classes=5))
    planted, x = copy.deepcopy(net), noise(1, 3, 64, 64)
    for block in planted.modules():
        if isinstance(block, SplitBlock) and block.stride == 1:
            block.wiring = "torchvision"
    right = authors_v2(as_authors(net.state_dict()), x)
    assert torch.allclose(net(x), right, rtol=1e-9)
    assert not torch.allclose(planted(x), right, rtol=1e-2)


def scenes():
    images = pytest.importorskip("sklearn.datasets").load_sample_images().images
    crops = [image[a : a + 160, b : b + 160] for image in images for a, b in ((0, 0), (203, 416))]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255


def strangeness(net, images):
    """How far means before the norms are from those of training, in deviations."""
    found = []

    def hook(layer, given, _):
        deviation = (layer.running_var + layer.eps).sqrt()
        found.append(((given[0].mean((0, 2, 3)) - layer.running_mean) / deviation).abs().mean())

    handles = [x.register_forward_hook(hook) for x in net.modules() if isinstance(x, NormAct)]
    with torch.no_grad():
        features = net(images)
    for handle in handles:
        handle.remove()
    return torch.stack(found[-12:]).mean().item(), features


def test_a_published_checkpoint_finds_photographs_familiar(data_folder):
    file = data_folder / "vision" / "shufflenetv2_0.5x.pth"
    if not file.exists():
        pytest.skip(f"no {file}")
    state = torch.load(file, map_location="cpu", weights_only=True)
    net = shufflenet("v2", width=0.5, wiring="megvii", num_classes=0, last_channels=0).eval()
    net.load_state_dict(state)
    images = scenes()
    seen, features = strangeness(net, images)
    assert seen < 0.4
    assert torch.equal(net(images), features)
    for block in net.modules():
        if isinstance(block, SplitBlock) and block.stride == 1:
            block.wiring = "torchvision"
    assert strangeness(net, images)[0] > 2 * seen


BLOCKS = [
    (ShuffleBlock, (24, 24), {"groups": 3}),
    (ShuffleBlock, (8, 32), {"stride": 2, "groups": 2, "first_groups": 1}),
    (SplitBlock, (24, 24), {"kernel": 5}),
    (SplitBlock, (8, 24), {"stride": 2}),
    (SplitBlock, (8, 24), {"stride": 2, "wiring": "megvii"}),
]


@pytest.mark.parametrize(("kind", "widths", "options"), BLOCKS)
def test_blocks_have_right_gradients_in_any_memory_order(kind, widths, options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = unsettled(kind(*widths, **options))
    x = noise(2, widths[0], 5, 7)
    ways = [x, x.contiguous(memory_format=torch.channels_last),
            torch.cat((x, x), 1)[:, : widths[0]], x[:1].expand(2, -1, -1, -1)]  # fmt: skip
    for way in ways[:3]:
        torch.testing.assert_close(block(way), block(x))
    torch.testing.assert_close(block(ways[3])[1], block(x)[0])
    small = noise(2, widths[0], 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(block, (small,), fast_mode=True)
    last = small.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    grads = [torch.autograd.grad(block(y).square().sum(), y)[0] for y in (small, last)]
    torch.testing.assert_close(*grads)


def test_what_is_exported_has_no_complex_numbers():
    block = SplitBlock(8, 8).eval()
    x = noise(2, 8, 6, 6).float().contiguous(memory_format=torch.channels_last)
    program = torch.export.export(block, (x,))
    assert "complex" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), block(x))


def test_bad_arguments_are_told():
    with pytest.raises(ValueError, match="groups=5 is none of 1, 2, 3, 4, 8"):
        shufflenet("v1", groups=5)
    with pytest.raises(ValueError, match="version='v3' is none of"):
        shufflenet("v3")
    with pytest.raises(ValueError, match="wiring='caffe' is none of"):
        shufflenet("v2", wiring="caffe")
    with pytest.raises(ValueError, match="width=0"):
        shufflenet("v2", width=0)
    with pytest.raises(ValueError, match="leave nothing to convolve"):
        shufflenet("v2", width=0.25, wiring="megvii")
    with pytest.raises(ValueError, match="num_classes=-1"):
        shufflenet("v2", num_classes=-1)
    with pytest.raises(ValueError, match="no multiple of 5 groups"):
        ShuffleBlock(24, 24, groups=5)
    with pytest.raises(ValueError, match="need stride 2"):
        ShuffleBlock(24, 48, groups=3)
    with pytest.raises(ValueError, match="same in and out"):
        SplitBlock(24, 48)
