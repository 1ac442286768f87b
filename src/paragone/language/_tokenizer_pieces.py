r"""SentencePiece: texts cut into scored pieces, exactly as the reference library does.

BPE begins with characters and joins, again and again, the neighbouring pair whose union has the
best score, the leftmost of equals. Unigram takes the cut of the highest total score,

$$ \max_{x = p_1 \dots p_n} \sum_i \log P(p_i) , $$

by dynamic programming in float32, so that rounding decides ties as it does there.

A join needs a piece that holds the two characters where it happens. Between characters that no
piece has side by side a text is cut, and what has been seen before is looked up.

Cost: BPE O(n log n) a new word, O(1) a known one; unigram O(n k) for pieces of k characters.

References:
    Sennrich, Haddow and Birch (2016), arXiv:1508.07909, algorithm 1.
    Kudo (2018), Subword regularization, arXiv:1804.10959, eq. 2 and 3.
"""

from __future__ import annotations

import heapq
import re

import numpy as np

from paragone.language._tokenizer_normal import SPACE, Normalizer, valid_text
from paragone.language._tokenizer_proto import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER,
    Pieces,
)

__all__ = ["PieceEncoder"]

_CACHE = 1 << 16
_WORDS = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")


class PieceEncoder:
    """Cuts texts into the pieces of a model, and joins them again.

    Args:
        model: Pieces, scores, kinds and flags.
    """

    def __init__(self, model: Pieces) -> None:
        self.model = model
        self.normalize = Normalizer(model)
        self.ids: dict[str, int] = {}
        reserved: dict[str, int] = {}
        self.inside: set[str] = set()
        for at, (piece, kind) in enumerate(zip(model.pieces, model.types, strict=True)):
            ordinary = kind in (NORMAL, USER, UNUSED)
            (self.ids if ordinary else reserved).setdefault(piece, at)
            if ordinary:
                self.inside |= {piece[i : i + 2] for i in range(len(piece) - 1)}
        self.all_ids = self.ids | reserved
        self.by_word = not any(pair[1] == SPACE != pair[0] for pair in self.inside)
        self.unknown = model.unk_id
        self.user = self.normalize.user
        self.unused = any(kind == UNUSED for kind in model.types)
        self.bytes = self._byte_ids()
        self._cache: dict[str, list[tuple[int, int]]] = {}
        if model.kind == "unigram":
            self._prepare_unigram()

    def _byte_ids(self) -> list[int] | None:
        found = {p: i for i, p in enumerate(self.model.pieces) if self.model.types[i] == BYTE}
        names = [f"<0x{byte:02X}>" for byte in range(256)]
        if not self.model.byte_fallback or not all(name in found for name in names):
            return None
        return [found[name] for name in names]

    def encode(self, text: str, prefix: bool = True) -> list[int]:
        """Numbers of a text's pieces, without begin or end."""
        normal, _ = self.normalize(valid_text(text), prefix)
        ids = [id for id, _ in self._pieces(normal)]
        if self.unknown not in ids:
            return ids
        return [id for id, _, _ in self.encode_places(text, prefix)]

    def encode_places(self, text: str, prefix: bool = True) -> list[tuple[int, int, int]]:
        """(number, start, end) of each piece; all bytes of a character have its whole place."""
        normal, origin = self.normalize(valid_text(text), prefix)
        out: list[tuple[int, int, int]] = []
        at, was_unknown = 0, False
        for id, size in self._pieces(normal):
            start, end = origin[at], origin[at + size]
            if id != self.unknown:
                out.append((id, start, end))
            elif self.bytes is not None:
                surface = normal[at : at + size].encode()
                out += [(self.bytes[byte], start, end) for byte in surface]
            elif was_unknown:
                out[-1] = (id, out[-1][1], end)
            else:
                out.append((id, start, end))
            was_unknown = id == self.unknown
            at += size
        return out

    def _pieces(self, normal: str) -> list[tuple[int, int]]:
        """(number, characters) of each piece of a normalised text."""
        if self.model.kind == "unigram":
            return self._viterbi(normal)
        out: list[tuple[int, int]] = []
        cache = self._cache
        for word in _WORDS.findall(normal) if self.by_word else [normal]:
            found = cache.get(word)
            if found is None:
                found = self._new_word(word)
            out += found
        return out

    def _new_word(self, word: str) -> list[tuple[int, int]]:
        """A word not seen before: cut where no piece goes on, and each part looked up."""
        cache, inside = self._cache, self.inside
        if len(cache) >= _CACHE:
            cache.clear()
        starts = [i for i in range(1, len(word)) if word[i - 1 : i + 1] not in inside]
        out: list[tuple[int, int]] = []
        for start, end in zip([0, *starts], [*starts, len(word)], strict=True):
            part = word[start:end]
            found = cache.get(part)
            if found is None:
                found = cache[part] = self._merged(part)
            out += found
        cache[word] = out
        return out

    def _symbols(self, text: str) -> tuple[list[str], list[bool]]:
        """Characters and whole user symbols, and which of them are user symbols."""
        if self.user is None:
            return list(text), [False] * len(text)
        symbols, frozen, at = [], [], 0
        while at < len(text):
            found = self.user.match(text, at)
            symbols.append(found.group() if found else text[at])
            frozen.append(found is not None)
            at += len(symbols[-1])
        return symbols, frozen

    def _merged(self, text: str) -> list[tuple[int, int]]:
        """BPE: joins the best pair until none is a piece."""
        symbols, frozen = self._symbols(text)
        ids, scores, count = self.ids, self.model.scores, len(symbols)
        before, after = list(range(-1, count - 1)), [*range(1, count), -1]
        halves: dict[str, tuple[str, str]] = {}
        heap: list[tuple[float, int, int, int]] = []

        def offer(left: int, right: int) -> None:
            if left < 0 or right < 0 or frozen[left] or frozen[right]:
                return
            piece = symbols[left] + symbols[right]
            id = ids.get(piece)
            if id is None:
                return
            heapq.heappush(heap, (-scores[id], left, right, len(piece)))
            if self.unused and self.model.types[id] == UNUSED:
                halves[piece] = symbols[left], symbols[right]

        for at in range(1, count):
            offer(at - 1, at)
        while heap:
            _, left, right, size = heapq.heappop(heap)
            if not symbols[left] or not symbols[right]:
                continue
            if len(symbols[left]) + len(symbols[right]) != size:
                continue
            symbols[left] += symbols[right]
            symbols[right] = ""
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        out: list[tuple[int, int]] = []
        for symbol in filter(None, symbols):
            self._put(symbol, halves, out)
        return out

    def _put(
        self, symbol: str, halves: dict[str, tuple[str, str]], out: list[tuple[int, int]]
    ) -> None:
        """Adds a symbol; one that may not be used falls into the halves it was joined from."""
        id = self.all_ids.get(symbol, self.unknown)
        if self.model.types[id] == UNUSED and symbol in halves:
            for half in halves[symbol]:
                self._put(half, halves, out)
        else:
            out.append((id, len(symbol)))

    def _prepare_unigram(self) -> None:
        model = self.model
        normal = [
            s for s, kind in zip(model.scores, model.types, strict=True) if kind == NORMAL
        ] or [0.0]
        tiny = float(np.finfo(np.float32).tiny)
        self.highest = max(tiny, *normal)
        self.lowest = min(normal)
        self.usable = {p: i for p, i in self.ids.items() if model.types[i] != UNUSED}
        self.prefixes = {p[:n] for p in self.usable for n in range(1, len(p) + 1)}

    def _viterbi(self, text: str) -> list[tuple[int, int]]:
        """Unigram: the cut of the highest score, earlier cuts winning ties."""
        single, types, scores = np.float32, self.model.types, self.model.scores
        unknown_score = single(single(self.lowest) - single(10.0))
        best = [0.0] * (len(text) + 1)
        start, chosen = [-1] * (len(text) + 1), [-1] * (len(text) + 1)
        usable, prefixes = self.usable, self.prefixes
        for at in range(len(text)):
            here, alone = best[at], False
            for end in range(at + 1, len(text) + 1):
                piece = text[at:end]
                if piece not in prefixes:
                    break
                id = usable.get(piece)
                if id is None:
                    continue
                score = scores[id]
                if types[id] == USER:
                    score = float(single(len(piece.encode()) * self.highest)) - 0.1
                    total = score + here
                else:
                    total = float(single(score + here))
                if start[end] < 0 or total > best[end]:
                    best[end], start[end], chosen[end] = float(single(total)), at, id
                alone |= end == at + 1
            if not alone:
                total = float(single(float(unknown_score) + here))
                if start[at + 1] < 0 or total > best[at + 1]:
                    best[at + 1], start[at + 1], chosen[at + 1] = total, at, self.unknown
        out, end = [], len(text)
        while end > 0:
            out.append((chosen[end], end - start[end]))
            end = start[end]
        return out[::-1]

    def bytes_of(self, id: int, first: bool) -> bytes:
        """UTF-8 of one piece; `first` where nothing has been written before it."""
        model = self.model
        piece, kind = model.pieces[id], model.types[id]
        if kind == CONTROL:
            return b""
        if kind == UNKNOWN:
            return model.unk_surface.encode()
        if kind == BYTE:
            return bytes([int(piece[3:5], 16)])
        if first and (model.add_dummy_prefix or model.remove_extra_whitespaces):
            piece = piece.removeprefix(SPACE)
        return piece.replace(SPACE, " ").encode()

    def eats_all(self, id: int) -> bool:
        """Whether a first piece leaves the text empty, so that the next one is first, too."""
        return self.model.remove_extra_whitespaces and self.bytes_of(id, True) == b""
