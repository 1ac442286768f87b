"""Pictures of the study `memory`: stacked bars by ZeRO stage, and by batch."""

from __future__ import annotations

from pathlib import Path

from paragone._core.lazy import resolve
from paragone.lab.memory_view import picture
from paragone.lab.report.html import standalone

__all__ = ["batches", "stages"]

_RUN = {"precision": "autocast", "gpus": 8, "sequence": 8192, "checkpointing": "selective"}
_NAME = "llama-3.1-8b"


def _save(path: str, drawing: str) -> None:
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def stages(folder: str, path: str) -> None:
    """Every stage of one run, with the memory of a GPU."""
    found = resolve("paragone.training.memory:stages")(_NAME, batch=2, **_RUN)
    _save(path, picture(found, "Llama 3.1 8B on 8 GPUs", "96GB"))


def batches(folder: str, path: str) -> None:
    """Stage 3 by batch: the states stay, activations and logits grow."""
    plan = resolve("paragone.training.memory:plan")
    found = {f"batch {b}": plan(_NAME, batch=b, zero=3, **_RUN) for b in (1, 2, 3, 4, 6)}
    _save(path, picture(found, "Llama 3.1 8B by batch", "96GB"))
