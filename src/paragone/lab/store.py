"""A study's folder: `study.json`, `records.jsonl`, `artifacts/`, kept so that a kill loses nothing.

Each finished run is one JSON line, appended and fsynced after its artifacts are in place, so a
record never points to a file that is not there. A line torn by a crash can only be the last
one; it is cut off on opening. `study.json` and `progress.json` are replaced atomically. One
process writes at a time: it holds an `flock`, which the kernel drops when the process dies.

Records are never edited. What a reader sees (`read_records`) is what belongs to the plan in
`study.json`: the last attempt of each run whose `setup` (contestant, version, source,
parameters, data, protocol) is still the one that the plan names.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paragone._core.errors import MissingPackageError, UsageError

__all__ = ["SCHEMA", "Store", "export_parquet", "read_records", "read_study", "write_json"]

SCHEMA = 1

_OWNED = (
    "study.json", "records.jsonl", "progress.json", "results.parquet", "report.html",
    "artifacts", "scratch",
)  # fmt: skip


def write_json(path: Path, content: Any, *, durable: bool = True) -> None:
    """Replaces a JSON file atomically: a reader sees the old text or the new, never a part.

    Args:
        path: The file.
        content: What `json` can write.
        durable: Wait until it is on the disk.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=1, default=str)
        file.write("\n")
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(partial, path)


def read_study(folder: str | Path) -> dict[str, Any]:
    """Returns the content of `study.json`.

    Raises:
        UsageError: The folder holds no study, or one of a newer schema.
    """
    path = Path(folder) / "study.json"
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder}: no study here (study.json is missing)") from None
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
    if study.get("schema", 0) > SCHEMA:
        raise UsageError(
            f"{path}: schema {study['schema']}, this version reads up to {SCHEMA}; update paragone"
        )
    return study


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last line without its newline is still being written, or torn."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(raw[: raw.rfind(b"\n") + 1].splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UsageError(f"{path}: line {number} is not a record; delete that line") from error
    return rows


def _current(study: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    setups = study.get("setups")
    latest: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        pair = f"{row['contestant']}|{row['workload']}"
        if setups is None or setups.get(pair) == row["setup"]:
            latest[row["key"]] = row
    if study.get("timed"):
        attempts: dict[tuple[str, int], int] = {}
        for row in latest.values():
            block = (row["workload"], row["block"])
            attempts[block] = max(attempts.get(block, 0), row["attempt"])
        latest = {
            key: row
            for key, row in latest.items()
            if row["attempt"] == attempts[row["workload"], row["block"]]
        }
    return [dict(row) for row in latest.values()]


def read_records(folder: str | Path, *, every: bool = False) -> list[dict[str, Any]]:
    """Returns the records of a study, in the order in which the runs ended.

    Args:
        folder: The study's folder; another process may be writing to it.
        every: Also those that the present plan does not ask for: other versions, other
            parameters, earlier attempts of a timed block.
    """
    rows = _read_lines(Path(folder) / "records.jsonl")
    return rows if every else _current(read_study(folder), rows)


class Store:
    """The one writer of a study's folder.

    Args:
        folder: Made if absent.
        fresh: Remove what an earlier study left there.

    Attributes:
        folder: The folder, absolute.
        study: Content of `study.json`; change it and call `save`.
        left_token: Mark of processes of a writer that died here ("" after an orderly end).

    Raises:
        UsageError: Another process is writing, or the path cannot hold a study.
    """

    def __init__(self, folder: str | Path, *, fresh: bool = False):
        self.folder = Path(folder).resolve()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{folder}: cannot hold a study ({error.strerror})") from error
        self._take_lock()
        if fresh:
            for name in _OWNED:
                path = self.folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        self._repair()
        self._rows = _read_lines(self.folder / "records.jsonl")
        self.study: dict[str, Any] = (
            read_study(self.folder) if (self.folder / "study.json").exists() else {}
        )
        self._number = max((int(row["id"][1:]) for row in self._rows), default=0)
        self._file = (self.folder / "records.jsonl").open("ab")

    @property
    def scratch(self) -> Path:
        """Where runs write until they are done."""
        return self.folder / "scratch"

    def _take_lock(self) -> None:
        self._lock.seek(0)
        text = self._lock.read()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise UsageError(
                f"{self.folder}: process {text.partition(' ')[0] or '?'} is running a study here; "
                "wait for it, or choose another --out"
            ) from None
        self.left_token = text.partition(" ")[2].strip()

    def mark(self, token: str) -> None:
        """Notes this process and the mark of its runs, for whoever takes over after a kill."""
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()} {token}")
        self._lock.flush()

    def _repair(self) -> None:
        path = self.folder / "records.jsonl"
        if not path.exists():
            return
        with open(path, "r+b") as file:
            raw = file.read()
            whole = raw.rfind(b"\n") + 1
            if whole < len(raw):
                file.truncate(whole)
                os.fsync(file.fileno())

    def save(self) -> None:
        """Writes `study.json`."""
        write_json(self.folder / "study.json", self.study)

    def progress(self, state: Mapping[str, Any]) -> None:
        """Writes `progress.json`, which `paragone serve` shows."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        shown = {**state, "pid": os.getpid(), "updated": now}
        write_json(self.folder / "progress.json", shown, durable=False)

    def records(self, *, every: bool = False) -> list[dict[str, Any]]:
        """Returns the records of the present plan, or every line (see `read_records`)."""
        return list(self._rows) if every else _current(self.study, self._rows)

    def attempt(self, workload: str, block: int) -> int:
        """Returns the number of the next attempt at a block."""
        return 1 + max(
            (r["attempt"] for r in self._rows if (r["workload"], r["block"]) == (workload, block)),
            default=-1,
        )

    def append(
        self, record: Mapping[str, Any], files: Mapping[str, Path | bytes]
    ) -> dict[str, Any]:
        """Stores one finished run; returns the record with its id and its files' places.

        Args:
            record: All of the run but "schema", "id", "time", "artifacts" and "log".
            files: Name to file (moved) or bytes (written); "log.txt" becomes "log", the
                others "artifacts" under their name without suffix.
        """
        self._number += 1
        name = f"r{self._number:04d}"
        place = self.folder / "artifacts" / name
        shutil.rmtree(place, ignore_errors=True)
        artifacts, log = {}, ""
        for file_name, content in files.items():
            place.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.move(content, place / file_name)
            else:
                (place / file_name).write_bytes(content)
            path = f"artifacts/{name}/{file_name}"
            if file_name == "log.txt":
                log = path
            else:
                artifacts[file_name.rpartition(".")[0] or file_name] = path
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = {"schema": SCHEMA, "id": name, "time": now, **record, "artifacts": artifacts}
        row["log"] = log
        line = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._rows.append(row)
        return row

    def close(self) -> None:
        """Gives the folder free; records and `study` stay readable."""
        if not self._file.closed:
            self._file.close()
            shutil.rmtree(self.scratch, ignore_errors=True)
            self._lock.truncate(0)
            self._lock.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def export_parquet(folder: str | Path, path: str | Path | None = None) -> Path:
    """Writes the records as a flat table, one row a run; returns its path.

    Measures are columns under their own name; phases, load, digests and versions are
    `phase_fit_wall`, `load_psi`, `digest_data`, `version_numpy`.

    Args:
        folder: The study's folder.
        path: The file to write; `results.parquet` in the folder if None.

    Raises:
        MissingPackageError: polars is not installed.
    """
    try:
        import polars
    except ImportError as error:
        raise MissingPackageError("Parquet files need polars: pip install polars") from error
    rows = [_flat(row) for row in read_records(folder)]
    path = Path(path or Path(folder) / "results.parquet")
    partial = path.with_name(path.name + ".partial")
    polars.DataFrame(rows, infer_schema_length=None).write_parquet(partial)
    os.replace(partial, path)
    return path


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    plain = {k: v for k, v in row.items() if not isinstance(v, Mapping | list)}
    for name, number in row["values"].items():
        plain[f"value_{name}" if name in plain else name] = float(number)
    for phase, costs in row["phases"].items():
        plain |= {f"phase_{phase}_{kind}": float(cost) for kind, cost in costs.items()}
    for field, prefix in (("load", "load"), ("digests", "digest"), ("versions", "version")):
        plain |= {f"{prefix}_{name}": value for name, value in row[field].items()}
    return plain
