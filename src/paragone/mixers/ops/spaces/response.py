r"""The response of diagonal modes, a system for each channel, in one pass over time.

$s_t = e^{z} s_{t-1} + u_t$, $y_t = \mathrm{Re} \sum_n w_n s_{n,t}$: what a convolution with the
kernel of `vandermonde` gives, with the state as a by-product and without FFTs or a kernel. Numba
keeps modes in registers over blocks of time, which costs about 7 operations a mode and step; in
torch, chunks of products do it.

References:
    Gu, Gupta, Goel and Re (2022), S4D, arXiv:2206.11893, section 3.

Shapes: B rows, T time, H channels, n modes; planes of size 2 for real and imaginary parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.simd import WIDTH
from paragone.kernels.teams import share
from paragone.mixers.ops.spaces._choose import declare
from paragone.mixers.ops.spaces.scan import gain_of, turned

__all__ = ["response"]

declare("spaces_response")


def response(
    u: Tensor, rate: Tensor, weight: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Runs channels of diagonal modes over time; Numba's back end ("spaces_response").

    Args:
        u: (B, T, H) float32 inputs on the CPU.
        rate: (H, 2, n) rates z, with real parts of at most 0.
        weight: (H, 2, n) weights w.
        state: (B, H, 2, n) states before the first input.
        lengths: (B,) inputs of each row that count; outputs after them are 0.

    Returns:
        (B, T, H) outputs and (B, H, 2, n) states after each row's last input.

    Raises:
        ValueError: Shapes that do not agree.
    """
    rows, time, width = u.shape
    if rate.shape != weight.shape or (rows, *rate.shape) != state.shape or len(rate) != width:
        raise ValueError(
            f"u has shape {tuple(u.shape)}, rate {tuple(rate.shape)}, weight "
            f"{tuple(weight.shape)}, state {tuple(state.shape)}; (B, T, H), (H, 2, n) twice and "
            "(B, H, 2, n) are expected"
        )
    if lengths is None:
        lengths = torch.full((rows,), time)
    return _response(u, rate, weight, state, lengths)


def _lanes(pairs: Any, multiple: int) -> np.ndarray:
    """(..., H, 2, n) to (..., 2, n', H') with whole vectors of channels, zeros added."""
    array = np.moveaxis(pairs, -3, -1)
    found = np.zeros((*array.shape[:-2], -(-array.shape[-2] // multiple) * multiple,
                      -(-array.shape[-1] // WIDTH) * WIDTH), np.float32)  # fmt: skip
    found[..., : array.shape[-2], : array.shape[-1]] = array
    return found


def _back(lanes: np.ndarray, like: Tensor) -> Tensor:
    """(..., 2, n', H') to (..., H, 2, n), sized as the last three of `like`."""
    width, _, modes = like.shape[-3:]
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(lanes[..., :modes, :width], -1, -3)))


def _threads(work: int) -> int:
    return torch.get_num_threads() if work > 1 << 20 else 1


@torch.library.custom_op("paragone::spaces_response", mutates_args=())
def _response(
    u: Tensor, rate: Tensor, weight: Tensor, state: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    from paragone.mixers.ops.spaces._response import response as kernel

    y = torch.empty(u.shape)
    states = _lanes(state.numpy(), 4)
    gain, drift = (_lanes(each, 4) for each in gain_of(rate))
    share(kernel, len(u) * (gain.shape[2] // WIDTH), u.contiguous().numpy(), gain, drift,
          _lanes(weight.numpy(), 4), states, lengths.numpy(), y.numpy(),
          threads=_threads(u.numel() * rate.shape[2]))  # fmt: skip
    return y, _back(states, state)


@_response.register_fake
def _(u, rate, weight, state, lengths):
    return torch.empty_like(u, memory_format=torch.contiguous_format), torch.empty_like(state)


@torch.library.custom_op("paragone::spaces_response_backward", mutates_args=())
def _backward(
    u: Tensor, rate: Tensor, weight: Tensor, state: Tensor, lengths: Tensor,
    dy: Tensor, dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from paragone.mixers.ops.spaces._response import response_backward as kernel

    du = torch.empty(u.shape)
    states, dstate = _lanes(state.numpy(), 2), _lanes(dlast.numpy(), 2)
    gain, drift = (_lanes(each, 2) for each in gain_of(rate))
    dpole, dweight = np.zeros_like(states), np.zeros_like(states)
    share(kernel, len(u) * (gain.shape[2] // WIDTH), u.contiguous().numpy(), gain, drift,
          _lanes(weight.numpy(), 2), states, lengths.numpy(), dy.contiguous().numpy(),
          du.numpy(), dpole, dweight, dstate,
          threads=_threads(u.numel() * rate.shape[2]))  # fmt: skip
    drate = turned(rate, _back(dpole.sum(0), state))
    return du, drate, _back(dweight.sum(0), state), _back(dstate, state)


@_backward.register_fake
def _(u, rate, weight, state, lengths, dy, dlast):
    return (
        torch.empty_like(u, memory_format=torch.contiguous_format),
        *(torch.empty_like(each) for each in (rate, weight, state)),
    )


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _grad(ctx, dy, dlast):
    return *_backward(*ctx.saved_tensors, dy, dlast), None


_response.register_autograd(_grad, setup_context=_save)
