"""What one step reads and writes, as addresses: a row for each parameter, one call for all of them.

Asking Python for a thousand tensors one at a time costs more than updating them. A `Table` looks
every tensor up once and keeps what cannot change unseen; before each step it makes sure, with a
handful of C loops, that parameters, states and their memory are still those it knows. Gradients
come and go, so their addresses are read each time; 0 stands for "no gradient", and the row is
left alone.

Chunks are what threads share out: pieces of rows that touch nothing of each other, so no result
depends on how many threads there are.
"""

from __future__ import annotations

import functools
import operator
import os
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import torch

from paragone.training._look import asked, identities, look

__all__ = ["CHUNK", "KINDS", "Row", "Table", "dense", "local", "refuse_sparse", "same", "spread"]

CHUNK = 8192
"""Elements of a chunk: a multiple of the block of the 8-bit states."""
LEAST = 1 << 17
"""Elements worth a thread of their own."""
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.uint8: 3}
"""Number of each type in `Table.kinds`."""

_is = operator.is_


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the part of a DTensor that lies here; any other tensor as it is."""
    return getattr(tensor, "_local_tensor", tensor)


def refuse_sparse(grad: torch.Tensor) -> None:
    """Raises `RuntimeError` for a gradient that is not a strided tensor."""
    if grad.layout is not torch.strided:
        raise RuntimeError(
            f"a gradient is {grad.layout}; use torch.optim.SparseAdam, or sparse=False in the "
            "embedding"
        )


def dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill their piece of memory without gap or overlap, in any order."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix=f"paragone-step-{process}")


def spread(job: Callable[[int, int], Any], chunks: int, elements: int, threads: int) -> None:
    """Calls `job(first, last)` on parts of `range(chunks)`, on up to `threads` threads."""
    threads = min(threads, elements // LEAST)
    if threads <= 1:
        job(0, chunks)
        return
    edges = [chunks * part // threads for part in range(threads + 1)]
    for done in _pool(threads, os.getpid()).map(job, edges[:-1], edges[1:]):
        del done


class Row:
    """A parameter, its state, and where its result is copied to.

    Attributes:
        param: The parameter, as in `param_groups`.
        group: Number of its group.
        state: Its state.
        names: Keys of the state in the order of the kernel's columns, None where one is empty.
        copy: Tensor that receives the new value in its own type, or None.
        start: Elements before this parameter, over all that the optimizer has.
    """

    __slots__ = ("copy", "group", "names", "param", "start", "state")

    def __init__(
        self,
        param: torch.Tensor,
        group: int,
        state: dict[str, Any],
        names: Sequence[str | None],
        copy: torch.Tensor | None = None,
        start: int = 0,
    ) -> None:
        self.param, self.group, self.state = param, group, state
        self.names, self.copy, self.start = tuple(names), copy, start


class Table:
    """Rows of parameters in addresses; made again when `unchanged` says no.

    Attributes:
        rows: The rows.
        whole: Their parameters.
        addresses: (rows, 3 + slots) int64: parameter, gradient, copy, then the slots.
        kinds: The same shape: a number of `KINDS`, -1 where there is nothing.
        counts: (rows,) elements.
        starts: (rows,) elements before this row, over all parameters.
        groups: (rows,) number of the group.
        chunks: (chunks, 3) row, first and last element.
        elements: All elements.
        overlaps: Whether parameters share memory; they are then updated in their order.
    """

    def __init__(self, rows: Sequence[Row], slots: int) -> None:
        self.rows = rows
        size = (len(rows), 3 + slots)
        self._params = [local(row.param) for row in rows]
        self.whole = [row.param for row in rows]
        self._shards = any(a is not b for a, b in zip(self._params, self.whole, strict=True))
        columns = [
            (row.param, None, row.copy, *(row.state[n] if n else None for n in row.names))
            for row in rows
        ]
        places = [(at, t) for at, t in enumerate(chain.from_iterable(columns)) if t is not None]
        found = [local(tensor) for _, tensor in places]
        self.addresses, self.kinds = np.zeros(size, np.int64), np.full(size, -1, np.int8)
        for (at, _), tensor in zip(places, found, strict=True):
            self.addresses.flat[at] = tensor.data_ptr()
            self.kinds.flat[at] = KINDS.get(tensor.dtype, -1)
        # Memory is looked at again where it is likely to move, and held where it is not.
        self._moving = [
            local(t) for column in columns for t in (column[0], column[2], column[3])
            if t is not None
        ]  # fmt: skip
        self._objects = identities(self._moving)
        self._seen = asked(self._moving)
        self._pointers = self._seen[:, 0].tobytes()
        self._alike = asked(self._params)
        self._memory = [tensor.untyped_storage() for tensor in found]
        self._values = _values(rows)
        self.counts = np.array([p.numel() for p in self._params], np.int64)
        self.starts = np.array([row.start for row in rows], np.int64)
        self.groups = np.array([row.group for row in rows], np.int64)
        self.chunks = _cut(self.counts)
        self.elements = int(self.counts.sum())
        self._straight = [p.is_contiguous() for p in self._params]
        self._simple = all(self._straight) and not self._shards
        self.overlaps = self._meet()
        self._parts: tuple[bytes, list[tuple[int, np.ndarray, int]]] | None = None
        self._held: list[torch.Tensor] = []
        self._back: list[tuple[torch.Tensor, torch.Tensor]] = []

    def _meet(self) -> bool:
        """Whether memory of one row is also memory of another."""
        first = self.addresses[:, 0]
        order = np.argsort(first, kind="stable")
        size = np.array([p.element_size() for p in self._params], np.int64)
        last = (first + self.counts * size)[order]
        return bool((np.maximum.accumulate(last)[:-1] > first[order][1:]).any())

    def unchanged(self) -> bool:
        """Whether states and memory are still those of this table."""
        try:
            for find, states, values in self._values:
                if not all(map(_is, map(find, states), values)):
                    return False
        except KeyError:
            return False
        if self._shards and not all(map(_is, map(local, self.whole), self._params)):
            return False
        found = look(self._moving, self._seen, self._objects)
        return found is not None and found.tobytes() == self._pointers

    def take(self, grads: Sequence[torch.Tensor | None]) -> None:
        """Writes the addresses of the gradients down; strangely laid out ones are copied.

        A parameter with gaps in its memory is worked on in a copy until `give_back`.
        """
        self._held, self._back = [], []
        if self._simple and self._taken_at_once(grads):
            return
        found, kinds = array("q"), array("b")
        for at, grad in enumerate(grads):
            if grad is None:
                found.append(0)
                kinds.append(-1)
                continue
            refuse_sparse(grad)
            if self._shards:
                grad = local(grad)
            if grad.dtype not in KINDS:
                grad = grad.to(torch.float32)
                self._held.append(grad)
            if not (self._straight[at] and grad.is_contiguous()):
                grad = self._laid_out(at, grad)
            found.append(grad.data_ptr())
            kinds.append(KINDS[grad.dtype])
        self.addresses[:, 1] = np.frombuffer(found, np.int64)
        self.kinds[:, 1] = np.frombuffer(kinds, np.int8)

    def _taken_at_once(self, grads: Sequence[Any]) -> bool:
        """The same where every parameter has a gradient just like itself; else returns False."""
        found = look(grads, self._alike)
        if found is None:
            return False
        self.addresses[:, 1] = found
        self.kinds[:, 1] = self.kinds[:, 0]
        return True

    def _laid_out(self, at: int, grad: torch.Tensor) -> torch.Tensor:
        param = self._params[at]
        if dense(param):
            if grad.stride() == param.stride():
                return grad
            moved = torch.empty_like(param, dtype=grad.dtype)
        else:
            work = param.detach().contiguous()
            self._back.append((param, work))
            self.addresses[at, 0] = work.data_ptr()
            moved = torch.empty_like(work, dtype=grad.dtype)
        self._held.append(moved.copy_(grad))
        return moved

    @property
    def threads(self) -> int:
        """Most threads that may work on different chunks at once."""
        return 1 if self.overlaps else torch.get_num_threads()

    def parts(self, ways: Callable[[np.ndarray], np.ndarray]) -> list[tuple[int, np.ndarray, int]]:
        """(way, chunks, elements) for each way that `ways` gives rows by their kinds.

        Rows without a gradient (-1) are in none. Where rows overlap each part is a single row.
        """
        key = self.kinds[:, 1].tobytes()
        if self._parts is None or self._parts[0] != key:
            way = ways(self.kinds)[self.chunks[:, 0]]
            order = self.chunks[:, 0] if self.overlaps else way
            found = []
            for number in np.unique(order):
                chosen = order == number
                chunks = np.ascontiguousarray(self.chunks[chosen])
                if way[chosen][0] >= 0:
                    size = int((chunks[:, 2] - chunks[:, 1]).sum())
                    found.append((int(way[chosen][0]), chunks, size))
            self._parts = key, found
        return self._parts[1]

    def give_back(self) -> None:
        """Returns what was worked on in copies to its place."""
        for param, work in self._back:
            param.copy_(work)
        self._held, self._back = [], []


def _values(rows: Sequence[Row]) -> list[tuple[Any, list[dict[str, Any]], list[Any]]]:
    """(what finds a value, states, their values) for each name in any state."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        for name in filter(None, row.names):
            found.setdefault(name, []).append(row.state)
    finders = [(operator.itemgetter(name), states) for name, states in found.items()]
    return [(find, states, list(map(find, states))) for find, states in finders]


def _cut(counts: np.ndarray) -> np.ndarray:
    """Pieces (row, first, last) of at most `CHUNK` elements."""
    pieces = -(-counts // CHUNK)
    rows = np.repeat(np.arange(len(counts)), pieces)
    first = (np.arange(len(rows)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * CHUNK
    return np.stack((rows, first, np.minimum(first + CHUNK, counts[rows])), axis=1)


def same(now: Sequence[Sequence[Any]], known: Sequence[Any]) -> bool:
    """Whether these lists end to end are the known objects themselves."""
    return sum(map(len, now)) == len(known) and all(map(_is, chain.from_iterable(now), known))
