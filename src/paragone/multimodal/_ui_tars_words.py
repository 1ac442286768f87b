r"""Words, characters and marks: the vocabulary of `UITars`.

A text is a row of pieces: runs of letters and digits, and symbols. A run that is in the list of
words is one token; any other is spelled, so every text can be read and written. A piece stands
behind a space unless a mark says that it does not; so a word has one token wherever it stands, and
what an instruction quotes can be copied token by token:

$$ \texttt{Enter "Ann" now} \;\to\; \text{Enter} \;\; \text{"} \;\; \langle join \rangle \;\;
   \text{Ann} \;\; \cdot\text{"} \;\; \text{now} . $$

Characters have two tokens, one that begins a piece and one (written with a dot here) that goes on;
those outside the list are bytes of UTF-8. `decode(encode(text))` is the text, always.

Cost: one look-up a piece; a spelled word is as many tokens as it has letters.

References:
    See, Liu and Manning (2017), Get to the point, arXiv:1704.04368, section 2.2 (why copied words
    should be whole).
    Wu et al. (2016), arXiv:1609.08144, section 4.1 (pieces of words for what is rare).

Shapes: none; texts and lists of numbers.
"""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["MARKS", "NAMES", "Words"]

MARKS = (
    "pad", "eos", "instruction", "past", "note", "answer", "find", "say", "reflection", "thought",
    "do", "point", "end", "join", "word",
)  # fmt: skip
"""Tokens that are no text, by their names."""

NAMES = (
    "click", "left_double", "right_single", "drag", "hotkey", "type", "scroll", "wait", "finished",
    "call_user", "long_press", "open_app", "press_home", "press_back",
)  # fmt: skip
"""Actions, one token each."""

_BASE = string.ascii_letters + string.digits + string.punctuation + " \n\t"
_PIECE = re.compile(r"[^\W_]+|\s+|.", re.DOTALL)


class Words:
    """A fixed list of tokens.

    Args:
        words: Runs of letters that are one token each, most frequent first.
        characters: Characters beside ASCII that have tokens of their own.

    Attributes:
        words: As given.
        characters: ASCII and what was given, in order.
        letter_tokens: Tokens that are a character each.

    Raises:
        ValueError: A word twice, or one that is no single run of letters.

    Example:
        >>> words = Words(["Enter", "now"])
        >>> words.decode(words.encode('Enter "Ann" now')), len(words.encode("now Ann"))
        ('Enter "Ann" now', 4)
    """

    def __init__(self, words: Sequence[str] = (), characters: Iterable[str] = ()) -> None:
        self.words = tuple(words)
        self.characters = _BASE + "".join(c for c in dict.fromkeys(characters) if c not in _BASE)
        for word in self.words:
            if not re.fullmatch(r"[^\W_]+", word):
                raise ValueError(f"{word!r} is no word: letters and digits alone are expected")
        self.marks = {name: at for at, name in enumerate(MARKS)}
        self.names = {name: len(MARKS) + at for at, name in enumerate(NAMES)}
        at = len(MARKS) + len(NAMES)
        self._bytes = at
        self._first = {c: at + 256 + i for i, c in enumerate(self.characters)}
        self._later = {
            c: at + 256 + len(self.characters) + i for i, c in enumerate(self.characters)
        }
        start = at + 256 + 2 * len(self.characters)
        self._whole = {word: start + i for i, word in enumerate(self.words)}
        if len(self._whole) < len(self.words):
            twice = [w for w, n in collections.Counter(self.words).items() if n > 1]
            raise ValueError(f"words {twice[:3]} are given twice; each once is expected")
        self._size = start + len(self.words)
        begins = {token: text for text, token in (self._first | self._whole).items()}
        goes_on = {token: text for text, token in self._later.items()}
        self._texts = {token: (text, True) for token, text in begins.items()}
        self._texts |= {token: (text, False) for token, text in goes_on.items()}
        self.letter_tokens = range(at + 256, start)

    def __len__(self) -> int:
        return self._size

    @property
    def letters(self) -> dict[str, int]:
        """Characters to their numbers among characters."""
        return {c: at for at, c in enumerate(self.characters)}

    @property
    def text_tokens(self) -> range:
        """Tokens that texts are made of, beside the marks "join" and "word"."""
        return range(self._bytes, self._size)

    @classmethod
    def learn(
        cls, texts: Iterable[str | Iterable[str]], size: int = 2000, at_least: int = 2
    ) -> Words:
        """The most frequent words and all characters of texts.

        Args:
            texts: What will be read and written; texts that belong together, such as those of one
                exercise, count a word once, so that what was drawn for that exercise alone stays
                rare however often it is shown there.
            size: Most words.
            at_least: In how many of these a word is seen at least; rarer ones are spelled.

        Raises:
            ValueError: A negative size.
        """
        if size < 0 or at_least < 1:
            raise ValueError(f"size={size}, at_least={at_least}: at least 0 and 1 are expected")
        words: collections.Counter[str] = collections.Counter()
        characters: collections.Counter[str] = collections.Counter()
        for some in texts:
            whole = some if isinstance(some, str) else "\n".join(some)
            words.update({p for p in _PIECE.findall(whole) if p.isalpha() and len(p) > 1})
            characters.update(whole)
        common = sorted(words.items(), key=lambda one: (-one[1], one[0]))
        kept = [word for word, count in common[:size] if count >= at_least]
        rest = sorted(c for c in characters if c.isprintable() and c not in _BASE)
        return cls(kept, rest)

    def encode(self, text: str, spell: Callable[[str], bool] | None = None) -> list[int]:
        """Tokens of a text.

        Args:
            text: Any text; half of a surrogate pair becomes the character for "unknown".
            spell: Which of the known words are to be spelled; None: none.

        Returns:
            Tokens; none for the empty text.
        """
        tokens: list[int] = []
        close = True
        for piece in _PIECE.findall(text):
            if piece == " " and not close:
                close = True
                tokens.append(-1)
                continue
            joined = bool(tokens) and tokens[-1] != -1
            if piece.isspace():
                tokens += self._spelled(piece, begins=False)
                close = True
            elif piece[0].isalnum():
                tokens += [self.marks["join"]] if joined else []
                whole = self._whole.get(piece)
                known = whole is not None and not (spell is not None and spell(piece))
                tokens += [whole] if known and whole is not None else self._spelled(piece)
                close = False
            else:
                tokens += self._spelled(piece, begins=not joined)
                close = False
        if tokens and tokens[-1] == -1:
            tokens[-1:] = self._spelled(" ", begins=False)
        return [token for token in tokens if token != -1]

    def _spelled(self, piece: str, begins: bool = True) -> list[int]:
        tokens: list[int] = []
        for c in piece:
            table = self._first if begins and not tokens else self._later
            if c in table:
                tokens.append(table[c])
                continue
            if begins and not tokens:
                tokens.append(self.marks["word"])
            tokens += [self._bytes + byte for byte in c.encode("utf-8", "replace")]
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; marks other than "join" and "word" are left out."""
        made = bytearray()
        joined = True
        for token in tokens:
            token = int(token)
            if token == self.marks["join"]:
                joined = True
                continue
            if token == self.marks["word"]:
                made += b"" if joined else b" "
            elif self._bytes <= token < self._bytes + 256:
                made.append(token - self._bytes)
            elif token in self._texts:
                text, begins = self._texts[token]
                made += b" " if begins and not joined else b""
                made += text.encode("utf-8")
            else:
                continue
            joined = False
        return made.decode("utf-8", "replace")

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `Words(**words.to_dict())` is the same list."""
        return {"words": list(self.words), "characters": self.characters[len(_BASE) :]}
