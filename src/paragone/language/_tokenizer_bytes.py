r"""Byte-level BPE: no text is unknown, because pieces are made of bytes.

A text is split into words by a pattern, each word written in UTF-8, and neighbouring pieces are
joined in the order in which training found the joins. Files write the 256 bytes as 256 printable
characters: bytes that are printable stand for themselves, the others for U+0100 and on.

Cost: O(n log n) a new word, O(1) a known one.

References:
    Sennrich, Haddow and Birch (2016), arXiv:1508.07909, algorithm 1.
    Radford et al. (2019), Language models are unsupervised multitask learners, section 2.2.
"""

from __future__ import annotations

import functools
import heapq
import re
import sys
import unicodedata
from collections.abc import Iterator

from paragone.language._tokenizer_normal import valid_text

__all__ = ["ALPHABET", "BytePairs", "split_pattern"]

_CACHE = 1 << 16


def _alphabet() -> str:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable}
    names |= {byte: chr(256 + at) for at, byte in enumerate(rest)}
    return "".join(names[byte] for byte in range(256))


ALPHABET = _alphabet()
"""The character that stands for each byte."""

_BYTES = {char: byte for byte, char in enumerate(ALPHABET)}
_WHITE = "\t\n\x0b\x0c\r\x85"


@functools.cache
def split_pattern() -> re.Pattern[str]:
    """The pattern of words: contractions, letters, digits, signs, each with a space before."""
    classes: dict[str, list[str]] = {"L": [], "N": [], "Z": []}
    start, held = 0, unicodedata.category("\0")[0]
    for code in range(1, sys.maxunicode + 2):
        kind = unicodedata.category(chr(code))[0] if code <= sys.maxunicode else ""
        if kind != held:
            if held in classes:
                classes[held].append(f"\\U{start:08x}-\\U{code - 1:08x}")
            start, held = code, kind
    letters, digits, white = ("".join(classes[kind]) for kind in "LNZ")
    white += _WHITE
    return re.compile(
        f"'(?:[sdmt]|ll|ve|re)| ?[{letters}]+| ?[{digits}]+| ?[^{white}{letters}{digits}]+"
        f"|[{white}]+(?![^{white}])|[{white}]+"
    )


class BytePairs:
    """Cuts texts into byte pieces.

    Args:
        vocab: Piece, in letters of `ALPHABET`, to its number.
        merges: Pairs of pieces, those joined first first.
    """

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]]) -> None:
        missing = [char for char in ALPHABET if char not in vocab]
        if missing:
            raise ValueError(f"{len(missing)} of the 256 bytes are no pieces: all are needed")
        self.vocab, self.merges = vocab, merges
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.names = {id: piece for piece, id in vocab.items()}
        self._cache: dict[str, list[tuple[int, int]]] = {}

    def encode(self, text: str, prefix: bool = True) -> list[int]:
        """Numbers of a text's pieces."""
        return [id for word in self._words(text) for id, _ in self._pieces(word)]

    def encode_places(self, text: str, prefix: bool = True) -> list[tuple[int, int, int]]:
        """(number, start, end) of each piece: the characters of which it holds a byte."""
        out, at = [], 0
        for word in self._words(text):
            places = [
                place for place, char in enumerate(word, at) for _ in range(len(char.encode()))
            ]
            first = 0
            for id, size in self._pieces(word):
                out.append((id, places[first], places[first + size - 1] + 1))
                first += size
            at += len(word)
        return out

    def _words(self, text: str) -> Iterator[str]:
        return (found.group() for found in split_pattern().finditer(valid_text(text)))

    def _pieces(self, word: str) -> list[tuple[int, int]]:
        """(number, bytes) of each piece of a word."""
        found = self._cache.get(word)
        if found is None:
            if len(self._cache) >= _CACHE:
                self._cache.clear()
            found = self._cache[word] = self._merged(word)
        return found

    def _merged(self, word: str) -> list[tuple[int, int]]:
        symbols = [ALPHABET[byte] for byte in word.encode()]
        count, ranks = len(symbols), self.ranks
        before, after = list(range(-1, count - 1)), [*range(1, count), -1]
        heap: list[tuple[int, int, int, int]] = []

        def offer(left: int, right: int) -> None:
            if left < 0 or right < 0:
                return
            rank = ranks.get((symbols[left], symbols[right]))
            if rank is not None:
                heapq.heappush(heap, (rank, left, right, len(symbols[right])))

        for at in range(1, count):
            offer(at - 1, at)
        while heap:
            rank, left, right, _ = heapq.heappop(heap)
            if (symbols[left], symbols[right]) != self.merges[rank]:
                continue
            symbols[left] += symbols[right]
            symbols[right] = ""
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [(self.vocab[s], len(s)) for s in symbols if s]

    def bytes_of(self, id: int, first: bool = False) -> bytes:
        """The bytes of a piece."""
        return bytes(_BYTES[char] for char in self.names[id])
