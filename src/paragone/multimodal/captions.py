r"""Pictures with what is said of them: digits, rendered words, and files of one's own.

A record is a picture with a caption, or with a question and an answer, or a page of texts and
pictures in any order. What is learned of it is a task: reading is the caption after the picture,
drawing the picture after the caption, answering the answer after picture and question.

A record is held out if a number that follows from its picture alone is small,

$$ \text{held} \iff h(\text{seed}, \text{pixels}) < s \cdot 2^{64} , $$

so that a picture is never on both sides, however many captions it has, and that records which
are added later move none of the others.

References:
    Alpaydin and Kaynak (1998), "Cascading classifiers" (the digits, UCI's test part).

Shapes: H rows and W columns of pixels, C channels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paragone.multimodal.documents import Document, picture

__all__ = [
    "NUMBERS", "TASKS", "Captioned", "Captions", "Page", "digest_of", "digit_judge",
    "digits_with_captions", "loaded", "read_captions", "rendered_words",
]  # fmt: skip

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
)  # fmt: skip
"""Names of the digits, as captions have them."""

TASKS = ("read", "draw", "answer")
"""What can be learned of a picture with a text."""

Part = Literal["train", "test", "all"]
Source = np.ndarray | Callable[[], np.ndarray]
"""A picture, or what decodes it when it is asked for."""

_TEST = 0.2
_COMMON = 1000
_WORD = re.compile(r"\b[a-z]+\b")
_MOST_NAMED = 5


def loaded(source: Source) -> np.ndarray:
    """The picture itself."""
    return source() if callable(source) else source


def digest_of(pixels: np.ndarray) -> str:
    """Tells a picture from others, by its pixels alone."""
    told = hashlib.blake2b(pixels.tobytes(), digest_size=8)
    told.update(str(pixels.shape).encode())
    return told.hexdigest()


@dataclasses.dataclass(frozen=True)
class Captioned:
    """A picture with a caption, or with a question and its answer.

    Args:
        source: The picture, or what decodes it.
        caption: What is said of it; of a question, the answer.
        question: What is asked, or "".
        name: Where it comes from.
        digest: Of the pixels (empty: computed).
    """

    source: Source
    caption: str
    question: str = ""
    name: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", digest_of(self.picture))

    @property
    def picture(self) -> np.ndarray:
        """(H, W, C) uint8."""
        return loaded(self.source)

    def tasks(self, asked: Iterable[str] = TASKS) -> tuple[str, ...]:
        """Which of the tasks it is for: "answer" with a question, "read" and "draw" without."""
        fitting = ("answer",) if self.question else ("read", "draw")
        return tuple(task for task in asked if task in fitting)

    def document(self, task: str = "read") -> Document:
        """The document of a task.

        Example:
            >>> one = Captioned(np.zeros((2, 2, 1), np.uint8), "a dark square")
            >>> one.document("draw").learned
            (False, True)
        """
        if task == "draw":
            return Document((self.caption, self.picture), (False, True))
        if self.question:
            return Document((self.picture, self.question, self.caption), (False, False, True))
        return Document((self.picture, self.caption), (False, True))


@dataclasses.dataclass(frozen=True)
class Page:
    """Texts and pictures in order, all of them learned unless flags say otherwise.

    Args:
        parts: Texts, pictures, and what decodes pictures.
        learned: As in `Document`.
        name: Where it comes from.
        digest: Of the first picture, or of the text if there is none.
    """

    parts: tuple[str | Source, ...]
    learned: tuple[bool, ...] | None = None
    name: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        if not self.digest:
            pictures = [one for one in self.parts if not isinstance(one, str)]
            told = (
                digest_of(loaded(pictures[0]))
                if pictures
                else hashlib.blake2b("".join(map(str, self.parts)).encode()).hexdigest()[:16]
            )
            object.__setattr__(self, "digest", told)

    def tasks(self, asked: Iterable[str] = TASKS) -> tuple[str, ...]:
        """A page is for one task, its own."""
        return ("page",)

    def document(self, task: str = "page") -> Document:
        """The page as a document."""
        parts = tuple(one if isinstance(one, str) else loaded(one) for one in self.parts)
        return Document(parts, self.learned)


Record = Captioned | Page


class Captions(list[Record]):
    """Records, and what was left out of them.

    Args:
        records: What was read.
        name: What they are, in words.
        skipped: Reason to the number of records that were left out.
        problems: A line for each of them.

    Example:
        >>> digits = digits_with_captions("test")
        >>> digits[0].caption, digits[0].picture.shape
        ('a handwritten one', (8, 8, 1))
    """

    def __init__(
        self,
        records: Iterable[Record] = (),
        name: str = "captions",
        skipped: Mapping[str, int] | None = None,
        problems: Sequence[str] = (),
    ) -> None:
        super().__init__(records)
        self.name = name
        self.skipped: Counter[str] = Counter(skipped or {})
        self.problems = list(problems)

    def notes(self) -> list[str]:
        """What was left out, in lines for a user."""
        if not self.skipped:
            return []
        counts = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        more = len(self.problems) - _MOST_NAMED
        last = [f"… and {more} more"] if more > 0 else []
        return [f"left out: {counts}", *self.problems[:_MOST_NAMED], *last]

    def work(self, tasks: Sequence[str] = TASKS) -> list[tuple[Record, str]]:
        """Each record with each task that it is for.

        Raises:
            ValueError: An unknown task.
        """
        unknown = [task for task in tasks if task not in TASKS]
        if unknown or not tasks:
            raise ValueError(f"tasks={tuple(tasks)}: some of {', '.join(TASKS)} are expected")
        return [(record, task) for record in self for task in record.tasks(tasks)]

    def documents(self, tasks: Sequence[str] = TASKS) -> list[Document]:
        """All documents of some tasks, decoded."""
        return [record.document(task) for record, task in self.work(tasks)]

    def fingerprint(self) -> str:
        """A digest of all records in their order."""
        told = hashlib.blake2b(digest_size=12)
        for one in self:
            texts = (
                [one.caption, one.question]
                if isinstance(one, Captioned)
                else [part for part in one.parts if isinstance(part, str)]
            )
            told.update("\0".join([one.digest, *texts, ""]).encode())
        return told.hexdigest()

    def split(self, share: float = _TEST, seed: int = 0) -> tuple[Captions, Captions]:
        """Records to learn from, and held-out ones; no picture is in both.

        Args:
            share: About how much is held out; of two pictures or more at least one is.
            seed: Draws another split.

        Raises:
            ValueError: A share out of range.
        """
        if not 0 <= share < 1:
            raise ValueError(f"share={share}: from 0 to below 1 is expected")
        numbers = {one.digest: _number(one.digest, seed) for one in self}
        held = {name for name, number in numbers.items() if number < share}
        if share and not held and len(numbers) > 1:
            held = {min(numbers, key=lambda name: numbers[name])}
        if len(held) == len(numbers) > 1:
            held.remove(max(numbers, key=lambda name: numbers[name]))
        sides = (
            [one for one in self if one.digest not in held],
            [one for one in self if one.digest in held],
        )
        return tuple(Captions(s, self.name, self.skipped, self.problems) for s in sides)  # pyright: ignore


def _number(name: str, seed: int) -> float:
    told = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(told, "big") / 2**64


def _checked_part(part: str) -> None:
    if part not in ("train", "test", "all"):
        raise ValueError(f"part={part!r} is none of train, test, all")


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    loaded: Any = load_digits()
    ink = np.rint(np.asarray(loaded.images) / 16 * 255).astype(np.uint8)
    return ink[..., None], np.asarray(loaded.target, np.int64)


def digits_with_captions(
    part: Part = "train", seed: int = 0, *, questions: bool = False
) -> Captions:
    """The 1,797 handwritten digits that ship with scikit-learn, 8 x 8 and grey, with captions.

    Prefer them to pictures of one's own where a method is to be tried: a model learns them in
    minutes, and a classifier tells whether what is drawn is what was asked for.

    Args:
        part: "train", "test" (a fifth, by the pixels) or "all".
        seed: Of the split.
        questions: Whether each digit also comes with two questions: which it is, and whether it
            is even.

    Raises:
        ValueError: Another part.

    Example:
        >>> [len(digits_with_captions(part)) for part in ("train", "test", "all")]
        [1415, 382, 1797]
    """
    _checked_part(part)
    records: list[Record] = []
    for row, (ink, label) in enumerate(zip(*_digits(), strict=True)):
        word, digest = NUMBERS[label], digest_of(ink)
        name = f"digit {row}"
        records.append(Captioned(ink, f"a handwritten {word}", "", name, digest))
        if questions:
            even = "odd" if label % 2 else "even"
            records.append(Captioned(ink, word, "Which digit is it?", name, digest))
            records.append(Captioned(ink, even, "Is it even or odd?", name, digest))
    every = Captions(records, "digits")
    return every if part == "all" else every.split(_TEST, seed)[part == "test"]


def rendered_words(
    count: int = 2000,
    part: Part = "train",
    *,
    size: int = 11,
    shape: tuple[int, int] = (16, 48),
    letters: tuple[int, int] = (3, 6),
    words: Sequence[str] | None = None,
    unseen: bool = True,
    seed: int = 0,
) -> Captions:
    """Pictures of words in Pillow's own font; the caption is the word.

    The words are the most frequent ones of the standard library's sources. Each is set somewhere
    in its picture, in some dark grey on some light grey, so that no two pictures are alike.

    Args:
        count: Pictures.
        part: "train" or "test": what is drawn differs; "all" has words of both.
        size: Height of the font in pixels.
        shape: Rows and columns of the picture; words that do not fit are not taken.
        letters: Least and most letters of a word.
        words: Words to take (None: those of the standard library).
        unseen: Whether the words of the two parts differ; a fifth is kept for the test.
        seed: Of the split and of what is drawn.

    Raises:
        ValueError: A value out of range, or no word that fits.

    Example:
        >>> one = rendered_words(1, "all", words=["lossless"])[0]
        >>> one.picture.shape, one.caption
        ((16, 48, 1), 'lossless')
    """
    from PIL import Image, ImageDraw, ImageFont

    _checked_part(part)
    if count < 1 or size < 4 or min(shape) < 1:
        raise ValueError(
            f"count={count}, size={size}, shape={shape}: at least 1 picture of at least 1 pixel, "
            "and 4 pixels of height are expected"
        )
    font = ImageFont.load_default(size)
    known = sorted({*(words if words is not None else _library_words(*letters))})
    boxes = {word: font.getbbox(word) for word in known}
    fitting = [
        word for word, (left, top, right, bottom) in boxes.items()
        if right - left <= shape[1] and bottom - top <= shape[0]
    ]  # fmt: skip
    if unseen and part != "all":
        test = part == "test"
        fitting = [word for word in fitting if (_number(word, seed) < _TEST) == test]
    if not fitting:
        raise ValueError(f"none of {len(known)} words fits into {shape} at size={size}")
    records = []
    for row in range(count):
        draws = np.random.default_rng((seed, ("train", "test", "all").index(part), row))
        word = fitting[int(draws.integers(len(fitting)))]
        left, top, right, bottom = (int(x) for x in boxes[word])
        x = int(draws.integers(shape[1] - (right - left) + 1)) - left
        y = int(draws.integers(shape[0] - (bottom - top) + 1)) - top
        ink, paper = int(draws.integers(0, 64)), int(draws.integers(192, 256))
        image = Image.new("L", (shape[1], shape[0]), paper)
        ImageDraw.Draw(image).text((x, y), word, fill=ink, font=font)
        records.append(Captioned(picture(image), word, "", f"word {row}"))
    return Captions(records, "rendered words")


@lru_cache(maxsize=4)
def _library_words(least: int, most: int) -> tuple[str, ...]:
    from paragone.language.corpus import library_texts

    if not 1 <= least <= most:
        raise ValueError(f"letters={(least, most)}: least and most, from 1 on, are expected")
    counts: Counter[str] = Counter()
    for text in library_texts(1_000_000).texts:
        counts.update(w for w in _WORD.findall(text) if least <= len(w) <= most)
    frequent = sorted(counts, key=lambda word: (-counts[word], word))
    return tuple(frequent[:_COMMON])


def _some(records: list[Record]) -> list[Record]:
    if not records:
        raise ValueError("no document to use: at least one is expected")
    return records


def read_captions(source: Any, *, longest: int | None = 1024, cache: int | None = None) -> Captions:
    """Reads pictures with captions.

    Args:
        source: A JSON Lines file (or .json, .csv, .parquet) of records
            {"image": path, "caption": text}, {"image", "question", "answer"},
            {"image", "conversations": [{"from", "value"}, ...]} or
            {"parts": [text, {"image": path}, ...]}, paths being relative to the file; or a folder
            of pictures, with such a file (metadata.jsonl, captions.jsonl) in it, with folders by
            caption, or with captions as names of files. `Captions` come back as they are, and
            `Document`s are pages.
        longest: Pixels that larger pictures' longer side is shrunk to (None: never).
        cache: Bytes of decoded pictures to keep in memory; all others are decoded when they are
            asked for (None: a quarter of what is free).

    Returns:
        Records; `.skipped` and `.problems` tell what was left out and why.

    Raises:
        ValueError: Nothing is there, or nothing of it can be used.

    Example:
        >>> read_captions([{"image": np.zeros((4, 4)), "caption": "a dark square"}])[0].tasks()
        ('read', 'draw')
    """
    if isinstance(source, Captions):
        return source
    if isinstance(source, Sequence) and all(
        isinstance(x, Document | Captioned | Page) for x in source
    ):
        pages = (Page(x.parts, x.learned) if isinstance(x, Document) else x for x in source)
        return Captions(_some(list(pages)), "documents")
    from paragone.multimodal._captions_files import read

    return read(Path(source) if isinstance(source, str | os.PathLike) else source, longest, cache)


@lru_cache(maxsize=1)
def digit_judge() -> Any:
    """A classifier of the real digits' training part: `judge(pictures)` gives their captions.

    Example:
        >>> held = digits_with_captions("test")
        >>> digit_judge().agreement([r.picture for r in held], [r.caption for r in held]) > 0.98
        True
    """
    from paragone.multimodal._captions_judge import Judge

    records = [one for one in digits_with_captions("train") if isinstance(one, Captioned)]
    return Judge(records, 8)
