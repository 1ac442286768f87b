"""How fast does a backbone train, and answer, against the same network in other libraries?"""

from __future__ import annotations

from typing import Any

from paragone._core.errors import UsageError
from paragone.lab.contestants.backbones_calls import PEERS
from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.studies.mixers_speed import MEASURES

__all__ = ["STUDY"]

Shape = tuple[str, str, str, str, int, int]

SHAPES: tuple[Shape, ...] = (
    ("b0-96", "EfficientNet-B0 trains, 16 of 96 px", "train", "efficientnet_b0", 96, 16),
    ("b0-160", "EfficientNet-B0 trains, 16 of 160 px", "train", "efficientnet_b0", 160, 16),
    ("v2-96", "MobileNetV2 trains, 16 of 96 px", "train", "mobilenet_v2", 96, 16),
    ("v2-224", "MobileNetV2 trains, 16 of 224 px", "train", "mobilenet_v2", 224, 16),
    ("shuffle-96", "ShuffleNetV2 trains, 16 of 96 px", "train", "shufflenet_v2", 96, 16),
    ("shuffle-224", "ShuffleNetV2 trains, 16 of 224 px", "train", "shufflenet_v2", 224, 16),
    ("b0-one", "EfficientNet-B0 answers, 1 of 224 px", "infer", "efficientnet_b0", 224, 1),
    ("b0-eight", "EfficientNet-B0 answers, 8 of 224 px", "infer", "efficientnet_b0", 224, 8),
    ("v2-one", "MobileNetV2 answers, 1 of 224 px", "infer", "mobilenet_v2", 224, 1),
    ("v3-one", "MobileNetV3-large answers, 1 of 224 px", "infer", "mobilenet_v3_large", 224, 1),
    ("shuffle-one", "ShuffleNetV2 answers, 1 of 224 px", "infer", "shufflenet_v2", 224, 1),
)
"""Id, title, operation, network, side in pixels, images."""

QUICK = ("b0-96", "v2-96", "shuffle-96", "b0-one", "v2-one")

_NETS = {
    "efficientnet": ["efficientnet_b0"],
    "lightweight_networks": ["mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2"],
}


def workloads(request: Request) -> list[Workload]:
    """Training and answering of the networks; `--rows` sets the images of a batch of training."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own images; leave it out")
    batch, made = request.options.get("rows"), []
    for id, title, op, net, size, count in SHAPES:
        if request.quick and not request.options.get("bench") and id not in QUICK:
            continue
        rows = int(batch or count) if op == "train" else count
        made.append(Workload(
            id=id, title=title.replace(f" {count} of", f" {rows} of"),
            load="paragone.lab.contestants.backbones_calls:inputs",
            params={"op": op, "net": net, "size": size, "rows": rows},
            facts={"op": op, "net": net, "size": size, "images": rows},
        ))  # fmt: skip
    return made


def contestants(request: Request) -> list[Contestant]:
    """Ours by catalogue id, then what each is measured against."""
    made = []
    for method, nets in _NETS.items():
        made += [
            _one(method, "paragone", "Deployed", nets, "deployed where it only answers",
                 method=method),
            _one(f"eager_{method}", "paragone, not deployed", "Ours", nets,
                 "the module as it is, channels last", op=["infer"]),
        ]  # fmt: skip
    for method, nets in _NETS.items():
        made += [
            _peer(f"timm_{method}", "timm {version}", "timm", nets, "as shipped"),
            _peer(f"timm_nhwc_{method}", "timm {version}, channels last", "timm", nets,
                  "channels_last"),
            _peer(f"torchvision_{method}", "torchvision {version}", "torchvision", nets,
                  "as shipped"),
            _one(f"onnxruntime_{method}", "ONNX Runtime {version}", "OnnxRuntime", nets,
                 "on the file that `export_onnx` writes", op=["infer"], distribution="onnxruntime",
                 install="pip install onnxruntime onnx onnxscript"),
        ]  # fmt: skip
    return made


def _one(
    id: str, title: str, make: str, nets: list[str], note: str, *, method: str = "",
    op: list[str] | None = None, distribution: str = "", install: str = "", **params: Any,
) -> Contestant:  # fmt: skip
    return Contestant(
        id=id, title=title, make=f"paragone.lab.contestants.backbones_calls:{make}",
        params=params, method=method, note=note, distribution=distribution,
        origin="rival" if distribution else "paragone",
        install=install or f"pip install {distribution}" * bool(distribution),
        needs={"net": nets, **({"op": op} if op else {})},
    )  # fmt: skip


def _peer(id: str, title: str, library: str, nets: list[str], layout: str) -> Contestant:
    note = f"the same weights, {layout.replace('_', ' ')}"
    shared = [net for net in nets if net in PEERS[library]]
    return _one(id, title, "Peer", shared, note, distribution=library, library=library,
                layout=layout)  # fmt: skip


STUDY = Study(
    id="backbones_speed",
    family="vision",
    question="How long does a backbone take to train and to answer, against other libraries?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="efficientnet",
    options={"reference": "paragone.lab.contestants.backbones_calls:truth", "most_calls": 100},
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.tasks.sweep",
             "paragone.lab.contestants.backbones_calls"),
    blocks=(3, 5),
    quick_blocks=(1, 2),
)  # fmt: skip
