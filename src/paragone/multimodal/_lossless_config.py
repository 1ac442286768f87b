"""What a `LosslessTransformer` is made of.

References:
    Su (2024), kexue.fm/archives/9984 (sizes: 64 x 64 pixels as 16 x 16 patches of 48 numbers).

Shapes: sizes are numbers of pixels, coordinates or tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from paragone.language.config import LlamaConfig
from paragone.multimodal.positions import SCHEMES

__all__ = ["PRESETS", "LosslessConfig", "config_of"]


@dataclasses.dataclass(frozen=True)
class LosslessConfig:
    """Sizes and switches; `config.json` has the same names.

    Args:
        text_config: The language model: a `LlamaConfig`, or a mapping of its fields.
        patch_size: Side p of a patch, in pixels.
        channels: 1 (grey) or 3 (colour).
        image_size: Rows and columns of pixels of a picture that is drawn, unless asked otherwise.
        positions: A name of `paragone.multimodal.positions.SCHEMES`.
        head: "flow" (all patches at once), or patch by patch "mar", "expanded", "vq" or "mse".
        head_options: Further arguments of the head.
        image_weight: What a patch's loss is multiplied by beside that of a token.
        guidance: Strength of classifier-free guidance in drawing; 1 is none.
        max_patches: Most patches of a picture.
        boi_token_id: Token that begins a picture (None: set with the tokenizer).
        eoi_token_id: Token that ends it.

    Raises:
        ValueError: Values that do not fit.

    Example:
        >>> LosslessConfig({"vocab_size": 300, "hidden_size": 64, "num_attention_heads": 4}).numbers
        48
    """

    text_config: LlamaConfig = dataclasses.field(default_factory=LlamaConfig)
    patch_size: int = 4
    channels: int = 3
    image_size: tuple[int, int] = (64, 64)
    positions: str = "rope-tv"
    head: str = "flow"
    head_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    image_weight: float = 1.0
    guidance: float = 2.0
    max_patches: int = 4096
    boi_token_id: int | None = None
    eoi_token_id: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.text_config, Mapping):
            object.__setattr__(self, "text_config", LlamaConfig(**self.text_config))
        size = self.image_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        object.__setattr__(self, "image_size", size)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"image_size={size}: rows and columns of at least 1 pixel")
        if self.patch_size < 1:
            raise ValueError(f"patch_size={self.patch_size}: a side of at least 1 pixel")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: 1 (grey) or 3 (colour) is expected")
        if self.positions not in SCHEMES:
            raise ValueError(f"positions={self.positions!r} is none of {', '.join(SCHEMES)}")
        if not self.image_weight >= 0:
            raise ValueError(f"image_weight={self.image_weight}: a number from 0 on is expected")
        if self.max_patches < 1:
            raise ValueError(f"max_patches={self.max_patches}: at least 1 is expected")
        text = self.text_config
        if not text.plain_attention or (text.head_dim or text.head_size) % 4:
            raise ValueError(
                f"text_config: attention of mixer={text.mixer!r} with heads of width "
                f"{text.head_size}; plain attention with a multiple of 4 is expected, since pairs "
                "alternate between two axes"
            )

    @property
    def numbers(self) -> int:
        """Numbers P of a patch."""
        return self.patch_size**2 * self.channels

    def replace(self, **changes: Any) -> LosslessConfig:
        """Returns a copy with other values; changes of `text_config` may be a few of its fields."""
        return dataclasses.replace(self, **_merged(self.text_config, changes))

    def as_dict(self) -> dict[str, Any]:
        """What `config.json` holds."""
        return {"model_type": "lossless", **dataclasses.asdict(self)}


def _merged(text: LlamaConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    found, fields = dict(changes), {field.name for field in dataclasses.fields(LosslessConfig)}
    inner = found.get("text_config", {})
    if isinstance(inner, Mapping):
        inner = dict(inner)
        for name in [name for name in found if name not in fields]:
            inner[name] = found.pop(name)
        known = {field.name for field in dataclasses.fields(LlamaConfig)}
        wrong = sorted(set(inner) - known)
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: neither a field of LosslessConfig nor of its "
                             "text_config")  # fmt: skip
        found["text_config"] = text.replace(**inner)
    return found


def config_of(source: Any, changes: Mapping[str, Any]) -> LosslessConfig:
    """A configuration from a preset's name, a mapping or a configuration, with changes.

    Raises:
        ValueError: An unknown name or field.
    """
    if isinstance(source, str):
        if source not in PRESETS:
            raise ValueError(f"{source!r} is no preset; there are {', '.join(PRESETS)}")
        source = PRESETS[source]
    if isinstance(source, Mapping):
        given = {name: value for name, value in source.items() if name != "model_type"}
        source = LosslessConfig(**_merged(LlamaConfig(), given))
    if not isinstance(source, LosslessConfig):
        raise ValueError(f"{source!r}: a preset's name, a mapping or a LosslessConfig is expected")
    return source.replace(**changes) if changes else source


PRESETS: dict[str, dict[str, Any]] = {
    "digits": {
        "text_config": {
            "vocab_size": 320, "hidden_size": 128, "num_hidden_layers": 4,
            "num_attention_heads": 4, "intermediate_size": 352, "max_position_embeddings": 512,
            "tie_word_embeddings": True,
        },
        "patch_size": 4, "channels": 1, "image_size": (8, 8),
    },
    "tiny": {
        "text_config": {
            "vocab_size": 1024, "hidden_size": 256, "num_hidden_layers": 6,
            "num_attention_heads": 4, "intermediate_size": 704, "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
        },
        "patch_size": 4, "channels": 3, "image_size": (32, 32),
    },
    "celeba-64": {
        "text_config": {
            "vocab_size": 32000, "hidden_size": 1024, "num_hidden_layers": 28,
            "num_attention_heads": 16, "max_position_embeddings": 4096,
        },
        "patch_size": 4, "channels": 3, "image_size": (64, 64),
    },
}  # fmt: skip
"""Small models of 8 x 8 grey and 32 x 32 coloured pictures, and a large one."""
