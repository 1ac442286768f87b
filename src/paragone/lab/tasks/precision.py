"""A run of training in a precision: same net, batches, optimizer and steps for all.

A contestant is a function `(model, optimizer, pilot, **params) -> trainer` as in
`contestants.trainers`. Weights and batches come from the block's seed. The judge reads the model
in float32 with whatever weights the contestant left in it.

Options (`Study.options`):
    steps: Problem to steps (a fourth of them in quick studies).
    lr: Problem to AdamW's learning rate, which falls to zero along a cosine.

Values: `loss` (at the end, on rows that were kept apart; the first loss where it is not finite),
`right` (share of right answers, or of variance), `diverged` (0 or 1), `skipped` (share of steps),
`underflow` (share of gradient numbers that rounding made zero, where that is known), `scale` (at
the end), `step_s` and `step_cpu_s` (median of a step). Curve: `loss over steps`, of batches.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch

from paragone.lab import nets
from paragone.lab.build import bind, load_inputs
from paragone.lab.probe import Probe
from paragone.lab.spec import Job

__all__ = ["run"]

_PILOT = 8
_POINTS = 40


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate: up in a twentieth of the steps, then down a cosine."""
    warm = max(steps // 20, 1)
    return min((step + 1) / warm, 0.5 * (1.0 + math.cos(math.pi * step / steps)))


def run(job: Job, probe: Probe) -> None:
    """Performs one run; see the module's text."""
    problem, seed = str(job.workload.facts["problem"]), job.block.seed
    with probe.phase("load"):
        x, y, x_judge, y_judge = load_inputs(job)
    probe.digest("data", x, y, x_judge, y_judge)
    steps = int(job.options["steps"][problem]) // (4 if job.quick else 1)
    model, part = nets.make_model(problem, seed), nets.SHARE.get(problem, 1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.01, fused=True)

    def pilot() -> Any:
        for inputs, targets in nets.batches(problem, x, y, _PILOT, seed + 1):
            yield inputs, targets, lambda out, t: nets.loss(problem, out, t) * part

    with probe.phase("import"):
        make = bind(job.contestant, job.workload.facts)
    with probe.phase("set_up"):
        trainer = make(model, optimizer, pilot)
    first = _judged(problem, model, x_judge, y_judge)[0]
    walls, cpus, losses, taken = [], [], [], 0
    with probe.phase("train"):
        for step, (inputs, targets) in enumerate(nets.batches(problem, x, y, steps, seed)):
            start, before = time.perf_counter(), time.process_time()
            for group in optimizer.param_groups:
                group["lr"] = float(job.options["lr"][problem]) * _rate(step, steps)
            with trainer.autocast():
                loss = nets.loss(problem, model(inputs), targets)
            trainer.backward(loss * part)
            taken += bool(trainer.step())
            optimizer.zero_grad()
            walls.append(time.perf_counter() - start)
            cpus.append(time.process_time() - before)
            losses.append(float(loss.detach()))
    final, share = _judged(problem, model, x_judge, y_judge)
    _record(probe, first, final, share, losses)
    probe.value("skipped", 1.0 - taken / steps)
    probe.value("scale", trainer.loss_scale)
    if math.isfinite(trainer.underflow):
        probe.value("underflow", trainer.underflow)
    probe.value("step_s", float(np.median(walls)))
    probe.value("step_cpu_s", float(np.median(cpus)))


def _record(probe: Probe, first: float, final: float, share: float, losses: list[float]) -> None:
    finite = math.isfinite(final)
    probe.value("loss", min(final, first) if finite else first)
    probe.value("right", share if finite else 0.0)
    probe.value("diverged", float(not finite or final >= first))
    width = max(len(losses) // _POINTS, 1)
    ends = range(width, len(losses) + 1, width)
    probe.curve("loss over steps", list(ends),
                [float(np.mean(losses[end - width : end])) for end in ends])  # fmt: skip


@torch.no_grad()
def _judged(problem: str, model: Any, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    output, target = model(torch.from_numpy(x)), torch.from_numpy(y)
    return float(nets.loss(problem, output, target)), nets.right(problem, output, target)
