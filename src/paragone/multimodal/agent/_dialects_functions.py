r"""Function calls in angle brackets: the dialect of UI-TARS-2.

    answer   = block (blank block)*
    block    = [<think> thought </think>] <seed:tool_call> function* </seed:tool_call>
    function = <function=name> (<parameter=name> value </parameter>)* </function>

A value is taken as it stands up to its closing mark: nothing in it is unescaped, trailing line
feeds included. So that any value and any thought can be written and read back, a mark of this
dialect inside one gets a backslash behind its `<` (`<\/parameter>`), as closing script marks do in
pages. A reflection and a summary stand in the thought, with the markers of the other dialects.

Read as well: marks with the suffix `_never_used_…`, names as attributes (`<function name="…">`),
the other think marks, thoughts without any, and calls as JSON (`{"name": …, "arguments": …}`).

Cost: linear in the length.

References:
    Wang et al. (2025), UI-TARS-2, arXiv:2509.02544; the formats of the package `ui-tars` 0.5.1.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from paragone.multimodal.agent import _literals
from paragone.multimodal.agent._action_space import Action
from paragone.multimodal.agent._dialects import (
    Sections,
    assembled,
    numeral,
    read_sections,
    read_text,
    sections_of,
    together,
    write_sections,
)

__all__ = ["read_functions", "write_functions"]

THINKS = r"\w*[tT]h(?:ink|ought)\w*"
START = re.compile(r"<(?:seed:tool_call\w*+>|function\w*+[\s=])")
CALL = re.compile(r"<seed:tool_call\w*+>")
CALL_END = re.compile(r"</seed:tool_call\w*+>")
NAMED = r"\w*+(?:\s*+=\s*+|\s++name\s*+=\s*+)[\"']?([\w.]++)[\"']?"
FUNCTION = re.compile(rf"<function{NAMED}\s*+>")
PARAMETER = re.compile(rf"<parameter{NAMED}(?:\s++string\s*+=\s*+[\"']?\w++[\"']?)?\s*+>")
PARAMETER_END = re.compile(r"</parameter\w*+\s*+>")
ANY_END = re.compile(r"</[\w:]++\s*+>")
THINK_OPEN = re.compile(rf"\s*+<{THINKS}>")
THINK_CLOSE = re.compile(rf"</{THINKS}>")
NOISE = re.compile(r"(?:\s|</(?!seed:)[\w:]++>|<\|\w++\|>|\[EOS\])*+")
IN_THOUGHTS = re.compile(rf"<(\\*+)(?=/?(?:{THINKS}|seed:tool_call|function))")
IN_VALUES = re.compile(r"<(\\*+)(?=/parameter)")


def read_functions(text: str) -> list[Action]:
    """The actions of an answer.

    Args:
        text: The whole answer.

    Returns:
        At least one.

    Raises:
        ActionError: No action, or something that is none.
    """
    start = START.search(text)
    if not start:
        at = _literals.spaces(text, 0)
        return _read_objects(text, at) if text[at : at + 1] in ("{", "[") else read_text(text)
    found: list[Action] = []
    at = 0
    while start:
        sections = _read_head(text[at : start.start()])
        calls, at = _read_block(text, start.start())
        found += together(calls, sections)
        start = START.search(text, at)
    rest = NOISE.match(text, at)
    if rest and rest.end() < len(text):
        raise _literals.fail(text, rest.end(), "<seed:tool_call> or the end of the text")
    if not found:
        raise _literals.fail(text, at, "at least one function, such as <function=wait></function>")
    return found


def write_functions(
    actions: Iterable[Action], keys: Mapping[str, str], forms: Mapping[int, str]
) -> str:
    """An answer that `read_functions` reads back exactly.

    Args:
        actions: Those with the same thought in a row share it.
        keys: The dialect's names of `start_box` and `end_box`.
        forms: Of points (2) and boxes (4), with "{}" for each number.

    Returns:
        The text.
    """
    blocks = []
    for sections, group in itertools.groupby(actions, sections_of):
        head = _hidden(write_sections(sections, bare=True), IN_THOUGHTS)
        calls = "\n".join(_write_function(one, keys, forms) for one in group)
        think = f"<think>{head}</think>\n" if head else ""
        blocks.append(f"{think}<seed:tool_call>\n{calls}\n</seed:tool_call>")
    return "\n".join(blocks)


def _hidden(text: str, marks: re.Pattern[str]) -> str:
    return marks.sub(lambda mark: f"<\\{mark.group(1)}", text)


def _bared(text: str, marks: re.Pattern[str]) -> str:
    return marks.sub(lambda mark: f"<{mark.group(1)[1:]}", text)


def _read_head(head: str) -> Sections:
    opening = THINK_OPEN.match(head)
    begin = opening.end() if opening else 0
    closing = THINK_CLOSE.search(head, begin)
    inside = head[begin : closing.start()] if closing else head[begin:]
    outside = head[closing.end() :].strip() if closing else ""
    if outside:
        inside = f"{inside.rstrip()}\n{outside}"
    return read_sections(_bared(inside, IN_THOUGHTS))


def _read_block(text: str, at: int) -> tuple[list[Action], int]:
    """Functions up to the end of a tool call, and the place behind it."""
    found: list[Action] = []
    opening = CALL.match(text, at)
    at = opening.end() if opening else at
    while True:
        noise = NOISE.match(text, at)
        at = noise.end() if noise else at
        function = FUNCTION.match(text, at)
        if function:
            given, after = _read_parameters(text, function.end(), function.group(1))
            found += assembled(text, at, function.group(1), given)
            at = after
        elif closing := CALL_END.match(text, at):
            return found, closing.end()
        elif text.startswith("{", at):
            one, after = _literals.literal(text, at)
            found += _object(text, at, one)
            at = after
        elif at == len(text) or (found and CALL.match(text, at)) or not opening:
            return found, _moved_on(text, at, bool(found))
        else:
            raise _literals.fail(text, at, "<function=name> or </seed:tool_call>")


def _moved_on(text: str, at: int, found: bool) -> int:
    if not found:
        raise _literals.fail(text, at, "<function=name>")
    return at


def _read_parameters(text: str, at: int, name: str) -> tuple[dict[str, Any], int]:
    given: dict[str, Any] = {}
    while True:
        at = _literals.spaces(text, at)
        parameter = PARAMETER.match(text, at)
        if parameter:
            if parameter.group(1) in given:
                raise _literals.fail(text, at, f"{parameter.group(1)} of {name} once, not twice")
            given[parameter.group(1)], at = _read_value(text, *parameter.span(), parameter.group(1))
        elif CALL_END.match(text, at) or at == len(text) or START.match(text, at):
            return given, at
        elif closing := ANY_END.match(text, at):
            return given, closing.end()
        else:
            raise _literals.fail(text, at, f"<parameter=name>, or </function> for {name}")


def _read_value(text: str, at: int, begin: int, name: str) -> tuple[str, int]:
    closing = PARAMETER_END.search(text, begin)
    if not closing:
        raise _literals.fail(text, at, f"</parameter> for {name}")
    value = _bared(text[begin : closing.start()], IN_VALUES)
    return value if name in ("content", "text") else value.strip(), closing.end()


def _read_objects(text: str, at: int) -> list[Action]:
    read, after = _literals.literal(text, at)
    rest = NOISE.match(text, after)
    if rest and rest.end() < len(text):
        raise _literals.fail(text, rest.end(), "the end of the text")
    several = read if isinstance(read, list) else [read]
    found = [action for one in several for action in _object(text, at, one)]
    if not found:
        raise _literals.fail(text, at, "at least one function call")
    return found


def _object(text: str, at: int, call: Any) -> list[Action]:
    expected = 'a function call such as {"name": "click", "arguments": {"point": "10 20"}}'
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise _literals.fail(text, at, expected)
    given = call.get("arguments")
    if isinstance(given, str):
        given = _literals.literal(given, 0)[0] if given.strip() else {}
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise _literals.fail(text, at, expected)
    return assembled(text, at, call["name"], given)


def _write_function(action: Action, keys: Mapping[str, str], forms: Mapping[int, str]) -> str:
    lines = [f"<function={action.name}>"]
    for argument, one in action.arguments.items():
        key = keys.get(f"{action.name}.{argument}", keys.get(argument, argument))
        if argument.endswith("_box"):
            one = forms[len(one)].format(*map(numeral, one))
        elif argument == "time":
            one = numeral(one)
        else:
            one = _hidden(one, IN_VALUES)
        lines.append(f"<parameter={key}>{one}</parameter>")
    return "\n".join([*lines, "</function>"])
