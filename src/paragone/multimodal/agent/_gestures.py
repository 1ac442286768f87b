"""The actions of a browser: one function for each, on Playwright's page.

A text of at most 500 characters is typed key by key; a longer one is put in as a paste would be,
line by line. A point may lie on the right or bottom edge, where the last pixel is meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from paragone.multimodal.agent._keys import browser_keys
from paragone.multimodal.agent.actions import Action, ActionError
from paragone.multimodal.agent.contract import Point

__all__ = ["DIRECTIONS", "GESTURES", "Reach", "number", "scrolled_by", "texts"]

DIRECTIONS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}
TYPED = 500
PRESSED = 0.6
LONGEST = 60.0

Gesture = Callable[[Any, Action, "Reach"], Callable[[], None]]


class Reach(NamedTuple):
    """What a gesture can reach.

    Args:
        css: From pixels of the screenshot to CSS pixels of the view.
        seen: Width and height of the screenshot.
        ratio: Pixels to one CSS pixel.
    """

    css: Callable[[float, float], Point]
    seen: tuple[int, int]
    ratio: float

    def at(self, action: Action, name: str = "start_box") -> Point:
        """Returns an argument that is a point, or a box of which the centre is meant.

        Raises:
            ActionError: It is missing, no point, or outside of what is seen.
        """
        box = action.arguments.get(name)
        if (
            not isinstance(box, tuple | list)
            or len(box) not in (2, 4)
            or not all(isinstance(one, int | float) for one in box)
        ):
            raise ActionError(f"{action.name} needs {name}, a point or a box; got {box!r}")
        return self.css((box[0] + box[-2]) / 2, (box[1] + box[-1]) / 2)


def texts(action: Action, name: str) -> str:
    """Returns an argument that is a text.

    Raises:
        ActionError: It is missing, or no text.
    """
    value = action.arguments.get(name)
    if not isinstance(value, str):
        raise ActionError(f"{action.name} needs {name}, a text; got {value!r}")
    return value


def number(action: Action, name: str, default: float, limit: float) -> float:
    """Returns an argument that is a number from 0 to a limit.

    Raises:
        ActionError: It is no number, or out of bounds.
    """
    value = action.arguments.get(name)
    if value in (None, ""):
        return default
    try:
        read = float(str(value))
    except ValueError:
        read = -1.0
    if not 0 <= read <= limit:
        raise ActionError(f"{action.name}: {name} is a number from 0 to {limit:g}, got {value!r}")
    return read


def scrolled_by(action: Action, seen: tuple[int, int]) -> tuple[float, float]:
    """Returns how many pixels to scroll in x and y: `amount`, or half of what is seen.

    Raises:
        ActionError: A direction that is none of the four.
    """
    direction = texts(action, "direction").strip().lower()
    if direction not in DIRECTIONS:
        raise ActionError(f"scroll: direction is up, down, left or right, got {direction!r}")
    x, y = DIRECTIONS[direction]
    half = (seen[0] if x else seen[1]) / 2
    amount = number(action, "amount", half, 100_000.0)
    return x * amount, y * amount


def _click(page: Any, action: Action, reach: Reach) -> Callable[[], None]:
    x, y = reach.at(action)
    return lambda: page.mouse.click(x, y)


def _double(page: Any, action: Action, reach: Reach) -> Callable[[], None]:
    x, y = reach.at(action)
    return lambda: page.mouse.dblclick(x, y)


def _right(page: Any, action: Action, reach: Reach) -> Callable[[], None]:
    x, y = reach.at(action)
    return lambda: page.mouse.click(x, y, button="right")


def _long(page: Any, action: Action, reach: Reach) -> Callable[[], None]:
    x, y = reach.at(action)
    return lambda: page.mouse.click(x, y, delay=PRESSED * 1000)


def _drag(page: Any, action: Action, reach: Reach) -> Callable[[], None]:
    start, end = reach.at(action), reach.at(action, "end_box")

    def drag() -> None:
        page.mouse.move(*start)
        page.mouse.down()
        try:
            page.mouse.move(*end, steps=8)
        finally:
            page.mouse.up()

    return drag


def _hotkey(page: Any, action: Action, reach: Reach) -> Callable[[], None]:
    keys = browser_keys(texts(action, "key"))
    return lambda: page.keyboard.press(keys)


def _type(page: Any, action: Action, reach: Reach) -> Callable[[], None]:
    text = texts(action, "content").replace("\r\n", "\n")
    parts = [part for part in re.split(r"([\n\t])", text) if part]
    keys = {"\n": "Enter", "\t": "Tab"}

    def write() -> None:
        for part in parts:
            if part in keys:
                page.keyboard.press(keys[part])
            elif len(text) <= TYPED:
                page.keyboard.type(part)
            else:
                page.keyboard.insert_text(part)

    return write


def _scroll(page: Any, action: Action, reach: Reach) -> Callable[[], None]:
    right, down = (one / reach.ratio for one in scrolled_by(action, reach.seen))
    middle = (reach.seen[0] / 2, reach.seen[1] / 2)
    x, y = reach.at(action) if "start_box" in action.arguments else reach.css(*middle)

    def scroll() -> None:
        page.mouse.move(x, y)
        page.mouse.wheel(right, down)

    return scroll


def _back(page: Any, action: Action, reach: Reach) -> Callable[[], None]:
    return lambda: page.go_back(wait_until="commit")


GESTURES: Mapping[str, Gesture] = {
    "click": _click, "left_double": _double, "right_single": _right, "long_press": _long,
    "drag": _drag, "hotkey": _hotkey, "type": _type, "scroll": _scroll, "press_back": _back,
}  # fmt: skip
