r"""Cauchy sums over conjugate pairs of poles, R numerators at once.

$$ F_l = \sum_n \frac{v_n}{i x_l - \lambda_n y_l} + \frac{\bar v_n}{i x_l - \bar\lambda_n y_l} $$

at nodes (x : y) of the projective line: x = 2 sin, y = cos of half an angle are the roots of unity
seen through the bilinear map, and the one at infinity (y = 0) is no exception. Numba keeps
nothing of size H n L; in torch that tensor is made.

References:
    Gu, Goel and Re (2022), S4, arXiv:2111.00396, appendix C.3.

Shapes: R sums, H channels, n modes, L nodes; planes of size 2 for real and imaginary parts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from paragone.kernels.simd import WIDTH
from paragone.kernels.teams import share
from paragone.mixers.ops.spaces import _cauchy as kernels
from paragone.mixers.ops.spaces import reference
from paragone.mixers.ops.spaces._choose import declare, serves

__all__ = ["cauchy"]

declare("spaces_cauchy")


def cauchy(values: Tensor, poles: Tensor, x: Tensor, y: Tensor, *, backend: str = "auto") -> Tensor:
    """Sums fractions.

    Args:
        values: (R, H, 2, n) numerators v.
        poles: (H, 2, n) poles, with real parts below 0.
        x: (L,) nodes.
        y: (L,) nodes.
        backend: "auto", "numba" or "torch".

    Returns:
        (R, H, 2, L).

    Raises:
        ValueError: Shapes that do not agree, or a back end that cannot serve.
    """
    if values.ndim != 4 or values.shape[1:] != poles.shape or x.shape != y.shape:
        raise ValueError(
            f"values has shape {tuple(values.shape)}, poles {tuple(poles.shape)}, x "
            f"{tuple(x.shape)}, y {tuple(y.shape)}; (R, H, 2, n), (H, 2, n) and (L,) twice are "
            "expected"
        )
    if serves("spaces_cauchy", backend, values) == "torch":
        return reference.cauchy(values, poles, x, y)
    (vr, vi), (pr, pi) = values.unbind(2), poles.unbind(1)
    return _cauchy(2 * pr, pr.square() + pi.square(), 2 * vr, 2 * (vr * pr + vi * pi), x, y)


def _given(tau: Tensor, mu: Tensor, alpha: Tensor, beta: Tensor, x: Tensor, y: Tensor) -> Any:
    rest = -len(x) % WIDTH
    nodes = (functional.pad(x, (0, rest)), functional.pad(y, (0, rest), value=1.0))
    return (each.contiguous().numpy() for each in (tau, mu.sqrt(), alpha, beta, *nodes))


def _threads(work: int) -> int:
    return torch.get_num_threads() if work > 1 << 18 else 1


@torch.library.custom_op("paragone::spaces_cauchy", mutates_args=())
def _cauchy(
    tau: Tensor, mu: Tensor, alpha: Tensor, beta: Tensor, x: Tensor, y: Tensor
) -> Tensor:  # fmt: skip
    out = torch.zeros(*alpha.shape[:2], 2, len(x))
    share(kernels.cauchy, len(tau), *_given(tau, mu, alpha, beta, x, y), out.numpy(),
          threads=_threads(alpha.numel() * len(x)))  # fmt: skip
    return out


@_cauchy.register_fake
def _(tau, mu, alpha, beta, x, y):
    return alpha.new_empty(*alpha.shape[:2], 2, len(x))


@torch.library.custom_op("paragone::spaces_cauchy_backward", mutates_args=())
def _backward(
    tau: Tensor, mu: Tensor, alpha: Tensor, beta: Tensor, x: Tensor, y: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    found = [torch.empty(each.shape) for each in (tau, mu, alpha, beta)]
    share(kernels.cauchy_backward, len(tau), *_given(tau, mu, alpha, beta, x, y),
          grad.contiguous().numpy(), *(each.numpy() for each in found),
          threads=_threads(alpha.numel() * len(x)))  # fmt: skip
    return found[0], found[1], found[2], found[3]


@_backward.register_fake
def _(tau, mu, alpha, beta, x, y, grad):
    return tuple(torch.empty(each.shape) for each in (tau, mu, alpha, beta))


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _grad(ctx, grad):
    return *_backward(*ctx.saved_tensors, grad), None, None


_cauchy.register_autograd(_grad, setup_context=_save)
