r"""Sequence problems on which mixers meet: recall, copying, induction, digits, characters.

Each is rows of tokens and, at the places that count, the token that should be said next:

- *recall* (multi-query associative recall): pairs of a key and a value, then the keys again in
  any order, apart from each other; after each its value is due;
- *copying* (selective): data tokens scattered among blanks, then as many "go" tokens, at which
  the data tokens are due in their order. Where they stood changes from row to row, so that a
  filter that is the same at all times cannot pick them out;
- *induction*: a walk around a circle of tokens that is new in each row; the second half goes on
  from a place that was drawn, so that only what followed a token before tells what comes next;
- *digits*: 64 pixels of scikit-learn's handwritten digits in 17 levels, then the class;
- *text*: characters of the Python standard library's own sources, or of the user's file.

Batches are drawn from a seed: all contestants of a block see the same rows in the same order.

References:
    Arora et al. (2023), Zoology, arXiv:2312.04927, section 3.2 (recall); Gu and Dao (2023), Mamba,
    arXiv:2312.00752, section 3.1 (selective copying, induction heads); Olsson et al. (2022).

Shapes: B rows, T time, N examples; targets are -100 where nothing is due.
"""

from __future__ import annotations

import contextlib
import string
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.lab.problems import read_text
from paragone.lab.tasks.splits import FOLDS, split

__all__ = [
    "IGNORED", "Task", "copying", "drawn_from", "induction", "library_text", "load", "noise",
    "recall",
]  # fmt: skip

IGNORED = -100
_PARTS = ("train", "valid", "test")
_SYMBOLS = "\n" + string.printable[:95]
_MOST_CHARACTERS = 2_000_000
_GO, _BLANK, _FIRST = 0, 1, 2
_LEVELS = 17

Rows = tuple[np.ndarray, np.ndarray]


@dataclass(kw_only=True)
class Task:
    """Rows that can be drawn.

    Attributes:
        kind: Name of the problem.
        vocab: Tokens.
        length: T.
        shape: Numbers of the problem, such as `pairs`.
        parts: Examples of "train", "valid" and "test" where they are limited: (x, y) or a text.
        number: Number of the split.
    """

    kind: str
    vocab: int
    length: int
    shape: dict[str, int]
    parts: dict[str, Any]
    number: int = 0

    def batches(self, seed: int, steps: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """`steps` batches of `rows` rows to learn from."""
        rng = np.random.default_rng([seed, 0])
        for _ in range(steps):
            yield self._tensors(self._drawn("train", rng, rows))

    def held_out(self, part: str, rows: int) -> tuple[Tensor, Tensor]:
        """Rows of "valid" or "test", the same at every call."""
        number = _PARTS.index(part)
        if self.kind == "digits":
            x, y = self.parts[part]
            return self._tensors((x[:rows], y[:rows]))
        rng = np.random.default_rng([self.number, number, 1])
        return self._tensors(self._drawn(part, rng, rows))

    def _drawn(self, part: str, rng: np.random.Generator, rows: int) -> Rows:
        if self.kind == "digits":
            x, y = self.parts[part]
            chosen = rng.integers(0, len(x), rows)
            return x[chosen], y[chosen]
        if self.kind == "text":
            codes = self.parts[part]
            starts = rng.integers(0, len(codes) - self.length, rows)
            found = codes[starts[:, None] + np.arange(self.length + 1)]
            return found[:, :-1], found[:, 1:]
        draw = {"recall": recall, "copying": copying, "induction": induction}[self.kind]
        return draw(rng, rows, self.length, **self.shape)

    @staticmethod
    def _tensors(rows: Rows) -> tuple[Tensor, Tensor]:
        x, y = (torch.from_numpy(np.ascontiguousarray(part, dtype=np.int64)) for part in rows)
        return x, y


def recall(rng: np.random.Generator, rows: int, length: int, pairs: int, tokens: int) -> Rows:
    """Multi-query associative recall.

    Args:
        rng: Source of chance.
        rows: B.
        length: T; at least 4 `pairs`.
        pairs: Keys of a row.
        tokens: Different keys, and as many different values.
    """
    keys = rng.permuted(np.tile(np.arange(tokens), (rows, 1)), axis=1)[:, :pairs]
    values = rng.integers(0, tokens, (rows, pairs)) + tokens
    x = np.full((rows, length), 2 * tokens)
    y = np.full((rows, length), IGNORED)
    x[:, 0 : 2 * pairs : 2], x[:, 1 : 2 * pairs : 2] = keys, values
    # Queries stand anywhere behind the pairs, two places for each: the key and a blank.
    slots = (length - 2 * pairs) // 2
    order = rng.permuted(np.tile(np.arange(slots), (rows, 1)), axis=1)[:, :pairs]
    places = 2 * pairs + 2 * order
    line = np.arange(rows)[:, None]
    x[line, places], y[line, places] = keys, values
    return x, y


def copying(rng: np.random.Generator, rows: int, length: int, items: int, tokens: int) -> Rows:
    """Selective copying: `items` data tokens among blanks, then to be said in order."""
    body = length - items
    places = rng.permuted(np.tile(np.arange(body), (rows, 1)), axis=1)[:, :items]
    places.sort(axis=1)
    data = rng.integers(0, tokens, (rows, items)) + _FIRST
    x = np.full((rows, length), _BLANK)
    y = np.full((rows, length), IGNORED)
    x[np.arange(rows)[:, None], places] = data
    x[:, body:], y[:, body:] = _GO, data
    return x, y


def induction(rng: np.random.Generator, rows: int, length: int, tokens: int) -> Rows:
    """A circle of T / 2 tokens once around, then on from a place that was drawn."""
    half = length // 2
    circle = rng.permuted(np.tile(np.arange(tokens), (rows, 1)), axis=1)[:, :half]
    start = rng.integers(0, half, (rows, 1))
    again = np.take_along_axis(circle, (start + np.arange(length - half + 1)) % half, axis=1)
    whole = np.concatenate([circle, again], axis=1)
    x, y = whole[:, :-1], whole[:, 1:].copy()
    # What follows the last of the first half is the place that was drawn: no one can know it.
    y[:, :half] = IGNORED
    return x, y


def load(kind: str, split: int = 0, length: int = 64, path: str = "", **shape: int) -> Task:
    """Makes a problem.

    Args:
        kind: "recall", "copying", "induction", "digits" or "text".
        split: Number of the split (digits and text hold out others).
        length: T of those that can have any.
        path: A user's text; "" is the standard library's sources.
        shape: `pairs` and `tokens` of recall, `items` and `tokens` of copying, `tokens` of
            induction.
    """
    if kind == "digits":
        parts, known = _digits(split), _LEVELS + 1 + 10
        return Task(kind=kind, vocab=known, length=65, shape={}, parts=parts, number=split)
    if kind == "text":
        parts, known = _text(path, split)
        return Task(kind=kind, vocab=known, length=length, shape={}, parts=parts, number=split)
    vocab = {"recall": 2 * shape["tokens"] + 1, "copying": shape["tokens"] + _FIRST,
             "induction": shape["tokens"]}[kind]  # fmt: skip
    return Task(kind=kind, vocab=vocab, length=length, shape=dict(shape), parts={}, number=split)


def _digits(number: int) -> dict[str, Rows]:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels = bunch.data.astype(np.int64)
    x = np.pad(pixels, ((0, 0), (0, 1)), constant_values=_LEVELS)
    y = np.full(x.shape, IGNORED)
    y[:, -1] = bunch.target + _LEVELS + 1
    rest, test = split(bunch.target, number, stratified=True, seed=0)
    inner, valid = split(bunch.target[rest], number, stratified=True, seed=1)
    rows = {"train": rest[inner], "valid": rest[valid], "test": test}
    return {part: (x[chosen], y[chosen]) for part, chosen in rows.items()}


def library_text(most: int = _MOST_CHARACTERS) -> str:
    """The standard library's modules, one after the other in the order of their names."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found, size = [], 0
    for path in sorted(folder.glob("*.py")):
        found.append(path.read_text(encoding="utf-8", errors="replace"))
        size += len(found[-1])
        if size >= most:
            break
    return "".join(found)[:most]


def _text(path: str, number: int) -> tuple[dict[str, np.ndarray], int]:
    """Codes of the parts: two stretches of a twentieth are held out, others by split."""
    text = read_text(path) if path else library_text()
    table = np.zeros(0x110000, np.int64)
    # Of a user's text those that are most frequent; all others are one symbol.
    known = _SYMBOLS if not path else "".join(_frequent(text, len(_SYMBOLS)))
    for code, symbol in enumerate(known, start=1):
        table[ord(symbol)] = code
    codes = table[np.frombuffer(text.encode("utf-32-le"), np.uint32)]
    stretch = np.arange(len(codes)) * 4 * FOLDS // len(codes)
    held = {"test": 4 * (number % FOLDS), "valid": 4 * (number % FOLDS) + 2}
    parts = {part: codes[stretch == at] for part, at in held.items()}
    parts["train"] = codes[~np.isin(stretch, list(held.values()))]
    return parts, len(known) + 1


def _frequent(text: str, most: int) -> list[str]:
    symbols, counts = np.unique(list(text), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [str(symbols[i]) for i in order]


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Within it modules draw their weights from the seed; torch's generator is as before after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def noise(length: int, width: int, rows: int = 1) -> tuple[Tensor]:
    """Normal numbers (rows, length, width), the input of a sweep."""
    rng = np.random.default_rng(length)
    return (torch.from_numpy(rng.standard_normal((rows, length, width), dtype=np.float32)),)
