r"""What a page's DOM says: what is seen where, and what is right to do next.

The judge's side of a browser. A task says in a few lines of JavaScript which *goals* lead to
success, in order; the library below finds the first goal that does not hold now, and turns it into
one action on the visible part of its element. So what is wanted depends on the state of the page
alone, and stays right after wrong actions:

    press(element)            clicked; never holds of itself, so it comes last
    check(element, state)     a checkbox or radio button is ticked, or not
    fill(element, text)       a field holds the text: click it, select what is wrong, type
    drag(element, to, holds)  an element is dragged to a point, unless `holds`
    key(keys, holds)          keys are pressed, unless `holds`

An element that is out of view is scrolled to; one that is covered or hidden leads nowhere. An agent
never sees any of this: its operator has pixels alone.

Shapes: boxes are left, top, right, bottom, in pixels of the (clipped) screenshot.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from paragone.multimodal.agent._dom_script import LIBRARY
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Element, Operator, OperatorError, Wanted

__all__ = ["DomExercise", "wanted_of"]

_SAYINGS: dict[str, tuple[str, ...]] = {
    "press": ('Click "{name}".', 'Next is "{name}".'),
    "check": ('Tick "{name}".', '"{name}" must be ticked.'),
    "uncheck": ('Untick "{name}".', '"{name}" must not be ticked.'),
    "focus": ('Click the field "{name}".', 'Go to the field "{name}".'),
    "select": ("Select the wrong text.", "The text is wrong, select it."),
    "type": ('Type into "{name}".', 'Now the text of "{name}".'),
    "drag": ('Drag "{name}".', 'Move "{name}".'),
    "scroll": ("Scroll {direction}.", "It must be further {direction}."),
    "key": ("Press {key}.", "Use the keys {key}."),
}


def wanted_of(found: Mapping[str, Any] | None, words: random.Random) -> Wanted | None:
    """A wanted action of what the library found.

    Args:
        found: With kind, say, name, box, point and the action's own arguments.
        words: Draws the wording of the thought.

    Example:
        >>> found = {"kind": "click", "say": "Go.", "box": [0, 0, 4, 2], "point": [2, 1]}
        >>> wanted_of(found, random.Random(0)).action.point
        (2.0, 1.0)
    """
    if found is None:
        return None
    told = {"name": "", "direction": "", "key": "", **found}
    sayings = _SAYINGS.get(told["say"], (told["say"].replace("{", "{{").replace("}", "}}"),))
    thought = words.choice(sayings).format_map(told)
    arguments: dict[str, Any] = {}
    if told.get("point") is not None:
        arguments["start_box"] = tuple(float(x) for x in told["point"])
    if told.get("end") is not None:
        arguments["end_box"] = tuple(float(x) for x in told["end"])
    for name in ("content", "key", "direction"):
        if found.get(name):
            arguments[name] = found[name]
    box = told.get("box")
    action = Action(told["kind"], arguments, thought=thought)
    return Wanted(action, None if box is None else (box[0], box[1], box[2], box[3]))


def _graded(found: Any) -> float | None:
    """A page's reward as a number from 0 to 1; None while it goes on."""
    if found is None:
        return None
    if not isinstance(found, bool | int | float) or math.isnan(found):
        raise OperatorError(f"the page's reward is {found!r}; a number from 0 to 1, or null")
    return min(max(float(found), 0.0), 1.0)


class DomExercise:
    """An exercise whose judge and teacher are a page's own DOM.

    Args:
        browser: A `Browser` with the page open.
        instruction: What is to be done.
        oracle: Body of a function of JavaScript that returns the goals, or null; it sees the
            library and `instruction`.
        reward: Body of a function that returns null while the exercise goes on, then 0 to 1.
        clip: Part of the page that an agent sees, in CSS pixels.
        seed: Decides the wordings of thoughts.
        argument: What the bodies see as `given`.
    """

    def __init__(
        self,
        browser: Any,
        instruction: str,
        *,
        oracle: str,
        reward: str,
        clip: tuple[float, float, float, float] | None = None,
        seed: int = 0,
        argument: Any = None,
    ) -> None:
        self.instruction = instruction
        self.operator: Operator = browser.operator(clip=clip)
        self._browser = browser
        self._ask = {"clip": clip, "instruction": instruction, "given": argument}
        self._oracle = f"(ask) => {{{LIBRARY}\nreturn next((() => {{{oracle}}})());}}"
        self._reward = f"(ask) => {{const given = ask.given; {reward}}}"
        self._elements = f"(ask) => {{{LIBRARY}\nreturn everything();}}"
        self._state = (
            f"(ask) => {{{LIBRARY}\nconst reward = (() => {{{reward}}})();\n"
            f"return reward === null ? [null, next((() => {{{oracle}}})()), everything()]"
            " : [reward, null, []];}"
        )
        self._seed = seed
        self._asked = 0

    def reward(self) -> float | None:
        """The page's own reward; None while it goes on."""
        return _graded(self._browser.evaluate(self._reward, self._ask))

    def wanted(self) -> Wanted | None:
        """What is right to do now; None where no action leads to success."""
        found = self._browser.evaluate(self._oracle, self._ask)
        self._asked += 1
        return wanted_of(found, random.Random(self._seed * 1009 + self._asked))

    def elements(self) -> tuple[Element, ...]:
        """What is seen now: widgets with their labels, lines of text, and shapes."""
        found = self._browser.evaluate(self._elements, self._ask)
        return tuple(Element(text, role, tuple(box)) for text, role, box in found)

    def state(self) -> tuple[float | None, Wanted | None, tuple[Element, ...]]:
        """`reward()`, `wanted()` and `elements()` by one question to the page."""
        reward, found, elements = self._browser.evaluate(self._state, self._ask)
        self._asked += 1
        return (
            _graded(reward),
            wanted_of(found, random.Random(self._seed * 1009 + self._asked)),
            tuple(Element(text, role, tuple(box)) for text, role, box in elements),
        )

    def close(self) -> None:
        """Ends the exercise; the browser's page stays."""
        self.operator.close()
