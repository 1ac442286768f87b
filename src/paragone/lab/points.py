r"""Points to search among: synthetic clouds, photographs, digits, or a user's table of numbers.

Every set comes as float64 points (n, d) and queries (m, d) of the same distribution that are not
among the points. Uniform points fill the unit cube; clustered ones are an equal mixture of
normal clouds, as most real tables are nearer to. The photographs ship with scikit-learn:

- *colours*: the pixels of one as points of (red, green, blue), those of the other as queries;
  whole numbers, many of them equal, so that ties are the rule;
- *patches*: its 8 x 8 grey patches, 64 numbers each, of low intrinsic dimension.

`truth` gives what every answer is judged against: for the first queries the distances of the k
nearest points by brute force, from differences in float64, and the contrast of the set

$$ c = \operatorname{median}_i \; \frac{\max_j \lVert x_i - p_j \rVert}
                                       {\min_j \lVert x_i - p_j \rVert} , $$

which tends to 1 for independent columns as their number grows.

References:
    Beyer, Goldstein, Ramakrishnan & Shaft (1999), "When is nearest neighbor meaningful?", ICDT.

Shapes: n points, d columns, m queries, k neighbours.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.errors import UsageError
from paragone.lab._read import read_columns
from paragone.lab.probe import digest_arrays

__all__ = ["JUDGED", "load", "prepare", "read", "truth"]

JUDGED = 256
"""So many queries are judged against brute force."""

CLUSTERS = 50
SPREAD = 0.03
PATCH = 8
LEAST_ROWS = 20
_HELD_OUT = 10
_MOST_QUERIES = 10_000


def load(
    kind: str, rows: int = 0, columns: int = 0, queries: int = 0, seed: int = 0, cache: str = "",
    path: str = "",
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Returns points (n, d) and queries (m, d).

    Args:
        kind: "uniform", "clustered", "colours", "patches", "digits" or "table".
        rows: n, of synthetic sets; the most of real ones (0: all).
        columns: d of synthetic sets.
        queries: m, or the most there are.
        seed: Of synthetic sets and of samples.
        cache: Folder in which sets of photographs are kept, so that they are decoded once.
        path: Folder of a user's table, from `prepare`.
    """
    generator = np.random.default_rng([seed, rows, columns])
    if kind == "uniform":
        return generator.random((rows, columns)), generator.random((queries, columns))
    if kind == "clustered":
        centres = generator.random((CLUSTERS, columns))
        found = [
            centres[generator.integers(CLUSTERS, size=count)]
            + SPREAD * generator.standard_normal((count, columns))
            for count in (rows, queries)
        ]
        return found[0], found[1]
    if kind == "table":
        points, asked = _parted(np.load(Path(path) / "points.npy"), seed)
        return _some(points, rows, generator), _some(asked, queries, generator)
    stored = Path(cache) / f"{kind}-{rows}-{queries}-{seed}.npz" if cache else None
    if stored is not None and stored.exists():
        with np.load(stored) as found:
            return found["points"], found["queries"]
    real = {"colours": _colours, "patches": _patches, "digits": _digits}
    points, asked = real[kind]()
    points, asked = _some(points, rows, generator), _some(asked, queries, generator)
    if stored is not None:
        _keep(stored, points=points, queries=asked)
    return points, asked


def _keep(place: Path, **arrays: Any) -> None:
    """Writes an archive whole or not at all: several runs may do so at a time."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f"{place.stem}-{os.getpid()}.partial.npz")
    np.savez(partial, **arrays)
    os.replace(partial, place)


def _some(values: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    if not count or count >= len(values):
        return values
    return np.ascontiguousarray(values[generator.permutation(len(values))[:count]])


def _photographs() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg"), load_sample_image("flower.jpg")


def _colours() -> tuple[np.ndarray, np.ndarray]:
    points, asked = (image.reshape(-1, 3).astype(np.float64) for image in _photographs())
    return points, asked


def _patches() -> tuple[np.ndarray, np.ndarray]:
    found = []
    for image in _photographs():
        grey = image.mean(axis=2)
        windows = np.lib.stride_tricks.sliding_window_view(grey, (PATCH, PATCH))
        found.append(np.ascontiguousarray(windows[::2, ::2].reshape(-1, PATCH * PATCH)))
    return found[0], found[1]


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    return _parted(np.asarray(load_digits(return_X_y=True)[0], np.float64), 0)


def _parted(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A tenth of the rows becomes the queries, so that no query finds itself."""
    count = max(min(len(values) // _HELD_OUT, _MOST_QUERIES), 1)
    order = np.random.default_rng(seed).permutation(len(values))
    return values[np.sort(order[count:])], values[np.sort(order[:count])]


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a table of numbers (n, d) as float64.

    Raises:
        UsageError: The file, a column or a row cannot be used; one line says which and why.
    """
    place = Path(path).expanduser()
    frame = read_columns(place)
    if frame.width == 0 or frame.height < LEAST_ROWS:
        raise UsageError(
            f"{place}: {frame.height} rows; at least {LEAST_ROWS} points are needed to compare"
        )
    for name, dtype in frame.schema.items():
        if not (dtype.is_numeric() or dtype.is_decimal()):
            raise UsageError(
                f"{place}: column {name!r} holds {_words(dtype)}; points need numbers in every "
                "column: leave it out"
            )
    values = np.stack([_numbers(frame[name]) for name in frame.columns], axis=1)
    good = np.isfinite(values)
    if not good.all():
        row, column = (int(i) for i in np.argwhere(~good)[0])
        what = "is missing" if np.isnan(values[row, column]) else "is infinite"
        raise UsageError(
            f"{place}: column {frame.columns[column]!r} {what} in data row {row + 1}; "
            "distances need every number"
        )
    return values


def _words(dtype: Any) -> str:
    return "text" if str(dtype) in ("String", "Categorical") else f"{dtype} values"


def _numbers(column: Any) -> np.ndarray:
    import polars as pl

    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def prepare(
    path: str | os.PathLike[str], folder: str | Path, *, limit: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Stores a user's table for the runs; returns its facts and digest.

    Args:
        path: CSV, TSV, Parquet or NPZ.
        folder: Where `points.npy` is written.
        limit: With more rows than this, a random sample of this many (0: all).
        seed: Of that sample.
    """
    values = read(path)
    notes = []
    if limit and len(values) > limit:
        notes.append(f"a sample of {limit:,} of {len(values):,} rows")
        rows = np.random.default_rng(seed).permutation(len(values))[:limit]
        values = np.ascontiguousarray(values[np.sort(rows)])
    Path(folder).mkdir(parents=True, exist_ok=True)
    np.save(Path(folder) / "points.npy", values)
    points, asked = _parted(values, seed)
    return {
        "rows": len(points), "columns": values.shape[1], "queries": len(asked), "notes": notes,
        "digest": digest_arrays(points, asked),
    }  # fmt: skip


def truth(
    points: np.ndarray, queries: np.ndarray, k: int, cache: str = ""
) -> tuple[np.ndarray, float]:
    """Returns the distances (min(m, 256), k) of the nearest points, ascending, and the contrast.

    Args:
        points: (n, d).
        queries: (m, d).
        k: Neighbours, at most n.
        cache: Folder in which the answer is kept for the next run ("": none).
    """
    asked = queries[:JUDGED]
    place = Path(cache) / f"truth-{digest_arrays(points, asked, [k])}.npz" if cache else None
    if place is not None and place.exists():
        with np.load(place) as stored:
            return stored["distances"], float(stored["contrast"])
    distances, contrast = _brute_force(points, asked, k)
    if place is not None:
        _keep(place, distances=distances, contrast=contrast)
    return distances, contrast


def _brute_force(points: np.ndarray, asked: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    from scipy.spatial.distance import cdist

    step = max(1, (1 << 24) // len(points))
    nearest, ratios = [], []
    for start in range(0, len(asked), step):
        gaps = cdist(asked[start : start + step], points)
        ends = gaps.max(axis=1)
        gaps.partition(k - 1, axis=1)
        gaps = np.sort(gaps[:, :k], axis=1)
        nearest.append(gaps)
        ratios.append(ends[gaps[:, 0] > 0] / gaps[gaps[:, 0] > 0, 0])
    found = np.concatenate(ratios)
    return np.concatenate(nearest), float(np.median(found)) if len(found) else 0.0
