r"""Literals: texts, numbers, points and lists read one character after the other, and never run.

A reader stands at a place of a text and takes what it knows from there:

    literal = text | number | list | object | word
    text    = ' … ' | " … "             with \n, \t, \r, \\, \', \", \xHH, \uHHHH, \UHHHHHHHH
    list    = ( literal, … ) | [ literal, … ]
    object  = { text: literal, … }
    box     = number | ( box … ) | [ box … ] | <point> box … </point> | <bbox> … | <|box_start|> …

Nothing else exists: a name with brackets behind it, an operator or an attribute is a typed error.
Models forget to escape quotes, so a text that a person may have written (`content`) ends only at a
quote behind which the call goes on or ends; a text that was escaped rightly ends where it should
under both rules.

Cost: linear in the length; nesting deeper than 8 is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from paragone.multimodal.agent._action_space import ActionError

__all__ = ["box", "fail", "literal", "number", "quoted", "spaces", "text_of"]

DEEPEST = 8
SPACES = re.compile(r"\s*+")
NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,4})?")
GLUED = re.compile(r"[\w.+-]")
WORD = re.compile(r"[A-Za-z_]\w*+")
WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
CHUNK = {"'": re.compile(r"[^'\\]*+"), '"': re.compile(r'[^"\\]*+')}
HEX = {"x": 2, "u": 4, "U": 8}
DIGITS = re.compile(r"[0-9a-fA-F]+")
LOW = re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})")
SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
OPEN = re.compile(r"[(\[]|<point>|<bbox>|<\|box_start\|>")
CLOSE = re.compile(r"[)\]]|</point>|</bbox>|<\|box_end\|>")
PAIRS = {"(": ")", "[": "]", "<point>": "</point>", "<bbox>": "</bbox>",
         "<|box_start|>": "<|box_end|>"}  # fmt: skip
BETWEEN = re.compile(r"[\s,]*+")


def fail(text: str, at: int, expected: str) -> ActionError:
    """An error that says where and what was expected.

    Args:
        text: That is read.
        at: The place.
        expected: In words.

    Returns:
        To be raised.
    """
    found = repr(text[at : at + 30]) if at < len(text) else "the end of the text"
    return ActionError(f"at character {at}, before {found}: expected {expected}")


def spaces(text: str, at: int) -> int:
    """The place behind white space."""
    found = SPACES.match(text, at)
    return found.end() if found else at


def number(text: str, at: int) -> tuple[float, int]:
    """A number and the place behind it.

    Args:
        text: That is read.
        at: Where the number begins.

    Returns:
        The number and the place behind it.

    Raises:
        ActionError: No number of at most 30 digits.
    """
    found = NUMBER.match(text, at)
    if not found or GLUED.match(text, found.end()):
        raise fail(text, at, "a number")
    return float(found.group()), found.end()


def quoted(text: str, at: int, ends: Callable[[str, int], bool] | None = None) -> tuple[str, int]:
    r"""A text in quotes and the place behind it.

    Args:
        text: That is read.
        at: Where the opening quote stands.
        ends: Says whether a text may end before a place; quotes elsewhere belong to the text
            (where no quote will do, the first one ends it). Without it the first quote does.

    Returns:
        The text without its escapes, and the place behind the closing quote.

    Raises:
        ActionError: No closing quote.
    """
    quote, begin = text[at], at
    parts: list[str] = []
    at += 1
    while True:
        chunk = CHUNK[quote].match(text, at)
        stop = chunk.end() if chunk else at
        parts.append(text[at:stop])
        if stop == len(text):
            if ends is not None:
                return quoted(text, begin)
            raise fail(text, begin, f"a closing {quote} for the one here")
        if text[stop] == "\\":
            one, at = _escape(text, stop)
            parts.append(one)
            continue
        at = stop + 1
        if ends is None or ends(text, at):
            return "".join(parts), at
        parts.append(quote)


def text_of(content: str) -> str:
    r"""A text in single quotes that `quoted` reads back exactly.

    Args:
        content: Any text.

    Returns:
        On one line: line feeds, tabs and carriage returns are escaped too.
    """
    for plain, escaped in (
        ("\\", r"\\"),
        ("'", r"\'"),
        ("\n", r"\n"),
        ("\t", r"\t"),
        ("\r", r"\r"),
    ):
        content = content.replace(plain, escaped)
    return f"'{content}'"


def _escape(text: str, at: int) -> tuple[str, int]:
    letter = text[at + 1 : at + 2]
    if letter in SIMPLE:
        return SIMPLE[letter], at + 2
    width = HEX.get(letter, 0)
    digits = text[at + 2 : at + 2 + width]
    if width and len(digits) == width and DIGITS.fullmatch(digits):
        code, after = int(digits, 16), at + 2 + width
        if 0xD800 <= code < 0xDC00 and width == 4:
            low = LOW.match(text, after)
            if low:
                code = 0x10000 + ((code - 0xD800) << 10) + int(low.group(1), 16) - 0xDC00
                after = low.end()
        if code <= 0x10FFFF and not 0xD800 <= code < 0xE000:
            return chr(code), after
    # As in Python, a backslash before any other letter is a backslash.
    return "\\", at + 1


def box(text: str, at: int = 0, whole: bool = True) -> tuple[tuple[float, ...], int]:
    """The numbers of a point or a box in any of their forms.

    Args:
        text: That is read.
        at: Where it begins.
        whole: Whether the rest of the text must belong to it; brackets need not be closed then.

    Returns:
        The numbers and the place behind them.

    Raises:
        ActionError: Other things than numbers, more than 4 of them, brackets that do not match.
    """
    found: list[float] = []
    waiting: list[str] = []
    expected = "a point as numbers, such as (197,525) or <point>197 525</point>"
    while True:
        between = BETWEEN.match(text, at)
        at = between.end() if between else at
        if opening := OPEN.match(text, at):
            waiting.append(PAIRS[opening.group()])
            at = opening.end()
            if len(waiting) > DEEPEST:
                raise fail(text, at, f"at most {DEEPEST} brackets in one another")
        elif waiting and text.startswith(waiting[-1], at):
            at += len(waiting.pop())
        elif whole and at == len(text) and found:
            return tuple(found), at
        elif whole and not waiting and found and (closing := CLOSE.match(text, at)):
            at = closing.end()
        else:
            one, at = _coordinate(text, at, expected)
            found.append(one)
            if len(found) > 4:
                raise fail(text, at, "at most 4 numbers in a box")
        if not whole and not waiting:
            return tuple(found), at


def _coordinate(text: str, at: int, expected: str) -> tuple[float, int]:
    if not NUMBER.match(text, at):
        raise fail(text, at, expected)
    return number(text, at)


def literal(text: str, at: int, deep: int = 0) -> tuple[Any, int]:
    """Any literal and the place behind it.

    Args:
        text: That is read.
        at: Where it begins.
        deep: How many brackets are open around it.

    Returns:
        A str, float, bool, None, list or dict, and the place behind it.

    Raises:
        ActionError: Anything else, or brackets nested more than 8 deep.
    """
    at = spaces(text, at)
    first = text[at : at + 1]
    if deep > DEEPEST:
        raise fail(text, at, f"at most {DEEPEST} brackets in one another")
    if first in CHUNK:
        return quoted(text, at)
    if first in ("(", "["):
        return _items(text, at, deep, PAIRS[first], pairs=False)
    if first == "{":
        return _items(text, at, deep, "}", pairs=True)
    word = WORD.match(text, at)
    if word and word.group() in WORDS:
        return WORDS[word.group()], word.end()
    return number(text, at)


def _items(text: str, at: int, deep: int, close: str, *, pairs: bool) -> tuple[Any, int]:
    found: list[Any] = []
    at = spaces(text, at + 1)
    while not text.startswith(close, at):
        one, at = literal(text, at, deep + 1)
        if pairs:
            at = spaces(text, at)
            if not isinstance(one, str) or not text.startswith(":", at):
                raise fail(text, at, "a text in quotes and a colon")
            value, at = literal(text, at + 1, deep + 1)
            one = (one, value)
        found.append(one)
        at = spaces(text, at)
        if text.startswith(",", at):
            at = spaces(text, at + 1)
        elif not text.startswith(close, at):
            raise fail(text, at, f"a comma or {close}")
    return (dict(found) if pairs else found), at + 1
