"""Pages of a drafter's own keys: a table for each sequence, and forks of it for branches of a tree.

A branch shares the pages of what is certain with all others and has pages of its own for the rest,
so that a node sees exactly its own path, in every engine, without a mask.

Shapes: S sequences, P pages of a table.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from paragone.language.engine import Engine

__all__ = ["Lanes", "Pages", "rectangular"]

_SIZE, _FIRST = 16, 32


class Pages:
    """Room for sequences whose lengths nobody knows beforehand.

    Args:
        engine: Whose keys are kept.

    Attributes:
        pool: The pool, which grows.
        tables: Key to the pages of its sequence.
    """

    def __init__(self, engine: Engine):
        self.pool = engine.new_pool(_FIRST, _SIZE)
        self.tables: dict[Hashable, list[int]] = {}
        self._free = list(range(_FIRST))[::-1]
        self._lent: list[int] = []

    def add(self, key: Hashable) -> None:
        """A sequence begins, without a page."""
        self.tables[key] = []

    def drop(self, key: Hashable) -> None:
        """A sequence ends; its pages are free."""
        self._free += self.tables.pop(key)

    def cover(self, key: Hashable, tokens: int) -> list[int]:
        """Returns the table of a sequence, with pages for that many tokens."""
        table = self.tables[key]
        need = -(-tokens // _SIZE) - len(table)
        if need > 0:
            table += self._taken(need)
        return table

    def fork(self, table: Sequence[int], first: int, end: int) -> list[int]:
        """Returns a table with copies of the pages that hold tokens `first` to `end` - 1.

        The copies are lent until `settle` is called.
        """
        low, high = first // _SIZE, -(-end // _SIZE)
        own = self._taken(high - low)
        self._lent += own
        for source, target in zip(table[low:high], own, strict=True):
            self.pool.copy(source, target)
        return [*table[:low], *own]

    def settle(self) -> None:
        """Takes back the pages of all forks."""
        self._free += self._lent
        self._lent = []

    def _taken(self, count: int) -> list[int]:
        if count > len(self._free):
            before = self.pool.pages
            self.pool.grow(max(2 * before, before + count))
            self._free += range(before, self.pool.pages)
        found = self._free[-count:]
        del self._free[-count:]
        return found


class Lanes:
    """Tables of a tree's nodes, while it grows.

    Args:
        pages: Where keys are kept.
        table: The sequence's own, which the first branch goes on in.
        first: First token that is not certain.
        end: Tokens that the longest branch comes to.
    """

    def __init__(self, pages: Pages, table: list[int], first: int, end: int):
        self.pages, self.table, self.first, self.end = pages, table, first, end
        self.of: dict[int, list[int]] = {}

    def place(self, nodes: Sequence[int], parents: Sequence[int]) -> list[list[int]]:
        """A table for each node: its parent's for the first child, forks for the others.

        Args:
            nodes: The next level.
            parents: All nodes' parents; those that have no table stand in the sequence's own.
        """
        taken: set[int] = set()
        found: dict[int, list[int]] = {}
        for node in nodes:
            table = self.of.get(parents[node], self.table)
            forked = id(table) in taken
            found[node] = self.pages.fork(table, self.first, self.end) if forked else table
            taken.add(id(table))
        self.of = found
        return list(found.values())


def rectangular(tables: Sequence[Sequence[int]]) -> np.ndarray:
    """(S, P) tables, filled up with zeros.

    Example:
        >>> rectangular([[3], [1, 2]]).tolist()
        [[3, 0], [1, 2]]
    """
    found = np.zeros((len(tables), max(map(len, tables))), np.int64)
    for row, table in zip(found, tables, strict=True):
        row[: len(table)] = table
    return found
