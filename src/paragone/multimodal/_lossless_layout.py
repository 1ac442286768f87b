r"""From documents to lines: what stands where, who sees whom, what is learned.

A document is written row by row: the first token, texts, and pictures between their two markers,

    [BOS] a handwritten seven [IMG] (patches; noisy copies) [/IMG] [EOS]

and several documents share a line of the batch where they fit, since the rule of `_lossless_rows`
keeps them apart.

Shapes: T rows of a line, B lines, V vocabulary, N rows of pictures in the batch, m states that
heads read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.language.packing import IGNORED
from paragone.multimodal._lossless_rows import OWNER, Rows
from paragone.multimodal.positions import SCHEMES, positions

__all__ = ["FIRST", "Batch", "Line", "Scribe", "batched"]

FIRST = -(1 << 40)
"""Order of a document's first token; rows that are `alone` come right behind it."""

_ROOM = 1 << 20
"""Orders, blocks and copies that are kept for a picture."""


@lru_cache(maxsize=4096)
def _places(scheme: str, kind: str, *sizes: int) -> np.ndarray:
    return positions(scheme, [(kind, *sizes)]).numpy()  # pyright: ignore[reportArgumentType]


def _gap(scheme: str, grid: tuple[int, int]) -> int:
    return SCHEMES[scheme][1](*grid) - 1


@dataclasses.dataclass
class Line:
    """Rows in order, of one document or a part of it.

    Attributes:
        ids: (T,) tokens; -1 for rows of pictures.
        at: (T, 2) float32 places.
        marks: (4, T): owner (0 until batched), order, block, hidden.
        labels: (T,) the token that follows, or -100.
        pictures: Rows of each picture, the row of its begin marker, and that of its first row.
    """

    ids: np.ndarray
    at: np.ndarray
    marks: np.ndarray
    labels: np.ndarray
    pictures: list[tuple[Rows, int, int]]

    def __len__(self) -> int:
        return len(self.ids)


class Scribe:
    """Writes a document row by row, and knows where it goes on.

    Args:
        scheme: Name of the law of places.

    Attributes:
        next: Place of the next token, in one dimension.
        count: Rows written so far, over all lines taken.
    """

    def __init__(self, scheme: str) -> None:
        self.scheme, self.next, self.count = scheme, 0, 0
        self._order, self._block, self._hidden = FIRST, 1, 0
        self._marker = np.zeros(2, np.float32)
        self._clear()

    def _clear(self) -> None:
        self._ids: list[np.ndarray] = []
        self._at: list[np.ndarray] = []
        self._marks: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._pictures: list[tuple[Rows, int, int]] = []
        self._begun = self.count
        self._open = False

    def text(self, ids: Sequence[int], learned: bool = False) -> None:
        """Tokens of text or markers; the token before the first one predicts it, if learned."""
        count = len(ids)
        if not count:
            return
        if learned and self._labels:
            self._labels[-1][-1] = ids[0]
        labels = np.full(count, IGNORED, np.int64)
        if learned:
            labels[:-1] = ids[1:]
        order = self._order + np.arange(count)
        if self._order == FIRST:
            order[1:] = np.arange(1, count)
        block = self._block + np.arange(count)
        at = np.float32(self.next) + _places(self.scheme, "text", count)
        self._add(np.asarray(ids, np.int64), at, order, block, np.zeros(count, np.int64), labels)
        self._order, self._block = max(int(order[-1]) + 1, 1), self._block + count
        self.next += count
        self._marker = at[-1]

    def picture(self, rows: Rows, grid: tuple[int, int], done: bool = True) -> None:
        """Rows of a picture, whose begin marker is the token before.

        Args:
            rows: As its head wants them.
            grid: Rows and columns of patches.
            done: Whether what follows stands behind the picture.
        """
        count = len(rows)
        grounds = np.concatenate(
            [_places(self.scheme, "image", *grid) + np.float32(self.next), self._marker[None]]
        )
        order = self._order + rows.order
        if rows.alone is not None:
            order = np.where(rows.alone, FIRST + 1 + rows.order, order)
        block = self._block + rows.block
        hidden = np.where(rows.hidden > 1, rows.hidden + self._hidden, rows.hidden)
        marker = self.count - self._begun - 1
        self._pictures.append((rows, marker, marker + 1))
        self._add(
            np.full(count, -1, np.int64), grounds[rows.place], order, block, hidden,
            np.full(count, IGNORED, np.int64),
        )  # fmt: skip
        if done:
            self.pass_by(grid)

    def pass_by(self, grid: tuple[int, int]) -> None:
        """Goes on behind a picture of `grid` patches, whose rows are all written."""
        self._order += _ROOM
        self._block += _ROOM
        self._hidden += _ROOM
        self.next += _gap(self.scheme, grid)

    def _add(
        self, ids: np.ndarray, at: np.ndarray, order: np.ndarray, block: np.ndarray,
        hidden: np.ndarray, labels: np.ndarray,
    ) -> None:  # fmt: skip
        self._ids.append(ids)
        self._at.append(at)
        self._marks.append(np.stack([np.zeros_like(order), order, block, hidden]))
        self._labels.append(labels)
        self.count += len(ids)

    def take(self) -> Line:
        """What was written since the last call."""
        if not self._ids:
            empty = np.zeros(0, np.int64)
            return Line(empty, np.zeros((0, 2), np.float32), np.zeros((4, 0), np.int64), empty, [])
        line = Line(
            np.concatenate(self._ids), np.concatenate(self._at), np.concatenate(self._marks, 1),
            np.concatenate(self._labels), self._pictures,
        )  # fmt: skip
        self._clear()
        return line


@dataclasses.dataclass
class Batch:
    """Lines side by side, as the Transformer takes them.

    Attributes:
        ids: (B, T) tokens; 0 where there is none.
        at: (B, T, 2) places.
        marks: (B, 4, T); rows of padding have owner -1.
        labels: (B, T).
        lengths: (B,) rows that count.
        plain: Whether it is text alone, one document a line, as a language model has it.
        ragged: Whether lines differ in length.
        dest: (N,) places in the flattened (B T) of rows of pictures.
        inputs: (N, P) their numbers.
        time: (N,) their noise.
        masked: (N,) bool, or None.
        marker: (N,) bool, or None.
        reads: (m,) places in the flattened (B T) of states that heads read.
        rows: Rows of each picture.
        owners: Document of each picture.
        learned: How many labels there are.
        where: (documents, 2) line and first row of each document.
    """

    ids: Tensor
    at: Tensor
    marks: Tensor
    labels: Tensor
    lengths: Tensor
    plain: bool
    ragged: bool
    dest: Tensor
    inputs: Tensor
    time: Tensor
    masked: Tensor | None
    marker: Tensor | None
    reads: Tensor
    rows: list[Rows]
    owners: list[int]
    learned: int
    where: np.ndarray


def batched(lines: Sequence[Line], numbers: int, device: Any = None, pack: bool = True) -> Batch:
    """Puts documents into lines.

    Args:
        lines: One of each document.
        numbers: P.
        device: Where tensors go.
        pack: Whether documents with pictures may share a line; if not, all owners are 0.
    """
    plain = not any(line.pictures for line in lines)
    where, count, time = _packed([len(line) for line in lines], pack and not plain)
    ids, labels = np.zeros((count, time), np.int64), np.full((count, time), IGNORED, np.int64)
    at, marks = np.zeros((count, time, 2), np.float32), np.full((count, 4, time), -1, np.int64)
    marks[:, 3] = 0
    lengths = np.zeros(count, np.int64)
    rows: list[Rows] = []
    owners: list[int] = []
    dest: list[np.ndarray] = [np.zeros(0, np.int64)]
    reads: list[np.ndarray] = [np.zeros(0, np.int64)]
    for number, (line, (row, start)) in enumerate(zip(lines, where, strict=True)):
        span = slice(start, start + len(line))
        ids[row, span] = np.maximum(line.ids, 0)
        labels[row, span], at[row, span] = line.labels, line.at
        marks[row, :, span], marks[row, OWNER, span] = line.marks, number if pack else 0
        lengths[row] = max(lengths[row], start + len(line))
        base = row * time + start
        for one, marker, first in line.pictures:
            rows.append(one)
            owners.append(number)
            dest.append(base + first + np.arange(len(one)))
            reads.append(base + np.where(one.reads > 0, first + one.reads - 1, marker))
    where_to = {"device": device}
    total = sum(len(one) for one in rows)
    inputs = torch.cat([one.inputs for one in rows]) if rows else torch.zeros(0, numbers)
    time_of = [one.time if one.time is not None else torch.zeros(len(one)) for one in rows]
    return Batch(
        torch.from_numpy(ids).to(**where_to), torch.from_numpy(at).to(**where_to),
        torch.from_numpy(marks).to(**where_to), torch.from_numpy(labels).to(**where_to),
        torch.from_numpy(lengths).to(**where_to), plain,
        bool((lengths != time).any()),
        torch.from_numpy(np.concatenate(dest)).to(**where_to), inputs.to(**where_to),
        (torch.cat(time_of) if rows else torch.zeros(total)).to(**where_to),
        _flags([one.masked for one in rows], rows, device),
        _flags([one.marker for one in rows], rows, device),
        torch.from_numpy(np.concatenate(reads)).to(**where_to), rows, owners,
        int((labels != IGNORED).sum()), where,
    )  # fmt: skip


def _flags(found: list[np.ndarray | None], rows: list[Rows], device: Any) -> Tensor | None:
    if not any(one is not None and one.any() for one in found):
        return None
    whole = [
        np.zeros(len(row), bool) if one is None else one
        for one, row in zip(found, rows, strict=True)
    ]
    return torch.from_numpy(np.concatenate(whole)).to(device)


def _packed(lengths: list[int], pack: bool) -> tuple[np.ndarray, int, int]:
    """(line, start) of each, how many lines there are, and how long they are: first fit."""
    where = np.zeros((len(lengths), 2), np.int64)
    longest = max(lengths)
    if not pack:
        where[:, 0] = np.arange(len(lengths))
        return where, len(lengths), longest
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        size = lengths[number]
        row = next((row for row, left in enumerate(room) if left >= size), len(room))
        if row == len(room):
            room.append(longest)
        where[number] = row, longest - room[row]
        room[row] -= size
    return where, len(room), longest
