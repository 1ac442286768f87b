r"""Two linear systems of a channel: diagonal modes, and modes with a low-rank coupling.

Diagonal, with input gain 1 (all gains stand in the weights): $s_t = e^{z} s_{t-1} + u_t$,
$y_t = \mathrm{Re}\, w^\top s_t$. Coupled, the bilinear step of diagonal plus low rank, which is
again diagonal plus low rank (`s4`) or any dense step.

Shapes: H channels, n modes, S = 2 n real numbers of a state (real parts, then imaginary).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from paragone.mixers.ops.spaces.cauchy import cauchy
from paragone.mixers.ops.spaces.coupled import coupled
from paragone.mixers.ops.spaces.reference import pair, single
from paragone.mixers.ops.spaces.response import response
from paragone.mixers.ops.spaces.vandermonde import powers, vandermonde

__all__ = ["Coupled", "Dense", "Modes"]


class Modes:
    """Diagonal modes; satisfies `ops.spaces.chunked.System`; `run` is the op "spaces_response".

    Args:
        rate: (H, 2, n) rates z.
        weight: (H, 2, n) weights w.
        backend: For the kernel.
    """

    def __init__(self, rate: Tensor, weight: Tensor, backend: str = "auto"):
        self.rate, self.weight, self.backend = rate, weight, backend
        self._once: tuple[Tensor, Tensor] | None = None

    def run(self, u: Tensor, state: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, H) inputs and (B, H, S) states to outputs and states, by one pass over time."""
        y, last = response(u, self.rate, self.weight, state.unflatten(-1, (2, -1)), lengths)
        return y, last.flatten(-2)

    def kernel(self, length: int) -> Tensor:
        return vandermonde(self.rate, self.weight, length, backend=self.backend)

    def impulse(self, count: int) -> Tensor:
        found = powers(self.rate, 0, count)
        return torch.cat([found.real, found.imag], dim=1)

    def readout(self, count: int) -> Tensor:
        said = single(self.weight)[..., None] * powers(self.rate, 1, count)
        return torch.cat([said.real, -said.imag], dim=1)

    def advance(self, state: Tensor, count: int) -> Tensor:
        s = single(state.unflatten(-1, (2, -1))) * torch.exp(single(self.rate) * count)
        return pair(s).flatten(-2)

    def step(self, u_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if self._once is None:
            self._once = torch.exp(single(self.rate)), single(self.weight)
        pole, weight = self._once
        s = single(state.unflatten(-1, (2, -1))) * pole + u_t[..., None]
        return (weight * s).sum(-1).real, pair(s).flatten(-2)


class Dense:
    """A dense step; satisfies `ops.spaces.chunked.System`.

    Args:
        A: (H, S, S).
        B: (H, S).
        C: (H, S).
    """

    def __init__(self, A: Tensor, B: Tensor, C: Tensor):
        self.B, self.C = B, C
        self._squares = [A]

    @property
    def A(self) -> Tensor:  # noqa: N802
        """(H, S, S) matrix of a step."""
        return self._power(0)

    @classmethod
    def held(cls, poles: Tensor, P: Tensor, B: Tensor, C: Tensor) -> Dense:
        """The exact step for inputs that are held constant; arguments as of `Coupled`."""
        order = 2 * poles.shape[-1]
        A = _matrix(poles, P, _functional(P.conj()))
        joint = functional.pad(torch.cat([A, _real(B)[..., None]], dim=-1), (0, 0, 0, 1))
        grown = torch.linalg.matrix_exp(joint)
        return cls(grown[:, :order, :order], grown[:, :order, order], _functional(C))

    def _power(self, bit: int) -> Tensor:
        """A to the power 2^bit."""
        if not self._squares:
            self._squares.append(self._matrix())
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


class Coupled(Dense):
    r"""The bilinear step of modes that are coupled by low rank, A = diag(poles) - P P*.

    With $D = (1 - \tfrac\Delta2 \Lambda)^{-1}$ and
    $M = \tfrac\Delta2 (I + \tfrac\Delta2 P^* D P)^{-1}$, Woodbury gives

    $$ (I - \tfrac\Delta2 A)^{-1} = D - D P M P^* D, \qquad
       \bar A = 2 (I - \tfrac\Delta2 A)^{-1} - I = \mathrm{diag}(2D - 1) - (DP)(2 M P^* D) , $$

    so a step costs O(S), too; `run` is the op "spaces_coupled". The kernel is worked out at the
    roots of unity (`kernel`).

    Args:
        poles: (H, n) complex, times dt.
        P: (R, H, n) complex, times the root of dt.
        B: (H, n) complex, times dt.
        C: (H, n) complex.
        backend: For the Cauchy sums.
    """

    def __init__(self, poles: Tensor, P: Tensor, B: Tensor, C: Tensor, backend: str = "auto"):
        self.poles, self.P, self.inputs, self.outputs = poles, P, B, C
        self.backend = backend
        D = 1 / (1 - poles / 2)
        gram = 2 * torch.einsum("rhn,hn,shn->hrs", P.conj(), D, P).real
        M = torch.linalg.inv(torch.eye(len(P), dtype=gram.dtype).to(gram) + gram / 2) / 2
        self.solved, self.keep, self.give = D, 2 * D - 1, D * P
        self.take = torch.einsum("hrs,shn->rhn", (2 * M).to(D), P.conj() * D)
        heard = 2 * torch.einsum("shn,hn,hn->hs", P.conj(), D, B).real
        inner = torch.einsum("hrs,hs->rh", M, heard)
        self.gain = D * B - (self.give * inner[..., None]).sum(0)
        self.B, self.C, self._squares = _real(self.gain), _functional(C), []

    def _matrix(self) -> Tensor:
        return _matrix(self.keep, self.give, _functional(self.take))

    def run(self, u: Tensor, state: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, H) inputs and (B, H, S) states to outputs and states, by one pass over time."""
        y, last = coupled(
            u, pair(self.poles * self.solved), pair(self.gain), pair(self.give),
            pair(2 * self.take), pair(2 * self.outputs), state.unflatten(-1, (2, -1)), lengths,
        )  # fmt: skip
        return y, last.flatten(-2)

    def step(self, u_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        s = single(state.unflatten(-1, (2, -1)))
        taken = 2 * torch.einsum("rhn,bhn->rbh", self.take, s).real
        s = self.keep * s + self.gain * u_t[..., None]
        s = s - torch.einsum("rbh,rhn->bhn", taken.to(s), self.give)
        return 2 * (self.outputs * s).sum(-1).real, pair(s).flatten(-2)

    def kernel(self, length: int) -> Tensor:
        r"""The kernel from its generating function at $z_k = e^{-i\theta_k}$.

        Cut off after L terms it is $\tilde C (I - \bar A z)^{-1} \bar B$ with
        $\tilde C = C (I - \bar A^L)$. With nodes $x = 2 \sin(\theta/2)$, $y = \cos(\theta/2)$
        and Cauchy sums $F_{UV} = \sum_n U_n V_n / (i x - \lambda_n y)$,

        $$ \hat K = e^{i\theta/2} \big( F_{CB} - y F_{CP} (I + y F_{PP})^{-1} F_{PB} \big) , $$

        which has no pole at z = -1, where the usual form divides by 1 + z.
        """
        cut = self.C - torch.einsum("hi,hij->hj", self.C, self.power(length))
        first, second = cut.chunk(2, dim=-1)
        C, Q, rank = torch.complex(first, -second) / 2, self.P.conj(), len(self.P)
        values = torch.cat([
            (C * self.inputs)[None], C * self.P, Q * self.inputs,
            (Q[:, None] * self.P).flatten(0, 1),
        ])  # fmt: skip
        half = torch.arange(length // 2 + 1, device=C.device, dtype=torch.float64)
        half = half * (torch.pi / length)
        x, y = (2 * half.sin()).to(first.dtype), half.cos().to(first.dtype)
        sums = single(cauchy(pair(values), pair(self.poles), x, y, backend=self.backend))
        CB, CP, PB, PP = (
            sums[0],
            sums[1 : 1 + rank],
            sums[1 + rank : 1 + 2 * rank],
            sums[-(rank**2) :],
        )
        found = CB - y * _through(CP, y * PP.unflatten(0, (rank, rank)), PB)
        turn = torch.polar(torch.ones_like(half), half).to(found)
        return torch.fft.irfft(found * turn, n=length)


def _through(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    """Left (I + middle)^-1 right over leading dimensions of size R."""
    if len(left) == 1:
        return left[0] * right[0] / (1 + middle[0, 0])
    whole = middle.movedim((0, 1), (-2, -1)) + torch.eye(len(left)).to(middle)
    solved = torch.linalg.solve(whole, right.movedim(0, -1))
    return (left.movedim(0, -1) * solved).sum(-1)


def _matrix(diagonal: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """(H, S, S): a complex diagonal minus (R, H, n) complex columns times (R, H, S) real rows."""
    a, b = torch.diag_embed(diagonal.real), torch.diag_embed(diagonal.imag)
    own = torch.cat([torch.cat([a, -b], dim=-1), torch.cat([b, a], dim=-1)], dim=-2)
    return own - torch.einsum("rhi,rhj->hij", _real(columns), rows)


def _real(numbers: Tensor) -> Tensor:
    """(..., n) complex vectors as (..., S) real ones."""
    return torch.cat([numbers.real, numbers.imag], dim=-1)


def _functional(numbers: Tensor) -> Tensor:
    """(..., n) complex w as the (..., S) real functional s -> 2 Re w s."""
    return torch.cat([2 * numbers.real, -2 * numbers.imag], dim=-1)
