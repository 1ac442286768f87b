"""Learners from streams behind one call: `(rows, problem, seed) -> answer`.

Those that read once never look back: what they know of the scale of a stream of numbers they take
from its first hundred. Libraries are imported when they are called, in the run's own process.

Shapes: rows (n,) or (n, d + 1) with y last; answers (d,).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab.streams import solve

__all__ = [
    "all_at_once", "descend", "find_minimum", "find_root", "river_quantile", "sketch",
    "sketch_datasketches", "sklearn_sgd", "speed_datasketches", "speed_numpy", "speed_ours",
    "speed_river",
]  # fmt: skip

Problem = Mapping[str, Any]
_LOOK = 100
_FAR_START = 10.0


def _scale(rows: np.ndarray) -> tuple[float, float]:
    """Centre and width of the first rows of a stream of numbers."""
    low, middle, high = np.quantile(rows[:_LOOK], [0.25, 0.5, 0.75])
    return float(middle), float(high - low) or float(np.std(rows[:_LOOK])) or 1.0


def descend(
    rows: np.ndarray, problem: Problem, seed: int, *, target: str, a: float = 1.0, b: float = 0.0,
    c: float = 0.6, batch: Any = 1, averaging: bool = False, epochs: int = 1,
) -> np.ndarray:  # fmt: skip
    """Paragone's `sgd` with steps a / (k + b)^c; the root is sought within [-4, 4].

    Steps are in the unit of the problem: a stream's width, and an eighth for the steep cubic.
    """
    loss, start, bounds, shift, width = problem["problem"], None, None, 0.0, 1.0
    data: Any = (rows[:, :-1], rows[:, -1]) if rows.ndim > 1 else rows
    if loss == "root":
        loss, start, bounds, a = _cubic, [_FAR_START], (-4.0, 4.0), a / 8
    elif rows.ndim == 1:
        shift, width = _scale(rows)
        data = (rows - shift) / width
    steps = resolve("paragone.estimation.steps:Power")(a, b, c)
    left_out = _LOOK if len(rows) > 900 else 0
    found = resolve(target)(
        loss, data, start, steps=steps, batch=batch, averaging=averaging, epochs=epochs,
        order="sequential", tau=float(problem.get("q", 0.5)), projection=bounds,
        burn_in=left_out // batch if averaging else 0,
    )  # fmt: skip
    return shift + width * (found.average if averaging else found.params)


def _cubic(w: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return w * w * w - 5.0 + noise.mean()


def find_root(
    rows: np.ndarray, problem: Problem, seed: int, *, target: str, a: float = 1.0, c: float = 0.6,
    bounds: str = "",
) -> np.ndarray:  # fmt: skip
    """Paragone's `RobbinsMonro`, a Python call a row; "root" begins far from the root."""
    make = resolve(target)
    steps = resolve("paragone.estimation.steps:Power")(a, 0.0, c)
    q, name = float(problem.get("q", 0.5)), problem["problem"]
    shift, width = (0.0, 1.0) if name == "root" else _scale(rows)
    observe = {
        "mean": lambda w, x: w - (x - shift) / width,
        "quantile": lambda w, x: ((x - shift) / width <= w) - q,
        "root": lambda w, x: w * w * w - 5.0 + x,
    }[name]
    options: dict[str, Any] = {"expanding": {"expanding": 5.0}, "box": {"projection": (-4.0, 4.0)}}
    machine = make(
        observe, _FAR_START if name == "root" else 0.0, steps=steps,
        burn_in=_LOOK if len(rows) > 900 else 0, **options.get(bounds, {}),
    )  # fmt: skip
    try:
        machine.run(rows)
    except resolve("paragone.estimation.robbins_monro:DivergenceError"):
        return np.array([np.nan])
    return shift + width * np.atleast_1d(machine.value)


def find_minimum(
    rows: np.ndarray, problem: Problem, seed: int, *, target: str, a: float, b: float = 0.0,
    c: float, width: float,
) -> np.ndarray:  # fmt: skip
    """Paragone's Kiefer-Wolfowitz or SPSA on the loss of fresh rows."""
    power = resolve("paragone.estimation.steps:Power")
    q, quantile = float(problem.get("q", 0.5)), problem["problem"] == "quantile"
    shift, scale = _scale(rows)
    stream = iter((rows - shift) / scale)

    def loss(w: np.ndarray) -> float:
        gap = next(stream) - float(w)
        return (q - (gap < 0)) * gap if quantile else 0.5 * gap * gap

    machine = resolve(target)(
        0.0, steps=power(a, b, c), widths=power(1.0, 0.0, width), averaging=True
    )
    machine.run(loss, len(rows) // 2)
    return np.atleast_1d(shift + scale * float(machine.value))


def sketch(
    rows: np.ndarray, problem: Problem, seed: int, *, target: str, method: str
) -> np.ndarray:
    """Paragone's running quantiles and moments."""
    if problem["problem"] == "mean":
        return np.array([resolve(target)().update(rows).mean])
    q = float(problem["q"])
    made = resolve(target)(method, quantiles=[q], random_state=seed).update(rows)
    return np.array([made.quantile(q)])


def sketch_datasketches(rows: np.ndarray, problem: Problem, seed: int, *, k: int = 200) -> Any:
    """DataSketches' KLL."""
    made = resolve("datasketches:kll_doubles_sketch")(k)
    made.update(rows)
    return np.array([made.get_quantile(float(problem["q"]))])


def river_quantile(rows: np.ndarray, problem: Problem, seed: int) -> np.ndarray:
    """river: P-square for quantiles, Welford for means, one call a row."""
    stats = resolve("river.stats")
    made = stats.Mean() if problem["problem"] == "mean" else stats.Quantile(float(problem["q"]))
    for value in rows.tolist():
        made.update(value)
    return np.array([made.get()])


def sklearn_sgd(
    rows: np.ndarray, problem: Problem, seed: int, *, average: bool = False
) -> np.ndarray:
    """scikit-learn's SGD with its own default steps, one pass, no penalty."""
    models = resolve("sklearn.linear_model")
    shared = {"penalty": None, "fit_intercept": False, "random_state": seed, "average": average}
    if problem["problem"] == "linear":
        model = models.SGDRegressor(**shared)
        model.partial_fit(rows[:, :-1], rows[:, -1])
    else:
        model = models.SGDClassifier(loss="log_loss", **shared)
        model.partial_fit(rows[:, :-1], rows[:, -1], classes=[0.0, 1.0])
    return model.coef_.reshape(-1)


def all_at_once(rows: np.ndarray, problem: Problem, seed: int) -> np.ndarray:
    """NumPy with every row in memory: mean, sorted array, least squares, Newton's method."""
    return solve(rows, problem["problem"], float(problem.get("q", 0.5)))[0]


# The study of speed: mean and variance, or the median, of a long array. An answer is (2,) or (1,).


def speed_ours(rows: np.ndarray, problem: Problem, seed: int, *, target: str, sketch: str) -> Any:
    """Paragone's RunningMean (all four moments), histogram, KLL or P-square."""
    if problem["problem"] == "moments":
        stream = resolve(sketch)().update(rows)
        return np.array([stream.mean, stream.variance])
    made = resolve(target)(problem["method"], random_state=seed).update(rows)
    return np.array([made.quantile(0.5)])


def speed_river(rows: np.ndarray, problem: Problem, seed: int) -> Any:
    """river, a call a number: Var, and Quantile (P-square)."""
    stats = resolve("river.stats")
    made = stats.Var() if problem["problem"] == "moments" else stats.Quantile(0.5)
    for value in rows.tolist():
        made.update(value)
    return np.array([made.mean.get(), made.get()] if problem["problem"] == "moments"
                    else [made.get()])  # fmt: skip


def speed_datasketches(rows: np.ndarray, problem: Problem, seed: int) -> Any:
    """DataSketches' KLL, given the whole array in one call."""
    return sketch_datasketches(rows, {"q": 0.5}, seed)


def speed_numpy(rows: np.ndarray, problem: Problem, seed: int) -> Any:
    """NumPy, all at once: mean and var, or quantile."""
    if problem["problem"] == "moments":
        return np.array([rows.mean(), rows.var(ddof=1)])
    return np.array([np.quantile(rows, 0.5)])
