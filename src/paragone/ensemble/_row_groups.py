"""Tables in Parquet files, read a few columns of one row group at a time.

Parquet keeps each column of each row group (some 10^5 rows) apart, so one column of a table that
never fits into memory can be read alone. CSV files are turned into Parquet first, in a stream.

Needs pyarrow. Shapes: n rows, over all files in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np

from paragone._core.errors import MissingPackageError
from paragone.ensemble._input import _codes, _numbers, _present

__all__ = ["RowGroups", "open_files"]

Paths = str | PathLike[str] | Sequence[str | PathLike[str]]


def _parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingPackageError(
            "training from files needs pyarrow, which is not installed: pip install pyarrow"
        ) from error
    return parquet


def open_files(paths: Paths, scratch: Path) -> RowGroups:
    """Opens files, or folders of them, in the order given (folders: sorted by name).

    Raises:
        ValueError: Nothing is there, or a file is not Parquet.
    """
    _parquet()
    listed = [paths] if isinstance(paths, str | PathLike) else list(paths)
    found: list[Path] = []
    for path in map(Path, listed):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in (".parquet", ".pq", ".csv"))
            if not inside:
                raise ValueError(f"{path} holds no .parquet, .pq or .csv file")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise ValueError(f"{path} does not exist; paths are files or folders of files")
    if not found:
        raise ValueError("no file was given; paths are files or folders of files")
    return RowGroups([_converted(p, scratch, i) for i, p in enumerate(found)], found)


def _converted(path: Path, scratch: Path, number: int) -> Path:
    if path.suffix != ".csv":
        return path
    import pyarrow
    from pyarrow import csv

    scratch.mkdir(parents=True, exist_ok=True)
    new = scratch / f"{number}-{path.stem}.parquet"
    options = csv.ReadOptions(block_size=1 << 24, use_threads=False)
    part = new.with_suffix(".part")
    try:
        with (
            csv.open_csv(path, read_options=options) as stream,
            _parquet().ParquetWriter(part, stream.schema) as writer,
        ):
            for batch in stream:
                writer.write_batch(batch)
    except pyarrow.ArrowException as error:
        raise ValueError(
            f"{path}: {error}; types are taken from its first 16 MB, so write mixed columns as text"
        ) from error
    part.replace(new)
    return new


class RowGroups:
    """The rows `begin` to `end` of files that have the same columns.

    Args:
        files: Parquet files.
        names: What to call them in errors.
    """

    def __init__(self, files: list[Path], names: list[Path]) -> None:
        import pyarrow

        self.names, self._files = names, []
        for path, name in zip(files, names, strict=True):
            try:
                self._files.append(_parquet().ParquetFile(path))
            except (pyarrow.ArrowException, OSError) as error:
                raise ValueError(f"{name} cannot be read as Parquet: {error}") from error
        self.schema = self._files[0].schema_arrow
        self._groups: list[tuple[int, int, int]] = []
        for f, file in enumerate(self._files):
            for name in self.schema.names:
                if name not in file.schema_arrow.names:
                    raise ValueError(f"{names[f]} has no column {name!r}, which {names[0]} has")
            for g in range(file.metadata.num_row_groups):
                self._groups.append((f, g, file.metadata.row_group(g).num_rows))
        self.begin, self.end = 0, sum(rows for _, _, rows in self._groups)
        self.stamp = [[str(n), n.stat().st_size, n.stat().st_mtime_ns] for n in names]

    def __len__(self) -> int:
        return self.end - self.begin

    def take_part(self, number: int, count: int) -> None:
        """Leaves only part `number` of `count` nearly equal ones."""
        total = self.end
        self.begin, self.end = total * number // count, total * (number + 1) // count

    def check_columns(self, wanted: list[str]) -> None:
        """Raises for a column that the files do not have."""
        for name in wanted:
            if name not in self.schema.names:
                raise ValueError(
                    f"{self.names[0]} has no column {name!r}; it has {self.schema.names[:20]}"
                )

    def empty(self, name: str) -> Any:
        """Returns the column without rows, for its type."""
        import pyarrow

        return _series(pyarrow.chunked_array([], type=self.schema.field(name).type))

    def _chunks(self, columns: list[str]) -> Iterator[tuple[int, str, Any]]:
        """Yields (first row here, where, table) for each row group."""
        import pyarrow

        first = 0
        for f, g, rows in self._groups:
            low, high = max(first, self.begin), min(first + rows, self.end)
            if low < high:
                where = f"{self.names[f]}, row group {g}"
                try:
                    table = self._files[f].read_row_group(g, columns=columns, use_threads=False)
                except (pyarrow.ArrowException, OSError) as error:
                    raise ValueError(f"{where}, columns {columns[:5]}: {error}") from error
                yield low - self.begin, where, table.slice(low - first, high - low)
            first += rows

    def column(self, name: str) -> np.ndarray:
        """Returns a target or weight column as it is."""
        parts = []
        for _, _, table in self._chunks([name]):
            column = table.column(name)
            if nw.from_native(column, series_only=True).dtype in (nw.String, nw.Categorical):
                # Equal texts share one object.
                coded = column.combine_chunks().dictionary_encode()
                values = np.array([*coded.dictionary.to_pylist(), None], object)
                parts.append(values[coded.indices.fill_null(len(values) - 1).to_numpy()])
            else:
                parts.append(_series(column).to_numpy())
        return np.concatenate(parts)

    def present(self, names: list[str]) -> list[list[Any]]:
        """Returns the distinct values of each column, without the missing ones."""
        found: list[set[Any]] = [set() for _ in names]
        if names:
            for _, _, table in self._chunks(names):
                for values, name in zip(found, names, strict=True):
                    values.update(_present(_series(table.column(name))))
        return [list(values) for values in found]

    def numbers(self, names: list[str], categories: list[np.ndarray | None]) -> list[np.ndarray]:
        """Returns columns as float32: numbers, or positions in their categories; NaN if missing.

        Raises:
            ValueError: A value is infinite, or no number; says where.
        """
        found = [np.empty(len(self), np.float32) for _ in names]
        for begin, where, table in self._chunks(names):
            for values, name, known in zip(found, names, categories, strict=True):
                own = values[begin : begin + len(table)]
                title = f"{where}, column {name!r}"
                with np.errstate(over="ignore"):
                    own[:] = _read(table.column(name), known, title)
                if np.isinf(own).any():
                    raise ValueError(
                        f"{title} holds infinity or a value too large for float32; replace it by "
                        "a finite value or NaN"
                    )
        return found


def _series(column: Any) -> Any:
    return nw.from_native(column, series_only=True)


def _read(column: Any, categories: np.ndarray | None, title: str) -> np.ndarray:
    series = _series(column)
    if categories is None:
        return _numbers(series, title)
    if not isinstance(series.dtype, nw.String | nw.Categorical | nw.Enum):
        return _codes(series, categories, title)
    # Each text is looked up once, not once a row.
    import pyarrow

    coded = column.combine_chunks()
    if not pyarrow.types.is_dictionary(coded.type):
        coded = coded.dictionary_encode()
    texts = _series(pyarrow.chunked_array([coded.dictionary]))
    lookup = np.append(_codes(texts, categories, title), np.nan)
    return lookup[coded.indices.fill_null(len(lookup) - 1).to_numpy()]
