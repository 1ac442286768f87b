r"""Retention: linear attention in which each head forgets at a pace of its own.

Head h keeps $\gamma_h = 1 - 2^{-5-h}$ of its memory at each token, and queries and keys are turned
by the place of their token, so that a weight depends on the distance alone:

$$ S_t = \gamma_h S_{t-1} + k_t v_t^\top, \quad o_t = d^{-1/2} S_t^\top q_t, \quad
   q_t = e^{i\theta t} W_Q x_t,\ k_t = e^{i\theta t} W_K x_t . $$

There is no normaliser: the norm of each head takes every factor out. A swish gate follows,
$y = W_O(\mathrm{swish}(W_G x) \odot \mathrm{norm}(o))$. Cost: O(T D E).

References:
    Sun et al. (2023), "Retentive network", arXiv:2307.08621, eq. 5-8 (decay, group norm, gate)
    and section 2.1 (the turning by places, without the growing factor of xPos).

Shapes: B rows, T time, M model width, H heads, D key width, E value width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.mixers._linear_parts import checked_heads, merged, split_heads
from paragone.mixers.contract import Mixer
from paragone.mixers.ops.linear.interface import linear_attention
from paragone.mixers.ops.linear.reference import LinearState

__all__ = ["Retention", "RetentionState"]


class RetentionState(NamedTuple):
    """`memory` (B, H, D, E) and `place` (B,), the number of tokens that were seen."""

    memory: Tensor
    place: Tensor


class Retention(Mixer):
    r"""Multi-scale retention (RetNet).

    Prefer it to `LinearAttention` for language, where the recent past counts most; prefer
    `GatedLinearAttention` where the input must decide what to forget.

    Args:
        width: Model width M.
        heads: Number of heads H; the width D = M / H of a key is even.
        value_width: Width E of a value (None: 2 D, as in the paper).
        causal: Must be true: a decay has a direction.
        chunk: Tokens of a chunk.
        backend: "auto", or a name from `paragone.kernels.choice.backends("linear_attention")`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: Sizes that do not fit, or causal=False.

    Example:
        >>> y, state = Retention(width=64, heads=4)(torch.randn(2, 100, 64))
        >>> y.shape, state.memory.shape, state.place.tolist()
        (torch.Size([2, 100, 64]), torch.Size([2, 4, 16, 32]), [100, 100])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        value_width: int | None = None,
        causal: bool = True,
        chunk: int = 64,
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        keys = checked_heads(width, heads)
        if keys % 2:
            raise ValueError(f"heads of width {keys} cannot be turned in pairs; make it even")
        if not causal:
            raise ValueError("Retention decays with time and has no causal=False form")
        self.width, self.heads, self.keys = width, heads, keys
        self.values = value_width or 2 * keys
        self.chunk, self.backend = chunk, backend
        where: dict[str, Any] = {"bias": False, "device": device, "dtype": dtype}
        self.to_qk = nn.Linear(width, 2 * width, **where)
        self.to_vg = nn.Linear(width, 2 * heads * self.values, **where)
        self.to_out = nn.Linear(heads * self.values, width, **where)

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, RetentionState]:
        rows, time = x.shape[:2]
        before = None
        place = torch.zeros(rows, dtype=torch.int64, device=x.device)
        if state is not None:
            before, place = LinearState(state.memory, state.memory[..., :0, 0]), state.place
        at = place[:, None] + torch.arange(time, device=x.device)
        at = at if positions is None else positions
        q, k = self.to_qk(x).chunk(2, -1)
        v, g = self.to_vg(x).chunk(2, -1)
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        angles = at[:, None, :, None] * _speeds(self.keys, x.device)
        turn = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        o, after = linear_attention(
            _turned(q, *turn), _turned(k, *turn), v, gate=self._decay(q), scale=self.keys**-0.5,
            state=before,
            lengths=lengths, chunk=self.chunk, backend=self.backend,
        )  # fmt: skip
        o = functional.layer_norm(o, o.shape[-1:])
        place = place + (time if lengths is None else lengths)
        return self.to_out(merged(o) * functional.silu(g)), RetentionState(after.memory, place)

    def _decay(self, q: Tensor) -> Tensor:
        """log(1 - 2^(-5 - h)) for each head, as a gate (B, H, T)."""
        heads = torch.arange(self.heads, device=q.device, dtype=torch.float64)
        decay = torch.log1p(-torch.exp2(-5 - heads)).to(torch.promote_types(q.dtype, torch.float32))
        return decay[:, None].expand(*q.shape[:3])


def _speeds(keys: int, device: torch.device) -> Tensor:
    """Radians a token for each pair of channels, from 1 down to 1/10000."""
    share = torch.arange(keys // 2, device=device, dtype=torch.float64) / max(keys // 2 - 1, 1)
    return 10000.0**-share


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns the pairs of neighbouring channels."""
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], -1)
    return turned.flatten(-2)
