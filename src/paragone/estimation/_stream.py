"""Reads numbers by pieces: arrays, iterators of arrays, and files larger than memory.

NPY files are mapped, CSV and TSV are read by lines, Parquet by row groups if pyarrow is there.
"""

from __future__ import annotations

import csv
import importlib
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CHUNK", "Progress", "columns_of", "pieces", "rows_of", "writable"]

CHUNK = 1 << 16
"""Rows of a piece."""

_FILES = (".npy", ".csv", ".tsv", ".parquet")


def _path(source: Any) -> Path | None:
    if not isinstance(source, str | Path):
        return None
    path = Path(source).expanduser()
    if path.suffix not in _FILES:
        raise ValueError(f"{path}: no known kind of file; use {', '.join(_FILES)}")
    if not path.exists():
        raise ValueError(f"{path}: there is no such file")
    return path


def rows_of(source: Any) -> int | None:
    """How many rows there are, None if that is not known before they are read."""
    path = _path(source)
    if path is not None:
        if path.suffix == ".npy":
            return len(np.load(path, mmap_mode="r"))
        if path.suffix == ".parquet":
            return _parquet(path).metadata.num_rows
        return None
    return len(source) if isinstance(source, np.ndarray | Sequence) else None


def columns_of(source: Any) -> list[str] | None:
    """Names of a table's columns, None where there are none."""
    path = _path(source)
    if path is None or path.suffix == ".npy":
        return None
    if path.suffix == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    with open(path, newline="", encoding="utf-8") as file:
        return next(csv.reader(file, delimiter=_delimiter(path)), [])


def _parquet(path: Path) -> Any:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    return parquet.ParquetFile(path)


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def pieces(
    source: Any, columns: Sequence[str] | None = None, *, chunk: int = CHUNK
) -> Iterator[np.ndarray]:
    """Yields float64 arrays, (n,) or (n, d), in the order of the source.

    Args:
        source: An array; an iterable of arrays or numbers; or the path of an NPY, CSV, TSV or
            Parquet file.
        columns: Names of the columns to read, in this order (tables only; None: all).
        chunk: Rows of a piece, for arrays and files.

    Raises:
        ValueError: The file, a column or a cell cannot be used; the message says which.
    """
    path = _path(source)
    if path is None:
        yield from _in_memory(source, chunk)
        return
    if path.suffix == ".npy":
        mapped = np.load(path, mmap_mode="r")
        for start in range(0, len(mapped), chunk):
            yield np.asarray(mapped[start : start + chunk], np.float64)
        return
    names = columns_of(path) or []
    wanted = list(names if columns is None else columns)
    for name in wanted:
        if name not in names:
            raise ValueError(f"{path}: there is no column {name!r} among {', '.join(names)}")
    if path.suffix == ".parquet":
        for group in _parquet(path).iter_batches(batch_size=chunk, columns=wanted):
            found = [np.asarray(group.column(name).to_numpy(False), float) for name in wanted]
            yield np.stack(found, axis=1)
        return
    yield from _lines(path, names, wanted, chunk)


def _in_memory(source: Any, chunk: int) -> Iterator[np.ndarray]:
    if isinstance(source, np.ndarray | list | tuple):
        values = np.asarray(source, np.float64)
        for start in range(0, len(values), chunk):
            yield values[start : start + chunk]
        return
    if not isinstance(source, Iterable):
        raise ValueError(f"{source!r} is no stream: give an array, an iterable or a path")
    items = iter(source)
    for first in items:
        if np.ndim(first):
            yield np.asarray(first, np.float64)
        else:
            rest = itertools.islice(items, min(chunk, 4096) - 1)
            yield np.fromiter(itertools.chain([first], rest), np.float64)


def _lines(path: Path, names: list[str], wanted: list[str], chunk: int) -> Iterator[np.ndarray]:
    places = [names.index(name) for name in wanted]
    line = 1
    with open(path, newline="", encoding="utf-8") as file:
        next(file, None)
        while True:
            some = list(itertools.islice(file, chunk))
            if not some:
                return
            try:
                values = np.loadtxt(
                    some, delimiter=_delimiter(path), usecols=places, ndmin=2, quotechar='"'
                )
            except ValueError:
                values = _cells(path, some, line, names, places)
            line += len(some)
            if len(values):
                yield values


def _cells(
    path: Path, some: list[str], line: int, names: list[str], places: list[int]
) -> np.ndarray:
    """The same cell by cell: an empty one is NaN, any other must be a number."""
    rows = []
    for number, row in enumerate(csv.reader(some, delimiter=_delimiter(path)), line + 1):
        if not row:
            continue
        if len(row) != len(names):
            raise ValueError(f"{path}: line {number} has {len(row)} cells, not {len(names)}")
        try:
            rows.append([float(row[place]) if row[place].strip() else np.nan for place in places])
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}; numbers are needed") from error
    return np.array(rows, np.float64).reshape(len(rows), len(places))


def writable(values: np.ndarray) -> Iterator[np.ndarray]:
    """The array itself; or, if it is read-only, copies of its pieces (kernels know one type)."""
    if values.flags.writeable:
        yield values
        return
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK].copy()


class Progress:
    """Says how far a long reading is: a line on stderr at most twice a second, or a call.

    Args:
        wanted: False for silence, True for lines, or a function of (done, total or None).
        what: Word at the beginning of the line.
        total: Rows in all, if known.
    """

    def __init__(self, wanted: bool | Callable[..., Any], what: str, total: int | None):
        self.wanted, self.what, self.total = wanted, what, total
        self.done, self.start = 0, time.monotonic()
        self.told = self.start

    def __call__(self, rows: int) -> None:
        self.done += rows
        if callable(self.wanted):
            self.wanted(self.done, self.total)
        elif self.wanted and time.monotonic() - self.told > 0.5:
            self.told = time.monotonic()
            self._tell("\r" if sys.stderr.isatty() else "\n")

    def _tell(self, end: str) -> None:
        spent = time.monotonic() - self.start
        of, left = "", ""
        if self.total:
            of = f" of {self.total:,}"
            left = f", {spent * (self.total - self.done) / max(self.done, 1):.0f} s left"
        sys.stderr.write(f"{self.what}: {self.done:,}{of} rows, {spent:.0f} s{left}{end}")
        sys.stderr.flush()
