r"""S4: a HiPPO matrix as a trainable layer, kept fast by its structure, normal plus low rank.

A HiPPO matrix cannot be diagonalised in floating point, but it is normal plus rank 1 (LegS) or 2
(LegT, Fourier), so in a unitary basis $A = \Lambda - P P^*$. The bilinear step of such a matrix is
diagonal plus low rank again (step O(N)), and the generating function of the kernel is a handful of
Cauchy sums (Woodbury), taken at the roots of unity and brought back by one FFT:

$$ \hat K(z) = \tilde C (I - \bar A z)^{-1} \bar B, \qquad \tilde C = C (I - \bar A^L) . $$

Cost: kernel O(H N L) plus O(H N^3 log L) for $\bar A^L$; convolution O(H L log L); scan O(H N L),
without any of these; step O(H N).

References:
    Gu, Goel and Re (2022), S4, arXiv:2111.00396, theorem 3, algorithm 1 and appendix C.
    Goel et al. (2022), arXiv:2202.09729, section 3 (P = Q keeps A stable).

Shapes: B rows, T time, H channels (the model width M), n = N/2 modes, R rank.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paragone.mixers._spaces_layer import SingleSpace, SpaceState, log_uniform, parameter_groups
from paragone.mixers._spaces_systems import Coupled, Dense
from paragone.mixers.hippo import nplr
from paragone.mixers.ops.spaces.reference import pair, single

__all__ = ["S4", "SpaceState", "parameter_groups"]


class S4(SingleSpace):
    """Structured state space layer with a HiPPO matrix.

    Prefer `S4D` as the default: it is simpler and cheaper at equal quality. Prefer S4 where the
    HiPPO matrix itself matters (it starts as an exact LegS, LegT or Fourier memory).

    Args:
        width: Model width M.
        state: Real numbers N of a channel's state; even.
        measure: One of `hippo.MEASURES`.
        dt_min: Smallest initial step size.
        dt_max: Largest; step sizes are log-uniform between.
        method: "bilinear" (structured) or "zoh" (a dense matrix exponential, O(N^3) a channel).
        form: "auto", "convolution", "scan" or "step".
        skip: Whether D x is added.
        activation: "gelu" or None.
        output: "glu", "linear" or None.
        causal: False: a second system reads the row from its end.
        backend: "auto", "numba" or "torch".
        device: Device of the parameters.
        dtype: Type of the parameters; those of the system stay float32 at least.

    Example:
        >>> y, state = S4(8, state=16)(torch.randn(2, 50, 8))
        >>> y.shape, state.hidden.shape
        (torch.Size([2, 50, 8]), torch.Size([2, 8, 2, 8]))
    """

    _op = "spaces_coupled"

    def __init__(
        self,
        width: int,
        state: int = 64,
        *,
        measure: str = "legs",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        method: str = "bilinear",
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
        if state < 2 or state % 2:
            raise ValueError(f"state={state}: use an even number (conjugate pairs)")
        if method not in ("bilinear", "zoh"):
            raise ValueError(f"method={method!r} is none of 'bilinear', 'zoh'")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min={dt_min}, dt_max={dt_max}: 0 < dt_min <= dt_max is expected")
        self.state, self.measure, self.method = state, measure, method
        self.dt_min, self.dt_max = dt_min, dt_max
        self._normal = nplr(measure, state)
        modes, rank = state // 2, len(self._normal.P)
        self.hidden_shape = (width, 2, modes)
        self.log_dt = self._empty(width)
        self.log_decay = self._empty(width, modes)
        self.frequency = self._empty(width, modes)
        self.P = self._empty(rank, width, 2, modes)
        self.B = self._empty(width, 2, modes)
        self.C = self._empty(self.directions, width, 2, modes)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the parameters anew; nothing is done on the meta device."""
        if self.C.is_meta:
            return
        super().reset_parameters()
        normal, upper = self._normal, slice(self.state // 2, None)
        self.log_dt.copy_(log_uniform(self.width, self.dt_min, self.dt_max))
        # Measures without decay in their normal part get a little, so that -exp can hold it.
        decay = np.log(np.maximum(-normal.poles.real[upper], 1e-3))
        self.log_decay.copy_(torch.from_numpy(decay).expand_as(self.log_decay))
        frequency = torch.from_numpy(normal.poles.imag[upper].copy())
        self.frequency.copy_(frequency.expand_as(self.frequency))
        P = pair(torch.from_numpy(np.ascontiguousarray(normal.P[:, upper])))
        self.P.copy_(P[:, None].expand_as(self.P))
        self.B.copy_(pair(torch.from_numpy(normal.B[upper].copy())).expand_as(self.B))
        self.C.normal_(std=math.sqrt(0.5))

    def space_parameters(self) -> list[nn.Parameter]:
        """A (poles and P), B and dt."""
        return [self.log_dt, self.log_decay, self.frequency, self.P, self.B]

    def _passes(self, u: Tensor) -> bool:
        return self.method == "bilinear" and super()._passes(u)

    def _system(self, direction: int) -> Dense:
        dt = self.log_dt.exp()
        poles = torch.complex(-self.log_decay.exp(), self.frequency) * dt[:, None]
        P = single(self.P) * dt.sqrt()[:, None]
        B, C = single(self.B) * dt[:, None], single(self.C[direction])
        if self.method == "bilinear":
            return Coupled(poles, P, B, C, self.backend)
        return Dense.held(poles, P, B, C)
