"""A model's folder that is whole at every instant, while what lies in it is trained."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paragone.training.run_folder import write_files

__all__ = ["append_line", "publish", "read_lines"]


def publish(model: Any, folder: str | os.PathLike[str]) -> None:
    """Writes a model so that a reader finds the old one or the new one.

    Args:
        model: Anything with `save_pretrained`.
        folder: Made if it is not there.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_files(target, model.save_pretrained)


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Appends a line of JSON; what a killed process left half is closed first."""
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
            if torn:
                file.write(b"\n")
        file.write(json.dumps(dict(line), ensure_ascii=False).encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines; those that were not written whole are left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
