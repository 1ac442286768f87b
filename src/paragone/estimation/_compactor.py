"""Levels of sorted runs over a sampler: the engine of `RunningQuantile(method="kll")`."""

from __future__ import annotations

import math

import numpy as np

from paragone.estimation import _sketch as kernels

__all__ = ["Compactor"]

_CHUNK = 1 << 16
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


class Compactor:
    """A sampler, a base of B numbers, a halved block, and L levels of B numbers.

    Args:
        k: Accuracy, 8 to 65535.
        seed: Word from which the coin tosses come; what is read is mixed in, so that parts of
            a stream that start with the same seed do not toss alike.
    """

    mergeable = True

    def __init__(self, k: int, seed: int):
        self.k, self.seed = k, seed
        self.size = size_for(k)
        self.depth = math.ceil(math.log2(self.size)) + 2
        self.base = np.zeros(self.size)
        self.filled = 0
        self.half, self.half_full = np.zeros(self.size // 2), np.zeros(1, np.bool_)
        self.levels = np.zeros((self.depth, self.size))
        self.full = np.zeros(self.depth, np.bool_)
        self.height = 0
        self.candidate = np.zeros(1)
        self.group = np.zeros(2, np.int64)
        self.random = np.array([(seed * _GOLDEN ^ 0x2545F4914F6CDD1D) & _WORD or 1], np.uint64)

    @property
    def same(self) -> tuple[object, ...]:
        return (self.k,)

    def take(self, values: np.ndarray) -> None:
        start = 0
        while start < len(values):
            room = (self._room() + 1) * self.size - self.filled
            most = (room << self.height) - int(self.group[0])
            chunk = values[start : start + min(most, max(_CHUNK, 1 << self.height))]
            start += len(chunk)
            self._mix(chunk[0], chunk[-1])
            self._add(self._sampled(chunk))

    def _mix(self, *numbers: float) -> None:
        for bits in np.array(numbers).view(np.uint64):
            word = (int(self.random[0]) ^ int(bits)) * _GOLDEN & _WORD
            self.random[0] = word or 1

    def _sampled(self, chunk: np.ndarray) -> np.ndarray:
        if self.height == 0:
            return chunk
        picked = np.zeros((len(chunk) >> self.height) + 1)
        count = kernels.sample(
            chunk, 1 << self.height, self.candidate, self.group, self.random, picked
        )
        return picked[:count]

    def _used(self) -> int:
        """Blocks of the base that the levels hold."""
        runs = sum(1 << i for i in range(self.depth) if self.full[i])
        return 2 * runs + int(self.half_full[0])

    def _room(self) -> int:
        return (2 << self.depth) - 1 - self._used()

    def _add(self, numbers: np.ndarray) -> None:
        """Puts numbers of the base's weight in the base, and full blocks into the levels."""
        if self.filled:
            count = min(self.size - self.filled, len(numbers))
            self.base[self.filled : self.filled + count] = numbers[:count]
            self.filled += count
            numbers = numbers[count:]
            if self.filled == self.size:
                self.filled = 0
                self._blocks(np.sort(self.base)[None])
        whole = len(numbers) // self.size * self.size
        if whole:
            self._blocks(np.sort(numbers[:whole].reshape(-1, self.size), axis=1))
        rest = numbers[whole:]
        self.base[self.filled : self.filled + len(rest)] = rest
        self.filled += len(rest)

    def _blocks(self, blocks: np.ndarray) -> None:
        while len(blocks):
            room = self._room()
            if not room:
                blocks = self._rise(blocks)
                continue
            self._runs(blocks[:room], False, 0)
            blocks = blocks[room:]

    def _runs(self, runs: np.ndarray, halved: bool, level: int) -> None:
        kernels.add_runs(
            runs, halved, level, self.half, self.half_full, self.levels, self.full, self.random
        )

    def _rise(self, blocks: np.ndarray | None = None) -> np.ndarray:
        """Doubles the weight of the base; returns sorted blocks of the new weight, to be added.

        blocks: Sorted blocks of the old weight, which are halved on the way.
        """
        weight = 1 << self.height
        parts = [] if blocks is None else [block[self._coin() :: 2] for block in blocks]
        ordered = np.sort(self.base[: self.filled])
        odd = self.filled % 2
        parts.append(ordered[odd + self._coin() :: 2])
        if self.half_full[0]:
            parts.append(self.half.copy())
        if self.full[0]:
            parts.append(self.levels[0].copy())
        self.levels[:-1], self.full[:-1] = self.levels[1:].copy(), self.full[1:].copy()
        self.half_full[0], self.full[-1] = False, False
        seen = int(self.group[0])
        self.height += 1
        self.filled = 0
        if odd:
            self._regroup(seen, ordered[0], weight)
        elif seen:
            self._regroup(seen, self.candidate[0], 0)
        numbers = np.concatenate(parts)
        whole = len(numbers) // self.size * self.size
        rest = numbers[whole:]
        self.base[: len(rest)] = rest
        self.filled = len(rest)
        return np.sort(numbers[:whole].reshape(-1, self.size), axis=1)

    def _coin(self) -> int:
        return self._below(2)

    def _below(self, most: int) -> int:
        """A whole number from 0 to most - 1."""
        self._mix(0.0)
        return (int(self.random[0]) >> 11) * most >> 53

    def _regroup(self, seen: int, value: float, weight: int) -> None:
        """Puts a number that stands for `weight` beside the open group's candidate."""
        total = seen + weight
        if weight and self._below(total) >= seen:
            self.candidate[0] = value
        self.group[0] = total
        self.group[1] = self._below(1 << self.height)

    def merge(self, other: Compactor) -> None:
        other = Compactor.unpack(*other.pack())
        self._mix(float(int(other.random[0]) >> 12))
        while self.height != other.height or self._used() + other._used() > (2 << self.depth) - 4:
            lower = self if self.height <= other.height else other
            lower._blocks(lower._rise())
        for level in np.flatnonzero(other.full):
            self._runs(other.levels[level : level + 1], True, int(level))
        if other.half_full[0]:
            if self.half_full[0]:
                self.half_full[0] = False
                self._runs(np.sort(np.concatenate([self.half, other.half]))[None], True, 0)
            else:
                self.half[:], self.half_full[0] = other.half, True
        self._add(other.base[: other.filled])
        seen, more, group = int(self.group[0]), int(other.group[0]), 1 << self.height
        if more and seen + more >= group:
            self._regroup(seen, other.candidate[0], group - seen)
            self._add(self.candidate.copy())
            self.group[0], more = 0, seen + more - group
            seen = 0
        if more:
            self._regroup(seen, other.candidate[0], more)

    def items(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers in order, and what each stands for."""
        weight = 1 << self.height
        parts = [self.base[: self.filled]]
        weights = [np.full(self.filled, weight)]
        if self.half_full[0]:
            parts.append(self.half)
            weights.append(np.full(len(self.half), 2 * weight))
        for level in np.flatnonzero(self.full):
            parts.append(self.levels[level])
            weights.append(np.full(self.size, weight << (int(level) + 1)))
        if self.group[0]:
            parts.append(self.candidate)
            weights.append(self.group[:1])
        values = np.concatenate(parts)
        order = np.argsort(values, kind="stable")
        return values[order], np.concatenate(weights)[order]

    def quantiles(self, ranks: np.ndarray) -> np.ndarray:
        values, weights = self.items()
        return values[np.searchsorted(np.cumsum(weights), ranks, side="left")]

    def ranks(self, x: np.ndarray) -> np.ndarray:
        values, weights = self.items()
        total = np.concatenate([[0], np.cumsum(weights)])
        return total[np.searchsorted(values, x, side="right")].astype(float)

    def pack(self) -> tuple[np.ndarray, np.ndarray]:
        whole = [
            self.k, self.seed, self.height, self.filled, int(self.half_full[0]), *self.group,
            int(self.random.view(np.int64)[0]), *self.full.astype(int),
        ]  # fmt: skip
        half = self.half if self.half_full[0] else self.half[:0]
        floats = [self.base[: self.filled], half, self.levels[self.full].reshape(-1)]
        return np.array(whole, np.int64), np.concatenate([*floats, self.candidate])

    @classmethod
    def unpack(cls, whole: np.ndarray, floats: np.ndarray) -> Compactor:
        engine = cls(int(whole[0]), int(whole[1]))
        engine.height, engine.filled = int(whole[2]), int(whole[3])
        engine.half_full[0] = bool(whole[4])
        engine.group[:] = whole[5:7]
        engine.random[:] = whole[7:8].view(np.uint64)
        engine.full[:] = whole[8:].astype(bool)
        at = engine.filled
        engine.base[:at] = floats[:at]
        if engine.half_full[0]:
            engine.half[:] = floats[at : at + engine.size // 2]
            at += engine.size // 2
        engine.levels[engine.full] = floats[at:-1].reshape(-1, engine.size)
        engine.candidate[:] = floats[-1:]
        return engine


def size_for(k: int) -> int:
    """Numbers B of a block: a quarter more than k, so that the proved bound is KLL's usual one."""
    return 64 * math.ceil(1.25 * k / 64)
