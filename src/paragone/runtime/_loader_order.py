r"""The order in which a `Loader` reads: shuffles, ranks, samplers, and where to go on.

A shuffle is the permutation of the generator seeded by (seed, epoch), the same on every rank; rank
r of w reads places r, r + w, r + 2 w, ... of it. So that all ranks have as many items, the order is
padded from its beginning or cut (`drop_last`), as torch's `DistributedSampler` does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["Order", "SamplerOrder", "StreamOrder"]

Batch = tuple[range, list[Any]]


class Order:
    """Our own order of n items, sequential or shuffled anew in each epoch."""

    def __init__(
        self, count: int, batch_size: int, *, shuffle: bool, drop_last: bool, seed: int,
        rank: int, world: int, pad: bool,
    ) -> None:  # fmt: skip
        self.count, self.batch_size, self.shuffle, self.seed = count, batch_size, shuffle, seed
        self.drop_last, self.rank, self.world = drop_last, rank, world
        if pad and world > 1:
            whole = count // world if drop_last else -(-count // world)
            self.total = whole * world
        else:
            self.total = count
        self.items = len(range(rank, self.total, world))

    def __len__(self) -> int:
        return (
            self.items // self.batch_size if self.drop_last else -(-self.items // self.batch_size)
        )

    def batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        """Places and indices of each batch of an epoch after the first `skip`."""
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        else:
            order = np.arange(self.count)
        if self.total > self.count:
            order = np.resize(order, self.total)
        places = range(self.rank, self.total, self.world)
        own = order[self.rank : self.total : self.world]
        for number in range(skip, len(self)):
            part = slice(number * self.batch_size, (number + 1) * self.batch_size)
            yield places[part], own[part].tolist()

    def delivered(self, done: int) -> None:
        """Learns that `done` batches of the epoch are out."""

    def state(self, *, ended: bool) -> dict[str, Any]:
        """What has to be stored beside epoch and batch."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""


class SamplerOrder:
    """The order of a sampler, or of a sampler of batches, that the user gives.

    A sampler with `state_dict` goes on from the state that it had after the last batch delivered.
    Another is run anew and its first batches are left out; what it draws must then be the same
    again: `set_epoch` is called where there is one, and the state that a `generator` had at the
    beginning of the epoch is put back.
    """

    def __init__(self, sampler: Any, batch_size: int | None, drop_last: bool) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last
        inner = getattr(sampler, "sampler", None)
        self._parts = [part for part in (sampler, inner) if part is not None]
        self._stored = hasattr(sampler, "state_dict") and hasattr(sampler, "load_state_dict")
        self._resume: dict[str, Any] = {}
        self._begun: list[Any] = []
        self._marks: dict[int, dict[str, Any]] = {}
        self._mark: dict[str, Any] = {}

    def __len__(self) -> int:
        count = len(self.sampler)
        if self.batch_size is None:
            return count
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def _generators(self) -> list[Any]:
        found = [getattr(part, "generator", None) for part in self._parts]
        return [one for one in found if hasattr(one, "get_state")]

    def batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        """Places and indices of each batch of an epoch after the first `skip`."""
        resume, self._resume = self._resume, {}
        for part in self._parts:
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        generators = self._generators()
        for generator, state in zip(generators, resume.get("generators", ()), strict=False):
            generator.set_state(state)
        self._begun = [generator.get_state() for generator in generators]
        self._marks, self._mark, place, first = {}, {}, 0, 0
        if skip and "sampler" in resume:
            self.sampler.load_state_dict(resume["sampler"])
            self._mark, place, first = resume, resume["place"], skip
            if resume["spent"]:
                return
        for number, indices in enumerate(self._lists(), first):
            places = range(place, place + len(indices))
            place = places.stop
            if self._stored:
                spent = self.batch_size is not None and len(indices) < self.batch_size
                state = self.sampler.state_dict()
                self._marks[number + 1] = {"sampler": state, "place": place, "spent": spent}
            if number >= skip:
                yield places, indices

    def _lists(self) -> Iterator[list[Any]]:
        if self.batch_size is None:
            yield from map(list, self.sampler)
            return
        stream, size = iter(self.sampler), self.batch_size
        while indices := list(itertools.islice(stream, size)):
            if len(indices) == size or not self.drop_last:
                yield indices

    def delivered(self, done: int) -> None:
        """Learns that `done` batches of the epoch are out."""
        self._mark = self._marks.pop(done, self._mark)

    def state(self, *, ended: bool) -> dict[str, Any]:
        """What has to be stored beside epoch and batch.

        Raises:
            ValueError: The sampler draws from torch's global generator.
        """
        if self._stored:
            return {} if ended else dict(self._mark)
        for part in self._parts:
            if getattr(part, "generator", part) is None:
                raise ValueError(
                    f"{type(part).__name__} draws from torch's global generator, so its order "
                    "cannot be had again: give it a generator, or use shuffle=True"
                )
        now = [generator.get_state() for generator in self._generators()]
        return {"generators": now if ended or not self._begun else self._begun}

    def load(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        self._resume = state


class StreamOrder:
    """The order of an iterable dataset: its own, of which this rank keeps every world-th item."""

    def __init__(self, batch_size: int, rank: int, world: int) -> None:
        self.batch_size, self.rank, self.world = batch_size, rank, world

    def batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        """Places of each batch, without an end."""
        wide = self.batch_size * self.world
        for number in itertools.count(skip):
            start = self.rank + number * wide
            yield range(start, start + wide, self.world), []

    def delivered(self, done: int) -> None:
        """Learns that `done` batches of the epoch are out."""

    def state(self, *, ended: bool) -> dict[str, Any]:
        """What has to be stored beside epoch and batch."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
