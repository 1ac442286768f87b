r"""What the gated units share: projections, offset and scale, positions, quadratic attention.

Shapes: B rows, T time, S held and T new tokens, M model width, D key width, E hidden width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.mixers._cheap_rows import buckets, held_by, turned_by
from paragone.mixers.cache import KeyValueCache
from paragone.mixers.contract import Mixer
from paragone.mixers.ops.gau import relu2_attention
from paragone.mixers.ops.gau.reference import relu2_attention as relu2_reference
from paragone.mixers.rotary import Rotary

__all__ = ["GatedUnit"]


class GatedUnit(Mixer):
    """Base of `GatedAttentionUnit` and `FLASH`."""

    activation: str
    backend: str

    def __init__(
        self,
        width: int,
        expansion: float,
        key_size: int,
        maps: int,
        *,
        causal: bool,
        position: str | None,
        scale: float,
        bias: bool,
        device: Any,
        dtype: Any,
    ):
        super().__init__()
        hidden = int(width * expansion)
        if hidden < 1 or key_size < 2 or key_size % 2:
            raise ValueError(
                f"expansion={expansion}, key_size={key_size}: a hidden layer of 1 or more and an "
                "even key_size are expected"
            )
        if position not in (None, "rotary", "t5"):
            raise ValueError(f"position={position!r} is none of None, 'rotary', 't5'")
        self.width, self.causal, self.hidden, self.key_size = width, causal, hidden, key_size
        self.position, self.scale = position, scale
        self.rotary = Rotary(key_size) if position == "rotary" else None
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.to_hidden = nn.Linear(width, 2 * hidden, bias=bias, **where)
        self.to_z = nn.Linear(width, key_size, bias=bias, **where)
        self.gamma = nn.Parameter(torch.empty(maps, key_size, **where))
        self.beta = nn.Parameter(torch.empty(maps, key_size, **where))
        self.to_out = nn.Linear(hidden, width, bias=bias, **where)
        if position == "t5":
            self.distances = nn.Parameter(torch.empty(32, **where))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws gamma from N(0, scale^2); beta is 0, and so is the bias of all distances."""
        if self.gamma.is_meta:
            return
        nn.init.normal_(self.gamma, std=self.scale)
        nn.init.zeros_(self.beta)
        if self.position == "t5":
            nn.init.zeros_(self.distances)

    def _hidden(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Gate and values (B, T, E), values of padding zero, and z (B, T, D)."""
        gate, values = functional.silu(self.to_hidden(x)).chunk(2, dim=-1)
        if lengths is not None:
            beyond = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
            values = values.masked_fill(beyond[..., None], 0)
        return gate, values, functional.silu(self.to_z(x))

    def _offset(self, z: Tensor, places: Tensor | int) -> tuple[Tensor, ...]:
        """Offset and scale, one (B, T, D) for each row of gamma, turned if so wished."""
        found = torch.addcmul(self.beta[:, None], z[:, None], self.gamma[:, None])
        if self.rotary is not None:
            found = self.rotary(found, places)
        return found.unbind(1)

    def _bias(self, queries: Tensor, keys: Tensor) -> Tensor | None:
        """(..., T, S) bias by distance, for places (..., T) and (..., S)."""
        if self.position != "t5":
            return None
        apart = queries[..., :, None] - keys[..., None, :]
        return self.distances[buckets(apart, self.causal)] * self.key_size**0.5

    def _quadratic(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Any]:
        """`_mix` by attention to everything that is visible."""
        gate, v, z = self._hidden(x, lengths)
        start = 0 if state is None else state.start
        q, k = self._offset(z, turned_by(start, x.shape[1]) if positions is None else positions)
        keys, values = k, v
        if self.causal:
            cache = KeyValueCache() if state is None else state
            cache = cache.append(k[:, None], v[:, None], lengths)
            if state is not None:
                keys, values = held_by(cache)
                keys, values = keys[:, 0], values[:, 0]
            state = cache
        mixed = self._attend(q, keys, values, start, state, lengths)
        return self.to_out(gate * mixed), state

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        start: int | Tensor,
        cache: KeyValueCache | None,
        lengths: Tensor | None,
    ) -> Tensor:
        """Weighs v (B, S, E) for queries from place `start` on; padding in v is zero."""
        time, keys = q.shape[1], k.shape[1]
        places = torch.arange(time, device=q.device)
        first = start[:, None] if isinstance(start, Tensor) else start
        if self.causal:
            seen = (places + first + 1).expand(len(q), -1) if time else places[None]
        elif lengths is None:
            seen = torch.full((1, 1), keys, device=q.device)
        else:
            seen = lengths[:, None]
        bias = self._bias(places + first, torch.arange(keys, device=q.device))
        q = q * self.key_size**-0.5
        if self.activation == "softmax":
            return self._softmax(q, k, v, bias, seen)
        # A square divided by n is the square of what is divided by its root.
        root = seen.clamp(min=1).to(torch.float64).sqrt().to(q.dtype)[..., None]
        q, bias = q / root, None if bias is None else bias / root
        if bias is None and (not self.causal or keys == time):
            return relu2_attention(q, k, v, causal=self.causal, backend=self.backend)
        whole = time == 1 and cache is not None and not cache.ragged
        visible = None if whole else torch.arange(keys, device=q.device) < seen[..., None]
        return relu2_reference(q, k, v, visible=visible, bias=bias)

    def _softmax(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, seen: Tensor
    ) -> Tensor:
        stretch = (seen.clamp(min=2).to(torch.float64).log() / math.log(512)).to(q.dtype)
        scores = q @ k.mT * stretch[..., None]
        if bias is not None:
            scores = scores + bias
        hidden = torch.arange(k.shape[1], device=q.device) >= seen[..., None]
        scores = scores.masked_fill(hidden & (seen[..., None] > 0), -torch.inf)
        return torch.softmax(scores, dim=-1) @ v
