"""The filter for near copies behind one call for the study `rouge_speed`: texts to decisions.

Texts are drawn: words of Zipf's frequencies, some ten a text as in the 52k rows, and one in ten is
an earlier text with words left out. `truth` decides by the definition of the common subsequence
where the texts are few, and by comparing all with all where they are some. Of 52,000 it takes our
own decisions, which the tests compare with the others on fewer.
"""

from __future__ import annotations

import numpy as np

from paragone._core.lazy import resolve
from paragone.language.ops.rouge.reference import common_words, f_measure
from paragone.language.rouge import Novelty, novel, rouge_l, words_of

__all__ = ["OneByOne", "Ours", "RapidFuzz", "RougeScore", "inputs", "truth"]

_WORDS = 20_000
_THRESHOLD = 0.7


def inputs(texts: int, seed: int = 0) -> tuple[list[str]]:
    """So many texts."""
    rng = np.random.default_rng([texts, seed])
    share = 1 / np.arange(1, _WORDS + 1)
    sizes = np.clip(rng.poisson(9.7, texts) + 1, 2, 60)
    drawn = rng.choice(_WORDS, int(sizes.sum()), p=share / share.sum())
    made: list[list[str]] = []
    for at, words in enumerate(np.split(drawn, sizes.cumsum()[:-1])):
        text = [f"w{word}" for word in words]
        if at and rng.random() < 0.1:
            earlier = made[int(rng.integers(at))]
            text = [word for word in earlier if rng.random() < 0.8] or earlier
        made.append(text)
    return ([" ".join(words) for words in made],)


class Ours:
    """All texts at once."""

    def __init__(self) -> None:
        rouge_l("a", "a")
        novel(["a"])

    def __call__(self, texts: list[str]) -> np.ndarray:
        return novel(texts).astype(np.float64)


class OneByOne(Ours):
    """One text after the other, each compared with all that were kept."""

    def __call__(self, texts: list[str]) -> np.ndarray:
        pool = Novelty()
        return np.array([pool.offer(text) for text in texts], np.float64)


class RougeScore:
    """The package `rouge_score`, as Stanford Alpaca calls it, in one process."""

    def __init__(self) -> None:
        scorer = resolve("rouge_score.rouge_scorer:RougeScorer")(["rougeL"], use_stemmer=False)
        self._score = resolve("rouge_score.rouge_scorer:_score_lcs")
        self._words = scorer._tokenizer.tokenize

    def __call__(self, texts: list[str]) -> np.ndarray:
        kept: list[list[str]] = []
        decisions = []
        for text in texts:
            words = self._words(text)
            scores = [self._score(words, other).fmeasure for other in kept]
            decisions.append(float(max(scores, default=0.0) <= _THRESHOLD))
            if decisions[-1]:
                kept.append(words)
        return np.array(decisions)


class RapidFuzz:
    """rapidfuzz's longest common subsequence of lists of words."""

    def __init__(self) -> None:
        self._common = resolve("rapidfuzz.distance:LCSseq").similarity

    def __call__(self, texts: list[str]) -> np.ndarray:
        kept: list[list[str]] = []
        decisions, common = [], self._common
        for text in texts:
            words = words_of(text)
            m = len(words)
            near = any(
                f_measure(common(words, other), m, len(other)) > _THRESHOLD for other in kept
            )
            decisions.append(float(not near))
            if not near:
                kept.append(words)
        return np.array(decisions)


def truth(texts: list[str]) -> np.ndarray:
    """The decisions by the definition, by comparing all with all, or by ours: see above."""
    if len(texts) > 500:
        return (OneByOne if len(texts) < 5000 else Ours)()(texts)
    kept: list[list[str]] = []
    decisions = []
    for text in texts:
        words = words_of(text)
        scores = [f_measure(common_words(words, k), len(words), len(k)) for k in kept]
        decisions.append(float(max(scores, default=0.0) <= _THRESHOLD))
        if decisions[-1]:
            kept.append(words)
    return np.array(decisions)
