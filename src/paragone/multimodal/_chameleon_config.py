"""What a Chameleon is made of: the published names, and what only training knows.

References:
    Chameleon Team (2024), arXiv:2405.09818, table 1 (sizes, norms, dropout) and section 2.3.

Shapes: sizes are numbers of coordinates, heads, layers or tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from paragone.multimodal import _chameleon_words as names
from paragone.multimodal.image_tokenizer import ImageTokenizerConfig

__all__ = ["PRESETS", "ChameleonConfig"]


@dataclasses.dataclass(frozen=True)
class ChameleonConfig:
    """Sizes and switches; the names are those of the published `config.json`.

    Args:
        vocab_size: Tokens V, words of codes included.
        hidden_size: Model width M.
        intermediate_size: Hidden units F of the feed-forward.
        num_hidden_layers: Blocks L.
        num_attention_heads: Heads H.
        num_key_value_heads: Key heads G (None: H).
        max_position_embeddings: Longest document, in tokens.
        rms_norm_eps: What is added to the mean square of the norms.
        rope_theta: Base of the rotary angles.
        attention_bias: Whether projections have biases.
        mlp_bias: Whether the feed-forward has biases.
        tie_word_embeddings: Whether the head is the embedding.
        swin_norm: Whether norms stand behind attention and feed-forward, inside the residual
            branch (34B), instead of before them (7B).
        qk_norm: Whether queries and keys are normalised; False only to see what it is for.
        dropout: Share of each residual branch that is dropped in training.
        z_loss: Weight of the squared logarithm of the softmax's sum.
        image_weight: What multiplies the loss of codes.
        text_dropout: Share of drawn pictures that are learned without the texts before them, so
            that guidance has an unconditional model to go away from.
        code_noise: Share of the codes that are read, and not learned, in whose place a near one
            stands in training.
        text_guidance: Strength b of the text in drawing.
        image_guidance: Strength a of pictures of the prompt in drawing.
        model_parallel_size: As the file has it; nothing depends on it.
        vocabulary_map: Word to token: those of codes, `<s>`, `</s>`, `<racm3:break>` (begins a
            picture), `<eoss>` (ends it); empty for the published places.
        vq_config: Sizes of the image tokenizer.

    Raises:
        ValueError: Sizes that do not fit, or words that are missing.

    Example:
        >>> config = ChameleonConfig.make("chameleon-7b")
        >>> config.begin_image, config.picture_tokens, config.kv_heads
        (8197, 1024, 32)
    """

    vocab_size: int = 65536
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    swin_norm: bool = False
    qk_norm: bool = True
    dropout: float = 0.0
    z_loss: float = 1e-5
    image_weight: float = 1.0
    text_dropout: float = 0.0
    code_noise: float = 0.0
    text_guidance: float = 3.0
    image_guidance: float = 1.2
    model_parallel_size: int = 1
    vocabulary_map: Mapping[str, int] = dataclasses.field(default_factory=dict, repr=False)
    vq_config: ImageTokenizerConfig = dataclasses.field(default_factory=ImageTokenizerConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_key_value_heads", self.kv_heads)
        if not self.vocabulary_map:
            words = names.published_words(self.vq_config.num_embeddings)
            object.__setattr__(self, "vocabulary_map", words)
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                     "num_attention_heads", "max_position_embeddings"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is expected")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.kv_heads < 1 or self.num_attention_heads % self.kv_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is no multiple of "
                f"num_key_value_heads={self.kv_heads}; choose a divisor"
            )
        for name in ("dropout", "text_dropout", "code_noise"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: a share from 0 to below 1")
        if self.z_loss < 0 or self.image_weight < 0:
            raise ValueError(
                f"z_loss={self.z_loss}, image_weight={self.image_weight}: weights from 0 on"
            )
        for word in (names.BOS, names.EOS, names.BEGIN_IMAGE, names.END_IMAGE):
            token = self.vocabulary_map.get(word)
            if token is None or not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"vocabulary_map has {word}: {token}; a token below {self.vocab_size} is "
                    "expected"
                )

    @property
    def kv_heads(self) -> int:
        """Key heads G."""
        heads = self.num_key_value_heads
        return self.num_attention_heads if heads is None else heads

    @property
    def picture_tokens(self) -> int:
        """Codes of a picture."""
        return self.vq_config.grid**2

    @property
    def bos(self) -> int:
        """The token that begins a document."""
        return self.vocabulary_map[names.BOS]

    @property
    def eos(self) -> int:
        """The token that ends a document."""
        return self.vocabulary_map[names.EOS]

    @property
    def begin_image(self) -> int:
        """The token that begins a picture."""
        return self.vocabulary_map[names.BEGIN_IMAGE]

    @property
    def end_image(self) -> int:
        """The token that ends a picture."""
        return self.vocabulary_map[names.END_IMAGE]

    @property
    def stops(self) -> tuple[int, ...]:
        """Tokens that end a continuation: of the document, and of a turn where there is one."""
        turn = self.vocabulary_map.get(names.END_TURN)
        return (self.eos,) if turn is None or turn >= self.vocab_size else (self.eos, turn)

    def replace(self, **changes: Any) -> ChameleonConfig:
        """Returns a copy with other values; `vq_config` may be fields of it."""
        return ChameleonConfig.make(self, **changes)

    @classmethod
    def make(
        cls, source: str | Mapping[str, Any] | ChameleonConfig, **changes: Any
    ) -> ChameleonConfig:
        """From a preset's name, the fields of a `config.json`, or a config.

        Args:
            source: A key of `PRESETS`, fields (unknown ones are left out), or a config.
            changes: Fields that differ.

        Raises:
            ValueError: An unknown preset, or values out of range.
        """
        if isinstance(source, ChameleonConfig):
            fields = {one.name: getattr(source, one.name) for one in dataclasses.fields(cls)}
        elif isinstance(source, str):
            if source not in PRESETS:
                raise ValueError(f"config={source!r} is none of {', '.join(PRESETS)}")
            fields = dict(PRESETS[source])
        else:
            fields = _published(source)
        known = {one.name for one in dataclasses.fields(cls)}
        if unknown := sorted(changes.keys() - known):
            raise ValueError(f"{', '.join(unknown)}: no field of ChameleonConfig")
        vq, more = fields.get("vq_config", {}), changes.pop("vq_config", {})
        if isinstance(more, Mapping):
            more = ImageTokenizerConfig.make(vq, **more)
        found = {name: x for name, x in {**fields, **changes}.items() if name in known}
        return cls(**{**found, "vq_config": more})

    def to_dict(self) -> dict[str, Any]:
        """The fields of a `config.json`, readable by transformers, too."""
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return fields | {
            "model_type": "chameleon", "architectures": ["ChameleonForConditionalGeneration"],
            "vocabulary_map": dict(self.vocabulary_map), "vq_config": self.vq_config.to_dict(),
            "bos_token_id": self.bos,
            "eos_token_id": self.eos, "pad_token_id": self.vocabulary_map.get(names.PAD),
            "hidden_act": "silu", "rope_parameters": {
                "rope_type": "default", "rope_theta": self.rope_theta,
            },
        }  # fmt: skip


def _published(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a published file; what this model cannot honour is refused."""
    found = dict(fields)
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default":
        raise ValueError(f"rope_type={kind!r}: plain rotary positions are expected")
    found["rope_theta"] = rope.get("rope_theta", found.get("rope_theta", 10000.0))
    if found.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act={found['hidden_act']!r}: 'silu' is expected")
    if found.get("attention_dropout"):
        raise ValueError(f"attention_dropout={found['attention_dropout']}: 0 is expected")
    return found


PRESETS: dict[str, dict[str, Any]] = {
    "chameleon-7b": {"dropout": 0.1},
    "chameleon-34b": {
        "hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 48,
        "num_attention_heads": 64, "num_key_value_heads": 8, "swin_norm": True,
        "model_parallel_size": 4,
    },
    "digits": {
        "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4,
        "num_attention_heads": 4, "max_position_embeddings": 256, "dropout": 0.1,
        "text_dropout": 0.1, "text_guidance": 2.5, "image_guidance": 1.0, "image_weight": 0.5,
        "vq_config": "digits",
    },
    "tiny": {
        "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
        "num_attention_heads": 8, "max_position_embeddings": 1024, "dropout": 0.1,
        "text_dropout": 0.1, "text_guidance": 2.5, "image_guidance": 1.0, "image_weight": 0.5,
        "vq_config": "tiny",
    },
}  # fmt: skip
"""Sizes by name; the vocabulary of the small ones is that of their tokenizer."""
