"""What the studies of speed share: tables of growing size, measures, how times grow.

In `ensembles` defaults meet defaults and quality ranks. Here all contestants of a study do the
same work (`contestants.equal`), time ranks, and the area under the ROC curve stands beside it to
show that the work was the same. Different work makes different studies: a time of a forest
against one of a boosting would answer nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from paragone._core.errors import UsageError
from paragone.lab import format as fmt
from paragone.lab import growth
from paragone.lab.outcome import Summary
from paragone.lab.simulated import COLUMNS
from paragone.lab.spec import Measure, Request, Workload

__all__ = ["MEASURES", "PRELOAD", "findings", "workloads"]

SMALL = 10_000
BENCH = 100_000
MOST_TEST = 50_000

MEASURES = (
    Measure(name="fit_s", title="fit", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time of one fit, binning included, after a first call."),
    Measure(name="predict_s", title="predict", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time to predict the whole test part."),
    Measure(name="auc", title="AUC", better="higher", role="count", margin=0.001,
            relative=False, primary=True, shown=True,
            note="Area under the ROC curve on the test part: shows that the work was equal."),
    Measure(name="log_loss", title="log loss", better="lower", role="count", margin=0.01,
            note="Mean of -log p(true class), p clipped to 1e-6."),
    Measure(name="latency_s", title="one row", better="lower", role="time", margin=0.05,
            unit="s", note="Median wall time to predict a single row."),
    Measure(name="fit_cpu_s", title="fit CPU", better="lower", role="time", margin=0.05, unit="s",
            note="CPU time of the fit, all threads and children."),
    Measure(name="import_s", title="import", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time to import and build the contestant."),
    Measure(name="first_call_s", title="first call", better="lower", role="time", margin=0.05,
            unit="s", note="A fit of few rounds and a prediction: loads, compiles, caches."),
    Measure(name="fit_peak", title="peak RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak resident memory of the process during the fit."),
)  # fmt: skip

PRELOAD = (
    "numpy", "scipy.sparse", "scipy.stats", "sklearn.base", "sklearn.metrics",
    "sklearn.model_selection", "sklearn.pipeline", "sklearn.preprocessing",
    "sklearn.linear_model", "sklearn.impute", "paragone.lab.tasks.supervised",
)  # fmt: skip


def workloads(request: Request, sizes: Sequence[int], middle: int) -> list[Workload]:
    """Returns tables of these sizes, and the middle one for each smaller number of threads."""
    if request.target is not None:
        raise UsageError("--target: a study of speed makes its own tables, with their target")
    if request.options.get("bench"):
        return [_table(request, int(request.options.get("rows") or BENCH))]
    found = [
        _table(request, n, rows=n, **({"threads_used": request.threads} if n == middle else {}))
        for n in sizes
    ]
    if request.quick:
        return found
    fewer = [1 << i for i in range(request.threads.bit_length()) if 1 << i < request.threads]
    return found + [_table(request, middle, threads=t, threads_used=t) for t in fewer]


def _table(request: Request, train: int, threads: int = 0, **axis: float) -> Workload:
    """A table of which `train` rows are for training and at most a quarter as many for tests."""
    if train < 100:
        raise UsageError(f"--rows {train}: at least 100 rows for training are needed")
    folds = 1 + max(4, -(-train // MOST_TEST))
    small = train <= SMALL or bool(request.options.get("bench"))
    facts = {
        "kind": "Classifier", "rows": train, "columns": len(COLUMNS), "classes": 2,
        "target": "signal", "scale": "small" if small else "large", "folds": folds,
        "split_seed": request.seed,
    }  # fmt: skip
    words = f", {threads} thread{'s' * (threads > 1)}" if threads else ""
    return Workload(
        id=f"n{train}" + (f"-t{threads}" if threads else ""),
        title=f"Higgs-like table, {train:,} rows{words}",
        load="paragone.lab.simulated:higgs_like",
        params={"rows": train + train // (folds - 1), "seed": request.seed},
        facts={**facts, "threads": threads} if threads else facts,
        splits=1, test_share=1 / (folds - 1), axis=axis,
    )  # fmt: skip


def findings(summary: Summary) -> list[str]:
    """How the time of a fit grows with rows and shrinks with threads."""
    ends = growth.axis_range(summary, "rows")
    powers, gains = [], []
    for contestant in summary.contestants:
        curve = growth.along(summary, "rows", contestant.id, "fit_s")
        power = growth.exponent(curve)
        if power is not None and ends and (curve[0][0], curve[-1][0]) == ends:
            powers.append(f"{contestant.title} n^{power:.2f}")
        scaled = growth.along(summary, "threads_used", contestant.id, "fit_s")
        if len(scaled) > 1:
            gains.append(f"{contestant.title} {scaled[0][1] / scaled[-1][1]:.2f}x")
    told = []
    if powers and ends and ends[1] >= 100 * ends[0]:
        span = f"{ends[0]:,.0f} to {ends[1]:,.0f}"
        told.append(f"Time to fit {span} rows grows as {fmt.join(powers)}.")
    if gains:
        few, many = growth.axis_range(summary, "threads_used") or (1, 1)
        told.append(
            f"With {many:.0f} threads in place of {few:.0f} a fit is faster: {fmt.join(gains)}."
        )
    return told
