r"""The grammar of actions: what a policy writes, read without running a word of it.

A model answers in text, and whoever controls a web page can steer that text. So it is read by a
tokenizer that knows literals and nothing else, every name and value is checked against the action
space, and what does not fit is one typed error, `ActionError`, that says where and what was
expected. The two directions are inverse:

$$ \text{parse}(\text{format}(a)) = a, \qquad
   \text{format} \circ \text{parse} \circ \text{format} \circ \text{parse}
   = \text{format} \circ \text{parse} . $$

The dialects are those of the published models. They differ in how a point is written and in which
space it lies (`Dialect.space`, what `Coordinates` takes as `model`):

| dialect     | a click                                                      | space         |
|-------------|--------------------------------------------------------------|---------------|
| ui-tars-1.0 | `click(start_box='<|box_start|>(10,20)<|box_end|>')`         | relative-1000 |
| ui-tars-1.5 | `click(start_box='(10,20)')`                                 | resized       |
| doubao      | `click(point='<point>10 20</point>')`                        | relative-1000 |
| ui-tars-2   | `<function=click><parameter=point><point>10 20</point>…`     | relative-1000 |

Reading is tolerant where no meaning is lost: every form of point in every dialect, either kind of
quotes, quotes and brackets and line breaks and "Action:" inside a content, a missing last bracket,
a fullwidth colon, `<think>` marks, code fences and special tokens around the calls.

Cost: linear in the length; some 30 microseconds for an answer of 100 characters.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 4.1 and table 1 (the action space).
    Wang et al. (2025), UI-TARS-2, arXiv:2509.02544 (function calls).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from paragone.multimodal.agent._action_space import (
    ACTIONS,
    Action,
    ActionError,
    Arguments,
    checked,
)
from paragone.multimodal.agent._dialects import read_text, write_text
from paragone.multimodal.agent._dialects_functions import read_functions, write_functions
from paragone.multimodal.agent.coordinates import Space

__all__ = [
    "ACTIONS",
    "DIALECTS",
    "Action",
    "ActionError",
    "Arguments",
    "Dialect",
    "format_action",
    "parse",
]

_POINTS = MappingProxyType(
    {"start_box": "point", "drag.start_box": "start_point", "end_box": "end_point"}
)
_TAGS = MappingProxyType({2: "<point>{} {}</point>", 4: "<bbox>{} {} {} {}</bbox>"})


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a family of models writes its actions.

    Attributes:
        name: Key in `DIALECTS`.
        space: In which its points lie; what `Coordinates` takes as `model`.
        keys: Its names of arguments, where they are not those of the action space.
        forms: Of points (2) and boxes (4), with "{}" for each number.
        functions: Whether actions are function calls in angle brackets.
    """

    name: str
    space: Space
    keys: Mapping[str, str]
    forms: Mapping[int, str]
    functions: bool = False


DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        one.name: one
        for one in (
            Dialect(
                "ui-tars-1.0", "relative-1000", MappingProxyType({}),
                MappingProxyType({2: "<|box_start|>({},{})<|box_end|>",
                                  4: "<|box_start|>({},{},{},{})<|box_end|>"}),
            ),
            Dialect(
                "ui-tars-1.5", "resized", MappingProxyType({}),
                MappingProxyType({2: "({},{})", 4: "({},{},{},{})"}),
            ),
            Dialect("doubao", "relative-1000", _POINTS, _TAGS),
            Dialect("ui-tars-2", "relative-1000", _POINTS, _TAGS, functions=True),
        )
    }
)  # fmt: skip
"""The dialects that `parse` and `format_action` know."""


def parse(text: str, dialect: str = "ui-tars-1.5") -> list[Action]:
    r"""The actions of a model's answer; points stay in the model's space.

    Prefer it to the parsers of UI-TARS: theirs run parts of the answer as Python, and break at
    quotes, brackets or "Action:" inside a typed text.

    Args:
        text: The whole answer, with or without thoughts.
        dialect: A key of `DIALECTS`.

    Returns:
        At least one action. Several after one thought all carry it. `type` with a point becomes a
        click and a typing, `scroll` from one point to another a drag.

    Raises:
        ActionError: A text that is no action of the dialect.
        ValueError: An unknown dialect.

    Example:
        >>> parse(r"Action: type(content='it\'s\n')")[0].arguments["content"]
        "it's\n"
    """
    known = _dialect(dialect)
    if not isinstance(text, str):
        raise ActionError(f"an answer of type {type(text).__name__}: expected a text")
    return (read_functions if known.functions else read_text)(text)


def format_action(
    action: Action | Sequence[Action], dialect: str = "ui-tars-1.5", *, digits: int | None = None
) -> str:
    """The text of an action or of several, which `parse` reads back exactly.

    Args:
        action: With points in the model's space.
        dialect: A key of `DIALECTS`.
        digits: Decimals that are kept of points: 0 as the published models write them, None (the
            exact inverse) for all.

    Returns:
        Thoughts and calls; consecutive actions with the same thought share it.

    Raises:
        ActionError: No action at all, or one that the action space does not have.
        ValueError: An unknown dialect.

    Example:
        >>> format_action(Action("click", {"start_box": (10, 20)}, "The button."))
        "Thought: The button.\\nAction: click(start_box='(10,20)')"
    """
    known = _dialect(dialect)
    several = [action] if isinstance(action, Action) else list(action)
    if not several:
        raise ActionError("nothing to write: expected at least one action")
    write = write_functions if known.functions else write_text
    exact = [_canonical(one) for one in several]
    if digits is not None:
        exact = [one.moved(lambda x, y: (round(x, digits), round(y, digits))) for one in exact]
    return write(exact, known.keys, known.forms)


def _canonical(action: Action) -> Action:
    texts = (action.thought, action.reflection, action.summary)
    if not all(isinstance(text, str) for text in texts):
        raise ActionError(f"the thoughts of {action.name} are {texts!r:.200}: expected texts")
    found = checked(action.name, action.arguments)
    if len(found) != 1 or found[0].name != action.name:
        forms = ", then ".join(f"{one.name}({', '.join(one.arguments)})" for one in found)
        raise ActionError(
            f"{action.name}({', '.join(action.arguments)}) is a shorthand: expected {forms}"
        )
    return dataclasses.replace(action, arguments=found[0].arguments)


def _dialect(name: str) -> Dialect:
    if name not in DIALECTS:
        raise ValueError(f"dialect={name!r}: expected one of {', '.join(DIALECTS)}")
    return DIALECTS[name]
