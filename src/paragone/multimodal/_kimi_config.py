"""What a Kimi-VL is made of: `config.json` as published, and sizes by name.

References:
    Kimi Team (2025), Kimi-VL technical report, arXiv:2504.07491, section 2.1 and table 3.
    Liu et al. (2025), Muon is scalable for LLM training (Moonlight), arXiv:2502.16982, section 3.

Shapes: none; sizes are those of `MoonViTConfig` and `LlamaConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from paragone.language._format_config import kind_of, read_config, write_config
from paragone.language.config import LlamaConfig
from paragone.multimodal._model_files import changed
from paragone.multimodal.moonvit import MoonViTConfig

__all__ = ["MARKERS", "PRESETS", "KimiVLConfig"]

MARKERS = {
    "media_start_token_id": "<|media_start|>",
    "media_content_token_id": "<|media_content|>",
    "media_end_token_id": "<|media_end|>",
    "media_placeholder_token_id": "<|media_pad|>",
}
"""Field of the configuration to the word of its token."""

_PLAIN = ("media_placeholder_token_id", "media_start_token_id", "media_content_token_id",
          "media_end_token_id", "pad_token_id", "in_token_limit", "balance_rate")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class KimiVLConfig:
    """Sizes of both halves, and the tokens that stand for pictures.

    Args:
        vision_config: Of the encoder; a mapping with its keys, or changes to the published sizes.
        text_config: Of the decoder: latent attention and experts as in DeepSeek-V3.
        media_placeholder_token_id: What stands for each merged token of a picture.
        media_start_token_id: What a picture begins with.
        media_content_token_id: What stands between the word "image" and the placeholders (None:
            neither the word nor this token is written, as in small models).
        media_end_token_id: What a picture ends with.
        pad_token_id: What fills short rows.
        in_token_limit: Most patches of a picture before it is shrunk.
        balance_rate: How far the bias of a router moves at a step of training (0: not at all).

    Raises:
        ValueError: Tokens outside the vocabulary, or two markers alike.

    Example:
        >>> KimiVLConfig().text_config.hidden_size, KimiVLConfig().vision_config.hidden_size
        (2048, 1152)
    """

    vision_config: MoonViTConfig = dataclasses.field(default_factory=MoonViTConfig)
    text_config: LlamaConfig = dataclasses.field(default_factory=lambda: LlamaConfig(**_MOONLIGHT))
    media_placeholder_token_id: int = 163605
    media_start_token_id: int = 163602
    media_content_token_id: int | None = 163603
    media_end_token_id: int = 163604
    pad_token_id: int = 163839
    in_token_limit: int = 4096
    balance_rate: float = 1e-3

    def __post_init__(self) -> None:
        if not isinstance(self.vision_config, MoonViTConfig):
            object.__setattr__(self, "vision_config", MoonViTConfig.of(self.vision_config))
        if not isinstance(self.text_config, LlamaConfig):
            object.__setattr__(self, "text_config", _text_of(self.text_config, "text_config"))
        marks = {name: getattr(self, name) for name in MARKERS}
        given = [one for one in marks.values() if one is not None]
        vocabulary = self.text_config.vocab_size
        for name, one in (marks | {"pad_token_id": self.pad_token_id}).items():
            if one is not None and not 0 <= one < vocabulary:
                raise ValueError(f"{name}={one}; tokens are 0 to {vocabulary - 1}")
        if len(set(given)) < len(given):
            raise ValueError(f"markers of pictures must differ: {marks}")
        if self.in_token_limit < 1 or not self.balance_rate >= 0:
            raise ValueError(
                f"in_token_limit={self.in_token_limit} and balance_rate={self.balance_rate}: at "
                "least 1, and at least 0"
            )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: Any = "config.json") -> KimiVLConfig:
        """Reads the content of a published `config.json`.

        Args:
            raw: The file's content.
            source: The file, for messages.

        Raises:
            ValueError: Another kind of model, or values that cannot be honoured.
        """
        if raw.get("model_type", "kimi_vl") != "kimi_vl":
            raise ValueError(f"{source}: model_type={raw['model_type']!r}; 'kimi_vl' is expected")
        values = {name: raw[name] for name in _PLAIN if name in raw}
        text = _text_of(raw.get("text_config") or {}, source)
        values.setdefault("pad_token_id", text.pad_token_id or 0)
        vision = MoonViTConfig.of(raw.get("vision_config") or {})
        return cls(vision, text, **values)

    def to_dict(self, dtype: str = "float32") -> dict[str, Any]:
        """The content of `config.json`.

        Args:
            dtype: Name of the weights' type.
        """
        text = write_config(self.text_config, dtype, self.text_kind)
        if self.text_kind != "paragone" and self.text_config.router_aux_loss_coef:
            text["router_aux_loss_coef"] = self.text_config.router_aux_loss_coef
        return {
            "model_type": "kimi_vl", "architectures": ["KimiVLForConditionalGeneration"],
            "dtype": dtype, "vision_config": self.vision_config.to_dict(), "text_config": text,
            **{name: getattr(self, name) for name in _PLAIN},
        }  # fmt: skip

    @property
    def text_kind(self) -> str:
        """The `model_type` that the decoder is written as: "deepseek_v3", or our own."""
        return "deepseek_v3" if kind_of(self.text_config) == "deepseek_v3" else "paragone"

    def replace(self, **changes: Any) -> KimiVLConfig:
        """Returns a copy with other values; mappings change some fields of a half.

        Raises:
            ValueError: A field that is not known, or values that do not fit.
        """
        return changed(self, changes, "KimiVL")


def _text_of(raw: Mapping[str, Any], source: Any) -> LlamaConfig:
    values = {"model_type": "deepseek_v3", **raw}
    if values["model_type"] not in ("deepseek_v3", "paragone"):
        raise ValueError(
            f"{source}: text_config has model_type={values['model_type']!r}; 'deepseek_v3' is "
            "expected"
        )
    weight = 0.0
    if values["model_type"] == "deepseek_v3":
        weight = values.pop("router_aux_loss_coef", 0.0)
        values = {**_published(), **values}
    config = read_config(values, source)
    return config.replace(router_aux_loss_coef=weight) if weight else config


_MOONLIGHT: dict[str, Any] = {
    "vocab_size": 163840, "hidden_size": 2048, "intermediate_size": 11264,
    "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 800000.0,
    "rope_layout": "interleaved", "mixer": "mla", "bos_token_id": 163584,
    "eos_token_id": 163585, "pad_token_id": 163839, "n_routed_experts": 64,
    "num_experts_per_tok": 6, "n_shared_experts": 2, "moe_intermediate_size": 1408,
    "first_k_dense_replace": 1, "scoring_func": "sigmoid", "norm_topk_prob": True,
    "routed_scaling_factor": 2.446, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip
"""Moonlight-16B-A3B with the angles of Kimi-VL's long context."""


def _published() -> dict[str, Any]:
    """Moonlight's values where a file is silent, under the names of files."""
    return {
        name: value for name, value in _MOONLIGHT.items()
        if name not in ("rope_layout", "mixer", "bos_token_id", "eos_token_id", "pad_token_id")
    }  # fmt: skip


def _small(
    width: int, layers: int, vision: Mapping[str, Any], length: int, **text: Any
) -> dict[str, Any]:
    """A model of one width whose vocabulary is bytes, two ends and three markers."""
    heads = width // 16
    return {
        "vision_config": {
            "hidden_size": width, "num_attention_heads": heads, "intermediate_size": 2 * width,
            "num_hidden_layers": layers, **vision,
        },
        "text_config": {
            "vocab_size": 261, "hidden_size": width, "intermediate_size": 2 * width,
            "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "max_position_embeddings": length,
            "rope_theta": 10000.0, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
            "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
            "moe_intermediate_size": width, "routed_scaling_factor": 1.0,
            "kv_lora_rank": width // 2, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16,
            "v_head_dim": 16, **text,
        },
        "media_start_token_id": 258, "media_content_token_id": None, "media_end_token_id": 259,
        "media_placeholder_token_id": 260, "pad_token_id": 0,
    }  # fmt: skip


PRESETS: dict[str, dict[str, Any]] = {
    "kimi-vl-a3b": {},
    "kimi-vl-a3b-thinking-2506": {"in_token_limit": 16384},
    "digits": _small(
        64, 2,
        {"patch_size": 2, "init_pos_emb_height": 4, "init_pos_emb_width": 4, "num_channels": 1},
        128,
    ),
    "tiny": _small(
        128, 4, {"patch_size": 4, "init_pos_emb_height": 16, "init_pos_emb_width": 16}, 512,
        n_routed_experts=8,
    ),
}  # fmt: skip
"""Changes to the published sizes, by name: two published models, and small ones to be trained."""
