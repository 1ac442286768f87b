r"""ROUGE-L: how much of two texts' words is common, in order; and a filter for near copies.

With $L$ the length of the longest common subsequence of texts of m and n words,

$$ P = \frac{L}{n}, \qquad R = \frac{L}{m}, \qquad F = \frac{2 P R}{P + R} . $$

Words are runs of a-z and 0-9 of the text in lower case, as in the package `rouge_score`, whose
scores these are, to the last bit. Self-Instruct drops a new instruction if $F > 0.7$ with any that
was kept, which compares each with all: 1.35 billion pairs for 52,000. `Novelty` does that at some
nanoseconds a pair and tells the nearest one; `novel` gives the same decisions for many texts at
once, and looks only at pairs that share a rare word.

Cost: `Novelty` O(n ceil(m / 64)) a text of the pool; `novel` far below that in all.

References:
    Lin (2004), ROUGE: a package for automatic evaluation of summaries, eq. 5-7.
    Wang et al. (2023), Self-Instruct, arXiv:2212.10560, section 2.2 (filtering).
    Hyyrö (2004), Bit-parallel LCS-length computation revisited, section 3.

Shapes: N texts, m and n words of two texts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from paragone.language.ops.rouge.bits import nearest_in_pool, novel_rows
from paragone.language.ops.rouge.reference import f_measure

__all__ = ["Novelty", "RougeL", "novel", "rouge_l", "words_of"]

_NOTHING = np.zeros(0, np.int64)
_WORD = re.compile(r"[a-z0-9]+")


def words_of(text: str) -> list[str]:
    """Words of a text: runs of a-z and 0-9 in lower case.

    Example:
        >>> words_of("Rewrite it, don't delete!")
        ['rewrite', 'it', 'don', 't', 'delete']
    """
    return _WORD.findall(text.lower())


@dataclasses.dataclass(frozen=True)
class RougeL:
    """How much of two texts is common.

    Attributes:
        precision: Share of the prediction's words.
        recall: Share of the target's words.
        fmeasure: Their harmonic mean.
    """

    precision: float
    recall: float
    fmeasure: float


def rouge_l(target: str, prediction: str) -> RougeL:
    """Scores two texts, as `rouge_score` does without a stemmer.

    Args:
        target: What should have been written.
        prediction: What was written.

    Example:
        >>> rouge_l("the cat sat on the mat", "the cat on a mat").recall
        0.6666666666666666
    """
    pool = Novelty([target])
    words = words_of(prediction)
    if not words or not pool.sizes[0]:
        return RougeL(0.0, 0.0, 0.0)
    m, n = int(pool.sizes[0]), len(words)
    common = int(pool.common(prediction)[0])
    return RougeL(common / n, common / m, f_measure(common, m, n))


class Novelty:
    """A pool of texts that tells how near a new one comes to those it holds.

    Prefer `novel` where all texts are there at once, and this where they come one by one or the
    nearest text and its score are wanted.

    Args:
        texts: The first ones of the pool.
        threshold: F-measure above which a text is no longer new; the paper's is 0.7.

    Raises:
        ValueError: A threshold outside [0, 1].

    Example:
        >>> pool = Novelty(["Write a poem about the sea."])
        >>> pool.offer("Write a poem about the deep sea."), pool.offer("Add two numbers.")
        (False, True)
    """

    def __init__(self, texts: Iterable[str] = (), threshold: float = 0.7) -> None:
        self.threshold = _checked(threshold)
        self._ids: dict[str, int] = {}
        self._count = self._longest = 0
        self._tokens = np.zeros(1024, np.int32)
        self._starts = np.zeros(64, np.int64)
        self._slot = np.zeros(1024, np.int32)
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return self._count

    @property
    def sizes(self) -> np.ndarray:
        """Words of each text (N,)."""
        return np.diff(self._starts[: self._count + 1])

    def _numbers(self, text: str) -> np.ndarray:
        ids = self._ids
        found = np.array([ids.setdefault(w, len(ids)) for w in words_of(text)], np.int32)
        if len(ids) > len(self._slot):
            self._slot = _grown(self._slot, len(ids))
        return found

    def add(self, text: str) -> None:
        """Takes a text into the pool, whatever it is like."""
        self._add(self._numbers(text))

    def _add(self, words: np.ndarray) -> None:
        start = self._starts[self._count]
        self._tokens = _grown(self._tokens, start + len(words))
        self._starts = _grown(self._starts, self._count + 2)
        self._tokens[start : start + len(words)] = words
        self._count += 1
        self._longest = max(self._longest, len(words))
        self._starts[self._count] = start + len(words)

    def common(self, text: str) -> np.ndarray:
        """Lengths of the longest common subsequences with the texts of the pool (N,)."""
        out = np.zeros(self._count, np.int64)
        self._near(self._numbers(text), -1.0, False, out)
        return out

    def _near(self, words: np.ndarray, floor: float, first: bool, out: np.ndarray) -> Any:
        width = max(-(-len(words) // 64), 1)
        masks, state = np.zeros((len(words) + 1) * width, np.uint64), np.zeros(width, np.uint64)
        return nearest_in_pool(
            words, self._tokens, self._starts, self._count, self._longest, floor, first,
            self._slot, masks, state, out,
        )  # fmt: skip

    def scores(self, text: str) -> np.ndarray:
        """F-measures with the texts of the pool (N,)."""
        size, common = len(words_of(text)), self.common(text)
        with np.errstate(divide="ignore", invalid="ignore"):
            precision, recall = common / self.sizes, common / size
            found = 2 * precision * recall / (precision + recall)
        return np.where(common > 0, found, 0.0)

    def nearest(self, text: str) -> tuple[float, int]:
        """F-measure with the nearest text, the first of equals, and its number.

        (0.0, -1) where no text of the pool has a word in common.
        """
        score, at = self._near(self._numbers(text), 0.0, False, _NOTHING)
        return float(score), int(at)

    def offer(self, text: str) -> bool:
        """Takes a text into the pool if it is new; returns whether it is."""
        words = self._numbers(text)
        new = self._near(words, self.threshold, True, _NOTHING)[1] < 0
        if new:
            self._add(words)
        return bool(new)


def novel(texts: Sequence[str], *, pool: Sequence[str] = (), threshold: float = 0.7) -> np.ndarray:
    """Says which texts are new: those not near to the pool or to an earlier one that was new.

    Prefer it to `Novelty.offer` for many texts: the decisions are the same.

    Args:
        texts: Texts in the order in which they are offered.
        pool: Texts that are there before.
        threshold: F-measure above which two texts are near.

    Returns:
        Whether each text is new, bool (N,).

    Raises:
        ValueError: A threshold outside [0, 1].

    Example:
        >>> novel(["Add two numbers.", "Add the two numbers.", "Sing."]).tolist()
        [True, False, True]
    """
    threshold = _checked(threshold)
    ids: dict[str, int] = {}
    numbers = [[ids.setdefault(w, len(ids)) for w in words_of(t)] for t in (*pool, *texts)]
    sizes = np.array([len(row) for row in numbers], np.int64)
    starts = np.concatenate([[0], sizes.cumsum()]).astype(np.int64)
    tokens = np.array([id for row in numbers for id in row], np.int32)
    keys = _ranked(tokens, sizes, starts)
    prefixes = _prefixes(sizes, threshold)
    looked = np.arange(len(keys)) - np.repeat(starts[:-1], sizes) < np.repeat(prefixes, sizes)
    most = int(keys.max(initial=-1)) + 1
    heads = np.concatenate([[0], np.bincount(keys[looked], minlength=most).cumsum()])
    longest = int(sizes.max(initial=0))
    width = max(-(-longest // 64), 1)
    by = np.zeros(len(numbers), np.int64)
    novel_rows(
        tokens, starts, keys, prefixes, heads.astype(np.int64), len(pool), threshold,
        np.zeros(len(ids) + 1, np.int32), np.zeros((longest + 1) * width, np.uint64),
        np.zeros(width, np.uint64), by,
    )  # fmt: skip
    return by[len(pool) :] < 0


def _ranked(tokens: np.ndarray, sizes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Words of each text with their count in it, as ranks from rare to frequent, sorted."""
    rows = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((tokens, rows))
    word, row = tokens[order].astype(np.int64), rows[order]
    fresh = np.ones(len(word), bool)
    fresh[1:] = (word[1:] != word[:-1]) | (row[1:] != row[:-1])
    place = np.arange(len(word))
    nth = place - np.maximum.accumulate(np.where(fresh, place, 0))
    _, keys, counts = np.unique(
        word * (int(sizes.max(initial=0)) + 1) + nth, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    ranked = rank[keys]
    return ranked[np.lexsort((ranked, row))]


def _prefixes(sizes: np.ndarray, threshold: float) -> np.ndarray:
    """How many words of a text must be looked up: all but the last that suffice, less one."""
    needed = np.zeros(int(sizes.max(initial=0)) + 1, np.int64)
    least = 1
    for m in range(1, len(needed)):
        while least <= m and not f_measure(least, m, least) > threshold:
            least += 1
        needed[m] = m - least + 1
    return needed[sizes]


def _checked(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: an F-measure lies between 0 and 1")
    return float(threshold)


def _grown(array: np.ndarray, size: int) -> np.ndarray:
    """An array with room for `size` entries, the new ones zero."""
    if size <= len(array):
        return array
    wider = np.zeros(max(size, 2 * len(array)), array.dtype)
    wider[: len(array)] = array
    return wider
