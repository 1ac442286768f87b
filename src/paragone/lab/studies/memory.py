"""Does it fit, and with which ZeRO stage? What estimators say, against what runs really took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab.contestants import memory
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _memory_findings as findings

__all__ = ["PUBLISHED", "STUDY"]

MEASURES = (
    Measure(name="error", title="error", better="lower", role="quality", margin=0.005,
            relative=False, primary=True, note="Distance of the estimate from what the run took, "
            "as a share of it: 0 is exact, 1 is as if nothing had been said."),
    Measure(name="run_s", title="answer", better="lower", role="time", margin=0.1, unit="s",
            primary=True, shown=True, note="Wall time of the answer; torch is loaded before."),
    Measure(name="run_peak", title="RAM", better="lower", role="memory", margin=0.1, unit="B",
            primary=True, note="Peak memory of the process while it answers."),
    Measure(name="signed", title="bias", better="higher", role="count", margin=0.005,
            relative=False, note="The same with its sign: an estimate below the truth ends in an "
            "out-of-memory error, one above it in a GPU too many."),
    Measure(name="import_s", title="import", better="lower", role="time", margin=0.1, unit="s",
            note="Wall time to import the contestant."),
)  # fmt: skip

_SHORT = {"precision": "autocast", "zero": 3, "batch": 2, "sequence": 8192,
          "checkpointing": "selective", "model": "llama-3.1-8b"}  # fmt: skip
_LONG = {**_SHORT, "batch": 1, "checkpointing": "full", "compiled": "layers", "gpus": 8}

PUBLISHED: tuple[tuple[str, str, float, Mapping[str, Any]], ...] = (
    ("titan_8", "8 B on 8 GPUs", 82.4, {**_SHORT, "gpus": 8}),
    ("titan_128", "8 B on 128 GPUs", 67.0, {**_SHORT, "gpus": 128}),
    ("titan_8_compiled", "8 B on 8, compiled", 77.0, {**_SHORT, "gpus": 8, "compiled": "layers"}),
    ("titan_128_compiled", "8 B on 128, compiled", 62.0,
     {**_SHORT, "gpus": 128, "compiled": "layers"}),
    ("titan_32k", "8 B, 32,768 tokens", 83.9, {**_LONG, "sequence": 32768}),
    ("titan_256k", "8 B, 262,144 tokens, context over 8", 84.5,
     {**_LONG, "sequence": 262144, "context_parallel": 8}),
    ("titan_h200", "8 B on 32 H200, all compiled", 47.96,
     {**_SHORT, "gpus": 32, "compiled": "all"}),
    ("titan_70b", "70 B on 256, tensors over 8", 71.9,
     {**_LONG, "model": "llama-3.1-70b", "batch": 16, "sequence": 8192, "gpus": 256,
      "tensor_parallel": 8}),
)  # fmt: skip
"""Rows of torchtitan's benchmarks (tables 1-4 of 2024-12, H200 of 2025-06): GiB on a GPU."""

_TRUE = {"mlp": "MLP", "cnn": "convolutional net", "encoder": "torch's encoder",
         "gpt": "GPT-2, 2 layers", "llama": "Llama, 4 layers"}  # fmt: skip


def workloads(request: Request) -> list[Workload]:
    """Real steps of small models, states shared by ranks, and published runs."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: this study measures its own runs; ask `paragone memory` of yours")
    names = ("gpt", "llama") if request.quick else tuple(_TRUE)
    found = [_measured(name, 1) for name in names]
    if not request.quick:
        found.append(_measured("llama", 8))
    found.append(_workload("sharded_64", "States of 1 of 64 ranks", {"kind": "sharded",
                                                                     "ranks": 64}, ""))  # fmt: skip
    for id, title, gib, options in PUBLISHED[: 2 if request.quick else None]:
        params = {"kind": "published", "truth": int(gib * 2**30), "options": dict(options)}
        found.append(_workload(id, title, params, ""))
    return found


def _measured(name: str, scale: int) -> Workload:
    id = f"step_{name}" + (f"_x{scale}" if scale > 1 else "")
    title = f"A step: {_TRUE[name]}" + (f", batch x {scale}" if scale > 1 else "")
    return _workload(id, title, {"kind": "measured", "name": name, "scale": scale}, name)


def _workload(id: str, title: str, params: Mapping[str, Any], name: str) -> Workload:
    return Workload(
        id=id, title=title, load="paragone.lab.training_steps:load", params=params,
        facts={"kind": params["kind"], "name": name},
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Ours, torch's tracker, and rules."""
    return memory.contestants()


STUDY = Study(
    id="memory",
    family="training",
    question="Does it fit, and with which ZeRO stage?",
    task="paragone.lab.tasks.count:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="memory",
    claims=findings.CLAIMS,
    findings=findings.findings,
    speed={"memory": "memory_speed"},
    pictures=(
        Picture(id="stages", title="Llama 3.1 8B on 8 GPUs by ZeRO stage",
                draw="paragone.lab.studies._memory_pictures:stages"),
        Picture(id="batches", title="Where the memory of Llama 3.1 8B goes as the batch grows",
                draw="paragone.lab.studies._memory_pictures:batches"),
    ),
    preload=("numpy", "torch", "torch._dynamo", "torch.profiler", "paragone.lab.tasks.count"),
    blocks=(2, 4),
    quick_blocks=(1, 1),
    options={"score": "paragone.lab.contestants.planners:score"},
)  # fmt: skip
