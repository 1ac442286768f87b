r"""Noise-expanded autoregression: the Transformer itself denoises each patch in turn.

Each patch is written out as its noise levels, $x_T, \dots, x_1, x_0$, and the text of a picture is
all of them in order. A copy at level t sees the text and the clean patches before its own, but no
other noisy copy, so levels may be skipped: in training a few times a patch, in drawing one row for
each step,

$$ L = \mathbb{E}_{t, \epsilon} \sum_i \frac{1}{P} \bigl\lVert
   y_i - f_\theta(a_t x_i + s_t \epsilon, t \mid x_{<i}, \text{text}) \bigr\rVert^2 . $$

No head of its own is needed, but each step of drawing is a pass of one row through the whole
Transformer, where `DiffusionHead` takes one through a small network.

Cost: n (1 + R) rows a picture in training, n (1 + steps) passes of one row in drawing.

References:
    Su (2024), "Closed-door multimodality (II): autoregression", kexue.fm 10197, section on
    diffusion as an autoregression over noise levels.

Shapes: n patches, R noisy copies of each, M width of states, P numbers of a patch, B pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paragone.multimodal._heads_draws import Generators, normals, uniforms
from paragone.multimodal._heads_noise import NoisePath, TimeEmbedding, squared
from paragone.multimodal._heads_rows import clean_rows, joined, lane
from paragone.multimodal._lossless_rows import Rows, See
from paragone.multimodal.patch_heads import PatchHead

__all__ = ["ExpandedHead"]


class ExpandedHead(PatchHead):
    r"""One linear map of states, and noisy copies of patches as rows of the Transformer.

    Prefer it to `DiffusionHead` where the Transformer is small and its whole depth shall denoise;
    prefer `DiffusionHead` where drawing has to be fast.

    Args:
        width: Width M of the states.
        size: Numbers P of a patch.
        schedule: "flow" or "cosine".
        prediction: "v", "x0" or "eps".
        times: "uniform" or "logit-normal".
        repeats: R, noisy copies of a patch in training.
        steps: Steps of drawing a patch.
        eta: 0 for Euler's steps of the flow, 1 for steps that add noise again.
        **common: Further arguments of `PatchHead`, of which order is always "raster".

    Raises:
        ValueError: An unknown name, or a number out of range.
    """

    def __init__(
        self,
        width: int,
        size: int,
        *,
        schedule: Literal["flow", "cosine"] = "flow",
        prediction: Literal["v", "x0", "eps"] = "v",
        times: Literal["uniform", "logit-normal"] = "uniform",
        repeats: int = 2,
        steps: int = 10,
        eta: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(width, size, **common)
        if self.order != "raster":
            raise ValueError(f"order={self.order!r}: noise levels go in 'raster' order alone")
        self.path = NoisePath(schedule, prediction, times)
        if repeats < 1 or steps < 1 or not 0 <= eta <= 1:
            raise ValueError(
                f"repeats={repeats}, steps={steps}, eta={eta}; at least 1, at least 1 and 0 to 1 "
                "are expected"
            )
        self.repeats, self.steps, self.eta = repeats, steps, eta
        place: Any = {name: common.get(name) for name in ("device", "dtype")}
        self.time_embed = TimeEmbedding(width, **place)
        self.linear = nn.Linear(width, size, **place)

    def embedded(self, h: Tensor, time: Tensor, masked: Tensor | None) -> Tensor:
        """(N, M) rows with their times added."""
        return h + self.time_embed(time)

    def rows(
        self,
        patches: Tensor,
        grid: tuple[int, int],
        learned: bool,
        generator: torch.Generator | None = None,
    ) -> Rows:
        """Rows of a picture: clean, a lane of clean patches, and R noisy copies of each."""
        clean = clean_rows(patches)
        if not learned:
            return clean
        alone = float(torch.rand(1, generator=generator)) < self.drop
        count, size = patches.shape
        place = {"device": "cpu", "dtype": torch.float32}
        share = uniforms((count, self.repeats), generator, **place)
        times = self.path.spread((torch.arange(self.repeats) + share) / self.repeats)
        noise = normals((count, self.repeats, size), generator, **place)
        noisy, goals = self.path.noised(patches[:, None].expand_as(noise), noise, times)
        copies = noisy_rows(
            noisy.flatten(0, 1), times.flatten(), np.arange(count).repeat(self.repeats), count,
            alone=alone,
        )  # fmt: skip
        rows = joined(clean, lane(patches, -1 if alone else 0, count - 1, alone=alone), copies)
        reads = len(rows) - len(copies) + 1 + np.arange(len(copies))
        return dataclasses.replace(
            rows, reads=reads, targets=goals.flatten(0, 1), repeats=self.repeats
        )

    def loss(self, states: Tensor, patches: Tensor, generator: Generators = None) -> Tensor:
        """(N,) squared errors of the states of noisy copies; `patches` are the rows' targets."""
        self.checked(states, patches)
        return squared(self.linear(states) - patches).mean(1)

    def sample(self, states: Tensor, generator: Generators = None, **options: Any) -> Tensor:
        """Not defined: a state belongs to one level of noise.

        Raises:
            NotImplementedError: Always; `draw` goes through the Transformer.
        """
        raise NotImplementedError("patches are drawn by passes of the Transformer: call `draw`")

    @torch.no_grad()
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
        """(n, P) patches, each walked from noise by passes of one row; see `PictureHead.draw`."""
        counts = [rows * columns for rows, columns in grids]
        place: Any = {"device": begun.device, "dtype": torch.float32}
        drawn = [torch.zeros(count, self.size, **place) for count in counts]
        lanes = ((False, 1), (True, 2)) if guidance != 1 else ((False, 1),)
        if guidance != 1:
            see([lane(one, -1, 0, alone=True, stream=2) for one in drawn], True)

        def predict(noisy: Tensor, time: float) -> Tensor:
            asked = []
            for one, patch in zip(drawn, noisy[:, None], strict=True):
                level = torch.full((1,), time, device=patch.device)
                which = np.full(1, min(at, len(one) - 1))
                asked.append(joined(*(
                    noisy_rows(patch, level, which, len(one), alone=alone, stream=number)
                    for alone, number in lanes
                )))  # fmt: skip
            found = self.linear(torch.stack(see(asked, False))).float()
            if guidance == 1:
                return found[:, 0]
            return found[:, 1] + guidance * (found[:, 0] - found[:, 1])

        def noise() -> Tensor:
            return temperature * normals((len(drawn), self.size), generators, **place)

        for at in range(max(counts)):
            found = self.path.walk(predict, noise, self.steps, self.eta)
            rows = []
            for one, patch in zip(drawn, found, strict=True):
                stop = min(at + 1, len(one))
                one[at:stop] = patch
                rows.append(joined(*(
                    lane(one, at, stop, alone=alone, stream=number) for alone, number in lanes
                )))  # fmt: skip
            see(rows, True)
        return drawn


def noisy_rows(
    noisy: Tensor, times: Tensor, place: np.ndarray, count: int, *, alone: bool = False,
    stream: int = 1,
) -> Rows:  # fmt: skip
    """Noisy copies of patches, each of which sees the lane before its place, and nobody it.

    Args:
        noisy: (R, P).
        times: (R,).
        place: (R,) which patch each is a copy of.
        count: Patches n of the picture.
        alone: Whether the text is not seen.
        stream: Number of the lane.
    """
    own = np.arange(len(place)) + stream * len(place)
    return Rows(
        noisy, place, place + 1, own + 3 * (count + 2), np.full(len(place), 2 * stream + 1),
        times, np.ones(len(place), bool) if alone else None,
    )  # fmt: skip
