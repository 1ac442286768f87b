r"""Pages of keys and values: who holds which, and which can be met again by their tokens.

The memory of a lane is P pages of Z tokens. A page is free, held by some sequences, or idle: held
by none, but full and known by its tokens. A full page is named by the chain of all tokens before
it, not by a hash of them:

$$ \mathrm{name}(p_i) = \big(\mathrm{serial}(p_{i-1}),\; x_{iZ}, \dots, x_{iZ + Z - 1}\big), \qquad
   \mathrm{serial}(p_{-1}) = \mathrm{namespace} , $$

so two pages are the same only if every token before them is and so is what the namespace names (an
adapter). Serials are never used twice: what hangs on an evicted page cannot be found, and grows
old. The page that was left longest ago is evicted first, a sequence's last page before its first.

Cost: O(1) a page in every operation.

References:
    Kwon et al. (2023), PagedAttention, arXiv:2309.06180, sections 4.2 to 4.5.
    Zheng et al. (2024), SGLang, arXiv:2312.07104, section 3 (prefixes kept after a request).

Shapes: P pages of Z tokens; a table lists the pages of one sequence in the order of its tokens.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Hashable, Sequence

__all__ = ["Pages", "Table"]


class Table:
    """Pages of one sequence.

    Attributes:
        pages: Their numbers, in the order of the tokens.
        sealed: How many of the first are full and have a name.
        link: Serial of the last of those, or the namespace.
    """

    __slots__ = ("link", "pages", "sealed")

    def __init__(self, link: Hashable) -> None:
        self.pages: list[int] = []
        self.sealed = 0
        self.link = link


class Pages:
    """Book of P pages; what stands in them is the engine's.

    Args:
        count: Pages P.
        size: Tokens Z of a page.

    Raises:
        ValueError: There is no page, or no room in one.

    Example:
        >>> book = Pages(4, 2)
        >>> table, known = book.open("", [5, 6, 7]); book.grow(table, 3); table.pages
        True
        [0, 1]
    """

    def __init__(self, count: int, size: int) -> None:
        if count < 1 or size < 1:
            raise ValueError(f"{count} pages of {size} tokens; at least one of one is expected")
        self.count, self.size = count, size
        self.holders = [0] * count
        self._free = list(range(count - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._named: dict[tuple[Hashable, tuple[int, ...]], tuple[int, int]] = {}
        self._name_of: list[tuple[Hashable, tuple[int, ...]] | None] = [None] * count
        self._serials = itertools.count()
        self.evicted = 0

    @property
    def available(self) -> int:
        """Pages that can be had: free and idle ones."""
        return len(self._free) + len(self._idle)

    @property
    def idle(self) -> int:
        """Pages that nobody holds and that can be met again."""
        return len(self._idle)

    def pages_for(self, tokens: int) -> int:
        """Pages that so many tokens take."""
        return -(-tokens // self.size)

    def open(
        self, namespace: Hashable, ids: Sequence[int], known: bool = True
    ) -> tuple[Table, int]:
        """Returns a table for a sequence, and how many of its first tokens need no computing.

        At least one token is left to be computed, because its scores are wanted.

        Args:
            namespace: What keys and values depend on besides tokens, such as an adapter's name.
            ids: Tokens of the sequence.
            known: Whether pages of others may be met (False: all is computed).
        """
        table = Table(("namespace", namespace))
        most = (len(ids) - 1) // self.size if known else 0
        for i in range(most):
            found = self._named.get((table.link, tuple(ids[i * self.size : (i + 1) * self.size])))
            if found is None:
                break
            page, table.link = found
            self._hold(page)
            table.pages.append(page)
        table.sealed = len(table.pages)
        return table, table.sealed * self.size

    def grow(self, table: Table, tokens: int) -> bool:
        """Makes room for so many tokens in all; takes nothing and says False if it cannot."""
        need = self.pages_for(tokens) - len(table.pages)
        if need > self.available:
            return False
        for _ in range(need):
            table.pages.append(self._take())
        return True

    def shrink(self, table: Table, tokens: int) -> None:
        """Gives pages behind so many tokens back.

        Args:
            table: Pages of the sequence.
            tokens: How many tokens keep their pages; sealed pages are kept, too.
        """
        keep = max(self.pages_for(tokens), table.sealed)
        while len(table.pages) > keep:
            page = table.pages.pop()
            self.holders[page] = 0
            self._free.append(page)

    def seal(self, table: Table, ids: Sequence[int], past: int) -> None:
        """Names the pages that are full.

        Args:
            table: Pages of the sequence.
            ids: Its tokens.
            past: How many of them stand in the pages.
        """
        while (table.sealed + 1) * self.size <= past:
            start = table.sealed * self.size
            name = (table.link, tuple(ids[start : start + self.size]))
            page = table.pages[table.sealed]
            if name not in self._named:
                self._named[name] = (page, next(self._serials))
                self._name_of[page] = name
            table.link = self._named[name][1]
            table.sealed += 1

    def close(self, table: Table) -> None:
        """Gives the pages back; those with a name can be met again until they are needed."""
        for page in reversed(table.pages):
            self.holders[page] -= 1
            if self.holders[page]:
                continue
            if self._name_of[page] is None:
                self._free.append(page)
            else:
                self._idle[page] = None
        table.pages = []
        table.sealed = 0

    def _hold(self, page: int) -> None:
        self._idle.pop(page, None)
        self.holders[page] += 1

    def _take(self) -> int:
        page = self._free.pop() if self._free else self._evict()
        self.holders[page] = 1
        return page

    def _evict(self) -> int:
        page, _ = self._idle.popitem(last=False)
        name = self._name_of[page]
        assert name is not None
        del self._named[name]
        self._name_of[page] = None
        self.evicted += 1
        return page
