"""What a Llama is made of: one record with the published names.

`LlamaConfig` holds the fields of Hugging Face's `config.json` of Llama models, those of DeepSeek-V3
where experts or latent attention are used, and what no file format states: the layout of the
rotary pairs and, for models that are trained here, the mixer.

References:
    Touvron et al. (2023), LLaMA, arXiv:2302.13971, section 2.2 and table 2.
    DeepSeek-AI (2024), DeepSeek-V3, arXiv:2412.19437, sections 2.1 and 4.2.

Shapes: sizes are numbers of coordinates, heads, layers or tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["PRESETS", "ROTARY_MIXERS", "LlamaConfig"]

ROTARY_MIXERS = ("gqa", "mha", "mqa", "window")
"""Mixers whose queries and keys are turned by their places, as published checkpoints have it."""


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes and switches of a `Llama`; the names are those of `config.json`.

    Args:
        vocab_size: Tokens V.
        hidden_size: Model width M.
        intermediate_size: Hidden units F of the feed-forward (None: 8/3 of M, up to 32).
        num_hidden_layers: Blocks L.
        num_attention_heads: Heads H.
        num_key_value_heads: Key heads G (None: H).
        head_dim: Width D of a head (None: M / H); it may differ from M / H.
        max_position_embeddings: Longest text the model is made for, in tokens.
        rms_norm_eps: What is added to the mean square of the norms.
        rope_theta: Base of the rotary angles.
        rope_scaling: None, or a mapping as in `paragone.mixers.Rotary`.
        rope_layout: "half" (Hugging Face) or "interleaved" (Meta, llama2.c, GGUF).
        tie_word_embeddings: Whether the head is the embedding.
        attention_bias: Whether all four projections have biases; "qkv" for three.
        mlp_bias: Whether the feed-forward has biases.
        qk_norm: Whether queries and keys are normalised.
        mixer: A name of `paragone.mixers.names(causal=True)`, or a tuple repeated over the layers.
        mixer_options: Further arguments of the mixer.
        bos_token_id: First token of a text.
        eos_token_id: Last token of a text, or several that end one.
        pad_token_id: What fills short rows.
        n_routed_experts: Experts to choose from (0: a dense feed-forward).
        num_experts_per_tok: Experts that a token is sent to.
        n_shared_experts: Experts that every token is sent to.
        moe_intermediate_size: Hidden units of an expert (None: F).
        first_k_dense_replace: First layers that stay dense.
        scoring_func: "softmax" (Mixtral, Qwen) or "sigmoid" (DeepSeek-V3, Moonlight).
        norm_topk_prob: Whether the chosen experts' weights are made to add to 1.
        routed_scaling_factor: What multiplies the routed experts' sum.
        n_group: Groups of experts; a token looks at `topk_group` of them.
        topk_group: Groups that are looked at.
        router_aux_loss_coef: Weight of the loss that evens out the experts' loads (0: none).
        q_lora_rank: Latent attention: rank of the queries (None: full).
        kv_lora_rank: Latent attention: rank of keys and values (None: no latent attention).
        qk_nope_head_dim: Latent attention: width without places.
        qk_rope_head_dim: Latent attention: width with places.
        v_head_dim: Latent attention: width of values.

    Raises:
        ValueError: Sizes that do not fit.

    Example:
        >>> LlamaConfig(vocab_size=512, hidden_size=64, num_attention_heads=8).head_size
        8
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int | None = None
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    rope_layout: Literal["half", "interleaved"] = "half"
    tie_word_embeddings: bool = False
    attention_bias: bool | Literal["qkv"] = False
    mlp_bias: bool = False
    qk_norm: bool = False
    mixer: str | tuple[str, ...] = "gqa"
    mixer_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2
    pad_token_id: int | None = None
    n_routed_experts: int = 0
    num_experts_per_tok: int = 2
    n_shared_experts: int = 0
    moe_intermediate_size: int | None = None
    first_k_dense_replace: int = 0
    scoring_func: Literal["softmax", "sigmoid"] = "softmax"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    router_aux_loss_coef: float = 0.0
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    qk_nope_head_dim: int | None = None
    qk_rope_head_dim: int | None = None
    v_head_dim: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1")
        if self.num_attention_heads % self.kv_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is no multiple of "
                f"num_key_value_heads={self.kv_heads}; choose a divisor"
            )
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of "
                f"num_attention_heads={self.num_attention_heads}; name head_dim"
            )
        if self.rope_layout not in ("half", "interleaved"):
            raise ValueError(f"rope_layout={self.rope_layout!r} is none of 'half', 'interleaved'")
        if self.n_routed_experts:
            self._check_experts()

    def _check_experts(self) -> None:
        experts, groups = self.n_routed_experts, self.n_group
        if not 1 <= self.num_experts_per_tok <= experts:
            raise ValueError(
                f"num_experts_per_tok={self.num_experts_per_tok}; 1 to "
                f"n_routed_experts={experts} are expected"
            )
        if groups < 1 or experts % groups:
            raise ValueError(f"n_group={groups} is no divisor of n_routed_experts={experts}")
        if not 1 <= self.topk_group <= groups:
            raise ValueError(f"topk_group={self.topk_group}; 1 to n_group={groups} are expected")
        if self.num_experts_per_tok > experts // groups * self.topk_group:
            raise ValueError(
                f"num_experts_per_tok={self.num_experts_per_tok}, but topk_group="
                f"{self.topk_group} groups hold {experts // groups * self.topk_group} experts"
            )
        if self.scoring_func not in ("softmax", "sigmoid"):
            raise ValueError(f"scoring_func={self.scoring_func!r} is none of 'softmax', 'sigmoid'")

    @property
    def kv_heads(self) -> int:
        """Key heads G."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Width D of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def inner(self) -> int:
        """Hidden units F of the feed-forward."""
        return self.intermediate_size or -(-8 * self.hidden_size // 96) * 32

    @property
    def expert_inner(self) -> int:
        """Hidden units of an expert."""
        return self.moe_intermediate_size or self.inner

    @property
    def eos(self) -> tuple[int, ...]:
        """All tokens that end a text."""
        ids = self.eos_token_id
        return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)

    @property
    def plain_attention(self) -> bool:
        """Whether every layer is attention with G key heads over the whole text."""
        plain = {"gqa", *(["mha"] if self.kv_heads == self.num_attention_heads else [])}
        used = {self.mixer} if isinstance(self.mixer, str) else set(self.mixer)
        return used <= plain and self.kv_lora_rank is None

    def mixer_of(self, layer: int) -> str:
        """Name of the mixer of a layer."""
        return self.mixer if isinstance(self.mixer, str) else self.mixer[layer % len(self.mixer)]

    def replace(self, **changes: Any) -> LlamaConfig:
        """Returns a copy with other values."""
        return dataclasses.replace(self, **changes)


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True,
    },
    "15m": {
        "hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6,
        "num_attention_heads": 6, "max_position_embeddings": 256, "tie_word_embeddings": True,
    },
    "42m": {
        "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
        "num_attention_heads": 8, "max_position_embeddings": 1024, "tie_word_embeddings": True,
    },
    "110m": {
        "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 1024, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Sizes by name, without the vocabulary: the last three are those of llama2.c."""
