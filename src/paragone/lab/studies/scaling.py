"""Parameters or data: which helps more for the same compute? A grid of sizes and token counts."""

from __future__ import annotations

from pathlib import Path

from paragone._core.errors import UsageError
from paragone.lab.contestants import scaling
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _scaling_findings as findings

__all__ = ["LINES", "STUDY"]

MEASURES = (
    Measure(name="loss", title="test loss", better="lower", role="quality", margin=0.01,
            primary=True, note="Nats a symbol (a byte), of text held out, at the end of the "
            "schedule."),
    Measure(name="train_s", title="training", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time of the steps of one training: the operations are equal, "
            "the time is not."),
    Measure(name="train_cpu_s", title="training CPU", better="lower", role="time", margin=0.05,
            unit="s", note="CPU time of the same."),
    Measure(name="train_extra", title="extra RAM", better="lower", role="memory", margin=0.1,
            unit="B", primary=True, note="Peak memory of training beyond what was resident "
            "before."),
    Measure(name="parameters", title="parameters N", better="lower", role="count", margin=0.01,
            primary=True, shown=True, note="All weights; the embedding is the head too."),
    Measure(name="tokens", title="symbols D", better="lower", role="count", margin=0.01,
            shown=True, note="Symbols trained on: compute / 6 N."),
    Measure(name="per_second", title="operations / s", better="higher", role="count", margin=0.05,
            note="Counted operations a second of CPU time."),
    Measure(name="counted", title="operations", better="lower", role="count", margin=0.01,
            note="Of all matrix products, counted; 6 N D is the estimate that makes lines equal."),
    Measure(name="epochs", title="epochs", better="lower", role="count", margin=0.01,
            note="How often the text was read; the law is of text read once."),
    Measure(name="rate", title="peak rate", better="lower", role="count", margin=0.1,
            note="Of AdamW: by a rule of the size, in the full study the best of three about it."),
    Measure(name="edge", title="at the edge", better="lower", role="count", margin=0.01,
            relative=False, note="Share of runs whose best rate was the least or the largest "
            "tried."),
)  # fmt: skip

LINES = {"a": 4e9, "b": 1e10, "c": 2.5e10, "d": 1e11, "e": 4e11}
"""Equal compute by name: operations of a training."""

QUICK_LINES, FULL_LINES = "abc", "bcde"
FACTORS, QUICK_FACTORS = (0.5, 1.0, 2.0), (1.0,)


def workloads(request: Request) -> list[Workload]:
    """A line of equal compute each, of the user's text or the standard library's sources."""
    if request.target is not None:
        raise UsageError("--target: a text has no column; leave it out")
    name, params = "Python's sources", {}
    if request.data is not None:
        from paragone.lab.tasks.language_scaling import read_bytes

        read_bytes(request.data)
        name, params = Path(request.data).stem, {"path": str(Path(request.data).resolve())}
    names = QUICK_LINES if request.quick else FULL_LINES
    return [_line(request, line, name, params, line == names[-1]) for line in names]


def _line(
    request: Request, line: str, name: str, params: dict[str, str], last: bool
) -> Workload:  # fmt: skip
    compute = LINES[line]
    return Workload(
        id=f"c{compute:.3g}".replace("e+", "e"), title=f"{name}, {compute:.3g} operations",
        load="paragone.lab.tasks.language_scaling:load", params=params,
        facts={
            "line": line, "compute": compute,
            "factors": list(QUICK_FACTORS if request.quick else FACTORS),
            # The models are small: a second thread would wait longer than it works.
            "threads": 1,
        },
        # The leaderboard is of the most compute alone: a mean over lines would be no one's.
        axis={"compute": compute}, counts=last,
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Llamas of growing size."""
    return scaling.contestants()


_DRAW = "paragone.lab.studies._scaling_pictures:"

STUDY = Study(
    id="scaling",
    family="language",
    question="Parameters or data: which helps more for the same compute?",
    task="paragone.lab.tasks.language_scaling:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="w24",
    speed={"llama": "llama_speed"},
    inputs=("text",),
    claims=findings.CLAIMS,
    answer=findings.answer,
    findings=findings.findings,
    pictures=(
        Picture(id="lines", title="Loss by size on lines of equal compute", draw=_DRAW + "lines"),
        Picture(id="front", title="Loss by compute: each size, and the law's least loss",
                draw=_DRAW + "front"),
        Picture(id="plane", title="Parameters and symbols: what was trained, and the best split",
                draw=_DRAW + "plane"),
    ),
    preload=("numpy", "numba", "torch", "torch._dynamo", "scipy.optimize",
             "paragone.lab.sequences", "paragone.lab.tasks.language_scaling"),
    blocks=(3, 5),
    quick_blocks=(3, 3),
)  # fmt: skip
