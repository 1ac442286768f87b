"""Readers of a user's table: CSV, TSV, Parquet, NPZ, LibSVM, frames and arrays to one polars frame.

Polars fills a short line silently and names no line for a long one, so the widths of all lines
are counted here first (a few bytes' operations each; quoted files go through `csv`).
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paragone._core.errors import MissingPackageError, UsageError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["MISSING", "find_target", "read_columns", "read_file", "read_object"]

MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "?"]
"""Texts that stand for a missing value in CSV files."""

DENSE_LIMIT = 2**31
"""Largest dense table, in bytes, that a sparse file may become."""

CHUNK = 1 << 24
_PARQUET = (".parquet", ".pq")


def find_target(names: Sequence[str], target: str | None, source: str) -> str:
    shown = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
    if not target:
        raise UsageError(f"{source}: name the column to predict with --target; columns: {shown}")
    if target in names:
        return target
    near = difflib.get_close_matches(target, names, n=3, cutoff=0.5)
    near = near or [n for n in names if n.strip().lower() == target.strip().lower()]
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"columns: {shown}"
    raise UsageError(f"{source}: no column {target!r}; {hint}")


def _polars() -> Any:
    try:
        import polars
    except ImportError as error:
        raise MissingPackageError("reading tables needs polars: pip install polars") from error
    return polars


def read_file(path: Path, target: str | None) -> tuple[pl.DataFrame, str | None]:
    suffix = _suffix(path)
    if suffix in _PARQUET:
        return _read_parquet(path), target
    if suffix == ".npz":
        return _read_npz(path, target)
    head = _head(path)
    if suffix in (".svm", ".libsvm", ".svmlight") or _looks_like_libsvm(head):
        return _read_libsvm(path), target or "label"
    return _read_text(path, head, target)


def read_columns(path: Path) -> pl.DataFrame:
    """Reads a table without a target: CSV, TSV, Parquet, or the first 2-D array of an NPZ.

    Raises:
        UsageError: One line says what is wrong with the file.
    """
    suffix = _suffix(path)
    if suffix in _PARQUET:
        return _read_parquet(path)
    if suffix == ".npz":
        arrays = _arrays(path)
        table = next((array for array in arrays.values() if array.ndim == 2), None)
        if table is None:
            shapes = ", ".join(f"{name}{list(array.shape)}" for name, array in arrays.items())
            raise UsageError(f"{path}: a 2-D array of points (n, d) is expected; found {shapes}")
        return _polars().DataFrame(table, schema=[f"x{j}" for j in range(table.shape[1])])
    return _text_frame(path, *_names(path, _head(path)))


def _suffix(path: Path) -> str:
    """The file's ending, if it is a file that can be read."""
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if path.is_dir():
        raise UsageError(f"{path}: a folder; one file (.csv, .tsv, .parquet, .npz, LibSVM) is read")
    if path.stat().st_size == 0:
        raise UsageError(f"{path}: the file is empty")
    return path.suffix.lower()


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(65536)
    if b"\x00" in head:
        raise UsageError(f"{path}: binary data; .csv, .tsv, .parquet, .npz or LibSVM is read")
    return head


def _read_parquet(path: Path) -> pl.DataFrame:
    pl = _polars()
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"{path}: not a Parquet file ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _looks_like_libsvm(head: bytes) -> bool:
    fields = head.split(b"\n", 1)[0].split(b"#")[0].split()
    pairs = [text.split(b":") for text in fields[1:]]
    return bool(pairs) and all(len(p) == 2 and p[0].isdigit() for p in pairs)


def _read_libsvm(path: Path) -> pl.DataFrame:
    from sklearn.datasets import load_svmlight_file

    try:
        features, labels = load_svmlight_file(str(path), zero_based="auto")
    except (ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not LibSVM text ({_first_line(error)})") from error
    rows, columns = features.shape  # type: ignore[misc]
    if rows * columns * 4 > DENSE_LIMIT:
        raise UsageError(
            f"{path}: {rows:,} x {columns:,} does not fit 2 GiB as a dense float32 table"
        )
    dense = np.asarray(features.astype(np.float32).toarray())  # type: ignore[union-attr]
    return _frame_of(dense, labels, "label")


def _frame_of(values: np.ndarray, target: Any, target_name: str) -> pl.DataFrame:
    pl = _polars()
    frame = pl.DataFrame(values, schema=[f"x{j}" for j in range(values.shape[1])])
    return frame.with_columns(pl.Series(target_name, target))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(f"{path}: not an NPZ file of plain arrays") from error


def _read_npz(path: Path, target: str | None) -> tuple[pl.DataFrame, str | None]:
    arrays = _arrays(path)
    tables = {name: array for name, array in arrays.items() if array.ndim == 2}
    if not tables:
        flat = {name: array for name, array in arrays.items() if array.ndim == 1}
        if len({len(array) for array in flat.values()}) != 1:
            raise UsageError(
                f"{path}: a 2-D array `X` and a 1-D array `y`, or 1-D columns of one length, "
                f"are expected; found {', '.join(f'{k}{list(v.shape)}' for k, v in arrays.items())}"
            )
        return _polars().DataFrame(flat), target
    name = next((name for name in ("X", "x", "data", "features") if name in tables), None)
    name = name or next(iter(tables))
    if target is None:
        target = next((key for key in ("y", "target", "label", "labels") if key in arrays), None)
    if target is None or target not in arrays:
        raise UsageError(
            f"{path}: no array {target or 'y'!r} for the target; arrays: {', '.join(arrays)}"
        )
    if arrays[target].shape != (len(tables[name]),):
        raise UsageError(
            f"{path}: target {target!r} has shape {arrays[target].shape}, but {name!r} has "
            f"{len(tables[name])} rows"
        )
    return _frame_of(tables[name], arrays[target], target), target


def _read_text(path: Path, head: bytes, target: str | None) -> tuple[pl.DataFrame, str | None]:
    separator, names, headless = _names(path, head)
    if headless and target and target.isdigit():
        target = f"c{target}"
    find_target(names, target, str(path))
    return _text_frame(path, separator, names, headless), target


def _names(path: Path, head: bytes) -> tuple[str, list[str], bool]:
    """Separator, names of the columns, and whether line 1 holds numbers in place of names."""
    separator = _separator(path, head)
    names = _header(path, separator)
    if all(_is_number(name) for name in names):
        return separator, [f"c{j}" for j in range(len(names))], True
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(
            f"{path}: column {repeated[0]!r} stands {names.count(repeated[0])} times in line 1"
        )
    return separator, names, False


def _text_frame(path: Path, separator: str, names: list[str], headless: bool) -> pl.DataFrame:
    pl = _polars()
    _check_widths(path, separator, len(names))
    try:
        return pl.read_csv(
            path, separator=separator, has_header=not headless, null_values=MISSING,
            infer_schema_length=None, try_parse_dates=True, new_columns=names,
        )  # fmt: skip
    except pl.exceptions.NoDataError as error:
        raise UsageError(f"{path}: the file is empty") from error
    except pl.exceptions.PolarsError as error:
        if "utf-8" in str(error).lower():
            raise UsageError(_not_utf8(path)) from error
        raise UsageError(f"{path}: cannot be read as CSV ({_first_line(error)})") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _separator(path: Path, head: bytes) -> str:
    line = head.lstrip(b"\xef\xbb\xbf").split(b"\n", 1)[0]
    if not line.strip():
        raise UsageError(f"{path}: line 1 is empty; a header is expected there")
    if path.suffix.lower() == ".tsv":
        return "\t"
    counts = {mark: line.count(mark.encode()) for mark in ",\t;|"}
    return max(counts, key=lambda mark: counts[mark])


def _header(path: Path, separator: str) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file, delimiter=separator))
    except UnicodeDecodeError as error:
        raise UsageError(_not_utf8(path)) from error
    except (csv.Error, StopIteration) as error:
        raise UsageError(f"{path}: line 1 is not a header ({_first_line(error)})") from error


def _not_utf8(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return (
                    f"{path}: line {number} is not UTF-8 text (byte 0x{byte:02x}); save it as UTF-8"
                )
    return f"{path}: not UTF-8 text"


def _check_widths(path: Path, separator: str, width: int) -> None:
    """Says which line has too few or too many fields (polars fills short ones silently)."""
    raw, step = np.memmap(path, np.uint8, mode="r"), CHUNK
    if any((raw[i : i + step] == ord('"')).any() for i in range(0, len(raw), step)):
        return _check_quoted_widths(path, separator, width)
    line, carried, mark = 0, 0, ord(separator)
    blank = True
    for start in range(0, len(raw), step):
        part = np.asarray(raw[start : start + step])
        ends = np.flatnonzero(part == ord("\n"))
        marks = np.flatnonzero(part == mark)
        totals = np.searchsorted(marks, ends)
        counts = np.diff(totals, prepend=0)
        lengths = np.diff(ends, prepend=-1)
        if len(counts):
            counts[0] += carried
            empty = (lengths <= 1) | ((lengths == 2) & (part[np.maximum(ends - 1, 0)] == 13))
            empty[0] &= blank
            wrong = np.flatnonzero((counts != width - 1) & ~empty)
            if len(wrong):
                _raise_ragged(path, line + int(wrong[0]) + 1, int(counts[wrong[0]]) + 1, width)
            carried = 0
        line += len(ends)
        tail = len(part) - (int(ends[-1]) + 1 if len(ends) else 0)
        carried += len(marks) - (int(totals[-1]) if len(totals) else 0)
        blank = tail == 0 and (len(ends) > 0 or blank)
    if not blank and carried != width - 1:
        _raise_ragged(path, line + 1, carried + 1, width)
    return None


def _check_quoted_widths(path: Path, separator: str, width: int) -> None:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator)
            for row in reader:
                if row and len(row) != width:
                    _raise_ragged(path, reader.line_num, len(row), width)
    except UnicodeDecodeError as error:
        raise UsageError(_not_utf8(path)) from error
    except csv.Error as error:
        raise UsageError(f"{path}: not CSV text ({_first_line(error)})") from error


def _raise_ragged(path: Path, line: int, found: int, width: int) -> None:
    raise UsageError(f"{path}: line {line} has {found} fields, but the header has {width}")


def read_object(data: Any, target: str | None) -> tuple[pl.DataFrame, str | None]:
    import narwhals as nw

    pl = _polars()
    if isinstance(data, tuple) and len(data) == 2:
        features, labels = data
        labels = np.asarray(labels)
        if hasattr(features, "columns"):
            frame = nw.from_native(features, eager_only=True).to_polars()
        else:
            features = np.asarray(features)
            if features.ndim != 2 or labels.shape != (len(features),):
                raise UsageError(
                    f"data=(X, y) needs X (n, p) and y (n,); got {features.shape}, {labels.shape}"
                )
            frame = pl.DataFrame(features, schema=[f"x{j}" for j in range(features.shape[1])])
        name = target or "target"
        if labels.dtype == object:
            labels = labels.tolist()
        return frame.with_columns(pl.Series(name, labels)), name
    native: Any = data
    try:
        return nw.from_native(native, eager_only=True).to_polars(), target
    except TypeError as error:
        raise UsageError(
            f"data={type(data).__name__} is neither a file, a data frame, nor a pair (X, y)"
        ) from error
