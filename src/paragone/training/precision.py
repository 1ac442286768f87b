r"""Mixed precision: forward and backward in 16 or 8 bits, weights and update in 32.

Gradients of deep nets are small: many lie below $2^{-25}$, where fp16 rounds to zero. Since the
backward pass is linear in the loss, a factor $s$ there is a factor on every gradient,

$$ \nabla_\theta (s\,L) \,/\, s = \nabla_\theta L, \qquad 2^{-24} \le |s\,g| \le 65504 , $$

and it is taken out in float32, before anything else looks at the gradient. A constant $s$ must be
chosen (`UnderflowRecorder` does); a dynamic one halves when a gradient overflows, whose step is
left out, and doubles after 2000 clean steps. The other half of the recipe are master weights: an
update below half a unit of the weight's last place, $|\Delta\theta| < 2^{-11} |\theta|$ in fp16,
$2^{-8}$ in bf16, would be rounded away; summed into a float32 copy, it counts.

Where the machine has the format, `torch.autocast` computes in it. Where it has not (fp16 or fp8
on a CPU), the same numbers come from rounding at the same places, see `_simulate`.

Cost: one more pass over the gradients for their check, 4 bytes a weight for masters where the
model itself is narrow.

References:
    Micikevicius et al. (2018), "Mixed precision training", arXiv:1710.03740, sections 3.1 to 3.3.
    Kalamkar et al. (2019), "A study of BFLOAT16 for deep learning training", arXiv:1905.12322,
    for bf16 without scaling.
    Micikevicius et al. (2022), "FP8 formats for deep learning", arXiv:2209.05433.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paragone.training import formats
from paragone.training._loss_scale import LossScale
from paragone.training._masters import Masters
from paragone.training._simulate import POLICIES, Rounding
from paragone.training._underflow import Histogram, UnderflowRecorder

__all__ = ["Histogram", "MixedPrecision", "UnderflowRecorder"]

Precision = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "e4m3", "e5m2"]
_SCALED = ("fp16", "fp8", "e4m3", "e5m2")
_MANY_SKIPS = 25


class MixedPrecision:
    r"""A model and its optimizers, trained in a narrow format.

    Prefer it to `torch.amp.GradScaler` with `torch.autocast` if the code must know whether a step
    was taken (a schedule, a log), if several optimizers or ranks must skip together, if weights
    are stored narrow, or if the question is what a format would do on hardware that is not here.
    The scales are those of `GradScaler`, overflow for overflow, and so are the state's keys.

    Args:
        model: The model. With simulated formats its weights hold rounded values from now on and
            the true ones are in `state_dict`; hooks stay until `remove`.
        optimizer: Optimizer, or several, over the model's parameters.
        precision: "fp32", "tf32", "bf16", "fp16", "e4m3", "e5m2", or "fp8": e4m3 forward, e5m2
            backward.
        loss_scale: "dynamic", a constant, or None: dynamic for fp16 and 8 bits, 1 for the others,
            whose range is that of float32.
        simulate: Whether to round in software; None: only where `torch.autocast` cannot help
            (8 bits, TF32; fp16 on a CPU).
        master: Whether the optimizer works on float32 copies of narrow weights.
        rounding: How a weight without a master is rounded after a step: "nearest", "stochastic".
        init_scale: First dynamic scale.
        growth_factor: Its growth after `growth_interval` clean steps.
        backoff_factor: Its cut after an overflow.
        growth_interval: Clean steps in a row before growth.
        group: Process group over which an overflow counts; None: the default group where there
            is one; False: this process alone.
        sharded: Whether ranks hold different parameters: then norms add up over `group`.
        seed: Of stochastic rounding.

    Attributes:
        stepped: Whether the last `step` updated the weights; None before the first.
        skipped: Steps left out so far.
        steps: Calls of `step` so far.
        norm: Norm of the gradients at the last `step`, without the scale (float64).

    Example:
        >>> model = nn.Linear(4, 1)
        >>> mixed = MixedPrecision(model, torch.optim.SGD(model.parameters(), 0.1), "fp16")
        >>> with mixed.autocast(): loss = model(torch.ones(8, 4)).mean() / 100
        >>> mixed.backward(loss); mixed.step(clip_norm=1.0), mixed.loss_scale
        (True, 65536.0)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        precision: Precision = "bf16",
        *,
        loss_scale: Literal["dynamic"] | float | None = None,
        simulate: bool | None = None,
        master: bool = True,
        rounding: Literal["nearest", "stochastic"] = "nearest",
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        group: Any = None,
        sharded: bool = False,
        seed: int = 0,
    ) -> None:
        if precision not in (*POLICIES, "fp32"):
            known = ", ".join(("fp32", *POLICIES))
            raise ValueError(f"precision={precision!r} is none of {known}")
        if rounding not in ("nearest", "stochastic"):
            raise ValueError(f"rounding={rounding!r} is none of 'nearest', 'stochastic'")
        several = not isinstance(optimizer, torch.optim.Optimizer)
        self.optimizers: tuple[Any, ...] = tuple(optimizer) if several else (optimizer,)  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]
        self.model, self.precision = model, precision
        self.device = next((p.device.type for p in model.parameters()), "cpu")
        self.simulated = _simulates(precision, simulate, self.device)
        self.scaling = _scaling(loss_scale, precision, init_scale, growth_factor, backoff_factor,
                                growth_interval)  # fmt: skip
        self.rounding = Rounding(model, POLICIES[precision]) if self.simulated else None
        self.masters = Masters(model, self._parameters(), self.rounding, master,
                               rounding == "stochastic", seed)  # fmt: skip
        self.group, self.sharded = group, sharded
        self.stepped: bool | None = None
        self.skipped = self.steps = self._in_a_row = 0
        self.norm = math.nan
        self._unscaled = False

    def _parameters(self) -> list[Tensor]:
        found = [p for o in self.optimizers for g in o.param_groups for p in g["params"]]
        if not found:
            raise ValueError("the optimizer has no parameters: pass model.parameters() to it")
        if len({id(p) for p in found}) < len(found):
            raise ValueError(
                "a parameter is in two optimizers or groups: it would be stepped twice"
            )
        return found

    @property
    def loss_scale(self) -> float:
        """The factor on the loss now; it changes in `step` alone."""
        return self.scaling.value

    @property
    def _inverse(self) -> float:
        """1 / scale; with a scale that backed off to zero every step is left out."""
        return 1.0 / self.loss_scale if self.loss_scale > 0.0 else math.inf

    @property
    def underflow(self) -> float:
        """Share of the numbers in gradients, so far, that rounding made zero (simulated formats).

        Numbers that are zero before, such as those behind a ReLU, do not count; NaN where nothing
        is simulated.
        """
        if self.rounding is None:
            return math.nan
        return self.rounding.lost / max(self.rounding.seen, 1)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """The forward pass and the loss go in here; `backward` and `step` do not."""
        if self.rounding is not None:
            self.rounding.active = True
            try:
                yield
            finally:
                self.rounding.active = False
        elif self.precision in ("bf16", "fp16"):
            with torch.autocast(
                self.device, dtype=getattr(torch, formats.find(self.precision).dtype)
            ):
                yield
        else:
            yield

    def scale(self, loss: Tensor) -> Tensor:
        """Returns the loss times the scale, in float32."""
        return loss if self.loss_scale == 1.0 else loss.float() * self.loss_scale

    def backward(self, loss: Tensor, **options: Any) -> None:
        """Adds the scaled gradients; call it once for each micro-batch of a step.

        Raises:
            RuntimeError: Gradients were unscaled already: two scales would be summed.
        """
        if self._unscaled:
            raise RuntimeError("gradients are unscaled: call step() before the next backward()")
        self.scale(loss).backward(**options)

    def unscale(self) -> None:
        """Takes the scale out of the gradients, for code that reads or changes them before `step`.

        Until `step`, narrow weights show their float32 masters.

        Raises:
            RuntimeError: Called twice in a step, or there is no gradient.
        """
        if self._unscaled:
            raise RuntimeError("unscale() was called already in this step")
        self.masters.widen()
        grads = self._gradients()
        if not grads:
            raise RuntimeError("no parameter has a gradient: call backward() before")
        found = torch.zeros((), dtype=torch.float32)
        for device, some in _by_device(grads).items():
            flag = torch.zeros((), device=device)
            inverse = torch.tensor(self._inverse, dtype=torch.float64).float().to(device)
            torch._amp_foreach_non_finite_check_and_unscale_(some, flag, inverse)  # pyright: ignore[reportPrivateImportUsage]
            found = torch.maximum(found, flag.cpu())
        self._overflow = bool(found.item())
        self._unscaled = True

    def step(self, clip_norm: float | None = None) -> bool:
        """Checks all gradients, then clips them and steps every optimizer, or none.

        Args:
            clip_norm: Largest norm over all parameters, as `clip_grad_norm_` clips; None: none.

        Returns:
            Whether the weights were updated: `if mixed.step(): scheduler.step()`.
        """
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm={clip_norm} is no norm: use a number > 0, or None")
        with torch.no_grad():
            fused = not self._unscaled and all(
                getattr(o, "_step_supports_amp_scaling", False) for o in self.optimizers
            )
            if fused:
                self.masters.widen()
                self._overflow = False
            elif not self._unscaled:
                self.unscale()
            squares, overflow = self._measured()
            inverse = self._inverse if fused else 1.0
            self.norm = math.sqrt(squares) * inverse
            self.stepped = not overflow and math.isfinite(self.norm)
            if self.stepped:
                factor = min(1.0, (clip_norm or math.inf) / (self.norm + 1e-6))
                self._update(factor * inverse if fused else factor, fused)
            self.masters.narrow(changed=self.stepped, step=self.steps)
        self._count()
        return self.stepped

    def _update(self, factor: float, fused: bool) -> None:
        if not fused and factor < 1.0:
            torch._foreach_mul_(self._gradients(), factor)  # pyright: ignore[reportPrivateImportUsage]
        for optimizer in self.optimizers:
            if fused and factor != 1.0:
                place = optimizer.param_groups[0]["params"][0].device
                optimizer.grad_scale = torch.full((), 1.0 / factor, device=place)
                optimizer.found_inf = torch.zeros((), device=place)
            try:
                optimizer.step()
            finally:
                if fused and factor != 1.0:
                    del optimizer.grad_scale, optimizer.found_inf

    def _count(self) -> None:
        self.scaling.update(not self.stepped)
        self._unscaled = False
        self.steps += 1
        self.skipped += not self.stepped
        self._in_a_row = 0 if self.stepped else self._in_a_row + 1
        if self._in_a_row == _MANY_SKIPS:
            why = (
                "the loss itself may be infinite or no number" if self.scaling.dynamic
                else "a constant scale that is too large stops training; 'dynamic' lowers it"
            )  # fmt: skip
            warnings.warn(f"{_MANY_SKIPS} steps in a row were left out, at a loss scale of "
                          f"{self.loss_scale:g}: {why}", RuntimeWarning, stacklevel=3)  # fmt: skip

    def _gradients(self) -> list[Tensor]:
        found = (p.grad for o in self.optimizers for g in o.param_groups for p in g["params"])
        return [g.coalesce()._values() if g.is_sparse else g for g in found if g is not None]

    def _measured(self) -> tuple[float, bool]:
        """Sum of squares of all gradients, and whether any rank found one that is not finite."""
        grads = self._gradients()
        if not grads:
            raise RuntimeError("no parameter has a gradient: call backward() before step()")
        norms = torch._foreach_norm(grads, 2, dtype=torch.float64)  # pyright: ignore[reportPrivateImportUsage]
        squares = math.fsum(n.item() ** 2 for n in norms)
        overflow = self._overflow or not math.isfinite(squares)
        return self._agreed(squares, overflow)

    def _agreed(self, squares: float, overflow: bool) -> tuple[float, bool]:
        distributed = torch.distributed
        if (
            self.group is False
            or not distributed.is_available()
            or not distributed.is_initialized()
        ):
            return squares, overflow
        place = self.device if distributed.get_backend(self.group) == "nccl" else "cpu"
        flags = torch.tensor([float(overflow), 0.0 if overflow else squares],
                             dtype=torch.float64, device=place)  # fmt: skip
        distributed.all_reduce(flags, group=self.group)
        found, total = flags.tolist()
        return total if self.sharded else squares, found > 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of all optimizers."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Returns the scale, under the keys of `GradScaler`, the counts, and the true weights."""
        return {
            **self.scaling.state_dict(), "steps": self.steps, "skipped": self.skipped,
            "masters": self.masters.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave; a state of `GradScaler` sets the scale alone."""
        self.scaling.load_state_dict(state)
        self.steps, self.skipped = int(state.get("steps", 0)), int(state.get("skipped", 0))
        self.masters.load_state_dict(state.get("masters", {}))
        self._unscaled = False

    def remove(self) -> None:
        """Takes the hooks of simulated formats away and puts the true weights into the model."""
        self.masters.remove()
        if self.rounding is not None:
            self.rounding.remove()


def _simulates(precision: str, simulate: bool | None, device: str) -> bool:
    if precision == "fp32":
        return False
    needed = precision not in ("bf16", "fp16")
    if simulate is False and needed:
        raise ValueError(
            f"simulate=False: torch.autocast knows no {precision}; leave simulate out, or take "
            "'bf16' or 'fp16'"
        )
    if simulate is None:
        return needed or (precision == "fp16" and device == "cpu")
    return simulate


def _scaling(
    loss_scale: Literal["dynamic"] | float | None, precision: str, init_scale: float,
    growth: float, backoff: float, interval: int,
) -> LossScale:  # fmt: skip
    if loss_scale is None:
        loss_scale = "dynamic" if precision in _SCALED else 1.0
    if isinstance(loss_scale, str) and loss_scale != "dynamic":
        raise ValueError(f"loss_scale={loss_scale!r}: use 'dynamic', a number, or None")
    if loss_scale == "dynamic":
        return LossScale(init_scale, True, growth, backoff, interval)
    return LossScale(float(loss_scale), False, growth, backoff, interval)


def _by_device(grads: list[Tensor]) -> dict[torch.device, list[Tensor]]:
    found: dict[torch.device, list[Tensor]] = {}
    for grad in grads:
        found.setdefault(grad.device, []).append(grad)
    return found
