"""The action space: which actions there are, with which arguments, of which values.

Shapes: a point is two numbers, a box four.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = [
    "ACTIONS",
    "DIRECTIONS",
    "Action",
    "ActionError",
    "Arguments",
    "argument_name",
    "checked",
]

FARTHEST = 100_000.0
LONGEST_WAIT = 3600.0
DIRECTIONS = ("down", "up", "left", "right")
"""Of `scroll`."""


class ActionError(ValueError):
    """A text that is no action of the dialect, or an action that an operator does not have."""


@dataclasses.dataclass(frozen=True)
class Action:
    """A thought and what is done.

    Args:
        name: Such as "click", "type" or "finished".
        arguments: By their names in UI-TARS: `start_box` and `end_box` are (x, y) or
            (left, top, right, bottom); `content`, `key`, `direction`, `app_name` are texts; `time`
            is a number of seconds.
        thought: What led to it.
        reflection: What was found wrong before.
        summary: What was done, in words.
    """

    name: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    thought: str = ""
    reflection: str = ""
    summary: str = ""

    @property
    def point(self) -> tuple[float, float] | None:
        """The centre of `start_box`; None for an action without one."""
        box = self.arguments.get("start_box")
        if box is None:
            return None
        return ((box[0] + box[-2]) / 2, (box[1] + box[-1]) / 2)

    def moved(self, to: Callable[[float, float], tuple[float, float]]) -> Action:
        """The same action with every point carried by a function of x and y."""
        carried = {}
        for name, value in self.arguments.items():
            if name.endswith("_box"):
                pairs = [to(*value[at : at + 2]) for at in range(0, len(value), 2)]
                carried[name] = tuple(one for pair in pairs for one in pair)
            else:
                carried[name] = value
        return dataclasses.replace(self, arguments=carried)


class Arguments(NamedTuple):
    """What an action takes.

    Attributes:
        required: Names of arguments that must be there.
        optional: Names of those that may be.
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


ACTIONS: Mapping[str, Arguments] = MappingProxyType(
    {
        "click": Arguments(("start_box",)),
        "left_double": Arguments(("start_box",)),
        "right_single": Arguments(("start_box",)),
        "drag": Arguments(("start_box", "end_box")),
        "hotkey": Arguments(("key",)),
        "type": Arguments(("content",)),
        "scroll": Arguments(("direction",), ("start_box",)),
        "wait": Arguments((), ("time",)),
        "finished": Arguments((), ("content",)),
        "call_user": Arguments((), ("content",)),
        "long_press": Arguments(("start_box",), ("time",)),
        "press_back": Arguments(),
        "press_home": Arguments(),
        "open_app": Arguments(("app_name",)),
    }
)
"""The whole action space of desktops and phones, by the names that the prompts use."""

OTHER_NAMES = {
    "left_single": "click",
    "left_click": "click",
    "double_click": "left_double",
    "right_click": "right_single",
}
OTHER_ARGUMENTS = {
    "point": "start_box",
    "start_point": "start_box",
    "end_point": "end_box",
    "text": "content",
    "hotkey": "key",
}


def argument_name(argument: str) -> str:
    """The argument's name in the action space, for one that a dialect or a model may use.

    Args:
        argument: As written.

    Returns:
        Such as "start_box" for "point".
    """
    return OTHER_ARGUMENTS.get(argument, argument)


def checked(name: str, arguments: Mapping[str, Any], where: str = "") -> list[Action]:
    """Actions whose names and values are those of the action space.

    Two forms are shorthands and become actions of their own: `type` with a point clicks there
    first, and `scroll` from one box to another (the older phones' form) is a drag.

    Args:
        name: Of the action.
        arguments: By the names of the action space; values as read.
        where: Place in the text, for the message.

    Returns:
        One action, or a click and a typing.

    Raises:
        ActionError: An unknown action, a missing or unknown argument, or a value out of bounds.
    """
    name = OTHER_NAMES.get(name, name)
    if name not in ACTIONS:
        raise ActionError(
            f"{where}unknown action {_shown(name)}: expected one of {', '.join(ACTIONS)}"
        )
    given = dict(arguments)
    if name == "scroll" and "end_box" in given:
        name = "drag"
        given.pop("direction", None)
    first = given.pop("start_box", None) if name == "type" else None
    space = ACTIONS[name]
    for argument in given:
        if argument not in (*space.required, *space.optional):
            raise ActionError(
                f"{where}{name} has no argument {_shown(argument)}: expected {_wanted(space)}"
            )
    for argument in space.required:
        if argument not in given:
            raise ActionError(f"{where}{name} lacks {argument}: expected {_wanted(space)}")
    found = Action(name, {one: value(name, one, given[one], where) for one in given})
    if first is None:
        return [found]
    return [Action("click", {"start_box": value("click", "start_box", first, where)}), found]


def value(name: str, argument: str, given: Any, where: str = "") -> Any:
    """A value as the action space has it, or an `ActionError`."""
    if argument.endswith("_box"):
        return _box(f"{where}{argument} of {name}", given)
    if argument == "time":
        return _seconds(f"{where}time of {name}", given)
    if not isinstance(given, str):
        raise ActionError(f"{where}{argument} of {name} is {_shown(given)}: expected a text")
    if argument == "content":
        return given
    given = given.strip()
    if argument == "direction":
        given = given.lower()
        if given not in DIRECTIONS:
            raise ActionError(
                f"{where}direction of {name} is {_shown(given)}: "
                f"expected one of {', '.join(DIRECTIONS)}"
            )
    if not given:
        raise ActionError(f"{where}{argument} of {name} is empty: expected a text")
    return given


def _box(where: str, given: Any) -> tuple[float, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) not in (2, 4):
        raise ActionError(f"{where} is {_shown(given)}: expected x and y, or two corners")
    return tuple(_number(where, one, FARTHEST, "pixels") for one in given)


def _seconds(where: str, given: Any) -> float:
    found = _number(where, given, LONGEST_WAIT, "seconds")
    if found < 0:
        raise ActionError(f"{where} is {found}: expected 0 or more seconds")
    return found


def _number(where: str, given: Any, most: float, unit: str) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise ActionError(f"{where} is {_shown(given)}: expected a number")
    if not abs(given) <= most or not math.isfinite(given):
        raise ActionError(f"{where} is {_shown(given)}: expected at most {most:,.0f} {unit}")
    return float(given) + 0.0


def _wanted(space: Arguments) -> str:
    words = [*space.required, *(f"{one} (optional)" for one in space.optional)]
    return ", ".join(words) or "no arguments"


def _shown(given: Any) -> str:
    if isinstance(given, int) and given.bit_length() > 99:
        return f"a whole number of {given.bit_length()} bits"
    shown = repr(given[:60] if isinstance(given, str) else given)
    return shown if len(shown) <= 70 else f"{shown[:70]}…"
