r"""Tree, forest or brute force: whichever is quickest here, by measurement.

The seconds of brute force are predictable, $t = m\,[n\,(a + b\,d) + c\,k\,(1 + \ln(n/k))]$, where
the last term is the neighbours that must be weighed exactly; $a, b, c$ are timed once a process.
Those of a tree are not: they follow the data's intrinsic dimension, not d. So a pilot
searches two small samples of the points with a few of the queries, and extrapolates with

$$ t(n) = t(s_2) \left(\frac{n}{s_2}\right)^{\alpha}, \qquad
   \alpha = \frac{\log t(s_2) / t(s_1)}{\log s_2 / s_1} \in [0, 1] ; $$

$\alpha$ is near 0 where the tree works and near 1 where it visits everything. The forest looks at a
fixed number of points, so one small sample tells its time.

Rules that keep the choice from ever costing more than brute force:

- for little work (`worth_a_pilot`) there is no pilot and no build, only brute force;
- a build must be repaid by the queries seen so far, this call's included;
- another method must promise a gain of a fifth;
- it is timed on its first queries, and if it breaks its promise, brute force does the rest.

In the pilot and on the first queries brute force says how many of the neighbours a forest finds; if
that is less than half, as on data without structure, the forest is not taken. Nor is it tried
where an exact tree is quick.

All times are CPU seconds of one thread, so that a busy machine does not blur them.

n points, m queries, d dimensions, k neighbours, s points of a sample.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from paragone._core.random import RandomState
from paragone.neighbors._forest import Forest
from paragone.neighbors._forest_build import principal_axes
from paragone.neighbors.brute import BruteForce

__all__ = ["METHODS", "Chooser"]

METHODS = ("auto", "brute", "tree", "forest")

_GAIN, _QUICK = 0.8, 0.3
_PILOT_QUERIES = 16
_SMALL, _LARGE = 1024, 4096
_TRIAL = 32
_LEAST_RECALL = 0.5


@dataclass(frozen=True)
class _Promise:
    """Seconds on one thread: once for building, then for each query."""

    build: float
    query: float


_HOPELESS = _Promise(math.inf, math.inf)


def _seconds(work: Any, repeats: int = 1) -> float:
    best = math.inf
    for _ in range(repeats):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return max(best, 1e-9)


def worth_a_pilot(d: int) -> float:
    """Seconds of brute force on one thread, below which nothing else is tried.

    Some twenty times what a pilot costs, and it costs more in more dimensions.
    """
    return 0.05 + 0.002 * d


@cache
def brute_rates(kind: str) -> tuple[float, float, float]:
    """Returns (a, b, c) of this machine: seconds a point, a point and dimension, a candidate."""
    p, k, m = {"two": 2.0, "plain": 1.0, "power": 3.0}[kind], 8, 64
    rng = np.random.default_rng(0)

    def taken(n: int, d: int) -> float:
        engine, x = BruteForce(rng.random((n, d), np.float32)), rng.random((m, d), np.float32)
        engine.query(x[:2], k, p, 1)
        return _seconds(lambda: engine.query(x, k, p, 1), 2) / m

    few, many = 2048, 4 * 2048 if kind == "power" else 8 * 2048
    thin, wide = taken(many, 4), taken(many, 64)
    b = max((wide - thin) / (60 * many), 1e-13)
    more = math.log(many / few)
    # Two sizes tell the cost of a point (it grows with n) from that of a candidate (with log n).
    matrix = np.array([[few, k * (1 + math.log(few / k))], [many - few, k * more]])
    small = taken(few, 4)
    a, c = np.linalg.solve(matrix, [small - 4 * b * few, thin - small - 4 * b * (many - few)])
    return max(float(a), 1e-11), b, max(float(c), 0.0)


def brute_seconds(n: int, d: int, k: int, p: float) -> float:
    """Predicts the seconds of brute force for one query, on one thread."""
    a, b, c = brute_rates("two" if p == 2.0 else "plain" if p in (1.0, np.inf) else "power")
    return n * (a + b * d) + c * k * (1.0 + math.log(max(n / k, 1.0)))


class Chooser:
    """Holds the points, builds what pays, and answers with the quickest.

    Args:
        points: (n, d) checked.
        trees, leafsize, random_state, workers: For the forest.
        tree: An exact tree over the same points, if there is one.

    Attributes:
        method: What the last query took, or None.
    """

    def __init__(
        self, points: np.ndarray, trees: int = 4, leafsize: int = 8,
        random_state: RandomState = 0, workers: int = -1, tree: Any = None,
    ) -> None:  # fmt: skip
        self.points = points
        self.method: str | None = None
        self._why = "no query yet"
        self._forest_options = (trees, leafsize, random_state, workers)
        self._engines: dict[str, Any] = {} if tree is None else {"tree": tree}
        self._promises: dict[Any, _Promise] = {}
        self._tried: set[Any] = set()
        self._asked = 0
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: engine for name, engine in self._engines.items() if name != "brute"}
        return {**self.__dict__, "_lock": None, "_engines": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def explain(self) -> str:
        """One line: the method taken, and the seconds that were predicted for each."""
        return self._why if self.method is None else f"{self.method}: {self._why}"

    def engine(self, name: str) -> Any:
        """Returns the engine of that name, built at its first use."""
        with self._lock:
            if name not in self._engines:
                self._engines[name] = _build(name, self.points, *self._forest_options)
            return self._engines[name]

    def query(
        self, x: np.ndarray, k: int, p: float, checks: int | None, method: str, workers: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns distances (m, k) and indices (m, k) by `method`, or by the best if "auto"."""
        if method != "auto":
            self.method, self._why = method, "asked for"
            return self._ask(method, x, k, p, checks, workers)
        with self._lock:
            name, brute = self._choose(x, k, p, checks)
            self._asked += len(x)
        self.method = name
        key = self._key(name, k, p, checks)
        if name == "brute" or key in self._tried or len(x) < 4 * _TRIAL:
            return self._ask(name, x, k, p, checks, workers)
        self._tried.add(key)
        return self._on_trial(name, brute, x, k, p, checks, workers)

    def _ask(
        self, name: str, x: np.ndarray, k: int, p: float, checks: int | None, workers: int
    ) -> tuple[np.ndarray, np.ndarray]:
        return _ask(self.engine(name), name, x, k, p, checks, workers)

    def _on_trial(
        self, name: str, brute: float, x: np.ndarray, k: int, p: float, checks: int | None,
        workers: int,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Answers some queries on one thread, and the rest by brute force if that is better."""
        engine, key = self.engine(name), self._key(name, k, p, checks)
        first = np.zeros(len(x), bool)
        first[np.linspace(0, len(x) - 1, _TRIAL).astype(np.int64)] = True
        distance, index = np.empty((len(x), k)), np.empty((len(x), k), np.int64)

        def answer() -> None:
            distance[first], index[first] = _ask(engine, name, x[first], k, p, checks, 1)

        _ask(engine, name, x[:1], k, p, checks, 1)  # what is compiled or loaded is not its speed
        taken = _seconds(answer) / _TRIAL
        self._promises[key] = _Promise(0.0, taken)
        if taken > brute:
            self.method = "brute"
            self._why += f"; but {name} took {taken:.2g} s a query, brute force {brute:.2g} s"
        elif name == "forest":
            share = _share_found(distance[first], self._ask("brute", x[first], k, p, None, 1)[0])
            self._why += f"; found {share:.0%} of the neighbours of {_TRIAL} queries"
            if share < _LEAST_RECALL:
                self._promises[key] = _HOPELESS
                self.method = "brute"
                self._why += ", too few: brute force"
        distance[~first], index[~first] = self._ask(
            self.method or name, x[~first], k, p, checks, workers
        )
        return distance, index

    def _key(self, name: str, k: int, p: float, checks: int | None) -> Any:
        return name, k, p, checks if name == "forest" else None

    def _choose(self, x: np.ndarray, k: int, p: float, checks: int | None) -> tuple[str, float]:
        """Returns the method and the seconds of brute force for one query."""
        n, d = self.points.shape
        m = len(x) + self._asked
        brute = brute_seconds(n, d, k, p) if n else 0.0
        size = f"{m} queries x {n} points x {d} dimensions"
        if m * brute < worth_a_pilot(d) or k >= n // 2:
            self._why = f"{size}, {m * brute:.2g} s of brute force: too little to build anything"
            if k >= n // 2:
                self._why = f"{size}, k = {k}: half of the points or more are wanted"
            return "brute", brute
        total = {"brute": m * brute}
        for name in ("tree",) if checks is None else ("tree", "forest"):
            quick = min(total.values()) < _QUICK * m * brute
            if name == "forest" and (quick or m * brute < 2.0 * worth_a_pilot(d)):
                continue
            promise = self._promise(name, x, k, p, checks)
            total[name] = m * promise.query
            if name not in self._engines:
                total[name] += promise.build
        best = min(total, key=lambda name: total[name] * (1.0 if name == "brute" else 1.0 / _GAIN))
        parts = ", ".join(f"{name} {seconds:.2g} s" for name, seconds in total.items())
        self._why = f"{size}; predicted with builds, on one thread: {parts}"
        return best, brute

    def _promise(self, name: str, x: np.ndarray, k: int, p: float, checks: int | None) -> _Promise:
        key = self._key(name, k, p, checks)
        if key not in self._promises:
            rows = np.linspace(0, len(x) - 1, min(len(x), _PILOT_QUERIES)).astype(np.int64)
            pilot = _pilot_tree if name == "tree" else _pilot_forest
            self._promises[key] = pilot(self.points, x[rows], k, p, checks, *self._forest_options)
        return self._promises[key]


def _build(
    name: str, points: np.ndarray, trees: int, leafsize: int, random_state: RandomState,
    workers: int,
) -> Any:  # fmt: skip
    if name == "brute":
        return BruteForce(points)
    if name == "forest":
        return Forest(points, trees, leafsize, random_state, workers)
    from paragone.neighbors.kd_tree import KDTree

    # In float64, as brute force weighs distances, so that both give the same neighbours.
    return KDTree(np.asarray(points, np.float64), workers=workers)


def _ask(
    engine: Any, name: str, x: np.ndarray, k: int, p: float, checks: int | None, workers: int
) -> tuple[np.ndarray, np.ndarray]:
    if name == "brute":
        return engine.query(x, k, p, workers)
    if name == "forest":
        return engine.query(x, k, 200 if checks is None else checks, p, workers)
    distance, index = engine.query(x, k=k, p=p, workers=workers)
    return distance.reshape(len(x), k), index.reshape(len(x), k)


def _share_found(found: np.ndarray, true: np.ndarray) -> float:
    """Share of the neighbours at true distances (m, k) that were found; ties count as found."""
    return float(np.mean(found <= true[:, -1:] * (1.0 + 1e-12)))


def _sample(points: np.ndarray, size: int) -> np.ndarray:
    rows = np.random.default_rng(0).permutation(len(points))[:size]
    return np.ascontiguousarray(points[np.sort(rows)])


def _growth(n: int, size: int) -> float:
    return n * math.log(n + 2) / (size * math.log(size + 2))


def _pilot_tree(
    points: np.ndarray, x: np.ndarray, k: int, p: float, checks: int | None, *options: Any
) -> _Promise:
    """Times an exact tree on two samples; gives up where it is hopeless on the smaller one."""
    n = len(points)
    d, options = points.shape[1], (*options[:-1], 1)
    taken, build, sizes = [], 0.0, (min(_SMALL, n // 4), min(_LARGE, n))
    _ask(_build("tree", points[: k + 2], *options), "tree", x[:1], k, p, None, 1)
    for size in sizes:
        some = _sample(points, size)
        engine: list[Any] = []
        build = _seconds(lambda some=some, into=engine: into.append(_build("tree", some, *options)))
        _ask(engine[0], "tree", x[:1], k, p, None, 1)
        taken.append(_seconds(lambda e=engine: _ask(e[0], "tree", x, k, p, None, 1)) / len(x))
        if taken[-1] > 4.0 * brute_seconds(size, d, k, p) + 1e-5:
            return _HOPELESS
    alpha = math.log(taken[1] / taken[0]) / math.log(sizes[1] / sizes[0])
    alpha = min(max(alpha, 0.0), 1.0)
    return _Promise(build * _growth(n, sizes[1]), taken[1] * (n / sizes[1]) ** alpha)


def _pilot_forest(
    points: np.ndarray, x: np.ndarray, k: int, p: float, checks: int | None,
    trees: int, leafsize: int, random_state: RandomState, workers: int,
) -> _Promise:  # fmt: skip
    """Times one tree of a forest on a sample, and tells how its recall falls with more points."""
    assert checks is not None
    n, size = len(points), min(2 * _SMALL, len(points))
    some = _sample(points, size)
    few = np.ascontiguousarray(some[::4])
    warm = Forest(few, 1, leafsize, 0, 1)
    before = _share_found(warm.query(x, k, checks, p, 1)[0], BruteForce(few).query(x, k, p, 1)[0])
    once = _seconds(lambda: principal_axes(some, 32))
    engine: list[Any] = []
    build = max(_seconds(lambda: engine.append(Forest(some, 1, leafsize, 0, 1))) - once, 1e-9)
    found: list[np.ndarray] = []
    query = _seconds(lambda: found.append(engine[0].query(x, k, checks, p, 1)[0])) / len(x)
    share = _share_found(found[0], BruteForce(some).query(x, k, p, 1)[0])
    # With the same checks recall falls by about as much for each factor of four in n.
    if share - max(before - share, 0.0) * math.log(n / size, 4.0) < _LEAST_RECALL:
        return _HOPELESS
    # Points beyond a second-level cache: each look then waits for memory.
    far = 1.5 if points.nbytes > 2**21 else 1.0
    build = 2.0 * once + trees * build * _growth(n, size)
    return _Promise(build, query * far * math.log(n) / math.log(size))
