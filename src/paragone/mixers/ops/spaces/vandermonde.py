r"""The kernel of diagonal modes without a tensor of all powers.

$K_l = \mathrm{Re} \sum_n w_n e^{z_n l}$ for L lags of H channels with n modes. The Numba kernel
runs the powers in registers; in torch two levels do it, $l = i c + j$ with $c \approx \sqrt L$,

$$ K_{ic+j} = \mathrm{Re} \sum_n \big(w_n e^{z_n c i}\big)\, e^{z_n j} , $$

a batched product of (L/c x n) by (n x c). Memory O(H L), and O(H n sqrt L) in torch.

References:
    Gu, Gupta, Goel and Re (2022), S4D, arXiv:2206.11893, section 3.2.

Shapes: H channels, n modes, L lags; planes of size 2 for real and imaginary parts.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.teams import share
from paragone.mixers.ops.spaces._choose import declare, serves
from paragone.mixers.ops.spaces.reference import single

__all__ = ["powers", "vandermonde"]

declare("spaces_vandermonde")


def vandermonde(rate: Tensor, weight: Tensor, length: int, *, backend: str = "auto") -> Tensor:
    """Sums the powers of modes.

    Args:
        rate: (H, 2, n) rates z, with real parts of at most 0.
        weight: (H, 2, n) weights w.
        length: Lags L.
        backend: "auto", "numba" or "torch".

    Returns:
        (H, L).

    Raises:
        ValueError: Shapes that do not agree, or a back end that cannot serve.
    """
    if rate.shape != weight.shape or rate.ndim != 3 or rate.shape[1] != 2:
        raise ValueError(
            f"rate has shape {tuple(rate.shape)}, weight {tuple(weight.shape)}; (H, 2, n) is "
            "expected of both"
        )
    if serves("spaces_vandermonde", backend, rate) == "numba":
        return _vandermonde(rate, weight, length)
    inner = 1 << (max(length - 1, 1).bit_length() // 2)
    small = powers(rate, 0, inner, 1)
    outer = single(weight)[..., None] * powers(rate, 0, -(-length // inner), inner)
    left = torch.cat([outer.real, -outer.imag], dim=1)
    return (left.mT @ torch.cat([small.real, small.imag], dim=1)).flatten(1)[:, :length]


def powers(rate: Tensor, first: int, count: int, stride: int = 1) -> Tensor:
    """e^(z l) for l = first, first + stride, ...: (..., n, count), with phases in float64."""
    lags = torch.arange(count, device=rate.device, dtype=torch.float64) * stride + first
    z = single(rate.double())[..., None]
    return torch.exp(z * lags).to(torch.promote_types(rate.dtype, torch.complex64))


def _complex(pairs: Tensor, multiple: int) -> np.ndarray:
    """(H, 2, n) to complex128 (H, n), filled up with zeros to a multiple of modes."""
    planes = pairs.detach().numpy().astype(np.float64)
    found = planes[:, 0] + 1j * planes[:, 1]
    return np.pad(found, ((0, 0), (0, -found.shape[1] % multiple)))


def _threads(work: int) -> int:
    return torch.get_num_threads() if work > 1 << 20 else 1


@torch.library.custom_op("paragone::spaces_vandermonde", mutates_args=())
def _vandermonde(rate: Tensor, weight: Tensor, length: int) -> Tensor:
    from paragone.mixers.ops.spaces._modes import vandermonde as kernel

    z, w = _complex(rate, 4), _complex(weight, 4)
    out = torch.empty(len(z), length)
    share(kernel, len(z), z, w, out.numpy(), threads=_threads(z.size * length))
    return out


@_vandermonde.register_fake
def _(rate, weight, length):
    return rate.new_empty(rate.shape[0], length)


@torch.library.custom_op("paragone::spaces_vandermonde_backward", mutates_args=())
def _backward(rate: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    from paragone.mixers.ops.spaces._modes import vandermonde_backward as kernel

    z, modes = _complex(rate, 2), rate.shape[2]
    sums, moments = np.empty_like(z), np.empty_like(z)
    g = grad.contiguous().numpy()
    share(kernel, len(z), z, g, sums, moments, threads=_threads(z.size * g.shape[1]))
    moments = moments[:, :modes] * _complex(weight, 1)
    return _conjugate(moments), _conjugate(sums[:, :modes])


def _conjugate(numbers: np.ndarray) -> Tensor:
    planes = np.stack([numbers.real, -numbers.imag], axis=1)
    return torch.from_numpy(planes.astype(np.float32))


@_backward.register_fake
def _(rate, weight, grad):
    return torch.empty_like(rate), torch.empty_like(weight)


def _save(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], inputs[1])


def _grad(ctx, grad):
    return *_backward(*ctx.saved_tensors, grad), None


_vandermonde.register_autograd(_grad, setup_context=_save)
