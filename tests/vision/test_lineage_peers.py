"""Published names load strictly, and the networks then say what torchvision and timm say."""

import importlib.util
import warnings

import pytest
import torch

from paragone.lab.torchvision_cpu import import_torchvision
from paragone.vision import inception, resnet, shufflenet, squeezenet, xception
from paragone.vision.blocks.residual import Bottleneck
from paragone.vision.resnet import ResNet

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def torchvision_models():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("no torchvision")
    return import_torchvision().models


@pytest.fixture(scope="module")
def timm():
    if any(importlib.util.find_spec(name) is None for name in ("torchvision", "timm")):
        pytest.skip("no timm")
    import_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("timm")


# Ours, their name and options, side of the image in pixels.
TORCHVISION = {
    "shufflenet_v2_x0_5": (lambda **w: shufflenet("v2", width=0.5, num_classes=9, **w), {}, 65),
    "shufflenet_v2_x1_0": (lambda **w: shufflenet("v2", num_classes=9, **w), {}, 64),
    "googlenet": (
        lambda **w: inception("googlenet", num_classes=9, **w),
        {"aux_logits": False, "init_weights": False}, 63,
    ),
    "inception_v3": (
        lambda **w: inception("v3", num_classes=9, **w),
        {"aux_logits": False, "init_weights": False}, 75,
    ),
    "squeezenet1_0": (lambda **w: squeezenet("1.0", num_classes=9, **w), {}, 63),
    "squeezenet1_1": (lambda **w: squeezenet("1.1", num_classes=9, **w), {}, 65),
    "resnet18": (lambda **w: resnet(18, num_classes=9, **w), {}, 63),
}  # fmt: skip
TIMM = {
    "legacy_xception": (lambda **w: xception(num_classes=9, **w), {}, 67),
    "inception_v4": (lambda **w: inception("v4", num_classes=9, **w), {}, 75),
}
NAMES = {
    "shufflenet_v2_x1_5": lambda **w: shufflenet("v2", width=1.5, **w),
    "shufflenet_v2_x2_0": lambda **w: shufflenet("v2", width=2.0, **w),
    "resnet34": lambda **w: resnet(34, **w),
    "resnet50": lambda **w: resnet(50, **w),
    "resnet101": lambda **w: resnet(101, **w),
    "resnet152": lambda **w: resnet(152, **w),
    "googlenet": lambda **w: inception("googlenet", aux=True, **w),
    "inception_v3": lambda **w: inception("v3", aux=True, **w),
}


def unsettled(net):
    """A network without weights with some: its norms are as after training, nothing is 0 or 1."""
    generator = torch.Generator().manual_seed(3)
    net = net.double().to_empty(device="cpu")
    for name, value in net.state_dict().items():
        if value.dim() == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            if name.endswith(("bias", "mean")):
                value.sub_(1).mul_(0.5)
        elif value.dim() > 1:
            scale = (2 / value[0].numel()) ** 0.5
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
        else:
            value.zero_()
    return net.eval()


def judge(net, x):
    """Logits, gradient of the image, and its norm over all parameters, by one loss."""
    x = x.clone().requires_grad_()
    logits = net(x)
    weights = torch.linspace(-1, 1, logits.numel(), dtype=x.dtype).view_as(logits)
    (logits * weights).sum().backward()
    total = sum(p.grad.square().sum() for p in net.parameters()).sqrt()
    return logits.detach(), x.grad, total


def empty(make, **options):
    with torch.device("meta"):
        return make(**options)


def loaded(ours, theirs):
    """Ours, of shapes alone, with copies of their weights by their names."""
    copies = {name: value.clone() for name, value in theirs.state_dict().items()}
    ours.load_state_dict(copies, assign=True)
    return ours.eval()


def compare(make, theirs, side):
    theirs = unsettled(theirs)
    ours = loaded(make(device="meta"), theirs)
    x = torch.randn(1, 3, side, side + 4, generator=torch.Generator().manual_seed(1)).double()
    mine, gradient, norm = judge(ours, x)
    wanted, wanted_gradient, wanted_norm = judge(theirs, x)
    scale = wanted.abs().max()
    assert ((mine - wanted).abs().max() / scale).item() <= 1e-9
    assert (norm / wanted_norm).item() == pytest.approx(1, abs=1e-8)
    assert (gradient - wanted_gradient).norm() <= 1e-8 * wanted_gradient.norm()


@pytest.mark.parametrize("name", TORCHVISION)
def test_says_what_torchvision_says(name, torchvision_models):
    make, options, side = TORCHVISION[name]
    compare(make, empty(getattr(torchvision_models, name), num_classes=9, **options), side)


def test_bottlenecks_say_what_torchvision_says(torchvision_models):
    kind = torchvision_models.resnet.Bottleneck
    theirs = empty(torchvision_models.ResNet, block=kind, layers=[1, 2, 1, 1], num_classes=9)
    compare(lambda **w: ResNet(Bottleneck, (1, 2, 1, 1), num_classes=9, **w), theirs, 64)


@pytest.mark.parametrize("name", TIMM)
def test_says_what_timm_says(name, timm):
    make, options, side = TIMM[name]
    compare(make, empty(timm.create_model, model_name=name, num_classes=9, **options), side)


@pytest.mark.parametrize("name", NAMES)
def test_torchvisions_names_load(name, torchvision_models):
    options = {"init_weights": False} if "ception" in name or name == "googlenet" else {}
    theirs = empty(getattr(torchvision_models, name), **options)
    NAMES[name](device="meta").load_state_dict(theirs.state_dict(), assign=True)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "inception_v3"])
def test_timms_names_load(name, timm):
    theirs = empty(timm.create_model, model_name=name)
    ours = inception("v3", device="meta") if name == "inception_v3" else resnet(
        int(name[6:]), device="meta"
    )  # fmt: skip
    ours.load_state_dict(theirs.state_dict(), assign=True)


def test_auxiliary_heads_say_what_torchvisions_say(torchvision_models):
    theirs = unsettled(empty(
        torchvision_models.googlenet, num_classes=9, aux_logits=True, init_weights=False,
        transform_input=True, dropout_aux=0.0, dropout=0.0,
    ))  # fmt: skip
    ours = inception(
        "googlenet", num_classes=9, aux=True, transform_input=True, dropout=0.0, device="meta"
    )
    loaded(ours, theirs)
    for head in (ours.aux1, ours.aux2):
        head.dropout.p = 0.0
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    got, wanted = ours.train()(x), theirs.train()(x)
    torch.testing.assert_close(got.logits, wanted.logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.auxiliary[0], wanted.aux_logits1, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.auxiliary[1], wanted.aux_logits2, rtol=1e-9, atol=1e-9)
