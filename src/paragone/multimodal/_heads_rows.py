r"""How a picture goes through a Transformer patch by patch: rows, what each sees, what it predicts.

A picture of n patches becomes rows with three integers each, from which one rule makes the mask:

$$ q \text{ sees } k \iff \text{block}_q = \text{block}_k
   \ \lor\ (\lnot\, \text{hidden}_k \land \text{order}_k < \text{order}_q) . $$

- "raster": a row for each patch, a block of its own, in order; the state of each (first of all
  that of the mark that begins the picture) predicts the next patch.
- "random" (MAR): the clean patches, one block that sees itself; and, hidden from all others, a
  second block where a share of the patches is masked, whose states predict them.

Numbers are relative to the picture: whoever lays out the document adds what came before, and goes
on `span` further in the order after it.

References:
    Li et al. (2024), arXiv:2406.11838, section 4.1 and figure 2 (orders, masks, share masked).

Shapes: n patches of the picture, P numbers of a patch, R rows, B pictures drawn at once, M width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from paragone.multimodal._heads_draws import Generators

if TYPE_CHECKING:
    from paragone.multimodal.patch_heads import PatchHead

__all__ = ["AutoregressiveRows", "ImageRows", "Look", "clean_rows"]


class ImageRows(NamedTuple):
    """Rows of one picture, or of B pictures that share everything but the patches.

    Attributes:
        patches: (R, P) or (B, R, P) inputs; what stands at masked rows is not looked at.
        times: (R,) how noisy they are, from 0 (clean) to 1.
        masked: (R,) or (B, R), whether the mask token stands in place of the patch.
        places: (R,) which patch of the picture a row stands for, row by row: its position.
        order: (R,) from 0.
        block: (R,) from 0.
        hidden: (R,) whether other blocks do not see it.
        targets: (K, 2): of each prediction, the row whose state predicts (-1: the mark before the
            picture) and the patch that is predicted.
        goals: (K, ...) what is predicted, where it is not the patch itself.
        span: How far the order goes on.
        blocks: How many blocks there are.
    """

    patches: Tensor
    times: Tensor
    masked: Tensor
    places: Tensor
    order: Tensor
    block: Tensor
    hidden: Tensor
    targets: Tensor
    span: int
    blocks: int
    goals: Tensor | None = None


Look = Callable[[ImageRows, bool], tuple[Tensor, Tensor | None]]
"""Passes rows of B pictures through the Transformer behind what it has seen, and keeps them in its
cache if told so. Returns (B, 1 + R, M) states, that of the last row kept before (the mark, if the
picture has only begun) in front, and those of the documents without text, for guidance, or None."""


def clean_rows(patches: Tensor, *, causal: bool) -> ImageRows:
    """Rows of (n, P) or (B, n, P) clean patches that predict nothing.

    Args:
        patches: What is shown.
        causal: Whether each patch sees those before it only.
    """
    count, device = patches.shape[-2], patches.device
    at = torch.arange(count, device=device)
    zeros = torch.zeros_like(at)
    own = at if causal else zeros
    return ImageRows(
        patches, zeros.to(patches.dtype), zeros.bool(), at, own, own, zeros.bool(),
        at.new_empty(0, 2), count if causal else 1, count if causal else 1,
    )  # fmt: skip


class AutoregressiveRows:
    """The passage of a picture through the Transformer, for heads that predict single patches."""

    order: str

    def rows(
        self: Any, patches: Tensor, generator: torch.Generator | None = None, *,
        learned: bool = True, followed: bool = True,
    ) -> ImageRows:  # fmt: skip
        """Rows of one picture.

        Args:
            patches: (n, P).
            generator: Of what is masked.
            learned: Whether the picture is to be predicted.
            followed: Whether something comes after the picture and sees it.
        """
        shown = self.seen(patches)
        rows = clean_rows(shown, causal=self.order == "raster")
        count = len(patches)
        if not learned:
            return rows
        if self.order == "raster":
            at = torch.arange(count, device=patches.device)
            return rows._replace(targets=torch.stack([at - 1, at], 1), goals=patches)
        masked = _some_masked(count, generator, patches.device)
        hidden = _hidden_block(shown, masked)
        chosen = masked.nonzero()[:, 0]
        start = count if followed else 0
        rows = _behind(rows, hidden) if followed else hidden
        return rows._replace(
            targets=torch.stack([chosen + start, chosen], 1), goals=patches[chosen]
        )

    def rows_loss(
        self: Any, states: Tensor, targets: Tensor, generator: Generators = None
    ) -> Tensor:
        """(K,) losses of the predictions of `rows`, of one picture or of many joined.

        Args:
            states: (K, M), taken where `targets` says.
            targets: (K, ...), the `goals` of the rows.
            generator: As in `PatchHead.loss`.
        """
        return self.loss(states, targets, generator)

    def inputs(self: Any, embedded: Tensor, rows: ImageRows) -> Tensor:
        """(..., R, M) embedded rows, with the mask token where it stands."""
        if self.order != "random":
            return embedded
        return torch.where(rows.masked[..., None], self.mask_token, embedded)

    @torch.no_grad()
    def draw(
        self: Any, look: Look, count: int, pictures: int, generator: Generators = None, *,
        temperature: float = 1.0, steps: int | None = None, passes: int | None = None,
        guidance: float = 1.0, device: Any = None, dtype: torch.dtype | None = None,
    ) -> Tensor:  # fmt: skip
        """(B, n, P) new patches; all of them are in the cache, clean, when this returns.

        Args:
            look: The Transformer.
            count: Patches n of a picture.
            pictures: B.
            generator: None, or one for each picture.
            temperature: As in `PatchHead.sample`.
            steps: As in `PatchHead.sample`.
            passes: Passes of "random" order (None: as many as patches, at most 16).
            guidance: As in `PatchHead.sample`; needs states without text.
            device: Of the patches.
            dtype: Of the patches.
        """
        options = {"temperature": temperature, "steps": steps, "guidance": guidance}
        empty = torch.zeros(pictures, count, self.size, device=device, dtype=dtype)
        if self.order == "raster":
            return _one_by_one(self, look, empty, generator, options)
        return _few_by_few(self, look, empty, generator, options, passes or min(count, 16))


def _one_by_one(
    head: PatchHead, look: Look, drawn: Tensor, generator: Generators, options: dict[str, Any]
) -> Tensor:
    count = drawn.shape[1]
    whole = clean_rows(drawn, causal=True)
    states, unguided = look(part_of(whole, 0, 0), True)
    for at in range(count):
        patch = head.sample(
            states[:, -1], generator,
            unguided=None if unguided is None else unguided[:, -1], **options,
        )  # fmt: skip
        drawn[:, at] = head.seen(patch)
        states, unguided = look(part_of(whole, at, at + 1), True)
    return drawn


def _few_by_few(
    head: PatchHead, look: Look, drawn: Tensor, generator: Generators, options: dict[str, Any],
    passes: int,
) -> Tensor:  # fmt: skip
    pictures, count, _ = drawn.shape
    orders = _orders(pictures, count, generator, drawn.device)
    known = 0
    for step in range(passes):
        left = math.floor(count * math.cos(math.pi / 2 * (step + 1) / passes))
        new = max(count - left - known, 0 if known + passes - step > count else 1)
        new = count - known if step == passes - 1 else min(new, count - known)
        if not new:
            continue
        masked = torch.ones(pictures, count, dtype=torch.bool, device=drawn.device)
        masked.scatter_(1, orders[:, :known], False)
        states, unguided = look(_hidden_block(drawn, masked), False)
        chosen = orders[:, known : known + new]
        at = chosen[..., None].expand(-1, -1, states.shape[-1])
        each = generator
        if each is not None and not isinstance(each, torch.Generator):
            each = [one for one in each for _ in range(new)]
        patches = head.sample(
            states[:, 1:].gather(1, at).flatten(0, 1), each,
            unguided=None if unguided is None else unguided[:, 1:].gather(1, at).flatten(0, 1),
            **options,
        )  # fmt: skip
        patches = head.seen(patches).view(pictures, new, -1)
        drawn.scatter_(1, chosen[..., None].expand(-1, -1, drawn.shape[-1]), patches)
        known += new
    look(clean_rows(drawn, causal=False), True)
    return drawn


def part_of(rows: ImageRows, start: int, stop: int) -> ImageRows:
    """Some of the rows."""
    cut = slice(start, stop)
    return rows._replace(
        patches=rows.patches[..., cut, :], times=rows.times[cut], masked=rows.masked[..., cut],
        places=rows.places[cut], order=rows.order[cut], block=rows.block[cut],
        hidden=rows.hidden[cut],
    )  # fmt: skip


def _orders(pictures: int, count: int, generator: Generators, device: Any) -> Tensor:
    """(B, n) random orders; one generator a picture makes it independent of the others."""
    if generator is None or isinstance(generator, torch.Generator):
        generator = [generator] * pictures  # pyright: ignore[reportAssignmentType]
    assert generator is not None
    return torch.stack([
        torch.randperm(count, generator=one, device=device if one is None else one.device)
        for one in generator  # pyright: ignore[reportGeneralTypeIssues]
    ]).to(device)  # fmt: skip


def _some_masked(count: int, generator: torch.Generator | None, device: Any) -> Tensor:
    """(n,) masked or not: a share from a normal of mean 1 and deviation 0.25, kept in 0.7 to 1."""
    where = device if generator is None else generator.device
    uniform = torch.rand(1, generator=generator, device=where).double()
    low = 0.5 * (1 + math.erf(-0.3 / 0.25 / math.sqrt(2)))
    at = low + (0.5 - low) * uniform
    share = 1 + 0.25 * math.sqrt(2) * torch.erfinv(2 * at - 1)
    masks = min(max(math.ceil(float(share) * count - 1e-9), 1), count)
    order = torch.randperm(count, generator=generator, device=where)
    masked = torch.zeros(count, dtype=torch.bool, device=where)
    masked[order[:masks]] = True
    return masked.to(device)


def _hidden_block(patches: Tensor, masked: Tensor) -> ImageRows:
    rows = clean_rows(patches, causal=False)
    return rows._replace(masked=masked, hidden=torch.ones_like(rows.hidden))


def _behind(first: ImageRows, second: ImageRows) -> ImageRows:
    """Rows of both, the second a copy that nobody else sees."""
    return first._replace(
        patches=torch.cat([first.patches, second.patches], -2),
        times=torch.cat([first.times, second.times]),
        masked=torch.cat([first.masked, second.masked], -1),
        places=torch.cat([first.places, second.places]),
        order=torch.cat([first.order, second.order]),
        block=torch.cat([first.block, second.block + first.blocks]),
        hidden=torch.cat([first.hidden, second.hidden]),
        blocks=first.blocks + second.blocks,
    )
