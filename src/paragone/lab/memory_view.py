"""`memory`: a plan with its bars, every ZeRO stage beside it, and what fits a device.

The plan itself is `paragone.training.memory`'s; named models and config files load no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone.training import memory
from paragone.training.memory import Plan

__all__ = ["GROUPS", "Forecast", "foresee", "groups", "picture"]

GROUPS = {
    "parameters": ("parameters", "16-bit copies", "buffers"),
    "gradients": ("gradients",),
    "optimizer": ("master", "moments", "optimizer temporaries"),
    "activations": ("activations", "one layer's backward"),
    "logits and loss": ("logits and loss",),
    "communication, slack, context": ("communication", "allocator slack", "CUDA context"),
}
"""What the bars are made of."""

_SHADES = "█▓▒░▚·"
_BAR = 46


def groups(plan: Plan) -> dict[str, int]:
    """Bytes of each group at the worst moment."""
    peaks = {part.name: part.peak for part in plan.parts}
    return {name: sum(peaks.get(p, 0) for p in parts) for name, parts in GROUPS.items()}


@dataclass(frozen=True)
class Forecast:
    """A plan, the plans of all stages, and the answer to whether it fits; `str()` is the text."""

    plan: Plan
    stages: Mapping[str, Plan]
    device: str
    answers: Mapping[str, Any]
    out: str = ""

    def json(self) -> str:
        found = {**self.plan.data(), "stages": {n: p.total for n, p in self.stages.items()}}
        return json.dumps({**found, **self.answers}, indent=1)

    def _bars(self) -> list[str]:
        most = max(plan.total for plan in self.stages.values()) or 1
        lines = []
        for name, plan in self.stages.items():
            cells, done, at = "", 0.0, 0
            for shade, size in zip(_SHADES, groups(plan).values(), strict=True):
                done += _BAR * size / most
                cells += shade * (round(done) - at)
                at = round(done)
            fits = "" if not self.device else "  fits" if plan.fits(self.device) else "  too large"
            lines.append(f"{name:<29}{plan.total_gb:>9,.1f} GB  {cells}{fits}")
        seen = [
            f"{shade} {name}" for shade, name in zip(_SHADES, GROUPS, strict=True)
            if any(groups(plan)[name] for plan in self.stages.values())
        ]  # fmt: skip
        return [*lines, f"{'':<43}{'  '.join(seen)}"]

    def __str__(self) -> str:
        lines = [self.plan.table(), "", "on one GPU, by ZeRO stage", *self._bars()]
        if self.device:
            lines += ["", *self._told()]
        if self.out:
            lines += ["", f"picture: {self.out}"]
        return "\n".join(lines)

    def _told(self) -> list[str]:
        room = memory.parse_bytes(self.device) / 1e9 - self.plan.total_gb
        word = f"fits, {room:,.1f} GB to spare" if room >= 0 else f"too large by {-room:,.1f} GB"
        lines = [f"{self.device}: {word}"]
        for vary in ("batch", "sequence"):
            if (most := self.answers.get(f"largest_{vary}")) is not None:
                lines.append(f"largest {vary} that fits: {most:,}" if most else
                             f"not even a {vary} of 1 fits")  # fmt: skip
        return lines


def foresee(model: Any, *, fits: str | None, out: str | None, **options: Any) -> Forecast:
    """Plans, looks at every stage, answers what fits, and draws.

    Raises:
        UsageError: An argument is wrong.
    """
    try:
        plan = memory.plan(model, **options)
        shared = {k: v for k, v in options.items() if k not in ("zero", "offload")}
        stages = memory.stages(model, **shared)
        answers: dict[str, Any] = {}
        if fits is not None:
            answers["fits"] = plan.fits(fits)
            if options.get("batch") and options.get("sequence"):
                for vary in ("batch", "sequence"):
                    answers[f"largest_{vary}"] = plan.largest(vary, fits)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if out is not None:
        if not str(out).endswith(".svg"):
            raise UsageError(f"--out: {out!r} is no SVG file; give a name that ends in .svg")
        _write(Path(out), picture(stages, plan.name, fits))
    return Forecast(plan, stages, fits or "", answers, str(out or ""))


def _write(path: Path, drawing: str) -> None:
    from paragone.lab.report.html import standalone

    try:
        path.write_text(standalone(drawing), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out: {path}: {error.strerror}; give a folder that exists") from None


def picture(stages: Mapping[str, Plan], name: str, device: str | None = None) -> str:
    """Stacked bars as SVG: one bar for each plan, the device's memory as a line."""
    from paragone.lab.report.charts import plain
    from paragone.lab.report.svg import Board, Scale, text_width

    room = memory.parse_bytes(device) / 1e9 if device else 0.0
    most = max(*(plan.total_gb for plan in stages.values()), room, 1e-9)
    left, top, row = 24 + max(text_width(s, 13) for s in stages), 44, 34
    bottom = top + row * len(stages)
    board = Board(width=880, height=bottom + 46, title=f"Memory of {name} on one GPU")
    scale = Scale(low=0.0, high=1.04 * most, start=left, stop=850.0)
    x = 24.0
    for i, group in enumerate(GROUPS):
        board.add("rect", cls=f"c{i}", x=x, y=12, width=12, height=12)
        board.text(x + 17, 22, group, "tag")
        x += 30 + text_width(group, 12)
    board.x_axis(scale, bottom, top - 8, "GB on one GPU at the worst moment", plain)
    for i, (stage, plan) in enumerate(stages.items()):
        y = top + row * i
        board.text(left - 10, y + 18, stage, "", "end")
        done = 0.0
        for j, (group, size) in enumerate(groups(plan).items()):
            a, b = scale(done), scale(done + size / 1e9)
            done += size / 1e9
            if size:
                tip = f"<title>{group}: {size / 1e9:,.2f} GB</title>"
                board.add("rect", tip, cls=f"c{j}", x=a, y=y, width=max(b - a, 0.4), height=24)
        board.text(min(scale(done) + 6, 800), y + 17, f"{plan.total_gb:,.1f}", "tick")
    if room:
        board.line(scale(room), top - 8, scale(room), bottom, "zero")
        board.text(scale(room) + 4, top - 10, str(device), "tick")
    return board.svg()
