"""Conversations as batches of a run: encoded once, told apart, packed step by step.

A step takes a number of conversations from a stream of shuffled epochs; what they are depends on
the seed and the step alone. Those of like length go into one packed row, since attention is worked
out on rows as long as their longest.

References:
    Krell et al. (2021), arXiv:2107.02027, section 3 (packing without attention across documents).

Shapes: n conversations, N tokens of a row.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from paragone.language.packing import Row, join, pack, shifted
from paragone.language.rows import Conversation, Encoded, Found, encode_row, read_rows

__all__ = ["Stream", "Taught", "encoded", "row_batches"]


@dataclasses.dataclass(frozen=True)
class Taught:
    """Encoded rows, and what became of the others.

    Attributes:
        rows: Encoded conversations.
        read: Conversations that were read.
        skipped: Reason to the number of records that were left out when reading.
        truncated: Conversations whose end was cut off.
        cut: Tokens that were cut off.
        dropped: Conversations with nothing to learn within the longest length.
        problems: A line for each record that was left out.
        ends: How many conversations end in each token that is learned.
    """

    rows: list[Encoded]
    read: int
    skipped: dict[str, int]
    truncated: int
    cut: int
    dropped: int
    problems: list[str]
    ends: dict[int, int]

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def targets(self) -> int:
        """Tokens that are learned."""
        return sum(sum(row.targets[1:]) for row in self.rows)

    def fingerprint(self) -> str:
        """Tells other rows apart."""
        found = hashlib.sha256()
        for row in self.rows:
            found.update(np.array(row.ids, np.int64).tobytes() + bytes(row.targets))
        return found.hexdigest()[:16]

    def __str__(self) -> str:
        """What was left out is never silent."""
        share = 100 * self.targets / max(self.tokens, 1)
        parts = [f"{len(self.rows)} conversations, {self.tokens} tokens, {share:.0f} % learned"]
        parts += [f"{count} left out {reason}" for reason, count in self.skipped.items()]
        if self.truncated:
            parts.append(f"{self.truncated} truncated ({self.cut} tokens cut off)")
        if self.dropped:
            parts.append(f"{self.dropped} dropped: no answer within the longest length")
        return ", ".join(parts)


def encoded(
    rows: Any, tokenizer: Any, template: Any, length: int, learn: Literal["all", "last"]
) -> Taught:
    """Reads and encodes rows.

    Args:
        rows: What `read_rows` takes.
        tokenizer: Of the model.
        template: How conversations are written.
        length: Most tokens of one.
        learn: Which answers.

    Raises:
        ValueError: Nothing is left, or the template refuses a conversation.
    """
    found: Found[Conversation] = read_rows(rows)
    kept: list[Encoded] = []
    ends: dict[int, int] = {}
    truncated = cut = dropped = 0
    problems = list(found.problems)
    for number, conversation in enumerate(found, 1):
        try:
            row = encode_row(tokenizer, conversation, template, length, learn=learn)
        except ValueError as error:
            raise ValueError(f"conversation {number}: {error}") from error
        if row is None:
            dropped += 1
            problems.append(f"conversation {number}: no answer within {length} tokens")
            continue
        truncated += row.cut > 0
        cut += row.cut
        last = row.ids[len(row.ids) - 1 - row.targets[::-1].index(True)]
        if not row.cut:
            ends[last] = ends.get(last, 0) + 1
        kept.append(row)
    if not kept:
        raise ValueError(
            f"none of {len(found)} conversations has an answer within max_length={length} tokens; "
            "raise it"
        )
    return Taught(kept, len(found), dict(found.skipped), truncated, cut, dropped, problems, ends)


@dataclasses.dataclass(frozen=True)
class Stream:
    """Batches by the number of the step.

    Args:
        rows: Encoded conversations.
        batch: Conversations of a step, of all ranks together.
        epochs: Passes over all.
        length: Most tokens of a packed row.
        seed: Of the order.
        packed: Whether rows hold several conversations.
        device: Where rows go.
        rank: Number of this process.
        ranks: How many there are.
    """

    rows: Sequence[Encoded]
    batch: int
    epochs: float
    length: int
    seed: int
    packed: bool = True
    device: Any = "cpu"
    rank: int = 0
    ranks: int = 1

    @property
    def steps(self) -> int:
        """Steps of the run; the last one may be smaller."""
        return max(1, -(-self._total // self.batch))

    @property
    def _total(self) -> int:
        return max(1, round(self.epochs * len(self.rows)))

    def chosen(self, step: int) -> list[int]:
        """Numbers of a step's conversations, of all ranks."""
        n = len(self.rows)
        places = range(step * self.batch, min((step + 1) * self.batch, self._total))
        orders = {e: np.random.default_rng([self.seed, e]).permutation(n)
                  for e in {at // n for at in places}}  # fmt: skip
        return [int(orders[at // n][at % n]) for at in places]

    def __call__(self, step: int) -> list[Row]:
        """Packed rows of this rank; one without a target if there are fewer than ranks."""
        mine = self.chosen(step)[self.rank :: self.ranks]
        if not mine:
            row = self.rows[0]
            nothing = np.full(len(row.ids), -100)
            return [join([np.array(row.ids)], [nothing]).to(self.device)]
        rows = [self.rows[at] for at in mine]
        return row_batches(rows, self.length, self.packed, self.device)


def row_batches(
    rows: Sequence[Encoded], length: int, packed: bool = True, device: Any = "cpu"
) -> list[Row]:
    """Packs conversations of like length together.

    Args:
        rows: Encoded conversations.
        length: Most tokens of a packed row.
        packed: Whether a row holds several conversations.
        device: Where rows go.
    """
    rows = sorted(rows, key=lambda row: -len(row.ids))
    if not packed:
        each = [(np.array(r.ids), shifted(np.array(r.ids), r.targets)) for r in rows]
        return [join([ids], [labels]).to(device) for ids, labels in each]
    found = pack([r.ids for r in rows], length, [r.targets for r in rows], order="given")
    return [row.to(torch.device(device)) for row in found]
