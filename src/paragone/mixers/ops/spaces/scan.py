r"""The scan of diagonal modes: all states of $s_t = e^{z} s_{t-1} + x_t$, complex, in one pass.

Numba reads and writes each number once; in torch log2 T passes double the reach. The gradient is
the same scan from the end with the conjugate pole,
$\lambda_t = g_t + \overline{e^{z}} \lambda_{t+1}$, and
$\partial/\partial z = \overline{e^{z}} \sum_t \overline{s_{t-1}} \lambda_t$.

References:
    Martin and Cundy (2018), arXiv:1709.04057, section 2.

Shapes: B rows, T time, n modes; planes of size 2 for real and imaginary parts.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.teams import share
from paragone.mixers.ops.spaces import _modes
from paragone.mixers.ops.spaces._choose import declare, serves
from paragone.mixers.ops.spaces.chunked import doubling

__all__ = ["gain_of", "scan", "turned"]

declare("spaces_scan")


def scan(x: Tensor, rate: Tensor, state: Tensor, *, backend: str = "auto") -> Tensor:
    """Runs diagonal modes over time.

    Args:
        x: (B, T, 2, n) inputs.
        rate: (2, n) rates z, with real parts of at most 0.
        state: (B, 2, n) states before the first input.
        backend: "auto", "numba" or "torch".

    Returns:
        (B, T, 2, n) states.

    Raises:
        ValueError: Shapes that do not agree, or a back end that cannot serve.
    """
    rows, modes = x.shape[0], x.shape[-1]
    if x.ndim != 4 or rate.shape != (2, modes) or state.shape != (rows, 2, modes):
        raise ValueError(
            f"x has shape {tuple(x.shape)}, rate {tuple(rate.shape)}, state {tuple(state.shape)}; "
            "(B, T, 2, n), (2, n) and (B, 2, n) are expected"
        )
    if serves("spaces_scan", backend, x) == "numba":
        return _scan(x, rate, state)
    return doubling(x, rate, state)


def gain_of(rate: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What the kernels take for float32 rates with planes in dimension -2.

    Returns:
        e^z - 1, rounded to float32; and what that rounding costs in `_modes.BLOCK` steps.
    """
    z = rate.detach().numpy().astype(np.float64)
    re, im = z[..., 0, :], z[..., 1, :]
    real = np.expm1(re) * np.cos(im) - 2 * np.sin(im / 2) ** 2
    gain = np.stack([real, np.exp(re) * np.sin(im)], axis=-2).astype(np.float32)
    near = 1.0 + gain[..., 0, :].astype(np.float64) + 1j * gain[..., 1, :]
    for _ in range(_modes.BLOCK.bit_length() - 1):
        near = near * near
    lost = np.exp((re + 1j * im) * _modes.BLOCK) - near
    return gain, np.stack([lost.real, lost.imag], axis=-2).astype(np.float32)


def turned(rate: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the rate from that of the pole: times the conjugate pole."""
    pole = torch.polar(rate.select(-2, 0).exp(), -rate.select(-2, 1))
    found = pole * torch.complex(grad.select(-2, 0), grad.select(-2, 1))
    return torch.stack([found.real, found.imag], dim=-2)


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().view(-1).numpy()


def _threads(work: int) -> int:
    return torch.get_num_threads() if work > 1 << 18 else 1


@torch.library.custom_op("paragone::spaces_scan", mutates_args=())
def _scan(x: Tensor, rate: Tensor, state: Tensor) -> Tensor:
    out = torch.empty(x.shape)
    units = len(x) * -(-x.shape[3] // _modes.GROUP)
    share(_modes.scan, units, x.shape[1], x.shape[3], _flat(x),
          *(each.ravel() for each in gain_of(rate)), _flat(state), _flat(out),
          threads=_threads(x.numel()))  # fmt: skip
    return out


@_scan.register_fake
def _(x, rate, state):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("paragone::spaces_scan_backward", mutates_args=())
def _backward(
    rate: Tensor, state: Tensor, states: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dpole = torch.empty(states.shape), torch.empty(state.shape)
    dstate = torch.empty(state.shape)
    units = len(state) * -(-state.shape[2] // _modes.GROUP)
    share(_modes.scan_backward, units, states.shape[1], states.shape[3],
          *(each.ravel() for each in gain_of(rate)),
          *(_flat(each) for each in (state, states, grad, dx, dpole, dstate)),
          threads=_threads(states.numel()))  # fmt: skip
    return dx, turned(rate, dpole.sum(0)), dstate


@_backward.register_fake
def _(rate, state, states, grad):
    return torch.empty_like(states), torch.empty_like(rate), torch.empty_like(state)


def _save(ctx, inputs, output):
    ctx.save_for_backward(inputs[1], inputs[2], output)


def _grad(ctx, grad):
    rate, state, states = ctx.saved_tensors
    return _backward(rate, state, states, grad)


_scan.register_autograd(_grad, setup_context=_save)
