r"""Two linear systems of a channel: diagonal modes, and modes with a low-rank coupling.

Diagonal, with input gain 1 (all gains stand in the weights): $s_t = e^{z} s_{t-1} + u_t$,
$y_t = \mathrm{Re}\, w^\top s_t$. Coupled, the bilinear step of diagonal plus low rank, which is
again diagonal plus low rank (`s4`) or any dense step.

Shapes: H channels, n modes, S = 2 n real numbers of a state (real parts, then imaginary).
"""

from __future__ import annotations

import torch
from torch import Tensor

from paragone.mixers.ops.spaces.reference import pair, single
from paragone.mixers.ops.spaces.vandermonde import vandermonde

__all__ = ["Dense", "Modes"]


class Modes:
    """Diagonal modes; satisfies `ops.spaces.chunked.System`.

    Args:
        rate: (H, 2, n) rates z.
        weight: (H, 2, n) weights w.
        backend: For the kernel.
    """

    def __init__(self, rate: Tensor, weight: Tensor, backend: str = "auto"):
        self.rate, self.weight, self.backend = rate, weight, backend

    def kernel(self, length: int) -> Tensor:
        return vandermonde(self.rate, self.weight, length, backend=self.backend)

    def _powers(self, first: int, count: int) -> Tensor:
        lags = torch.arange(first, first + count, device=self.rate.device, dtype=self.rate.dtype)
        return torch.exp(single(self.rate)[..., None] * lags)

    def impulse(self, count: int) -> Tensor:
        powers = self._powers(0, count)
        return torch.cat([powers.real, powers.imag], dim=1)

    def readout(self, count: int) -> Tensor:
        said = single(self.weight)[..., None] * self._powers(1, count)
        return torch.cat([said.real, -said.imag], dim=1)

    def advance(self, state: Tensor, count: int) -> Tensor:
        s = single(state.unflatten(-1, (2, -1))) * torch.exp(single(self.rate) * count)
        return pair(s).flatten(-2)

    def step(self, u_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        s = single(state.unflatten(-1, (2, -1))) * torch.exp(single(self.rate)) + u_t[..., None]
        return (single(self.weight) * s).sum(-1).real, pair(s).flatten(-2)


class Dense:
    """A dense step; satisfies `ops.spaces.chunked.System`.

    Args:
        A: (H, S, S).
        B: (H, S).
        C: (H, S).
    """

    def __init__(self, A: Tensor, B: Tensor, C: Tensor):
        self.A, self.B, self.C = A, B, C
        self._squares = [A]

    def _power(self, bit: int) -> Tensor:
        """A to the power 2^bit."""
        while len(self._squares) <= bit:
            self._squares.append(self._squares[-1] @ self._squares[-1])
        return self._squares[bit]

    def _grown(self, columns: Tensor, count: int, *, transposed: bool) -> Tensor:
        """(H, S, 1) columns to (H, S, count): A^l times them, by doubling."""
        bit = 0
        while columns.shape[-1] < count:
            power = self._power(bit)
            more = columns[..., : count - columns.shape[-1]]
            more = (power.mT if transposed else power) @ more
            columns, bit = torch.cat([columns, more], dim=-1), bit + 1
        return columns

    def impulse(self, count: int) -> Tensor:
        return self._grown(self.B[..., None], count, transposed=False)

    def readout(self, count: int) -> Tensor:
        return self._grown(self.A.mT @ self.C[..., None], count, transposed=True)

    def kernel(self, length: int) -> Tensor:
        """In two levels, with about sqrt(L) powers of each."""
        inner = 1 << max(0, (length - 1).bit_length() // 2)
        outer = -(-length // inner)
        rows = Dense(self.power(inner), self.B, self.C)._grown(
            self.C[..., None], outer, transposed=True
        )
        return (rows.mT @ self.impulse(inner)).flatten(1)[:, :length]

    def power(self, count: int) -> Tensor:
        """A^count by squaring."""
        found = None
        for bit in range(count.bit_length()):
            if count >> bit & 1:
                found = self._power(bit) if found is None else found @ self._power(bit)
        return torch.eye(self.A.shape[-1]).to(self.A).expand_as(self.A) if found is None else found

    def advance(self, state: Tensor, count: int) -> Tensor:
        for bit in range(count.bit_length()):
            if count >> bit & 1:
                state = torch.einsum("hij,bhj->bhi", self._power(bit), state)
        return state

    def step(self, u_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.einsum("hij,bhj->bhi", self.A, state) + self.B * u_t[..., None]
        return (self.C * state).sum(-1), state
