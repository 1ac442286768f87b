"""The worker's side of a `Loader`: read items, seed by their place, collate, hand over.

Random numbers belong to a place in the order of the epoch, not to a worker: the generator of
place p has the key (seed, epoch) and a counter that begins at p * 2^192, so that streams of
different places never meet and no number of workers changes them.

Batches of a worker process come in blocks of shared memory. A block is lent to one batch and goes
back when the last array of that batch is gone; it is never filled while somebody looks at it.
"""

from __future__ import annotations

import pickle
import random
import sys
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from paragone.runtime import shared
from paragone.runtime._loader_collate import collate, pack, to_torch
from paragone.runtime._pool_worker import worker_info
from paragone.runtime.shared import SharedArray

__all__ = ["Blocks", "End", "Fetcher", "Task", "enter", "item_rng", "load"]

_ALIGN = 64
_legacy_numpy: Any = np.random


@dataclass(frozen=True)
class Task:
    """One batch to be read: its number, the epoch, and where its items stand in the order."""

    number: int
    epoch: int
    places: range
    indices: Any = None
    run: int | None = None
    """Of an iterable dataset: the number of this run over it."""


class End:
    """What an iterable dataset gives when it is read to its end."""


class _Here(threading.local):
    """The item that this thread reads now."""

    key: tuple[int, int] | None = None
    place = 0
    whole = False
    item: Any = None
    rng: np.random.Generator | None = None


_here = _Here()


def item_rng() -> np.random.Generator:
    """The random generator of the item that is being read, for use in `__getitem__`.

    Its numbers depend on the loader's seed, the epoch and the item's place in the epoch alone: not
    on the number or kind of workers, nor on what else was read. In `__getitems__` it belongs to
    the batch. Prefer it to `random` and `numpy.random`, whose state threads share. Outside of a
    loader it is seeded by the system.

    Example:
        >>> item_rng().random() != item_rng().random()
        True
    """
    if _here.key is None:
        return np.random.default_rng()
    if _here.rng is None:
        counter = [0, 0, int(_here.whole), _here.place]
        _here.rng = np.random.Generator(np.random.Philox(key=_here.key, counter=counter))
    return _here.rng


@contextmanager
def _telling(task: Task) -> Iterator[None]:
    """Adds to an error which item of which batch it came from."""
    told = False
    try:
        yield
        told = True
    finally:
        error = sys.exc_info()[1]
        if not told and error is not None:
            item = "" if _here.item is None else f", item {_here.item!r}"
            error.add_note(f"while a Loader read batch {task.number} of epoch {task.epoch}{item}")
        _here.key = _here.item = _here.rng = None


class _Seeded:
    """Global generators of Python, NumPy and torch, seeded for one batch and put back after."""

    def __init__(self, seed: int, task: Task) -> None:
        self.sequence = np.random.SeedSequence((seed, task.epoch, task.number))

    def __enter__(self) -> None:
        torch = sys.modules.get("torch")
        self.kept = random.getstate(), _legacy_numpy.get_bit_generator()
        self.torch = None if torch is None else torch.get_rng_state()
        seed_globals(self.sequence)

    def __exit__(self, *error: object) -> None:
        random.setstate(self.kept[0])
        _legacy_numpy.set_bit_generator(self.kept[1])
        if self.torch is not None:
            sys.modules["torch"].set_rng_state(self.torch)


@cache
def _legacy() -> tuple[np.random.MT19937, np.random.RandomState]:
    """A generator of our own to stand in for NumPy's global one, and what seeds it quickly."""
    bits = np.random.MT19937(0)
    return bits, np.random.RandomState(bits)


def seed_globals(sequence: np.random.SeedSequence) -> None:
    """Seeds the global generators of this process."""
    words = sequence.generate_state(3)
    bits, seeder = _legacy()
    random.seed(int(words[0]))
    seeder.seed(int(words[1]))
    _legacy_numpy.set_bit_generator(bits)
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(int(words[2]))


class Fetcher:
    """A dataset and how its batches are made; it travels to worker processes.

    Args:
        dataset: Map-style, or iterable.
        collate_fn: From a list of items to a batch; None: `collate`.
        tensors: Whether the arrays of our own batches become tensors here.
        seed: The loader's seed.
        reseed: Whether global generators too are seeded for each batch.
        drop_last: Whether a short last batch of an iterable dataset is left out.
    """

    def __init__(
        self,
        dataset: Any,
        collate_fn: Callable[[list], Any] | None,
        *,
        tensors: bool,
        seed: int,
        reseed: bool,
        drop_last: bool,
    ) -> None:
        self.dataset, self.collate_fn = dataset, collate_fn
        self.tensors, self.seed, self.reseed, self.drop_last = tensors, seed, reseed, drop_last
        self._stream: Any = None
        self._run: int | None = None
        self._place = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None}

    def __call__(self, task: Task) -> Any:
        """Reads and collates one batch."""
        _here.key, _here.rng, _here.whole = (self.seed, task.epoch), None, False
        with _telling(task):
            if not self.reseed:
                return self._batch(task)
            with _Seeded(self.seed, task):
                return self._batch(task)

    def _batch(self, task: Task) -> Any:
        if task.run is not None:
            items = self._read_on(task)
            if not items or (self.drop_last and len(items) < len(task.places)):
                return End
        elif getattr(self.dataset, "__getitems__", None) is not None:
            _here.place, _here.whole = task.places[0], True
            items = self.dataset.__getitems__(task.indices)
            if self.collate_fn is None and not isinstance(items, list):
                return to_torch(items) if self.tensors else items
        else:
            items, dataset = [], self.dataset
            for _here.place, _here.item in zip(task.places, task.indices, strict=True):
                _here.rng = None
                items.append(dataset[_here.item])
        if self.collate_fn is not None:
            return self.collate_fn(items)
        batch = collate(items)
        return to_torch(batch) if self.tensors else batch

    def _read_on(self, task: Task) -> list[Any]:
        """The next items of an iterable dataset; it is opened anew for each run over it.

        Items of other ranks, and those before the place to go on from, are read and left out, each
        with random numbers of its own.
        """
        if self._stream is None or self._run != task.run:
            self._run, self._stream, self._place = task.run, iter(self.dataset), 0
        items, stream = [], self._stream
        for wanted in task.places:
            item: Any = None
            while self._place <= wanted:
                _here.place, _here.rng = self._place, None
                item = next(stream, End)
                if item is End:
                    return items
                self._place += 1
            items.append(item)
        return items


# A worker process.


class _Process:
    """What a worker process keeps from task to task."""

    fetch: Fetcher | None = None
    most = 0
    blocks: ClassVar[OrderedDict[int, SharedArray]] = OrderedDict()


def enter(fetch: Fetcher | None, init: Callable[[int], Any] | None, seed: int, most: int) -> None:
    """Starts a worker, of threads or processes: seeds (base + id, a process) and the user's part.

    Args:
        fetch: What reads, for a process.
        init: Called with the worker's number.
        seed: The base.
        most: Blocks of memory that a process keeps at hand.
    """
    info = worker_info()
    assert info is not None
    if fetch is not None:
        _Process.fetch, _Process.most = fetch, most
        seed_globals(np.random.SeedSequence(seed + info.id))
    if init is not None:
        init(info.id)


def load(task: Task, place: tuple | None) -> tuple[bytes, list[tuple[int, int]], Any]:
    """Reads a batch in a worker process and lays its arrays into a block of shared memory.

    Args:
        task: The batch.
        place: Where a free block is; a larger one is made if it does not suffice.

    Returns:
        The pickle of the batch without its arrays, their (start, length), and the block.
    """
    assert _Process.fetch is not None
    content, buffers = pack(_Process.fetch(task))
    spans, end = [], 0
    for buffer in buffers:
        spans.append((end, buffer.nbytes))
        end += -(-buffer.nbytes // _ALIGN) * _ALIGN
    if not end:
        return content, spans, None
    block, new = _block(place, end)
    memory = block.array
    for (start, length), buffer in zip(spans, buffers, strict=True):
        memory[start : start + length] = np.frombuffer(buffer, np.uint8)
    return content, spans, block if new else None


def _block(place: tuple | None, size: int) -> tuple[SharedArray, bool]:
    """The block that was offered if it is large enough, else a new one."""
    blocks, new = _Process.blocks, False
    if place is not None and place[3][0] >= size:
        block = blocks.pop(place[2], None) or shared.attach(*place)
    else:
        block, new = SharedArray(size, np.uint8), True
    blocks[block.inode] = block
    while len(blocks) > _Process.most:
        blocks.popitem(last=False)[1].close()
    return block, new


# The parent of worker processes.


class _Lease(np.ndarray):
    """A block while a batch uses it; arrays of the batch keep it alive."""


class Blocks:
    """Blocks of shared memory that are free, at most `most`; the others are with batches."""

    def __init__(self, most: int) -> None:
        self._free: deque[SharedArray] = deque(maxlen=most)

    def take(self) -> SharedArray | None:
        """A free block, if there is one."""
        try:
            return self._free.pop()
        except IndexError:
            return None

    def give(self, block: SharedArray | None) -> None:
        """Takes a block back."""
        if block is not None:
            self._free.append(block)

    def unpack(self, answer: tuple[bytes, list[tuple[int, int]], Any], offered: Any) -> Any:
        """Builds the batch on its block, which comes back when the batch is gone."""
        content, spans, block = answer
        if not spans:
            self.give(offered)
            return pickle.loads(content)
        if block is None:
            block = offered
        lease = block.array.view(_Lease)
        memory = memoryview(lease)
        batch = pickle.loads(content, buffers=[memory[i : i + n] for i, n in spans])
        weakref.finalize(lease, self.give, block).atexit = False
        return batch
