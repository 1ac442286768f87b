r"""The delta rule: a memory that corrects what a key recalls instead of adding to it.

Linear attention adds $k_t v_t^\top$ to its memory; two values under one key are then mixed. The
delta rule first looks up what the key recalls and writes the difference, one step of gradient
descent on $\tfrac12 \lVert S^\top k_t - v_t \rVert^2$ with step size $\beta_t$:

$$ S_t = \alpha_t S_{t-1} + \beta_t\, k_t \bigl(v_t - \alpha_t S_{t-1}^\top k_t\bigr)^\top,
   \qquad o_t = d^{-1/2} S_t^\top q_t , $$

with $\alpha_t = 1$ in DeltaNet and $\alpha_t = \exp(-a\,\mathrm{softplus}(w^\top x_t + b))$ in
Gated DeltaNet. Keys and queries have length 1, so $I - \beta k k^\top$ has the eigenvalue
$1 - \beta$: between 0 and 1 for $\beta \in (0, 1)$, a reflection at $\beta = 2$, with which states
can be swapped and parities counted. Cost: O(T D E), and a triangular system a chunk.

References:
    Schlag, Irie and Schmidhuber (2021), arXiv:2102.11174, eq. 23-24 (delta rule).
    Yang et al. (2024), arXiv:2406.06484, section 3 (chunks), 3.3 (short convolution, norm).
    Yang, Kautz and Hatamizadeh (2024), arXiv:2412.06464, eq. 10 and section 3.4 (gated).
    Grazzi et al. (2024), arXiv:2411.12537 (negative eigenvalues).
    Kimi team (2025), arXiv:2510.26692, eq. 1 (a decay by channel).

Shapes: B rows, T time, M model width, H heads, D key width, E value width.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.mixers._linear_parts import (
    HeadNorm,
    ShortConvolution,
    checked_heads,
    merged,
    split_heads,
)
from paragone.mixers.contract import Mixer
from paragone.mixers.ops.linear.interface import linear_attention
from paragone.mixers.ops.linear.reference import LinearState

__all__ = ["DeltaNet", "DeltaState", "GatedDeltaNet", "KimiDeltaAttention"]


class DeltaState(NamedTuple):
    """`memory` (B, H, D, E) and `tail` (B, taps - 1, C): what the short convolution sees."""

    memory: Tensor
    tail: Tensor


class DeltaNet(Mixer):
    r"""Linear attention by the delta rule.

    Prefer it to `LinearAttention` where values must be recalled by key; prefer `GatedDeltaNet`
    on long sequences, where it helps to forget at once.

    Args:
        width: Model width M.
        heads: Number of heads H.
        key_width: Width D of queries and keys (None: M / H).
        taps: Tokens of the short convolution of q, k and v; 0: none.
        negative: Whether beta reaches up to 2, not 1, for eigenvalues down to -1.
        causal: Must be true: a correction has an order.
        chunk: Tokens of a chunk.
        backend: "auto", or a name from `paragone.kernels.choice.backends("linear_attention")`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: Sizes that do not fit, or causal=False.

    Example:
        >>> mixer = DeltaNet(width=64, heads=4)
        >>> y, state = mixer(torch.randn(2, 100, 64))
        >>> y.shape, mixer.step(torch.randn(2, 64), state)[0].shape
        (torch.Size([2, 100, 64]), torch.Size([2, 64]))
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        key_width: int | None = None,
        taps: int = 4,
        negative: bool = False,
        causal: bool = True,
        chunk: int = 64,
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        self.values = checked_heads(width, heads)
        if not causal:
            raise ValueError(f"{type(self).__name__} corrects in order; there is no causal=False")
        if taps < 0:
            raise ValueError(f"taps={taps}: a convolution sees 1 token or more; 0 leaves it out")
        self.width, self.heads, self.keys = width, heads, key_width or self.values
        self.negative, self.chunk, self.backend = negative, chunk, backend
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        inner = 2 * heads * self.keys + width
        self.to_qkv = nn.Linear(width, inner, bias=False, **where)
        self.to_beta = nn.Linear(width, heads, bias=False, **where)
        self.short = ShortConvolution(inner, taps, **where) if taps else None
        self.norm = HeadNorm(self.values, **where)
        self.to_out = nn.Linear(width, width, bias=False, **where)

    def _gate(self, x: Tensor) -> Tensor | None:
        """Logarithm of the decay (B, H, T) or (B, H, T, D)."""
        return None

    def _finished(self, o: Tensor, x: Tensor) -> Tensor:
        """(B, T, M) out of the heads' outputs (B, H, T, E)."""
        return self.to_out(merged(self.norm(o)))

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, DeltaState]:
        qkv = self.to_qkv(x)
        tail = None if state is None else state.tail
        if self.short is None:
            qkv, tail = functional.silu(qkv), qkv[:, :0]
        else:
            qkv, tail = self.short(qkv, tail, lengths)
        inner = self.heads * self.keys
        parts = qkv.split((inner, inner, self.width), -1)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        q, k = (functional.normalize(part, dim=-1, eps=1e-6) for part in (q, k))
        beta = self.to_beta(x).sigmoid().transpose(1, 2)
        o, after = linear_attention(
            q, k, v, gate=self._gate(x), beta=2 * beta if self.negative else beta,
            state=None if state is None else LinearState(state.memory, state.memory[..., :0, 0]),
            scale=self.keys**-0.5, lengths=lengths, chunk=self.chunk, backend=self.backend,
        )  # fmt: skip
        return self._finished(o, x), DeltaState(after.memory, tail)


class GatedDeltaNet(DeltaNet):
    r"""The delta rule with a decay that the input sets for each head, and an output gate.

    Prefer it to `DeltaNet` and `Mamba2` as the default among mixers of fixed memory: it recalls
    like the one and forgets like the other.

    Args:
        width: Model width M.
        heads: Number of heads H.
        options: As for `DeltaNet`.

    Example:
        >>> y, state = GatedDeltaNet(width=64, heads=4)(torch.randn(2, 100, 64))
        >>> y.shape, state.memory.shape
        (torch.Size([2, 100, 64]), torch.Size([2, 4, 16, 16]))
    """

    def __init__(self, width: int, heads: int, **options: Any):
        super().__init__(width, heads, **options)
        where: dict[str, Any] = {key: options.get(key) for key in ("device", "dtype")}
        self._add_gates(where)
        self.reset_parameters()

    def _add_gates(self, where: dict[str, Any]) -> None:
        self.to_decay = nn.Linear(self.width, self.heads, bias=False, **where)
        self.decay_bias = nn.Parameter(torch.empty(self.heads, **where))
        self.log_rate = nn.Parameter(torch.empty(self.heads, **where))
        self.to_gate = nn.Linear(self.width, self.width, bias=False, **where)

    def reset_parameters(self) -> None:
        """Draws rates a from 1 to 16, and biases by which softplus starts from 0.001 to 0.1."""
        if self.log_rate.is_meta:
            return
        with torch.no_grad():
            self.log_rate.uniform_(1, 16).log_()
            start = self.decay_bias.uniform_(math.log(1e-3), math.log(1e-1)).exp_()
            start.add_(torch.log(-torch.expm1(-start)))

    def _gate(self, x: Tensor) -> Tensor:
        pace = functional.softplus(_exact(self.to_decay(x) + self.decay_bias))
        return -(_exact(self.log_rate).exp() * pace).transpose(1, 2)

    def _finished(self, o: Tensor, x: Tensor) -> Tensor:
        return self.to_out(merged(self.norm(o)) * functional.silu(self.to_gate(x)))


class KimiDeltaAttention(GatedDeltaNet):
    r"""Gated delta rule with a decay for each channel of the keys.

    Prefer it to `GatedDeltaNet` where channels must forget at paces of their own; it takes a
    little more time.

    Args:
        width: Model width M.
        heads: Number of heads H.
        options: As for `DeltaNet`.

    Example:
        >>> y, state = KimiDeltaAttention(width=64, heads=4)(torch.randn(2, 100, 64))
        >>> y.shape
        torch.Size([2, 100, 64])
    """

    def _add_gates(self, where: dict[str, Any]) -> None:
        inner = self.heads * self.keys
        self.to_rank = nn.Linear(self.width, self.values, bias=False, **where)
        self.to_decay = nn.Linear(self.values, inner, bias=False, **where)
        self.decay_bias = nn.Parameter(torch.empty(inner, **where))
        self.log_rate = nn.Parameter(torch.empty(self.heads, **where))
        self.to_gate = nn.Sequential(
            nn.Linear(self.width, self.values, bias=False, **where),
            nn.Linear(self.values, self.width, bias=False, **where),
        )

    def _gate(self, x: Tensor) -> Tensor:
        turns = self.to_decay(self.to_rank(x)) + self.decay_bias
        pace = split_heads(functional.softplus(_exact(turns)), self.heads)
        return -_exact(self.log_rate).exp()[:, None, None] * pace

    def _finished(self, o: Tensor, x: Tensor) -> Tensor:
        return self.to_out(merged(self.norm(o)) * self.to_gate(x).sigmoid())


def _exact(x: Tensor) -> Tensor:
    """At least float32: a decay near one does not survive half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
