r"""What PPO and GRPO share: gather, update, tell, stop; their difference is the update alone.

Shapes: A answers of a step.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paragone.language._preference_forward import Group
from paragone.language._preference_pairs import Aligned
from paragone.language._rollout_gather import Gathered, Prompts, Reference, gather
from paragone.language._rollout_sampling import checked_temperature, sampler_of
from paragone.language._rollout_terms import Watch
from paragone.language.fitting import Progressed
from paragone.training.by_name import make_optimizer
from paragone.training.run_folder import Interrupt

__all__ = ["Means", "Practice", "minibatches", "practise", "stepped"]


@dataclasses.dataclass(frozen=True)
class Practice:
    """How answers are drawn and steps are taken; see `paragone.language.ppo`."""

    steps: int
    batch: int
    size: int
    max_new_tokens: int
    temperature: float
    truncated: Literal["none", "score"] | float
    lr: float
    warmup: float
    optimizer: str
    clip_norm: float | None
    seed: int
    backend: str = "auto"

    def __post_init__(self) -> None:
        checked_temperature(self.temperature)
        for name in ("steps", "batch", "size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1")
        if isinstance(self.truncated, str) and self.truncated not in ("none", "score"):
            raise ValueError(f"truncated={self.truncated!r}: 'none', 'score' or a number")


class Means:
    """Sums and counts by name."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, **values: Tensor) -> None:
        """Adds all numbers of tensors."""
        for name, tensor in values.items():
            so_far = self.sums.setdefault(name, [0.0, 0.0])
            so_far[0] += float(tensor.detach().double().sum())
            so_far[1] += tensor.numel()

    def read(self) -> dict[str, float]:
        """Means so far."""
        return {name: total / max(count, 1) for name, (total, count) in self.sums.items()}


def minibatches(
    groups: Sequence[Group], parts: int, seed: tuple[int, ...]
) -> Iterator[tuple[list[int], list[Group]]]:
    """Yields numbers and groups of about equal parts, in an order that follows from the seed.

    Args:
        groups: Prompts with answers.
        parts: How many.
        seed: Numbers.
    """
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(groups))
    for part in np.array_split(order, min(parts, len(groups))):
        yield part.tolist(), [groups[at] for at in part]


def stepped(
    optimizer: torch.optim.Optimizer, network: nn.Module, loss: Tensor, clip_norm: float | None
) -> float:
    """Takes one step, and returns the norm of the gradient.

    Args:
        optimizer: Of the network's parameters.
        network: What is trained.
        loss: A scalar.
        clip_norm: Largest norm, or None.

    Raises:
        ValueError: The loss is no number.
    """
    if not bool(torch.isfinite(loss)):
        raise ValueError(f"the loss is {float(loss)}: lower lr, or clip_norm")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trained = [p for p in network.parameters() if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(trained, math.inf if clip_norm is None else clip_norm)
    optimizer.step()
    return float(norm)


def practise(
    model: Any,
    prompts: Prompts,
    reward: Any,
    reference: Reference,
    how: Practice,
    update: Callable[[Gathered, int, torch.optim.Optimizer, float], Mapping[str, float]],
    progress: Callable[[Progressed], None] | None,
    stop: Sequence[int],
) -> Aligned:
    """Gathers, updates and tells, step after step.

    Args:
        model: The policy.
        prompts: All prompts.
        reward: A function of prompts and answers, or a `RewardModel`.
        reference: What the divergence is measured from.
        how: Numbers.
        update: Takes experience, the step, the optimizer and the share of the full learning rate;
            returns means.
        progress: Called with each event.
        stop: Tokens that end an answer.
    """
    tell = progress or (lambda event: None)
    optimizer = make_optimizer(model, how.optimizer, lr=how.lr)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    sampler = sampler_of(model, how.backend)
    history: list[dict[str, Any]] = []
    notes: list[str] = []
    watch, begun, tokens = Watch(), time.monotonic(), 0
    model.eval()
    with Interrupt() as interrupt:
        for step in range(how.steps):
            share = _share(how, step)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * share
            found = gather(
                model, prompts, reward, reference, prompts.pick(step, how.batch, how.seed),
                size=how.size, max_new_tokens=how.max_new_tokens, temperature=how.temperature,
                stop=stop, truncated=how.truncated, seed=(how.seed, step), sampler=sampler,
            )  # fmt: skip
            line: dict[str, Any] = {"step": step, **found.summary()}
            diagnosis = watch.check(found.ratios)
            if diagnosis is None:
                line |= update(found, step, optimizer, share)
            tokens += int(found.counts.sum())
            seconds = time.monotonic() - begun
            line |= {"seconds": round(seconds, 3), "lr": how.lr * share}
            history.append(line)
            done = (step + 1) / how.steps
            tell(Progressed(
                "step", step + 1, how.steps, line.get("loss", math.nan),
                {name: line[name] for name in ("reward", "kl")}, tokens / max(seconds, 1e-9),
                seconds, seconds * (1 - done) / done, "", done,
            ))  # fmt: skip
            if diagnosis is not None:
                notes.append(f"stopped before the update of step {step}: {diagnosis}")
                tell(Progressed("note", text=notes[-1]))
                break
            if interrupt.pending:
                notes.append(f"interrupted after step {step}")
                tell(Progressed("note", text=notes[-1]))
                break
    seconds = time.monotonic() - begun
    tell(Progressed("end", len(history), how.steps, seconds=seconds, done=1.0))
    return Aligned(model, history, history[-1], notes, seconds)


def _share(how: Practice, step: int) -> float:
    rise = how.warmup * how.steps
    return min(1.0, (step + 1) / (rise + 1)) if rise > 0 else 1.0
