"""Backbones behind one call for the study `backbones_speed`: `(op, net, weights, images)`.

Operations: "train" (forward and backward of a batch, in training; logits and the gradient of the
first convolution come out) and "infer" (logits of a network that only answers). All have the same
weights: a rival's network of the same name loads ours. Dropout and stochastic depth are off.

Shapes: B images, C channels, S side in pixels, K classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paragone._core.lazy import resolve
from paragone.lab.sequences import drawn_from
from paragone.lab.tasks.image import settle

__all__ = ["PEERS", "Deployed", "OnnxRuntime", "Ours", "Peer", "inputs", "truth"]

CLASSES = 1000
PEERS = {
    "timm": {
        "efficientnet_b0": "efficientnet_b0", "mobilenet_v2": "mobilenetv2_100",
        "mobilenet_v3_large": "mobilenetv3_large_100",
    },
    "torchvision": {
        "efficientnet_b0": "efficientnet_b0", "mobilenet_v2": "mobilenet_v2",
        "mobilenet_v3_large": "mobilenet_v3_large", "shufflenet_v2": "shufflenet_v2_x1_0",
    },
}  # fmt: skip
"""Library to our names and its own."""


def _network(net: str) -> nn.Module:
    return _still(resolve("paragone.vision:backbone")(net, num_classes=CLASSES))


def _still(model: nn.Module) -> nn.Module:
    """Turns off what is left to chance in training."""
    for part in model.modules():
        for name in ("p", "rate", "dropout", "drop_rate", "drop_prob"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    return model


def inputs(op: str, net: str, size: int, rows: int) -> tuple[str, str, dict[str, Tensor], Tensor]:
    """The operation, the network's name, its weights, and images (B, 3, S, S).

    Norms have seen these images: with statistics of nothing a deep network puts out nothing.
    """
    rng = np.random.default_rng([size, rows])
    x = torch.from_numpy(rng.standard_normal((rows, 3, size, size), dtype=np.float32))
    with drawn_from(0):
        model = _network(net)
        if op == "infer":
            settle(model, lambda: model(x if rows > 1 else torch.cat([x, -x])))
    return op, net, dict(model.state_dict()), x


def _first(model: nn.Module) -> Tensor:
    return next(p for p in model.parameters() if p.ndim == 4)


class Ours:
    """Our network, in the memory order that a CPU likes.

    Args:
        layout: "channels_last" or "as shipped".
    """

    def __init__(self, layout: str = "channels_last") -> None:
        self.layout = layout
        self.kept: Any = None

    def made(self, net: str) -> nn.Module:
        return _network(net)

    def ready(self, op: str, net: str, weights: Mapping[str, Tensor], x: Tensor) -> Any:
        """The module with these weights, and its input."""
        model = self.made(net)
        model.load_state_dict(weights)
        model.train(op == "train")
        if self.layout == "channels_last":
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            x = x.contiguous(memory_format=torch.channels_last)
        return model.to(x.dtype), x

    def __call__(self, op: str, net: str, weights: Mapping[str, Tensor], x: Tensor) -> Any:
        if self.kept is None:
            self.kept = self.ready(op, net, weights, x)
        model, x = self.kept
        if op == "infer":
            with torch.inference_mode():
                return model(x)
        for p in model.parameters():
            p.grad = None
        logits = model(x)
        logits.square().mean().backward()
        return logits, _first(model).grad


class Peer(Ours):
    """The network of the same name of timm or torchvision.

    Args:
        library: "timm" or "torchvision".
        layout: "channels_last" or "as shipped".
    """

    def __init__(self, library: str, layout: str = "as shipped") -> None:
        super().__init__(layout)
        self.library = library

    def made(self, net: str) -> nn.Module:
        make = resolve(f"paragone.lab.contestants.backbones_rivals:{self.library}")
        model = _still(make(PEERS[self.library][net], num_classes=CLASSES))
        ours = [m.eps for m in _network(net).modules() if isinstance(m, nn.BatchNorm2d)]
        theirs = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm, eps in zip(theirs, ours, strict=True):
            norm.eps = eps
        return model

    def ready(self, op: str, net: str, weights: Mapping[str, Tensor], x: Tensor) -> Any:
        """Our weights under their names."""
        model = self.made(net)
        names = list(model.state_dict())
        if set(names) != set(weights):
            # Both list their tensors in the same order; shapes tell whether that is so.
            weights = dict(zip(names, weights.values(), strict=True))
        self.made = lambda net: model
        return super().ready(op, net, weights, x)


class Deployed(Ours):
    """Our network, deployed where it only answers."""

    def ready(self, op: str, net: str, weights: Mapping[str, Tensor], x: Tensor) -> Any:
        model, x = super().ready(op, net, weights, x)
        return (resolve("paragone.vision:deploy")(model) if op == "infer" else model), x


class OnnxRuntime:
    """ONNX Runtime on the file that `export_onnx` writes of our network."""

    def __init__(self) -> None:
        self.session: Any = None

    def __call__(self, op: str, net: str, weights: Mapping[str, Tensor], x: Tensor) -> Any:
        if self.session is None:
            model, _ = Ours("as shipped").ready(op, net, weights, x)
            runtime = resolve("onnxruntime:InferenceSession")
            options = resolve("onnxruntime:SessionOptions")()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 3
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "net.onnx"
                resolve("paragone.vision:export_onnx")(model, path, x)
                self.session = runtime(str(path), options, providers=["CPUExecutionProvider"])
            self.given = {self.session.get_inputs()[0].name: x.numpy()}
        return self.session.run(None, self.given)[0]


def truth(op: str, net: str, weights: Mapping[str, Tensor], x: Tensor) -> Any:
    """The result in float64."""
    exact = {k: v.double() if v.is_floating_point() else v for k, v in weights.items()}
    return Ours("as shipped")(op, net, exact, x.double())
