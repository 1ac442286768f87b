"""A user's table, read once into the arrays that every contestant gets.

`read(...)` takes what the tabular world uses (CSV, TSV, Parquet, NPZ, LibSVM, a data frame, two
arrays) and returns a `Table`: one float32 matrix in which categories are codes and missing
values are NaN, the categorical mask, and the target. `save` writes it as a folder of NPY files
and one JSON schema; every run loads that folder, so that all contestants see the same bytes.

What was decided on the way (task kind, dates, identifiers, rare categories, dropped rows) is
in `Table.notes`, and the report prints it. What cannot be read is a `UsageError`: one line that
names the file, the row or column, and what was expected.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from paragone._core.errors import UsageError
from paragone.lab._read import find_target, read_file, read_object
from paragone.lab.probe import digest_arrays

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Table", "digest", "facts", "from_frame", "load", "prepare", "read", "save"]

Task = Literal["auto", "classification", "regression"]

MAX_CATEGORIES = 250
"""Rarer values of a text column share the category "(other)": 8-bit bins must hold them all."""

MAX_CLASSES = 100
FEW_INTEGERS = 20
NUMERIC_SHARE = 0.95
LEAST_ROWS = 10


@dataclass(kw_only=True)
class Table:
    """One data set as every contestant gets it.

    Attributes:
        values: float32 (n, p); category codes 0..c-1, NaN where missing.
        categorical: bool (p,).
        categories: For each column None, or the texts of its codes.
        names: Column names.
        kinds: How each column was read: "number", "boolean", "category", "date" or "time".
        origins: First day of date columns (ISO), else None.
        target: float64 (n,), or int32 class codes.
        classes: Texts or numbers of the class codes, None for regression.
        target_name: Column that is predicted.
        notes: What a reader must know about how the table was read.
    """

    values: np.ndarray
    categorical: np.ndarray
    categories: list[list[str] | None]
    names: list[str]
    kinds: list[str]
    origins: list[str | None]
    target: np.ndarray
    classes: list[Any] | None
    target_name: str
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """Suffix of the estimators that fit: "Classifier" or "Regressor"."""
        return "Regressor" if self.classes is None else "Classifier"


def read(
    data: Any, target: str | None = None, *, task: Task = "auto", limit: int = 0, seed: int = 0
) -> Table:
    """Reads a file, a data frame, or a pair of arrays.

    Args:
        data: Path of a .csv, .tsv, .parquet, .npz or LibSVM file; a data frame that narwhals
            knows; or `(X, y)`.
        target: Column to predict (not needed for LibSVM, NPZ with `y`, and pairs).
        task: What to predict; "auto" decides by the target and says so.
        limit: With more rows than this, a random sample of this many (0: all).
        seed: Of that sample.

    Raises:
        UsageError: The data cannot be used; one line says where and why.
    """
    if isinstance(data, str | os.PathLike):
        frame, target = read_file(Path(data), target)
        source = Path(data).name
    else:
        frame, target = read_object(data, target)
        source = "data"
    if limit and frame.height > limit:
        rows = np.sort(np.random.default_rng(seed).permutation(frame.height)[:limit])
        table = from_frame(frame[rows], target, source=source, task=task)
        table.notes.insert(0, f"a sample of {limit:,} of {frame.height:,} rows")
        return table
    return from_frame(frame, target, source=source, task=task)


def from_frame(frame: pl.DataFrame, target: str | None, *, source: str, task: Task) -> Table:
    """Turns a polars frame into a `Table`."""
    target = find_target(frame.columns, target, source)
    if frame.height == 0:
        raise UsageError(f"{source}: no rows; a header alone is not enough")
    notes: list[str] = []
    known = frame[target].is_not_null()
    if frame.schema[target].is_float():
        known &= frame[target].is_not_nan()
    if not known.any():
        raise UsageError(f"{source}: target {target!r} is missing in every row")
    if not known.all():
        notes.append(f"{frame.height - known.sum():,} rows without a target were left out")
        frame = frame.filter(known)
    if frame.height < LEAST_ROWS:
        rows = "1 usable row" if frame.height == 1 else f"{frame.height} usable rows"
        raise UsageError(f"{source}: {rows}; at least {LEAST_ROWS} are needed to compare")
    codes, classes = _encode_target(frame[target], source, task, notes)
    names = [name for name in frame.columns if name != target]
    if not names:
        raise UsageError(f"{source}: no column besides the target {target!r}")
    columns = [_encode_column(frame[name], source, notes) for name in names]
    values = np.empty((frame.height, len(names)), np.float32)
    for j, column in enumerate(columns):
        values[:, j] = column[0]
        columns[j] = (values[:0, j], *column[1:])
    return Table(
        values=values,
        categorical=np.array([texts is not None for _, texts, _, _ in columns]),
        categories=[texts for _, texts, _, _ in columns],
        names=names,
        kinds=[kind for _, _, kind, _ in columns],
        origins=[origin for _, _, _, origin in columns],
        target=codes,
        classes=classes,
        target_name=target,
        notes=_merge(notes),
    )


def _merge(notes: list[str]) -> list[str]:
    """Says once, for all columns, what many columns share."""
    merged = [note for note in notes if not note.endswith((" is constant", " is empty"))]
    for ending in ("constant", "empty"):
        names = [note.split(" ", 1)[1].removesuffix(f" is {ending}") for note in notes
                 if note.endswith(f" is {ending}")]  # fmt: skip
        if len(names) > 1:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            merged.append(f"columns {', '.join(names[:5])}{more} are {ending}")
        elif names:
            merged.append(f"column {names[0]} is {ending}")
    return merged


def _encode_target(
    column: pl.Series, source: str, task: Task, notes: list[str]
) -> tuple[np.ndarray, list[Any] | None]:
    import polars as pl

    name, dtype = column.name, column.dtype
    if dtype.is_temporal():
        raise UsageError(f"{source}: target {name!r} holds dates; a number or classes are needed")
    distinct = column.n_unique()
    if distinct == 1:
        raise UsageError(
            f"{source}: target {name!r} has only one value ({column[0]!r}); "
            "two classes or varying numbers are needed"
        )
    numeric = dtype.is_numeric()
    whole = numeric and (dtype.is_integer() or bool((column.cast(pl.Float64) % 1 == 0).all()))
    if task == "regression" and not (numeric or dtype == pl.Boolean):
        raise UsageError(f"{source}: target {name!r} is text; regression needs numbers")
    few = whole and distinct <= FEW_INTEGERS and column.len() >= 5 * distinct
    if task == "auto":
        task = "classification" if not numeric or few else "regression"
        if few:
            notes.append(
                f"target {name!r} has {distinct} distinct integers: taken as classes "
                "(--task regression takes them as numbers)"
            )
    if task == "regression":
        codes = column.cast(pl.Float64).to_numpy()
        if not np.isfinite(codes).all():
            row = int(np.flatnonzero(~np.isfinite(codes))[0])
            raise UsageError(f"{source}: target {name!r} is infinite in data row {row + 1}")
        return codes, None
    if distinct > MAX_CLASSES:
        raise UsageError(
            f"{source}: target {name!r} has {distinct:,} distinct values in {column.len():,} rows; "
            f"at most {MAX_CLASSES} classes are compared (--task regression for numbers)"
        )
    if whole:
        column = column.cast(pl.Int64)
    elif not numeric and dtype != pl.Boolean:
        column = column.cast(pl.String)
    found, codes = np.unique(column.to_numpy(), return_inverse=True)
    counts = np.bincount(codes)
    if (counts < 2).any():
        rare = found[counts < 2][0]
        notes.append(f"class {str(rare)!r} has a single row: no contestant can learn it")
    return codes.astype(np.int32), [value.item() if hasattr(value, "item") else value
                                    for value in found]  # fmt: skip


_Encoded = tuple[np.ndarray, list[str] | None, str, str | None]


def _encode_column(column: pl.Series, source: str, notes: list[str]) -> _Encoded:
    import polars as pl

    name, dtype = column.name, column.dtype
    if dtype == pl.Boolean or dtype == pl.Null:
        if column.null_count() == len(column):
            notes.append(f"column {name!r} is empty")
        return _to_float32(column.cast(pl.Float64), source), None, "boolean", None
    if dtype in (pl.Date, pl.Datetime):
        moments = column.cast(pl.Datetime("us"))
        first = moments.min()
        days = (moments - first).dt.total_microseconds() / 86_400e6
        notes.append(f"column {name!r} holds dates: days since {first:%Y-%m-%d}")
        return _to_float32(days, source), None, "date", first.isoformat()  # type: ignore[union-attr]
    if dtype == pl.Time or dtype == pl.Duration:
        seconds = column.cast(pl.Int64) / (1e9 if dtype == pl.Time else 1e6)
        return _to_float32(seconds.cast(pl.Float64), source), None, "time", None
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return _encode_text(column.cast(pl.String), source, notes)
    if not (dtype.is_numeric() or dtype.is_decimal()):
        raise UsageError(
            f"{source}: column {name!r} holds {dtype}; numbers, text, booleans or dates are read"
        )
    _tell_number(column, notes)
    return _to_float32(column.cast(pl.Float64), source), None, "number", None


def _tell_number(column: pl.Series, notes: list[str]) -> None:
    distinct = column.drop_nulls().n_unique()
    if distinct <= 1:
        notes.append(f"column {column.name!r} is constant")
    elif column.dtype.is_integer() and distinct == len(column) > 2 * FEW_INTEGERS:
        low, high = column.min(), column.max()
        if high - low == distinct - 1:  # type: ignore[operator]
            notes.append(f"column {column.name!r} counts the rows: it looks like an identifier")


def _encode_text(column: pl.Series, source: str, notes: list[str]) -> _Encoded:
    import polars as pl

    name = column.name
    column = column.str.strip_chars()
    column = column.set(column == "", None)
    present = len(column) - column.null_count()
    numbers = column.cast(pl.Float64, strict=False)
    parsed = len(numbers) - numbers.null_count()
    if present and parsed >= NUMERIC_SHARE * present and numbers.n_unique() > 2:
        if parsed < present:
            row = int(np.flatnonzero((numbers.is_null() & column.is_not_null()).to_numpy())[0])
            notes.append(
                f"column {name!r} holds numbers but for {present - parsed} of {present} values "
                f"(first {column[row]!r} in data row {row + 1}), which count as missing"
            )
        return _to_float32(numbers, source), None, "number", None
    counts = column.drop_nulls().value_counts(sort=True)
    texts = counts[name].to_list()
    if len(texts) <= 1:
        notes.append(f"column {name!r} is constant")
    if len(texts) > 2 * FEW_INTEGERS and len(texts) >= NUMERIC_SHARE * present:
        notes.append(f"column {name!r} differs in almost every row: it looks like an identifier")
    if len(texts) > MAX_CATEGORIES:
        notes.append(
            f"column {name!r} has {len(texts):,} distinct texts: the {MAX_CATEGORIES - 1} most "
            "frequent are kept, the others are one category"
        )
        ordered = sorted(zip(-counts["count"].to_numpy(), texts, strict=True))
        texts = [text for _, text in ordered[: MAX_CATEGORIES - 1]]
        kept = pl.Series(texts)
        column = column.set(column.is_not_null() & ~column.is_in(kept.implode()), "(other)")
        texts.append("(other)")
    texts = sorted(set(texts))
    codes = column.replace_strict(
        pl.Series(texts, dtype=pl.String), np.arange(len(texts)), return_dtype=pl.Float64
    )
    return _to_float32(codes, source), texts, "category", None


def _to_float32(column: pl.Series, source: str) -> np.ndarray:
    values = column.to_numpy().astype(np.float64, copy=False)
    with np.errstate(over="ignore"):
        small = values.astype(np.float32)
    bad = np.isinf(small)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UsageError(
            f"{source}: column {column.name!r}, data row {row + 1}: {values[row]} does not fit "
            "float32; finite numbers or missing values are expected"
        )
    return small


def digest(table: Table) -> str:
    """Hash of the arrays that contestants get, as every run records it."""
    return digest_arrays(table.values, table.categorical, table.target)


def facts(table: Table) -> dict[str, Any]:
    """What is known of the table before any run, as JSON."""
    return {
        "kind": table.kind,
        "rows": len(table.values),
        "columns": len(table.names),
        "categorical": int(table.categorical.sum()),
        "missing": float(np.isnan(table.values).mean()),
        "classes": len(table.classes) if table.classes else 0,
        "target": table.target_name,
        "notes": list(table.notes),
    }


def save(table: Table, folder: str | Path, source: Mapping[str, Any] | None = None) -> None:
    """Writes `values.npy`, `target.npy` and `schema.json`, the schema last."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "values.npy", table.values)
    np.save(folder / "target.npy", table.target)
    schema = {
        "schema": 1, "source": dict(source or {}), "digest": digest(table), "facts": facts(table),
        "names": table.names, "kinds": table.kinds, "origins": table.origins,
        "categorical": table.categorical.tolist(), "categories": table.categories,
        "classes": table.classes, "target": table.target_name, "notes": table.notes,
    }  # fmt: skip
    part = folder / "schema.json.part"
    part.write_text(json.dumps(schema, indent=1, default=str), encoding="utf-8")
    part.replace(folder / "schema.json")


def load(folder: str | Path) -> Table:
    """Reads what `save` wrote."""
    folder = Path(folder)
    schema = json.loads((folder / "schema.json").read_text(encoding="utf-8"))
    return Table(
        values=np.load(folder / "values.npy"),
        target=np.load(folder / "target.npy"),
        categorical=np.array(schema["categorical"], bool),
        categories=schema["categories"], names=schema["names"], kinds=schema["kinds"],
        origins=schema["origins"], classes=schema["classes"], target_name=schema["target"],
        notes=schema["notes"],
    )  # fmt: skip


def prepare(
    data: str, target: str | None, folder: str | Path, *, task: Task = "auto", limit: int = 0,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Reads a file into `folder` unless that was done before; returns the stored schema."""
    folder, path = Path(folder), Path(data)
    content = ""
    if path.is_file():
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    source = {"sha256": content, "target": target, "task": task, "limit": limit, "seed": seed}
    stored = folder / "schema.json"
    if content and stored.exists():
        schema = json.loads(stored.read_text(encoding="utf-8"))
        if schema["source"] == source:
            return schema
    save(read(data, target, task=task, limit=limit, seed=seed), folder, source)
    return json.loads(stored.read_text(encoding="utf-8"))
