r"""A judge of drawn pictures: what a classifier that knows the real ones would call them.

A support vector machine with a Gaussian kernel is fitted to real pictures, shrunk to few pixels,
whose captions are its classes,

$$ \hat c(x) = \arg\max_c \sum_i \alpha_{ci} \exp(-\gamma \lVert x - x_i \rVert^2) + b_c , $$

and a drawn picture is as asked if it gets its own caption. The judge's own accuracy on real
pictures that it has not seen is what can be reached at most.

References:
    Cortes and Vapnik (1995), "Support-vector networks", section 4.
    Chang and Lin (2011), "LIBSVM", eq. 4-6.

Shapes: n pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from paragone.multimodal.captions import Captioned, Captions
from paragone.multimodal.documents import picture

__all__ = ["Judge", "judge_of"]

_MOST_CLASSES = 64
_LEAST_EACH = 4
_MOST_RECORDS = 5000


class Judge:
    """Names pictures by the captions that it knows.

    Prefer it to a model's own likelihood where what is drawn is to be judged: it has seen real
    pictures alone.

    Args:
        records: Real pictures with captions.
        side: Rows and columns that pictures are shrunk to.

    Attributes:
        captions: Those that it knows, in order.

    Raises:
        ValueError: Fewer than two captions.
    """

    def __init__(self, records: Sequence[Captioned], side: int = 8) -> None:
        from sklearn.svm import SVC

        names = [one.caption for one in records]
        self.captions = tuple(sorted(set(names)))
        if len(self.captions) < 2:
            raise ValueError(f"{len(self.captions)} captions: a judge needs at least two")
        self.side = side
        self.channels = max(one.picture.shape[-1] for one in records)
        self.machine: Any = SVC(C=10.0, gamma="scale")
        self.machine.fit(self._features([one.picture for one in records]), names)

    def _features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        rows = []
        for one in pictures:
            pixels = picture(one, self.channels)
            if pixels.shape[:2] != (self.side, self.side):
                image = Image.fromarray(pixels[..., 0] if self.channels == 1 else pixels)
                small = image.resize((self.side, self.side), Image.Resampling.BOX)
                pixels = np.asarray(small)
            rows.append(pixels.reshape(-1) / 255.0)
        return np.array(rows)

    def __call__(self, pictures: Sequence[np.ndarray]) -> list[str]:
        """The caption of each of n pictures."""
        return [] if not len(pictures) else self.machine.predict(self._features(pictures)).tolist()

    def agreement(self, pictures: Sequence[np.ndarray], captions: Sequence[str]) -> float:
        """Share of n pictures that it gives the captions that are theirs."""
        named = self(pictures)
        return float(np.mean([a == b for a, b in zip(named, captions, strict=True)]))


def judge_of(records: Captions) -> Judge | None:
    """A judge of such pictures, or None where captions do not repeat enough to be classes.

    Args:
        records: Of which those with captions are used, at most 5,000.
    """
    captioned = [one for one in records if isinstance(one, Captioned) and not one.question]
    captioned = captioned[:_MOST_RECORDS]
    counts = Counter(one.caption for one in captioned)
    if not 2 <= len(counts) <= _MOST_CLASSES or min(counts.values()) < _LEAST_EACH:
        return None
    largest = max(max(one.picture.shape[:2]) for one in captioned)
    return Judge(captioned, 8 if largest <= 8 else 16)
