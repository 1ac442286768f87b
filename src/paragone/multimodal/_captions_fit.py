"""Pictures of records cropped to the one size that a model draws.

References:
    Ramesh et al. (2021), arXiv:2102.12092, appendix A.1 (resized, then the middle is cut out).

Shapes: H rows and W columns of pixels, C channels.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from paragone.multimodal.captions import Captioned, Captions, Source, loaded
from paragone.multimodal.documents import picture

__all__ = ["fitted"]


@dataclasses.dataclass(frozen=True)
class _Cropped:
    """A picture whose shorter side is brought to a size, and whose middle is cut out."""

    source: Source
    size: tuple[int, int]

    def __call__(self) -> np.ndarray:
        pixels = loaded(self.source)
        scale = max(want / have for want, have in zip(self.size, pixels.shape[:2], strict=True))
        high, wide = (
            max(want, round(have * scale))
            for want, have in zip(self.size, pixels.shape[:2], strict=True)
        )
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        image = image.resize((wide, high), Image.Resampling.LANCZOS)
        left, top = (wide - self.size[1]) // 2, (high - self.size[0]) // 2
        return picture(image.crop((left, top, left + self.size[1], top + self.size[0])))


def fitted(records: Captions, size: tuple[int, int]) -> tuple[Captions, int]:
    """Records whose pictures are at most of a size, and how many had to be cropped to it.

    Args:
        records: Their pictures keep their digests.
        size: Most rows and columns of pixels.

    Example:
        >>> fitted(Captions([Captioned(np.zeros((9, 8, 1), np.uint8), "dark")]), (8, 8))[1]
        1
    """
    count = 0

    def fit(one: Any) -> Any:
        nonlocal count
        if isinstance(one, str):
            return one
        rows, columns = loaded(one).shape[:2]
        if rows <= size[0] and columns <= size[1]:
            return one
        count += 1
        made = _Cropped(one, size)
        return made if callable(one) else made()

    found = [
        dataclasses.replace(one, source=fit(one.source))
        if isinstance(one, Captioned)
        else dataclasses.replace(one, parts=tuple(fit(part) for part in one.parts))
        for one in records
    ]
    return Captions(found, records.name, records.skipped, records.problems), count
