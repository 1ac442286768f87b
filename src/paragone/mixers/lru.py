r"""LRU: a linear recurrent unit, state spaces without the continuous-time view.

A dense linear recurrence is diagonal in the complex numbers; so take it diagonal from the start,
stable by construction, and scale its input so that the state starts with unit variance:

$$ \lambda = e^{-e^{\nu} + i e^{\theta}}, \qquad s_t = \lambda s_{t-1} + \gamma \odot (B u_t),
   \qquad y_t = \mathrm{Re}\,(C s_t) + D \odot u_t, \qquad \gamma = \sqrt{1 - |\lambda|^2} . $$

Poles start uniformly on the ring $r_{min} \le |\lambda| \le r_{max}$, up to a largest phase.

Cost: two matrix products O(T H N) and a scan O(T N); state O(N) for all channels together.

References:
    Orvieto et al. (2023), Resurrecting recurrent neural networks for long sequences,
    arXiv:2303.06349, lemma 3.2 (ring), section 3.4 (gamma), appendix A.

Shapes: B rows, T time, H channels (the model width M), n = N modes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from paragone.mixers._spaces_layer import SpaceState, parameter_groups
from paragone.mixers._spaces_shared import Parts, SharedSpace

__all__ = ["LRU", "SpaceState", "parameter_groups"]


class LRU(SharedSpace):
    """Linear recurrent unit.

    Prefer it to `S5` when no time scale is known and dt would only be one more thing to set;
    prefer `S4D` when channels should remember independently, and for a cheaper small layer.

    Args:
        width: Model width M.
        state: Complex modes N (None: as many as channels).
        r_min: Inner radius of the ring of initial poles.
        r_max: Outer radius, below 1.
        max_phase: Largest initial phase, in radians.
        form: "auto", "convolution", "scan" or "step".
        skip: Whether D x is added.
        activation: "gelu" or None.
        output: "glu", "linear" or None.
        causal: False: a second read-out sees the row from its end.
        backend: "auto", "numba" or "torch".
        device: Device of the parameters.
        dtype: Type of the parameters; those of the system stay float32 at least.

    Example:
        >>> y, state = LRU(8)(torch.randn(2, 50, 8))
        >>> y.shape, state.hidden.shape
        (torch.Size([2, 50, 8]), torch.Size([2, 2, 8]))
    """

    def __init__(
        self,
        width: int,
        state: int | None = None,
        *,
        r_min: float = 0.9,
        r_max: float = 0.999,
        max_phase: float = 2 * math.pi,
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
        modes = width if state is None else state
        if modes < 1:
            raise ValueError(f"state={state}: use 1 mode and above")
        if not 0 <= r_min < r_max < 1:
            raise ValueError(f"r_min={r_min}, r_max={r_max}: 0 <= r_min < r_max < 1 is expected")
        if not 0 < max_phase <= 2 * math.pi:
            raise ValueError(f"max_phase={max_phase} is not in (0, 2 pi]")
        self.state, self.r_min, self.r_max, self.max_phase = modes, r_min, r_max, max_phase
        self.hidden_shape = (2, modes)
        self.log_decay = self._empty(modes)
        self.log_phase = self._empty(modes)
        self.log_gamma = self._empty(modes)
        self.B = self._empty(2, modes, width)
        self.C = self._empty(self.directions, width, 2, modes)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the parameters anew; nothing is done on the meta device."""
        if self.C.is_meta:
            return
        super().reset_parameters()
        square = torch.empty_like(self.log_decay).uniform_(self.r_min**2, self.r_max**2)
        self.log_decay.copy_((-square.clamp(min=1e-12).log() / 2).log())
        phase = torch.empty_like(self.log_phase).uniform_().clamp(min=1e-6) * self.max_phase
        self.log_phase.copy_(phase.log())
        self.log_gamma.copy_(torch.log1p(-square) / 2)
        self.B.normal_(std=math.sqrt(0.5 / self.width))
        self.C.normal_(std=math.sqrt(1.0 / self.state))

    def space_parameters(self) -> list[nn.Parameter]:
        """The poles, gamma and B."""
        return [self.log_decay, self.log_phase, self.log_gamma, self.B]

    def _parts(self, direction: int) -> Parts:
        rate = torch.stack([-self.log_decay.exp(), self.log_phase.exp()])
        inward = self.B * self.log_gamma.exp()[:, None]
        C = self.C[direction]
        outward = torch.cat([C[:, 0], -C[:, 1]], dim=-1)
        return Parts(rate, inward.flatten(0, 1), outward)
