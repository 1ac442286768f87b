r"""Packing: documents of unequal length side by side in one row, none of which sees another.

A batch of padded rows spends most of its time on padding as soon as lengths differ. Here rows hold
whole documents one behind the other, with their lengths beside them, which every mixer of
`paragone.mixers` takes as borders, and labels that are shifted within the document:

$$ y_t = x_{t+1} \ \text{if}\ t + 1 \ \text{is a target of the same document, else} \ -100 . $$

Documents go where the least room is left that holds them (best fit, longest first), which needs at
most 11/9 of the fewest rows there could be, and in practice next to none more.

Cost: O(n log n) for n documents; a row is filled to more than 95 % where documents are short.

References:
    Johnson et al. (1974), SIAM J. Comput. 3(4), section 5 (best fit decreasing).
    Krell et al. (2021), arXiv:2107.02027, section 3 (packing without attention across documents).

Shapes: N tokens of a row, n documents of a row.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["IGNORED", "Packed", "Row", "join", "pack", "shifted"]

IGNORED = -100
"""The label of a token that is no target."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Documents one behind the other.

    Attributes:
        input_ids: (1, N) tokens.
        labels: (1, N) the token that follows, or -100 where no loss is wanted.
        lengths: (n,) tokens of each document; what `Llama` takes as `lengths`.
        documents: Number of each of them in the input.
    """

    input_ids: Tensor
    labels: Tensor
    lengths: Tensor
    documents: tuple[int, ...]

    @property
    def targets(self) -> int:
        """Labels that count."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: str | torch.device) -> Row:
        """Returns the row on a device."""
        ids, labels, lengths = (x.to(device) for x in (self.input_ids, self.labels, self.lengths))
        return Row(ids, labels, lengths, self.documents)


@dataclasses.dataclass(frozen=True)
class Packed(Sequence[Row]):
    """Rows, and what became of documents that did not fit.

    Attributes:
        rows: The rows.
        cut: Documents longer than a row that were cut into several.
        truncated: Documents whose end was left out.
        dropped: Documents that were left out: too long, or without a target.
        lost: Tokens that were left out with them, and those of parts without a target.
    """

    rows: tuple[Row, ...]
    cut: int = 0
    truncated: int = 0
    dropped: int = 0
    lost: int = 0

    def __getitem__(self, at):  # pyright: ignore
        return self.rows[at]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        tokens = sum(row.input_ids.shape[1] for row in self.rows)
        documents = len({d for row in self.rows for d in row.documents})
        parts = [f"{documents} documents, {tokens} tokens in {len(self.rows)} rows"]
        for word in ("cut", "truncated", "dropped"):
            if getattr(self, word):
                parts.append(f"{getattr(self, word)} {word}")
        if self.lost:
            parts.append(f"{self.lost} tokens left out")
        return ", ".join(parts)


def pack(
    documents: Sequence[Sequence[int] | np.ndarray],
    length: int,
    targets: Sequence[Sequence[bool] | np.ndarray] | None = None,
    *,
    long: Literal["cut", "truncate", "drop"] = "cut",
    order: Literal["best", "given"] = "best",
) -> Packed:
    """Packs documents into rows of at most `length` tokens.

    Prefer it to padding wherever lengths differ. The loss of packed rows is that of single ones.

    Args:
        documents: Token ids of each.
        length: Most tokens N of a row.
        targets: For each token whether it is to be predicted (None: all). The first token of a
            document never is.
        long: What becomes of a document that is longer than a row: "cut" into pieces, each of
            which is then a document; "truncate": its end is left out; "drop".
        order: "best" for the fewest rows, "given" to keep the order of the documents.

    Returns:
        A sequence of rows. Documents without any target are dropped, and counted as such.

    Raises:
        ValueError: `length` below 2, targets that do not match, or an unknown word.

    Example:
        >>> packed = pack([[5, 6, 7], [8, 9]], length=8)
        >>> packed[0].labels, packed[0].lengths
        (tensor([[   6,    7, -100,    9, -100]]), tensor([3, 2]))
    """
    if length < 2:
        raise ValueError(f"length={length}: a row needs two tokens at least, one and its follower")
    if long not in ("cut", "truncate", "drop"):
        raise ValueError(f"long={long!r} is none of cut, truncate, drop")
    if order not in ("best", "given"):
        raise ValueError(f"order={order!r} is none of best, given")
    if targets is not None and len(targets) != len(documents):
        raise ValueError(f"{len(targets)} targets for {len(documents)} documents; one for each")
    pieces: list[tuple[np.ndarray, np.ndarray, int]] = []
    cut = truncated = dropped = lost = 0
    for number, document in enumerate(documents):
        ids = np.asarray(document, np.int64).reshape(-1)
        labels = shifted(ids, None if targets is None else targets[number], number)
        ends = [len(ids)]
        if len(ids) > length:
            if long == "drop":
                dropped, lost = dropped + 1, lost + len(ids)
                continue
            if long == "truncate":
                truncated, lost, ends = truncated + 1, lost + len(ids) - length, [length]
            else:
                cut, ends = cut + 1, [*range(length, len(ids), length), len(ids)]
        found = _pieces(ids, labels, ends, number)
        dropped += not found
        lost += ends[-1] - sum(len(piece[0]) for piece in found)
        pieces += found
    bins = _best_fit(pieces, length) if order == "best" else _in_order(pieces, length)
    return Packed(tuple(join(*zip(*each, strict=True)) for each in bins), cut, truncated, dropped,
                  lost)  # fmt: skip


def shifted(
    ids: np.ndarray, targets: Sequence[bool] | np.ndarray | None = None, number: int = 0
) -> np.ndarray:
    """Labels of one document: what follows each token, -100 where that is no target.

    Args:
        ids: (N,) tokens.
        targets: (N,) whether each is to be predicted (None: all).
        number: Of the document, for the message.

    Raises:
        ValueError: The two differ in length.
    """
    labels = np.full(len(ids), IGNORED, np.int64)
    labels[:-1] = ids[1:]
    if targets is not None:
        wanted = np.asarray(targets, bool).reshape(-1)
        if len(wanted) != len(ids):
            raise ValueError(
                f"document {number} has {len(ids)} tokens but {len(wanted)} targets; one for each"
            )
        labels[:-1][~wanted[1:]] = IGNORED
    return labels


def join(
    ids: Sequence[np.ndarray], labels: Sequence[np.ndarray], documents: Sequence[int] = ()
) -> Row:
    """One row of documents whose labels are shifted already."""
    whole = np.concatenate(ids) if ids else np.zeros(0, np.int64)
    wanted = np.concatenate(labels) if labels else np.zeros(0, np.int64)
    return Row(
        torch.from_numpy(whole)[None], torch.from_numpy(wanted)[None],
        torch.tensor([len(x) for x in ids], dtype=torch.int64), tuple(documents),
    )  # fmt: skip


def _pieces(
    ids: np.ndarray, labels: np.ndarray, ends: Sequence[int], number: int
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """The parts of a document up to each end; the label of a part's last token still counts."""
    found = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        part = labels[start:end]
        if (part != IGNORED).any():
            found.append((ids[start:end], part, number))
    return found


def _best_fit(pieces: Sequence[tuple[np.ndarray, np.ndarray, int]], length: int):
    """Rows filled longest piece first, each into the fullest row that holds it."""
    longest = sorted(range(len(pieces)), key=lambda at: (-len(pieces[at][0]), at))
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for at in longest:
        need = len(pieces[at][0])
        spot = bisect.bisect_left(room, (need, -1))
        if spot == len(room):
            bins.append([])
            left, number = length, len(bins) - 1
        else:
            left, number = room.pop(spot)
        bins[number].append(at)
        if left - need > 1:
            bisect.insort(room, (left - need, number))
    return [[pieces[at] for at in sorted(each)] for each in bins]


def _in_order(pieces: Sequence[tuple[np.ndarray, np.ndarray, int]], length: int):
    bins: list[list[tuple[np.ndarray, np.ndarray, int]]] = []
    left = 0
    for piece in pieces:
        if not bins or len(piece[0]) > left:
            bins.append([])
            left = length
        bins[-1].append(piece)
        left -= len(piece[0])
    return bins
