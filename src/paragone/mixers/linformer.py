r"""Linformer: attention to a few learnt mixtures of the keys instead of to all of them.

The attention matrix is often nearly of low rank, so keys and values are mixed along time into
$R$ rows each before anything is compared:

$$ o = \mathrm{softmax}\!\Big(\frac{q\,(E^\top k)^\top}{\sqrt{D}}\Big)\, F^\top v ,
   \qquad E, F \in \mathbb{R}^{L \times R} . $$

Mixing along time and projecting the width commute, so with $E$ shared by the heads the tokens are
mixed first, $E^\top (x W) = (E^\top x) W$, and only R of them are projected.

Cost: O(T R M) time and memory. Every row of $E$ belongs to a place, so that T is at most L, and
each output sees the whole sequence: there is no causal form.

References:
    Wang et al. (2020), arXiv:2006.04768, eq. 7 and section 4 (sharing).

Shapes: B rows, T time, L longest, R rank, H heads, G heads of keys, D head width, M model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.mixers.contract import Mixer

__all__ = ["Linformer"]

SHARING = ("none", "headwise", "key-value", "layerwise")


class Linformer(Mixer):
    """Multi-head attention with keys and values mixed down to `rank` rows.

    Prefer it to `MultiHeadAttention` for encoders over long input of bounded length; prefer
    `Performer` or `LinearAttention` where length is open or the model must decode. Parameters
    are named as in the package `linformer`, so that its weights load.

    Args:
        width: Model width M; a multiple of `heads`.
        heads: Heads H.
        length: Most tokens L.
        rank: Rows R that keys and values are mixed to.
        sharing: Who shares the mixtures: "none" (each head has its own E and F), "headwise" (one
            E and one F), "key-value" (E = F) or "layerwise" (E = F in all layers: hand the first
            layer's `proj_k` to the others as `projection`).
        projection: (L, R) parameter to share, for "layerwise".
        key_heads: Heads of keys and values, `heads` (None) or 1.
        tied_values: Whether values are the mixed keys themselves.
        dropout: Of the weights, in training.
        causal: Must be False.
        bias: Whether the output has a bias.
        backend: "auto" or "torch".
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: `causal=True`, more than L tokens, or an option out of range.

    Example:
        >>> Linformer(64, heads=4, length=512, rank=32)(torch.randn(2, 100, 64))[0].shape
        torch.Size([2, 100, 64])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        length: int = 1024,
        rank: int = 256,
        sharing: str = "headwise",
        *,
        projection: nn.Parameter | None = None,
        key_heads: int | None = None,
        tied_values: bool = False,
        dropout: float = 0.0,
        causal: bool = False,
        bias: bool = True,
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        key_heads = heads if key_heads is None else key_heads
        self.width, self.heads, self.key_heads, self.causal = width, heads, key_heads, False
        self.length, self.rank, self.sharing = length, rank, sharing
        self.tied_values, self.dropout = tied_values, dropout
        self._check(causal, backend, projection)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        inner = width // heads * key_heads
        self.to_q = nn.Linear(width, width, bias=False, **where)
        self.to_k = nn.Linear(width, inner, bias=False, **where)
        if not tied_values:
            self.to_v = nn.Linear(width, inner, bias=False, **where)
        self.to_out = nn.Linear(width, width, bias=bias, **where)
        shape = (heads, length, rank) if sharing == "none" else (length, rank)
        given = projection is not None
        self.proj_k = projection if given else nn.Parameter(torch.empty(shape, **where))
        if sharing in ("none", "headwise") and not tied_values:
            self.proj_v = nn.Parameter(torch.empty(shape, **where))
        self._own = not given
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the mixtures from N(0, 1 / R), as the paper's theorem does."""
        for name in ("proj_k", "proj_v") if self._own else ():
            if hasattr(self, name) and not getattr(self, name).is_meta:
                nn.init.normal_(getattr(self, name), std=self.rank**-0.5)

    def _check(self, causal: bool, backend: str, projection: Tensor | None) -> None:
        if causal:
            raise ValueError(
                "Linformer mixes all keys before they are compared, so each output knows the "
                "future: it has no causal form; take Performer or LinearAttention for that"
            )
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width={self.width} is no multiple of heads={self.heads}")
        if self.sharing not in SHARING:
            raise ValueError(f"sharing={self.sharing!r} is none of {', '.join(SHARING)}")
        if self.key_heads not in (1, self.heads):
            raise ValueError(f"key_heads={self.key_heads} is neither 1 nor heads={self.heads}")
        if self.sharing == "none" and self.key_heads != self.heads:
            raise ValueError("sharing='none' has mixtures for each head: leave key_heads out")
        if not 1 <= self.rank <= self.length:
            raise ValueError(f"rank={self.rank} is not in 1..length={self.length}")
        if backend not in ("auto", "torch"):
            raise ValueError(f"backend={backend!r} is none of auto, torch")
        if projection is not None and self.sharing != "layerwise":
            raise ValueError(f"sharing={self.sharing!r} takes no projection; 'layerwise' does")
        if projection is not None and projection.shape != (self.length, self.rank):
            raise ValueError(
                f"projection has shape {tuple(projection.shape)}; "
                f"({self.length}, {self.rank}) is expected"
            )

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Any]:
        time = x.shape[1]
        if time > self.length:
            raise ValueError(
                f"Linformer: {time} tokens, but length={self.length}; build it with a larger one"
            )
        # Padding is zero in x, and keys have no bias: it is masked before the mixing.
        k, v = self._mixed(x)
        q = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (t.expand(-1, self.heads, -1, -1) for t in (k, v))
        dropout = self.dropout if self.training else 0.0
        y = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.to_out(y.transpose(1, 2).flatten(2)), None

    def _mixed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, R, D)."""
        time, heads = x.shape[1], self.key_heads
        mixtures = [self.proj_k[..., :time, :]]
        if hasattr(self, "proj_v"):
            mixtures.append(self.proj_v[..., :time, :])
        to = [self.to_k] if self.tied_values else [self.to_k, self.to_v]
        if self.sharing == "none":
            found = [
                mixture.mT @ project(x).unflatten(-1, (heads, -1)).transpose(1, 2)
                for mixture, project in zip(mixtures, to, strict=True)
            ]
        else:
            mixed = [mixture.mT @ x for mixture in mixtures]
            found = [
                project(mixed[min(at, len(mixed) - 1)]).unflatten(-1, (heads, -1)).transpose(1, 2)
                for at, project in enumerate(to)
            ]
        return found[0], found[-1]
