"""The folder of a self-instruct run: what was asked and kept, a line a request.

A line is written whole after its request; a process that is killed loses at most the requests
that were under way. settings.json says what the run was made with: going on with other settings
would mix two data sets, and is refused.

References:
    JSON Lines, jsonlines.org.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paragone.training.run_folder import write_whole

__all__ = ["Log"]


class Log:
    """Requests on disk, or in memory only.

    Args:
        folder: Where; None: nowhere.
        settings: What the run is made with.

    Raises:
        ValueError: The folder holds a run with other settings, or a broken one.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.requests: list[dict[str, Any]] = []
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "settings.json"
        if path.exists():
            self._compare(path, settings)
        else:
            write_whole(path, json.dumps(settings, indent=1).encode())
        self._read(folder / "requests.jsonl")

    def _compare(self, path: Path, settings: Mapping[str, Any]) -> None:
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: expected JSON ({error})") from error
        now = json.loads(json.dumps(settings))
        other = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if other:
            words = "; ".join(f"{n} was {before.get(n)!r}, is {now.get(n)!r}" for n in other)
            raise ValueError(f"{path.parent} holds a run with other settings ({words}): give "
                             "those, or another folder")  # fmt: skip

    def _read(self, path: Path) -> None:
        """Reads the lines; one that a killed process left unfinished is taken off the file."""
        if not path.exists():
            return
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            write_whole(path, whole)
        for at, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                self.requests.append({**entry, "rows": list(entry["rows"])})
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {at}: expected a request ({error!r})") from error

    def add(self, entry: dict[str, Any]) -> None:
        """Writes one request."""
        self.requests.append(entry)
        if self.folder is None:
            return
        with open(self.folder / "requests.jsonl", "ab") as file:
            file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def write_rows(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Writes rows.json in the 52k format."""
        if self.folder is not None:
            text = json.dumps(list(rows), ensure_ascii=False, indent=1)
            write_whole(self.folder / "rows.json", text.encode("utf-8", "replace"))
