r"""S5: one state space with many inputs and outputs, diagonal, run by a parallel scan.

S4 keeps a system for each channel and mixes them afterwards; S5 has a single one that reads all
channels, so its state is N numbers and not N for each channel:

$$ s_t = e^{\Delta \Lambda} s_{t-1} + \Lambda^{-1}(e^{\Delta \Lambda} - I) B u_t, \qquad
   y_t = 2\, \mathrm{Re}\,(C s_t) + D \odot u_t . $$

$\Lambda$ starts as the normal part of HiPPO-LegS, in J equal blocks; B and C start in its basis.

Cost: two matrix products O(T H N) and a scan O(T N).

References:
    Smith, Warrington and Linderman (2023), S5, arXiv:2208.04933, sections 3 and 4.3, appendix B.1
    (block-diagonal initialisation).

Shapes: B rows, T time, H channels (the model width M), n = N/2 modes, J blocks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from paragone.mixers._spaces_layer import SpaceState, log_uniform, parameter_groups
from paragone.mixers._spaces_shared import Parts, SharedSpace
from paragone.mixers.hippo import nplr
from paragone.mixers.ops.spaces.reference import pair

__all__ = ["S5", "SpaceState", "parameter_groups"]


class S5(SharedSpace):
    """State space layer with many inputs and outputs.

    Prefer it to `S4D` when the state must be small or rows are irregular and a scan is wanted on
    every device; prefer S4D when channels should remember independently.

    Args:
        width: Model width M.
        state: Real numbers N of the state (None: M, rounded up to whole blocks).
        blocks: Equal blocks J of the initial matrix; N is a multiple of 2 J.
        dt_min: Smallest initial step size.
        dt_max: Largest; step sizes are log-uniform between.
        method: "zoh" or "bilinear".
        form: "auto", "convolution", "scan" or "step".
        skip: Whether D x is added.
        activation: "gelu" or None.
        output: "glu", "linear" or None.
        causal: False: a second read-out sees the row from its end.
        backend: "auto", "numba" or "torch".
        device: Device of the parameters.
        dtype: Type of the parameters; those of the system stay float32 at least.

    Example:
        >>> y, state = S5(8, state=32, blocks=4)(torch.randn(2, 50, 8))
        >>> y.shape, state.hidden.shape
        (torch.Size([2, 50, 8]), torch.Size([2, 2, 16]))
    """

    def __init__(
        self,
        width: int,
        state: int | None = None,
        *,
        blocks: int = 1,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        method: str = "zoh",
        form: str = "auto",
        skip: bool = True,
        activation: str | None = "gelu",
        output: str | None = "glu",
        causal: bool = True,
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(
            width, form=form, skip=skip, activation=activation, output=output, causal=causal,
            backend=backend, device=device, dtype=dtype,
        )  # fmt: skip
        if blocks < 1:
            raise ValueError(f"blocks={blocks}: use 1 and above")
        state = -(-width // (2 * blocks)) * 2 * blocks if state is None else state
        if state < 2 or state % (2 * blocks):
            raise ValueError(f"state={state} is no multiple of 2 blocks = {2 * blocks}")
        if method not in ("zoh", "bilinear"):
            raise ValueError(f"method={method!r} is none of 'zoh', 'bilinear'")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min={dt_min}, dt_max={dt_max}: 0 < dt_min <= dt_max is expected")
        self.state, self.blocks, self.method = state, blocks, method
        self.dt_min, self.dt_max = dt_min, dt_max
        modes = state // 2
        self.hidden_shape = (2, modes)
        self.log_dt = self._empty(modes)
        self.log_decay = self._empty(modes)
        self.frequency = self._empty(modes)
        self.B = self._empty(2, modes, width)
        self.C = self._empty(self.directions, width, 2, modes)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the parameters anew; nothing is done on the meta device."""
        if self.C.is_meta:
            return
        super().reset_parameters()
        size = self.state // self.blocks
        normal = nplr("legs", size)
        poles = torch.from_numpy(normal.poles[size // 2 :]).repeat(self.blocks)
        V = torch.from_numpy(normal.V[:, size // 2 :].copy()).to(self.C.device)
        self.log_dt.copy_(log_uniform(self.state // 2, self.dt_min, self.dt_max))
        self.log_decay.copy_((-poles.real).log())
        self.frequency.copy_(poles.imag)
        drawn = torch.randn(self.blocks, size, self.width).to(V) / math.sqrt(self.width)
        B = torch.einsum("sn,jsh->jnh", V.conj(), drawn).flatten(0, 1)
        self.B.copy_(torch.stack([B.real, B.imag]))
        drawn = torch.randn(self.directions, self.width, self.blocks, size).to(V)
        C = torch.einsum("dhjs,sn->dhjn", drawn / math.sqrt(self.state), V)
        self.C.copy_(pair(C.flatten(-2)))

    def space_parameters(self) -> list[nn.Parameter]:
        """A, B and dt."""
        return [self.log_dt, self.log_decay, self.frequency, self.B]

    def _parts(self, direction: int) -> Parts:
        pole = torch.complex(-self.log_decay.double().exp(), self.frequency.double())
        dt = self.log_dt.double().exp()
        if self.method == "zoh":
            rate = dt * pole
            gain = torch.expm1(rate) / pole
        else:
            rate = 2 * torch.atanh(dt * pole / 2)
            gain = dt / (1 - dt * pole / 2)
        B, C = torch.complex(self.B[0], self.B[1]), self.C[direction]
        inward = gain.to(B.dtype)[:, None] * B
        outward = torch.cat([2 * C[:, 0], -2 * C[:, 1]], dim=-1)
        inward: Tensor = torch.cat([inward.real, inward.imag])
        return Parts(pair(rate).to(C.dtype), inward, outward)
