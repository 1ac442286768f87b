r"""Gated linear attention: each channel of the memory forgets at a pace that the input sets.

$$ \alpha_t = \sigma(W_2 W_1 x_t + b)^{1/\tau}, \quad
   S_t = \mathrm{diag}(\alpha_t)\, S_{t-1} + k_t v_t^\top, \quad
   o_t = d^{-1/2} S_t^\top q_t, $$

with $W_1$ of rank 16 and $\tau = 16$, which starts the decay near one. The output is normed
by heads and gated: $y = W_O(\mathrm{swish}(W_G x) \odot \mathrm{norm}(o))$. The decay is kept as
a logarithm throughout, so no product of many of them can underflow. Cost: O(T D E).

References:
    Yang et al. (2024), "Gated linear attention transformers", arXiv:2312.06635, section 4.4.

Shapes: B rows, T time, M model width, H heads, D key width, E value width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from paragone.mixers._linear_parts import HeadNorm, checked_heads, merged, split_heads
from paragone.mixers.contract import Mixer
from paragone.mixers.ops.linear.interface import linear_attention
from paragone.mixers.ops.linear.reference import LinearState

__all__ = ["GatedLinearAttention", "GatedLinearState"]


class GatedLinearState(NamedTuple):
    """`memory` (B, H, D, E)."""

    memory: Tensor


class GatedLinearAttention(Mixer):
    r"""Gated linear attention (GLA).

    Prefer it to `Retention` where what to forget depends on the input, and to `Mamba2` where a
    decay by channel is worth its time; prefer `GatedDeltaNet` for recall.

    Args:
        width: Model width M.
        heads: Number of heads H.
        key_width: Width D of queries and keys (None: half of the head's, as in the paper).
        rank: Rank of the gate's projection.
        tau: Root taken of the gate; higher forgets less.
        causal: Must be true: a decay has a direction.
        chunk: Tokens of a chunk.
        backend: "auto", or a name from `paragone.kernels.choice.backends("linear_attention")`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: Sizes that do not fit, or causal=False.

    Example:
        >>> import torch
        >>> y, state = GatedLinearAttention(width=64, heads=4)(torch.randn(2, 100, 64))
        >>> y.shape, state.memory.shape
        (torch.Size([2, 100, 64]), torch.Size([2, 4, 8, 16]))
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        key_width: int | None = None,
        rank: int = 16,
        tau: float = 16.0,
        causal: bool = True,
        chunk: int = 64,
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        values = checked_heads(width, heads)
        if not causal:
            raise ValueError("GatedLinearAttention decays with time and has no causal=False form")
        if not tau > 0:
            raise ValueError(f"tau={tau} is no root; take a number above 0, such as 16")
        self.width, self.heads, self.tau = width, heads, tau
        self.keys = key_width or max(values // 2, 1)
        self.chunk, self.backend = chunk, backend
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.to_qk = nn.Linear(width, 2 * heads * self.keys, bias=False, **where)
        self.to_vg = nn.Linear(width, 2 * width, bias=False, **where)
        self.to_rank = nn.Linear(width, rank, bias=False, **where)
        self.to_gate = nn.Linear(rank, heads * self.keys, **where)
        self.norm = HeadNorm(values, **where)
        self.to_out = nn.Linear(width, width, bias=False, **where)

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, GatedLinearState]:
        q, k = self.to_qk(x).chunk(2, -1)
        v, g = self.to_vg(x).chunk(2, -1)
        gate = functional.logsigmoid(self.to_gate(self.to_rank(x))) / self.tau
        q, k, v, gate = (split_heads(part, self.heads) for part in (q, k, v, gate))
        o, after = linear_attention(
            q, k, v, gate=gate, scale=self.keys**-0.5, lengths=lengths, chunk=self.chunk,
            state=None if state is None else LinearState(state.memory, state.memory[..., :0, 0]),
            backend=self.backend,
        )  # fmt: skip
        y = self.to_out(merged(self.norm(o)) * functional.silu(g))
        return y, GatedLinearState(after.memory)
