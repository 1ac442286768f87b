r"""What the study `vision_language` shows its contestants, and how what they draw is judged.

A scene is pictures of one size with their captions. Where few captions are distinct they are
classes, and a support vector machine that was fitted on the real pictures says of a drawn one
which class it is. That alone would praise a model that draws the mean of each class, so that the
drawn and the real pictures of a caption are compared as distributions, too, by the energy
distance as a share of its largest value,

$$ \mathrm{apart} = \frac{2\,\overline{|x - y|} - \overline{|x - x'|} - \overline{|y - y'|}}
   {2\,\overline{|x - y|}} , $$

with drawn x, real y, and means over different pairs: 0 for the same distribution, 1 for two points
apart. Where captions are no classes, a drawn picture should be nearer to the real picture of its
own caption than to that of another one.

References:
    Szekely and Rizzo (2013), Energy statistics, J. Stat. Plan. Inference 143, eq. 2.1 and the
    coefficient H of section 6.

Shapes: N pictures, H rows and W columns of pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve
from paragone.lab.probe import digest_arrays
from paragone.lab.tasks.splits import FOLDS, split

__all__ = [
    "CLASSES", "Judge", "Scene", "apart", "digits", "lay_down", "mixed_grids", "stored", "words",
]  # fmt: skip

CLASSES = 30
"""Up to so many distinct captions, each at least `FOLDS` times, are classes."""
_TAKEN = 4000


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Pictures of one size with their captions.

    Attributes:
        pixels: (N, H, W, C) uint8.
        captions: N texts.
        train: Numbers of the pictures to learn from.
        test: Numbers of those held out.
    """

    pixels: np.ndarray
    captions: tuple[str, ...]
    train: np.ndarray
    test: np.ndarray

    @property
    def classes(self) -> list[str]:
        """Distinct captions where they are few and come often; else none."""
        return _classes(self.captions)

    @property
    def channels(self) -> int:
        """C."""
        return int(self.pixels.shape[-1])

    @property
    def size(self) -> tuple[int, int]:
        """H and W."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    def identity(self) -> tuple[Any, ...]:
        """What says whether two scenes are the same."""
        return self.pixels, list(self.captions), self.train, self.test

    def reading(self, rows: Sequence[int] | np.ndarray) -> list[Any]:
        """Documents in which a picture is read."""
        make = resolve("paragone.multimodal.documents:Document")
        return [make((self.pixels[i], self.captions[i]), (False, True)) for i in rows]

    def drawing(self, rows: Sequence[int] | np.ndarray) -> list[Any]:
        """Documents in which a picture is drawn."""
        make = resolve("paragone.multimodal.documents:Document")
        return [make((self.captions[i], self.pixels[i]), (False, True)) for i in rows]


def _classes(captions: Sequence[str]) -> list[str]:
    names, counts = np.unique(np.asarray(captions, dtype=str), return_counts=True)
    few = len(names) <= CLASSES and counts.min(initial=FOLDS) >= FOLDS
    return [str(name) for name in names] if few else []


def _scene(pixels: np.ndarray, captions: Sequence[str], number: int) -> Scene:
    classes = _classes(captions)
    codes = np.searchsorted(classes, captions) if classes else np.zeros(len(captions), int)
    train, test = split(codes, number, stratified=bool(classes), seed=0)
    return Scene(pixels=pixels, captions=tuple(captions), train=train, test=test)


def digits(split: int = 0) -> Scene:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, with a caption for each."""
    records = resolve("paragone.multimodal.captions:digits_with_captions")("all")
    pixels = np.stack([one.picture for one in records])
    return _scene(pixels, [one.caption for one in records], split)


def words(split: int = 0, count: int = 4000, test: int = 200, unseen: bool = True) -> Scene:
    """Words of Python's sources, 11 pixels high, in squares of 32 pixels.

    Args:
        split: Draws other words to hold out, and other pictures.
        count: Pictures to learn from.
        test: Pictures held out.
        unseen: Whether their words were never seen in training.
    """
    render = resolve("paragone.multimodal.captions:rendered_words")
    form = {"shape": (32, 32), "letters": (3, 5), "unseen": unseen, "seed": split}
    records = [*render(count, "train", **form), *render(test, "test", **form)]
    return Scene(
        pixels=np.stack([one.picture for one in records]),
        captions=tuple(one.caption for one in records),
        train=np.arange(count), test=np.arange(count, count + test),
    )  # fmt: skip


def stored(folder: str, split: int = 0) -> Scene:
    """A user's pictures that `lay_down` has kept."""
    with np.load(f"{folder}/scene.npz") as file:
        return _scene(file["pixels"], [str(one) for one in file["captions"]], split)


def lay_down(path: str, folder: Path, size: int) -> dict[str, Any]:
    """Reads a user's pictures with captions and keeps their middle squares at one size.

    Args:
        path: A folder of images or a JSONL file, as `read_captions` takes it.
        folder: Where `scene.npz` is written.
        size: Side in pixels.

    Returns:
        Their number and channels, how many captions are distinct, whether they are classes, what
        was left out, and a digest.

    Raises:
        UsageError: Nothing that can be learned from.
    """
    try:
        found = resolve("paragone.multimodal.captions:read_captions")(path)
    except (ValueError, OSError) as error:
        raise UsageError(f"--data: {error}") from error
    chosen = [one for one in found if "draw" in one.tasks() and one.caption.strip()][:_TAKEN]
    pairs = [(one.picture, one.caption) for one in chosen]
    if len(pairs) < 2 * FOLDS:
        raise UsageError(
            f"--data {path}: {len(pairs)} pictures with a caption; at least {2 * FOLDS} are "
            "needed to learn and to test"
        )
    channels = max(picture.shape[-1] for picture, _ in pairs)
    pixels = np.stack([_square(picture, size, channels) for picture, _ in pairs])
    captions = [text for _, text in pairs]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "scene.npz", pixels=pixels, captions=np.array(captions))
    return {
        "pictures": len(pairs), "channels": channels, "distinct": len(set(captions)),
        "classes": len(_classes(captions)), "digest": digest_arrays(pixels, captions),
        "notes": _left_out(found, len(pairs)),
    }  # fmt: skip


def _left_out(found: Any, used: int) -> list[str]:
    others = len(found) - used
    more = (
        [f"{others:,} records left out: questions, pages, or beyond {_TAKEN:,}"] if others else []
    )
    return [*found.notes(), *more]


def _square(picture: np.ndarray, size: int, channels: int) -> np.ndarray:
    """The middle square of a picture (H, W, C), at one size."""
    from PIL import Image

    pixels = resolve("paragone.multimodal.documents:picture")(picture, channels)
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    cut = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    whole = Image.fromarray(cut[..., 0] if channels == 1 else cut)
    small = np.asarray(whole.resize((size, size), Image.Resampling.BICUBIC))
    return small[..., None] if channels == 1 else small


def mixed_grids(count: int = 16, patch: int = 14) -> list[tuple[int, int]]:
    """Rows and columns of patches of pictures of many shapes, both even.

    Args:
        count: Pictures.
        patch: Pixels of a patch's side.

    Example:
        >>> sum(h * w for h, w in mixed_grids(16))
        4904
    """
    rng = np.random.default_rng(0)
    sides = rng.uniform(98, 364, (count, 2))
    grids = np.maximum(2, 2 * np.rint(sides / (2 * patch)).astype(int))
    return [(int(h), int(w)) for h, w in grids]


def _flat(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1).astype(np.float64) / 255


def apart(drawn: np.ndarray, real: np.ndarray) -> float:
    """Energy distance of two sets of pictures as a share; see the module's text.

    Args:
        drawn: (N, ...) of any numbers.
        real: (M, ...) of the same.

    Example:
        >>> x = np.arange(6.0)[:, None]
        >>> round(apart(x[:3], x[:3] + 100), 2), round(apart(np.full((3, 1), 2.5), x), 2)
        (0.99, 0.22)
    """
    from scipy.spatial.distance import cdist, pdist

    x, y = (np.reshape(part, (len(part), -1)).astype(np.float64) for part in (drawn, real))
    across = 2 * float(cdist(x, y).mean())
    within = sum(float(pdist(part).mean()) if len(part) > 1 else 0.0 for part in (x, y))
    return (across - within) / across if across > 0 else 0.0


class Judge:
    """Says of drawn pictures whether they are what was asked for.

    Args:
        scene: Its training pictures are what is known to be real.

    Attributes:
        kind: "classes" or "pairs".
        sure: Share of the real held-out pictures that it judges rightly.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene, self.names = scene, scene.classes
        self.kind = "classes" if self.names else "pairs"
        self.codes = np.searchsorted(self.names, scene.captions) if self.names else None
        if self.codes is None:
            self.sure = 1.0
            return
        from sklearn.svm import SVC

        self.svm = SVC(C=10.0).fit(_flat(scene.pixels[scene.train]), self.codes[scene.train])
        guess = self.svm.predict(_flat(scene.pixels[scene.test]))
        self.sure = float((guess == self.codes[scene.test]).mean())

    def asked(self, count: int) -> np.ndarray:
        """Numbers of pictures whose captions are to be drawn, each class as often."""
        test = self.scene.test
        if self.codes is None:
            return test[np.arange(count) % len(test)]
        first = [int(test[self.codes[test] == code][0]) for code in range(len(self.names))]
        return np.array(first)[np.arange(count) % len(first)]

    def right(self, drawn: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Whether each drawn picture (N, H, W, C) is what was asked for."""
        if self.codes is not None:
            return self.svm.predict(_flat(drawn)) == self.codes[asked]
        test, rng = self.scene.test, np.random.default_rng(0)
        other = test[rng.integers(0, len(test), len(asked))]
        same = np.array([self.scene.captions[a] == self.scene.captions[b]
                         for a, b in zip(asked, other, strict=True)])  # fmt: skip
        own, theirs = (
            np.linalg.norm(_flat(drawn) - _flat(self.scene.pixels[rows]), axis=1)
            for rows in (asked, other)
        )
        return (own < theirs) | (same & (own <= theirs))

    def apart(self, drawn: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Distance of drawn from real pictures: what each adds to it, (N,); the mean is over all.

        The energy distance is a mean over drawn pictures of how far each is from the real ones
        and from the others of its class.
        """
        from scipy.spatial.distance import cdist, pdist

        known = self.scene.test if self.codes is None else self.scene.train
        every = np.zeros(len(self.scene.captions), int) if self.codes is None else self.codes
        found, told = np.zeros(len(asked)), every[asked]
        for k in np.unique(told):
            x = _flat(drawn[told == k])
            y = _flat(self.scene.pixels[known[every[known] == k]])
            across = 2 * cdist(x, y).mean(1)
            own = cdist(x, x).sum(1) / max(len(x) - 1, 1)
            within = float(pdist(y).mean()) if len(y) > 1 else 0.0
            found[told == k] = (across - own - within) / max(float(across.mean()), 1e-12)
        return found

    def spread(self, drawn: np.ndarray, asked: np.ndarray) -> float:
        """Mean distance of two drawn pictures of a caption by that of two real ones."""
        from scipy.spatial.distance import pdist

        groups = np.array([self.scene.captions[i] for i in asked])
        if self.codes is None:
            groups[:] = ""
        ratios = []
        for name in np.unique(groups):
            rows = [i for i in self.scene.train if self.codes is None
                    or self.scene.captions[i] == name][:200]  # fmt: skip
            found, real = _flat(drawn[groups == name]), _flat(self.scene.pixels[rows])
            if len(found) > 1 and len(real) > 1 and (width := pdist(real).mean()) > 0:
                ratios.append(pdist(found).mean() / width)
        return float(np.mean(ratios)) if ratios else 0.0
