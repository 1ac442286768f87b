"""Small models and documents of the tests of `LosslessTransformer`."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from paragone.language import Tokenizer
from paragone.multimodal import Document, LosslessTransformer

__all__ = ["TEXT", "page", "pixels", "small", "words"]

TEXT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip


@lru_cache
def _saved() -> Tokenizer:
    return Tokenizer.train(["a dark square", "a bright square"] * 5, 266)


def words() -> Tokenizer:
    """The same tokenizer for all; the markers are added by the first model."""
    return _saved()


def small(seed: int = 0, text: dict[str, Any] | None = None, **changes: Any) -> LosslessTransformer:
    """A model of 32 coordinates for grey pictures of 4 x 6 pixels, patches of 2 x 2."""
    config = {
        "text_config": {**TEXT, **(text or {})}, "patch_size": 2, "channels": 1,
        "image_size": (4, 6), **changes,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    model = LosslessTransformer.from_config(config, tokenizer=words(), generator=generator)
    with torch.no_grad():
        for x in model.parameters():
            if x.ndim == 2:
                x.add_(torch.randn(x.shape, generator=generator), alpha=0.1)
    return model


def pixels(seed: int, rows: int = 4, columns: int = 6) -> np.ndarray:
    """A grey picture of noise."""
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 1), np.uint8)


def page(*parts: Any, learned: tuple[bool, ...] | None = None) -> Document:
    """A document."""
    return Document(parts, learned)
