"""Does fp16 need scaling here? And masters, and would 8 bits do?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab.contestants import precision
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _precision_findings as findings

__all__ = ["STUDY"]

LEAST_LETTERS = 20_000

MEASURES = (
    Measure(name="loss", title="loss at the end", better="lower", role="quality", margin=0.03,
            primary=True, note="On rows kept apart, read in float32; the first loss where the end "
            "is not finite."),
    Measure(name="step_s", title="a step", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Median wall time. Simulated formats cost more than the formats: "
            "this tells what the experiment costs, not what hardware gains."),
    Measure(name="right", title="right", better="higher", role="count", margin=0.01,
            relative=False, shown=True, note="Share of right answers; of the photograph's detail "
            "the share of its variance that is explained."),
    Measure(name="underflow", title="underflow", better="lower", role="count", margin=0.01,
            relative=False, primary=True, shown=True, note="Share of the numbers in gradients "
            "that rounding made zero (simulated formats)."),
    Measure(name="skipped", title="skipped", better="lower", role="count", margin=0.01,
            relative=False, shown=True, note="Share of steps left out because a gradient was not "
            "finite."),
    Measure(name="diverged", title="diverged", better="lower", role="count", margin=0.01,
            relative=False, note="Whether the loss at the end is not below that at the start."),
    Measure(name="scale", title="scale", better="higher", role="count", margin=1.0,
            note="Scale of the loss at the end."),
    Measure(name="step_cpu_s", title="step CPU", better="lower", role="time", margin=0.05,
            unit="s", note="CPU time of a step."),
)  # fmt: skip

_PROBLEMS = (
    ("share", "Digits, as a share of a batch of 4 million", True),
    ("text", "Next letter of a text", False),
    ("digits", "Digits", True),
    ("detail", "Detail of a photograph", False),
)


def workloads(request: Request) -> list[Workload]:
    """Digits in a small and in a large batch, letters, a photograph; or the user's text."""
    if request.data is not None:
        return [_workload("text", f"Next letter of {_checked(request)}", False, request,
                          path=str(Path(request.data).resolve()))]  # fmt: skip
    chosen = _PROBLEMS[:2] if request.quick else _PROBLEMS
    return [_workload(*each, request) for each in chosen]


def _checked(request: Request) -> str:
    path = Path(request.data or "")
    if request.target is not None:
        raise UsageError("--target: a text has no columns; leave it out")
    if not path.is_file():
        raise UsageError(f"--data {path}: no such file; give a text of {LEAST_LETTERS:,} letters")
    if path.stat().st_size < LEAST_LETTERS:
        raise UsageError(
            f"--data {path.name}: {path.stat().st_size:,} bytes; a text needs {LEAST_LETTERS:,}"
        )
    return path.name


def _workload(problem: str, title: str, small: bool, request: Request, **params: Any) -> Workload:
    return Workload(
        id=problem, title=title, load="paragone.lab.nets:load",
        params={"problem": problem, **params},
        facts={"problem": problem, "small": small, "quick": request.quick},
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Formats with and without scaling and masters, and PyTorch's own."""
    return precision.contestants()


STUDY = Study(
    id="precision",
    family="training",
    question="Does fp16 need scaling here, do weights need a float32 copy, and would 8 bits do?",
    task="paragone.lab.tasks.precision:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="fp32",
    inputs=("text", "none"),
    claims=findings.CLAIMS,
    findings=findings.findings,
    speed={"mixed_precision": "cast_speed"},
    pictures=(
        Picture(id="exponents", title="Exponents of gradients, and what fp16 makes of them",
                draw="paragone.lab.studies._precision_pictures:exponents"),
        Picture(id="scales", title="Share of gradients lost by the scale of the loss",
                draw="paragone.lab.studies._precision_pictures:scales"),
    ),
    preload=("numpy", "torch", "torch._dynamo", "sklearn.datasets", "paragone.lab.tasks.precision",
             "paragone.lab.contestants.trainers"),
    blocks=(3, 8),
    quick_blocks=(1, 3),
    options={"steps": {"share": 600, "text": 800, "digits": 600, "detail": 800},
             "lr": {"share": 3e-3, "text": 3e-3, "digits": 3e-3, "detail": 2e-3}},
)  # fmt: skip
