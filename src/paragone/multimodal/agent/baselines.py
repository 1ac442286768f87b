r"""The rows beside every score: what chance, a thoughtless rule, and a look into the page achieve.

A share of successes says little alone. Three policies tell what it is worth:

* `RandomClick` clicks anywhere, uniformly over the screenshot: with a target of $w \times h$ pixels
  it hits with probability $wh / WH$, and on small pages of one large button often.
* `FirstWidget` clicks the widgets in the order in which the page names them, each once. A task
  that it does has no need of an instruction.
* `Oracle` does what the page's own DOM says is right. What it fails, no agent can be blamed for.

The last two are the judge's: they look into the page, which an agent cannot.

References:
    Shi et al. (2017), World of Bits, PMLR 70, section 5 (a random baseline beside each task).

Shapes: H rows and W columns of pixels.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Context, Element, Exercise, Screen

__all__ = ["BASELINES", "FirstWidget", "Oracle", "RandomClick"]

_PLAIN = frozenset({"", "text", "img", "image", "heading", "paragraph", "presentation", "label"})
"""Roles of what is looked at and not used."""


def _written(action: Action, dialect: str) -> str:
    return resolve("paragone.multimodal.agent.actions:format_action")(action, dialect)


class _InPixels:
    """A policy that writes UI-TARS-1.5 and means pixels of the screenshot."""

    dialect = "ui-tars-1.5"
    screenshots = 1
    looks_inside = False
    """Whether it asks the page itself, so that a score must not seal it off."""

    def coordinates(self, screen: Screen) -> Any:
        """Pixels of the screenshot are what its texts are in.

        Args:
            screen: The present screenshot.
        """
        return resolve("paragone.multimodal.agent.coordinates:Coordinates").of(
            screen, model="pixels"
        )


class RandomClick(_InPixels):
    """Clicks anywhere, whatever is asked.

    The same seed, screenshot and number of earlier actions always give the same click.

    Args:
        seed: Of the clicks.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def propose(self, context: Context) -> str:
        """A click, uniform over the pixels of the present screenshot.

        Args:
            context: Only its last screenshot and the number of its actions are used.
        """
        pixels = np.ascontiguousarray(context.screens[-1].pixels)
        place = [self.seed, zlib.crc32(pixels.tobytes()), len(context.history)]
        rows, columns = pixels.shape[:2]
        rng = np.random.default_rng(place)
        point = (int(rng.integers(columns)), int(rng.integers(rows)))
        return _written(Action("click", {"start_box": point}), self.dialect)


class FirstWidget(_InPixels):
    """Clicks the first widget that it has not clicked yet; when all were, it starts again.

    Args:
        exercise: The exercise from the judge's side; its elements come in the page's order.
    """

    looks_inside = True

    def __init__(self, exercise: Exercise):
        self.exercise = exercise
        self._clicked: list[tuple[str, str]] = []

    def _next(self, widgets: list[Element]) -> Element:
        """The n-th of equal widgets is another one than the first."""
        left = list(self._clicked)
        for one in widgets:
            if (one.role, one.text) not in left:
                self._clicked.append((one.role, one.text))
                return one
            left.remove((one.role, one.text))
        self._clicked = [(widgets[0].role, widgets[0].text)]
        return widgets[0]

    def propose(self, context: Context) -> str:
        """A click on a widget's centre; a page without widgets is waited for.

        Args:
            context: Not used.
        """
        elements = list(self.exercise.elements())
        widgets = [one for one in elements if one.role not in _PLAIN] or elements
        if not widgets:
            return _written(Action("wait"), self.dialect)
        left, top, right, bottom = self._next(widgets).box
        point = (int((left + right) / 2), int((top + bottom) / 2))
        return _written(Action("click", {"start_box": point}), self.dialect)


class Oracle(_InPixels):
    """Does what the page's DOM says is right.

    Args:
        exercise: The exercise from the judge's side.
    """

    looks_inside = True

    def __init__(self, exercise: Exercise):
        self.exercise = exercise

    def propose(self, context: Context) -> str:
        """The wanted action; where there is none, the user is called.

        Args:
            context: Not used.
        """
        wanted = self.exercise.wanted()
        action = Action("call_user") if wanted is None else wanted.action
        return _written(action, self.dialect)


def _random(exercise: Exercise) -> RandomClick:
    return RandomClick(0)


BASELINES: dict[str, Any] = {
    "random-click": _random, "first-widget": FirstWidget, "oracle": Oracle,
}  # fmt: skip
"""Name to what makes the policy of an exercise; `score` takes the names."""
