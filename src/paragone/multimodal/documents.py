r"""Documents: texts and pictures in order, and which of them are to be learned.

Everything that a vision-language model does is the continuation of a document. Reading is a text
after a picture, drawing is a picture after a text, answering is a text after a picture and a
question,

$$ \mathcal{L} = -\sum_{i \,\in\, \text{learned}} \log p(\text{part}_i \mid \text{part}_{<i}) , $$

where the likelihood of a picture is what each model makes of it: a sum over the tokens of a
codebook, or a bound that a denoiser gives.

References:
    Chameleon Team (2024), arXiv:2405.09818, section 2 (mixed-modal documents).
    Zhou et al. (2024), Transfusion, arXiv:2408.11039, section 3.1.

Shapes: H rows and W columns of pixels, C channels (1 grey, 3 colour).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Document", "Part", "as_documents", "picture"]

Part = str | np.ndarray
"""A text, or a picture of (H, W, C) uint8."""


@dataclasses.dataclass(frozen=True)
class Document:
    """Texts and pictures in the order in which they are read.

    Args:
        parts: Texts and pictures; what `picture` takes is made a picture.
        learned: For each part, whether it is to be predicted (None: all of them). The end of the
            document is learned with its last part.

    Raises:
        ValueError: No part, a part that is neither, or flags of another number.

    Example:
        >>> page = Document(("a grey square", np.full((4, 4), 128, np.uint8)), (False, True))
        >>> page.parts[1].shape, page.text
        ((4, 4, 1), 'a grey square')
    """

    parts: tuple[Part, ...]
    learned: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a document has at least one part, a text or a picture")
        parts = tuple(one if isinstance(one, str) else picture(one) for one in self.parts)
        object.__setattr__(self, "parts", parts)
        if self.learned is not None and len(self.learned) != len(parts):
            raise ValueError(
                f"learned has {len(self.learned)} flags for {len(parts)} parts; one each is "
                "expected"
            )

    @property
    def text(self) -> str:
        """All texts, joined."""
        return "".join(one for one in self.parts if isinstance(one, str))

    @property
    def pictures(self) -> list[np.ndarray]:
        """All pictures, in order."""
        return [one for one in self.parts if not isinstance(one, str)]

    def learns(self, part: int) -> bool:
        """Whether a part is to be predicted."""
        return self.learned is None or self.learned[part]


def picture(source: Any, channels: int | None = None) -> np.ndarray:
    """A picture as the models of this family take it.

    Args:
        source: A PIL image; or (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) numbers, uint8 from 0 to
            255 or floats from 0 to 1. What is transparent is laid on white.
        channels: 1 or 3 (None: as it is).

    Returns:
        (H, W, C) uint8.

    Raises:
        ValueError: Another shape or type, numbers out of range, or no pixels.

    Example:
        >>> picture(np.zeros((2, 3)), channels=3).shape
        (2, 3, 3)
    """
    pixels = _from_pil(source) if hasattr(source, "getbands") else np.asarray(source)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"a picture has shape {pixels.shape}; (H, W) or (H, W, C) with 1, 3 or 4 channels is "
            "expected"
        )
    if 0 in pixels.shape:
        raise ValueError(f"a picture has shape {pixels.shape}: no pixels")
    pixels = _bytes(pixels)
    if pixels.shape[-1] == 4:
        pixels = _on_white(pixels)
    if channels is not None and channels not in (1, 3):
        raise ValueError(f"channels={channels}: 1 (grey) or 3 (colour) is expected")
    if channels == 3 and pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, -1)
    elif channels == 1 and pixels.shape[-1] == 3:
        # ITU-R 601, as Pillow's "L" has it.
        grey = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        pixels = np.rint(grey).astype(np.uint8)[..., None]
    return np.ascontiguousarray(pixels)


def _from_pil(source: Any) -> np.ndarray:
    if source.mode in ("L", "RGB", "RGBA"):
        return np.asarray(source)
    grey = source.mode in ("1", "I", "F", "I;16")
    clear = "A" in source.getbands() or "transparency" in source.info
    return np.asarray(source.convert("RGBA" if clear else "L" if grey else "RGB"))


def _bytes(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"a picture is {pixels.dtype}; uint8, or floats from 0 to 1, are expected")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"a picture of floats goes from {low:g} to {high:g}; 0 to 1 is expected")
    return np.rint(pixels * 255).astype(np.uint8)


def _on_white(pixels: np.ndarray) -> np.ndarray:
    share = pixels[..., 3:].astype(np.float64) / 255
    return np.rint(pixels[..., :3] * share + 255 * (1 - share)).astype(np.uint8)


def as_documents(prompts: Sequence[Sequence[Part]]) -> list[Document]:
    """Prompts, checked."""
    return [Document(tuple(parts)) for parts in prompts]
