"""Adam or AdamW or Muon? Each with its own best rate, at the end of its schedule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab import data
from paragone.lab.contestants import optimizers
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _optimizers_findings as findings
from paragone.lab.tasks.splits import FOLDS

__all__ = ["STUDY"]

TABLES = (".csv", ".tsv", ".parquet", ".npz", ".svm", ".libsvm")
QUICK_ROWS = 20_000

MEASURES = (
    Measure(name="loss", title="test loss", better="lower", role="quality", margin=0.02,
            primary=True, note="At the end of the schedule, with the rate that was best on the "
            "valid part: cross-entropy, or mean squared error. Twice the first loss if it was "
            "not finite."),
    Measure(name="accuracy", title="accuracy", better="higher", role="quality", margin=0.005,
            relative=False, note="Share of right classes, or next characters."),
    Measure(name="train_s", title="training", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time of the final run: batches, gradients, steps."),
    Measure(name="optimizer_s", title="a step", better="lower", role="time", margin=0.05,
            unit="s", shown=True, note="Median wall time inside the optimizer."),
    Measure(name="state_bytes", title="state", better="lower", role="memory", margin=0.02,
            unit="B", primary=True, note="Bytes of the optimizer's state."),
    Measure(name="state_per", title="B / parameter", better="lower", role="memory", margin=0.02,
            shown=True, note="The same for each parameter; tensors below 4,096 numbers are not "
            "kept in 8 bits."),
    Measure(name="rate", title="best rate", better="lower", role="count", margin=0.1,
            note="Chosen by the trials, in each block anew."),
    Measure(name="edge", title="at the edge", better="lower", role="count", margin=0.01,
            relative=False, note="Share of blocks in which the best rate was the least or the "
            "largest tried: more trials would have helped."),
    Measure(name="loss_half", title="loss, half", better="lower", role="count", margin=0.02,
            note="Test loss of a run of half the steps, to the end of its own schedule."),
    Measure(name="loss_quarter", title="loss, quarter", better="lower", role="count",
            margin=0.02, note="The same of a quarter of the steps."),
    Measure(name="diverged", title="diverged", better="lower", role="count", margin=0.01,
            relative=False, primary=True, note="Share of final runs that ended above the loss "
            "they began with."),
    Measure(name="train_cpu_s", title="training CPU", better="lower", role="time", margin=0.05,
            unit="s", note="CPU time of the final run."),
    Measure(name="tune_s", title="tuning", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time of all trials."),
)  # fmt: skip

_KINDS = {
    "digits": ("Digits: perceptron", 300, 100, {"decay_probe": True}),
    "text": ("Python's manual: character model", 200, 32, {}),
    "photographs": ("Photographs: denoiser", 240, 60, {}),
}
"""Kind to title, steps, steps of a quick study, and further facts."""

TRIALS, QUICK_TRIALS = 5, 3


def workloads(request: Request) -> list[Workload]:
    """The user's table or text; else digits, characters and photographs."""
    if request.data is not None:
        return [_given(request)]
    if request.target is not None:
        raise UsageError("--target needs --data: the bundled problems know theirs")
    kinds = [kind for kind in _KINDS if not request.quick or kind != "photographs"]
    return [_workload(kind, kind, _KINDS[kind], {}, request) for kind in kinds]


def _given(request: Request) -> Workload:
    path = Path(request.data or "")
    if path.suffix.lower() in TABLES:
        folder = Path(request.cache) / "table"
        schema = data.prepare(
            str(path), request.target, folder, task=request.options.get("task", "auto"),
            limit=QUICK_ROWS if request.quick else 0, seed=request.seed,
        )  # fmt: skip
        shape = (path.stem, 300, 100, {**schema["facts"], "decay_probe": True})
        return _workload("data", "table", shape, {"path": str(folder), "seed": request.seed},
                         request)  # fmt: skip
    if request.target is not None:
        raise UsageError(f"{path.name} is read as text, which has no column {request.target!r}")
    from paragone.lab.problems import read_text

    read_text(str(path))
    shape = (path.stem, *_KINDS["text"][1:])
    return _workload("data", "text", shape, {"path": str(path.resolve())}, request)


def _workload(
    id: str, kind: str, shape: tuple[str, int, int, Mapping[str, Any]],
    params: Mapping[str, Any], request: Request,
) -> Workload:  # fmt: skip
    title, steps, quick_steps, facts = shape
    numbers = kind == "photographs" or facts.get("kind") == "Regressor"
    return Workload(
        id=id, title=title, load="paragone.lab.problems:load", params={"kind": kind, **params},
        facts={
            **facts, "problem": kind, "steps": quick_steps if request.quick else steps,
            "trials": QUICK_TRIALS if request.quick else TRIALS,
            # The models are small: a second thread would wait longer than it works.
            "threads": 1,
        },
        splits=FOLDS, test_share=1 / (FOLDS - 1),
        measures=tuple(m.name for m in MEASURES if not (numbers and m.name == "accuracy")),
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Ours, and the same work by other libraries."""
    return optimizers.contestants()


STUDY = Study(
    id="optimizers",
    family="training",
    question="Adam or AdamW or Muon, each with its own best rate and the same number of trials?",
    task="paragone.lab.tasks.training:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="adamw",
    speed={"adamw": "optimizer_speed"},
    inputs=("table", "text"),
    claims=findings.CLAIMS,
    findings=findings.findings,
    pictures=(
        Picture(id="curves", title="Test loss along the schedule",
                draw="paragone.lab.studies._optimizers_pictures:curves"),
        Picture(id="rates", title="Loss by rate: how wide the valley is",
                draw="paragone.lab.studies._optimizers_pictures:rates"),
        Picture(id="decay", title="What decay leaves of weights, by the size of their gradients",
                draw="paragone.lab.studies._optimizers_pictures:decay"),
    ),
    preload=("numpy", "numba", "torch", "torch._dynamo", "sklearn.datasets",
             "paragone.lab.problems", "paragone.lab.tasks.training"),
    blocks=(3, 5),
    quick_blocks=(1, 1),
)  # fmt: skip
