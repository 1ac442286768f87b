r"""The definitions: state-space kernels, Cauchy sums and scans in plain torch, differentiable.

With modes $z_n$ (rates) and weights $w_n$ of a channel,

$$ K_l = \mathrm{Re} \sum_n w_n e^{z_n l}, \qquad
   s_t = e^{z} s_{t-1} + u_t, \quad y_t = \mathrm{Re} \sum_n w_n s_{n,t} = (K * u)_t , $$

and sums over pairs of conjugate poles at nodes of the projective line (x : y), which has a place
for the point at infinity,

$$ F_l = \sum_n \frac{v_n}{i x_l - \lambda_n y_l} + \frac{\bar v_n}{i x_l - \bar\lambda_n y_l} . $$

Shapes: B rows, T time, H channels, n modes, L lags or nodes, R sums; a plane of size 2 for real
and imaginary parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cauchy", "pair", "response", "scan", "single", "vandermonde"]


def single(pairs: Tensor) -> Tensor:
    """(..., 2, n) planes to (..., n) complex."""
    return torch.complex(pairs.select(-2, 0).contiguous(), pairs.select(-2, 1).contiguous())


def pair(numbers: Tensor) -> Tensor:
    """(..., n) complex to (..., 2, n) planes."""
    return torch.stack([numbers.real, numbers.imag], dim=-2)


def vandermonde(rate: Tensor, weight: Tensor, length: int) -> Tensor:
    """(H, 2, n) rates and weights to the kernel (H, L)."""
    lags = torch.arange(length, device=rate.device, dtype=rate.dtype)
    powers = torch.exp(single(rate)[..., None] * lags)
    return (single(weight)[..., None] * powers).sum(-2).real


def cauchy(values: Tensor, poles: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(R, H, 2, n) values, (H, 2, n) poles, (L,) nodes to (R, H, 2, L)."""
    v, pole, node = single(values)[..., None], single(poles)[..., None], 1j * x
    sums = (v / (node - pole * y)).sum(-2) + (v.conj() / (node - pole.conj() * y)).sum(-2)
    return pair(sums)


def scan(x: Tensor, rate: Tensor, state: Tensor) -> Tensor:
    """All states (B, T, 2, n) of s_t = e^rate s_(t-1) + x_t; state (B, 2, n) before the first."""
    pole, s, states = torch.exp(single(rate)), single(state), []
    for t in range(x.shape[1]):
        s = pole * s + single(x[:, t])
        states.append(pair(s))
    return torch.stack(states, dim=1) if states else torch.zeros_like(x)


def response(u: Tensor, rate: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, H) inputs and (B, H, 2, n) states to outputs and the states after the last input."""
    pole, w, s, outputs = torch.exp(single(rate)), single(weight), single(state), []
    for t in range(u.shape[1]):
        s = pole * s + u[:, t, :, None]
        outputs.append((w * s).sum(-1).real)
    return torch.stack(outputs, dim=1) if outputs else torch.zeros_like(u), pair(s)
