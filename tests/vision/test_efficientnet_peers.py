"""Published state dicts of mobile networks load by name, and the numbers are the peers'."""

import importlib
import importlib.util
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from paragone.lab.torchvision_cpu import import_torchvision
from paragone.vision import efficientnet, ghostnet, mnasnet, mobilenet

pytestmark = pytest.mark.peers

timms = partial(efficientnet, norm_eps=1e-5)
tf = partial(efficientnet, padding="same")
TIMM = {
    "efficientnet_b1": partial(timms, "b1"),
    "tf_efficientnet_b0": partial(tf, "b0"),
    "tf_efficientnet_b4": partial(tf, "b4"),
    "tf_efficientnet_l2": partial(tf, "l2"),
    "tf_efficientnetv2_s": partial(tf, "v2-s"),
    "mobilenetv1_100": partial(mobilenet, "v1"),
    "mobilenetv2_050": partial(mobilenet, "v2", width=0.5),
    "mobilenetv2_140": partial(mobilenet, "v2", width=1.4),
    "mobilenetv3_large_100": partial(mobilenet, "v3-large", norm_eps=1e-5),
    "mobilenetv3_small_050": partial(mobilenet, "v3-small", width=0.5, norm_eps=1e-5),
    "tf_mobilenetv3_small_100": partial(mobilenet, "v3-small", padding="same"),
    "mobilenetv4_conv_small": partial(mobilenet, "v4-conv-small"),
    "mobilenetv4_conv_large": partial(mobilenet, "v4-conv-large"),
    "mobilenetv4_hybrid_medium": partial(mobilenet, "v4-hybrid-medium"),
    "mnasnet_100": mnasnet,
    "ghostnet_100": partial(ghostnet, "v1"),
    "ghostnetv2_100": partial(ghostnet, "v2"),
}
TORCHVISION = {
    "efficientnet_b0": partial(timms, "b0"),
    "efficientnet_b5": partial(efficientnet, "b5"),
    "efficientnet_v2_s": partial(efficientnet, "v2-s"),
    "mobilenet_v2": partial(mobilenet, "v2"),
    "mobilenet_v3_large": partial(mobilenet, "v3-large"),
    "mobilenet_v3_small": partial(mobilenet, "v3-small"),
    "mnasnet0_5": partial(mnasnet, width=0.5),
    "mnasnet1_3": partial(mnasnet, width=1.3),
}
COMPARED = {
    "tf_efficientnet_b0": 32, "mobilenetv1_100": 32, "mobilenetv2_050": 32,
    "tf_mobilenetv3_small_100": 32, "mobilenetv4_conv_small": 32,
    "mobilenetv4_hybrid_medium": 64, "ghostnetv2_100": 48,
}  # fmt: skip
ALSO = ("efficientnet_b0", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5")


@pytest.fixture(scope="module")
def torchvision():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("no torchvision")
    return import_torchvision()


@pytest.fixture(scope="module")
def timm(torchvision):
    if importlib.util.find_spec("timm") is None:
        pytest.skip("no timm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("timm")


def loads(ours, theirs):
    """Loads the other's state on shapes alone; every name and shape must have its place."""
    net = ours(device="meta")
    expected = {k: v.shape for k, v in net.state_dict().items()}
    net.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    assert {k: v.shape for k, v in net.state_dict().items()} == expected


@pytest.mark.parametrize("name", [name for name in TIMM if name not in COMPARED])
def test_timms_names_load(name, timm):
    with torch.device("meta"):
        theirs = timm.create_model(name)
    loads(TIMM[name], theirs)


@pytest.mark.parametrize("name", [name for name in TORCHVISION if name not in ALSO])
def test_torchvisions_names_load(name, torchvision):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
    loads(TORCHVISION[name], theirs)


def compared(ours, theirs, side=32):
    """Compares logits in evaluation and the norm of each parameter's gradient in training."""
    draw = torch.Generator().manual_seed(1)
    for key, value in theirs.state_dict().items():
        if value.is_floating_point() and value.dim() == 1:
            low, high = (0.5, 1.5) if "var" in key else (-0.2, 0.2)
            value.add_(torch.empty_like(value).uniform_(low, high, generator=draw))
    for layer in theirs.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if hasattr(layer, "p") and type(layer).__name__ == "StochasticDepth":
            layer.p = 0.0
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 3, side, side, dtype=torch.float64, generator=draw)
    with torch.no_grad():
        expected = theirs.eval()(x)
        torch.testing.assert_close(
            ours.eval()(x), expected, rtol=0, atol=1e-9 * expected.abs().max().item()
        )
    found = []
    for net in (ours, theirs):
        net.train()(x).square().mean().backward()
        found.append(torch.stack(sorted(p.grad.norm() for p in net.parameters())))
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-12 * found[1].max().item())


@pytest.mark.parametrize("name", COMPARED)
def test_logits_and_gradients_are_timms(name, timm):
    quiet = {"drop_rate": 0.0} if name.startswith("ghost") else {
        "drop_rate": 0.0, "drop_path_rate": 0.0,
    }  # fmt: skip
    theirs = timm.create_model(name, num_classes=9, **quiet).double()
    ours = TIMM[name](num_classes=9, dropout=0.0, drop_path=0.0, dtype=torch.float64)
    compared(ours, theirs, COMPARED[name])


@pytest.mark.parametrize("name", ALSO)
def test_logits_and_gradients_are_torchvisions(name, torchvision):
    theirs = getattr(torchvision.models, name)(num_classes=9).double()
    ours = TORCHVISION[name](num_classes=9, dropout=0.0, drop_path=0.0, dtype=torch.float64)
    compared(ours, theirs)


def test_a_name_that_is_no_ones_is_told(torchvision):
    net = mobilenet("v2", width=0.25, num_classes=2)
    state = {"features.0.0.weight": net.conv_stem.weight.detach(), "features.99.0.weight": 0}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*features.99.0.weight"):
        net.load_state_dict(state)
