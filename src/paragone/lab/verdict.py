"""The sentences under the table (being written; signatures are fixed)."""

from __future__ import annotations

from typing import Literal

from paragone.lab.outcome import Difference, Row, Summary

__all__ = ["Prefer", "choose", "pairwise", "sentence", "sentences"]

Prefer = Literal["quality", "speed", "memory"]


def choose(
    summary: Summary,
    prefer: Prefer = "quality",
    max_latency: float | None = None,
    max_memory: float | None = None,
) -> Row:
    """Returns the recommended row. `max_latency` in seconds, `max_memory` in bytes.

    Raises:
        ValueError: No row fits the limits, or nothing finished.
    """
    raise NotImplementedError


def pairwise(
    summary: Summary, a: str, b: str, measure: str | None = None, workload: str | None = None
) -> Difference:
    """How contestant `a` stands to `b` (ids or titles); None: the primary quality measure."""
    raise NotImplementedError


def sentences(
    summary: Summary,
    prefer: Prefer = "quality",
    max_latency: float | None = None,
    max_memory: float | None = None,
) -> list[str]:
    """The verdict; the first sentence answers the study's question."""
    raise NotImplementedError


def sentence(found: Difference, summary: Summary) -> str:
    """One paired difference as a sentence."""
    raise NotImplementedError
