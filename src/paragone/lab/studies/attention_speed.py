"""How fast is exact attention, forward and backward, and a step of decoding with each cache?"""

from __future__ import annotations

from paragone._core.errors import UsageError
from paragone.lab.contestants import attention
from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.studies.mixers_speed import MEASURES

__all__ = ["STUDY"]

Shape = tuple[str, str, str, str, int, int, int, int]

SHAPES: tuple[Shape, ...] = (
    ("d64", "Forward, 2,048 tokens, 8 x 64", "forward", "none", 2048, 8, 64, 0),
    ("d64-causal", "Forward, causal, 2,048 tokens, 8 x 64", "forward", "causal", 2048, 8, 64, 0),
    ("d64-causal-8k", "Forward, causal, 8,192 tokens, 1 x 64", "forward", "causal", 8192, 1, 64, 0),
    ("d128", "Forward, 2,048 tokens, 4 x 128", "forward", "none", 2048, 4, 128, 0),
    ("d128-causal", "Forward, causal, 2,048 tokens, 4 x 128", "forward", "causal", 2048, 4, 128, 0),
    ("back", "Backward, 2,048 tokens, 8 x 64", "backward", "none", 2048, 8, 64, 0),
    ("back-causal", "Backward, causal, 2,048 tokens, 8 x 64", "backward", "causal", 2048, 8, 64, 0),
    ("back-d128", "Backward, causal, 2,048 tokens, 4 x 128", "backward", "causal", 2048, 4, 128, 0),
    ("window", "Window of 512, 16,384 tokens, 1 x 64", "forward", "window", 16384, 1, 64, 0),
    ("mha", "Decode, cache of 16,384, 8 heads", "decode", "none", 16384, 8, 64, 8),
    ("gqa", "Decode, cache of 16,384, 32 heads, 8 of keys", "decode", "none", 16384, 32, 64, 8),
    ("mqa", "Decode, cache of 16,384, 8 heads, 1 of keys", "decode", "none", 16384, 8, 64, 1),
    ("mla", "Latent attention, cache of 4,096, 16 heads", "latent", "none", 4096, 16, 64, 0),
)
"""Id, title, operation, way, length, heads, their width, heads of keys."""

QUICK = ("d64", "d64-causal", "back-causal", "gqa")


def workloads(request: Request) -> list[Workload]:
    """Kernels and decoders; `--rows` sets the length of all."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own numbers; leave it out")
    rows, made = request.options.get("rows"), []
    for id, title, op, way, length, heads, depth, groups in SHAPES:
        if request.quick and not request.options.get("bench") and id not in QUICK:
            continue
        time = int(rows or length)
        made.append(Workload(
            id=id, title=title.replace(f"{length:,}", f"{time:,}"),
            load="paragone.lab.contestants.attention_calls:inputs",
            params={"op": op, "way": way, "length": time, "heads": heads, "depth": depth,
                    "groups": groups},
            facts={"op": op, "way": way, "length": time, "heads": heads, "depth": depth,
                   "long": op != "decode" and time > 4096},
        ))  # fmt: skip
    return made


def contestants(request: Request) -> list[Contestant]:
    """Ours by catalogue id, torch's and transformers'."""
    return attention.for_speed()


STUDY = Study(
    id="attention_speed",
    family="mixers",
    question="How long does exact attention take, and a step of decoding?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="flash_attention",
    options={"reference": "paragone.lab.contestants.attention_calls:truth", "most_calls": 100},
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.tasks.sweep",
             "paragone.lab.contestants.attention_calls"),
    blocks=(3, 5),
    quick_blocks=(1, 2),
)  # fmt: skip
