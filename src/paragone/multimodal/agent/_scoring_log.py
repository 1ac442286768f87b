"""The log of a score: one line of JSON an episode, on the disk before the next one begins."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paragone.multimodal.agent._scoring_attempts import Attempt

__all__ = ["Key", "Log"]

Key = tuple[str, str, int, int]
"""Agent, task, seed and the most steps."""

_NAMES = {field.name for field in dataclasses.fields(Attempt)}


class Log:
    """Attempts that are kept in `episodes.jsonl` of a folder, or nowhere.

    A line that was cut off by a crash is left out, and the next one starts on a line of its own.

    Args:
        folder: Where; None: nowhere.
    """

    def __init__(self, folder: str | Path | None):
        self.path = None if folder is None else Path(folder) / "episodes.jsonl"
        self.found: dict[Key, Attempt] = {}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._read(self.path)

    def _read(self, path: Path) -> None:
        if not path.is_file():
            return
        text = path.read_text(encoding="utf-8", errors="replace")
        for line in text.split("\n"):
            try:
                row = json.loads(line)
                most = int(row["max_steps"])
                one = Attempt(**{k: v for k, v in row.items() if k in _NAMES})
            except (ValueError, TypeError, KeyError):
                continue
            self.found[one.agent, one.task, one.seed, most] = one
        if text and not text.endswith("\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def add(self, one: Attempt, max_steps: int) -> None:
        """Writes an attempt and waits until it is on the disk.

        Args:
            one: The attempt.
            max_steps: The most steps that it could take.
        """
        self.found[one.agent, one.task, one.seed, max_steps] = one
        if self.path is None:
            return
        row: dict[str, Any] = {**dataclasses.asdict(one), "max_steps": max_steps}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def of(self, keys: Iterable[Key]) -> dict[Key, Attempt]:
        """Those of some keys that are there.

        Args:
            keys: What is looked for.
        """
        return {key: self.found[key] for key in keys if key in self.found}
