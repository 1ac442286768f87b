r"""Thoughts and calls as text: the dialects of UI-TARS 1.0, 1.5 and Doubao.

    answer  = block (blank block)*
    block   = [Reflection: …] [Thought: …] [Action_Summary: …] Action: call (blank call)*
    call    = name ( argument = literal, … )

A marker counts at the beginning of a line. So that any thought can be written and read back, a line
of a thought that looks like a marker gets a backslash before it, as mail does with dots, and white
space at either end of a thought is kept by a backslash outside of it; texts without these are
written as they are.

Cost: linear in the length.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 4.1; the prompts of the published models.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from paragone.multimodal.agent import _literals
from paragone.multimodal.agent._action_space import (
    ACTIONS,
    OTHER_NAMES,
    Action,
    ActionError,
    argument_name,
    checked,
)

__all__ = [
    "Sections",
    "assembled",
    "numeral",
    "read_sections",
    "read_text",
    "sections_of",
    "split_think",
    "together",
    "write_sections",
    "write_text",
]

WORD_OF_MARKER = re.compile(r"(?:Thought|Reflection|Action_Summary|Action)[ \t]*+[:：]")
MARKER = re.compile(r"^[ \t]*+(Thought|Reflection|Action_Summary|Action)[ \t]*+[:：]", re.M)
STUFFED = re.compile(
    r"^([ \t]*+)(\\*+)(?=(?:Thought|Reflection|Action_Summary|Action)[ \t]*+[:：])", re.M
)
NAME = re.compile(r"([A-Za-z_][\w.]*+)\s*+\(")
KEY = re.compile(r"([A-Za-z_]\w*+)\s*+[=＝]")
BARE = re.compile(r"[^\s,()\[\]{}'\"=<>]++")
NOISE = re.compile(r"(?:[\s;,]|#[^\n]*+|</[\w:]++>|<\|\w++\|>|<(?!/)[\w:]++>|\[EOS\]|```\w*+|`)*+")
GOES_ON = re.compile(
    rf"[\s;,]*+(?:\Z|{NAME.pattern}|Action|Thought|Reflection|[#`]|</|<\||\[EOS\])"
)
MIDDLE = re.compile(r"Action[ \t]*+[:：]\s*+(?=[A-Za-z_][\w.]*+\s*+\()")
THINK = re.compile(r"<(\w*[tT]h(?:ink|ought)\w*)>")


class Sections(NamedTuple):
    """What stands before actions.

    Attributes:
        thought: What led to them.
        reflection: What was found wrong before.
        summary: What was done.
    """

    thought: str = ""
    reflection: str = ""
    summary: str = ""


def read_text(text: str) -> list[Action]:
    """The actions of an answer in one of the textual dialects.

    Args:
        text: The whole answer.

    Returns:
        At least one.

    Raises:
        ActionError: No action, or something that is none.
    """
    think, at = split_think(text)
    found: list[Action] = []
    start = _noise(text, at)
    if _known_call(text, start):
        calls, at = _read_calls(text, start)
        found += together(calls, read_sections(think))
    while not found or at < len(text):
        head, at = _header(text, at)
        calls, at = _read_calls(text, at)
        found += together(calls, read_sections(head, think))
        think = ""
    return found


def write_text(actions: Iterable[Action], keys: Mapping[str, str], forms: Mapping[int, str]) -> str:
    """An answer that `read_text` reads back exactly.

    Args:
        actions: Those with the same thought in a row share it.
        keys: The dialect's names of `start_box` and `end_box`, by the action's name where they
            differ.
        forms: Of points (2) and boxes (4), with "{}" for each number.

    Returns:
        The text.
    """
    blocks = []
    for sections, group in itertools.groupby(actions, sections_of):
        calls = "\n\n".join(_write_call(one, keys, forms) for one in group)
        head = write_sections(sections)
        blocks.append(f"{head}\nAction: {calls}" if head else f"Action: {calls}")
    return "\n\n".join(blocks)


def sections_of(action: Action) -> Sections:
    """What stands before an action."""
    return Sections(action.thought, action.reflection, action.summary)


def together(calls: Sequence[Action], sections: Sections) -> list[Action]:
    """Actions with what stands before them."""
    thought, reflection, summary = sections
    return [
        dataclasses.replace(one, thought=thought, reflection=reflection, summary=summary)
        for one in calls
    ]


def read_sections(head: str, think: str = "") -> Sections:
    """The sections of what stands before an action.

    Args:
        head: With markers; what stands before the first is a thought, if there is no other.
        think: A thought that counts if there is no other.

    Returns:
        Each without its marker and the white space around it.
    """
    marks = [mark for mark in MARKER.finditer(head) if mark.group(1) != "Action"]
    places = [*(mark.start() for mark in marks), len(head)]
    found: dict[str, list[str]] = {}
    for mark, stop in zip(marks, places[1:], strict=True):
        found.setdefault(mark.group(1), []).append(_plain(head[mark.end() : stop]))
    texts = {name: "\n".join(filter(None, several)) for name, several in found.items()}
    if not texts.get("Thought"):
        texts["Thought"] = _plain(think) or _plain(head[: places[0]])
    return Sections(texts["Thought"], texts.get("Reflection", ""), texts.get("Action_Summary", ""))


def write_sections(sections: Sections, bare: bool = False) -> str:
    """Lines that `read_sections` reads back exactly; a thought alone may go without its marker."""
    if bare and not (sections.reflection or sections.summary):
        return _kept(sections.thought)
    named = {
        "Reflection": sections.reflection,
        "Thought": sections.thought,
        "Action_Summary": sections.summary,
    }
    return "\n".join(f"{name}: {_kept(text)}" for name, text in named.items() if text)


def split_think(text: str) -> tuple[str, int]:
    """What stands between think marks at the beginning, and the place behind them."""
    at = _literals.spaces(text, 0)
    mark = THINK.match(text, at)
    stop = text.find(f"</{mark.group(1)}>", mark.end()) if mark else -1
    if not mark or stop < 0:
        return "", 0
    return text[mark.end() : stop], stop + len(mark.group(1)) + 3


def assembled(text: str, at: int, name: str, given: Mapping[str, Any]) -> list[Action]:
    """An action from a name and literals, as any dialect gives them.

    Args:
        text: The whole answer.
        at: Where the call stands.
        name: As written.
        given: Literals by their names as written.

    Returns:
        One action, or two for a shorthand.

    Raises:
        ActionError: No action of the action space.
    """
    values: dict[str, Any] = {}
    for key, one in given.items():
        argument = argument_name(key)
        if argument in values:
            raise _literals.fail(text, at, f"{argument} of {name} once, not twice")
        try:
            if argument.endswith("_box") and isinstance(one, str):
                one = _literals.box(one)[0]
            elif argument == "time" and isinstance(one, str):
                one = _seconds(one)
        except ActionError as error:
            raise ActionError(f"at character {at}: {argument} of {name}: {error}") from None
        values[argument] = one
    return checked(name, values, f"at character {at}: ")


def numeral(number: float) -> str:
    """The shortest text of a number."""
    return str(int(number)) if number == int(number) else repr(number)


def _seconds(text: str) -> float:
    text = text.strip()
    found, at = _literals.number(text, 0)
    if at < len(text):
        raise _literals.fail(text, at, "nothing behind a number of seconds")
    return found


def _kept(thought: str) -> str:
    thought = STUFFED.sub(lambda mark: f"{mark.group(1)}\\{mark.group(2)}", thought)
    if thought.lstrip("\\")[:1].isspace():
        thought = "\\" + thought
    if thought.rstrip("\\")[-1:].isspace():
        thought += "\\"
    return thought


def _plain(thought: str) -> str:
    thought = thought.strip()
    if thought.startswith("\\") and thought.lstrip("\\")[:1].isspace():
        thought = thought[1:]
    if thought.endswith("\\") and thought.rstrip("\\")[-1:].isspace():
        thought = thought[:-1]
    return STUFFED.sub(lambda mark: mark.group(1) + mark.group(2)[1:], thought)


def _noise(text: str, at: int) -> int:
    found = NOISE.match(text, at)
    return found.end() if found else at


def _known_call(text: str, at: int) -> bool:
    name = NAME.match(text, at)
    return bool(name) and (name.group(1) in ACTIONS or name.group(1) in OTHER_NAMES)


def _header(text: str, at: int) -> tuple[str, int]:
    """What stands before the next action, and where its call begins."""
    first = None
    for mark in MARKER.finditer(text, at):
        if mark.group(1) != "Action":
            continue
        first = first or mark
        if NAME.match(text, _noise(text, mark.end())):
            return text[at : mark.start()], mark.end()
    middle = MIDDLE.search(text, at)
    if middle:
        return text[at : middle.start()], middle.end()
    if first:
        raise _literals.fail(text, first.end(), "a call such as click(start_box='(197,525)')")
    raise _literals.fail(text, at, "a line with 'Action:' and a call")


def _read_calls(text: str, at: int) -> tuple[list[Action], int]:
    """Calls, and where they end: at a marker or at the end of the text."""
    found: list[Action] = []
    while True:
        at = _noise(text, at)
        if found and (at == len(text) or _at_marker(text, at)):
            return found, at
        name = NAME.match(text, at)
        if not name:
            raise _literals.fail(text, at, "a call, 'Action:' or the end of the text")
        if not _known_call(text, at):
            checked(name.group(1), {}, f"at character {at}: ")
        given, after = _read_arguments(text, name.end(), name.group(1))
        found += assembled(text, at, name.group(1), given)
        at = after


def _at_marker(text: str, at: int) -> bool:
    if not WORD_OF_MARKER.match(text, at):
        return False
    line = text.rfind("\n", 0, at) + 1
    return not text[line:at].strip(" \t")


def _read_arguments(text: str, at: int, name: str) -> tuple[dict[str, Any], int]:
    given: dict[str, Any] = {}
    space = ACTIONS.get(OTHER_NAMES.get(name, name))
    order = [*space.required, *space.optional] if space else []
    while True:
        at = _literals.spaces(text, at)
        if at == len(text):
            return given, at
        if text[at] in ")）":
            return given, at + 1
        key = KEY.match(text, at)
        if key:
            argument, at = key.group(1), _literals.spaces(text, key.end())
        elif len(given) < len(order):
            argument = order[len(given)]
        else:
            raise _literals.fail(text, at, f"an argument's name and '=', or the end of {name}(…)")
        if argument in given:
            raise _literals.fail(text, at, f"{argument} of {name} once, not twice")
        given[argument], at = _read_value(text, at, argument_name(argument))
        at = _literals.spaces(text, at)
        if at < len(text) and text[at] in ",，":
            at += 1
        elif at < len(text) and text[at] not in ")）":
            raise _literals.fail(text, at, "a comma or a closing bracket")


def _read_value(text: str, at: int, argument: str) -> tuple[Any, int]:
    if text[at : at + 1] in ("'", '"'):
        loose = _may_end if argument == "content" else None
        found, at = _literals.quoted(text, at, loose)
        # The published prompt of Doubao itself has one quote too many here.
        while argument.endswith("_box") and text[at : at + 1] in ("'", '"'):
            at += 1
        return found, at
    if argument.endswith("_box"):
        return _literals.box(text, at, whole=False)
    bare = BARE.match(text, at)
    if not bare or text[bare.end() : bare.end() + 1] in ("(", "[", "'", '"'):
        raise _literals.fail(text, at, "a literal: a text in quotes, a number or a point")
    return bare.group(), bare.end()


def _may_end(text: str, at: int) -> bool:
    at = _literals.spaces(text, at)
    if at == len(text):
        return True
    if text[at] == ",":
        return bool(KEY.match(text, _literals.spaces(text, at + 1)))
    return text[at] in ")）" and bool(GOES_ON.match(text, at + 1))


def _write_call(action: Action, keys: Mapping[str, str], forms: Mapping[int, str]) -> str:
    words = []
    for argument, one in action.arguments.items():
        key = keys.get(f"{action.name}.{argument}", keys.get(argument, argument))
        if argument.endswith("_box"):
            words.append(f"{key}='{forms[len(one)].format(*map(numeral, one))}'")
        elif argument == "time":
            words.append(f"{key}={numeral(one)}")
        else:
            words.append(f"{key}={_literals.text_of(one)}")
    return f"{action.name}({', '.join(words)})"
