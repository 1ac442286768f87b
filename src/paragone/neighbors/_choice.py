r"""Tree, forest or brute force: whichever is quickest here, by measurement.

The seconds of brute force are predictable, $t = m\,n\,(a + b\,d)$; $a$ and $b$ are timed once a
process. Those of a tree are not: they follow the data's intrinsic dimension, not d. So a pilot
searches two small samples of the points with a few of the queries, and extrapolates with

$$ t(n) = t(s_2) \left(\frac{n}{s_2}\right)^{\alpha}, \qquad
   \alpha = \frac{\log t(s_2) / t(s_1)}{\log s_2 / s_1} \in [0, 1] ; $$

$\alpha$ is near 0 where the tree works and near 1 where it visits everything. The forest looks at a
fixed number of points, so one small sample tells its time.

Rules that keep the choice from ever costing more than brute force:

- below `WORTH_A_PILOT` seconds of work there is no pilot and no build, only brute force;
- a build must be repaid by the queries seen so far, this call's included;
- another method must promise a gain of a fifth;
- it is timed on its first queries, and if it breaks its promise, brute force does the rest.

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
from paragone.neighbors.brute import BruteForce

__all__ = ["METHODS", "WORTH_A_PILOT", "Chooser"]

METHODS = ("auto", "brute", "tree", "forest")

WORTH_A_PILOT = 0.05
"""Seconds of brute force on one thread, below which nothing else is tried."""

_GAIN = 0.8
_PILOT_QUERIES = 16
_SMALL, _LARGE = 1024, 4096
_TRIAL = 64


@dataclass(frozen=True)
class _Promise:
    """Seconds on one thread: once for building, then for each query."""

    build: float
    query: float


def _seconds(work: Any, repeats: int = 1) -> float:
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


@cache
def brute_rates(p_kind: str) -> tuple[float, float]:
    """Returns (a, b): seconds for a pair of points, and more for each dimension; one thread."""
    p = {"two": 2.0, "plain": 1.0, "power": 3.0}[p_kind]
    rng = np.random.default_rng(0)
    few, many = 4, 64
    taken = []
    for d in (few, many):
        points, x = rng.random((2048, d), np.float32), rng.random((64, d), np.float32)
        engine = BruteForce(points)
        engine.query(x[:2], 8, p, 1)
        taken.append(_seconds(lambda e=engine, x=x: e.query(x, 8, p, 1), 3) / (2048 * 64))
    slope = max((taken[1] - taken[0]) / (many - few), 1e-13)
    return max(taken[0] - few * slope, 1e-11), slope


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
        self._asked = 0
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

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
        name, promise = self._choose(x, k, p, checks)
        self._asked += len(x)
        self.method = name
        if name == "brute" or len(x) < 2 * _TRIAL:
            return self._ask(name, x, k, p, checks, workers)
        return self._on_trial(name, promise, x, k, p, checks, workers)

    def _ask(
        self, name: str, x: np.ndarray, k: int, p: float, checks: int | None, workers: int
    ) -> tuple[np.ndarray, np.ndarray]:
        return _ask(self.engine(name), name, x, k, p, checks, workers)

    def _on_trial(
        self, name: str, brute: float, x: np.ndarray, k: int, p: float, checks: int | None,
        workers: int,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Answers some queries on one thread, and the rest by brute force if that is quicker."""
        engine = self.engine(name)
        rows = np.linspace(0, len(x) - 1, _TRIAL).astype(np.int64)
        _ask(engine, name, x[rows[:1]], k, p, checks, 1)
        taken = _seconds(lambda: _ask(engine, name, x[rows], k, p, checks, 1)) / _TRIAL
        self._promises[self._key(name, k, p, checks)] = _Promise(0.0, taken)
        if taken > brute:
            self.method = "brute"
            self._why += f"; but {name} took {taken:.2g} s a query, brute force {brute:.2g} s"
        return self._ask(self.method or name, x, k, p, checks, workers)

    def _key(self, name: str, k: int, p: float, checks: int | None) -> Any:
        return name, k, p, checks if name == "forest" else None

    def _choose(self, x: np.ndarray, k: int, p: float, checks: int | None) -> tuple[str, float]:
        """Returns the method and the seconds of brute force for one query."""
        n, d = self.points.shape
        m = len(x) + self._asked
        a, b = brute_rates(_kind(p))
        brute = n * (a + b * d)
        size = f"{m} queries x {n} points x {d} dimensions"
        if m * brute < WORTH_A_PILOT or k >= n // 2:
            self._why = f"{size}, {m * brute:.2g} s of brute force: too little to build anything"
            if k >= n // 2:
                self._why = f"{size}, k = {k}: half of the points or more are wanted"
            return "brute", brute
        total = {"brute": m * brute}
        for name in ("tree",) if checks is None else ("tree", "forest"):
            promise = self._promise(name, x, k, p, checks, a + b * d)
            build = 0.0 if name in self._engines else promise.build
            total[name] = build + m * promise.query
        best = min(total, key=lambda name: total[name] * (1.0 if name == "brute" else 1.0 / _GAIN))
        parts = ", ".join(f"{name} {seconds:.2g} s" for name, seconds in total.items())
        self._why = f"{size}; predicted with builds, on one thread: {parts}"
        return best, brute

    def _promise(
        self, name: str, x: np.ndarray, k: int, p: float, checks: int | None, pair: float
    ) -> _Promise:
        key = self._key(name, k, p, checks)
        if key not in self._promises:
            rows = np.linspace(0, len(x) - 1, min(len(x), _PILOT_QUERIES)).astype(np.int64)
            pilot = _pilot_tree if name == "tree" else _pilot_forest
            self._promises[key] = pilot(
                self.points, x[rows], k, p, checks, pair, *self._forest_options
            )
        return self._promises[key]


def _kind(p: float) -> str:
    return "two" if p == 2.0 else "plain" if p in (1.0, np.inf) else "power"


def _build(
    name: str, points: np.ndarray, trees: int, leafsize: int, random_state: RandomState,
    workers: int,
) -> Any:  # fmt: skip
    if name == "brute":
        return BruteForce(points)
    if name == "forest":
        return Forest(points, trees, leafsize, random_state, workers)
    from paragone.neighbors.kd_tree import KDTree

    return KDTree(points)


def _ask(
    engine: Any, name: str, x: np.ndarray, k: int, p: float, checks: int | None, workers: int
) -> tuple[np.ndarray, np.ndarray]:
    if name == "brute":
        return engine.query(x, k, p, workers)
    if name == "forest":
        return engine.query(x, k, 200 if checks is None else checks, p, workers)
    distance, index = engine.query(x, k=k, p=p, workers=workers)
    return distance.reshape(len(x), k), index.reshape(len(x), k)


def _sample(points: np.ndarray, size: int) -> np.ndarray:
    rows = np.random.default_rng(0).permutation(len(points))[:size]
    return np.ascontiguousarray(points[np.sort(rows)])


def _growth(n: int, size: int) -> float:
    return n * math.log(n + 2) / (size * math.log(size + 2))


def _pilot_tree(
    points: np.ndarray, x: np.ndarray, k: int, p: float, checks: int | None, pair: float,
    *options: Any,
) -> _Promise:  # fmt: skip
    """Times an exact tree on two samples; gives up where it is hopeless on the smaller one."""
    n = len(points)
    taken, build, sizes = [], 0.0, (min(_SMALL, n // 4), min(_LARGE, n))
    _ask(_build("tree", points[: k + 2], *options), "tree", x[:1], k, p, None, 1)
    for size in sizes:
        some = _sample(points, size)
        engine: list[Any] = []
        build = _seconds(lambda some=some, engine=engine: engine.append(_build("tree", some, *options)))
        _ask(engine[0], "tree", x[:1], k, p, None, 1)
        taken.append(_seconds(lambda e=engine: _ask(e[0], "tree", x, k, p, None, 1)) / len(x))
        if taken[-1] > 4.0 * size * pair + 1e-4:
            return _Promise(math.inf, math.inf)
    alpha = math.log(taken[1] / taken[0]) / math.log(sizes[1] / sizes[0])
    alpha = min(max(alpha, 0.0), 1.0)
    return _Promise(build * _growth(n, sizes[1]), taken[1] * (n / sizes[1]) ** alpha)


def _pilot_forest(
    points: np.ndarray, x: np.ndarray, k: int, p: float, checks: int | None, pair: float,
    trees: int, leafsize: int, random_state: RandomState, workers: int,
) -> _Promise:  # fmt: skip
    """Times one tree of a forest on a sample, as every tree of it costs the same."""
    n = len(points)
    size = min(2 * _SMALL, n)
    some = _sample(points, size)
    Forest(some[: k + 2], 1, leafsize, 0, 1).query(x[:1], k, k, p, 1)
    engine: list[Any] = []
    build = _seconds(lambda: engine.append(Forest(some, 1, leafsize, 0, 1)))
    assert checks is not None
    engine[0].query(x[:1], k, checks, p, 1)
    query = _seconds(lambda: engine[0].query(x, k, checks, p, 1)) / len(x)
    # Sixteen thousand points or so leave the second-level cache: each look then waits for memory.
    far = 1.5 if points.nbytes > 2**21 else 1.0
    return _Promise(trees * build * _growth(n, size), query * far * math.log(n) / math.log(size))
