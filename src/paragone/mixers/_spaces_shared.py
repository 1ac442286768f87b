r"""One state space for all channels: many inputs, many outputs, diagonal modes between.

$$ s_t = e^{z} s_{t-1} + E\, u_t, \qquad y_t = \mathrm{Re}\,(F s_t) , $$

two real matrix products around a scan of n modes. As a convolution, each mode's powers are
convolved with its input by FFTs of twice the length.

Shapes: B rows, T time, H channels, n modes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from paragone.mixers._spaces_layer import SpaceState, StateSpace
from paragone.mixers.ops.spaces.chunked import fast_size
from paragone.mixers.ops.spaces.reference import pair, single
from paragone.mixers.ops.spaces.scan import scan
from paragone.mixers.ops.spaces.vandermonde import powers

__all__ = ["Parts", "SharedSpace"]


class Parts(NamedTuple):
    """A diagonal system with many inputs and outputs.

    Attributes:
        rate: (2, n) rates z.
        inward: (2 n, H) real and imaginary rows of E.
        outward: (H, 2 n) such that y = outward [Re s; Im s].
    """

    rate: Tensor
    inward: Tensor
    outward: Tensor


class SharedSpace(StateSpace):
    """One system for all channels; subclasses write `_parts`."""

    def _parts(self, direction: int) -> Parts:
        raise NotImplementedError

    def _chosen(self, u: Tensor) -> str:
        return "scan"

    def _run(
        self, u: Tensor, hidden: Tensor | None, lengths: Tensor | None, form: str, direction: int
    ) -> tuple[Tensor, Tensor]:
        parts = self._parts(direction)
        hidden = u.new_zeros(len(u), *self.hidden_shape) if hidden is None else hidden
        x = (u @ parts.inward.mT).unflatten(-1, (2, -1))
        if form == "step" and u.shape[1]:
            states = self._stepped(x, parts.rate, hidden)
        elif form == "convolution" and u.shape[1]:
            states = self._convolved(x, parts.rate, hidden)
        else:
            states = scan(x, parts.rate, hidden, backend=self.backend)
        y = states.flatten(-2) @ parts.outward.mT
        if lengths is None:
            return y, states[:, -1] if u.shape[1] else hidden
        if not u.shape[1]:
            return y, hidden
        last = (lengths - 1).clamp(min=0)[:, None, None, None]
        last = torch.take_along_dim(states, last, dim=1)[:, 0]
        return y, torch.where((lengths > 0)[:, None, None], last, hidden)

    @staticmethod
    def _stepped(x: Tensor, rate: Tensor, hidden: Tensor) -> Tensor:
        pole, s, states = torch.exp(single(rate)), single(hidden), []
        for t in range(x.shape[1]):
            s = pole * s + single(x[:, t])
            states.append(pair(s))
        return torch.stack(states, dim=1)

    @staticmethod
    def _convolved(x: Tensor, rate: Tensor, hidden: Tensor) -> Tensor:
        time = x.shape[1]
        size = fast_size(2 * time)
        grown = powers(rate, 0, time + 1).mT
        spectrum = torch.fft.fft(single(x), n=size, dim=1)
        spectrum = spectrum * torch.fft.fft(grown[:time], n=size, dim=0)
        found = torch.fft.ifft(spectrum, n=size, dim=1)[:, :time]
        return pair(found + grown[1:] * single(hidden)[:, None])

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Goes on by one token, (B, M) to (B, M) and the new state."""
        self._needs_causal()
        u = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
        hidden, parts = self._hidden(state, len(x_t)), self._kept(lambda: self._parts(0))
        s = single((u @ parts.inward.mT).unflatten(-1, (2, -1)))
        if hidden is not None:
            s = s + torch.exp(single(parts.rate)) * single(hidden)
        after = pair(s)
        return self._read(x_t, u, after.flatten(-2) @ parts.outward.mT), SpaceState(after)
