r"""A step of the optimizer on one rank or many, in any precision: `fitting.Loop`'s lower half.

Gradients are those of the sum over all micro-batches and ranks divided by the count of all. The
count is not known before the last forward pass, so a step divides by a guess first, and by what is
missing in the end; with one micro-batch the guess is the count itself.

References:
    Li et al. (2020), "PyTorch distributed", arXiv:2006.15704, section 3.2.3.
    Rajbhandari et al. (2020), "ZeRO", arXiv:1910.02054, section 5.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from paragone._core.lazy import resolve
from paragone.training.by_name import OPTIMIZERS, make_optimizer
from paragone.training.precision import MixedPrecision

__all__ = ["Ranks", "Way"]


class Ranks:
    """The ranks of the default process group, or one without any."""

    def __init__(self) -> None:
        there = dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size() if there else 1
        self.rank = dist.get_rank() if there else 0
        self.first = self.rank == 0
        self.place = "cuda" if there and dist.get_backend() == "nccl" else "cpu"

    def agreed(self, value: float) -> float:
        """The largest of all ranks' values."""
        if self.size == 1:
            return value
        found = torch.tensor(value, dtype=torch.float64, device=self.place)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return float(found)

    def added(self, values: Sequence[float]) -> list[float]:
        """Sums over the ranks."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64, device=self.place)
        dist.all_reduce(found)
        return found.tolist()

    def told(self, value: Any) -> list[Any]:
        """The small values of all ranks, in their order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def handed(self, value: Any, source: int) -> Any:
        """The value of one rank, tensors in it on the CPU."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, source)
        return held[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


class _Forward(nn.Module):
    """The loss as a module's call, as DistributedDataParallel wants it."""

    def __init__(self, model: nn.Module, loss: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, micro: Any) -> Any:
        found = self.loss(micro)
        return found.total, found


class Way:
    """How gradients are made and applied: alone, with DistributedDataParallel, or with ZeRO.

    Args:
        model: What is trained.
        recipe: A `fitting.Recipe`.
        loss: Micro-batch to a `fitting.Loss`.
        ranks: Who takes part.
        sharded: Whether a run that asks for ZeRO has it, as it had when it began; None begins
            now, and then several ranks have it.
    """

    def __init__(
        self, model: nn.Module, recipe: Any, loss: Callable[[Any], Any], ranks: Ranks,
        sharded: bool | None = None,
    ) -> None:  # fmt: skip
        self.model, self.recipe, self.ranks, self.loss = model, recipe, ranks, loss
        self.zero = self.mixed = self.parallel = None
        self.device = next(model.parameters()).device.type
        options = dict(recipe.optimizer_options)
        given: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
        if recipe.zero and (ranks.size > 1 if sharded is None else sharded):
            # The loss is part of the module: stage 3 has the head's weight within it alone.
            self.whole_step = _Forward(model, loss)
            self.zero = _sharded(self.whole_step, recipe, options)
            self.optimizer: Any = self.zero
        else:
            self.optimizer = make_optimizer(model, recipe.optimizer, **given, **options)
            self.mixed = MixedPrecision(model, self.optimizer, recipe.precision, group=False)
        if ranks.size > 1 and self.zero is None:
            self.parallel = nn.parallel.DistributedDataParallel(_Forward(model, loss))
        self.shares = [float(group["lr"]) / recipe.lr for group in self.optimizer.param_groups]

    def set_rate(self, lr: float) -> None:
        """Sets the learning rate; groups keep their shares of it."""
        for group, share in zip(self.optimizer.param_groups, self.shares, strict=True):
            group["lr"] = share * lr

    def step(self, micros: Sequence[Any]) -> tuple[dict[str, tuple[float, float]], int]:
        """One step; returns sums and counts by name over all ranks, "loss" first, and tokens."""
        found, guess = [], 1.0
        for number, micro in enumerate(micros):
            last = number == len(micros) - 1
            with self._quiet(last):
                loss = self._forward(micro)
                if number == 0:
                    first, many = self.ranks.added([_number(loss.count), len(micros)])
                    guess = max(first * many / self.ranks.size**2, 1.0)
                self._backward(loss.total / guess)
            found.append(loss)
        sums, tokens = _summed(found, self.ranks)
        self._apply(self.ranks.size * guess / max(sums["loss"][1], 1.0))
        return sums, tokens

    def _forward(self, micro: Any) -> Any:
        with self._autocast():
            if self.zero is not None:
                return self.whole_step(micro)[1]
            if self.parallel is not None:
                return self.parallel(micro)[1]
            return self.loss(micro)

    def value(self, micro: Any) -> Any:
        """The loss of a micro-batch as in training; every rank must call it equally often."""
        with self._autocast():
            return self.loss(micro) if self.zero is None else self.whole_step(micro)[1]

    def _autocast(self) -> Any:
        if self.mixed is not None:
            return self.mixed.autocast()
        narrow = self.recipe.precision == "bf16"
        return torch.autocast(self.device, torch.bfloat16, enabled=narrow)

    def _quiet(self, last: bool) -> Any:
        """Gradients are reduced with the last micro-batch alone."""
        if last:
            return contextlib.nullcontext()
        if self.parallel is not None:
            return self.parallel.no_sync()
        return contextlib.nullcontext() if self.zero is None else self.zero.no_sync()

    def _backward(self, loss: Tensor) -> None:
        if self.mixed is not None:
            self.mixed.backward(loss)
        else:
            loss.backward()

    def _apply(self, factor: float) -> None:
        if self.zero is not None:
            self.zero.step(grad_scale=1 / factor)
            return
        assert self.mixed is not None
        if not math.isclose(factor, 1.0, rel_tol=1e-12):
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            torch._foreach_mul_(grads, factor)  # pyright: ignore[reportPrivateImportUsage]
        self.mixed.step(self.recipe.clip_norm)
        self.mixed.zero_grad()

    @contextlib.contextmanager
    def for_evaluation(self) -> Iterator[None]:
        """Within it the weights are those to be used (schedule-free averages them)."""
        switches = [] if not hasattr(self.optimizer, "eval") else [self.optimizer]
        if self.zero is not None and not hasattr(self.zero.inner, "eval"):
            switches = []
        for one in switches:
            one.eval()
        try:
            yield
        finally:
            for one in switches:
                one.train()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Within it this process has all parameters."""
        with contextlib.nullcontext() if self.zero is None else self.zero.gathered():
            yield

    def state(self) -> dict[str, Any]:
        """All that a run goes on from, on the first rank; every rank must call it."""
        if self.zero is not None:
            return {"zero": self.zero.full_state_dict()}
        assert self.mixed is not None
        moving = {n for n, p in self.model.named_parameters() if p.requires_grad}
        still = {n for n, p in self.model.named_parameters() if not p.requires_grad}
        state = self.model.state_dict()
        return {
            "model": {n: v for n, v in state.items() if n in moving or n not in still},
            "optimizer": self.optimizer.state_dict(), "mixed": self.mixed.state_dict(),
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave.

        Raises:
            ValueError: It is of another way of sharing, or of another model.
        """
        if ("zero" in state) != (self.zero is not None):
            raise ValueError(
                "the state was written with ZeRO and is read without it, or the other way round; "
                "go on with the same zero and more than one rank"
            )
        if self.zero is not None:
            self.zero.load_full_state_dict(state["zero"])
            return
        assert self.mixed is not None
        found = self.model.load_state_dict(state["model"], strict=False)
        wanted = {n for n, p in self.model.named_parameters() if p.requires_grad}
        lacking = wanted & set(found.missing_keys)
        if lacking or found.unexpected_keys:
            raise ValueError(
                f"the state is of another model: {len(lacking)} parameters lack, "
                f"{len(found.unexpected_keys)} are unknown"
            )
        self.optimizer.load_state_dict(state["optimizer"])
        self.mixed.load_state_dict(state["mixed"])


def _sharded(model: nn.Module, recipe: Any, options: dict[str, Any]) -> Any:
    if recipe.precision == "fp16":
        raise ValueError("precision='fp16' has no loss scale under ZeRO; take 'bf16' or 'fp32'")
    name = recipe.optimizer
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer {name!r} is none of {', '.join(OPTIMIZERS)}")
    plain = make_optimizer(model, name, lr=recipe.lr, weight_decay=recipe.weight_decay, **options)
    groups = [dict(group) for group in plain.param_groups]
    kind = resolve(f"paragone.training:{OPTIMIZERS[name]}")
    zero = resolve("paragone.training:Zero")
    units = tuple({type(m) for m in model.modules() if type(m).__name__ == "Block"})
    return zero(
        model, kind, stage=recipe.zero, params=groups, engine=recipe.engine, units=units,
        max_norm=recipe.clip_norm, lr=recipe.lr,
    )  # fmt: skip


def _number(value: Any) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def _summed(losses: Sequence[Any], ranks: Ranks) -> tuple[dict[str, tuple[float, float]], int]:
    sums: dict[str, list[float]] = {"loss": [0.0, 0.0]}
    tokens = 0.0
    for loss in losses:
        parts = {"loss": (loss.total, loss.count), **loss.metrics}
        for name, (total, count) in parts.items():
            so_far = sums.setdefault(name, [0.0, 0.0])
            so_far[0] += _number(total)
            so_far[1] += _number(count)
        tokens += _number(loss.count) if loss.tokens is None else loss.tokens
    names = list(sums)
    flat = ranks.added([tokens, *(x for name in names for x in sums[name])])
    pairs = zip(flat[1::2], flat[2::2], strict=True)
    return dict(zip(names, pairs, strict=True)), int(flat[0])
