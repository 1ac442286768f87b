"""My data arrive once: which step size, which batch, averaging or not, and is a sketch enough?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paragone.lab import streams
from paragone.lab.contestants import approximation
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _approximation_findings as findings

__all__ = ["STUDY"]

LIMIT = 200_000
"""Rows of a user's stream in a `--quick` study."""

MEASURES = (
    Measure(name="excess", title="error / best", better="lower", role="quality", margin=0.02,
            primary=True, note="Error as a multiple of that of the best answer from all rows at "
            "once (root mean square over streams): 1 is the best possible, 1.41 as if half of "
            "the rows had been thrown away."),
    Measure(name="number_s", title="a row", better="lower", role="time", margin=0.05, unit="s",
            primary=True, shown=True, note="Wall time of a row, after a first call."),
    Measure(name="extra", title="extra RAM", better="lower", role="memory", margin=0.05, unit="B",
            primary=True, note="Peak memory during the calls beyond the rows themselves."),
    Measure(name="lost", title="lost", better="lower", role="count", margin=0.1, relative=False,
            note="Distance to the answer from all rows at once, in its standard errors; error / "
            "best is sqrt(1 + lost^2)."),
    Measure(name="lost_early", title="lost at n/10", better="lower", role="count", margin=0.1,
            relative=False, note="The same after the first tenth: a method whose loss grows from "
            "there falls behind as rows come."),
    Measure(name="diverged", title="diverged", better="lower", role="count", margin=0.01,
            relative=False, primary=True, note="Share of streams without a finite answer."),
    Measure(name="within", title="rank in 1.33 %", better="higher", role="count", margin=0.01,
            relative=False, note="Quantiles: share of streams whose answer has a rank within "
            "1.33 % of the one asked for."),
    Measure(name="number_cpu_s", title="row CPU", better="lower", role="time", margin=0.05,
            unit="s", note="CPU time of a row."),
    Measure(name="import_s", title="import", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time to import the contestant."),
    Measure(name="first_call_s", title="first call", better="lower", role="time", margin=0.05,
            unit="s", note="The first 600 rows: loads, compiles, caches."),
)  # fmt: skip

ROWS = 100_000
QUICK_ROWS = 10_000


def workloads(request: Request) -> list[Workload]:
    """The user's column; else means, quantiles, models, and a root that is far away."""
    if request.data is not None:
        return _given(request)
    rows, count = (QUICK_ROWS, 8) if request.quick else (ROWS, 10)
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("quantile", "0.9-quantile of waiting times", {"q": 0.9}),
        ("linear", "Linear model, 5 coefficients", {"columns": 5}),
        ("root", "Root of w^3 - 5 from w = 10", {"rows": 2000, "streams": 4}),
    ]
    if not request.quick:
        kinds += [
            ("mean", "Mean of a skewed stream", {}),
            ("logistic", "Logistic model, 5 coefficients", {"columns": 5}),
        ]
    return [
        _workload(problem, title, {"problem": problem, "rows": rows, "streams": count, **more},
                  {}, request)
        for problem, title, more in kinds
    ]  # fmt: skip


def _given(request: Request) -> list[Workload]:
    folder = Path(request.cache) / "stream"
    found = dict(streams.prepare(
        request.data or "", request.target, folder, limit=LIMIT if request.quick else 0
    ))  # fmt: skip
    path, name, notes = found["path"], found["name"], found["notes"]
    facts = {"rows": found["rows"], "notes": notes}
    kinds: list[tuple[str, str, float]] = [
        ("mean", f"Mean of {name}", 0.5),
        ("median", f"Median of {name}", 0.5),
        ("q99", f"0.99-quantile of {name}", 0.99),
    ]
    return [
        _workload(id, title, {"problem": "mean" if id == "mean" else "quantile", "path": path,
                              "q": q, "streams": 1}, facts, request)
        for id, title, q in kinds
    ]  # fmt: skip


def _workload(
    id: str, title: str, params: Mapping[str, Any], facts: Mapping[str, Any], request: Request
) -> Workload:
    return Workload(
        id=id, title=title, load="paragone.lab.streams:load", params=params,
        facts={"columns": 1, **params, **facts, "quick": request.quick},
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Step policies, batches, recursions, sketches, rivals, and all rows at once."""
    return approximation.contestants()


STUDY = Study(
    id="approximation",
    family="estimation",
    question="My data arrive once: which step size, which batch, averaging or not, and is a "
    "running sketch as good as the sorted array?",
    task="paragone.lab.tasks.stream:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="sgd_average",
    inputs=("table", "none"),
    claims=findings.CLAIMS,
    findings=findings.findings,
    speed={"stochastic_approximation": "stream_speed"},
    pictures=(
        Picture(id="paths", title="Paths of the iterates by step size",
                draw="paragone.lab.studies._approximation_pictures:paths"),
        Picture(id="batches", title="Error over rows by size of the batch",
                draw="paragone.lab.studies._approximation_pictures:batches"),
        Picture(id="ranks", title="Error over rows by step size",
                draw="paragone.lab.studies._approximation_pictures:policies"),
    ),
    preload=("numpy", "scipy.sparse", "sklearn.linear_model", "paragone.lab.tasks.stream",
             "paragone.lab.contestants.streamers"),
    blocks=(3, 8),
    quick_blocks=(3, 3),
)  # fmt: skip
