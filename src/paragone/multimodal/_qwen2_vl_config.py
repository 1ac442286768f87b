"""What a Qwen2-VL or a Qwen2.5-VL is made of: `config.json` as published, and sizes by name.

Published files hold the decoder's fields beside those of the whole; files that newer programs
write hold them in a `text_config`. Both are read. UI-TARS 2B, 7B and 72B are Qwen2-VL of these
sizes, UI-TARS 1.5 (7B) is a Qwen2.5-VL.

References:
    Wang et al. (2024), Qwen2-VL, arXiv:2409.12191, section 2.1 and table 1.
    Bai et al. (2025), Qwen2.5-VL, arXiv:2502.13923, section 2.1 and table 1.
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 5.1 (which it is trained from).

Shapes: none; sizes are those of `Qwen2VLVisionConfig` and `LlamaConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from paragone.language._format_config import read_config, write_config
from paragone.language.config import LlamaConfig
from paragone.multimodal._model_files import changed

__all__ = ["MARKERS", "PRESETS", "Qwen2VLConfig", "Qwen2VLVisionConfig"]

KINDS = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
}
"""`model_type` to the architecture that files name."""

MARKERS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
"""Field of the configuration to the word of its token."""


@dataclasses.dataclass(frozen=True)
class Qwen2VLVisionConfig:
    """Sizes of the tower of either generation.

    Args:
        kind: "qwen2_vl" (layer norms, a feed-forward with a quick GELU, attention over the whole
            picture) or "qwen2_5_vl" (RMS norms, SwiGLU, attention in windows).
        width: Width M of a patch's features.
        depth: Blocks.
        heads: Heads H; M / H is a multiple of 4.
        inner: Hidden units F of the feed-forward.
        out: Width W of the decoder, which the merger brings features to.
        patch_size: Pixels p of a patch's side.
        merge: Patches along a side that become one token.
        frames: Pictures of a film that become one patch; a still picture is taken so many times.
        channels: Colours C of a pixel.
        window: Pixels of a window's side (Qwen2.5-VL).
        full: Numbers of the blocks that attend to the whole picture (Qwen2.5-VL).
        ticks: Places of time to a second of film (Qwen2.5-VL).
        theta: Base of the angles.

    Raises:
        ValueError: Sizes that do not fit.

    Example:
        >>> Qwen2VLVisionConfig().head_size
        80
    """

    kind: str = "qwen2_vl"
    width: int = 1280
    depth: int = 32
    heads: int = 16
    inner: int = 5120
    out: int = 3584
    patch_size: int = 14
    merge: int = 2
    frames: int = 2
    channels: int = 3
    window: int = 112
    full: tuple[int, ...] = (7, 15, 23, 31)
    ticks: float = 4
    theta: float = 10000.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is none of {', '.join(KINDS)}")
        for name in ("width", "heads", "inner", "out", "patch_size", "merge", "frames", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"vision_config: {name}={getattr(self, name)}; at least 1")
        if self.width % (4 * self.heads):
            raise ValueError(
                f"vision_config: a width of {self.width} over {self.heads} heads; heads are turned "
                "by rows and columns in pairs, so a head's width must be a multiple of 4"
            )
        if self.windowed and self.window < self.merge * self.patch_size:
            raise ValueError(
                f"vision_config: window_size={self.window} pixels; at least one token of "
                f"{self.merge * self.patch_size} is expected"
            )

    @property
    def windowed(self) -> bool:
        """Whether most blocks attend within windows."""
        return self.kind == "qwen2_5_vl"

    @property
    def head_size(self) -> int:
        """Width D of a head."""
        return self.width // self.heads

    @property
    def pixels(self) -> int:
        """Numbers of a patch, C frames p^2."""
        return self.channels * self.frames * self.patch_size**2

    @classmethod
    def of(cls, kind: str, values: Mapping[str, Any], source: Any) -> Qwen2VLVisionConfig:
        """From the keys of a published `vision_config`; those that say nothing of sizes are left.

        Args:
            kind: The `model_type` of the whole.
            values: The mapping.
            source: The file, for messages.

        Raises:
            ValueError: Values that cannot be honoured.
        """
        new = kind == "qwen2_5_vl"
        act = "silu" if new else "quick_gelu"
        if values.get("hidden_act", act) != act:
            raise ValueError(
                f"{source}: vision_config has hidden_act={values['hidden_act']!r}; {act!r} is "
                f"expected of {kind}"
            )
        # Files of Qwen2-VL call the decoder's width hidden_size and the tower's embed_dim.
        width, out = ("hidden_size", "out_hidden_size") if new else ("embed_dim", "hidden_size")
        names = {
            "width": width, "depth": "depth", "heads": "num_heads", "out": out,
            "patch_size": "patch_size", "merge": "spatial_merge_size",
            "frames": "temporal_patch_size", "window": "window_size",
            "full": "fullatt_block_indexes", "ticks": "tokens_per_second",
        }  # fmt: skip
        found = {own: values[name] for own, name in names.items() if name in values}
        found["channels"] = values.get("in_channels", values.get("in_chans", 3))
        found["theta"] = (values.get("rope_parameters") or {}).get("rope_theta", 10000.0)
        if "full" in found:
            found["full"] = tuple(found["full"])
        if new:
            found["inner"] = values.get("intermediate_size", 3420)
            # What transformers takes where a file is silent; published files are not.
            found.setdefault("width", 3584)
        else:
            found["inner"] = int(found.get("width", 1280) * values.get("mlp_ratio", 4))
        return cls(kind, **found)

    def to_dict(self) -> dict[str, Any]:
        """The published keys, for a `config.json`."""
        found: dict[str, Any] = {
            "model_type": self.kind, "depth": self.depth, "num_heads": self.heads,
            "in_channels": self.channels, "in_chans": self.channels,
            "patch_size": self.patch_size, "spatial_patch_size": self.patch_size,
            "spatial_merge_size": self.merge, "temporal_patch_size": self.frames,
        }  # fmt: skip
        if self.windowed:
            return found | {
                "hidden_act": "silu", "hidden_size": self.width, "out_hidden_size": self.out,
                "intermediate_size": self.inner, "window_size": self.window,
                "fullatt_block_indexes": list(self.full), "tokens_per_second": self.ticks,
            }  # fmt: skip
        ratio = self.inner / self.width
        return found | {
            "hidden_act": "quick_gelu", "embed_dim": self.width, "hidden_size": self.out,
            "mlp_ratio": int(ratio) if ratio == int(ratio) else ratio,
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Qwen2VLConfig:
    """Sizes of both halves, the sections of the angles, and the tokens that stand for pictures.

    Args:
        vision_config: Of the tower; its kind is that of the whole.
        text_config: Of the decoder: grouped heads, biases of queries, keys and values.
        sections: Pairs of a head that are turned by time, by row and by column.
        image_token_id: What stands for each merged token of a picture.
        video_token_id: What stands for each merged token of a film.
        vision_start_token_id: What either begins with.
        vision_end_token_id: What either ends with.

    Raises:
        ValueError: Tokens outside the vocabulary, two markers alike, or halves that do not fit.

    Example:
        >>> Qwen2VLConfig.from_dict(PRESETS["ui-tars-2b"]).text_config.hidden_size
        1536
    """

    vision_config: Qwen2VLVisionConfig
    text_config: LlamaConfig
    sections: tuple[int, int, int] = (16, 24, 24)
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653

    def __post_init__(self) -> None:
        text, vision = self.text_config, self.vision_config
        if len(self.sections) != 3 or 2 * sum(self.sections) != text.head_size:
            raise ValueError(
                f"mrope_section={list(self.sections)}: three numbers that add to half of a head's "
                f"width, {text.head_size // 2}, are expected"
            )
        if vision.out != text.hidden_size:
            raise ValueError(
                f"the tower's features are brought to a width of {vision.out}, the decoder's is "
                f"hidden_size={text.hidden_size}; they must be the same"
            )
        marks = {name: getattr(self, name) for name in MARKERS}
        for name, one in marks.items():
            if not 0 <= one < text.vocab_size:
                raise ValueError(f"{name}={one}; tokens are 0 to {text.vocab_size - 1}")
        if len(set(marks.values())) < len(marks):
            raise ValueError(f"markers of pictures must differ: {marks}")

    @property
    def kind(self) -> str:
        """The `model_type`."""
        return self.vision_config.kind

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: Any = "config.json") -> Qwen2VLConfig:
        """Reads the content of a published `config.json`.

        Args:
            raw: The file's content.
            source: The file, for messages.

        Raises:
            ValueError: Another kind of model, or values that cannot be honoured.
        """
        kind = raw.get("model_type")
        if kind not in KINDS:
            raise ValueError(f"{source}: model_type={kind!r} is none of {', '.join(KINDS)}")
        text = dict(raw.get("text_config") or raw)
        text["tie_word_embeddings"] = bool(
            raw.get("tie_word_embeddings") or text.get("tie_word_embeddings")
        )
        decoder, sections = _decoder_of(text, source)
        vision = dict(raw.get("vision_config") or {})
        if kind == "qwen2_vl":
            vision.setdefault("hidden_size", 3584)
        marks = {name: raw[name] for name in MARKERS if name in raw}
        return cls(Qwen2VLVisionConfig.of(kind, vision, source), decoder, sections, **marks)

    def to_dict(self, dtype: str = "float32") -> dict[str, Any]:
        """The content of `config.json`, laid out as published.

        Args:
            dtype: Name of the weights' type.
        """
        text = write_config(self.text_config, dtype, "qwen2")
        for name in ("rope_parameters", "head_dim"):
            del text[name]
        scaling = dict(self.text_config.rope_scaling or {"type": "mrope"})
        return text | {
            "model_type": self.kind, "architectures": [KINDS[self.kind]], "torch_dtype": dtype,
            "rope_scaling": scaling | {"mrope_section": list(self.sections)},
            "use_sliding_window": False, "vision_config": self.vision_config.to_dict(),
            **{name: getattr(self, name) for name in MARKERS},
        }  # fmt: skip

    def replace(self, **changes: Any) -> Qwen2VLConfig:
        """Returns a copy with other values; mappings change some fields of a half.

        Raises:
            ValueError: A field that is not known, or values that do not fit.
        """
        return changed(self, changes, "Qwen2VL")


_SILENT = {
    "vision_config", "text_config", "vision_token_id", "mrope_section", "vision_start_token_id",
    "vision_end_token_id", "image_token_id", "video_token_id",
}  # fmt: skip

_TEXT: dict[str, Any] = {
    "vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568,
    "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
    "bos_token_id": 151643, "eos_token_id": 151645,
}  # fmt: skip
"""Values where a file is silent."""


def _decoder_of(text: Mapping[str, Any], source: Any) -> tuple[LlamaConfig, tuple[int, int, int]]:
    """The decoder, and the sections of its angles."""
    raw = {name: value for name, value in text.items() if name not in _SILENT}
    given = raw.pop("rope_parameters", None) or raw.pop("rope_scaling", None) or {}
    raw.pop("rope_scaling", None)
    given = dict(given)
    sections = given.pop("mrope_section", (16, 24, 24))
    kind = given.pop("rope_type", None) or given.get("type") or "default"
    given.pop("type", None)
    given["rope_type"] = "default" if kind == "mrope" else kind
    theta = given.pop("rope_theta", None) or raw.get("rope_theta") or _TEXT["rope_theta"]
    raw |= {"model_type": "qwen2", "rope_theta": theta, "rope_parameters": given}
    return read_config({**_TEXT, **raw}, source), tuple(sections)  # pyright: ignore


def _published(
    width: int, inner: int, layers: int, heads: int, groups: int, words: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": "qwen2_vl", "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": groups,
        "vocab_size": words, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "max_position_embeddings": 32768, "vision_config": {"hidden_size": width}, **more,
    }  # fmt: skip


PRESETS: dict[str, dict[str, Any]] = {
    "ui-tars-2b": _published(1536, 8960, 28, 12, 2, 151936, tie_word_embeddings=True),
    "ui-tars-7b": _published(3584, 18944, 28, 28, 4, 152064),
    "ui-tars-72b": _published(8192, 29568, 80, 64, 8, 152064),
    "ui-tars-1.5-7b": _published(
        3584, 18944, 28, 28, 4, 152064, model_type="qwen2_5_vl", max_position_embeddings=128000,
        vision_config={"hidden_size": 1280, "out_hidden_size": 3584, "tokens_per_second": 2},
    ),
}  # fmt: skip
"""Published sizes by name: Qwen2-VL 2B, 7B and 72B, and Qwen2.5-VL 7B."""
