"""DPO or the three stages of RLHF? Reward against divergence, by a reward that can be computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab.contestants import alignment
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _alignment_findings as findings

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="reward_at", title="reward in leash", better="higher", role="quality",
            margin=0.02, relative=False, primary=True, note="The highest reward, on prompts held "
            "out, before the policy is further from the base than the leash of the study."),
    Measure(name="accuracy", title="pairs right", better="higher", role="quality", margin=0.02,
            relative=False, shown=True, note="Share of held-out pairs ranked as they were: by "
            "log policy / base, or by the reward model where there is one."),
    Measure(name="train_s", title="training", better="lower", role="time", margin=0.1, unit="s",
            primary=True, note="Wall time of all stages; looks in between are off the clock."),
    Measure(name="train_cpu_s", title="training CPU", better="lower", role="time", margin=0.1,
            unit="s", note="CPU time of the same."),
    Measure(name="train_extra", title="extra RAM", better="lower", role="memory", margin=0.1,
            unit="B", primary=True, note="Peak memory of training beyond what was resident "
            "before."),
    Measure(name="kl", title="KL at the end", better="lower", role="count", margin=0.1,
            primary=True, shown=True, note="Nats an answer from the base, on the policy's own "
            "answers."),
    Measure(name="reward", title="reward at the end", better="higher", role="count", margin=0.02,
            relative=False, shown=True, note="At whatever divergence the training ended."),
    Measure(name="labels", title="rewards asked", better="lower", role="count", margin=0.01,
            note="Answers whose true reward was asked, to make pairs or in training."),
    Measure(name="chosen_gain", title="chosen, gain", better="higher", role="count", margin=0.5,
            relative=False, note="Nats by which chosen answers of held-out pairs became more "
            "likely; below 0, less."),
)  # fmt: skip

LEASH = 8.0
"""Nats an answer within which rewards are compared."""

OWN_PACE = 3.0
"""Learning rates for a base that was trained here, as a multiple of those for a finished one."""

_QUICK: dict[str, Any] = {"prompts": 72, "answers": 8, "length": 40, "tokens": 250_000}
_FULL: dict[str, Any] = {"prompts": 192, "answers": 8, "length": 48, "tokens": 600_000}
_QUICK_EFFORT, _EFFORT = {"epochs": 2, "steps": 12}, {"epochs": 2, "steps": 20}
_TITLES = {"words": "wanted words", "brevity": "short sentences"}
_PAIR_FILES = (".json", ".jsonl", ".csv", ".parquet", ".gz")


def workloads(request: Request) -> list[Workload]:
    """Rewards on the user's model or on one that is trained here; or the user's pairs."""
    if request.target is not None:
        raise UsageError("--target: preferences have no column; leave it out")
    model = tokenizer = ""
    name = "model of Python's sources"
    if request.data is not None:
        from paragone.lab.preferences import find_base, read_pairs

        path = Path(request.data).resolve()
        found = find_base(path)
        if found is None and not (path.is_file() and path.suffix in _PAIR_FILES):
            raise UsageError(
                f"{request.data}: neither a model (a folder with config.json, .bin, .gguf) nor "
                f"pairs ({', '.join(_PAIR_FILES)})"
            )
        if found is None:
            count = len(read_pairs(str(path)))
            return [_workload(request, "pairs", f"{path.stem}: {count:,} pairs", path=str(path))]
        model, tokenizer = str(found[0]), str(found[1] or "")
        name = found[0].stem
    kinds = ("words",) if request.quick else ("words", "brevity")
    return [
        _workload(request, kind, f"{name}: {_TITLES[kind]}", model=model, tokenizer=tokenizer)
        for kind in kinds
    ]


def _workload(request: Request, kind: str, title: str, **params: str) -> Workload:
    quick = request.quick
    measures = [m.name for m in MEASURES]
    if kind == "pairs":
        measures = [n for n in measures if n not in ("reward_at", "reward", "kl", "labels")]
    return Workload(
        id=kind, title=title, load="paragone.lab.preferences:load",
        params={
            "kind": kind, "cache": str(Path(request.cache) / "alignment"),
            **(_QUICK if quick else _FULL), **{k: v for k, v in params.items() if v},
        },
        facts={
            "kind": kind, "crew": "quick" if quick else "all", "pairs": True, "limit": LEASH,
            "effort": _QUICK_EFFORT if quick else _EFFORT, "looks": 4 if quick else 6,
            "judged": 96 if quick else 160, "threads": 1,
            "pace": 1.0 if params.get("model") else OWN_PACE,
        },
        measures=measures, primary="accuracy" if kind == "pairs" else "reward_at",
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """One-stage losses on pairs, and policies that follow a learned or the true reward."""
    return alignment.contestants()


_DRAW = "paragone.lab.studies._alignment_pictures:"

STUDY = Study(
    id="alignment",
    family="language",
    question="DPO, or a reward model and reinforcement learning?",
    task="paragone.lab.tasks.preference:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="sft",
    speed={"alpaca": "tuning_speed", "dpo": "tuning_speed"},
    inputs=("model", "pairs"),
    claims=findings.CLAIMS,
    answer=findings.answer,
    findings=findings.findings,
    pictures=(
        Picture(id="frontier", title="Reward against divergence from the base",
                draw=_DRAW + "frontier"),
        Picture(id="texts", title="Answers to the same held-out prompts", draw=_DRAW + "texts"),
    ),
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.preferences",
             "paragone.lab.tasks.preference"),
    blocks=(3, 5),
    quick_blocks=(3, 3),
)  # fmt: skip
