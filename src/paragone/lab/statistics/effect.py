r"""What a paired comparison found, and the one word for it.

An effect $\hat\delta$ with an interval $[l, u]$ meets a margin $m$ that was fixed before the
run. With $\delta > 0$ meaning "worse", the word is

* *same*: $-m < l$ and $u < m$ (the interval lies inside the margin: equivalence),
* *worse*: $l > 0$ and $\hat\delta > m$; *better*: $u < 0$ and $\hat\delta < -m$,
* *inconclusive* otherwise.

A difference that is certain but smaller than the margin is "same"; one that is large but
uncertain is "inconclusive", which is not "same": absence of evidence has its own word.

References:
    Schuirmann (1987), "A comparison of the two one-sided tests procedure and the power
    approach", J. Pharmacokinet. Biopharm. 15; Lakens (2017), "Equivalence tests", fig. 1.
"""

import math
from typing import Literal, NamedTuple

from paragone.lab.outcome import Word

__all__ = ["Effect", "word_of"]


class Effect(NamedTuple):
    """A paired effect a - b (or a logarithm of a / b).

    Attributes:
        estimate: The effect.
        low: Lower end of the interval, None where there is none.
        high: Upper end.
        p: Two-sided p-value, None where the method has none.
        n: Number of pairs.
        method: Name of the method.
    """

    estimate: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 0
    method: str = ""


def word_of(effect: Effect, margin: float, better: Literal["lower", "higher"] = "lower") -> Word:
    """How `a` stands to `b`.

    Example:
        >>> word_of(Effect(0.2, 0.1, 0.3), margin=0.05)
        'worse'
        >>> word_of(Effect(0.2, 0.1, 0.3), margin=0.05, better="higher")
        'better'
    """
    if effect.low is None or effect.high is None or not math.isfinite(effect.estimate):
        return "inconclusive"
    sign = 1.0 if better == "lower" else -1.0
    low, high = sorted((sign * effect.low, sign * effect.high))
    loss = sign * effect.estimate
    # Two identical programs differ by exactly nothing, whatever the margin.
    if low == high == 0 or (-margin < low and high < margin):
        return "same"
    if low > 0 and loss > margin:
        return "worse"
    if high < 0 and loss < -margin:
        return "better"
    return "inconclusive"
