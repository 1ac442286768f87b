r"""S4D: a diagonal state space for each channel, as good as S4 and as simple as a sum of powers.

Each channel has n = N/2 complex modes with poles $\lambda_n = -e^{a_n} + i b_n$, a step size
$\Delta$ and a conjugate half that is never stored (hence the factor 2):

$$ K_l = 2\, \mathrm{Re} \sum_n C_n \bar B_n e^{\Delta \lambda_n l}, \qquad
   \bar B_n = \frac{e^{\Delta\lambda_n} - 1}{\lambda_n} B_n \;\text{(zoh)} \quad\text{or}\quad
   \frac{\Delta B_n}{1 - \Delta\lambda_n/2} \;\text{(bilinear)} . $$

Only the product $C \bar B$ matters to the output, so the state is that of input gain 1:
$s_t = e^{\Delta\lambda} s_{t-1} + u_t$. In float32 the forms agree to about 1e-6 of the output's
scale: powers are taken of rates, not of rounded poles.

Cost: kernel O(H N L) time and O(H L) memory, convolution O(H L log L), scan O(H N L), step O(H N).

References:
    Gu, Gupta, Goel and Re (2022), S4D, arXiv:2206.11893, sections 3-4 (eq. 6-9: S4D-Lin, -Inv,
    -LegS, -Real).
    Gupta, Gu and Berant (2022), DSS, arXiv:2203.14343.

Shapes: B rows, T time, H channels (the model width M), n modes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from paragone.mixers._spaces_layer import SingleSpace, SpaceState, log_uniform, parameter_groups
from paragone.mixers._spaces_systems import Modes
from paragone.mixers.hippo import nplr
from paragone.mixers.ops.spaces.reference import pair, single

__all__ = ["S4D", "SpaceState", "initial_modes", "parameter_groups"]

INITS = ("lin", "inv", "legs", "real")


def initial_modes(init: str, state: int) -> tuple[np.ndarray, np.ndarray]:
    """Poles and inputs (n,) of a channel: n = state / 2 of each conjugate pair; "real": n = state.

    Raises:
        ValueError: An unknown name, or an odd number of states.

    Example:
        >>> initial_modes("real", 3)[0].real.tolist()
        [-1.0, -2.0, -3.0]
    """
    if init not in INITS:
        raise ValueError(f"init={init!r} is none of {', '.join(INITS)}")
    if state < 1 or (init != "real" and state % 2):
        raise ValueError(f"state={state}: use an even number; init='real' takes any from 1 on")
    n = np.arange(state if init == "real" else state // 2)
    if init == "real":
        return -(n + 1) + 0j, np.ones(state) + 0j
    if init == "legs":
        normal = nplr("legs", state)
        return normal.poles[state // 2 :], normal.B[state // 2 :]
    lin = init == "lin"
    frequency = math.pi * n if lin else state / math.pi * (state / (2 * n + 1) - 1)
    return -0.5 + 1j * frequency, np.ones(state // 2) + 0j


class S4D(SingleSpace):
    """Diagonal state space layer.

    Prefer it to `S4` nearly always: equal quality, a kernel of three lines, and a cheaper step.
    Prefer `Mamba` where the input must decide what is remembered, attention where tokens must be
    copied exactly.

    Args:
        width: Model width M.
        state: Real numbers N of a channel's state; even, unless init="real".
        init: "lin", "inv", "legs" or "real".
        dt_min: Smallest initial step size.
        dt_max: Largest; step sizes are log-uniform between.
        method: "zoh" or "bilinear".
        form: "auto", "convolution", "scan" or "step".
        skip: Whether D x is added.
        activation: "gelu" or None.
        output: "glu", "linear" or None.
        causal: False: a second system reads the row from its end.
        backend: "auto", "numba" or "torch".
        device: Device of the parameters.
        dtype: Type of the parameters; those of the system stay float32 at least.

    Example:
        >>> y, state = S4D(8)(torch.randn(2, 100, 8))
        >>> y.shape, state.hidden.shape
        (torch.Size([2, 100, 8]), torch.Size([2, 8, 2, 32]))
    """

    def __init__(
        self,
        width: int,
        state: int = 64,
        *,
        init: str = "lin",
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
        poles, _ = initial_modes(init, state)
        if method not in ("zoh", "bilinear"):
            raise ValueError(f"method={method!r} is none of 'zoh', 'bilinear'")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min={dt_min}, dt_max={dt_max}: 0 < dt_min <= dt_max is expected")
        self.state, self.init, self.method = state, init, method
        self.dt_min, self.dt_max = dt_min, dt_max
        modes = len(poles)
        self.hidden_shape = (width, 2, modes)
        self.log_dt = self._empty(width)
        self.log_decay = self._empty(width, modes)
        self.frequency = None if init == "real" else self._empty(width, modes)
        self.B = self._empty(width, 2, modes)
        self.C = self._empty(self.directions, width, 2, modes)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the parameters anew; nothing is done on the meta device."""
        if self.C.is_meta:
            return
        super().reset_parameters()
        poles, inputs = initial_modes(self.init, self.state)
        self.log_dt.copy_(log_uniform(self.width, self.dt_min, self.dt_max))
        self.log_decay.copy_(torch.from_numpy(np.log(-poles.real)).expand_as(self.log_decay))
        if self.frequency is not None:
            self.frequency.copy_(torch.from_numpy(poles.imag.copy()).expand_as(self.frequency))
        self.B.copy_(pair(torch.from_numpy(inputs)).expand_as(self.B))
        self.C.normal_(std=math.sqrt(0.5))

    def space_parameters(self) -> list[nn.Parameter]:
        """A, B and dt."""
        own = [self.log_dt, self.log_decay, self.B]
        return own if self.frequency is None else [*own, self.frequency]

    def _system(self, direction: int) -> Modes:
        """Rates and weights, worked out in float64: it is little, and phases live on it."""
        wide = self.log_decay.double()
        turn = torch.zeros_like(wide) if self.frequency is None else self.frequency.double()
        pole = torch.complex(-wide.exp(), turn)
        dt = self.log_dt.double().exp()[:, None]
        factor = 1.0 if self.frequency is None else 2.0
        weight = factor * single(self.B.double()) * single(self.C[direction].double())
        if self.method == "zoh":
            rate = dt * pole
            weight = weight * torch.expm1(rate) / pole
        else:
            rate = 2 * torch.atanh(dt * pole / 2)
            weight = weight * dt / (1 - dt * pole / 2)
        kind = self.log_decay.dtype
        return Modes(pair(rate).to(kind), pair(weight).to(kind), self.backend)
