"""Does training on further tokens help the next one? At equal tokens, and at equal CPU time."""

from __future__ import annotations

from pathlib import Path

from paragone._core.errors import UsageError
from paragone.lab.contestants import multi_token
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _multi_token_findings as findings

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="loss", title="test loss", better="lower", role="quality", margin=0.005,
            primary=True, note="Nats a symbol (a byte) of the main head alone, on text held out."),
    Measure(name="train_s", title="training", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time of the steps."),
    Measure(name="train_cpu_s", title="training CPU", better="lower", role="time", margin=0.05,
            unit="s", note="CPU time of the same."),
    Measure(name="train_extra", title="extra RAM", better="lower", role="memory", margin=0.1,
            unit="B", primary=True, note="Peak memory of training beyond what was resident "
            "before."),
    Measure(name="a_step", title="cost of a step", better="lower", role="count", margin=0.03,
            shown=True, note="CPU time of a step by that of plain training, of steps in turn."),
    Measure(name="tokens_ahead", title="tokens ahead", better="higher", role="count",
            margin=0.02, primary=True, shown=True, note="1 and the products of the shares "
            "accepted over depths: about what greedy drafting yields; 1 without heads."),
    Measure(name="accepted", title="accepted", better="higher", role="count", margin=0.02,
            relative=False, note="Share of the first further head's guesses, on "
            "held-out text, that the main head makes, too."),
    Measure(name="tokens", title="symbols D", better="lower", role="count", margin=0.01,
            shown=True, note="Symbols trained on."),
    Measure(name="in_training", title="parameters trained", better="lower", role="count",
            margin=0.01, note="Heads and modules that are thrown away included."),
    Measure(name="train_loss", title="training loss", better="lower", role="count", margin=0.01,
            note="Of the main head, over the last sixteenth of the run."),
    Measure(name="epochs", title="epochs", better="lower", role="count", margin=0.01,
            note="How often the text was read."),
)  # fmt: skip

SIZES = {"small": (32, 2), "large": (64, 4)}
"""Width and layers of the models."""

QUICK_TOKENS, TOKENS = 100_000, 1_000_000


def workloads(request: Request) -> list[Workload]:
    """Equal tokens and equal CPU time, of each size; the user's text, or Python's sources."""
    if request.target is not None:
        raise UsageError("--target: a text has no column; leave it out")
    name, params = "Python's sources", {}
    if request.data is not None:
        from paragone.lab.tasks.language_scaling import read_bytes

        read_bytes(request.data)
        name, params = Path(request.data).stem, {"path": str(Path(request.data).resolve())}
    sizes = ("small",) if request.quick else tuple(SIZES)
    return [
        _workload(request, size, budget, name, params)
        for size in sizes for budget in ("tokens", "time")
    ]  # fmt: skip


def _workload(
    request: Request, size: str, budget: str, name: str, params: dict[str, str]
) -> Workload:  # fmt: skip
    width, layers = SIZES[size]
    tokens = QUICK_TOKENS if request.quick else TOKENS
    words = {"tokens": "equal tokens", "time": "equal CPU time"}[budget]
    return Workload(
        id=f"{size}-{budget}", title=f"{name}, width {width}, {words}",
        load="paragone.lab.tasks.language_scaling:load", params=params,
        facts={
            "size": size, "budget": budget, "width": width, "layers": layers, "tokens": tokens,
            "crew": f"quick-{budget}" if request.quick else "all",
            # The models are small: a second thread would wait longer than it works.
            "threads": 1,
        },
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Next tokens alone, DeepSeek's modules in sequence, Meta's parallel heads."""
    return multi_token.contestants()


_DRAW = "paragone.lab.studies._multi_token_pictures:"

STUDY = Study(
    id="multi_token_training",
    family="language",
    question="Does training on further tokens help the next one?",
    task="paragone.lab.tasks.multi_token_training:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference=findings.PLAIN,
    inputs=("text",),
    claims=findings.CLAIMS,
    answer=findings.answer,
    findings=findings.findings,
    pictures=(
        Picture(id="gaps", title="Loss of the main head against plain training",
                draw=_DRAW + "gap_bars"),
        Picture(id="losses", title="Loss of the main head in training", draw=_DRAW + "losses"),
        Picture(id="depths", title="Guesses accepted by depth", draw=_DRAW + "depths"),
    ),
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.sequences",
             "paragone.lab.tasks.multi_token_training"),
    blocks=(3, 5),
    quick_blocks=(3, 3),
)  # fmt: skip
