r"""Screenshots of a batch as features: of any sizes, each encoded once.

Screens of one size are encoded together; contexts then get the features of their last N screens
side by side, short ones filled up and masked. A screen larger than the limit is shrunk as
`smart_resize` says; its other sides are filled up to whole squares of patches, never cut.

References:
    Dehghani et al. (2023), arXiv:2307.06304 (sizes as they are).
    Wu et al. (2025), GUI-Actor, arXiv:2506.03143, section 3.2 (patches inside the box).

Shapes: B contexts, P fine patches, S coarse features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from paragone.multimodal._ui_tars_config import UITarsConfig
from paragone.multimodal._ui_tars_encoders import Encoder, Seen
from paragone.multimodal._ui_tars_language import Language, Memory
from paragone.multimodal.agent.contract import Box, Context, Screen

__all__ = ["Screens", "model_size", "right_patches"]


def model_size(screen: Screen, config: UITarsConfig) -> tuple[int, int]:
    """Rows and columns at which the model sees a screenshot."""
    rows, columns = screen.size
    if rows * columns <= config.max_pixels:
        return rows, columns
    from paragone.multimodal.agent.coordinates import smart_resize

    factor = 2 * config.patch
    return smart_resize(rows, columns, factor, factor * factor, config.max_pixels)


def _pixels(screen: Screen, config: UITarsConfig) -> np.ndarray:
    """(H, W, 3) uint8 at the model's size, filled up to squares of patches with its last pixels."""
    pixels = screen.pixels
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise ValueError(
            f"a screenshot has shape {pixels.shape} and type {pixels.dtype}; (H, W, 3) uint8 is "
            "expected"
        )
    size = model_size(screen, config)
    if size != screen.size:
        from PIL import Image

        image = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
    by = 2 * config.patch
    more = [(-side) % by for side in size]
    if any(more):
        pixels = np.pad(pixels, ((0, more[0]), (0, more[1]), (0, 0)), mode="edge")
    return pixels


class Screens:
    """The screenshots of contexts, each of them once.

    Args:
        contexts: At least one.
        config: Sizes.
        device: Where features are to be.
        dtype: Their type.

    Raises:
        ValueError: No context, or one without a screenshot.
    """

    def __init__(
        self, contexts: Sequence[Context], config: UITarsConfig, device: torch.device,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        if not contexts:
            raise ValueError("no sample and no context; at least one is expected")
        self.config, self.device, self.dtype = config, device, dtype
        self.known: dict[int, int] = {}
        self.images: list[np.ndarray] = []
        self.scales: list[tuple[float, float]] = []
        self.wanted: list[list[int]] = []
        for context in contexts:
            if not context.screens:
                raise ValueError("a context has no screenshot; the present one is needed")
            now = context.screens[-1]
            size = model_size(now, config)
            self.scales.append((size[1] / now.size[1], size[0] / now.size[0]))
            last = context.screens[: -config.screenshots - 1 : -1]
            self.wanted.append([self._number(one) for one in last])

    def _number(self, screen: Screen) -> int:
        if id(screen.pixels) not in self.known:
            self.known[id(screen.pixels)] = len(self.images)
            self.images.append(_pixels(screen, self.config))
        return self.known[id(screen.pixels)]

    def memory(
        self, encoder: Encoder, language: Language
    ) -> tuple[Memory, list[tuple[float, float]]]:
        """Encodes and lays side by side."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for at, image in enumerate(self.images):
            groups.setdefault(image.shape, []).append(at)
        seen, spot = [], {}
        for number, members in enumerate(groups.values()):
            stack = torch.from_numpy(np.stack([self.images[at] for at in members]))
            pixels = stack.to(self.device).permute(0, 3, 1, 2).to(self.dtype) / 127.5 - 1
            seen.append(encoder(pixels))
            spot |= {at: (number, place) for place, at in enumerate(members)}
        simple = len(seen) == 1 and all(wanted == [at] for at, wanted in enumerate(self.wanted))
        if simple:
            return self._plain(seen[0], language), self.scales
        return self._gathered(seen, spot, language), self.scales

    def _plain(self, seen: Seen, language: Language) -> Memory:
        many, (rows, columns) = len(seen.keys), seen.grid
        sizes = {
            "rows": torch.full((many,), rows, device=self.device),
            "columns": torch.full((many,), columns, device=self.device),
        }
        ages = torch.zeros(seen.coarse.shape[1], dtype=torch.long, device=self.device)
        parts = {"keys": seen.keys, "fine": seen.fine, "present": None, **sizes}
        return language.remember(seen.coarse, ages, None, parts)

    def _gathered(
        self, seen: Sequence[Seen], spot: dict[int, tuple[int, int]], language: Language
    ) -> Memory:
        coarse, ages, keys, fine, grids = [], [], [], [], []
        for wanted in self.wanted:
            found = [spot[at] for at in wanted]
            parts = [seen[group].coarse[place] for group, place in found]
            coarse.append(torch.cat(parts))
            ages.append(torch.cat([
                torch.full((len(part),), age, device=self.device) for age, part in enumerate(parts)
            ]))  # fmt: skip
            group, place = found[0]
            keys.append(seen[group].keys[place])
            fine.append(seen[group].fine[place])
            grids.append(seen[group].grid)
        whole, mask = _filled(coarse)
        old = torch.nn.utils.rnn.pad_sequence(ages, batch_first=True)
        key, present = _filled(keys)
        grid = torch.tensor(grids, device=self.device)
        parts = {
            "keys": key, "fine": _filled(fine)[0], "present": None if present.all() else present,
            "rows": grid[:, 0], "columns": grid[:, 1],
        }  # fmt: skip
        return language.remember(whole, old, None if mask.all() else mask, parts)


def _filled(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows (n, M) side by side, and where there is something."""
    counts = torch.tensor([len(part) for part in parts], device=parts[0].device)
    whole = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
    return whole, torch.arange(whole.shape[1], device=whole.device) < counts[:, None]


def right_patches(
    boxes: Sequence[Sequence[Box]], memory: Memory, screen: Tensor, patch: int
) -> Tensor:
    """Which patches (n, P) have their centre in one of the boxes; at least the nearest one.

    Args:
        boxes: Boxes of each question, in pixels of the model.
        memory: Screens.
        screen: (n,), the screen of each question.
        patch: Pixels of a patch's side.
    """
    device = memory.keys.device
    flat = torch.tensor([one for many in boxes for one in many], device=device)
    owner = torch.tensor([at for at, many in enumerate(boxes) for _ in many], device=device)
    number = torch.arange(memory.keys.shape[1], device=device)
    columns, rows = memory.columns[screen][owner][:, None], memory.rows[screen][owner][:, None]
    x = (number % columns + 0.5) * patch
    y = (number // columns + 0.5) * patch
    left, top, right, bottom = flat[:, :, None].unbind(1)
    real = number < columns * rows
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom) & real
    far = (x - (left + right) / 2) ** 2 + (y - (top + bottom) / 2) ** 2
    nearest = far.masked_fill(~real, torch.inf).argmin(1, keepdim=True)
    inside = inside | (~inside.any(1, keepdim=True) & (number == nearest))
    found = torch.zeros(len(boxes), len(number), dtype=torch.int32, device=device)
    return found.index_add(0, owner, inside.int()) > 0
