"""Rounding in a model as narrow hardware would do it: hooks on modules, weights, gradients.

A matrix product of narrow type reads its inputs rounded and writes its output rounded; on the way
back the same holds for gradients. Here the numbers stay float32 and are rounded at those places,
in place wherever nobody else can see them. Sums inside a product are float32, as in tensor cores.

With 8 bits only what products read is rounded, forward in one format (saturating) and backward in
another; results stay wide, as libraries for such hardware do it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paragone.training import formats
from paragone.training.formats import Format

__all__ = ["POLICIES", "PRODUCTS", "Policy", "Rounding"]

PRODUCTS = (
    nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d,
    nn.ConvTranspose2d, nn.ConvTranspose3d, nn.RNNBase,
)  # fmt: skip
"""Modules that are matrix products."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Which format stands where.

    Attributes:
        weight: Format of weights as the model sees them.
        inputs: Format of what a product reads.
        output: Format of what any module writes.
        backward: Format of gradients that go back into a module.
        gradient: Format of the gradients of weights.
    """

    weight: str
    inputs: str
    output: str
    backward: str
    gradient: str


def _even(name: str) -> Policy:
    return Policy(weight=name, inputs=name, output=name, backward=name, gradient=name)


POLICIES = {
    "fp16": _even("fp16"),
    "bf16": _even("bf16"),
    "tf32": Policy(weight="fp32", inputs="tf32", output="fp32", backward="tf32", gradient="fp32"),
    "fp8": Policy(weight="e4m3", inputs="e4m3", output="fp32", backward="e5m2", gradient="bf16"),
    "e4m3": Policy(weight="e4m3", inputs="e4m3", output="fp32", backward="e4m3", gradient="bf16"),
    "e5m2": Policy(weight="e5m2", inputs="e5m2", output="fp32", backward="e5m2", gradient="bf16"),
}
"""Precision to policy; "fp8" is e4m3 forward and e5m2 backward."""


class _Round(torch.autograd.Function):
    """Rounds on the way forward and on the way back, each in its own format."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, owner: Rounding, there: Format, back: Format) -> Tensor:
        ctx.owner, ctx.back = owner, back
        return owner.rounded(x, there, forward=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.owner.rounded(gradients[0], ctx.back, forward=False), None, None, None


class Rounding:
    """The hooks of one model.

    Attributes:
        lost: Numbers in gradients that rounding made zero.
        seen: Numbers in gradients that were not zero before.
    """

    def __init__(self, model: nn.Module, policy: Policy) -> None:
        self.policy, self.lost, self.seen = policy, 0, 0
        self._formats = {name: formats.find(name) for name in vars(policy).values()}
        self._handles: list[Any] = []
        self.active = False
        for module in model.modules():
            if next(module.children(), None) is None and not isinstance(module, nn.Identity):
                self._attach(module)
        for parameter in model.parameters():
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook(self._on_gradient)
                self._handles.append(hook)

    def _attach(self, module: nn.Module) -> None:
        policy, wide = self.policy, self._formats[self.policy.output].mantissa == 23
        product = isinstance(module, PRODUCTS)
        if product:
            back = "fp32" if wide else policy.backward
            self._handles.append(
                module.register_forward_pre_hook(self._before(policy.inputs, back))
            )
        if product or not wide:
            self._handles.append(module.register_forward_hook(
                self._after(policy.output, policy.backward)
            ))  # fmt: skip

    def _before(self, there: str, back: str) -> Callable[..., Any]:
        return lambda module, inputs: self._mapped(inputs, there, back) if self.active else None

    def _after(self, there: str, back: str) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            return self._mapped(output, there, back) if self.active else None

        return hook

    def _mapped(self, value: Any, there: str, back: str) -> Any:
        if isinstance(value, Tensor):
            if value.dtype != torch.float32:
                return value
            pair = formats.find(there), formats.find(back)
            return _Round.apply(value, self, *pair)
        if isinstance(value, tuple | list):
            parts = [self._mapped(part, there, back) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if isinstance(value, dict):
            return {key: self._mapped(part, there, back) for key, part in value.items()}
        return value

    def rounded(self, x: Tensor, format: Format, *, forward: bool) -> Tensor:
        """Returns `x` rounded; gradients are counted."""
        if format.mantissa == 23:
            return x.view_as(x) if forward else x
        out = x.contiguous().clone()
        lost, alive, _ = formats.round_(out, format, saturate=forward and format.bits == 8)
        if not forward:
            self.lost, self.seen = self.lost + lost, self.seen + alive
        return out

    @torch.no_grad()
    def _on_gradient(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        format = formats.find(self.policy.gradient)
        if gradient is None or gradient.is_sparse or gradient.dtype != torch.float32:
            return
        lost, alive, _ = formats.round_(gradient, format)
        self.lost, self.seen = self.lost + lost, self.seen + alive

    def remove(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
