r"""A picture as rows of a Transformer, who sees whom, and what a head of pictures is asked.

A picture may stand in the sequence several times: clean, noisy at a few times, or patch by patch.
Each row carries four integers, and one rule says whether row i sees row j:

$$ i \to j \iff \mathrm{owner}_i = \mathrm{owner}_j \wedge \bigl(
   \mathrm{block}_i = \mathrm{block}_j \vee
   \mathrm{order}_j < \mathrm{order}_i \wedge
   \mathrm{hidden}_j \in \{0,\, 2 \lfloor \mathrm{hidden}_i / 2 \rfloor\} \bigr) . $$

The owner is the document. Text has orders that count on and blocks of its own, so it is causal.
All patches of a clean picture share a block, so it is bidirectional inside and closed to what comes
later. A noisy copy has the picture's order, a block of its own and is hidden (1): it sees the text
before it and itself, and nobody else sees it. Patches one by one have orders of their own. A copy
of even number in `hidden` is seen by rows of that number and the next one: a second stream. Rows
that are `alone` stand right behind the document's first token: a stream without the text, for
guidance.

References:
    Zhou et al. (2024), Transfusion, arXiv:2408.11039, section 3.2 (causal, but for pictures).
    Su (2024), kexue.fm/archives/10197 (clean and noisy copies under one mask).

Shapes: B lines of the batch, T rows of a line, R rows of a picture, n patches, P numbers of a
patch, M model width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["BLOCK", "HIDDEN", "ORDER", "OWNER", "PictureHead", "Rows", "See", "visible"]

OWNER, ORDER, BLOCK, HIDDEN = range(4)
"""Lines of marks (B, 4, T)."""


def visible(queries: Tensor, keys: Tensor) -> Tensor:
    """Who sees whom.

    Args:
        queries: (B, 4, Tq) int64: owner, order, block, hidden.
        keys: (B, 4, Tk), alike.

    Returns:
        (B, 1, Tq, Tk) bool, True where a query sees a key.
    """
    mine, other = queries[..., None], keys[:, :, None]
    shown = (other[:, HIDDEN] == 0) | (other[:, HIDDEN] == (mine[:, HIDDEN] & -2))
    seen = (other[:, ORDER] < mine[:, ORDER]) & shown | (other[:, BLOCK] == mine[:, BLOCK])
    return (seen & (other[:, OWNER] == mine[:, OWNER]))[:, None]


@dataclasses.dataclass
class Rows:
    """Rows of one picture, behind its begin marker; numbers are counted within the picture.

    Attributes:
        inputs: (R, P) float32 that the linear map reads.
        place: (R,) patch whose position a row has; -1 that of the begin marker.
        order: (R,) from 0; a row sees visible rows of lower order.
        block: (R,) rows with the same number see each other.
        hidden: (R,) 0 if all that comes later may see it, 1 if its block alone does; 2 and 3 are
            the same for rows of a second stream.
        time: (R,) float32 noise, 0 clean to 1; or None: 0.
        alone: (R,) bool: rows that see the document's first token in place of all before; or None.
        masked: (R,) bool: rows whose inputs are not to be looked at; or None.
        marker: (R,) bool: rows that are the begin marker again; or None.
        reads: (m,) rows whose states the head's loss reads: k + 1 for row k, 0 the begin marker.
        targets: (m, P) what the loss compares with.
        repeats: How many times a patch is among the targets; its losses are averaged.
    """

    inputs: Tensor
    place: np.ndarray
    order: np.ndarray
    block: np.ndarray
    hidden: np.ndarray
    time: Tensor | None = None
    alone: np.ndarray | None = None
    masked: np.ndarray | None = None
    marker: np.ndarray | None = None
    reads: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    targets: Tensor | None = None
    repeats: float = 1.0

    def __len__(self) -> int:
        return len(self.inputs)


See = Callable[[Sequence[Rows], bool], list[Tensor]]
"""Rows of each line's picture, and whether they stay in memory, to (R, M) states of each line."""


class PictureHead(nn.Module):
    """How pictures go through the Transformer and come out of it."""

    def rows(
        self,
        patches: Tensor,
        grid: tuple[int, int],
        learned: bool,
        generator: torch.Generator | None = None,
    ) -> Rows:
        """Rows of a picture; those that are visible show it clean.

        Args:
            patches: (n, P) on the CPU.
            grid: Rows and columns of patches.
            learned: Whether the loss is wanted.
            generator: Of all that is drawn for this document (None: torch's own).
        """
        raise NotImplementedError

    def embedded(self, h: Tensor, time: Tensor, masked: Tensor | None) -> Tensor:
        """What stands for rows in the Transformer.

        Args:
            h: (N, M) rows behind the linear map.
            time: (N,) their noise.
            masked: (N,) bool, or None.
        """
        return h

    def shown(self, patches: Tensor) -> Tensor:
        """(N, P) as the linear map reads them, of all pictures of a batch."""
        return patches

    def rows_loss(
        self,
        states: Tensor,
        rows: Sequence[Rows],
        generators: Sequence[torch.Generator | None],
    ) -> Tensor:
        """Loss of each state that `reads` names.

        Args:
            states: (m, M) of all pictures, one behind the other.
            rows: Of each picture, what `rows` gave.
            generators: One a picture, that of its document.

        Returns:
            (m,) mean squared errors, or nats.
        """
        raise NotImplementedError

    def draw(
        self,
        see: See,
        begun: Tensor,
        grids: Sequence[tuple[int, int]],
        generators: Sequence[torch.Generator],
        *,
        guidance: float = 1.0,
        temperature: float = 1.0,
    ) -> list[Tensor]:
        """New pictures.

        Args:
            see: Shows rows to the Transformer; what is kept is forgotten when the picture is done.
            begun: (B, M) states of the begin markers, which are in memory.
            grids: Rows and columns of patches of each.
            generators: One each.
            guidance: g in `u + g (c - u)`, of what is predicted with the text and without; at 1
                the text alone counts.
            temperature: Of what is drawn.

        Returns:
            (n, P) patches of each.
        """
        raise NotImplementedError
