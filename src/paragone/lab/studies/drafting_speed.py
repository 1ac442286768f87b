"""How fast is decoding with drafts, and what does a pass over several tokens cost?"""

from __future__ import annotations

from pathlib import Path

from paragone._core.errors import UsageError
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Summary
from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.studies.mixers_speed import MEASURES

__all__ = ["STUDY"]

LENGTH = 128
PASSES = (1, 2, 4, 8, 16)
SHAPES = ("15m", "110m")
_MAKE = "paragone.lab.contestants.drafting_calls:"


def workloads(request: Request) -> list[Workload]:
    """A continuation by a small trained model, and passes of random ones of two shapes."""
    from paragone.lab.drafting_problem import chosen_model

    if request.target is not None:
        raise UsageError("--target: a study of decoding has none; leave it out")
    params = dict(chosen_model(request.data))
    name = Path(params["model"]).stem if params else "model of Python's sources"
    count = int(request.options.get("rows") or LENGTH)
    made = [Workload(
        id="decode", title=f"{name}, 4 texts of {count} tokens", load=_MAKE + "decode_inputs",
        params={"count": count, "cache": str(Path(request.cache) / "decoding"), **params},
        facts={"op": "decode", "tokens": count, **({} if request.data else {"threads": 1})},
    )]  # fmt: skip
    shapes = SHAPES if not request.quick or request.options.get("bench") else SHAPES[:1]
    return made + [
        Workload(
            id=f"{shape}-{tokens}", title=f"{shape.upper()} weights, a pass of {tokens} tokens",
            load=_MAKE + "pass_inputs", params={"shape": shape, "tokens": tokens},
            facts={"op": "pass", "shape": shape, "tokens": tokens},
        )
        for shape in shapes for tokens in PASSES
    ]  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Two of ours, plain decoding, and transformers' assisted generation by both names."""
    ours = [
        Contestant(id=id, title=title, make=_MAKE + "Ours", method=id, params={"drafter": id},
                   note="heads trained for 30 s, then kept; passes are those of the engine")
        for id, title in (("medusa", "Medusa"), ("multi_token_prediction", "MTP, sequential"))
    ]  # fmt: skip
    plain = Contestant(id="plain", title="plain decoding", make=_MAKE + "Ours", method="llama",
                       needs={"op": ["decode"]})  # fmt: skip
    rivals = [
        Contestant(id=f"transformers_{one.id}", title="transformers {version}, assisted",
                   make=_MAKE + "Assisted", origin="rival", distribution="transformers",
                   install="pip install transformers", note="a small draft model, trained for 30 s")
        for one in (ours if request.options.get("bench") else ours[:1])
    ]  # fmt: skip
    return [*ours, plain, *rivals]


def findings(summary: Summary) -> list[str]:
    """T(n) / T(1) of each, by shape."""
    told = []
    for shape in SHAPES:
        for one in summary.contestants:
            seconds = by_workload(summary, one.id, "call_s")
            first = seconds.get(f"{shape}-1")
            found = [(n, seconds[f"{shape}-{n}"] / first) for n in PASSES[1:]
                     if first and f"{shape}-{n}" in seconds]  # fmt: skip
            if found:
                words = ", ".join(f"{n} tokens {ratio:.2f}" for n, ratio in found)
                told.append(f"T(n) / T(1) of {one.title} at {shape.upper()}: {words}.")
    return told


STUDY = Study(
    id="drafting_speed",
    family="language",
    question="How long does decoding with drafts take, from the same checkpoint?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="plain",
    inputs=("model",),
    options={"reference": "paragone.lab.contestants.drafting_calls:truth", "most_calls": 40},
    findings=findings,
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.tasks.sweep",
             "paragone.lab.contestants.drafting_calls"),
    blocks=(3, 5),
    quick_blocks=(1, 2),
)  # fmt: skip
