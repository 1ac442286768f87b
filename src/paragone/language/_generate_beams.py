r"""Beam search: the few most likely beginnings are carried on side by side.

With K beams, each step scores all V continuations of each and keeps the K best that have not
ended; one that ends is put aside with its score over a power of its length,

$$ s(y) = |y|^{-\lambda} \textstyle\sum_t \log p(y_t \mid x, y_{<t}) , $$

and the search is over when no beam can still beat the worst of K that are put aside. Beams share
the pages of what they have in common; a page is copied when one of its sharers writes on it.

References:
    Wu et al. (2016), arXiv:1609.08144, section 7 (length normalisation, here a plain power).

Shapes: K beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paragone.language.engine import Engine

__all__ = ["beam_search"]

_PAGE = 16


class _Pages:
    """Pages with the number of beams that name each."""

    def __init__(self, engine: Engine, pages: int):
        self.pool = engine.new_pool(pages, _PAGE)
        self.users = np.zeros(pages, np.int64)

    def take(self) -> int:
        page = int(np.flatnonzero(self.users == 0)[0])
        self.users[page] = 1
        return page

    def writable(self, table: list[int], place: int) -> None:
        """Sees to it that the page of a place is the table's own."""
        at = place // _PAGE
        if at == len(table):
            table.append(self.take())
        elif self.users[table[at]] > 1:
            own = self.take()
            self.pool.copy(table[at], own)
            self.users[table[at]] -= 1
            table[at] = own

    def renamed(self, old: list[list[int]], new: list[list[int]]) -> None:
        """Takes new tables for old ones."""
        for tables, by in ((new, 1), (old, -1)):
            for table in tables:
                np.add.at(self.users, table, by)


def beam_search(
    engine: Engine,
    prompt: Sequence[int],
    beams: int,
    most: int,
    ends: Sequence[int],
    length_penalty: float = 1.0,
) -> tuple[list[int], float]:
    """Finds a likely continuation.

    Args:
        engine: What scores the tokens.
        prompt: Tokens, at least one.
        beams: K.
        most: Most tokens of the continuation.
        ends: Tokens that end one, and are its last.
        length_penalty: The exponent; 0 favours short texts, above 1 long ones.

    Returns:
        Its tokens and its score.
    """
    whole = -(-(len(prompt) + most) // _PAGE)
    pages = _Pages(engine, (2 * beams + 1) * whole)
    tables: list[list[int]] = [[pages.take() for _ in range(-(-len(prompt) // _PAGE))]]
    scores = engine.forward(pages.pool, prompt, [len(prompt)], [0], tables)
    running: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    for length in range(1, most + 1):
        ranked = _candidates(running, scores, 2 * beams)
        following: list[tuple[float, list[int]]] = []
        parents: list[int] = []
        for rank, (score, beam, token) in enumerate(ranked):
            ids = [*running[beam][1], token]
            if token in ends:
                if rank < beams:
                    ended.append((score / length**length_penalty, ids))
            elif len(following) < beams:
                following.append((score, ids))
                parents.append(beam)
        ended = sorted(ended, key=lambda one: -one[0])[:beams]
        if not following or length == most:
            running = following
            break
        fresh = [list(tables[beam]) for beam in parents]
        pages.renamed(tables, fresh)
        tables, running = fresh, following
        if len(ended) == beams and ended[-1][0] >= running[0][0] / length**length_penalty:
            running = []
            break
        scores = _stepped(engine, pages, tables, running, len(prompt))
    size = max((len(ids) for _, ids in running), default=1)
    last = [(score / size**length_penalty, ids) for score, ids in running]
    score, ids = max([*ended, *last], key=lambda one: one[0])
    return ids, score


def _candidates(running: Any, scores: np.ndarray, count: int) -> list[tuple[float, int, int]]:
    """The best (score, beam, token), of equal ones those of the first beam and lowest token."""
    wide = scores.astype(np.float64)
    wide -= wide.max(1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(1, keepdims=True))
    wide += np.array([score for score, _ in running])[:, None]
    flat = wide.reshape(-1)
    count = min(count, len(flat))
    edge = np.partition(flat, len(flat) - count)[len(flat) - count]
    kept = np.flatnonzero(flat >= edge)
    kept = kept[np.argsort(-flat[kept], kind="stable")][:count]
    size = scores.shape[1]
    return [(float(flat[at]), int(at) // size, int(at) % size) for at in kept]


def _stepped(
    engine: Engine, pages: _Pages, tables: list[list[int]], running: Any, prompt: int
) -> np.ndarray:
    held = prompt + len(running[0][1]) - 1
    for table in tables:
        pages.writable(table, held)
    new = [ids[-1] for _, ids in running]
    return engine.forward(pages.pool, new, [1] * len(new), [held] * len(new), tables)
