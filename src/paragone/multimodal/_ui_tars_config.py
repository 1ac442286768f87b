"""What a `UITars` is made of: sizes by name, and what goes into `config.json`.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 3 (five screenshots, all actions).

Shapes: none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["ENCODERS", "PRESETS", "UITarsConfig"]

ENCODERS = ("patches", "moonvit", "vq")
"""What sees: raw patches behind convolutions, a `MoonViT`, or codes of an `ImageTokenizer`."""

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "patch": 8, "stem": 16, "stem_blocks": 0, "width": 32, "heads": 2, "encoder_layers": 1,
        "layers": 1, "codes": 64,
    },
    "small": {},
    "medium": {
        "stem": 128, "stem_blocks": 3, "width": 256, "heads": 8, "encoder_layers": 6, "layers": 6,
        "screenshots": 5, "max_pixels": 1280 * 720, "codes": 1024,
    },
}  # fmt: skip
"""Changes to the first values, by name."""


@dataclasses.dataclass(frozen=True)
class UITarsConfig:
    """Sizes and limits.

    Args:
        encoder: One of `ENCODERS`.
        patch: Pixels of a fine patch's side, a power of two from 2; points are found among fine
            patches, and the language part sees squares of four of them.
        stem: Width of the features of fine patches.
        stem_blocks: Convolutions over fine patches.
        width: Width M of the language part and of the coarse features.
        heads: Heads of all attention; M / heads is a multiple of 4.
        encoder_layers: Transformer blocks over coarse features.
        layers: Blocks of the language part.
        feed: Hidden units of feed-forwards, as a multiple of M.
        screenshots: How many of the last screenshots are seen, 1 to 5.
        max_pixels: Screenshots with more are shrunk.
        max_prompt: Most tokens of instruction, history and note.
        max_answer: Most tokens of thought and action.
        codes: Codes of the image tokenizer ("vq").
        spelled: Share of known words that are spelled in training, so that unknown ones are read.
        words: Words that are one token each.
        characters: Characters beside ASCII.

    Raises:
        ValueError: A size out of range, or sizes that do not fit together.
    """

    encoder: str = "patches"
    patch: int = 8
    stem: int = 96
    stem_blocks: int = 2
    width: int = 128
    heads: int = 4
    encoder_layers: int = 2
    layers: int = 3
    feed: int = 3
    screenshots: int = 1
    max_pixels: int = 640 * 480
    max_prompt: int = 160
    max_answer: int = 64
    codes: int = 256
    spelled: float = 0.1
    words: tuple[str, ...] = ()
    characters: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder={self.encoder!r} is none of {', '.join(ENCODERS)}")
        for name in ("stem", "width", "heads", "layers", "feed", "max_pixels", "codes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is expected")
        if self.patch < 2 or self.patch & (self.patch - 1):
            raise ValueError(f"patch={self.patch}: a power of two from 2 is expected, such as 8")
        if self.width % (4 * self.heads):
            raise ValueError(
                f"width={self.width} over heads={self.heads}: heads are turned by columns and rows "
                "in pairs, so a head's width must be a multiple of 4"
            )
        if not 1 <= self.screenshots <= 5:
            raise ValueError(f"screenshots={self.screenshots}: 1 to 5 are expected")
        if self.max_prompt < 16 or self.max_answer < 16:
            raise ValueError(
                f"max_prompt={self.max_prompt}, max_answer={self.max_answer}: at least 16 each"
            )
        if not 0 <= self.spelled <= 1:
            raise ValueError(f"spelled={self.spelled}: a share from 0 to 1 is expected")

    @classmethod
    def of(cls, preset: str | Mapping[str, Any] | UITarsConfig, **changes: Any) -> UITarsConfig:
        """A preset or values, with changes.

        Raises:
            ValueError: No such preset or field, or values that do not fit.
        """
        if isinstance(preset, UITarsConfig):
            values = dataclasses.asdict(preset)
        elif isinstance(preset, str):
            if preset not in PRESETS:
                raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")
            values = dict(PRESETS[preset])
        else:
            values = {k: v for k, v in preset.items() if k not in ("model_type", "dtype")}
        values |= changes
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"UITars has no field {name!r}; there are {', '.join(known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return {"model_type": "ui_tars", **dataclasses.asdict(self), "words": list(self.words)}
