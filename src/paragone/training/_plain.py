"""What the optimizers written in plain PyTorch share: one loop, one set of checks.

An optimizer here says what happens to one tensor (`_update`), or to all of a group (`_advance`).
The rest is the same for all: gradients that are None are passed over, sparse ones refused,
`maximize` turns the sign, fp16 and bf16 parameters are stepped in fp32 and rounded once, and
`load_state_dict` keeps the type of every state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Plain", "adamw_update", "between"]

_HALVES = (torch.float16, torch.bfloat16)


def between(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raises ValueError unless low <= value < high."""
    if not low <= float(value) < high:
        upper = f" and below {high:g}" if high < math.inf else " and finite"
        raise ValueError(f"{name}={value} is out of range: use {low:g} or above{upper}")


class Plain(Optimizer):
    """An optimizer whose step is written tensor by tensor.

    Args:
        params: Tensors, named tensors or groups, as for any optimizer of PyTorch.
        defaults: Hyper-parameters of groups that do not set their own.

    Attributes:
        shard_by: How a step may be divided among ranks: "element" where every number is stepped
            by itself, "tensor" where a step needs whole tensors.
        complex_reason: Why complex parameters are refused; "" where they are stepped.
    """

    shard_by: str = "element"
    complex_reason: str = ""

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; its hyper-parameters and tensors are checked.

        Raises:
            ValueError: A hyper-parameter is out of range, or a tensor cannot be stepped.
        """
        before = len(self.param_groups)
        super().add_param_group(param_group)
        try:
            group = self.param_groups[-1]
            self._check({**self.defaults, **group})
            for p in group["params"]:
                if p.is_complex() and self.complex_reason:
                    raise ValueError(
                        f"a complex parameter of shape {tuple(p.shape)}: {self.complex_reason}"
                    )
        except ValueError:
            del self.param_groups[before:]
            raise

    def _check(self, group: Mapping[str, Any]) -> None:
        """Raises ValueError where a hyper-parameter of the group is out of range."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Takes one step; parameters without a gradient stay as they are, undecayed.

        Args:
            closure: Computes the loss and its gradients anew; called once, before the step.

        Returns:
            What the closure returned.

        Raises:
            ValueError: A gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            ready = [p for p in group["params"] if p.grad is not None]
            for p in ready:
                if p.grad.layout != torch.strided:
                    raise ValueError(
                        f"{type(self).__name__} takes dense gradients; one of shape "
                        f"{tuple(p.shape)} is {p.grad.layout}: build the layer with sparse=False"
                    )
            if ready:
                self._advance(group, ready)
        return loss

    def _advance(self, group: dict[str, Any], ready: list[Tensor]) -> None:
        for p in ready:
            weight, grad = working(p, group["maximize"])
            self._update(weight, grad, self.state[p], group)
            if weight is not p:
                p.copy_(weight)

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: Any) -> None:
        """Steps one tensor in place; `grad` is not to be written."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state; tensors keep the type that they were saved with.

        PyTorch gives every state the type of its parameter, by which a bf16 parameter would
        lose its fp32 momentum.
        """
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        own = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(saved, own, strict=True):
            for key, value in state_dict["state"].get(index, {}).items():
                kept = self.state[p][key]
                if isinstance(value, Tensor) and kept.dtype != value.dtype:
                    self.state[p][key] = value.detach().clone().to(kept.device)


def working(p: Tensor, maximize: bool) -> tuple[Tensor, Tensor]:
    """Returns what is stepped and its gradient: fp32 copies of 16-bit tensors, else themselves."""
    weight, grad = p, p.grad
    assert grad is not None
    if p.dtype in _HALVES:
        weight, grad = p.float(), grad.float()
    return weight, -grad if maximize else grad


def adamw_update(
    p: Tensor, grad: Tensor, state: dict[str, Any], *, lr: float, betas: Iterable[float],
    eps: float, weight_decay: float,
) -> None:  # fmt: skip
    r"""One step of AdamW in place, bit-equal to PyTorch's for-loop; complex as pairs of reals.

    $p \leftarrow (1 - \eta\lambda) p - \eta \hat m / (\sqrt{\hat v} + \epsilon)$.
    """
    if p.is_complex():
        p, grad = torch.view_as_real(p), torch.view_as_real(grad)
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
    beta1, beta2 = betas
    state["step"] += 1
    t, m, v = state["step"].item(), state["exp_avg"], state["exp_avg_sq"]
    p.mul_(1 - lr * weight_decay)
    m.lerp_(grad, 1 - beta1)
    v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    denominator = (v.sqrt() / (1 - beta2**t) ** 0.5).add_(eps)
    p.addcdiv_(m, denominator, value=-lr / (1 - beta1**t))
