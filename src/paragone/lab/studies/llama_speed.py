"""How fast does a Llama decode on the CPU, token by token, against transformers and llama.cpp?"""

from __future__ import annotations

import os
from pathlib import Path

from paragone._core.errors import UsageError
from paragone.lab.claims import Look, seen
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Summary
from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.studies.mixers_speed import MEASURES

__all__ = ["STUDY"]

SHAPES = (
    ("260k", "260K weights", "260k", "float32", 200),
    ("15m", "15M weights", "15m", "float32", 64),
    ("110m", "110M weights", "110m", "float32", 24),
    ("15m-int8", "15M weights of 8 bits", "15m", "int8", 64),
    ("110m-int8", "110M weights of 8 bits", "110m", "int8", 24),
)
"""Id, title, shape, weights, tokens of a call."""
QUICK = ("260k", "15m")
_STORIES = "language/stories260K.bin"
_MAKE = "paragone.lab.contestants.llama_calls:"


def _stories() -> str:
    """The real checkpoint of the smallest shape, where the folder of real data has it."""
    path = Path(os.environ.get("PARAGONE_DATA", "shared/data"), _STORIES)
    return str(path.resolve()) if path.exists() else ""


def workloads(request: Request) -> list[Workload]:
    """Three shapes of llama2.c, two of them in 8 bits, too; or a checkpoint of your own."""
    if request.target is not None:
        raise UsageError("--target: a study of decoding has none; leave it out")
    shapes = [
        shape for shape in SHAPES
        if not request.quick or request.options.get("bench") or shape[0] in QUICK
    ]  # fmt: skip
    if request.data is not None:
        name = Path(request.data).stem
        shapes = [(kind, f"{name}, {kind}", "given", kind, 64) for kind in ("float32", "int8")]
    made = []
    for id, title, shape, weights, count in shapes:
        tokens = int(request.options.get("rows") or count)
        path = str(Path(request.data).resolve()) if request.data is not None else ""
        path = path or (_stories() if shape == "260k" else "")
        made.append(Workload(
            id=id, title=f"{title}, {tokens} tokens" + ", trained" * bool(path),
            load=_MAKE + "checkpoint",
            params={"shape": shape, "weights": weights, "count": tokens, "path": path,
                    "cache": request.cache},
            facts={"shape": shape, "weights": weights, "tokens": tokens,
                   **({"threads": 1} if shape == "260k" else {})},
        ))  # fmt: skip
    return made


def contestants(request: Request) -> list[Contestant]:
    """Ours, transformers, llama.cpp, and the bare reading of the weights."""
    return [
        Contestant(id="llama", title="paragone", make=_MAKE + "Ours", method="llama"),
        Contestant(id="llama_cpp", title="llama.cpp (xllamacpp {version})", make=_MAKE + "LlamaCpp",
                   origin="rival", distribution="xllamacpp", install="pip install xllamacpp",
                   note="its server, in the same process; 8 bits as q8_0"),
        Contestant(id="transformers", title="transformers {version}", make=_MAKE + "Hugging",
                   origin="rival", distribution="transformers", install="pip install transformers",
                   needs={"weights": ["float32"]}, note="generate, greedy, with its cache"),
        Contestant(id="reading", title="reading the weights", make=_MAKE + "Reading",
                   origin="baseline", needs={"shape": ["15m", "110m", "given"]},
                   note="the floor: all weights are read once a token, and nothing is computed"),
    ]  # fmt: skip


def _ratios(summary: Summary, rival: str) -> dict[str, float]:
    ours, theirs = (by_workload(summary, name, "call_s") for name in ("llama", rival))
    return {place: theirs[place] / ours[place] for place in ours if theirs.get(place, 0) > 0}


def _reached(rival: str, goals: dict[str, float]) -> Look:
    def look(summary: Summary) -> tuple[str, bool] | None:
        found = {place: ratio for place, ratio in _ratios(summary, rival).items() if place in goals}
        words = ", ".join(f"{place} {ratio:.2f}x" for place, ratio in found.items())
        return (words, all(found[at] >= goals[at] for at in found)) if found else None

    return look


def findings(summary: Summary) -> list[str]:
    """Tokens a second of each, and how much of the machine's bandwidth ours takes."""
    told = []
    for workload in summary.workloads:
        rates = {
            c.title: workload.facts["tokens"] / seconds
            for c in summary.contestants
            if (seconds := by_workload(summary, c.id, "call_s").get(workload.id))
            and c.id != "reading"
        }
        words = ", ".join(f"{title} {rate:,.0f}" for title, rate in rates.items())
        share = _ratios(summary, "reading").get(workload.id)
        told.append(
            f"{workload.title}: tokens a second, prompt included: {words}"
            + (f"; ours reads at {100 * share:.0f} % of the bandwidth." if share else ".")
        )
    return told


_GOAL = "the goal of this implementation"

STUDY = Study(
    id="llama_speed",
    family="language",
    question="How fast does a Llama decode on the CPU, one text at a time?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="llama",
    inputs=("checkpoint",),
    options={"reference": "paragone.lab.contestants.llama_calls:truth", "most_calls": 40},
    claims=(
        seen("It decodes at least 40, 2 and 1.4 times as fast as transformers.", _GOAL,
             _reached("transformers", {"260k": 40, "15m": 2, "110m": 1.4})),
        seen("It decodes at least 4, 1.4 and 1.1 times as fast as llama.cpp.", _GOAL,
             _reached("llama_cpp", {"260k": 4, "15m": 1.4, "110m": 1.1})),
        seen("At 110M it reaches 85 % of the bandwidth.", _GOAL,
             _reached("reading", {"110m": 0.85})),
        seen("At 15M in 8 bits it is 1.2 times as fast as llama.cpp's q8_0.", _GOAL,
             _reached("llama_cpp", {"15m-int8": 1.2})),
    ),
    findings=findings,
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.tasks.sweep",
             "paragone.lab.contestants.llama_calls"),
    blocks=(3, 5),
    quick_blocks=(1, 2),
)  # fmt: skip
