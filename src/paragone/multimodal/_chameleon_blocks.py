r"""Blocks of Chameleon: normalised queries and keys, and norms that may stand behind.

Softmax is blind to a constant that is added to all scores, so queries and keys of two modalities
outbid each other until numbers overflow. A layer norm of each head bounds them, before places
turn them:

$$ q_h = R_t\big(\gamma_h \odot \mathrm{LN}(W^q_h x) + \beta_h\big), \qquad
   k_g = R_t\big(\gamma_g \odot \mathrm{LN}(W^k_g x) + \beta_g\big) , $$

and in the large model norms stand behind attention and feed-forward, within the branch, which
bounds what each adds to the stream:

$$ h \leftarrow h + \mathrm{drop}(\mathrm{norm}(\mathrm{attn}(h))), \qquad
   h \leftarrow h + \mathrm{drop}(\mathrm{norm}(\mathrm{ffn}(h))) . $$

References:
    Chameleon Team (2024), arXiv:2405.09818, section 2.3 (QK-norm, dropout, norm re-ordering).
    Dehghani et al. (2023), arXiv:2302.05442, section 2.2; Liu et al. (2021), arXiv:2111.09883.

Shapes: B rows, T time, M model width, H heads, G key heads, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from paragone.language.llama import FeedForward, RMSNorm
from paragone.mixers.heads import GroupedQueryAttention
from paragone.mixers.rotary import Rotary
from paragone.multimodal._chameleon_config import ChameleonConfig

__all__ = ["ChameleonBlock", "ChameleonTrunk", "HeadNorm"]


class HeadNorm(nn.LayerNorm):
    """Layer norm over each head's own coordinates, with a weight and a bias of its own.

    Args:
        heads: Heads H.
        width: Head width D.
        eps: What is added to the variance.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, heads: int, width: int, eps: float = 1e-5, *, device: Any = None, dtype: Any = None
    ):
        super().__init__([heads, width], eps, device=device, dtype=dtype)

    def forward(self, input: Tensor) -> Tensor:
        """(…, H, D) to the same."""
        x = nn.functional.layer_norm(input, input.shape[-1:], None, None, self.eps)
        return torch.addcmul(self.bias, x, self.weight)


class ChameleonBlock(nn.Module):
    """One layer.

    Args:
        config: Sizes and switches.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(self, config: ChameleonConfig, *, device: Any = None, dtype: Any = None):
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        width, heads = config.hidden_size, config.num_attention_heads
        size = width // heads
        self.self_attn: Any = GroupedQueryAttention(
            width, heads, kv_heads=config.kv_heads, bias=config.attention_bias,
            rotary=Rotary(size, base=config.rope_theta), **where,
        )  # fmt: skip
        if config.qk_norm:
            self.self_attn.q_norm = HeadNorm(heads, size, **where)
            self.self_attn.k_norm = HeadNorm(config.kv_heads, size, **where)
        self.mlp = FeedForward(width, config.intermediate_size, bias=config.mlp_bias, **where)
        self.input_layernorm = RMSNorm(width, config.rms_norm_eps, **where)
        self.post_attention_layernorm = RMSNorm(width, config.rms_norm_eps, **where)
        self.behind, self.dropout = config.swin_norm, nn.Dropout(config.dropout)

    def forward(
        self, h: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Any]:
        """(B, T, M) to the same, and the cache behind its last tokens."""
        x = h if self.behind else self.input_layernorm(h)
        x, state = self.self_attn(x, state=state, positions=positions, lengths=lengths)
        h = h + self.dropout(self.input_layernorm(x) if self.behind else x)
        if self.behind:
            x = self.post_attention_layernorm(self.mlp(h))
        else:
            x = self.mlp(self.post_attention_layernorm(h))
        return h + self.dropout(x), state


class ChameleonTrunk(nn.Module):
    """Embedding, blocks, last norm and the image tokenizer: what the files call `model`.

    Args:
        config: Sizes and switches.
        vqmodel: The image tokenizer.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, config: ChameleonConfig, vqmodel: nn.Module, *, device: Any = None, dtype: Any = None
    ):
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        # Its own way to draw weights would import half of torch on meta.
        table = torch.empty(config.vocab_size, config.hidden_size, **where)
        self.embed_tokens = nn.Embedding.from_pretrained(table, freeze=False)
        self.layers = nn.ModuleList(
            ChameleonBlock(config, **where) for _ in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, **where)
        self.vqmodel = vqmodel

    def forward(
        self,
        h: Tensor,
        state: list[Any] | None = None,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, list[Any]]:
        """The stream before the last norm, and what to go on from."""
        states: list[Any] = [None] * len(self.layers) if state is None else list(state)
        for at, block in enumerate(self.layers):
            h, states[at] = block(h, states[at], positions, lengths)
        return h, states
