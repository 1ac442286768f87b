"""`norm_act`: chooses the back end of a call and keeps the running statistics.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.kernels import choice
from paragone.kernels.backends import why_not
from paragone.vision.ops.norm_act.reference import ACTIVATIONS, activate

__all__ = ["norm_act"]

_LEAST, _PLAIN = 1 << 16, (Tensor, nn.Parameter)


def _numba(
    x: Tensor, weight: Tensor | None, mean: Tensor | None, named: str = "auto"
) -> str | None:  # fmt: skip
    if named != "numba" and torch.compiler.is_compiling():
        return "a compiler sees more in torch's own operations"
    if x.device.type != "cpu":
        return f"it serves the CPU, not {x.device.type}"
    for tensor in (x, weight, mean):
        if tensor is not None and tensor.dtype != torch.float32:
            return f"it computes in float32, and the map or its statistics are {tensor.dtype}"
    if not x.is_contiguous(memory_format=torch.channels_last):
        return "the map is not in channels-last order: net.to(memory_format=torch.channels_last)"
    if x.numel() == 0:
        return "the map is empty"
    if named != "numba" and x.numel() < _LEAST:
        return "the map is small, and torch starts sooner"
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
    if not _fused(x, weight, running_mean, backend):
        y = functional.batch_norm(
            x, running_mean, running_var, weight, bias, training, momentum, eps
        )  # fmt: skip
        return activate(y, activation)
    if training and x.numel() == x.shape[1]:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {x.shape}"
        )
    weight = torch.ones(x.shape[1]) if weight is None else weight
    bias = torch.zeros(x.shape[1]) if bias is None else bias
    return _by_numba(
        x, weight, bias, running_mean, running_var, training, momentum, eps, activation
    )  # fmt: skip


@functools.cache
def _ready() -> bool:
    return why_not("numba") is None


def _fused(x: Tensor, weight: Tensor | None, mean: Tensor | None, backend: str) -> bool:
    if backend == "auto":
        return _numba(x, weight, mean) is None and _ready()
    facts = {"x": x, "weight": weight, "mean": mean}
    return choice.choose("norm_act", backend, **facts, named=backend) == "numba"


def _by_numba(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, var: Tensor | None,
    training: bool, momentum: float, eps: float, activation: str,
) -> Tensor:  # fmt: skip
    from paragone.vision.ops.norm_act import _cpu

    fused = activation if activation in _cpu.FORMS else "none"
    form = list(_cpu.FORMS).index(fused)
    if not torch.compiler.is_compiling() and all(type(t) in _PLAIN for t in (x, weight, bias)):
        inputs = (x, weight, bias, mean, var, training, momentum, eps, form)
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            y: Any = _cpu.NormActFunction.apply(*inputs)
        else:
            y = _cpu.forward(*inputs)[0]
    else:
        given = (None, None) if training else (mean, var)
        y, stats = _cpu.norm_act_cpu(x, weight, bias, *given, eps, form)
        if training and mean is not None and var is not None:
            count = x.numel() // x.shape[1]
            with torch.no_grad():
                mean.lerp_(stats[0], momentum)
                var.lerp_(stats[1] * (count / (count - 1)), momentum)
    return y if fused == activation else activate(y, activation)
