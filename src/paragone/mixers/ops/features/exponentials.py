r"""Features as exponentials relative to a maximum that cancels in attention's quotient.

$$ \phi_{tf} = e^{\max(x_{tf} - s_t - M_t,\, l)}, \qquad
   M_t = \max_f x_{tf} - s_t \quad\text{or}\quad
   M_t = \max\!\big(M_{t-1},\, \max_f x_{tf} - s_t\big) $$

M counts as a constant in the gradient, which is right because the quotient does not depend on it.

Shapes: B rows, H heads, T time, F features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paragone.kernels import choice

__all__ = ["NEVER", "exp_features"]

NEVER = -1e30
"""The running maximum before the first key."""


def exp_features(
    reach: Tensor,
    shift: Tensor,
    start: Tensor | None = None,
    *,
    lowest: float = -torch.inf,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Returns (B, H, T, F) features and the (B, H, T) level that they are relative to.

    Args:
        reach: (B, H, T, F) x.
        shift: (B, H, T) s; +inf hides a token (its features are 0).
        start: (B, H) running maximum so far; None: each token is relative to its own.
        lowest: l.
        backend: "auto", or a name from `paragone.kernels.choice.backends("exp_features")`.
    """
    facts = {"device": reach.device.type, "dtype": reach.dtype}
    served = choice.choose("exp_features", backend, **facts)
    running = start is not None
    start = shift.new_full(shift.shape[:2], NEVER) if start is None else start
    if served == "numba":
        learns = torch.is_grad_enabled() and (reach.requires_grad or shift.requires_grad)
        if learns or torch.compiler.is_compiling() or type(reach) is not Tensor:
            return _exps(reach, shift, start, running, lowest)
        from paragone.mixers.ops.features import _cpu

        return _cpu.exps(reach.detach(), shift.detach(), start.detach(), running, lowest)
    return _by_torch(reach, shift, start, running, lowest)


def _by_torch(
    reach: Tensor, shift: Tensor, start: Tensor, running: bool, lowest: float
) -> tuple[Tensor, Tensor]:
    level = reach.detach().amax(-1) - shift.detach()
    if running and level.shape[2]:
        level = torch.maximum(torch.cummax(level, dim=2).values, start.detach()[..., None])
    hidden = shift == torch.inf
    exponent = reach - (shift.masked_fill(hidden, 0) + level)[..., None]
    found = exponent.clamp(min=lowest).exp()
    return found.masked_fill(hidden[..., None], 0), level


def _numba(device: str, dtype: torch.dtype) -> str | None:
    if device != "cpu":
        return f"the tensors are on {device}, not cpu"
    return None if dtype == torch.float32 else f"the tensors are {dtype}, not torch.float32"


choice.register("exp_features", {"numba": _numba, "torch": lambda device, dtype: None})


@torch.library.custom_op("paragone::exp_features", mutates_args=())
def _exps(
    reach: Tensor, shift: Tensor, start: Tensor, running: bool, lowest: float
) -> tuple[Tensor, Tensor]:
    from paragone.mixers.ops.features import _cpu

    return _cpu.exps(reach, shift, start, running, lowest)


@_exps.register_fake
def _(
    reach: Tensor, shift: Tensor, start: Tensor, running: bool, lowest: float
) -> tuple[Tensor, Tensor]:
    return reach.new_empty(reach.shape), shift.new_empty(shift.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[0])


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    slope = grad * ctx.saved_tensors[0]
    return slope, -slope.sum(-1), None, None, None


_exps.register_autograd(_gradients, setup_context=_keep)
