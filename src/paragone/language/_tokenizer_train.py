r"""Byte-pair encoding, learned: the most frequent neighbours become one piece, again and again.

Texts are counted as words, so that work depends on how many different words there are. Each step
joins the pair of the highest count

$$ (a, b) = \arg\max_{(a, b)} \sum_{w} n_w \, \#\{i : w_i = a,\ w_{i+1} = b\} $$

in all words that hold it; only counts of pairs beside a join change, and pairs wait in a heap with
counts that may be too high, which is seen when they come up. Ties: byte pieces by the lower
numbers, as `tokenizers` has it; pieces of characters by the shorter and then the smaller text, as
SentencePiece has it.

Cost: O(n) for counting; joins cost what they touch, over all steps about the letters of all
different words.

References:
    Sennrich, Haddow and Birch (2016), arXiv:1508.07909, algorithm 1.
    Kudo and Richardson (2018), arXiv:1808.06226, section 3.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from paragone.language._tokenizer_bytes import ALPHABET, BytePairs, split_pattern
from paragone.language._tokenizer_normal import SPACE, Normalizer
from paragone.language._tokenizer_pieces import PieceEncoder
from paragone.language._tokenizer_proto import BYTE, CONTROL, NORMAL, UNKNOWN, Pieces
from paragone.language.tokenizer import Tokenizer

__all__ = ["join_pairs", "train"]

_LONGEST = 16
_COVERAGE = 0.9995
_WORDS = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")

Pair = tuple[int, int]


def join_pairs(
    words: dict[str, int],
    names: list[str],
    joins: int,
    key: Callable[[str, Pair], Any],
    valid: Callable[[str], bool] = lambda piece: True,
) -> tuple[list[str], list[tuple[str, str]]]:
    """Joins the most frequent pair until there are so many joins, or none occurs twice.

    Args:
        words: Words as strings of single-character pieces, and how often each occurs.
        names: The single-character pieces; a piece's number is its place.
        joins: New pieces that are wanted.
        key: Order of pairs that are as frequent: of the joined text and the two numbers.
        valid: Whether a text may be a piece.

    Returns:
        All pieces, and the pairs in the order in which they were joined.
    """
    ids = {name: id for id, name in enumerate(names)}
    names = list(names)
    rows = [[ids[char] for char in word] for word in words]
    counts = list(words.values())
    found: defaultdict[Pair, int] = defaultdict(int)
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for at, row in enumerate(rows):
        for pair in itertools.pairwise(row):
            found[pair] += counts[at]
            where[pair].add(at)
    heap: list[tuple[int, Any, Pair]] = []

    def offer(pair: Pair) -> None:
        text = names[pair[0]] + names[pair[1]]
        if found[pair] > 0 and valid(text):
            heapq.heappush(heap, (-found[pair], key(text, pair), pair))

    for pair in found:
        offer(pair)
    merges: list[tuple[str, str]] = []
    goal = len(names) + joins
    while heap and len(names) < goal:
        count, _, pair = heapq.heappop(heap)
        if -count != found[pair]:
            offer(pair)
            continue
        if -count < 2:
            break
        text = names[pair[0]] + names[pair[1]]
        new = ids.setdefault(text, len(names))
        if new == len(names):
            names.append(text)
            merges.append((names[pair[0]], names[pair[1]]))
        touched: set[Pair] = set()
        for at in where.pop(pair):
            _join(rows, at, pair, new, counts[at], found, where, touched)
        found[pair] = 0
        for other in touched:
            offer(other)
    return names, merges


def _join(
    rows: list[list[int]],
    at: int,
    pair: Pair,
    new: int,
    count: int,
    found: dict[Pair, int],
    where: dict[Pair, set[int]],
    touched: set[Pair],
) -> None:
    """Joins a pair in one word; `touched` gets the pairs that are new there."""
    old, row, i = rows[at], [], 0
    first, second = pair
    while i < len(old):
        if old[i] == first and i + 1 < len(old) and old[i + 1] == second:
            row.append(new)
            i += 2
        else:
            row.append(old[i])
            i += 1
    rows[at] = row
    for other in itertools.pairwise(old):
        found[other] -= count
    for other in itertools.pairwise(row):
        found[other] += count
        if new in other:
            where[other].add(at)
            touched.add(other)


def train(texts: Iterable[str], vocab_size: int, kind: str, special: tuple[str, ...]) -> Tokenizer:
    """Learns a tokenizer; see `Tokenizer.train`."""
    if isinstance(texts, str):
        texts = [texts]
    if kind not in ("bpe", "sentencepiece"):
        raise ValueError(f"kind={kind!r} is none of 'bpe', 'sentencepiece'")
    least = 256 + (2 if kind == "bpe" else 3) + len(special)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size={vocab_size} is too small: bytes and special tokens take {least}"
        )
    if kind == "bpe":
        return _train_bytes(texts, vocab_size, special)
    return _train_pieces(texts, vocab_size, special)


def _train_bytes(texts: Iterable[str], vocab_size: int, special: tuple[str, ...]) -> Tokenizer:
    words: Counter[str] = Counter()
    pattern = split_pattern()
    for text in texts:
        words.update(pattern.findall(text))
    spelled: Counter[str] = Counter()
    for word, count in words.items():
        spelled["".join([ALPHABET[byte] for byte in word.encode("utf-8", "replace")])] += count
    marks = ("<s>", "</s>", *special)
    names, merges = join_pairs(
        spelled, sorted(ALPHABET), vocab_size - 256 - len(marks), lambda text, pair: pair
    )
    vocab = {name: id for id, name in enumerate(names, len(marks))}
    added = {mark: id for id, mark in enumerate(marks)}
    return Tokenizer(BytePairs(vocab, merges), bos_id=0, eos_id=1, added=added)


@functools.lru_cache(maxsize=1 << 16)
def _script(char: str) -> str:
    """Writing system of a letter, "" for signs and digits."""
    if not char.isalpha():
        return ""
    name = unicodedata.name(char, "").split(" ")[0].split("-")[0]
    return "CJK" if name in ("CJK", "HIRAGANA", "KATAKANA") or char == "ー" else name


def _valid(piece: str) -> bool:
    """Whether letters of one script, or signs, or spaces stand together."""
    if len(piece) > _LONGEST:
        return False
    body = piece.removeprefix(SPACE)
    if SPACE in body:
        return not piece.strip(SPACE)
    if any(char.isdigit() for char in piece):
        return False
    return len({_script(char) for char in body if not unicodedata.combining(char)}) < 2


def _parted(words: Counter[str]) -> Counter[str]:
    """Words cut where no piece may go on: there are fewer of them, and they are shorter."""
    out: Counter[str] = Counter()
    known: dict[str, bool] = {}
    for word, count in words.items():
        start = 0
        for at in range(1, len(word)):
            pair = word[at - 1 : at + 1]
            if pair not in known:
                known[pair] = _valid(pair)
            if not known[pair]:
                out[word[start:at]] += count
                start = at
        out[word[start:]] += count
    return out


def _train_pieces(texts: Iterable[str], vocab_size: int, special: tuple[str, ...]) -> Tokenizer:
    flags = Pieces(["<unk>"], [0.0], [UNKNOWN], remove_extra_whitespaces=False, byte_fallback=True)
    normalize = Normalizer(flags)
    words: Counter[str] = Counter()
    for text in texts:
        for line in text.splitlines():
            words.update(_WORDS.findall(normalize(line)[0]))
    words = _parted(words)
    chars: Counter[str] = Counter()
    for word, count in words.items():
        for char in word:
            chars[char] += count
    kept, room = _covered(chars, vocab_size - 259 - len(special))
    usable = {w: n for w, n in words.items() if kept.issuperset(w)}
    names, _ = join_pairs(usable, sorted(kept), room, lambda text, pair: (len(text), text), _valid)
    joined = names[len(kept) :]
    single = sorted(kept, key=lambda char: (-chars[char], char))
    marks, raw = ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
    ordinary = [*joined, *single]
    model = Pieces(
        [*marks, *raw, *ordinary],
        [0.0] * 259 + [-float(at) for at in range(len(ordinary))],
        [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(ordinary)],
        remove_extra_whitespaces=False, byte_fallback=True,
    )  # fmt: skip
    added = {word: len(model.pieces) + at for at, word in enumerate(special)}
    return Tokenizer(PieceEncoder(model), bos_id=1, eos_id=2, added=added)


def _covered(chars: Counter[str], room: int) -> tuple[set[str], int]:
    """The most frequent characters that cover the texts, and the room left for joins."""
    total, sum_, kept = sum(chars.values()), 0, set()
    for char, count in sorted(chars.items(), key=lambda item: (-item[1], item[0])):
        if sum_ >= _COVERAGE * total or len(kept) >= room:
            break
        kept.add(char)
        sum_ += count
    return kept, room - len(kept)
