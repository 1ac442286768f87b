r"""Linear attention: softmax attention with the exponential replaced by a feature map.

With a positive feature map $\phi$ the attention matrix has rank F, so the causal output is a
recurrence over one $F \times E$ memory and costs $O(T F E)$, not $O(T^2 D)$:

$$ S_t = S_{t-1} + \phi(k_t) v_t^\top, \quad z_t = z_{t-1} + \phi(k_t), \quad
   o_t = \frac{S_t^\top \phi(q_t)}{\phi(q_t)^\top z_t} . $$

The same numbers come out of three forms: parallel (all pairs at once), chunked (pairs inside a
chunk, the memory between chunks: the quick one) and recurrent (one token at a time: decoding).
`ops.linear.interface.linear_attention` is the operation, with gates and the delta rule as well;
`feature_maps` has the maps.

References:
    Katharopoulos et al. (2020), "Transformers are RNNs", arXiv:2006.16236, eq. 8-12 and 16-20.
    Hua et al. (2022), arXiv:2202.10447, section 3.2 (chunks).

Shapes: B rows, T time, M model width, H heads, D key width, E value width, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paragone.mixers.contract import Mixer
from paragone.mixers.feature_maps import FeatureMap, feature_map_for
from paragone.mixers.ops.linear.interface import FORMS, FUSED, linear_attention
from paragone.mixers.ops.linear.reference import LinearState, divided

__all__ = ["LinearAttention", "LinearAttentionState", "linear_attention"]

_BULK = 256


class LinearAttentionState(NamedTuple):
    """`memory` (B, H, F, E), `norm` (B, H, F or 0), `offset` (B, H, what the map carries on)."""

    memory: Tensor
    norm: Tensor
    offset: Tensor


class LinearAttention(Mixer):
    r"""Multi-head linear attention.

    Prefer it to `MultiHeadAttention` when the context is long: time and memory grow linearly with
    T, and decoding keeps a memory of fixed size instead of a growing cache. Prefer
    `GatedDeltaNet` where something must be recalled exactly: a sum of outer products of rank D
    blurs once there are more keys than that.

    Args:
        width: Model width M.
        heads: Number of heads H; M is a multiple of it.
        feature_map: "elu1", "relu", "exp", "double_softmax", "taylor1", "taylor2", "identity"
            (with normalize=False), or a function or module of yours from (…, D) to
            non-negative features (…, F).
        causal: Whether outputs depend on the past alone.
        key_width: Width D of queries and keys (None: M / H; for "taylor2" 16 at most, as it
            makes 1 + D + D^2 features).
        form: "parallel", "chunked", "recurrent", or "auto".
        chunk: Tokens of a chunk; 64 or 128 are quickest.
        normalize: Whether to divide by the sum of weights; without it, weights are over sqrt(D).
        backend: "auto", or a name from `paragone.kernels.choice.backends("linear_attention")`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: Sizes that do not fit; a map without, or with, the normaliser it must have.

    Example:
        >>> mixer = LinearAttention(width=64, heads=4, feature_map="elu1")
        >>> y, state = mixer(torch.randn(2, 100, 64))
        >>> y.shape, mixer.step(torch.randn(2, 64), state)[0].shape
        (torch.Size([2, 100, 64]), torch.Size([2, 64]))
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        feature_map: str | Callable[[Tensor], Tensor] = "elu1",
        causal: bool = True,
        key_width: int | None = None,
        form: str = "auto",
        chunk: int = 64,
        normalize: bool = True,
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width={width} is no multiple of heads={heads}; choose one that is")
        if form not in FORMS:
            raise ValueError(f"form={form!r} is none of {', '.join(FORMS)}")
        if chunk < 1:
            raise ValueError(f"chunk={chunk} holds no token; 64 or 128 are good sizes")
        self.map = feature_map_for(feature_map)
        name = feature_map if isinstance(feature_map, str) else type(self.map).__name__
        if self.map.signed and normalize:
            raise ValueError(
                f"feature_map={name!r} may be negative, and so may the sum it would be divided "
                "by; pass normalize=False"
            )
        if self.map.relative and not normalize:
            raise ValueError(f"feature_map={name!r} is only known up to a factor that the "
                             "normaliser takes out; pass normalize=True")  # fmt: skip
        self.width, self.heads, self.causal = width, heads, causal
        self.keys = key_width or (min(width // heads, 16) if self.map.bulky else width // heads)
        self.form, self.chunk, self.backend = form, chunk, backend
        self.normalize = normalize and not self.map.own_norm
        where: dict[str, Any] = {"bias": False, "device": device, "dtype": dtype}
        self.to_qkv = nn.Linear(width, 2 * heads * self.keys + width, **where)
        self.to_out = nn.Linear(width, width, **where)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, M) to queries and keys (B, H, T, D) and values (B, H, T, E)."""
        inner = self.heads * self.keys
        parts = self.to_qkv(x).split((inner, inner, self.width), -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return q, k, v

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, LinearAttentionState | None]:
        q, k, v = self._heads(x)
        if self.map.bulky and x.shape[1] > _BULK:
            o, state = self._by_blocks(q, k, v, state, lengths)
        else:
            o, state = self._attend(q, k, v, state, lengths)
        y = self.to_out(o.transpose(1, 2).flatten(2))
        return y, state if self.causal else None

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, state: Any, lengths: Tensor | None
    ) -> tuple[Tensor, LinearAttentionState]:
        options: dict[str, Any] = {
            "normalize": self.normalize, "causal": self.causal, "lengths": lengths,
            "scale": 1.0 if self.map.own_norm else self.keys**-0.5,
            "form": self.form, "chunk": self.chunk, "backend": self.backend,
        }  # fmt: skip
        memory = None if state is None else LinearState(state.memory, state.norm)
        if self.map.name in FUSED:
            o, memory = linear_attention(
                q, k, v, state=memory, feature_map=self.map.name, **options
            )
            return o, LinearAttentionState(*memory, memory.norm[..., :0])
        beyond = None
        if lengths is not None:
            beyond = torch.arange(q.shape[2], device=q.device) >= lengths[:, None]
            beyond = beyond[:, None, :, None]
        kind = v.dtype
        offset = None if state is None or not state.offset.shape[-1] else state.offset
        if self.map.offset(self.keys):
            # What is carried on must not be rounded again and again.
            q, k, v = (y if y.dtype == torch.float64 else y.float() for y in (q, k, v))
        q, k, gate, offset = self.map(q, k, offset, beyond, self.causal)
        o, memory = linear_attention(q, k, v, gate=gate, state=memory, **options)
        if offset is None:
            offset = memory.memory.new_zeros(*memory.memory.shape[:2], 0)
        return o.to(kind), LinearAttentionState(*memory, offset)

    def _by_blocks(
        self, q: Tensor, k: Tensor, v: Tensor, state: Any, lengths: Tensor | None
    ) -> tuple[Tensor, LinearAttentionState | None]:
        """Holds the features of one block at a time, in the backward pass, too."""
        if not self.causal:
            return self._both_ways(q, k, v, lengths), None
        outputs = []
        for at in range(0, q.shape[2], _BULK):
            part = [y[:, :, at : at + _BULK] for y in (q, k, v)]
            left = None if lengths is None else (lengths - at).clamp(0, _BULK)
            o, state = _again(self._attend, *part, state, left)
            outputs.append(o)
        return torch.cat(outputs, 2), state

    def _both_ways(self, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is not None:
            beyond = torch.arange(q.shape[2], device=q.device) >= lengths[:, None]
        sums: tuple[Tensor, Tensor] | None = None
        for at in range(0, q.shape[2], _BULK):
            keep = None if lengths is None else ~beyond[:, None, at : at + _BULK, None]
            more = _again(
                _summed, self.map, k[:, :, at : at + _BULK], v[:, :, at : at + _BULK], keep
            )
            sums = more if sums is None else (sums[0] + more[0], sums[1] + more[1])
        parts = [
            _again(_read, self.map, q[:, :, at : at + _BULK], sums, self.normalize)
            for at in range(0, q.shape[2], _BULK)
        ]
        return torch.cat(parts, 2)


def _summed(
    features: FeatureMap, k: Tensor, v: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    k = features.features(k)
    k = k if keep is None else k * keep
    return k.transpose(-1, -2) @ v, k.sum(2)


def _read(features: FeatureMap, q: Tensor, sums: tuple[Tensor, Tensor], normalize: bool) -> Tensor:
    width, q = q.shape[-1], features.features(q)
    o = q @ sums[0]
    return divided(o, (q @ sums[1][..., None])[..., 0]) if normalize else width**-0.5 * o


def _again(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls it, to be computed anew in the backward pass rather than kept."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False)
