r"""How fast do backbones learn and answer beside timm's, and beside ONNX Runtime?

    python benchmarks/backbone_speed.py [--models efficientnet_b0,mobilenet_v2,shufflenet_v2]
                                        [--sizes 96,160,224] [--batch 16] [--threads 1]
                                        [--rounds 8] [--what train,infer]

A training step is forward, cross entropy and backward. Contestants: timm's network of the name as
it comes (NCHW) and in channels-last order (NHWC), torchvision's where timm has none, ours in
channels-last order, which is how it is meant to be used. Inference is one image at a time: ours
through `deploy`, ONNX Runtime on the graph that `export_onnx` writes, timm's network in evaluation.

All is interleaved: in each round every contestant works once, in random order. A rival's figure is
the median over the rounds of its time divided by ours in the same round; above 1 we are faster.
With one thread the time is the processor's (the machine may be shared), with more the clock's.
Compilation of kernels is warmed up and not part of any time. With `--keep` the process keeps its
memory between steps (`paragone.kernels.heap.keep_memory`), for all contestants alike.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RIVALS = {
    "efficientnet_b0": ("timm", "efficientnet_b0"),
    "mobilenet_v2": ("timm", "mobilenetv2_100"),
    "mobilenet_v3_large": ("timm", "mobilenetv3_large_100"),
    "mnasnet": ("timm", "mnasnet_100"),
    "ghostnet_v1": ("timm", "ghostnet_100"),
    "xception": ("timm", "legacy_xception"),
    "resnet18": ("timm", "resnet18"),
    "resnet50": ("timm", "resnet50"),
    "shufflenet_v2": ("torchvision", "shufflenet_v2_x1_0"),
    "squeezenet_1_1": ("torchvision", "squeezenet1_1"),
}


def rival(name: str) -> Any:
    """The other library's network of the same name, with random weights."""
    library, theirs = RIVALS[name]
    torchvision = import_torchvision()
    if library == "torchvision":
        return getattr(torchvision.models, theirs)(weights=None, num_classes=1000)
    import timm

    return timm.create_model(theirs, num_classes=1000)


def import_torchvision() -> Any:
    """torchvision, which timm imports too."""
    from paragone.lab.torchvision_cpu import import_torchvision as do

    return do()


def interleaved(
    tasks: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float], calls: int = 1
) -> dict[str, np.ndarray]:
    """Seconds a call of each task in each round."""
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
        task()
    for _ in range(rounds):
        for name in rng.permutation(list(tasks)):
            start = clock()
            for _ in range(calls):
                tasks[name]()
            seconds[name].append((clock() - start) / calls)
    return {name: np.array(values) for name, values in seconds.items()}


def row(label: str, seconds: dict[str, np.ndarray]) -> str:
    """One line of the table: our milliseconds, and each rival's ratio to them."""
    ours = seconds["ours"]
    cells = [
        f"{name} {np.median(values / ours):.2f}x ({1e3 * np.median(values):.1f} ms)"
        for name, values in seconds.items()
        if name != "ours"
    ]
    return f"| {label} | {1e3 * np.median(ours):.1f} ms | {' | '.join(cells)} |"


def train(name: str, size: int, batch: int, rounds: int, clock: Callable[[], float]) -> str:
    """Training steps of one network."""
    import torch
    from torch.nn import functional

    from paragone.vision import backbone

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, size, size, generator=generator)
    last = x.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), generator=generator)

    def step(net: Any, images: Any) -> Callable[[], None]:
        def run() -> None:
            net.zero_grad()
            functional.cross_entropy(net(images), labels).backward()

        return run

    orders = {"memory_format": torch.channels_last}
    library = RIVALS[name][0]
    tasks = {
        "ours": step(backbone(name).to(**orders), last),
        f"{library} NCHW": step(rival(name), x),
        f"{library} NHWC": step(rival(name).to(**orders), last),
    }
    return row(f"{name} {size} px, batch {batch}, train", interleaved(tasks, rounds, clock))


def infer(name: str, size: int, threads: int, rounds: int, clock: Callable[[], float]) -> str:
    """One image at a time."""
    import onnxruntime
    import torch

    from paragone.vision import backbone, deploy, export_onnx

    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    ours, theirs = backbone(name).eval(), rival(name).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        export_onnx(ours, path, x)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    fast = deploy(ours, x)

    def eager(net: Any) -> Callable[[], Any]:
        def run() -> Any:
            with torch.inference_mode():
                return net(x)

        return run

    tasks = {
        "ours": lambda: fast(x),
        "ONNX Runtime": lambda: session.run(None, feed),
        RIVALS[name][0]: eager(theirs),
        "ours, eager": eager(ours),
    }
    return row(f"{name} {size} px, batch 1", interleaved(tasks, 2 * rounds, clock, 5))


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="efficientnet_b0,mobilenet_v2,shufflenet_v2")
    parser.add_argument("--sizes", default="96,160,224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--what", default="train,infer")
    parser.add_argument("--keep", action="store_true", help="keep memory between steps")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != str(options.threads):
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    warnings.simplefilter("ignore")
    if options.keep:
        from paragone.kernels.heap import keep_memory

        keep_memory()
    clock = time.process_time if options.threads == 1 else time.perf_counter
    for name in options.models.split(","):
        for size in map(int, options.sizes.split(",")):
            if "train" in options.what:
                print(train(name, size, options.batch, options.rounds, clock), flush=True)
            if "infer" in options.what:
                print(infer(name, size, options.threads, options.rounds, clock), flush=True)


if __name__ == "__main__":
    main()
