"""Reports: one `Summary`, shown on the terminal, as a page, as Markdown, JSON or Parquet.

All of them read the same `Summary` and nothing else, so every place shows the same number.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal, get_args

from paragone._core.errors import UsageError
from paragone.lab.outcome import Summary

__all__ = ["Format", "to_json", "write"]

Format = Literal["html", "md", "json", "parquet"]
_NAMES = {"html": "report.html", "md": "report.md", "json": "report.json",
          "parquet": "results.parquet"}  # fmt: skip


def write(folder: str | Path, format: Format = "html", path: str | Path | None = None) -> Path:
    """Writes the report of a study's folder and returns where it lies.

    Args:
        folder: The study's folder, such as `runs/NAME`.
        format: "html" (one self-contained page), "md", "json" or "parquet" (the records).
        path: The file to write; None: a file of the usual name in the folder.

    Raises:
        UsageError: The folder holds no study, or the format is unknown.
    """
    folder = Path(folder)
    if format not in get_args(Format):
        known = ", ".join(get_args(Format))
        raise UsageError(f"unknown report format {format!r}: expected one of {known}")
    if not (folder / "study.json").is_file():
        raise UsageError(f"{folder} holds no study (no study.json): give a folder under runs/")
    path = Path(path) if path is not None else folder / _NAMES[format]
    if format == "parquet":
        from paragone.lab.store import export_parquet

        return export_parquet(folder, path)
    from paragone.lab.summary import summarize

    summary = summarize(folder)
    if format == "html":
        from paragone.lab.report.html import write_html

        return write_html(summary, folder, path)
    if format == "md":
        from paragone.lab.report.markdown import markdown

        text = markdown(summary)
    else:
        text = to_json(summary)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def to_json(summary: Summary) -> str:
    """The whole summary as JSON; numbers that are not finite become null.

    Example:
        >>> json.loads(to_json(Summary(study="s", question="q?")))["study"]
        's'
    """
    return json.dumps(_finite(dataclasses.asdict(summary)), ensure_ascii=False, indent=1) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value if isinstance(value, str | int | bool | None) else str(value)
