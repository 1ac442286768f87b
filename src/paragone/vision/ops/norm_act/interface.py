"""`norm_act`: chooses the back end of a call and keeps the running statistics.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.kernels import choice
from paragone.vision.ops.norm_act.reference import ACTIVATIONS, activate

__all__ = ["norm_act"]

_LEAST = 1 << 12


def _numba(x: Tensor, weight: Tensor | None, named: str = "auto") -> str | None:
    if x.device.type != "cpu":
        return f"it serves the CPU, not {x.device.type}"
    if x.dtype != torch.float32 or (weight is not None and weight.dtype != torch.float32):
        return f"it computes in float32, and the map is {x.dtype}"
    if not x.is_contiguous(memory_format=torch.channels_last):
        return "the map is not in channels-last order: net.to(memory_format=torch.channels_last)"
    if x.numel() == 0:
        return "the map is empty"
    if named != "numba" and x.numel() < _LEAST:
        return "the map is small, and torch starts sooner"
    if named != "numba" and torch.compiler.is_compiling():
        return "a compiler sees more in torch's own operations"
    return None


choice.register("norm_act", {"numba": _numba, "torch": lambda **facts: None})


def norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    backend: str = "auto",
) -> Tensor:
    """Batch norm and an activation in one pass each way, keeping only `x` for the gradient.

    Prefer it to `functional.batch_norm` and an activation on a CPU, for maps in channels-last
    order; elsewhere it is these two.

    Args:
        x: (B, C, H, W).
        weight: (C,); ones without it.
        bias: (C,); zeros without it.
        running_mean: (C,), updated in training, used otherwise.
        running_var: (C,), unbiased, updated in training, used otherwise.
        training: Whether the statistics are those of the batch.
        momentum: Share of the new statistics in the running ones.
        eps: Added to the variance.
        activation: A name of `ACTIVATIONS`.
        backend: "auto", or a name from `paragone.kernels.choice.backends("norm_act")`.

    Raises:
        ValueError: An unknown activation, or one value a channel in training.

    Example:
        >>> norm_act(torch.randn(2, 8, 16, 16), activation="silu").shape
        torch.Size([2, 8, 16, 16])
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
    served = choice.choose("norm_act", backend, x=x, weight=weight, named=backend)
    if served == "torch":
        y = functional.batch_norm(
            x, running_mean, running_var, weight, bias, training, momentum, eps
        )  # fmt: skip
        return activate(y, activation)
    count = x.numel() // x.shape[1]
    if training and count == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {x.shape}"
        )
    if weight is None:
        weight = torch.ones(x.shape[1])
    if bias is None:
        bias = torch.zeros(x.shape[1])
    given = (None, None) if training else (running_mean, running_var)
    y, mean, var = _by_numba(x, weight, bias, *given, eps, activation)
    if training and running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = var.to(running_var.dtype) * (count / (count - 1))
            running_var.lerp_(unbiased, momentum)
    return y


def _by_numba(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, var: Tensor | None, eps: float,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    from paragone.vision.ops.norm_act import _cpu

    fused = activation if activation in _cpu.FORMS else "none"
    form = list(_cpu.FORMS).index(fused)
    inputs = (x, weight, bias, mean, var, eps, form)
    tensors = [t for t in inputs if isinstance(t, Tensor)]
    plain = all(type(t) in (Tensor, nn.Parameter) for t in tensors)
    run: Any = _cpu.norm_act_cpu
    if plain and not torch.compiler.is_compiling():
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        run = _cpu.NormActFunction.apply if learns else _cpu.forward
    y, mean, var, _ = run(*inputs)
    return (y if fused == activation else activate(y, activation)), mean, var
