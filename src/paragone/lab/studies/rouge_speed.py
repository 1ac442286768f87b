"""How fast is the filter for near copies against `rouge_score`, which the papers used?"""

from __future__ import annotations

from paragone._core.errors import UsageError
from paragone.lab.claims import seen
from paragone.lab.contestants import rouge
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Summary
from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.studies.mixers_speed import MEASURES

__all__ = ["STUDY"]

SHAPES = (("small", 200), ("middle", 2000), ("large", 52_000))
"""Id and number of texts; the last is the published data set's."""


def workloads(request: Request) -> list[Workload]:
    """A few texts, some, and as many as Alpaca has; `--rows` sets the number of the first."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed draws its own texts; leave it out")
    made = []
    for id, texts in SHAPES:
        if request.options.get("rows") and id != "small":
            continue
        count = int(request.options.get("rows") or texts)
        made.append(Workload(
            id=id, title=f"Filter, {count:,} texts", params={"texts": count},
            load="paragone.lab.contestants.rouge_calls:inputs",
            facts={"texts": count, "size": id, "threads": 1},
        ))  # fmt: skip
    return made


def contestants(request: Request) -> list[Contestant]:
    """Ours twice, rouge_score, rapidfuzz."""
    return rouge.for_speed()


def _in_time(summary: Summary) -> tuple[str, bool] | None:
    found = by_workload(summary, "rouge", "call_cpu_s").get("large")
    return None if found is None else (f"{found:.2f} s", found <= 40)


def _faster(summary: Summary) -> tuple[str, bool] | None:
    ours = by_workload(summary, "rouge_each", "call_cpu_s").get("small")
    theirs = by_workload(summary, "rouge_score", "call_cpu_s").get("small")
    if not ours or not theirs:
        return None
    return f"{theirs / ours:.0f}x at 200 texts", theirs / ours >= 100


_GOAL = "the goal of this implementation; Wang et al. (2023), arXiv:2212.10560, section 2.2"

STUDY = Study(
    id="rouge_speed",
    family="language",
    question="How long does it take to keep what is new among so many instructions?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="rouge",
    options={"reference": "paragone.lab.contestants.rouge_calls:truth", "most_calls": 50,
             "least_calls": 1},
    claims=(
        seen("52,000 instructions are filtered within 40 seconds on one core.", _GOAL, _in_time),
        seen("Comparing all with all is 100 times as fast as rouge_score.", _GOAL, _faster),
    ),
    preload=("numpy", "numba", "paragone.lab.tasks.sweep",
             "paragone.lab.contestants.rouge_calls"),
    blocks=(3, 5),
    quick_blocks=(1, 2),
)  # fmt: skip
