r"""One run of the study `multi_token_training`: does guessing further tokens make a model better?

A contestant is a function of a `Llama` that makes an `Objective`: a module that turns windows of
text into a loss to follow, and tells the loss of the next token apart from it. Whatever else it
has (modules, heads) is trained beside the model and thrown away: only the model is judged,

$$ \ell = \ell_1 + \lambda \sum_{d > 1} w_d\, \ell_d , \qquad
   \text{judged by } \ell_1 \text{ on text held out.} $$

All contestants begin with the same model, read the same windows in the same order and have the
same optimizer. What they have in common besides is the budget: "tokens", so that further losses
are free, or "time", in which a contestant reads fewer tokens the more a step of it costs,

$$ D = D_0 \cdot \min_i t^{(0)}_i \,/\, \min_i t_i , $$

with CPU seconds t of steps that are made in turn with those of plain training, on copies, before
the run begins. The schedule ends with the budget in either case.

Values: `loss` (nats a symbol, of the next one), `train_loss`, `tokens`, `epochs`, `a_step` (CPU
time of a step by that of a plain one), `parameters`, `in_training` (parameters, those that are
thrown away included), `accepted` (share of the first further head's guesses on held-out text that
the main head makes, too, once it is there), `tokens_ahead` (1 and the products of these shares
over the depths: about the tokens a step of greedy drafting), `train_s`, `train_cpu_s`,
`train_extra`. Curves: `loss over tokens`, `accepted by depth`.

References:
    Gloeckle et al. (2024), arXiv:2404.19737, section 2; DeepSeek-AI (2024), arXiv:2412.19437,
    eq. 21-25.

Shapes: B rows, T time, V symbols, D symbols trained on.
"""

from __future__ import annotations

import copy
import math
import time
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone._core.lazy import resolve
from paragone.lab.build import load_inputs, resolve_target
from paragone.lab.probe import Probe
from paragone.lab.sequences import drawn_from
from paragone.lab.spec import Job
from paragone.lab.tasks.language_scaling import Text, rate_of

__all__ = ["ROWS", "TIME", "Objective", "run", "windows"]

TIME, ROWS = 64, 16
_RISE, _CLIP, _DECAY, _MARKS = 0.1, 1.0, 0.1, 16
_TRIED = 18
_JUDGED = 768


class Objective(Protocol):
    """What a contestant makes: a module whose parameters are all that is trained."""

    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T + 1) symbols to the mean loss to follow, and that of the next symbol alone."""
        ...

    def parameters(self) -> Any:
        """The model's, and those of what is thrown away."""
        ...

    def agreed(self, ids: Tensor) -> list[float]:
        """Share of guesses at each depth that the main head makes, too, once it is there."""
        ...


def windows(part: Tensor, rows: int) -> Tensor:
    """(rows, T + 1) windows, evenly spread, the same at every call."""
    starts = torch.linspace(0, len(part) - TIME - 1, rows).long()
    return part[starts[:, None] + torch.arange(TIME + 1)]


def _model(text: Text, facts: Any, seed: int) -> nn.Module:
    with drawn_from(seed):
        make = resolve("paragone.lab.contestants.scaling:decoder")
        return make(text.symbols, int(facts["width"]), int(facts["layers"]))


def _optimizer(objective: Any, rate: float) -> torch.optim.Optimizer:
    weights = list(objective.parameters())
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": _DECAY},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)


def _step(objective: Any, optimizer: Any, batch: Tensor) -> float:
    """One step; returns the loss of the next symbol."""
    optimizer.zero_grad(set_to_none=True)
    loss, main = objective(batch)
    loss.backward()
    nn.utils.clip_grad_norm_(list(objective.parameters()), _CLIP)
    optimizer.step()
    return float(main)


def _plain(model: nn.Module) -> Any:
    return resolve("paragone.lab.contestants.multi_token:next_token")(model)


def _ratio(objective: Any, model: nn.Module, batch: Tensor) -> float:
    """CPU time of a step by that of a plain one: of steps in turn, the least of each."""
    pair = [copy.deepcopy(objective), _plain(copy.deepcopy(model))]
    optimizers = [_optimizer(one, 1e-4) for one in pair]
    spent: list[list[float]] = [[], []]
    for _ in range(_TRIED):
        for one, optimizer, times in zip(pair, optimizers, spent, strict=True):
            began = time.process_time()
            _step(one, optimizer, batch)
            times.append(time.process_time() - began)
    return min(spent[0][2:]) / max(min(spent[1][2:]), 1e-9)


def _train(
    objective: Any, text: Text, rate: float, steps: int, seed: int
) -> tuple[list[tuple[int, float]], float, float]:
    """Marks of the loss over symbols; wall and CPU seconds of the steps."""
    optimizer, rng = _optimizer(objective, rate), np.random.default_rng(seed)
    rise, every = max(1, round(_RISE * steps)), max(1, steps // _MARKS)
    marks, last, wall, cpu = [], 0.0, 0.0, 0.0
    for t in range(1, steps + 1):
        starts = torch.from_numpy(rng.integers(0, len(text.train) - TIME, ROWS))
        batch = text.train[starts[:, None] + torch.arange(TIME + 1)]
        for group in optimizer.param_groups:
            group["lr"] = rate * min(t / rise, (steps + 1 - t) / (steps + 1 - rise))
        began = time.perf_counter(), time.process_time()
        last += _step(objective, optimizer, batch)
        wall += time.perf_counter() - began[0]
        cpu += time.process_time() - began[1]
        if t % every == 0:
            marks.append((t * ROWS * TIME, last / every))
            last = 0.0
    return marks, wall, cpu


@torch.no_grad()
def _judge(model: Any, held: Tensor) -> np.ndarray:
    """Mean loss of the next symbol, of each window."""
    found = []
    for part in held.split(128):
        logits = model(part[:, :-1]).logits
        loss = functional.cross_entropy(
            logits.flatten(0, 1), part[:, 1:].flatten(), reduction="none"
        )
        found.append(loss.view(len(part), TIME).mean(1))
    return torch.cat(found).double().numpy()


def run(job: Job, probe: Probe) -> None:
    """Performs the run; see the module's text."""
    torch.set_num_threads(job.threads)
    facts, seed = job.workload.facts, job.block.seed
    with probe.phase("load"):
        text: Text = load_inputs(job)[0]
    held = windows(text.test, _JUDGED)
    with probe.phase("import"):
        model = _model(text, facts, seed)
        probe.digest("data", text.train[:4096], held)
        probe.digest("start", *model.state_dict().values())
        with drawn_from(seed + 1):
            objective = resolve_target(job.contestant.make)(model, **job.contestant.params)
    weights = sum(p.numel() for p in model.parameters())
    with probe.phase("first_call"):
        ratio = _ratio(objective, model, windows(text.train, ROWS))
    budget = float(facts["tokens"]) / (ratio if facts["budget"] == "time" else 1.0)
    steps = max(1, round(budget / (ROWS * TIME)))
    with probe.phase("train"):
        marks, wall, cpu = _train(objective, text, rate_of(weights), steps, seed)
    model.eval()
    # Seeds differ more than test windows do, so that windows are no evidence of their own.
    loss, phase = float(_judge(model, held).mean()), probe.phases["train"]
    tokens = steps * ROWS * TIME
    told = {
        "loss": loss if math.isfinite(loss) else 99.0, "train_loss": marks[-1][1],
        "tokens": tokens, "epochs": tokens / len(text.train), "a_step": ratio,
        "parameters": weights, "in_training": sum(p.numel() for p in objective.parameters()),
        "train_s": wall, "train_cpu_s": cpu, "train_extra": max(phase["peak"] - phase["start"], 0),
    }  # fmt: skip
    for name, value in told.items():
        probe.value(name, value)
    probe.curve("loss over tokens", *zip(*marks, strict=True))
    shares = objective.agreed(held)
    probe.value("tokens_ahead", 1 + float(np.cumprod(shares).sum()))
    if shares:
        probe.value("accepted", shares[0])
        probe.curve("accepted by depth", list(range(1, len(shares) + 1)), shares)
