r"""How a picture goes through the Transformer patch by patch: its rows, and how it is drawn.

What comes after a picture sees it clean, all patches of one block. What is learned is learned from
a second copy that nobody else sees:

- "raster": patches in a lane, each of which sees those before it; the state of the begin marker
  predicts the first patch, the state of each patch the next one.
- "random" (MAR): one block where a share of the patches is masked, whose states predict them.

In drawing the copy grows (raster: a row for each new patch) or is read again with fewer masks
(random: a cosine's share of them a pass). For guidance a copy stands alone, without the text: in
training in place of the other for a share of pictures, in drawing beside it.

References:
    Li et al. (2024), arXiv:2406.11838, section 4.1 and figure 2 (orders, masks, share masked).
    Chang et al. (2022), MaskGIT, arXiv:2202.04200, section 3.3 (the cosine).

Shapes: n patches of a picture, P numbers of a patch, R rows, B pictures drawn at once, M width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.multimodal._lossless_rows import Rows, See

__all__ = ["clean_rows", "draw_few_by_few", "draw_one_by_one", "joined", "lane", "masked_block"]


def clean_rows(patches: Tensor) -> Rows:
    """What the rest of the document sees: one block, behind all that the lanes' orders reach.

    Args:
        patches: (n, P).
    """
    count = len(patches)
    zeros = np.zeros(count, np.int64)
    return Rows(patches, np.arange(count), zeros + count + 1, zeros, zeros)


def lane(
    patches: Tensor, start: int, stop: int, *, alone: bool = False, stream: int = 1
) -> Rows:  # fmt: skip
    """Rows of a causal copy: patches `start` to `stop`; -1 stands for the begin marker.

    Args:
        patches: (n, P), of which some may not be known yet.
        start: First patch.
        stop: Behind the last patch.
        alone: Whether the text is not seen; the marker is a row of such a lane.
        stream: Number of the lane, 1 or 2: what is hidden as 2 or 4.
    """
    place = np.arange(start, stop)
    rows = Rows(
        patches[torch.from_numpy(place.clip(0))], place, place + 1,
        place + 2 + (stream - 1) * (len(patches) + 1), np.full(len(place), 2 * stream),
    )  # fmt: skip
    return dataclasses.replace(rows, alone=place > -2, marker=place < 0) if alone else rows


def masked_block(
    patches: Tensor, masked: np.ndarray, *, alone: bool = False, stream: int = 1
) -> Rows:
    """Rows of a copy of which some patches are masked, all of one block.

    Args:
        patches: (n, P).
        masked: (n,) bool.
        alone: Whether the text is not seen.
        stream: Number of the copy, from 1.
    """
    zeros = np.zeros(len(patches), np.int64)
    return Rows(
        patches, np.arange(len(patches)), zeros, zeros + stream, zeros + 1,
        alone=np.ones(len(patches), bool) if alone else None, masked=masked,
    )  # fmt: skip


def joined(first: Rows, *others: Rows) -> Rows:
    """Rows of several copies, one behind the other; reads and targets are those of the first."""
    every = (first, *others)

    def flags(name: str) -> np.ndarray | None:
        found = [getattr(one, name) for one in every]
        if all(one is None for one in found):
            return None
        return np.concatenate([
            np.zeros(len(rows), bool) if one is None else one
            for one, rows in zip(found, every, strict=True)
        ])  # fmt: skip

    times = None
    if any(one.time is not None for one in every):
        times = torch.cat([
            torch.zeros(len(one)) if one.time is None else one.time for one in every
        ])  # fmt: skip
    return dataclasses.replace(
        first,
        inputs=torch.cat([one.inputs for one in every]),
        place=np.concatenate([one.place for one in every]),
        order=np.concatenate([one.order for one in every]),
        block=np.concatenate([one.block for one in every]),
        hidden=np.concatenate([one.hidden for one in every]),
        time=times, alone=flags("alone"), masked=flags("masked"), marker=flags("marker"),
    )  # fmt: skip


def raster_rows(patches: Tensor, alone: bool) -> Rows:
    """Rows of a picture that is learned in raster order."""
    count = len(patches)
    copy = lane(patches, -1 if alone else 0, count - 1, alone=alone)
    reads = np.arange(count)
    # The begin marker is there; a lane that stands alone has one of its own behind the clean rows.
    reads = count + 1 + reads if alone else np.where(reads > 0, count + reads, 0)
    return dataclasses.replace(joined(clean_rows(patches), copy), reads=reads, targets=patches)


def random_rows(patches: Tensor, alone: bool, generator: torch.Generator | None) -> Rows:
    """Rows of a picture that is learned from random masks."""
    masked = some_masked(len(patches), generator)
    rows = joined(clean_rows(patches), masked_block(patches, masked, alone=alone))
    chosen = np.flatnonzero(masked)
    return dataclasses.replace(rows, reads=len(patches) + 1 + chosen, targets=patches[chosen])


def some_masked(count: int, generator: torch.Generator | None) -> np.ndarray:
    """(n,) masked or not: a share from a normal of mean 1 and deviation 0.25, kept in 0.7 to 1."""
    uniform = float(torch.rand(1, generator=generator, dtype=torch.float64))
    low = 0.5 * (1 + math.erf(-0.3 / 0.25 / math.sqrt(2)))
    inner = 2 * (low + (0.5 - low) * uniform) - 1
    share = 1 + 0.25 * math.sqrt(2) * float(torch.erfinv(torch.tensor(inner, dtype=torch.float64)))
    masks = min(max(math.ceil(share * count - 1e-9), 1), count)
    masked = np.zeros(count, bool)
    masked[torch.randperm(count, generator=generator)[:masks].numpy()] = True
    return masked


def draw_one_by_one(
    head: Any, see: See, begun: Tensor, counts: Sequence[int], generators: Sequence[Any],
    guidance: float, temperature: float,
) -> list[Tensor]:  # fmt: skip
    """Draws patch after patch; pictures that are full wait for the others with their last row."""
    drawn = [torch.zeros(count, head.size, device=begun.device) for count in counts]
    guided, state, without = guidance != 1, begun, None
    if guided:
        first = [lane(one, -1, 0, alone=True, stream=2) for one in drawn]
        without = torch.stack([one[-1] for one in see(first, True)])
    for at in range(max(counts)):
        found = head.sample(
            state, generators, temperature=temperature, guidance=guidance, unguided=without
        )
        for one, patch in zip(drawn, found, strict=True):
            if at < len(one):
                one[at] = patch.float()
        if at + 1 == max(counts):
            break
        rows = []
        for one in drawn:
            # A full picture adds nothing: an empty lane, and its old state stays unused.
            stop = at + 1 if at < len(one) else at
            mine = lane(one, at, stop)
            rows.append(joined(mine, lane(one, at, stop, alone=True, stream=2)) if guided else mine)
        states = see(rows, True)
        blank = torch.zeros_like(begun[0])
        state = torch.stack([one[0] if len(one) else blank for one in states])
        if guided:
            without = torch.stack([one[-1] if len(one) else blank for one in states])
    return drawn


def draw_few_by_few(
    head: Any, see: See, counts: Sequence[int], generators: Sequence[Any], device: Any,
    guidance: float, temperature: float,
) -> list[Tensor]:  # fmt: skip
    """Draws some of the masked patches a pass, in a random order of each picture."""
    drawn = [torch.zeros(count, head.size, device=device) for count in counts]
    orders = [
        torch.randperm(count, generator=one).numpy()
        for count, one in zip(counts, generators, strict=True)
    ]
    plans = [cosine_plan(count, min(count, head.passes)) for count in counts]
    for step in range(max(len(plan) - 1 for plan in plans)):
        rows, chosen, states, without, owners = [], [], [], [], []
        for one, order, plan in zip(drawn, orders, plans, strict=True):
            known, after = plan[min(step, len(plan) - 1)], plan[min(step + 1, len(plan) - 1)]
            masked = np.ones(len(one), bool)
            masked[order[:known]] = False
            chosen.append(order[known:after])
            mine = masked_block(one, masked)
            more = [masked_block(one, masked, alone=True, stream=2)] if guidance != 1 else []
            rows.append(joined(mine, *more))
        for found, new, generator in zip(see(rows, False), chosen, generators, strict=True):
            copies = found.chunk(2) if guidance != 1 else (found, found)
            states.append(copies[0][new])
            without.append(copies[1][new])
            owners += [generator] * len(new)
        patches = head.sample(
            torch.cat(states), owners, temperature=temperature, guidance=guidance,
            unguided=torch.cat(without) if guidance != 1 else None,
        )  # fmt: skip
        for one, new, part in zip(
            drawn, chosen, patches.split([len(new) for new in chosen]), strict=True
        ):
            one[new] = part.float()
    return drawn


def cosine_plan(count: int, passes: int) -> list[int]:
    """How many patches are known before each pass and at the end: few at first, at least one."""
    known = [0]
    for step in range(1, passes + 1):
        at = count - math.floor(count * math.cos(math.pi / 2 * step / passes) + 1e-9)
        known.append(min(max(at, known[-1] + 1), count - (passes - step)))
    return known
