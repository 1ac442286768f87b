r"""What a controller of drafts remembers: seconds of steps, and how often drafts were agreed to.

A chance is the mean of a Beta distribution whose prior is what the drafter says of itself, times
how well it has kept its word so far:

$$ a_d = \frac{h_d + w\, \min(1, \rho\, c_d)}{r_d + w}, \qquad
   \rho = \frac{\sum h + w}{\sum r\, c + w} , $$

with $r_d$ sequences that reached depth d, $h_d$ of them agreed to there, $c_d$ the drafter's own
chances. Counts fade, so that a text may change its mind.

References:
    Gelman et al. (2013), Bayesian Data Analysis, section 2.4 (Beta prior as counts).

Shapes: D depth of a plan.
"""

from __future__ import annotations

import collections
import weakref
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from paragone.language.drafting import Plan

__all__ = ["Chances", "Memory", "Times", "between", "memory_of"]

_KEPT, _WEIGHT = 9, 4.0


class Times:
    """The last few durations of one thing.

    Attributes:
        seconds: Their mean without the largest of them: a shared machine stumbles now and then.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.held: collections.deque[float] = collections.deque(maxlen=_KEPT)

    def add(self, seconds: float) -> None:
        """Remembers a duration.

        Args:
            seconds: At least 0.
        """
        self.held.append(seconds)
        kept = sorted(self.held)
        kept = kept[: len(kept) - (len(kept) > 1) - (len(kept) > 6)]
        self.seconds = sum(kept) / len(kept)


class Chances:
    """How often drafts were agreed to, by depth, of one kind of plan."""

    def __init__(self) -> None:
        self.reached, self.held = np.zeros(0), np.zeros(0)

    def add(self, reached: np.ndarray, held: np.ndarray) -> None:
        """Counts a step.

        Args:
            reached: (D,) sequences that came to each depth.
            held: (D,) those agreed to there.
        """
        more = len(reached) - len(self.reached)
        if more > 0:
            self.reached, self.held = (np.pad(x, (0, more)) for x in (self.reached, self.held))
        self.reached[: len(reached)] += reached
        self.held[: len(held)] += held

    def fade(self, factor: float) -> None:
        """Makes what was counted weigh less.

        Args:
            factor: Of all counts.
        """
        self.reached *= factor
        self.held *= factor

    def mean(self, prior: np.ndarray) -> np.ndarray:
        """The (D,) chances.

        Args:
            prior: (D,) chances without any count.
        """
        reached, held = np.zeros(len(prior)), np.zeros(len(prior))
        some = min(len(prior), len(self.reached))
        reached[:some], held[:some] = self.reached[:some], self.held[:some]
        return (held + _WEIGHT * prior) / (reached + _WEIGHT)


class Memory:
    """What is known of one drafter beside one engine, over all texts of this process."""

    def __init__(self) -> None:
        self.passing: dict[tuple[int, Plan], Times] = collections.defaultdict(Times)
        self.drafting: dict[tuple[int, Plan], Times] = collections.defaultdict(Times)
        self.chances: dict[Hashable, Chances] = collections.defaultdict(Chances)
        self.warm, self.hopeless = False, False
        self.bank = 0.0


class _OfEngine:
    def __init__(self) -> None:
        self.plain: dict[int, Times] = collections.defaultdict(Times)
        self.drafters: weakref.WeakKeyDictionary[Any, Memory] = weakref.WeakKeyDictionary()


_KNOWN: weakref.WeakKeyDictionary[Any, _OfEngine] = weakref.WeakKeyDictionary()


def memory_of(engine: Any, drafter: Any) -> tuple[dict[int, Times], Memory]:
    """Returns durations of plain steps of an engine by sequences, and what is known of a drafter.

    Args:
        engine: Kept weakly, like the drafter.
        drafter: Who guesses.
    """
    of_engine = _KNOWN.setdefault(engine, _OfEngine())
    return of_engine.plain, of_engine.drafters.setdefault(drafter, Memory())


def between(known: Mapping[float, float], x: float) -> float:
    """A value on the line through known points, and on with the last slope beyond them.

    Args:
        known: At least two points.
        x: Where.

    Example:
        >>> between({1: 10.0, 3: 14.0}, 2), between({1: 10.0, 3: 14.0}, 5)
        (12.0, 18.0)
    """
    places = sorted(known)
    low = max(sum(place <= x for place in places) - 1, 0)
    low = min(low, len(places) - 2)
    first, second = places[low], places[low + 1]
    slope = (known[second] - known[first]) / (second - first)
    outside = x < places[0] or x > places[-1]
    slope = max(slope, 0.0) if outside else slope
    nearest = second if x > places[-1] else first
    return known[nearest] + slope * (x - nearest)
