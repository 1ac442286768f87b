r"""What attention remembers between tokens: one contract of caches for all kinds of heads.

A state of a mixer is a value: going on from it must leave it usable, so that a prefix can be
shared and a draft thrown away. A cache in memory is a buffer that is written in place. Both hold
here: a state is a length and a buffer, and only the state that stands at the buffer's end writes
behind it,

$$ s' = \mathrm{append}(s, k, v): \quad
   \text{in place if } s \text{ is the newest state of its buffer, else in a copy} . $$

So decoding costs no copy, and a branch costs one. Buffers double when full. The first append keeps
the tensors that it is given.

- `KeyValueCache`: keys and values of each key head, 2 G D numbers a token.
- `LatentCache`: one latent of the width d_c + d_r a token, whatever the number of heads.
- `paged_cache.PagedCache`: keys and values in pages of 64 tokens, handed out as rows grow.

References:
    Shazeer (2019), arXiv:1911.02150, section 3 (what decoding has to read).
    DeepSeek-AI (2024), arXiv:2405.04434, section 2.1.4 (numbers a token, table 1).

Shapes: B rows, G key heads, C capacity, T new tokens, D and E widths of keys and values.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from paragone.mixers.contract import packed_index

__all__ = ["KeyValueCache", "LatentCache", "TokenCache"]

_LEAST = 64


class _Store:
    """Buffers (B, …, C, W) and the number of the last append that wrote into them."""

    __slots__ = ("owned", "parts", "version")

    def __init__(self, parts: tuple[Tensor, ...], owned: bool):
        self.parts, self.owned, self.version = parts, owned, 0


class _PackedStore(_Store):
    """Buffers of packed rows (1, …, N, W), padded when somebody looks: in training nobody does."""

    __slots__ = ("_lengths", "_packed", "_padded")

    def __init__(self, packed: tuple[Tensor, ...], lengths: Tensor):
        self._packed, self._lengths, self._padded = packed, lengths, None
        self.owned, self.version = False, 0

    @property
    def parts(self) -> tuple[Tensor, ...]:
        if self._padded is None:
            rows, at = packed_index(self._lengths)
            shape = (len(self._lengths), int(self._lengths.max()))
            with torch.inference_mode(False):
                self._padded = tuple(
                    x.new_zeros(*shape, *x.shape[1:-2], x.shape[-1])
                    .index_put((rows, at), x[0].movedim(-2, 0))
                    .movedim(1, -2)
                    for x in self._packed
                )
        return self._padded


class TokenCache:
    """Tensors of (B, …, C, W) that grow along C; the classes below say what they hold.

    Args:
        capacity: Tokens to make room for at the first append (0: as many as it brings).
        dtype: Type of storage, e.g. torch.bfloat16 (None: that of what is appended).
        window: How many of the last tokens are ever looked at; older ones are dropped when the
            buffer is full (None: all are kept).
    """

    def __init__(
        self,
        *,
        capacity: int = 0,
        dtype: torch.dtype | None = None,
        window: int | None = None,
    ):
        if capacity < 0:
            raise ValueError(f"capacity={capacity}; it cannot be less than 0")
        if window is not None and window < 1:
            raise ValueError(f"window={window}; at least the token itself is looked at")
        self.capacity, self.dtype, self.window = capacity, dtype, window
        self._store: _Store | None = None
        self._version = 0
        self._count = 0
        self._lengths: Tensor | None = None
        self._dropped = 0

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The buffers, with what lies behind the lengths."""
        if self._store is None:
            raise ValueError("the cache is empty; append to it first")
        return self._store.parts

    @property
    def filled(self) -> tuple[Tensor, ...]:
        """The buffers up to the longest row."""
        return tuple(part[..., : self._count, :] for part in self.parts)

    @property
    def longest(self) -> int:
        """Tokens in the longest row."""
        return self._count

    @property
    def ragged(self) -> bool:
        """Whether rows may differ in length."""
        return self._lengths is not None

    @property
    def lengths(self) -> Tensor:
        """(B,) int64: tokens held for each row."""
        if self._lengths is None:
            part = self.parts[0]
            return torch.full(part.shape[:1], self._count, dtype=torch.int64, device=part.device)
        return self._lengths

    @property
    def start(self) -> int | Tensor:
        """Place of the next token: an integer if it is the same for all rows, else (B,)."""
        known = self._count if self._lengths is None else self._lengths
        return known + self._dropped

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token of one row takes."""
        return sum(
            part.element_size() * part.shape[1:-2].numel() * part.shape[-1] for part in self.parts
        )

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        kind = type(self).__name__
        if self._store is None:
            return f"{kind}(empty)"
        shapes = ", ".join(str(tuple(part.shape)) for part in self.parts)
        return f"{kind}({shapes}, longest {self._count})"

    def _append(self, new: tuple[Tensor, ...], lengths: Tensor | None) -> Self:
        new = tuple(x if self.dtype in (None, x.dtype) else x.to(self.dtype) for x in new)
        rows, time = new[0].shape[0], new[0].shape[-2]
        self._fits(new)
        if lengths is not None and not torch.compiler.is_compiling():
            lengths = lengths.to(new[0].device, torch.int64)
            if bool((lengths == time).all()):
                lengths = None
        if self._store is None:
            return self._adopt(new, lengths)
        if time == 0:
            return self
        if lengths is None and self._lengths is None:
            return self._append_uniform(new, time)
        more = lengths if lengths is not None else new[0].new_full((rows,), time, dtype=torch.int64)
        return self._append_ragged(new, more)

    def _adopt(self, new: tuple[Tensor, ...], lengths: Tensor | None) -> Self:
        time = new[0].shape[-2]
        if self.capacity > time and not _differentiable(new):
            buffers = tuple(_room(x, self.capacity) for x in new)
            for buffer, x in zip(buffers, new, strict=True):
                buffer[..., :time, :] = x
            return self._with(_Store(buffers, owned=True), time, lengths)
        return self._with(_Store(new, owned=False), time, lengths)

    def _append_uniform(self, new: tuple[Tensor, ...], time: int) -> Self:
        store, count, drop = self.parts, self._count, 0
        end = count + time
        if _differentiable((*store, *new)):
            drop = self._surplus(count)
            both = tuple(
                torch.cat([old[..., drop:count, :], x], -2)
                for old, x in zip(store, new, strict=True)
            )
            return self._with(_Store(both, owned=False), end - drop, None, drop)
        home = self._store
        assert home is not None
        full = end > store[0].shape[-2]
        if full or not self._newest():
            drop = self._surplus(count) if full else 0
            home = self._moved(end - drop, slice(drop, count), count - drop)
        for buffer, x in zip(home.parts, new, strict=True):
            buffer[..., count - drop : end - drop, :] = x
        home.version += 1
        return self._with(home, end - drop, None, drop)

    def _append_ragged(self, new: tuple[Tensor, ...], more: Tensor) -> Self:
        known = self.lengths
        ends = known + more
        need = int(ends.max()) if len(ends) else 0
        rows, at = packed_index(more)
        places = known[rows] + at
        if _differentiable((*self.parts, *new)):
            both = []
            for old, x in zip(self.filled, new, strict=True):
                grown = torch.nn.functional.pad(old, (0, 0, 0, need - old.shape[-2]))
                both.append(
                    grown.movedim(-2, 1).index_put((rows, places), x.movedim(-2, 1)[rows, at])
                    .movedim(1, -2)
                )  # fmt: skip
            return self._with(_Store(tuple(both), owned=False), need, ends)
        home, drop = self._store, 0
        assert home is not None
        if need > home.parts[0].shape[-2] or not self._newest():
            if self.window is not None:
                # What all rows can spare; the shortest row decides.
                drop = self._surplus(int(known.min()) if len(known) else 0)
            home = self._moved(need - drop, slice(drop, self._count), self._count - drop)
        for buffer, x in zip(home.parts, new, strict=True):
            buffer.movedim(-2, 1)[rows, places - drop] = x.movedim(-2, 1)[rows, at]
        home.version += 1
        return self._with(home, need - drop, ends - drop, drop)

    def _surplus(self, count: int) -> int:
        return 0 if self.window is None else max(0, count - (self.window - 1))

    def _moved(self, need: int, span: slice, count: int) -> _Store:
        """New buffers with room for `need` tokens at least, and the tokens of `span` in them."""
        room = self.parts[0].shape[-2]
        if need > room or self.window is not None:
            room = max(2 * need, _LEAST)
        buffers = tuple(_room(part, room) for part in self.parts)
        for buffer, part in zip(buffers, self.parts, strict=True):
            buffer[..., :count, :] = part[..., span, :]
        return _Store(buffers, owned=True)

    def _newest(self) -> bool:
        store = self._store
        return store is not None and store.owned and store.version == self._version

    def _with(self, store: _Store, count: int, lengths: Tensor | None, dropped: int = 0) -> Self:
        state = type(self).__new__(type(self))
        state.capacity, state.dtype, state.window = self.capacity, self.dtype, self.window
        state._store, state._version = store, store.version
        state._count, state._lengths = count, lengths
        state._dropped = self._dropped + dropped
        return state

    def truncate(self, lengths: Tensor | int, *, discard: bool = False) -> Self:
        """Takes back what came after the first `lengths` tokens of each row.

        Args:
            lengths: (B,) or an integer: tokens that stay, counted from the start of the row.
            discard: That this state will not be used again: what is appended next goes into the
                same buffer instead of a copy, which makes a refused draft cheap.

        Raises:
            ValueError: A row has fewer tokens, or a window has dropped what would be looked at.
        """
        store = self._store
        if store is None:
            raise ValueError("the cache is empty; there is nothing to truncate")
        left = torch.as_tensor(lengths, device=store.parts[0].device).to(torch.int64)
        left = left.expand(len(store.parts[0]))
        kept = left - self._dropped
        if bool((kept > self.lengths).any()) or bool((left < 0).any()):
            raise ValueError(
                f"truncate to {left.tolist()} tokens: the rows have "
                f"{(self.lengths + self._dropped).tolist()}"
            )
        dropped = torch.as_tensor(self._dropped, device=left.device)
        if bool(((dropped > 0) & (kept < (self.window or 1) - 1)).any()):
            raise ValueError(
                f"truncate to {left.tolist()} tokens: of a window of {self.window} the first "
                f"{dropped.tolist()} tokens have been dropped; keep the older state instead"
            )
        newest = discard and self._newest()
        count = int(kept.max()) if len(kept) else 0
        same = bool((kept == count).all())
        state = self._with(store, count, None if same else kept)
        if newest:
            store.version += 1
            state._version = store.version
        else:
            state._version = -1
        return state

    def select(self, rows: Tensor) -> Self:
        """Returns a cache of the given rows, in that order, repeated or left out as they come.

        Args:
            rows: (R,) integers, as beam search wants them.
        """
        store = self._store
        if store is None:
            raise ValueError("the cache is empty; there are no rows to select")
        rows = rows.to(store.parts[0].device)
        parts = tuple(part.index_select(0, rows) for part in store.parts)
        lengths = None if self._lengths is None else self._lengths[rows]
        return self._with(_Store(parts, owned=not _differentiable(parts)), self._count, lengths)

    def _fits(self, new: tuple[Tensor, ...]) -> None:
        if self._store is None:
            return
        for part, x in zip(self._store.parts, new, strict=True):
            wanted = (*part.shape[:-2], part.shape[-1])
            if (*x.shape[:-2], x.shape[-1]) != wanted or x.dtype != part.dtype:
                raise ValueError(
                    f"{type(self).__name__}: {x.dtype} of shape {tuple(x.shape)} does not go on "
                    f"from {part.dtype} of {tuple(part.shape)}; all but the time must agree"
                )


class KeyValueCache(TokenCache):
    """Keys and values of the tokens so far.

    Prefer `LatentCache` with `LatentAttention` where the cache limits the batch or the context;
    prefer `PagedCache` where rows of very different length come and go.

    Args:
        capacity: As in `TokenCache`.
        dtype: As in `TokenCache`.
        window: As in `TokenCache`.

    Example:
        >>> first = KeyValueCache().append(torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 5, 8))
        >>> second = first.append(torch.ones(1, 2, 1, 8), torch.ones(1, 2, 1, 8))
        >>> first.lengths.item(), second.lengths.item(), second.bytes_per_token
        (5, 6, 128)
    """

    @property
    def keys(self) -> Tensor:
        """(B, G, C, D)."""
        return self.parts[0]

    @property
    def values(self) -> Tensor:
        """(B, G, C, E)."""
        return self.parts[1]

    def append(self, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> Self:
        """Returns the cache with new tokens behind each row's old ones; this one stays valid.

        Args:
            k: (B, G, T, D).
            v: (B, G, T, E).
            lengths: (B,) how many of the T tokens count (None: all).

        Raises:
            ValueError: Shapes or types that do not go on from what is there.
        """
        if k.ndim != 4 or v.ndim != 4 or k.shape[:3] != v.shape[:3]:
            raise ValueError(
                f"keys of shape {tuple(k.shape)} and values of {tuple(v.shape)}; (B, G, T, D) and "
                "(B, G, T, E) are expected"
            )
        return self._append((k, v), lengths)

    def adopt_packed(self, k: Tensor, v: Tensor, lengths: Tensor) -> Self:
        """Returns the cache of rows that come one behind the other; this one must be empty.

        They are padded when the cache is first read, so that a training step pays nothing.

        Args:
            k: (1, G, sum of lengths, D).
            v: (1, G, sum of lengths, E).
            lengths: (N,) tokens of each row.
        """
        if self._store is not None:
            raise ValueError("adopt_packed begins a cache; this one holds tokens already")
        new = tuple(x if self.dtype in (None, x.dtype) else x.to(self.dtype) for x in (k, v))
        return self._with(_PackedStore(new, lengths), int(lengths.max()), lengths)


class LatentCache(TokenCache):
    """One latent a token, shared by all heads: the compressed keys and values and the turned key.

    Args:
        capacity: As in `TokenCache`.
        dtype: As in `TokenCache`.
        window: As in `TokenCache`.

    Example:
        >>> LatentCache(dtype=torch.bfloat16).append(torch.zeros(1, 5, 576)).bytes_per_token
        1152
    """

    @property
    def latent(self) -> Tensor:
        """(B, C, d_c + d_r)."""
        return self.parts[0]

    def append(self, latent: Tensor, lengths: Tensor | None = None) -> Self:
        """Returns the cache with new tokens behind each row's old ones; this one stays valid.

        Args:
            latent: (B, T, d_c + d_r).
            lengths: (B,) how many of the T tokens count (None: all).

        Raises:
            ValueError: A shape or type that does not go on from what is there.
        """
        if latent.ndim != 3:
            raise ValueError(f"latent of shape {tuple(latent.shape)}; (B, T, W) is expected")
        return self._append((latent,), lengths)


def _room(like: Tensor, capacity: int) -> Tensor:
    with torch.inference_mode(False):
        return like.new_empty(*like.shape[:-2], capacity, like.shape[-1])


def _differentiable(parts: tuple[Tensor, ...]) -> bool:
    return torch.is_grad_enabled() and any(part.requires_grad for part in parts)
