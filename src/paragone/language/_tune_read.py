"""Records of a file: JSON, JSONL, CSV, Parquet, gzipped or not; of Python lists and of frames.

A record is a mapping of names to values, with the place it was read at, so that what is wrong in a
file can be named by file and record.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from paragone._core.errors import MissingPackageError

__all__ = ["read_records"]

_KINDS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def read_records(source: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields (place, record) of each record.

    Args:
        source: A path, a folder of such files, mappings in a list (or any iterable, such as a
            dataset), or a data frame of any library that narwhals knows.

    Raises:
        ValueError: A file that cannot be read as what its name says; the file and the record are
            named.
        FileNotFoundError: No such file.
    """
    if isinstance(source, str | os.PathLike):
        yield from _of_path(Path(source))
        return
    for number, record in enumerate(_of_object(source), 1):
        yield f"record {number}", _checked(record, f"record {number}")


def _of_object(source: Any) -> Iterable[Any]:
    if hasattr(source, "__dataframe__") or hasattr(source, "__narwhals_dataframe__"):
        import narwhals

        return narwhals.from_native(source, eager_only=True).iter_rows(named=True)
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise ValueError(
            f"rows are {type(source).__name__}; a path, a list of mappings or a data frame is "
            "expected"
        )
    return source


def _checked(record: Any, place: str) -> Mapping[str, Any]:
    if isinstance(record, list) and all(isinstance(m, Mapping) for m in record):
        return {"messages": record}
    if not isinstance(record, Mapping):
        raise ValueError(f"{place}: found {type(record).__name__}; a mapping of names is expected")
    return record


def _of_path(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if _kind(p) in _KINDS)
        if not files:
            raise ValueError(f"{path}: no file named {', '.join('*' + k for k in _KINDS)} in it")
        for file in files:
            yield from _of_path(file)
        return
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    kind = _kind(path)
    if kind == ".parquet":
        records: Iterable[Any] = _parquet(path)
    elif kind in (".csv", ".tsv"):
        records = csv.DictReader(
            io.StringIO(_text(path)), delimiter="," if kind == ".csv" else "\t"
        )
    else:
        records = _json(path)
    for number, record in enumerate(records, 1):
        place = f"{path}, record {number}"
        yield place, _checked(record, place)


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return os.path.splitext(name)[1]


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, OSError) as error:
        raise ValueError(f"{path}: expected text in UTF-8 ({error})") from error


def _json(path: Path) -> list[Any]:
    """One JSON list, one object that holds the only list, or an object on each line."""
    text = _text(path)
    if _kind(path) == ".json":
        try:
            whole = json.loads(text)
        except ValueError:
            whole = None
        if isinstance(whole, Mapping):
            lists = [v for v in whole.values() if isinstance(v, list) and v]
            inner = [v for v in lists if isinstance(v[0], Mapping) and "role" not in v[0]]
            return inner[0] if len(inner) == 1 and "from" not in inner[0][0] else [whole]
        if isinstance(whole, list):
            return whole
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: expected JSON ({error})") from error
    return records


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError(f"{path} needs pyarrow: pip install 'paragone[files]'") from error
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: expected a Parquet file ({error})") from error
