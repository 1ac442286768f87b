"""A plan as text: parts of a GPU's memory in GB and GiB, as a table with bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paragone.training.memory import Plan

__all__ = ["Part", "rows", "show"]

_BAR = 24

PHASES = {
    "states": "model states only: give a batch and a sequence for the rest",
    "loss": "the worst moment is the loss: all activations, logits and their gradients",
    "layer": "the worst moment is the last layer's backward pass",
    "end": "the worst moment is the end of the backward pass: all gradients",
    "backward": "the worst moment is in the backward pass",
    "step": "the worst moment is the optimizer's step",
}


@dataclass(frozen=True)
class Part:
    """One line: bytes when it is there (`size`), at the worst moment (`peak`), on the host."""

    name: str
    size: int
    peak: int
    host: int = 0
    note: str = ""


def rows(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Parts as plain data."""
    return [
        {"part": p.name, "size": p.size, "peak": p.peak, "host": p.host, "note": p.note}
        for p in parts
    ]


def _number(size: float) -> str:
    return f"{size:,.1f}" if size >= 9.95 or size == 0 else f"{size:.3g}"


def _line(name: str, values: Sequence[int], tail: str, small: bool) -> str:
    ten, two = (10**6, 2**20) if small else (10**9, 2**30)
    cells = "".join(f"{_number(v / ten):>11}{_number(v / two):>10}" for v in values[:1])
    cells += "".join(f"{_number(v / ten):>11}" for v in values[1:])
    return f"{name:<22}{cells}  {tail}".rstrip()


def show(plan: Plan) -> str:
    """The table of a plan, in MB where no part but the context takes a tenth of a GB."""
    several = f" on {plan.gpus} GPUs" if plan.gpus > 1 else ""
    small = all(p.size < 10**8 for p in plan.parts if p.name != "CUDA context")
    gb, gib = ("MB", "MiB") if small else ("GB", "GiB")
    head = f"{plan.name}: {plan.parameters:,} parameters{several}"
    titles = f"{'on one GPU':<22}{gb:>11}{gib:>10}{'at peak ' + gb:>11}{'all GPUs':>11}"
    most = max((p.peak for p in plan.parts if not small or p.name != "CUDA context"), default=0)
    lines = [head, "", titles]
    for part in plan.parts:
        bar = "█" * min(round(_BAR * part.peak / (most or 1)), _BAR)
        sizes = (part.size, part.peak, part.peak * plan.gpus)
        lines.append(_line(part.name, sizes, bar, small))
    total = (plan.total, plan.total, plan.total * plan.gpus)
    lines += ["-" * 66, _line("at the worst moment", total, "", small)]
    if plan.host:
        host = (plan.host, plan.host, plan.host * plan.gpus)
        lines.append(_line("in the host", host, "", small))
    lines += ["", PHASES[plan.phase]]
    if plan.traffic:
        lines.append(f"each rank sends {_number(plan.traffic / 1e9)} GB a step for the states")
    lines += [f"{p.name}: {p.note}" for p in plan.parts if p.note and (p.size or p.host)]
    return "\n".join([*lines, *plan.notes])
