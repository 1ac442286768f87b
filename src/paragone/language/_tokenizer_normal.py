"""SentencePiece's normaliser: what happens to a text before it is cut into pieces.

Rules are a map from strings to strings, kept in the model as a double array; the longest match
wins, and user symbols are never changed. Then come the flags: a space is put in front, runs of
spaces become one, spaces become U+2581. Each character of the result remembers the place in the
text that it came from.

Cost: O(n), a dictionary look-up a character where no rule applies.

References:
    Kudo and Richardson (2018), SentencePiece, arXiv:1808.06226, section 3.2.
    Yata (2008), Darts-clone: layout of the units of a double array.
"""

from __future__ import annotations

import re
import struct

from paragone.language._tokenizer_proto import USER, Pieces

__all__ = ["SPACE", "Normalizer", "longest_first", "valid_text"]


SPACE = "\u2581"
"""How a space is written in pieces."""

_HALVES = re.compile("[\ud800-\udfff]")
_SPACES = re.compile(f"\\A |  |[ {SPACE}]\\Z")


def longest_first(words: list[str]) -> re.Pattern[str] | None:
    """A pattern of any of the words, the longest that fits; None without words."""
    ordered = sorted(filter(None, words), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def valid_text(text: str) -> str:
    """The text with U+FFFD for each half of a character that stands alone."""
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


class _Rules:
    """Longest-prefix replacement by a precompiled character map."""

    def __init__(self, blob: bytes) -> None:
        (size,) = struct.unpack_from("<I", blob)
        self.units = struct.unpack_from(f"<{size // 4}I", blob, 4)
        self.strings = blob[4 + size :]
        self.known: dict[str, bool] = {}

    def starts(self, char: str) -> bool:
        """Whether some rule begins with this character."""
        found = self.known.get(char)
        if found is None:
            found = self.known[char] = self._walk(char, partial=True) is not None
        return found

    def match(self, text: str, at: int) -> tuple[str, int] | None:
        """(replacement, characters) of the longest rule at a place."""
        return self._walk(text[at : at + 32], partial=False)

    def _walk(self, text: str, partial: bool) -> tuple[str, int] | None:
        units, best = self.units, None
        node = _offset(units[0])
        for count, char in enumerate(text, 1):
            for byte in char.encode():
                node ^= byte
                unit = units[node]
                if unit & 0x800000FF != byte:
                    return best
                node ^= _offset(unit)
            if partial:
                return "", count
            if unit >> 8 & 1:
                start = units[node] & 0x7FFFFFFF
                end = self.strings.index(b"\0", start)
                best = self.strings[start:end].decode(), count
        return best


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 1 << 9) >> 6)


class Normalizer:
    """Normalises texts as a model says.

    Args:
        model: Flags, rules and user symbols.
    """

    def __init__(self, model: Pieces) -> None:
        self.model = model
        self.rules = _Rules(model.charsmap) if model.charsmap else None
        self.user = longest_first(
            [p for p, kind in zip(model.pieces, model.types, strict=True) if kind == USER]
        )
        self.simple = not (self.rules or self.user or model.whitespace_as_suffix)
        self.space = SPACE if model.escape_whitespaces else " "

    def _units(self, text: str) -> list[tuple[str, int]]:
        """(what it becomes, characters taken) along the text."""
        if self.rules is None and self.user is None:
            return [(char, 1) for char in text]
        out, at = [], 0
        rules, user = self.rules, self.user
        while at < len(text):
            found = user.match(text, at) if user else None
            if found:
                out.append((found.group(), len(found.group())))
            elif rules is not None and rules.starts(text[at]):
                out.append(rules.match(text, at) or (text[at], 1))
            else:
                out.append((text[at], 1))
            at += out[-1][1]
        return out

    def __call__(self, text: str, prefix: bool = True) -> tuple[str, list[int]]:
        """Returns the normalised text and where each of its characters began, the end included.

        Args:
            text: Any text.
            prefix: Whether a space goes in front where the model has one.
        """
        model, space = self.model, self.space
        if self.simple and not (model.remove_extra_whitespaces and _SPACES.search(text)):
            if not text:
                return "", [0]
            normal, origin = text.replace(" ", space), list(range(len(text) + 1))
            if model.add_dummy_prefix and prefix:
                return space + normal, [0, *origin]
            return normal, origin
        trim, units = model.remove_extra_whitespaces, self._units(text)
        first = place = 0
        if trim:
            while first < len(units) and units[first][0] == " ":
                place += units[first][1]
                first += 1
        if first == len(units):
            return "", [place]
        out: list[str] = []
        origin: list[int] = []
        dummy = model.add_dummy_prefix and prefix
        if dummy and not model.whitespace_as_suffix:
            out.append(space)
            origin.append(place)
        after_space = trim
        for word, taken in units[first:]:
            if after_space:
                word = word.lstrip(" ")
            if word:
                out.append(word.replace(" ", space))
                origin += [place] * len(word)
                after_space = trim and word[-1] == " "
            place += taken
        normal = "".join(out)
        if trim:
            kept = len(normal.rstrip(space))
            place = origin[kept] if kept < len(normal) else place
            normal, origin = normal[:kept], origin[:kept]
        if dummy and model.whitespace_as_suffix:
            normal += space
            origin.append(place)
        return normal, [*origin, place]
