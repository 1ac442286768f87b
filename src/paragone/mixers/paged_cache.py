r"""A cache in pages: rows of very different length share one pool and grow page by page.

A row is a list of pages of 64 tokens; token t of row b stands in

$$ \mathrm{page} = \mathrm{table}_{b, \lfloor t / 64 \rfloor}, \qquad
   \mathrm{place} = t \bmod 64 . $$

So at most 63 places a row are empty, a row that ends gives its pages back, and rows that begin
alike share them: a page is written behind its end only, by the state that stands there, and copied
when two states go on from the same one. Pages return to the pool when no state holds them.

References:
    Kwon et al. (2023), "Efficient memory management for large language model serving with
    PagedAttention", arXiv:2309.06180, sections 4.1-4.4.

Shapes: B rows, G key heads, P pages, D and E widths of keys and values, T new tokens.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from paragone.mixers.contract import packed_index

__all__ = ["PAGE", "PagedCache"]

PAGE = 64
"""Tokens of a page."""


class _Page:
    """A page in use; back in the pool when nobody refers to it."""

    __slots__ = ("number", "pool", "used")

    def __init__(self, pool: _Pool, number: int):
        self.pool, self.number, self.used = pool, number, 0

    def __del__(self) -> None:
        self.pool.free.append(self.number)


class _Pool:
    """Memory of (P, G, 64, D) keys and (P, G, 64, E) values, doubled when no page is free."""

    def __init__(self, k: Tensor, v: Tensor, pages: int):
        self.parts = (_empty(k, pages), _empty(v, pages))
        self.free = list(range(pages - 1, -1, -1))

    def take(self, number_of_pages: int) -> list[_Page]:
        """Returns that many pages."""
        have = len(self.parts[0])
        if number_of_pages > len(self.free):
            more = max(have, number_of_pages)
            self.parts = tuple(_grown(part, have + more) for part in self.parts)
            self.free = [*range(have + more - 1, have - 1, -1), *self.free]
        return [_Page(self, self.free.pop()) for _ in range(number_of_pages)]


class PagedCache:
    """Keys and values in pages of 64 tokens; the same contract as `KeyValueCache`.

    Prefer it where rows of very different length come and go, or share a long beginning; prefer
    `KeyValueCache` for a batch of about equal rows. For inference: no gradient flows through it.

    Args:
        pages: Pages to make room for at the first append (the pool doubles when it is full).
        dtype: Type of storage (None: that of what is appended).

    Example:
        >>> k = torch.zeros(2, 1, 100, 8)
        >>> cache = PagedCache().append(k, k, torch.tensor([100, 3]))
        >>> cache.table.shape, cache.lengths.tolist(), cache.pages_in_use
        (torch.Size([2, 2]), [100, 3], 3)
    """

    ragged = True

    def __init__(self, *, pages: int = 0, dtype: torch.dtype | None = None):
        if pages < 0:
            raise ValueError(f"pages={pages}; it cannot be less than 0")
        self.pages, self.dtype = pages, dtype
        self._pool: _Pool | None = None
        self._rows: list[list[_Page]] = []
        self._ends: list[int] = []
        self._table: Tensor | None = None

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The pool: (P, G, 64, D) keys and (P, G, 64, E) values of all states that share it."""
        if self._pool is None:
            raise ValueError("the cache is empty; append to it first")
        return self._pool.parts

    @property
    def table(self) -> Tensor:
        """(B, most pages of a row) int64: the pages of each row; -1 where it has none."""
        if self._table is None:
            many = max((len(row) for row in self._rows), default=0)
            numbers = [
                [page.number for page in row] + [-1] * (many - len(row)) for row in self._rows
            ]
            self._table = torch.tensor(numbers, dtype=torch.int64, device=self.parts[0].device)
            self._table = self._table.reshape(len(self._rows), many)
        return self._table

    @property
    def lengths(self) -> Tensor:
        """(B,) int64: tokens of each row."""
        return torch.tensor(self._ends, dtype=torch.int64, device=self.parts[0].device)

    @property
    def start(self) -> int | Tensor:
        """(B,): place of the next token of each row; 0 if there are no rows yet."""
        return 0 if self._pool is None else self.lengths

    @property
    def longest(self) -> int:
        """Tokens in the longest row."""
        return max(self._ends, default=0)

    @property
    def pages_in_use(self) -> int:
        """Pages that states of this pool hold."""
        return len(self.parts[0]) - len(self._pool.free) if self._pool else 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token of one row takes."""
        return sum(p.element_size() * p.shape[1] * p.shape[3] for p in self.parts)

    @property
    def filled(self) -> tuple[Tensor, ...]:
        """(B, G, longest, D) keys and (B, G, longest, E) values; 0 behind the end of a row."""
        table = self.table.clamp(min=0)
        at = torch.arange(table.shape[1] * PAGE, device=table.device)
        beyond = (at >= self.lengths[:, None])[:, None, :, None]
        whole = (part[table].transpose(1, 2).flatten(2, 3) for part in self.parts)
        return tuple(x.masked_fill(beyond, 0)[:, :, : self.longest] for x in whole)

    def __len__(self) -> int:
        return self.longest

    def append(self, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> Self:
        """Returns the cache with new tokens behind each row's old ones; this one stays valid.

        Args:
            k: (B, G, T, D).
            v: (B, G, T, E).
            lengths: (B,) how many of the T tokens count (None: all).

        Raises:
            ValueError: Shapes or types that do not go on from what is there, or a gradient.
        """
        self._fits(k, v)
        rows, _, time, _ = k.shape
        counts = [time] * rows if lengths is None else lengths.tolist()
        state = self._copy()
        if state._pool is None:
            wanted = sum(-(-count // PAGE) for count in counts)
            k_like, v_like = (x if self.dtype is None else x.to(self.dtype) for x in (k, v))
            state._pool = _Pool(k_like, v_like, max(self.pages, wanted, 1))
            state._rows, state._ends = [[] for _ in range(rows)], [0] * rows
        for row, count in enumerate(counts):
            if count:
                state._grow(row, count)
        if state._table is None or any(state._rows[i] is not self._rows[i] for i in range(rows)):
            state._table = None
        state._write(k, v, counts, self._ends or [0] * rows)
        return state

    def _grow(self, row: int, count: int) -> None:
        """Makes room for `count` more tokens of a row, and the row the owner of its last page."""
        pages, end, pool = self._rows[row], self._ends[row], self._pool
        assert pool is not None
        wanted = -(-(end + count) // PAGE)
        shared = end % PAGE and pages[-1].used != end % PAGE
        if wanted > len(pages) or shared:
            pages = list(pages)
            fresh = pool.take(wanted - len(pages) + bool(shared))
            if shared:
                copy = fresh.pop()
                for part in pool.parts:
                    part[copy.number] = part[pages[-1].number]
                pages[-1] = copy
            pages += fresh
            self._rows[row] = pages
        for page in pages[end // PAGE :]:
            page.used = PAGE
        self._ends[row] = end + count
        pages[-1].used = (end + count - 1) % PAGE + 1

    def _write(self, k: Tensor, v: Tensor, counts: list[int], ends: list[int]) -> None:
        rows, at = packed_index(torch.tensor(counts, device=k.device))
        places = torch.tensor(ends, device=k.device)[rows] + at
        if not len(rows):
            return
        pages = self.table[rows, places // PAGE]
        for part, x in zip(self.parts, (k, v), strict=True):
            part.movedim(2, 1)[pages, places % PAGE] = (
                x.detach().movedim(2, 1)[rows, at].to(part.dtype)
            )

    def truncate(self, lengths: Tensor | int, *, discard: bool = False) -> Self:
        """Takes back what came after the first `lengths` tokens of each row.

        Args:
            lengths: (B,) or an integer: tokens that stay.
            discard: That this state will not be used again: its last pages are written on
                instead of copied.

        Raises:
            ValueError: A row has fewer tokens.
        """
        rows = len(self._ends)
        left = torch.as_tensor(lengths).expand(rows).tolist()
        for row, (count, end) in enumerate(zip(left, self._ends, strict=True)):
            if not 0 <= count <= end:
                raise ValueError(f"truncate row {row} to {count} tokens: it has {end}")
        state = self._copy()
        state._ends = left
        state._rows = [
            pages[: -(-count // PAGE)] for pages, count in zip(self._rows, left, strict=True)
        ]
        if discard:
            for pages, count, end in zip(state._rows, left, self._ends, strict=True):
                if count < end and count % PAGE:
                    pages[-1].used = count % PAGE
        state._table = None
        return state

    def select(self, rows: Tensor) -> Self:
        """Returns a cache of the given rows; they share their pages with this one.

        Args:
            rows: (R,) integers, as beam search wants them.
        """
        state, wanted = self._copy(), rows.tolist()
        state._rows = [self._rows[row] for row in wanted]
        state._ends = [self._ends[row] for row in wanted]
        state._table = None
        return state

    def _copy(self) -> Self:
        state = type(self).__new__(type(self))
        state.pages, state.dtype, state._pool = self.pages, self.dtype, self._pool
        state._rows, state._ends, state._table = list(self._rows), list(self._ends), self._table
        return state

    def _fits(self, k: Tensor, v: Tensor) -> None:
        if k.ndim != 4 or v.ndim != 4 or k.shape[:3] != v.shape[:3]:
            raise ValueError(
                f"keys of shape {tuple(k.shape)} and values of {tuple(v.shape)}; (B, G, T, D) and "
                "(B, G, T, E) are expected"
            )
        if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
            raise ValueError(
                "PagedCache keeps no gradient; decode under torch.no_grad(), or use KeyValueCache"
            )
        if self._pool is None:
            return
        for part, x in zip(self.parts, (k, v), strict=True):
            if (len(self._ends), *part.shape[1::2]) != (x.shape[0], x.shape[1], x.shape[3]):
                raise ValueError(
                    f"PagedCache of {len(self._ends)} rows and pages {tuple(part.shape[1:])} does "
                    f"not go on with {tuple(x.shape)}; all but the time must agree"
                )


def _empty(like: Tensor, pages: int) -> Tensor:
    with torch.inference_mode(False):
        return like.new_empty(pages, like.shape[1], PAGE, like.shape[3])


def _grown(part: Tensor, pages: int) -> Tensor:
    with torch.inference_mode(False):
        grown = part.new_empty(pages, *part.shape[1:])
    grown[: len(part)] = part
    return grown
