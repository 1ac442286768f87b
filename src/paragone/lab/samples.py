"""Samples for the study of estimators: drawn from a known law, or a column of a table.

A simulated input is a number of independent samples of n values from one law, whose parameters
are known, and fresh values to predict. A real one is a column: every split keeps a part of it to
be predicted. `Sample` is what a contestant gets.

Shapes: r samples, n values each, m values to predict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "LAWS",
    "Sample",
    "column",
    "load_column",
    "log_density",
    "prepare_column",
    "simulate",
    "true_law",
]

LAWS = {
    "normal": ("norm", {"loc": "loc", "scale": "scale"}),
    "weibull": ("weibull_min", {"shape": "c", "scale": "scale"}),
    "gamma": ("gamma", {"shape": "a", "scale": "scale"}),
    "student_t": ("t", {"df": "df", "loc": "loc", "scale": "scale"}),
    "skew_normal": ("skewnorm", {"shape": "a", "loc": "loc", "scale": "scale"}),
    "log_logistic": ("fisk", {"c": "c", "scale": "scale"}),
    "inverse_gamma": ("invgamma", {"a": "a", "scale": "scale"}),
    "nakagami": ("nakagami", {"nu": "nu", "scale": "scale"}),
    "exponential": ("expon", {"scale": "scale"}),
    "lognormal": ("lognorm", {"sigma": "s", "mu": "mu"}),
    "poisson": ("poisson", {"mu": "mu"}),
    "negative_binomial": ("nbinom", {"n": "n", "p": "p"}),
}
"""Family to its name in SciPy and the names of its parameters there."""


@dataclass(frozen=True)
class Sample:
    """What a contestant estimates from.

    Attributes:
        values: (n,) values; of a censored one the value that it exceeds.
        censored: (n,) whether the true value is greater, or None.
        family: Name of the family, as in `paragone.estimation.families`.
        names: Parameters that are estimated, in the family's order.
        prior: Parameter to (name of a density, numbers), as `fit` takes it.
        pair: Conjugate prior as (name, hyper-parameters), or None.
        seed: Seed for what is drawn.
    """

    values: np.ndarray
    censored: np.ndarray | None
    family: str
    names: tuple[str, ...]
    prior: Mapping[str, Any] = field(default_factory=dict)
    pair: tuple[str, Mapping[str, float]] | None = None
    seed: int = 0


def true_law(family: str, theta: Mapping[str, float]) -> Any:
    """The law in SciPy, which judges all alike."""
    from scipy import stats

    name, names = LAWS[family]
    given = {names[key]: value for key, value in theta.items()}
    if family == "lognormal":
        given["scale"] = float(np.exp(given.pop("mu")))
    return getattr(stats, name)(**given)


def log_density(law: Any, x: np.ndarray) -> np.ndarray:
    """Log density of a law of SciPy, or log probability if it is discrete."""
    return law.logpdf(x) if hasattr(law.dist, "pdf") else law.logpmf(x)


def simulate(
    family: str, theta: Mapping[str, float], n: int, seed: int, samples: int = 10,
    held: int = 1000, limit: float = 0.0, cache: str = "",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Returns (values (r, n), censored (r, n), fresh values (m,)); `limit` censors what is above.

    The block's seed is no part of the input: all blocks of a workload share the fresh values, and
    draw their samples from rows of this table.
    """
    generator = np.random.default_rng(seed)
    law = true_law(family, theta)
    values = law.rvs(size=(samples, n), random_state=generator).astype(np.float64)
    fresh = law.rvs(size=held, random_state=generator).astype(np.float64)
    censored = np.zeros(values.shape, bool)
    if limit:
        censored, values = values > limit, np.minimum(values, limit)
    return values, censored, fresh


def column(name: str, rows: int = 0, cache: str = "") -> tuple[np.ndarray]:
    """A real column that ships with scikit-learn: "glucose", "petal", "radius" or "alcohol"."""
    from sklearn import datasets

    places: dict[str, tuple[Any, int]] = {
        "glucose": (datasets.load_diabetes, 9), "petal": (datasets.load_iris, 2),
        "radius": (datasets.load_breast_cancer, 0), "alcohol": (datasets.load_wine, 0),
    }  # fmt: skip
    make, at = places[name]
    data = make(scaled=False) if name == "glucose" else make()
    values = np.asarray(data.data[:, at], np.float64)
    return (values[:rows] if rows else values,)


def prepare_column(path: str, target: str | None, folder: Path) -> dict[str, Any]:
    """Reads a numeric column of a table into `folder`; returns its facts.

    Raises:
        UsageError: No such file or column, text in it, or fewer than 20 values.
    """
    import polars

    from paragone._core.errors import UsageError
    from paragone.lab.probe import digest_arrays

    try:
        frame = (polars.read_parquet if path.endswith(".parquet") else polars.read_csv)(path)
    except (OSError, polars.exceptions.PolarsError) as error:
        raise UsageError(f"{path}: {str(error).splitlines()[0]}") from error
    numeric = [name for name in frame.columns if frame[name].dtype.is_numeric()]
    if target is None and len(numeric) != 1:
        raise UsageError(f"{path}: name the column with --target, one of {', '.join(numeric)}")
    name = target or numeric[0]
    if name not in frame.columns:
        raise UsageError(f"{path}: no column {name!r}; there are {', '.join(frame.columns)}")
    if name not in numeric:
        raise UsageError(f"{path}: column {name!r} holds text; a column of numbers is expected")
    values = frame[name].drop_nulls().to_numpy().astype(np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 20 or values.min() == values.max():
        raise UsageError(
            f"{path}: column {name!r} has {len(values)} numbers, {len(np.unique(values))} "
            "different; 20 and above are needed, not all equal"
        )
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "column.npy", values)
    return {"rows": len(values), "name": name, "positive": bool(values.min() > 0),
            "middle": float(np.median(values)), "spread": float(values.std()),
            "digest": digest_arrays(values)}  # fmt: skip


def load_column(path: str, cache: str = "") -> tuple[np.ndarray]:
    """The column that `prepare_column` stored."""
    return (np.load(Path(path) / "column.npy"),)
