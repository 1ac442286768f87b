"""How fast is a step of pre-training on the CPU, against transformers?"""

from __future__ import annotations

import dataclasses

from paragone._core.errors import UsageError
from paragone.lab.claims import seen
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Summary
from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.studies.mixers_speed import MEASURES

__all__ = ["STUDY"]

SHAPES = (
    ("15m", "15M weights, 32,000 tokens", "15m", 32000, 8, 256),
    ("15m-4k", "15M shape, 4,096 tokens", "15m", 4096, 8, 256),
    ("tiny", "0.8M weights, 256 tokens", "tiny", 256, 12, 64),
)
"""Id, title, preset, vocabulary, rows, length of a row."""
QUICK = ("15m", "tiny")
_MAKE = "paragone.lab.contestants.pretraining_calls:"


def workloads(request: Request) -> list[Workload]:
    """A step on rows of random tokens; `--rows` sets their number."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own tokens; leave it out")
    made = []
    for id, title, shape, vocabulary, count, length in SHAPES:
        if request.quick and not request.options.get("bench") and id not in QUICK:
            continue
        rows = int(request.options.get("rows") or count)
        params = {"shape": shape, "vocabulary": vocabulary, "rows": rows, "length": length}
        made.append(Workload(
            id=id, title=f"{title}, {rows} rows of {length}", load=_MAKE + "inputs", params=params,
            facts={**params, "tokens": rows * length},
        ))  # fmt: skip
    return made


def contestants(request: Request) -> list[Contestant]:
    """Ours and transformers, the same weights, tokens, optimizer and clipping, in float32."""
    return [
        Contestant(id="llama", title="paragone", make=_MAKE + "Ours", method="llama"),
        Contestant(id="transformers", title="transformers {version}", make=_MAKE + "Hugging",
                   origin="rival", distribution="transformers", install="pip install transformers",
                   note="eager, its own loss, torch's fused AdamW"),
    ]  # fmt: skip


def _ratios(summary: Summary) -> dict[str, float]:
    ours, theirs = (by_workload(summary, name, "call_s") for name in ("llama", "transformers"))
    return {place: theirs[place] / ours[place] for place in ours if theirs.get(place, 0) > 0}


def _reached(summary: Summary) -> tuple[str, bool] | None:
    ratio = _ratios(summary).get("15m")
    return None if ratio is None else (f"{ratio:.2f}x", ratio >= 1.3)


def findings(summary: Summary) -> list[str]:
    """Tokens a second of each."""
    told = []
    for workload in summary.workloads:
        rates = [
            f"{c.title} {workload.facts['tokens'] / seconds:,.0f}"
            for c in summary.contestants
            if (seconds := by_workload(summary, c.id, "call_s").get(workload.id))
        ]
        told.append(f"{workload.title}: tokens a second: {', '.join(rates)}.")
    return told


STUDY = Study(
    id="pretraining_speed",
    family="language",
    question="How long does a step of pre-training take, on the same tokens?",
    task="paragone.lab.tasks.sweep:run",
    measures=tuple(
        dataclasses.replace(m, margin=1e-3) if m.name == "error" else m for m in MEASURES
    ),
    workloads=workloads,
    contestants=contestants,
    reference="llama",
    options={"reference": _MAKE + "truth", "most_calls": 20, "least_calls": 2},
    claims=(
        seen("At 15M and 32,000 tokens it trains 1.3 times as fast as transformers.",
             "the goal of this implementation", _reached),
    ),
    findings=findings,
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.tasks.sweep",
             "paragone.lab.contestants.pretraining_calls"),
    blocks=(3, 5),
    quick_blocks=(1, 1),
)  # fmt: skip
