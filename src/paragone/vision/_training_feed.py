"""Batches of augmented images, read ahead by threads, the same with any number of them.

Each epoch has its own order, each sample its own random numbers; a batch is therefore known from
(seed, epoch, step), and a run goes on in the middle of an epoch by starting at that step.

Shapes: B batch, H and W height and width, n boxes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from paragone.runtime.pools import ThreadPool
from paragone.vision._data_augment import classify_view, detect_view, generator, segment_view
from paragone.vision._data_sets import ImageSet
from paragone.vision._training_recipe import Recipe

__all__ = ["Batch", "Feed"]

_ORDER, _SCALE, _MIX = 2**62, 2**61, 2**60
"""Numbers of random streams that are not those of samples."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a step trains on.

    Attributes:
        images: (B, H, W, 3) uint8.
        labels: (B,) int64 of classification, or None.
        masks: (B, H, W) uint8 of segmentation, or None.
        boxes: B arrays (n, 4) of detection, or None.
        box_labels: B arrays (n,), or None.
        mix: Share of each image in mixup, the rest being its neighbour's; 1: none.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    masks: np.ndarray | None = None
    boxes: Sequence[np.ndarray] | None = None
    box_labels: Sequence[np.ndarray] | None = None
    mix: float = 1.0


class Feed:
    """The training images in batches; a last batch that is short is left to the next epochs.

    Args:
        images: What is trained on.
        recipe: Batch, seed, augmentation.
        workers: Threads that read ahead; 0: none.

    Raises:
        ValueError: There are no images.
    """

    def __init__(self, images: ImageSet, recipe: Recipe, workers: int = 1) -> None:
        if not len(images):
            raise ValueError("there are no training images: check the shares of the splits")
        self.images, self.recipe, self.workers = images, recipe, workers
        self.batch = min(recipe.batch, len(images))
        self.steps = len(images) // self.batch

    def order(self, epoch: int) -> np.ndarray:
        """Returns rows (steps, batch) of an epoch."""
        rows = generator(self.recipe.seed, epoch, _ORDER).permutation(len(self.images))
        return rows[: self.steps * self.batch].reshape(self.steps, self.batch)

    def epoch(
        self, number: int, start: int, size: Callable[[], int]
    ) -> Generator[Batch, None, None]:
        """Yields the batches of an epoch from a step on.

        Args:
            number: Which epoch.
            start: First step.
            size: Tells the side of the next batch's images in pixels.
        """
        order = self.order(number)

        def tasks() -> Iterator[tuple[int, int, np.ndarray]]:
            for step in range(start, self.steps):
                yield step, self._scaled(size(), number, step), order[step]

        def make(task: tuple[int, int, np.ndarray]) -> Batch:
            return self.make(number, *task)

        if not self.workers:
            yield from map(make, tasks())
            return
        with ThreadPool(self.workers) as pool:
            yield from pool.imap(make, tasks(), prefetch=self.workers + 1)

    def _scaled(self, size: int, epoch: int, step: int) -> int:
        if not self.recipe.multi_scale:
            return size
        draw = generator(self.recipe.seed, epoch, _SCALE + step)
        side = int(draw.choice(self.recipe.multi_scale))
        return max(8, round(side * size / self.recipe.size / 8) * 8)

    def make(self, epoch: int, step: int, size: int, rows: np.ndarray) -> Batch:
        """Returns one batch.

        Args:
            epoch: Its epoch.
            step: Its number there.
            size: Side of its images in pixels.
            rows: Which images.
        """
        how = self.recipe.augmentation
        samples = [(self.images[r], generator(self.recipe.seed, epoch, r)) for r in map(int, rows)]
        if self.recipe.task == "classify":
            images = np.stack([classify_view(s, size, how, rng) for s, rng in samples])
            labels = np.array([s.label for s, _ in samples])
            draw = generator(self.recipe.seed, epoch, _MIX + step)
            mix = float(draw.beta(how.mixup, how.mixup)) if how.mixup else 1.0
            return Batch(images, labels=labels, mix=mix)
        if self.recipe.task == "segment":
            pairs = [segment_view(s, size, how, rng) for s, rng in samples]
            return Batch(np.stack([p[0] for p in pairs]), masks=np.stack([p[1] for p in pairs]))
        fit = "letterbox" if self.recipe.fit == "letterbox" else "stretch"
        seen = [detect_view(s, size, how, rng, fit) for s, rng in samples]
        return Batch(
            np.stack([s[0] for s in seen]), boxes=[s[1] for s in seen],
            box_labels=[s[2] for s in seen],
        )  # fmt: skip
