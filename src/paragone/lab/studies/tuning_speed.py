"""How fast is a step of tuning: all weights, LoRA, preferences?"""

from __future__ import annotations

import dataclasses

from paragone._core.errors import UsageError
from paragone.lab.contestants import tuning
from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.studies.mixers_speed import MEASURES

__all__ = ["STUDY"]

SHAPES = (
    ("sft", "Tuning, 15M shape, 4,096 tokens, 16 rows", "sft", 4096, 16),
    ("sft-32k", "Tuning, 15M shape, 32,000 tokens, 16 rows", "sft", 32000, 16),
    ("lora", "LoRA of rank 8, 15M shape, 4,096 tokens, 16 rows", "lora", 4096, 16),
    ("dpo", "DPO, 15M shape, 4,096 tokens, 8 pairs", "dpo", 4096, 8),
    ("dpo-32k", "DPO, 15M shape, 32,000 tokens, 8 pairs", "dpo", 32000, 8),
)
"""Id, title, operation, vocabulary, rows."""

QUICK = ("sft", "lora", "dpo")


def workloads(request: Request) -> list[Workload]:
    """A step of the optimizer over all rows; `--rows` sets their number."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own rows; leave it out")
    asked, made = request.options.get("rows"), []
    for id, title, op, vocabulary, rows in SHAPES:
        if request.quick and not request.options.get("bench") and id not in QUICK:
            continue
        count = int(asked or rows)
        words = title.rpartition(", ")
        made.append(Workload(
            id=id, title=f"{words[0]}, {count} {words[2].split()[1]}",
            load="paragone.lab.contestants.tuning_calls:inputs",
            params={"op": op, "vocabulary": vocabulary, "rows": count},
            facts={"op": op, "vocabulary": vocabulary, "rows": count},
        ))  # fmt: skip
    return made


def contestants(request: Request) -> list[Contestant]:
    """Ours by catalogue id, and what each is measured against."""
    return tuning.contestants()


STUDY = Study(
    id="tuning_speed",
    family="language",
    question="How long does a step of tuning take, on the same rows of tokens?",
    task="paragone.lab.tasks.sweep:run",
    measures=tuple(
        dataclasses.replace(m, margin=1e-3) if m.name == "error" else m for m in MEASURES
    ),
    workloads=workloads,
    contestants=contestants,
    reference="alpaca",
    options={"reference": "paragone.lab.contestants.tuning_calls:truth", "most_calls": 20,
             "least_calls": 2},
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.tasks.sweep",
             "paragone.lab.contestants.tuning_calls"),
    blocks=(3, 5),
    quick_blocks=(1, 1),
)  # fmt: skip
