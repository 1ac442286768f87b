r"""One run of an optimizer on one training problem: tune its rate, then train to the end.

A contestant is a class of optimizers, or a function `(model, *, lr, **params) -> Optimizer`; a
class gets the model's matrices as one group and the vectors, undecayed, as another. Every one
gets the same model, batches, steps and number of trials. In each block it is given

1. N trials of the rate: full runs on the train part, judged on the valid part. The first is in
   the middle of the contestant's `space["lr"]`; then the untried neighbour of the best, half a
   decade away, and once both neighbours are worse, the same with half the distance;
2. final runs with its best rate on train and valid together, judged on the test part: of all
   the steps, and of a half and a quarter of them, each to the end of a schedule of its own.

The rate rises over a tenth of the steps and falls to zero as a cosine,

$$ \eta_t = \eta \min\Bigl(\frac{t}{0.1\, T}, 1\Bigr)
   \frac{1 + \cos \pi \max(0, (t - 0.1\, T) / 0.9\, T)}{2} , $$

but stays constant after the rise for an optimizer with `train()` and `eval()`, which is
switched for judging. Trials and marks on the way are judged on about 150 examples, the ends on
all. A loss that is not finite ends a run and counts as twice the first one.

Where the workload says `decay_probe`, a contestant with a `weight_decay` also trains with five
times of it and with none. The curve "kept by gradient" tells, for eight equal shares of the
weights by their root mean square gradient, which share of its size each kept.

Values: `loss`, `accuracy`, `loss_half`, `loss_quarter`, `valid`, `rate`, `edge` (the best rate
was the least or largest tried), `diverged`, `train_s`, `train_cpu_s`, `optimizer_s` (one step),
`state_bytes`, `state_per` (bytes a parameter). Curves: `loss over steps`, `loss over budget`,
`valid over rate`, `kept by gradient`.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paragone.lab.build import load_inputs, resolve_target
from paragone.lab.probe import Probe
from paragone.lab.problems import Problem
from paragone.lab.spec import Job

__all__ = ["factor", "one_call", "run", "search", "state_bytes"]

RISE = 0.1
STEP = 0.5
MARKS = 6
SHARES = 8
SOME = 150
STRONG = 5.0
_SPACE = {"low": 1e-4, "high": 1e-1}

Maker = Callable[[nn.Module, float], torch.optim.Optimizer]


def search(
    judge: Callable[[float], float], low: float, high: float, trials: int
) -> dict[float, float]:
    """Rates tried, in order, to the value that `judge` gave each; the least is best.

    Example:
        >>> tried = search(lambda rate: abs(np.log10(rate) + 2), 1e-4, 1e-1, 6)
        >>> f"{min(tried, key=tried.get):.4f}"
        '0.0100'
    """
    middle, step = (math.log10(low) + math.log10(high)) / 2, STEP
    tried: dict[float, float] = {}
    place = middle
    while len(tried) < trials:
        tried[place] = judge(10**place)
        while True:
            best = min(tried, key=lambda at: (tried[at], at))
            sides = [best + step, best - step]
            if len(tried) > 2 and tried.get(sides[0], 0.0) > tried.get(sides[1], math.inf):
                sides.reverse()
            new = [side for side in sides if all(abs(side - at) > 1e-9 for at in tried)]
            if new:
                place = new[0]
                break
            step /= 2
    return {10**at: value for at, value in tried.items()}


def factor(t: int, steps: int, constant: bool) -> float:
    """Share of the rate at step t = 1, 2 ... of `steps`."""
    rise = max(1, round(RISE * steps))
    if t <= rise or constant:
        return min(1.0, t / rise)
    return (1 + math.cos(math.pi * (t - rise) / (steps - rise + 1))) / 2


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors of the state that are no scalars, each storage counted once."""

    def tensors(item: Any) -> Iterator[Tensor]:
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, Mapping):
            for part in item.values():
                yield from tensors(part)
        elif isinstance(item, list | tuple):
            for part in item:
                yield from tensors(part)

    found = {t.data_ptr(): t.numel() * t.element_size()
             for t in tensors(dict(optimizer.state)) if t.numel() > 1}  # fmt: skip
    return sum(found.values())


def maker(job: Job) -> Maker:
    """How this contestant is made for a model and a rate."""
    target, params = resolve_target(job.contestant.make), dict(job.contestant.params)
    if not (inspect.isclass(target) and issubclass(target, torch.optim.Optimizer)):
        return lambda model, rate: target(model, lr=rate, **params)

    def make(model: nn.Module, rate: float) -> torch.optim.Optimizer:
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        groups: list[dict[str, Any]] = [{"params": matrices}]
        if vectors:
            groups.append({"params": vectors, "weight_decay": 0.0})
        return target(groups, lr=rate, **params)

    return make


class _Training:
    """One run: a fresh model, an optimizer, and what is told of them."""

    def __init__(self, problem: Problem, make: Maker, rate: float, seed: int) -> None:
        self.problem, self.seed = problem, seed
        self.model = problem.model(seed)
        self.optimizer = make(self.model, rate)
        self.turns = callable(getattr(self.optimizer, "eval", None))
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.wall = self.cpu = self.first = 0.0
        self.each: list[float] = []
        self.marks: list[tuple[int, float]] = []

    def judge(self, part: str, most: int = SOME) -> dict[str, float]:
        """The loss on a part, or on some of it; infinite where it is no number."""
        optimizer: Any = self.optimizer
        if self.turns:
            optimizer.eval()
        told = self.problem.judge(self.model, part, most)
        if self.turns:
            optimizer.train()
        return told if math.isfinite(told["loss"]) else {**told, "loss": math.inf}

    def go(self, steps: int, parts: tuple[str, ...], marked: str = "", grads: Any = None) -> bool:
        """Trains; returns whether the loss stayed finite. Marks are judged off the clock."""
        optimizer: Any = self.optimizer
        if self.turns:
            optimizer.train()
        marks = {round(steps * (i + 1) / MARKS) for i in range(MARKS)} if marked else set()
        for t, (x, y) in enumerate(self.problem.batches(self.seed, steps, parts), start=1):
            began = time.perf_counter(), time.process_time()
            share = factor(t, steps, self.turns)
            for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * share
            optimizer.zero_grad()
            loss = self.problem.loss(self.model, x, y)
            loss.backward()
            inside = time.perf_counter()
            optimizer.step()
            ended = time.perf_counter()
            self.each.append(ended - inside)
            self.wall += ended - began[0]
            self.cpu += time.process_time() - began[1]
            last = float(loss.detach())
            if t == 1:
                self.first = last
            if not math.isfinite(last):
                return False
            if grads is not None:
                for p, total in zip(self.model.parameters(), grads, strict=True):
                    total.add_(p.grad.square() if p.grad is not None else 0.0)
            if t in marks:
                self.marks.append((t, self.judge(marked)["loss"]))
        return True


def run(job: Job, probe: Probe) -> None:
    """Performs the run; see the module's text."""
    torch.set_num_threads(job.threads)
    seed, facts = job.block.seed, job.workload.facts
    with probe.phase("load"):
        problem: Problem = load_inputs(job)[0]
    steps, trials = int(facts["steps"]), job.tune or int(facts["trials"])
    probe.digest("data", *problem.identity())
    probe.digest("model", *problem.model(seed).state_dict().values())
    probe.digest("batches", *next(problem.batches(seed, 1, ("train",))))
    with probe.phase("import"):
        make = maker(job)
    with probe.phase("first_call"):
        _Training(problem, make, 1e-4, seed).go(2, ("train",))
    with probe.phase("tune"):
        tried = _tune(job, problem, make, steps, trials)
    rate = min(tried, key=lambda at: (tried[at], at))
    probe.value("rate", rate)
    probe.value("edge", float(rate in (min(tried), max(tried))))
    probe.value("trials", len(tried))
    probe.value("valid", tried[rate])
    rates = sorted(tried)
    probe.curve("valid over rate", rates, [tried[at] for at in rates])
    _finals(problem, make, rate, steps, seed, probe)
    if facts.get("decay_probe") and job.contestant.params.get("weight_decay"):
        xs, ys = kept_by_gradient(problem, make, rate, steps, seed)
        probe.curve("kept by gradient", xs, ys)


def _tune(job: Job, problem: Problem, make: Maker, steps: int, trials: int) -> dict[float, float]:
    space = {**_SPACE, **job.contestant.space.get("lr", {})}

    def judge(rate: float) -> float:
        one = _Training(problem, make, rate, job.block.seed)
        done = one.go(steps, ("train",))
        return min(one.judge("valid")["loss"] if done else math.inf, 2 * one.first)

    return search(judge, space["low"], space["high"], trials)


def _finals(
    problem: Problem, make: Maker, rate: float, steps: int, seed: int, probe: Probe
) -> None:
    both, budget = ("train", "valid"), []
    for name, count in (("loss_quarter", steps // 4), ("loss_half", steps // 2), ("loss", steps)):
        one = _Training(problem, make, rate, seed)
        with probe.phase("final"):
            done = one.go(count, both, "test" if name == "loss" else "")
        told = one.judge("test", 0)
        loss = min(told["loss"] if done else math.inf, 2 * one.first)
        probe.value(name, loss)
        budget.append((count, loss))
    probe.value("diverged", float(not done or told["loss"] > one.first))
    if "accuracy" in told:
        probe.value("accuracy", told["accuracy"])
    probe.value("train_s", one.wall)
    probe.value("train_cpu_s", one.cpu)
    probe.value("optimizer_s", float(np.median(one.each)))
    held = state_bytes(one.optimizer)
    probe.value("state_bytes", held)
    probe.value("state_per", held / sum(p.numel() for p in one.model.parameters()))
    probe.curve("loss over budget", *zip(*budget, strict=True))
    if one.marks:
        marks = [(t, min(value, 2 * one.first)) for t, value in one.marks]
        probe.curve("loss over steps", *zip(*marks, strict=True))


def kept_by_gradient(
    problem: Problem, make: Maker, rate: float, steps: int, seed: int
) -> tuple[list[float], list[float]]:
    """Share of their size that weights keep under decay, by share of the largest gradients."""

    def trained(times: float) -> tuple[Tensor, Tensor]:
        one = _Training(problem, make, rate, seed)
        for group in one.optimizer.param_groups:
            group["weight_decay"] = times * group["weight_decay"]
        totals = [torch.zeros_like(p) for p in one.model.parameters()]
        one.go(steps, ("train", "valid"), grads=totals)
        one.judge("valid")
        found = [(p.detach(), g) for p, g in zip(one.model.parameters(), totals, strict=True)
                 if p.ndim > 1]  # fmt: skip
        return tuple(torch.cat([pair[i].flatten() for pair in found]).abs() for i in (0, 1))

    (free, gradients), (decayed, _) = trained(0.0), trained(STRONG)
    order = gradients.argsort(stable=True).tensor_split(SHARES)
    kept = [float(decayed[rows].sum() / free[rows].sum()) for rows in order]
    return [(i + 1) / SHARES for i in range(SHARES)], kept


def one_call(job: Job) -> Callable[[], Callable[[], None]]:
    """Returns what, called, imports the contestant and returns one step of training."""
    problem: Problem = load_inputs(job)[0]

    def load() -> Callable[[], None]:
        one = _Training(problem, maker(job), 1e-4, job.block.seed)

        def call() -> None:
            one.go(1, ("train",))

        return call

    return load
