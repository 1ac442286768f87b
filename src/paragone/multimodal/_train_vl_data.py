r"""What a run over captions is fed, and how it is judged on pictures that it has not seen.

A batch is a function of seed and step: an epoch is a permutation of all pairs of a record and a
task, and a step takes the next of them,

$$ \text{item}(i) = \pi_{\text{seed}, \lfloor i / n \rfloor}(i \bmod n), \qquad
   i = \text{step} \cdot B, \ldots, \text{step} \cdot B + B - 1 . $$

Judged are the losses of held-out documents, captions and answers that must be exact, and drawn
pictures, which a classifier of the real ones must call what was asked for.

References:
    Ramesh et al. (2021), arXiv:2102.12092, section 2.6 (drawn pictures judged by another model).

Shapes: n pairs of records and tasks, B documents of a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from paragone.multimodal._captions_judge import judge_of
from paragone.multimodal.captions import Captioned, Captions, Record
from paragone.multimodal.documents import Document
from paragone.training.run_folder import seeded

__all__ = ["Feed", "Trial"]

_AT_ONCE = 64
_LONGEST = 256
_LOSSES = 256


class Feed:
    """Batches of documents, by the number of the step.

    Args:
        records: To learn from.
        tasks: What is learned of them.
        batch: Documents of a micro-batch.
        accumulate: Micro-batches of a step.
        seed: Of the order.
        rank: Of this process.
        ranks: How many there are.
        shift: Pixels that pictures which are read, not drawn, are moved by at most.

    Raises:
        ValueError: No record is for any of the tasks.
    """

    def __init__(
        self, records: Captions, tasks: Sequence[str], batch: int, accumulate: int, seed: int,
        rank: int = 0, ranks: int = 1, shift: int = 0,
    ) -> None:  # fmt: skip
        self.work = records.work(tasks)
        if not self.work:
            raise ValueError(
                f"{records.name}: none of {len(records)} records is for tasks={tuple(tasks)}"
            )
        self.batch, self.accumulate, self.seed = batch, accumulate, seed
        self.rank, self.ranks, self.shift = rank, ranks, shift
        self._orders: dict[int, np.ndarray] = {}

    def _item(self, place: int) -> tuple[Record, str]:
        epoch, at = divmod(place, len(self.work))
        if epoch not in self._orders:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.work))
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = order
        return self.work[self._orders[epoch][at]]

    def _document(self, place: int) -> Document:
        record, task = self._item(place)
        found = record.document(task)
        if not self.shift:
            return found
        draws = np.random.default_rng((self.seed, 1, place))
        parts = [
            part if isinstance(part, str) or found.learns(at) else _moved(part, self.shift, draws)
            for at, part in enumerate(found.parts)
        ]
        return Document(tuple(parts), found.learned)

    def __call__(self, step: int) -> list[list[Document]]:
        size = self.batch * self.accumulate
        first = (step * self.ranks + self.rank) * size
        made = [self._document(place) for place in range(first, first + size)]
        return [made[at : at + self.batch] for at in range(0, size, self.batch)]


class Trial:
    """Judges a model on held-out records.

    Args:
        model: A `VisionLanguage`.
        train: Records that it learns from; they make the judge of what it draws.
        held: Records that it does not learn from.
        tasks: What is learned.
        judged: Pictures that are drawn, and captions that are compared, at the end.
        batch: Documents at a time, for losses.
        seed: Of what is drawn.

    Attributes:
        pictures: What was drawn last.
        seconds: What all calls so far took.
    """

    def __init__(
        self, model: Any, train: Captions, held: Captions, tasks: Sequence[str], judged: int,
        batch: int, seed: int,
    ) -> None:  # fmt: skip
        self.model, self.tasks, self.judged = model, tasks, judged
        self.batch, self.seed = batch, seed
        self.work = held.work(tasks) if held else []
        self.captioned = [one for one in held if isinstance(one, Captioned)]
        self.judge = judge_of(train) if "draw" in tasks and judged else None
        self.pictures: list[np.ndarray] = []
        self.seconds = 0.0

    def __call__(self, share: float = 1.0) -> dict[str, float]:
        """Metrics; a share of the pictures and captions is enough on the way, and 0 is losses."""
        begun, found = time.monotonic(), {}
        if self.work:
            found |= self._losses(_LOSSES if share == 1 else _LOSSES // 8)
        count = math.ceil(self.judged * share)
        with torch.no_grad():
            if "read" in self.tasks and count:
                found |= self._read(count, "")
            if "answer" in self.tasks and count:
                found |= self._read(count, "question")
            if "draw" in self.tasks and count:
                found |= self._draw(count)
        self.seconds += time.monotonic() - begun
        return found

    @torch.no_grad()
    def _losses(self, most: int) -> dict[str, float]:
        sums = {"loss": 0.0, "text": 0.0, "image": 0.0}
        counts = dict.fromkeys(sums, 0)
        work = _spread(self.work, most)
        for number, first in enumerate(range(0, len(work), self.batch)):
            documents = [r.document(task) for r, task in work[first : first + self.batch]]
            with seeded(self.seed, 1, number):
                one = self.model.losses(documents)
            parts = {
                "loss": (one.total, one.count), "text": (one.text, one.text_count),
                "image": (one.image, one.image_count),
            }  # fmt: skip
            for name, (value, count) in parts.items():
                sums[name] += float(value)
                counts[name] += count
        return {
            f"validation_{name}": sums[name] / counts[name] for name in sums if counts[name]
        }  # fmt: skip

    def _read(self, count: int, kind: str) -> dict[str, float]:
        """Share of captions, or of answers, that are one of those that the picture has."""
        asked = [one for one in self.captioned if bool(one.question) == bool(kind)]
        known: dict[tuple[str, str], set[str]] = {}
        first: dict[tuple[str, str], Captioned] = {}
        for one in asked:
            known.setdefault((one.digest, one.question), set()).add(one.caption)
            first.setdefault((one.digest, one.question), one)
        chosen = _spread(list(first), count)
        if not chosen:
            return {}
        longest = min(_LONGEST, 1 + max(len(one.caption.encode()) for one in asked))
        right = 0
        for at in range(0, len(chosen), _AT_ONCE):
            part = chosen[at : at + _AT_ONCE]
            prompts = [(first[key].picture, *filter(None, [key[1]])) for key in part]
            told = self.model.generate(prompts, pictures="none", max_new_tokens=longest)
            right += sum(one.text in known[key] for one, key in zip(told, part, strict=True))
        name = "answers_exact" if kind else "captions_exact"
        return {name: right / len(chosen)}

    def _draw(self, count: int) -> dict[str, float]:
        """Share of drawn pictures that the judge calls what was asked for."""
        texts = [one.caption for one in self.captioned if not one.question]
        texts = _spread(texts, count)
        self.pictures = []
        for number, at in enumerate(range(0, len(texts), _AT_ONCE)):
            seed = 1000 * self.seed + number
            self.pictures += self.model.draw(texts[at : at + _AT_ONCE], seed=seed)
        if self.judge is None or not texts:
            return {}
        return {"drawn_as_asked": self.judge.agreement(self.pictures, texts)}


def _spread(items: list[Any], count: int) -> list[Any]:
    """At most so many of them, evenly spread."""
    if len(items) <= count:
        return items
    return [items[at * len(items) // count] for at in range(count)]


def _moved(pixels: np.ndarray, shift: int, draws: np.random.Generator) -> np.ndarray:
    """A picture moved by some pixels; what comes in repeats the edge."""
    top, left = (int(x) for x in draws.integers(0, 2 * shift + 1, 2))
    rows, columns = pixels.shape[:2]
    wide = np.pad(pixels, ((shift, shift), (shift, shift), (0, 0)), "edge")
    return wide[top : top + rows, left : left + columns]
