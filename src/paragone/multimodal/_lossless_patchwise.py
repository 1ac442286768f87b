"""Heads of `patch_heads` within the trunk: patches one by one, or a few masked ones at a time.

A head says how a picture becomes rows and goes through the Transformer as it draws; here its rows
get their places in the document. For guidance a share of the pictures is learned a second time in a
stream of its own, which sees the document's first token in place of the text; in drawing both
streams go through the Transformer together.

References:
    Ho and Salimans (2022), arXiv:2207.12598, algorithms 1 and 2 (guidance).

Shapes: R rows of a picture, n patches, P numbers of a patch, B pictures, M model width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone._core.lazy import resolve
from paragone.multimodal._lossless_rows import PictureHead, Rows, See

__all__ = ["PatchwiseHead"]

_OTHER = 1 << 16
"""What blocks of the second stream are counted from."""


class PatchwiseHead(PictureHead):
    """A head of `paragone.multimodal.patch_heads` in the trunk.

    Args:
        name: "mar", "expanded", "vq" or "mse".
        width: Width M of the states.
        size: Numbers P of a patch.
        options: Further arguments of the head, and `drop`: the share of pictures that are learned
            without their text, too (0.1).
        device: Where the weights are.
        dtype: Their type.

    Attributes:
        inner: The head.
    """

    def __init__(
        self,
        name: str,
        width: int,
        size: int,
        options: Mapping[str, Any],
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        options = dict(options)
        self.drop = float(options.pop("drop", 0.1))
        if not 0 <= self.drop <= 1:
            raise ValueError(f"drop={self.drop}: a share from 0 to 1 is expected")
        make = resolve("paragone.multimodal.patch_heads:make_head")
        self.inner = make(name, width, size, options, device=device, dtype=dtype)

    def embedded(self, h: Tensor, time: Tensor, masked: Tensor | None) -> Tensor:
        """(N, M) rows as the head has them: with mask tokens, or with their times."""
        kind = resolve("paragone.multimodal._heads_rows:ImageRows")
        empty = torch.zeros(0, dtype=torch.int64)
        masked = (
            torch.zeros(len(h), dtype=torch.bool, device=h.device) if masked is None else masked
        )
        rows = kind(h, time, masked, empty, empty, empty, empty, empty, 0, 0)
        return self.inner.inputs(h, rows)

    def rows(
        self,
        patches: Tensor,
        grid: tuple[int, int],
        learned: bool,
        generator: torch.Generator | None = None,
    ) -> Rows:
        """Rows of the head, and for some pictures those of the stream without text."""
        found = self.inner.rows(patches, generator, learned=learned)
        found = found._replace(patches=found.patches.cpu())
        if not learned:
            return _rows(found)
        reads, goals = found.targets[:, 0].cpu().numpy() + 1, found.goals.cpu()
        rows = _rows(found)
        rows.reads, rows.targets = reads, goals
        rows.repeats = len(reads) / max(len(found.targets[:, 1].unique()), 1)
        if float(torch.rand((), generator=generator)) >= self.drop:
            return rows
        # The second stream has its begin marker as a row, so that its rows are one further on.
        both = _joined([rows, _marker(patches), _rows(found, alone=True)])
        both.reads = np.concatenate([reads, reads + len(rows) + 1])
        both.targets = torch.cat([goals, goals])
        both.repeats = 2 * rows.repeats
        return both

    def rows_loss(
        self,
        states: Tensor,
        rows: Sequence[Rows],
        generators: Sequence[torch.Generator | None],
    ) -> Tensor:
        """(m,) losses of the head."""
        goals = torch.cat([one.targets for one in rows if one.targets is not None])
        each = [
            generator
            for one, generator in zip(rows, generators, strict=True)
            for _ in range(len(one.reads))
        ]
        return self.inner.rows_loss(states, goals.to(states.device), each)

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
        """Lets the head draw; pictures of one call have one size."""
        count = grids[0][0] * grids[0][1]
        streams = [begun[:, None]]
        if guidance != 1:
            blank = torch.zeros(1, self.inner.size, device=begun.device)
            streams.append(torch.stack(see([_marker(blank)] * len(grids), True))[:, -1:])

        def look(rows: Any, keep: bool) -> tuple[Tensor, Tensor | None]:
            found = [one[:, :0] for one in streams]
            if len(rows.places):
                asked = []
                for number in range(len(grids)):
                    one = rows._replace(
                        patches=rows.patches[number] if rows.patches.ndim == 3 else rows.patches,
                        masked=rows.masked[number] if rows.masked.ndim == 2 else rows.masked,
                    )
                    copies = [_rows(one), _rows(one, alone=True)][: len(streams)]
                    asked.append(_joined(copies))
                found = torch.stack(see(asked, keep)).chunk(len(streams), 1)
            states = [torch.cat([old, new], 1) for old, new in zip(streams, found, strict=True)]
            if keep:
                streams[:] = [one[:, -1:] for one in states]
            return states[0], states[1] if len(states) > 1 else None

        drawn = self.inner.draw(
            look, count, len(grids), list(generators), temperature=temperature, guidance=guidance,
            device=begun.device, dtype=begun.dtype,
        )  # fmt: skip
        return list(drawn)


def _rows(found: Any, alone: bool = False) -> Rows:
    """The head's rows as the trunk has them; or the same in the second stream."""
    place, order, block = (x.cpu().numpy() for x in (found.places, found.order, found.block))
    hidden = found.hidden.cpu().numpy().astype(np.int64)
    flags = np.full(len(place), alone)
    if alone:
        order, block, hidden = order + 1, block + _OTHER + 1, hidden + 2
    return Rows(
        found.patches, place, order, block, hidden, found.times.float(), flags,
        found.masked.cpu().numpy(), np.zeros(len(place), bool),
    )  # fmt: skip


def _marker(patches: Tensor) -> Rows:
    """The begin marker of the second stream."""
    one, yes = np.zeros(1, np.int64), np.ones(1, bool)
    return Rows(
        torch.zeros_like(patches[:1]), one - 1, one, one + _OTHER, one + 2,
        torch.zeros(1, device=patches.device), yes, ~yes, yes,
    )  # fmt: skip


def _joined(rows: Sequence[Rows]) -> Rows:
    """Rows one behind the other; nothing is read."""

    def all_of(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in rows])

    return Rows(
        torch.cat([one.inputs for one in rows]),
        *(all_of(name) for name in ("place", "order", "block", "hidden")),
        time=torch.cat([one.time for one in rows if one.time is not None]),
        alone=all_of("alone"), masked=all_of("masked"), marker=all_of("marker"),
    )  # fmt: skip
