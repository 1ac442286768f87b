r"""One run of a neighbour search: build an index on points, ask it for the k nearest, judge it.

A contestant is a class with `fit(points)` and `query(queries, k) -> (distances, indices)`
(scikit-learn's `kneighbors` is taken too), or a class that is built on the points, as SciPy's
trees are. One that is approximate has `efforts`, ascending, and `query(queries, k, effort)`.

Order: load and digest; import; a first call, which compiles and fills caches; the timed build;
the timed queries; single queries. Time is per query, over a batch as large as `BATCH_SECONDS`
allows: a slow contestant answers the first 256 queries, a fast one all of them.

The answers to the first queries are judged against brute force. With $r_i$ the true distance of
the k-th nearest point, and distances computed again from the indices that were returned,

$$ \text{recall} = \frac{1}{mk} \sum_i \#\{\text{different } j : \lVert x_i - p_j \rVert
   \le r_i (1 + 10^{-9})\} , $$

so that among points at equal distance any is right. `error` is the largest deviation of a
returned distance from the true one, relative to $r_i$. A contestant that calls itself exact and
misses one neighbour has failed. Of an approximate one the operating point is the least effort
whose recall is at least `RECALL`; its time is `approx_s`, so that it is never ranked among those
that are exact.

Values: `query_s` (exact) or `approx_s`, `recall`, `error`, `build_s`, `latency_s`, `extra` (the
peak beyond what was resident before the build), `contrast` of the points, `import_s`,
`first_call_s`; curve `recall over seconds a query`, in the order of efforts.

Shapes: n points, d columns, m queries, k neighbours.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from paragone.lab.build import load_inputs, resolve_target
from paragone.lab.points import JUDGED, truth
from paragone.lab.probe import Probe
from paragone.lab.spec import Job

__all__ = ["RECALL", "Search", "judge", "one_call", "run"]

RECALL = 0.95
"""Recall at which approximate contestants are compared."""

TOLERANCE = 1e-9
BATCH_SECONDS = 0.4
SHORT = 0.1
WARM_POINTS = 2048
LATENCY_CALLS = 200
LATENCY_SECONDS = 0.05
_CURVE = "recall over seconds a query"

Answer = tuple[np.ndarray, np.ndarray]


class Search:
    """A contestant, whichever of the accepted forms it has."""

    def __init__(self, target: Any, parameters: Mapping[str, Any], threads: int):
        self._target, self._parameters = target, dict(parameters)
        if inspect.isclass(target) and "threads" in _arguments(target):
            self._parameters["threads"] = threads
        self.efforts: tuple[Any, ...] = tuple(getattr(target, "efforts", ()))
        self.exact: bool = bool(getattr(target, "exact", False))

    def load(self) -> None:
        """Makes one, which imports its library."""
        if hasattr(self._target, "fit"):
            self._target(**self._parameters)

    def build(self, points: np.ndarray) -> Callable[..., Answer]:
        """Returns the function that answers queries."""
        index: Any
        if inspect.isclass(self._target) and not hasattr(self._target, "fit"):
            make: Any = self._target
            index = make(points, **self._parameters)
        else:
            index = self._target(**self._parameters)
            index.fit(points)
        return getattr(index, "query", None) or index.kneighbors


def _arguments(target: Any) -> set[str]:
    try:
        return set(inspect.signature(target).parameters)
    except ValueError:
        return set()  # some built-in classes do not tell their arguments


def judge(
    points: np.ndarray, queries: np.ndarray, nearest: np.ndarray, answer: Answer
) -> tuple[float, float]:
    """Returns (recall, error) of an answer.

    Args:
        points: (n, d).
        queries: (m, d).
        nearest: (m, k) true distances, ascending.
        answer: Distances and indices, (m, k) or, for k = 1, (m,).

    Raises:
        ValueError: Wrong shapes, or indices that are none.
    """
    count, k = nearest.shape
    told = np.asarray(answer[0], np.float64).reshape(len(queries), -1)[:count]
    found = np.asarray(answer[1]).reshape(len(queries), -1)[:count].astype(np.int64)
    if found.shape != nearest.shape or told.shape != nearest.shape:
        raise ValueError(
            f"(distances, indices) of shape ({len(queries)}, {k}) are expected; got "
            f"{np.shape(answer[0])} and {np.shape(answer[1])}"
        )
    if not ((found >= 0) & (found < len(points))).all():
        raise ValueError(
            f"indices must be 0 to {len(points) - 1}; got {found.min()}..{found.max()}"
        )
    gaps = points[found] - queries[:count, None, :]
    true = np.sqrt(np.einsum("ikd,ikd->ik", gaps, gaps))
    ordered = np.sort(found, axis=1)
    repeated = (np.diff(ordered, axis=1) == 0).sum()
    hits = (true <= nearest[:, -1:] * (1 + TOLERANCE)).sum() - repeated
    scale = np.where(nearest[:, -1:] > 0, nearest[:, -1:], 1.0)
    return max(int(hits), 0) / (count * k), float((np.abs(told - true) / scale).max())


def run(job: Job, probe: Probe) -> None:
    """Performs one run; see the module's text."""
    with probe.phase("load"):
        points, queries = load_inputs(job)
    probe.digest("data", points, queries)
    k = int(job.workload.facts["k"])
    nearest, contrast = truth(points, queries, k, str(job.workload.params.get("cache", "")))
    probe.value("contrast", contrast)
    with probe.phase("import"):
        search = Search(resolve_target(job.contestant.make), job.contestant.params, job.threads)
        search.load()
    with probe.phase("first_call"):
        _warm_up(search, points, queries, k)
    ask = _timed_build(probe, search, points)
    if search.efforts:
        _approximate(probe, search, ask, (points, queries, nearest), job)
    else:
        with probe.phase("search"):
            answer, *took = _per_query(lambda part: ask(part, k), queries, _room(job))
        _exact_or_not(probe, search, *judge(points, queries[:JUDGED], nearest, answer), took)
    _latency(probe, ask, queries, k)
    phases = probe.phases
    most = max(phases["build"]["peak"], phases["search"]["peak"])
    probe.value("extra", max(most - phases["build"]["start"], 4096))


def one_call(job: Job) -> Callable[[], Callable[[], None]]:
    """Returns what, called, imports the contestant and returns one build with some queries."""
    points, queries = load_inputs(job)
    k = int(job.workload.facts["k"])

    def load() -> Callable[[], None]:
        search = Search(resolve_target(job.contestant.make), job.contestant.params, job.threads)
        search.load()

        def call() -> None:
            ask = search.build(points)
            ask(queries[:JUDGED], k)
            ask(queries[:1], k)

        return call

    return load


def _warm_up(search: Search, points: np.ndarray, queries: np.ndarray, k: int) -> None:
    """Builds and asks once; compiled code sees the real sizes, others a sample."""
    ask = search.build(points[: max(WARM_POINTS, k)])
    ask(queries[:64], k)
    ask(queries[:1], k)
    if "numba" in sys.modules or "torch" in sys.modules:
        ask = search.build(points)
        ask(queries[:JUDGED], k)


def _room(job: Job) -> float:
    """Seconds that the timed batches of one contestant may take."""
    return BATCH_SECONDS / 2 if job.quick else BATCH_SECONDS


def _timed_build(probe: Probe, search: Search, points: np.ndarray) -> Callable[..., Answer]:
    """Builds; when that was very short, its time is the median of three builds."""
    with probe.phase("build"):
        start = time.perf_counter(), time.process_time()
        ask = search.build(points)
        took = [(time.perf_counter() - start[0], time.process_time() - start[1])]
    if took[0][0] < SHORT:
        for _ in range(2):
            start = time.perf_counter(), time.process_time()
            search.build(points)
            took.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        probe.value("build_s", float(np.median([wall for wall, _ in took])))
        probe.value("build_cpu_s", float(np.median([cpu for _, cpu in took])))
    return ask


def _per_query(
    ask: Callable[[np.ndarray], Answer], queries: np.ndarray, most: float
) -> tuple[Answer, float, float]:
    """Returns the answer to the judged queries, and wall and CPU seconds a query.

    The median of three batches as large as the time allows; of a slow contestant the first.
    """
    asked = queries[:JUDGED]
    answer, wall, cpu = _timed(ask, asked)
    room = int(most / 3 / max(wall, 1e-9))
    if wall * len(asked) > most:
        return answer, wall, cpu
    part = queries[: max(room, len(asked))]
    found: list[tuple[float, float]] = []
    while len(found) < 3 and sum(wall for wall, _ in found) * len(part) < most:
        found.append(_timed(ask, part)[1:])
    walls, cpus = zip(*found, strict=True)
    return answer, float(np.median(walls)), float(np.median(cpus))


def _timed(ask: Callable[[np.ndarray], Answer], part: np.ndarray) -> tuple[Answer, float, float]:
    start, before = time.perf_counter(), time.process_time()
    answer = ask(part)
    wall, cpu = time.perf_counter() - start, time.process_time() - before
    return answer, wall / len(part), cpu / len(part)


def _exact_or_not(
    probe: Probe, search: Search, recall: float, error: float, took: Sequence[float]
) -> None:
    if search.exact and recall < 1:
        raise ValueError(
            f"recall {recall:.6f} of a search that is exact: some nearest neighbour was missed"
        )
    name = "query" if recall == 1 else "approx"
    probe.value("recall", recall)
    probe.value("error", error)
    probe.value(f"{name}_s", took[0])
    probe.value(f"{name}_cpu_s", took[1])


def _approximate(
    probe: Probe, search: Search, ask: Callable[..., Answer],
    data: tuple[np.ndarray, np.ndarray, np.ndarray], job: Job,
) -> None:  # fmt: skip
    """Walks up the efforts until nothing is missed; keeps the first that is good enough."""
    points, queries, nearest = data
    asked, k, room = queries[:JUDGED], int(job.workload.facts["k"]), _room(job)
    seconds: list[float] = []
    recalls: list[float] = []
    chosen: tuple[float, float, float, float] | None = None
    for effort in search.efforts:
        with probe.phase("search"):
            answer, wall, cpu = _per_query(lambda part, e=effort: ask(part, k, e), queries, room)
        recall, error = judge(points, asked, nearest, answer)
        seconds.append(wall)
        recalls.append(recall)
        if chosen is None or chosen[0] < RECALL:
            chosen = (recall, error, wall, cpu)
        if recall >= 0.9995:
            break
    assert chosen is not None
    probe.curve(_CURVE, seconds, recalls)
    for name, value in zip(("recall", "error", "approx_s", "approx_cpu_s"), chosen, strict=True):
        probe.value(name, value)


def _latency(probe: Probe, ask: Callable[..., Answer], queries: np.ndarray, k: int) -> None:
    times = []
    end = time.perf_counter() + LATENCY_SECONDS
    for i in range(LATENCY_CALLS):
        one = queries[i % len(queries)][None, :]
        start = time.perf_counter()
        ask(one, k)
        stop = time.perf_counter()
        times.append(stop - start)
        if stop > end:
            break
    probe.value("latency_s", float(np.median(times)))
