"""Prompts and pages: places of pictures in a text and pages without their text.

References:
    Ho and Salimans (2022), arXiv:2207.12598, algorithm 1 (conditions that are left out).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from paragone.multimodal._chameleon_words import IMAGE
from paragone.multimodal.documents import Document, Part, picture

__all__ = ["as_prompts", "thinned"]


def as_prompts(text: str, images: Sequence[Any] | None) -> list[Part]:
    """A text and its pictures as parts.

    Args:
        text: With `<image>` where pictures go, or without.
        images: Pictures in order.

    Raises:
        ValueError: Another number of places.

    Example:
        >>> as_prompts("a<image>b", [[[0.0]]])[2]
        'b'
    """
    found = [picture(one) for one in images or ()]
    pieces = text.split(IMAGE)
    if len(pieces) == 1:
        return [*found, text]
    if len(pieces) - 1 != len(found):
        raise ValueError(
            f"the text has {len(pieces) - 1} places {IMAGE} for {len(found)} images; one each is "
            "expected"
        )
    parts: list[Part] = [pieces[0]]
    for one, piece in zip(found, pieces[1:], strict=True):
        parts += [one, piece]
    return [part for part in parts if not isinstance(part, str) or part] or [""]


def thinned(documents: Sequence[Document], share: float) -> list[Document]:
    """Leaves the texts before a learned picture out of a share of the documents.

    Args:
        documents: Any.
        share: Of those that draw after a text.
    """
    drops = torch.rand(len(documents)) < share
    return [
        _without_text(one) if drop else one
        for one, drop in zip(documents, drops.tolist(), strict=True)
    ]


def _without_text(document: Document) -> Document:
    last = max(
        (at for at, part in enumerate(document.parts)
         if not isinstance(part, str) and document.learns(at)), default=0,
    )  # fmt: skip
    kept = [at for at, part in enumerate(document.parts) if at >= last or not isinstance(part, str)]
    if len(kept) == len(document.parts):
        return document
    learned = tuple(document.learns(at) for at in kept)
    return Document(tuple(document.parts[at] for at in kept), learned)
