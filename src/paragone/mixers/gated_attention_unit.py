r"""Gated attention unit: one layer that is attention and feed-forward at once.

A gate makes a single head with a narrow key enough, so that the expanded hidden layer of a gated
feed-forward can be what is attended to:

$$ o = (u \odot A v)\, W_o, \qquad A_{ij} = \frac{1}{n_i}\,
   \mathrm{relu}\!\Big(\frac{q_i^\top k_j}{\sqrt{D}} + b_{i-j}\Big)^2, \qquad
   q = \gamma_q \odot z + \beta_q, \;\; k = \gamma_k \odot z + \beta_k $$

with $u, v = \mathrm{silu}(x W_{uv})$ of width E, $z = \mathrm{silu}(x W_z)$ of width D. Here
$n_i$ is the number of keys that token i sees: the true length, or i + 1 if causal. Dividing by
the padded length, as is often done, makes outputs depend on padding, and on the future.

Cost: O(T^2 (D + E)) time; state O(T (D + E)). Two units have the parameters of one block of
attention and feed-forward.

References:
    Hua et al. (2022), "Transformer quality in linear time", arXiv:2202.10447, section 2 and
    figure 2; Su (2022), "GAU-alpha" (softmax for other lengths than those trained on).

Shapes: B rows, T time, S held and T new tokens, M model width, D key width, E hidden width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from paragone.mixers._cheap_gate import GatedUnit

__all__ = ["GatedAttentionUnit"]


class GatedAttentionUnit(GatedUnit):
    """Gated attention unit with squared-ReLU or softmax weights; its state is a `KeyValueCache`.

    Prefer it to `MultiHeadAttention` with a feed-forward when layers should be few and simple, at
    moderate length: it has no heads, and half of its parameters are the feed-forward's. Prefer
    `FLASH` for long sequences.

    Args:
        width: Model width M.
        expansion: Hidden width E over M.
        key_size: Key width D, even.
        causal: Whether a token sees the past alone.
        activation: "relu2", or "softmax" with logits times log(n) / log(512), which holds up at
            other lengths than those trained on.
        position: "rotary", "t5" (a bias learnt for each range of distances), or None.
        scale: Standard deviation of gamma at the start; the paper's is 0.02.
        bias: Whether projections have a bias.
        backend: "auto", or a name from `paragone.kernels.choice.backends("relu2_attention")`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An option out of range.

    Example:
        >>> import torch
        >>> y, state = GatedAttentionUnit(64)(torch.randn(2, 100, 64))
        >>> y.shape, state.keys.shape
        (torch.Size([2, 100, 64]), torch.Size([2, 1, 100, 128]))
    """

    def __init__(
        self,
        width: int,
        expansion: float = 2,
        key_size: int = 128,
        *,
        causal: bool = True,
        activation: str = "relu2",
        position: str | None = "rotary",
        scale: float = 1.0,
        bias: bool = False,
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(
            width, expansion, key_size, 2, causal=causal, position=position, scale=scale,
            bias=bias, device=device, dtype=dtype,
        )  # fmt: skip
        if activation not in ("relu2", "softmax"):
            raise ValueError(f"activation={activation!r} is none of relu2, softmax")
        self.activation, self.backend = activation, backend

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Any]:
        return self._quadratic(x, state, positions, lengths)
