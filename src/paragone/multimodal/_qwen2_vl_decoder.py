r"""The decoder of Qwen2-VL: a Qwen2 whose heads are turned by time, row and column.

$$ h \leftarrow h + \mathrm{attn}(\mathrm{norm}(h)), \qquad
   h \leftarrow h + W_d\big(\mathrm{silu}(W_g \mathrm{norm}(h)) \odot W_u \mathrm{norm}(h)\big) . $$

A state is what attention remembers and the place of the next token, which is not the number of
tokens so far: a picture of 26 x 46 tokens takes 46 places.

References:
    Wang et al. (2024), Qwen2-VL, arXiv:2409.12191, section 2.1.
    Qwen Team (2024), Qwen2, arXiv:2407.10671, section 2.2 (grouped heads, biases).

Shapes: B rows, T time, M model width, H heads of width D.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from paragone.language._moe_feed import FeedForward
from paragone.language.config import LlamaConfig
from paragone.language.llama import RMSNorm
from paragone.mixers.cache import KeyValueCache
from paragone.mixers.heads import GroupedQueryAttention
from paragone.mixers.rotary import Rotary

__all__ = ["Qwen2VLDecoder", "Qwen2VLState"]


@dataclasses.dataclass(frozen=True)
class Qwen2VLState:
    """What a model remembers of the tokens so far.

    Attributes:
        layers: Keys and values of each layer.
        following: (B,) place of the next token of each row.
    """

    layers: list[KeyValueCache]
    following: Tensor

    @property
    def longest(self) -> int:
        """Tokens in the longest row."""
        return self.layers[0].longest

    def truncate(self, length: int, following: int) -> Qwen2VLState:
        """Takes back what came after the first `length` tokens; this state must not be used again.

        Args:
            length: Tokens of each row that stay.
            following: The place of the token behind them.

        Raises:
            ValueError: Rows that have fewer tokens.
        """
        layers = [one.truncate(length, discard=True) for one in self.layers]
        return Qwen2VLState(layers, torch.full_like(self.following, following))


class Qwen2VLDecoder(nn.Module):
    """Embedding, blocks and last norm: what the published files call `model`.

    Args:
        config: Sizes.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(self, config: LlamaConfig, *, device: Any = None, dtype: Any = None):
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.rotary = Rotary(config.head_size, base=config.rope_theta, scaling=config.rope_scaling)
        shape = (config.vocab_size, config.hidden_size)
        # Drawn by the whole model; torch's own draw takes seconds of imports on `meta`.
        self.embed_tokens = nn.Embedding(*shape, _weight=torch.empty(shape, **where))
        self.layers = nn.ModuleList(
            _Block(config, self.rotary, where) for _ in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, **where)

    def forward(
        self,
        h: Tensor,
        table: tuple[Tensor, Tensor],
        layers: list[KeyValueCache],
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, list[KeyValueCache]]:
        """Embedded tokens through all blocks.

        Args:
            h: (B, T, M).
            table: Cosines and sines of their places, (B, 1, T, D / 2).
            layers: What each layer remembers.
            lengths: (B,) tokens of each row that count (None: all).

        Returns:
            (B, T, M), normalised, and what each layer remembers then.
        """
        found = []
        for block, state in zip(self.layers, layers, strict=True):
            h, state = block(h, table, state, lengths)
            found.append(state)
        return self.norm(h), found


class _Block(nn.Module):
    def __init__(self, config: LlamaConfig, rotary: Rotary, where: dict[str, Any]):
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(width, eps, **where)
        self.self_attn = _Attention(
            width, config.num_attention_heads, kv_heads=config.kv_heads,
            head_size=config.head_size, rotary=rotary, bias="qkv", **where,
        )  # fmt: skip
        self.post_attention_layernorm = RMSNorm(width, eps, **where)
        self.mlp = FeedForward(width, config.inner, **where)

    def forward(
        self, h: Tensor, table: tuple[Tensor, Tensor], state: KeyValueCache, lengths: Tensor | None
    ) -> tuple[Tensor, KeyValueCache]:
        more, state = self.self_attn.turned(self.input_layernorm(h), table, state, lengths)
        h = h + more
        return h + self.mlp(self.post_attention_layernorm(h)), state


class _Attention(GroupedQueryAttention):
    """Grouped heads that are turned by angles from outside."""

    def turned(
        self, x: Tensor, table: tuple[Tensor, Tensor], state: KeyValueCache, lengths: Tensor | None
    ) -> tuple[Tensor, KeyValueCache]:
        q, k, v = self._projected(x, table)
        begun = state.longest > 0
        state = state.append(k, v, lengths)
        y = self._go_on(q, state, lengths) if begun else self._attend(q, k, v, lengths, None)
        return self.o_proj(y.transpose(1, 2).flatten(2)), state
