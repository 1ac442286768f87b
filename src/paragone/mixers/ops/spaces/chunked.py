r"""Linear recurrences on any device in a few large products: chunks inside, states between.

A causal linear system is known by its kernel $K_l$, by what an input leaves in the state l steps
later, $X_l = \bar A^l \bar B$, and by what a state says l steps later, $Y_l = C \bar A^{l+1}$. For
a chunk of c inputs after the state s,

$$ y_i = \sum_{j \le i} K_{i-j} u_j + Y_i s, \qquad
   s' = \bar A^c s + \sum_j X_{c-1-j} u_j . $$

References:
    Gu, Goel and Re (2022), arXiv:2111.00396, section 2.4 (recurrence and convolution).
    Martin and Cundy (2018), arXiv:1709.04057, section 2 (linear recurrences as parallel scans).

Shapes: B rows, T time, H channels, S real numbers of a channel's state, c chunk.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from paragone.mixers.ops.spaces.reference import pair, single

__all__ = ["System", "convolve", "doubling", "fast_size", "final_state", "respond"]

CHUNK = 64


class System(Protocol):
    """A linear system with one input and one output a channel, and a state of S real numbers."""

    def kernel(self, length: int) -> Tensor:
        """(H, L) response to an impulse."""
        ...

    def impulse(self, count: int) -> Tensor:
        """(H, S, count): what an input has left in the state after 0, 1, ... further steps."""
        ...

    def readout(self, count: int) -> Tensor:
        """(H, S, count): what the state before the first step says in steps 0, 1, ..."""
        ...

    def advance(self, state: Tensor, count: int) -> Tensor:
        """(B, H, S) after so many steps without input."""
        ...


def convolve(u: Tensor, kernel: Tensor) -> Tensor:
    """Causal convolution over time, (B, T, H) with (H, T), by FFTs of twice the length or more."""
    time = u.shape[1]
    size = fast_size(2 * time)
    spectrum = torch.fft.rfft(u.transpose(1, 2), n=size) * torch.fft.rfft(kernel, n=size)
    return torch.fft.irfft(spectrum, n=size)[..., :time].transpose(1, 2)


def fast_size(least: int) -> int:
    """The smallest 2^k, 3 2^k or 5 2^k that is large enough."""
    return min(base << max(0, (-(-least // base) - 1).bit_length()) for base in (1, 3, 5))


def respond(u: Tensor, system: System, state: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, H) inputs after a state (B, H, S): outputs, and the state after the last."""
    whole = u.shape[1] - u.shape[1] % CHUNK
    parts = []
    for part in (u[:, :whole], u[:, whole:]):
        if part.shape[1]:
            y, state = _respond(part, system, state, min(CHUNK, part.shape[1]))
            parts.append(y)
    return torch.cat(parts, dim=1) if parts else torch.zeros_like(u), state


def _respond(u: Tensor, system: System, state: Tensor, size: int) -> tuple[Tensor, Tensor]:
    chunks = u.unflatten(1, (-1, size))
    lag = torch.arange(size, device=u.device)
    lag = lag[:, None] - lag[None, :]
    inner = system.kernel(size)[:, lag.clamp(min=0)].masked_fill(lag < 0, 0)
    y = torch.einsum("hij,bqjh->bqih", inner, chunks)
    left = torch.einsum("hsj,bqjh->bqhs", system.impulse(size).flip(-1), chunks)
    before = []
    for at in range(chunks.shape[1]):
        before.append(state)
        state = system.advance(state, size) + left[:, at]
    y = y + torch.einsum("hsi,bqhs->bqih", system.readout(size), torch.stack(before, dim=1))
    return y.flatten(1, 2), state


def final_state(u: Tensor, system: System, state: Tensor | None, lengths: Tensor | None) -> Tensor:
    """The state (B, H, S) after each row's last input; zeros follow a row's own inputs."""
    rows, time, _ = u.shape
    size = max(1, min(CHUNK, time))
    if lengths is not None:
        place = torch.arange(time, device=u.device) - (time - lengths[:, None])
        u = torch.take_along_dim(u, place.clamp(min=0)[..., None], dim=1)
        u = u.masked_fill((place < 0)[..., None], 0)
    chunks = functional.pad(u, (0, 0, -time % size, 0)).unflatten(1, (-1, size))
    impulse = system.impulse(size)
    left = torch.einsum("hsj,bqjh->bqhs", impulse.flip(-1), chunks)
    found = u.new_zeros(rows, *impulse.shape[:2])
    for at in range(chunks.shape[1]):
        found = system.advance(found, size) + left[:, at]
    if state is None:
        return found
    if lengths is None:
        return found + system.advance(state, time)
    for bit in range(int(time).bit_length()):
        moves = ((lengths >> bit) & 1).bool()[:, None, None]
        state = torch.where(moves, system.advance(state, 1 << bit), state)
    return found + state


def doubling(x: Tensor, rate: Tensor, state: Tensor) -> Tensor:
    """All states of a diagonal recurrence as `reference.scan`, in log2 T passes over all of x."""
    if not x.shape[1]:
        return x
    pole, s, reach = single(rate), single(x), 1
    first = s[:, :1] + torch.exp(pole) * single(state)[:, None]
    s = torch.cat([first, s[:, 1:]], dim=1)
    while reach < s.shape[1]:
        s = torch.cat([s[:, :reach], s[:, reach:] + torch.exp(pole * reach) * s[:, :-reach]], dim=1)
        reach *= 2
    return pair(s)
