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

from typing import Any, Literal

import torch
from torch import Tensor, nn

from paragone.multimodal._heads_draws import Generators, normals, uniforms
from paragone.multimodal._heads_noise import NoisePath, TimeEmbedding
from paragone.multimodal._heads_rows import ImageRows, Look, clean_rows, part_of
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
        device: Where the weights are.
        dtype: Their type.

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
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(width, size, device=device, dtype=dtype)
        self.path = NoisePath(schedule, prediction, times)
        if repeats < 1 or steps < 1 or not 0 <= eta <= 1:
            raise ValueError(
                f"repeats={repeats}, steps={steps}, eta={eta}; at least 1, at least 1 and 0 to 1 "
                "are expected"
            )
        self.repeats, self.steps, self.eta = repeats, steps, eta
        self.time_embed = TimeEmbedding(width, device=device, dtype=dtype)
        self.linear = nn.Linear(width, size, device=device, dtype=dtype)

    def rows(
        self, patches: Tensor, generator: torch.Generator | None = None, *,
        learned: bool = True, followed: bool = True,
    ) -> ImageRows:  # fmt: skip
        """Rows of one picture: clean copies, then R noisy ones of each patch."""
        clean = clean_rows(patches, causal=True)
        if not learned:
            return clean
        count, size = patches.shape
        place = {"device": patches.device, "dtype": patches.dtype}
        share = uniforms((count, self.repeats), generator, **place)
        times = self.path.spread((torch.arange(self.repeats).to(share) + share) / self.repeats)
        noise = normals((count, self.repeats, size), generator, **place)
        noisy, goals = self.path.noised(patches[:, None].expand_as(noise), noise, times)
        which = clean.places.repeat_interleave(self.repeats)
        own = torch.arange(len(which), device=patches.device)
        return clean._replace(
            patches=torch.cat([clean.patches, noisy.flatten(0, 1)]),
            times=torch.cat([clean.times, times.flatten()]),
            masked=torch.cat([clean.masked, torch.zeros_like(which, dtype=torch.bool)]),
            places=torch.cat([clean.places, which]),
            order=torch.cat([clean.order, which]),
            block=torch.cat([clean.block, count + own]),
            hidden=torch.cat([clean.hidden, torch.ones_like(which, dtype=torch.bool)]),
            targets=torch.stack([count + own, which], 1),
            goals=goals.flatten(0, 1),
            blocks=clean.blocks + len(which),
        )

    def inputs(self, embedded: Tensor, rows: ImageRows) -> Tensor:
        """(..., R, M) embedded rows, with their times."""
        return embedded + self.time_embed(rows.times).to(embedded.dtype)

    def loss(self, states: Tensor, patches: Tensor, generator: Generators = None) -> Tensor:
        """(N,) squared errors of the states of noisy copies; `patches` are the rows' `goals`."""
        self.checked(states, patches)
        return (self.linear(states) - patches).float().square().mean(1)

    def sample(self, states: Tensor, generator: Generators = None, **options: Any) -> Tensor:
        """Not defined: a state belongs to one level of noise.

        Raises:
            NotImplementedError: Always; `draw` goes through the Transformer.
        """
        raise NotImplementedError("patches are drawn by passes of the Transformer: call `draw`")

    @torch.no_grad()
    def draw(
        self, look: Look, count: int, pictures: int, generator: Generators = None, *,
        temperature: float = 1.0, steps: int | None = None, passes: int | None = None,
        guidance: float = 1.0, device: Any = None, dtype: torch.dtype | None = None,
    ) -> Tensor:  # fmt: skip
        """(B, n, P) new patches, each walked from noise by passes of one hidden row."""
        place = {"device": device, "dtype": dtype or torch.get_default_dtype()}
        drawn = torch.zeros(pictures, count, self.size, **place)
        whole = clean_rows(drawn, causal=True)
        for at in range(count):
            row = part_of(whole, at, at + 1)
            hidden = row._replace(hidden=~row.hidden, block=torch.full_like(row.block, count))

            def predict(noisy: Tensor, time: float, row: ImageRows = hidden) -> Tensor:
                level = row._replace(patches=noisy[:, None], times=torch.full_like(row.times, time))
                states, unguided = look(level, False)
                found = self.linear(states[:, -1])
                if unguided is None:
                    return found
                without = self.linear(unguided[:, -1])
                return without + guidance * (found - without)

            def noise() -> Tensor:
                return temperature * normals((pictures, self.size), generator, **place)

            drawn[:, at] = self.path.walk(predict, noise, steps or self.steps, self.eta)
            look(part_of(whole, at, at + 1), True)
        return drawn
