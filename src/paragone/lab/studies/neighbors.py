"""Which search for nearest neighbours should I use, and up to which dimension does it pay?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab import points
from paragone.lab.contestants import neighbors
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _neighbor_findings as findings

__all__ = ["STUDY"]

QUERIES = 10_000
NEIGHBORS = 10
LIMIT = 20_000
"""Rows of a `--quick` study."""

MEASURES = (
    Measure(name="query_s", title="query", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time of one exact query in a batch, after a first call."),
    Measure(name="build_s", title="build", better="lower", role="time", margin=0.05, unit="s",
            shown=True, note="Wall time to build the index."),
    Measure(name="approx_s", title="at 95 %", better="lower", role="time", margin=0.05,
            unit="s", shown=True, note="Approximate: wall time of one query in a batch, at the "
            "least effort that finds 95 % of the neighbours (else at the most effort)."),
    Measure(name="recall", title="recall", better="higher", role="count", margin=0.005,
            relative=False, primary=True, shown=True,
            note="Share of the true neighbours that were found, against brute force."),
    Measure(name="latency_s", title="one query", better="lower", role="time", margin=0.05,
            unit="s", note="Median wall time of a query on its own."),
    Measure(name="query_cpu_s", title="query CPU", better="lower", role="time", margin=0.05,
            unit="s", note="CPU time of one query in a batch, all threads."),
    Measure(name="build_cpu_s", title="build CPU", better="lower", role="time", margin=0.05,
            unit="s", note="CPU time of the build, all threads."),
    Measure(name="import_s", title="import", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time to import the contestant."),
    Measure(name="first_call_s", title="first call", better="lower", role="time", margin=0.05,
            unit="s", note="A build and a query on a sample: loads, compiles, caches."),
    Measure(name="extra", title="extra RAM", better="lower", role="memory", margin=0.05, unit="B",
            primary=True, note="Peak memory of build and queries beyond the points themselves."),
    Measure(name="error", title="distance error", better="lower", role="count", margin=1e-6,
            relative=False, note="Largest deviation of a returned distance, relative to the "
            "k-th nearest."),
)  # fmt: skip

DIMENSIONS = (2, 3, 8, 12, 16, 24)
CLUSTERED = (3, 8, 24)
ROWS = (1_000, 10_000, 1_000_000)
COUNTS = (1, 50)
BASE = 50_000


def workloads(request: Request) -> list[Workload]:
    """The user's table; else sweeps of dimension, clusters, rows, k and threads, and real sets."""
    if request.target is not None:
        raise UsageError("--target: a search for neighbours has none; leave it out")
    if request.data is not None:
        return _given(request)
    if request.options.get("bench"):
        return _bench(request)
    if request.quick:
        sweep = [_synthetic(request, "uniform", d, LIMIT, {"dimension": d}) for d in (2, 8, 16)]
        real = [_real(request, "colours", LIMIT), _real(request, "patches", LIMIT)]
        return [*sweep, *real]
    made = [
        _synthetic(request, "uniform", d, BASE, {"dimension": d, **_base_axes(request, d)})
        for d in DIMENSIONS
    ]
    made += [
        _synthetic(request, "clustered", d, BASE, {"dimension_if_clustered": d}) for d in CLUSTERED
    ]
    made += [_synthetic(request, "uniform", 3, n, {"points": n}) for n in ROWS]
    made += [_synthetic(request, "uniform", 8, BASE, {"neighbors": k}, k=k) for k in COUNTS]
    made += [
        _synthetic(request, "uniform", 3, BASE, {"threads_used": t}, threads=t)
        for t in _fewer(request.threads)
    ]
    return made + [_real(request, kind) for kind in ("colours", "patches", "digits")]


def _base_axes(request: Request, dimension: int) -> dict[str, float]:
    """The sweeps through the point that they share."""
    if dimension == 3:
        return {"points": BASE, "threads_used": request.threads}
    return {"neighbors": NEIGHBORS} if dimension == 8 else {}


def _fewer(threads: int) -> list[int]:
    """1, 2, 4 ... below the study's own number."""
    return [1 << i for i in range(threads.bit_length()) if 1 << i < threads]


def _bench(request: Request) -> list[Workload]:
    rows = int(request.options.get("rows") or 100_000)
    return [
        _synthetic(request, "uniform", 3, rows),
        _synthetic(request, "clustered", 8, rows),
        _synthetic(request, "uniform", 16, rows),
        _real(request, "colours"),
    ]


def _synthetic(
    request: Request, kind: str, columns: int, rows: int, axis: Mapping[str, float] | None = None,
    *, k: int = NEIGHBORS, threads: int = 0,
) -> Workload:  # fmt: skip
    marks = [f"k{k}"] * (k != NEIGHBORS) + [f"t{threads}"] * bool(threads)
    words = [f"k = {k}"] * (k != NEIGHBORS) + [f"{threads} threads"] * bool(threads)
    return _workload(
        "-".join([kind, f"d{columns}", f"n{rows}", *marks]),
        ", ".join([f"{kind.capitalize()} points", *words]),
        {"kind": kind, "rows": rows, "columns": columns, "queries": QUERIES, "seed": request.seed},
        request, {"k": k, **({"threads": threads} if threads else {})}, axis=axis,
    )  # fmt: skip


_REAL = {
    "colours": ("Colours of a photograph, with ties", 273_280, 3),
    "patches": ("8 x 8 patches of a photograph", 66_570, 64),
    "digits": ("Handwritten digits", 1_618, 64),
}


def _real(request: Request, kind: str, limit: int = 0) -> Workload:
    title, rows, columns = _REAL[kind]
    params = {"kind": kind, "rows": limit, "queries": QUERIES, "seed": request.seed}
    shape = {"rows": min(limit, rows) if limit else rows, "columns": columns}
    return _workload(kind, title, {**params, **shape} if limit else params, request, shape)


def _given(request: Request) -> list[Workload]:
    folder = Path(request.cache) / "table"
    found = points.prepare(
        request.data or "", folder, limit=LIMIT if request.quick else 0, seed=request.seed
    )
    params = {"kind": "table", "path": str(folder), "seed": request.seed}
    counts = sorted({min(k, found["rows"]) for k in (1, NEIGHBORS)})
    return [
        _workload(f"data-k{k}" if len(counts) > 1 else "data",
                  f"{Path(request.data or '').stem}, k = {k}", params, request, {**found, "k": k})
        for k in counts
    ]  # fmt: skip


def _workload(
    id: str, title: str, params: Mapping[str, Any], request: Request, facts: Mapping[str, Any],
    axis: Mapping[str, float] | None = None,
) -> Workload:  # fmt: skip
    shape = {name: params[name] for name in ("rows", "columns") if params.get(name)}
    known = {"k": NEIGHBORS, **shape, **facts}
    digest = str(known.pop("digest", ""))
    # Below, trees answer at once: brute force and approximations could only lose.
    known["high"] = int(known["columns"]) >= 8
    known["quick"] = request.quick and not request.options.get("bench")
    return Workload(
        id=id, title=title, load="paragone.lab.points:load",
        params={**params, "cache": request.cache}, facts=known, digest=digest, axis=axis or {},
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Ours, the rivals, and brute force."""
    return neighbors.contestants()


STUDY = Study(
    id="neighbors",
    family="neighbors",
    question="Which search finds the nearest neighbours fastest here, and is it exact?",
    task="paragone.lab.tasks.search:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="scipy_kd_tree",
    inputs=("table", "none"),
    claims=findings.CLAIMS,
    findings=findings.findings,
    pictures=(
        Picture(id="partition", title="How the tree divides the plane, and what a query visits",
                draw="paragone.lab.studies._neighbor_pictures:partition"),
        Picture(id="recall", title="Recall against time of a query",
                draw="paragone.lab.studies._neighbor_pictures:recall"),
        Picture(id="dimension", title="Time of a query by dimension, and where brute force wins",
                draw="paragone.lab.studies._neighbor_pictures:dimension"),
    ),
    preload=("numpy", "scipy.sparse", "sklearn.base", "sklearn.metrics",
             "paragone.lab.tasks.search", "paragone.lab.contestants.searchers"),
    blocks=(3, 5),
    quick_blocks=(2, 2),
)  # fmt: skip
