"""Turns `study.json` and `records.jsonl` into one `Summary` (being written; signatures are fixed)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paragone.lab.outcome import Summary
from paragone.lab.spec import Request, Study

__all__ = ["settled", "summarize", "unsettled"]


def summarize(folder: str | Path) -> Summary:
    """Reads a study's folder and returns all that a report shows."""
    raise NotImplementedError


def unsettled(
    source: str | Path | Sequence[Mapping[str, Any]],
    study: Study | Mapping[str, Any] | None = None,
    request: Request | None = None,
) -> tuple[str, ...]:
    """Workload ids that need another block.

    Args:
        source: The study's folder, or its records.
        study: The study, or the content of its `study.json`; read from the folder if None.
        request: What was asked for; needed with a `Study` only.
    """
    raise NotImplementedError


def settled(
    source: str | Path | Sequence[Mapping[str, Any]],
    study: Study | Mapping[str, Any] | None = None,
    request: Request | None = None,
) -> bool:
    """Whether no workload needs another block (see `unsettled`)."""
    return not unsettled(source, study, request)
