r"""Streams that arrive once, and the answer that all rows at once would have given.

A problem asks for a vector $w^*$: a mean, a quantile, the coefficients of a linear or a logistic
model, or the root of $w^3 - 5$ under noise. The best that n rows allow is an efficient estimator,
$\hat w$ with standard errors $s_j$; it needs all rows in memory. What a method that reads once
loses against it is counted in those standard errors,

$$ \text{lost} = \Bigl( \frac{1}{d} \sum_j \frac{(w_j - \hat w_j)^2}{s_j^2} \Bigr)^{1/2} , $$

since the error of $\hat w$ itself is independent of the difference (Hausman 1978): losing 1 is as
bad as having thrown away half of the rows, $n / (1 + \text{lost}^2)$ of which remain.

Shapes: R streams, n rows, c columns (the last one y), d unknowns.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.errors import UsageError
from paragone.lab._read import read_columns
from paragone.lab.probe import digest_arrays

__all__ = ["load", "lost", "numbers", "prepare", "solve"]

LEAST_ROWS = 1000
_NEWTON = 50


def load(
    problem: str, rows: int = 0, columns: int = 1, streams: int = 1, seed: int = 0, path: str = "",
    q: float = 0.5,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Returns streams (R, n) or (R, n, c), answers (R, d), and their standard errors (R, d).

    Args:
        problem: "mean", "quantile", "linear", "logistic" or "root".
        rows: n, of synthetic streams.
        columns: d, of models.
        streams: R.
        seed: Of synthetic streams.
        path: A user's column, from `prepare`, as the one stream.
        q: Probability of the quantile.
    """
    rng = np.random.default_rng([seed, rows, columns, len(problem)])
    if path:
        data = np.load(path)[None]
    elif problem == "mean":
        data = rng.gamma(2.0, size=(streams, rows))
    elif problem == "quantile":
        data = rng.exponential(size=(streams, rows))
    elif problem == "root":
        data = rng.standard_normal((streams, rows))
    else:
        x = rng.standard_normal((streams, rows, columns))
        x[..., 0] = 1.0
        fitted = x @ np.linspace(-0.5, 1.0, columns)
        if problem == "linear":
            y = fitted + rng.standard_normal(fitted.shape)
        else:
            y = (rng.random(fitted.shape) < 1 / (1 + np.exp(-fitted))).astype(float)
        data = np.concatenate([x, y[..., None]], axis=2)
    found = [solve(one, problem, q) for one in data]
    return data, np.array([w for w, _ in found]), np.array([s for _, s in found])


def numbers(rows: int, problem: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One stream (1, n) of normal numbers, its moments or median, and their standard errors.

    Args:
        rows: n.
        problem: "moments" or "median".
        seed: Of the numbers.
    """
    data = np.random.default_rng([seed, rows]).standard_normal((1, rows)) + 5.0
    values = data[0]
    if problem == "moments":
        truth = np.array([values.mean(), values.var(ddof=1)])
        return data, truth[None], np.array([[1.0, 2**0.5]]) / rows**0.5
    truth, error = _quantile(values, 0.5)
    return data, truth[None], error[None]


def solve(rows: np.ndarray, problem: str, q: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """The efficient answer (d,) from all rows at once, and its standard errors (d,)."""
    n = len(rows)
    if problem == "mean":
        return np.array([rows.mean()]), np.array([rows.std() / n**0.5])
    if problem == "root":
        root = np.cbrt(5.0)
        slope = 3 * root**2
        return np.array([root - rows.mean() / slope]), np.array([rows.std() / n**0.5 / slope])
    if problem == "quantile":
        return _quantile(rows, q)
    x, y = rows[:, :-1], rows[:, -1]
    if problem == "linear":
        w = np.linalg.lstsq(x, y, rcond=None)[0]
        spread = np.sum((y - x @ w) ** 2) / max(n - x.shape[1], 1)
        return w, np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * spread)
    w = np.zeros(x.shape[1])
    for _ in range(_NEWTON):
        chance = 1 / (1 + np.exp(-x @ w))
        curve = (x * (chance * (1 - chance))[:, None]).T @ x
        move = np.linalg.solve(curve, x.T @ (y - chance))
        w += move
        if np.abs(move).max() < 1e-12:
            break
    return w, np.sqrt(np.diag(np.linalg.inv(curve)))


def _quantile(rows: np.ndarray, q: float) -> tuple[np.ndarray, np.ndarray]:
    """The error is read off the order statistics one standard error of the rank away."""
    n = len(rows)
    reach = (q * (1 - q) / n) ** 0.5
    ends = np.quantile(rows, np.clip([q - reach, q, q + reach], 0, 1), method="inverted_cdf")
    wide = (ends[2] - ends[0]) / 2
    # Among ties the rank is arbitrary; the spacing of floats is the least error that counts.
    return ends[1:2], np.array([max(wide, 1e-9 * max(abs(ends[1]), 1e-300))])


def lost(answer: Any, truth: np.ndarray, error: np.ndarray) -> float:
    """Distance of an answer (d,) to the efficient one, in standard errors; inf if not finite."""
    found = np.asarray(answer, np.float64).reshape(-1)
    if found.shape != truth.shape:
        raise ValueError(f"an answer of {found.size} numbers where {truth.size} are wanted")
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.sqrt(np.mean(((found - truth) / error) ** 2)))


def prepare(
    data: str | os.PathLike[str], target: str | None, folder: str | Path, *, limit: int = 0
) -> Mapping[str, Any]:
    """Stores a user's column as a stream; returns its facts and digest.

    Raises:
        UsageError: The file or the column cannot be used; one line says why.
    """
    place = Path(data).expanduser()
    frame = read_columns(place)
    numeric = [n for n, t in frame.schema.items() if t.is_numeric() or t.is_decimal()]
    if target is None and len(numeric) != 1:
        raise UsageError(f"{place}: say which column to stream, --target: {', '.join(numeric)}")
    name = target or numeric[0]
    if name not in frame.columns:
        raise UsageError(f"{place}: no column {name!r}; there are {', '.join(frame.columns)}")
    if name not in numeric:
        raise UsageError(f"{place}: column {name!r} holds {frame.schema[name]}; numbers are needed")
    values = frame[name].drop_nulls().to_numpy().astype(np.float64)
    missing = frame.height - len(values) + int(np.isnan(values).sum())
    values = values[~np.isnan(values)]
    if len(values) < LEAST_ROWS or np.isinf(values).any():
        raise UsageError(
            f"{place}: column {name!r} has {len(values)} numbers, {int(np.isinf(values).sum())} "
            f"of them infinite; a stream needs {LEAST_ROWS} finite ones"
        )
    if values.std() == 0:
        raise UsageError(f"{place}: column {name!r} is constant; there is nothing to estimate")
    notes = [f"{missing:,} missing values were left out"] if missing else []
    if limit and len(values) > limit:
        notes.append(f"the first {limit:,} of {len(values):,} rows")
        values = values[:limit]
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / "stream.npy"
    np.save(path, values)
    return {
        "path": str(path), "rows": len(values), "name": name, "notes": notes,
        "digest": digest_arrays(values),
    }  # fmt: skip
