"""Steps of optimizers behind one call: `(values, gradients, count, way) -> parameters`.

A stepper makes its parameters and states at its first call and steps them at every call; the
numbers that it was given stay as they are. Ways: "plain" fp32; "half" bf16; "blocks" 8-bit
states; "pass" gradients to unscale, a norm to clip, a step, and a bf16 copy of the result.

Shapes: values and gradients (n,) float32, cut into `count` tensors of equal size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from paragone._core.lazy import resolve

__all__ = ["BitsAndBytes", "Ours", "Torch", "numbers", "truth"]

_SCALE = 4.0
_NORM = 1.0
_OPTIONS = {"lr": 1e-3, "weight_decay": 0.1}


def numbers(count: int, size: int, way: str) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Returns normal parameters and gradients, how many tensors they are, and the way."""
    rng = np.random.default_rng(0)
    values, gradients = (rng.standard_normal(count * size, dtype=np.float32) for _ in "pg")
    if way == "half":
        # Numbers of bf16, so that all start from the same.
        values, gradients = (
            (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
            for x in (values, gradients)
        )
    return values, gradients, count, way


def truth(values: np.ndarray, gradients: np.ndarray, count: int, way: str) -> np.ndarray:
    """Returns the parameters after the first step, in float64."""
    g = gradients.astype(np.float64)
    if way == "pass":
        g = g / _SCALE
        g *= min(1.0, _NORM / (np.linalg.norm(g) + 1e-6))
    # After one step both corrected moments are those of the gradient itself.
    kept = (1 - _OPTIONS["lr"] * _OPTIONS["weight_decay"]) * values.astype(np.float64)
    return kept - _OPTIONS["lr"] * g / (np.abs(g) + 1e-8)


class _Stepper:
    """Keeps what the first call made."""

    def __init__(self) -> None:
        self.step: Callable[[], Any] | None = None
        self.params: tuple[Any, ...] = ()

    def __call__(
        self, values: np.ndarray, gradients: np.ndarray, count: int, way: str
    ) -> tuple[Any, ...]:
        if self.step is not None:
            self.step()
            return self.params
        self.step = self._start(values, gradients, count, way)
        self.step()
        # The first result is compared, by NumPy, which has no bf16.
        return tuple(p.float() for p in self.params)

    def _start(
        self, values: np.ndarray, gradients: np.ndarray, count: int, way: str
    ) -> Callable[[], Any]:
        import torch

        kind = torch.bfloat16 if way == "half" else torch.float32
        params = []
        for value, grad in zip(np.split(values, count), np.split(gradients, count), strict=True):
            params.append(torch.nn.Parameter(torch.from_numpy(value.copy()).to(kind)))
            params[-1].grad = torch.from_numpy(grad.copy()).to(kind)
        self.params = tuple(p.detach() for p in params)
        return self._made(params, way)

    def _made(self, params: list[Any], way: str) -> Callable[[], Any]:
        raise NotImplementedError


class Ours(_Stepper):
    """Paragone's AdamW, all of it in `step`."""

    def _made(self, params: list[Any], way: str) -> Callable[[], Any]:
        import torch

        options: dict[str, Any] = dict(_OPTIONS)
        if way == "half":
            options["rounding"] = "stochastic"
        if way == "blocks":
            options["states"] = "8bit"
        if way == "pass":
            options["max_norm"] = _NORM
            options["copy_to"] = [p.detach().bfloat16() for p in params]
        optimizer = resolve("paragone.training:AdamW")(params, **options)
        if way == "pass":
            optimizer.grad_scale = torch.tensor(_SCALE)
        return optimizer.step


class Torch(_Stepper):
    """PyTorch's AdamW; unscaling, clipping and copying as its users call them."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def _made(self, params: list[Any], way: str) -> Callable[[], Any]:
        import torch

        forms = {"fused": {"fused": True}, "foreach": {"foreach": True}}
        form: dict[str, Any] = forms.get(self.form, {"foreach": False})
        optimizer = torch.optim.AdamW(params, lr=1e-3, weight_decay=0.1, **form)
        if way != "pass":
            return optimizer.step
        grads, copies = [p.grad for p in params], [p.detach().bfloat16() for p in params]
        inverse, found = torch.tensor(1 / _SCALE), torch.tensor(0.0)

        unscale = resolve("torch:_amp_foreach_non_finite_check_and_unscale_")
        copy = resolve("torch:_foreach_copy_")

        def step() -> None:
            unscale(grads, found, inverse)
            torch.nn.utils.clip_grad_norm_(params, _NORM)
            optimizer.step()
            copy(copies, self.params)

        return step


class BitsAndBytes(_Stepper):
    """AdamW with 8-bit states of bitsandbytes."""

    def _made(self, params: list[Any], way: str) -> Callable[[], Any]:
        return resolve("bitsandbytes.optim:AdamW8bit")(params, **_OPTIONS).step
