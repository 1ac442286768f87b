"""Lists of COCO's records from JSON text straight to columns, on several threads.

The text is cut at places that look like the border of two records. A part counts only if the
reading of the part before it arrives exactly where it begins, so that a border within a text or
a nested list is seen and the whole is read again in one piece. Whatever is not plain (a number in
quotes, an escaped key, something missing) makes the reader give up: the standard library then
reads the file, or tells at which byte it is broken.
"""

from __future__ import annotations

import re

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.teams import share
from paragone.vision.ops.precision.json_numbers import POWERS, TENS, number, whole

__all__ = ["PADDING", "records", "skip"]

PADDING = 64
"""Bytes of zeros that must follow the text."""

_LEAST = 44
_PART = 1 << 19
_BORDER = re.compile(rb"\}\s*,\s*\{")
_NAMES = (b"image_id", b"category_id", b"bbox", b"score", b"id", b"area", b"iscrowd", b"ignore")
_KEYS = np.zeros((len(_NAMES), 12), np.uint8)
for _row, _name in enumerate(_NAMES):
    _KEYS[_row, : len(_name)] = list(_name)
_LENGTHS = np.array([len(name) for name in _NAMES])


@njit(nogil=True, error_model="numpy", inline="always")
def _past_blanks(text, i):
    while text[i] == 32 or text[i] == 10 or text[i] == 13 or text[i] == 9:
        i += 1
    return i


@njit(nogil=True, error_model="numpy")
def skip(text, i):
    """Returns where the value at byte i ends, -1 if the text ends before."""
    n, depth, start = len(text) - PADDING, 0, i
    while i < n:
        c = text[i]
        if c == 34:
            i += 1
            while i < n and text[i] != 34:
                i += 1 + np.int64(text[i] == 92)
            if i >= n:
                return -1
        elif c == 123 or c == 91:
            depth += 1
        elif c == 125 or c == 93:
            if depth == 0:
                return i if i > start else -1
            depth -= 1
            if depth == 0:
                return i + 1
        elif depth == 0 and (c == 44 or c <= 32):
            return i
        i += 1
        if depth == 0 and c == 34:
            return i
    return -1


@njit(nogil=True, error_model="numpy")
def _key(text, i, keys, lengths):
    """The key whose quote stands at byte i: its row (-1 another), and where it ends (-1: odd)."""
    i += 1
    start = i
    while text[i] != 34:
        if text[i] == 92 or text[i] < 32:
            return -1, -1
        i += 1
    for row in range(len(lengths)):
        if lengths[row] == i - start and keys[row, 0] == text[start]:
            same = True
            for j in range(1, i - start):
                same &= keys[row, j] == text[start + j]
            if same:
                return row, i + 1
    return -1, i + 1


@njit(nogil=True, error_model="numpy")
def _record(text, i, keys, lengths, tens, powers, row, whole_columns, real_columns):
    """Reads the record at byte i into a row; returns the keys seen as bits, and its end or -1."""
    seen = 0
    i = _past_blanks(text, i + 1)
    while True:
        if text[i] != 34:
            return seen, -1
        key, i = _key(text, i, keys, lengths)
        if i < 0:
            return seen, -1
        i = _past_blanks(text, i)
        if text[i] != 58:
            return seen, -1
        i = _past_blanks(text, i + 1)
        if key == 2:
            if text[i] != 91:
                return seen, -1
            for j in range(4):
                i = _past_blanks(text, i + 1)
                real_columns[row, j], i = number(text, i, tens, powers)
                if i < 0:
                    return seen, -1
                i = _past_blanks(text, i)
                if text[i] != (93 if j == 3 else 44):
                    return seen, -1
            i += 1
        elif key == 3 or key == 5:
            real_columns[row, 4 + np.int64(key == 5)], i = number(text, i, tens, powers)
        elif key < 0:
            i = skip(text, i)
        elif (text[i] == 116 or text[i] == 102) and key >= 6:
            whole_columns[row, key - 3] = np.int64(text[i] == 116)
            i = skip(text, i)
        else:
            value, i = whole(text, i)
            whole_columns[row, key if key < 2 else key - 3 + np.int64(key == 4)] = value
        if i < 0:
            return seen, -1
        seen |= (1 << key) if key >= 0 else 0
        i = _past_blanks(text, i)
        if text[i] == 125:
            return seen, i + 1
        if text[i] != 44:
            return seen, -1
        i = _past_blanks(text, i + 1)


@njit(nogil=True, error_model="numpy")
def _read(counter, units, text, starts, stops, firsts, needed, keys, lengths, tens, powers,
          whole_columns, real_columns, counts, ends):  # fmt: skip
    """Reads part after part; `ends` becomes -1 where something is out of the usual."""
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        i, row, stop = starts[unit], firsts[unit], stops[unit]
        last = firsts[unit + 1]
        while i != stop:
            if text[i] != 123 or row >= last or (stop >= 0 and i > stop):
                i = -1
                break
            for j in range(2, 6):
                whole_columns[row, j] = 0
            real_columns[row, 5] = np.nan
            seen, i = _record(text, i, keys, lengths, tens, powers, row, whole_columns,
                              real_columns)  # fmt: skip
            if i < 0 or (seen & needed) != needed:
                i = -1
                break
            whole_columns[row, 5] = seen
            row += 1
            i = _past_blanks(text, i)
            if text[i] == 93:
                break
            if text[i] != 44:
                i = -1
                break
            i = _past_blanks(text, i + 1)
        ends[unit] = i
        counts[unit] = row - firsts[unit]
        unit = fetch_add(counter, 0, 1)


def _cuts(text: np.ndarray, start: int, threads: int) -> list[int]:
    """Places in the list that begins at `start` where a record seems to begin."""
    size = len(text) - PADDING - start
    parts = min(4 * threads if threads > 1 else 1, max(1, size // _PART))
    found = [start]
    for part in range(1, parts):
        at = start + size * part // parts
        border = _BORDER.search(text[at : at + _PART].tobytes())
        if border and at + border.end() - 1 > found[-1]:
            found.append(at + border.end() - 1)
    return found


def records(
    text: np.ndarray, start: int, *, results: bool, threads: int = 1
) -> tuple[dict[str, np.ndarray | None], int] | None:
    """Reads the list of records whose bracket stands at byte `start`.

    Args:
        text: The file's bytes and `PADDING` zeros.
        start: Where the list begins.
        results: Whether each record must have a score.
        threads: Threads.

    Returns:
        Columns by name and where the list ends; None if it is not plain.
    """
    i = start + 1
    while i < len(text) - PADDING and text[i] in b" \t\r\n":
        i += 1
    if text[i] == 93:
        return _columns(np.empty((0, 6), np.int64), np.empty((0, 6)), results), i + 1
    cuts = _cuts(text, i, threads)
    while True:
        stops = np.array([*cuts[1:], -1])
        length = np.diff([*cuts, len(text) - PADDING])
        firsts = np.concatenate([[0], np.cumsum(length // _LEAST + 2)])
        ints, reals = np.empty((firsts[-1], 6), np.int64), np.empty((firsts[-1], 6))
        counts, ends = np.empty(len(cuts), np.int64), np.empty(len(cuts), np.int64)
        share(
            _read, len(cuts), text, np.array(cuts), stops, firsts, 0b1111 if results else 0b111,
            _KEYS, _LENGTHS, TENS, POWERS, ints, reals, counts, ends, threads=threads,
        )  # fmt: skip
        used = 0
        while used < len(cuts) - 1 and ends[used] == stops[used]:
            used += 1
        if ends[used] >= 0:
            break
        if len(cuts) == 1:
            return None
        cuts = cuts[:1]
    rows = [np.arange(f, f + c) for f, c in zip(firsts[: used + 1], counts, strict=False)]
    if used == 0:
        ints, reals = ints[: counts[0]], reals[: counts[0]]
    else:
        chosen = np.concatenate(rows)
        ints, reals = ints[chosen], reals[chosen]
    return _columns(ints, reals, results), int(ends[used]) + 1


def _columns(ints: np.ndarray, reals: np.ndarray, results: bool) -> dict[str, np.ndarray | None]:
    numbered = bool(len(ints)) and bool((ints[:, 5] & 16).all())
    return {
        "row": None, "image_id": ints[:, 0], "category_id": ints[:, 1],
        "bbox": np.ascontiguousarray(reals[:, :4]),
        "score": np.ascontiguousarray(reals[:, 4]) if results else None, "area": reals[:, 5],
        "crowd": ints[:, 3] != 0, "ignore": ints[:, 4] != 0,
        "id": ints[:, 2] if numbered and not results else None,
    }  # fmt: skip
