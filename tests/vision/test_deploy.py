"""Networks that only answer: the same answers as in evaluation, in other programs too."""

import copy
import importlib.util
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from paragone._core.errors import MissingPackageError
from paragone.vision import backbone, deploy, export_onnx
from paragone.vision.layers import NormAct
from paragone.vision.unet import UNet

SMALL = {
    "efficientnet_b0": {"width": 0.25, "depth": 0.3},
    "resnet18": {},
}


def images(batch=1, side=64, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, side, side, generator=generator)


def lived_in(net, seed=1):
    """Statistics and factors that differ from those of a fresh network."""
    generator = torch.Generator().manual_seed(seed)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            shape = part.running_mean.shape
            part.running_mean.copy_(0.2 * torch.randn(shape, generator=generator))
            part.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
            part.weight.data.copy_(0.5 + torch.rand(shape, generator=generator))
            part.bias.data.copy_(0.2 * torch.randn(shape, generator=generator))
    return net.eval()


def close(found, expected, rtol=1e-5):
    limit = rtol * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=limit)


def targets(deployed):
    plan, _ = next(iter(deployed._plans.values()))
    return [str(n.target) for n in plan.graph.nodes if n.op == "call_function"]


@pytest.mark.parametrize("name", SMALL)
def test_answers_are_the_networks_own(name):
    net, x = lived_in(backbone(name, num_classes=5, **SMALL[name])), images(2)
    fast = deploy(net, x)
    with torch.no_grad():
        close(fast(x), net(x))
    assert fast.reason is None
    found = targets(fast)
    assert not any("batch_norm" in target or "conv2d" in target for target in found)
    assert not any(target.startswith(("aten.relu", "aten.add")) for target in found)


def test_folding_is_exact_in_float64():
    net, x = lived_in(small_unet()).double(), images(1, 32).double()
    fast = deploy(net, x)
    assert "float64" in fast.reason
    with torch.no_grad():
        close(fast(x), net(x), rtol=1e-11)
    assert not any("batch_norm" in target for target in targets(fast))
    with pytest.raises(ValueError, match=r"float64.*use 'auto'"):
        deploy(net, x, backend="fused")


def test_segmenters_and_new_shapes():
    net = lived_in(small_unet())
    fast = deploy(net)
    for x in (images(1, 32), images(3, 48)):
        with torch.no_grad():
            close(fast(x), net(x))
    assert len(fast._plans) == 2


def small_unet():
    return UNet(4, width=4, depth=1)


class Odd(nn.Module):
    """What must not be folded or fused: a map read twice, a norm alone, writes over a map."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.alone = NormAct(6, "none")
        self.norm = nn.BatchNorm2d(6, affine=False)
        self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.after = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 6, 3, 2, 1, groups=2)

    def forward(self, x):
        a = self.first(x)
        b = self.alone(a) + a
        c = self.norm(self.second(torch.relu(b)))
        c += b
        d = self.after(self.second(c)).relu_()
        e = d.mul_(2)
        f = torch.nn.functional.gelu(self.grouped(e), approximate="tanh")
        return {"a": a, "e": e, "f": f + f.mean((2, 3), keepdim=True)}


def test_what_must_stay_apart_stays_apart():
    net, x = Odd(), images(2, 9)
    net.train()(images(4, 9, seed=3))
    net.eval()
    fast, expected = deploy(net, x), net(x)
    for key, value in fast(x).items():
        close(value, expected[key].detach())


def test_shortcuts_with_spread_shapes_are_left_alone():
    class Spread(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            y = self.conv(x)
            return torch.relu(y + y.new_ones(1, 4, 1, 1))

    net, x = Spread(), images(2, 5)
    close(deploy(net, x)(x), net(x).detach())


def test_the_oracle_catches_a_wrong_epsilon():
    net, x = lived_in(small_unet()), images(1, 32)
    wrong = copy.deepcopy(net)
    for part in wrong.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 1e-2
    with torch.no_grad(), pytest.raises(AssertionError):
        close(deploy(wrong)(x), net(x))


def test_it_cannot_learn_and_does_not_follow():
    net, x = lived_in(small_unet()), images(1, 32)
    fast = deploy(net, x)
    with torch.no_grad():
        before = net(x)
        next(net.parameters()).mul_(3)
    close(fast.train()(x), before)
    assert not fast.training
    assert not any(p.requires_grad for p in fast.parameters())
    assert not fast(x).requires_grad
    again = pickle.loads(pickle.dumps(fast))
    close(again(x), before)
    net.train()
    deploy(net, x)
    assert net.training


def test_back_ends_are_asked_for_by_name():
    net, x = lived_in(small_unet()), images(1, 32)
    plain = deploy(net, x, backend="torch")
    assert plain.reason == "it was asked for"
    with torch.no_grad():
        close(plain(x), net(x))
    with pytest.raises(ValueError, match="none of auto, fused, torch"):
        deploy(net, backend="tensorrt")


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    present = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx" else present(name)
    )
    with pytest.raises(MissingPackageError, match=r"needs onnx: pip install 'paragone\[onnx\]'"):
        export_onnx(nn.Conv2d(3, 3, 1), tmp_path / "net.onnx", images())


def test_a_file_needs_a_size(tmp_path):
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    with pytest.raises(ValueError, match="give an example"):
        export_onnx(nn.Conv2d(3, 3, 1), tmp_path / "net.onnx")


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_gives_the_same_answers(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    net = lived_in(small_unet()).train()
    path = export_onnx(net, tmp_path / "net.onnx", images(1, 32))
    assert net.training
    assert not list(tmp_path.glob("*.data"))
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = images(batch, 32)
        (found,) = session.run(None, {"images": x.numpy()})
        with torch.no_grad():
            expected = net.eval()(x)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)
