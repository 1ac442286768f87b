"""Causal depthwise convolution with its silu, forward and backward, with a state to go on from."""

from __future__ import annotations

import torch
from torch import Tensor

from paragone.kernels.choice import choose, register
from paragone.mixers.ops.conv1d import reference
from paragone.mixers.ops.conv1d.registration import causal_conv1d as _numba

__all__ = ["causal_conv1d"]

_STORED = (torch.float32, torch.bfloat16, torch.float16)


def _cpu(device: str, dtype: torch.dtype) -> str | None:
    if device != "cpu":
        return f"runs on the CPU, and the tensors are on {device}"
    return None if dtype in _STORED else f"works in float32, and the tensors are {dtype}"


register("causal_conv1d", {"numba": _cpu, "torch": lambda device, dtype: None})


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    silu: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Convolves every channel with its own taps over the past.

    Prefer it to `torch.nn.functional.conv1d`, which wants channels first, has no state and does
    the activation in a second pass.

    Args:
        x: (B, T, D); a slice of wider rows is not copied.
        weight: (D, K).
        bias: (D,) or None.
        state: (B, K - 1, D) inputs before the first, oldest first; None: zeros.
        lengths: (B,) tokens of each row; later outputs mean nothing.
        silu: Whether to apply silu to the result.
        backend: "auto", "numba" or "torch".

    Returns:
        (B, T, D), and the last K - 1 inputs of each row, to go on from.

    Raises:
        ValueError: Shapes that do not fit, or a back end that cannot serve.

    Example:
        >>> y, state = causal_conv1d(torch.ones(1, 5, 2), torch.ones(2, 3), silu=False)
        >>> y[0, :, 0]
        tensor([1., 2., 3., 3., 3.])
    """
    if x.ndim != 3 or weight.ndim != 2 or weight.shape[0] != x.shape[2]:
        raise ValueError(
            f"causal_conv1d: x {tuple(x.shape)} and weight {tuple(weight.shape)}; (B, T, D) and "
            "(D, K) are expected"
        )
    wanted = (x.shape[0], weight.shape[1] - 1, x.shape[2])
    if state is not None and tuple(state.shape) != wanted:
        raise ValueError(f"causal_conv1d: state {tuple(state.shape)}; {wanted} is expected")
    taken = choose("causal_conv1d", backend, device=x.device.type, dtype=x.dtype)
    form = _numba if taken == "numba" else reference.causal_conv1d
    last = reference.last_inputs(x, state, lengths, weight.shape[1] - 1)
    return form(x, weight, bias, state, silu), last
