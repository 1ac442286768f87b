r"""The head "flow": all patches of a picture are denoised at once, by the Transformer itself.

A picture is the end of a flow that begins with noise. With $t = 0$ clean and $t = 1$ noise,

$$ x_t = (1 - t)\, x + t\, \epsilon, \qquad v = \epsilon - x, \qquad
   L = \mathbb{E}_{x, t, \epsilon} \tfrac1P \lVert v - v_\theta(x_t, t) \rVert^2, \qquad
   x_{t - \delta} = x_t - \delta\, v_\theta(x_t, t) , $$

where the patches of $x_t$ are rows of the sequence that see the text and each other. What the last
linear map gives may be $v$, the clean patches ($v_\theta = (x_t - \hat x) / t$) or the noise
($v_\theta = (\hat\epsilon - x_t) / (1 - t)$): the loss is that of v in each case, and clean
patches, which lie on a surface of few dimensions, are the easiest for raw pixels. A document holds
several noisy copies of a picture, whose times are spread over strata, so that the text is read once
for all of them. A share of them sees no text, for guidance $u + g (c - u)$.

Cost: in training, (copies + 1) n rows a picture; in drawing, n rows a step, twice with guidance.

References:
    Su (2024), kexue.fm/archives/9984 (noise patches behind [IMG], in parallel).
    Zhou et al. (2024), Transfusion, arXiv:2408.11039, eq. 3-4.
    Lipman et al. (2023), arXiv:2210.02747, eq. 20-23; Esser et al. (2024), arXiv:2403.03206,
    eq. 19 (logit-normal times); Li and He (2025), arXiv:2511.13720 (clean patches, loss of v).
    Ho and Salimans (2022), arXiv:2207.12598, eq. 6 (guidance).

Shapes: n patches, P numbers of a patch, M model width, N rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paragone.multimodal._lossless_rows import PictureHead, Rows, See

__all__ = ["FlowHead"]

_LEAST = 0.05
"""What t or 1 - t is at least where it divides."""


class FlowHead(PictureHead):
    """Denoises all patches of a picture in parallel.

    Prefer it to heads that go patch by patch: a picture takes `steps` passes whatever its size,
    and patches agree with all others. Prefer "mar" where pictures have few patches.

    Args:
        width: Width M of the states.
        size: Numbers P of a patch.
        prediction: What the last map gives: "x0", "v" or "eps".
        times: "uniform", or "logit-normal", which is denser in the middle.
        shift: Of the logit-normal times: above 0 they are noisier.
        copies: Noisy copies of a picture and step of training.
        drop: Share of copies that see no text.
        steps: Steps of drawing.
        solver: "euler", or "heun" (second order, twice the passes).
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
        prediction: Literal["x0", "v", "eps"] = "x0",
        times: Literal["uniform", "logit-normal"] = "logit-normal",
        shift: float = 0.5,
        copies: int = 4,
        drop: float = 0.1,
        steps: int = 20,
        solver: Literal["euler", "heun"] = "heun",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        for name, value, known in (
            ("prediction", prediction, ("x0", "v", "eps")),
            ("times", times, ("uniform", "logit-normal")),
            ("solver", solver, ("euler", "heun")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is none of {', '.join(known)}")
        if copies < 1 or steps < 1 or not 0 <= drop < 1:
            raise ValueError(
                f"copies={copies}, steps={steps}, drop={drop}; at least 1, at least 1, and a share "
                "from 0 to below 1 are expected"
            )
        self.prediction, self.times, self.shift = prediction, times, shift
        self.copies, self.drop, self.steps, self.solver = copies, drop, steps, solver
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.width = width
        self.time_embed = nn.Sequential(
            nn.Linear(width, width, **where), nn.SiLU(), nn.Linear(width, width, **where)
        )
        self.modulation = nn.Linear(width, 2 * width, **where)
        self.linear = nn.Linear(width, size, **where)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws matrices of standard deviation 0.02; the modulation starts at 0."""
        for module in (self.time_embed[0], self.time_embed[2], self.modulation, self.linear):
            assert isinstance(module, nn.Linear)
            if not module.weight.is_meta:
                nn.init.normal_(module.weight, std=0.02, generator=generator)
                nn.init.zeros_(module.bias)
        if not self.modulation.weight.is_meta:
            nn.init.zeros_(self.modulation.weight)

    def _embedded(self, time: Tensor) -> Tensor:
        half = self.width // 2
        speed = torch.exp(-math.log(1e4) / half * torch.arange(half, device=time.device))
        angles = 1000 * time[:, None] * speed
        waves = torch.cat([angles.cos(), angles.sin()], -1)
        return self.time_embed(waves.to(self.linear.weight.dtype))

    def embedded(self, h: Tensor, time: Tensor, masked: Tensor | None) -> Tensor:
        """(N, M) rows with their times added."""
        return h + self._condition(time)

    def _condition(self, time: Tensor) -> Tensor:
        # Few times are different: rows of a copy share theirs, and clean rows all have 0.
        known, which = torch.unique(time, return_inverse=True)
        return self._embedded(known)[which]

    def rows(
        self,
        patches: Tensor,
        grid: tuple[int, int],
        learned: bool,
        generator: torch.Generator | None = None,
    ) -> Rows:
        """Noisy copies if it is learned, and the clean picture."""
        count, copies = len(patches), self.copies if learned else 0
        noise = torch.randn(copies, *patches.shape, generator=generator)
        time = self._times(copies, generator)
        alone = (torch.rand(copies, generator=generator) < self.drop).numpy()
        noisy = torch.lerp(patches.expand_as(noise), noise, time[:, None, None])
        which = np.arange(copies + 1).repeat(count)
        return Rows(
            torch.cat([noisy.flatten(0, 1), patches]),
            place=np.tile(np.arange(count), copies + 1),
            order=np.zeros(len(which), np.int64),
            block=which,
            hidden=(which < copies).astype(np.int64),
            time=torch.cat([time.repeat_interleave(count), torch.zeros(count)]),
            alone=np.append(alone, False).repeat(count),
            reads=1 + np.arange(copies * count),
            targets=(noise - patches).flatten(0, 1),
            repeats=max(copies, 1),
        )

    def _times(self, copies: int, generator: torch.Generator | None) -> Tensor:
        share = (torch.arange(copies) + torch.rand(copies, generator=generator)) / max(copies, 1)
        if self.times == "uniform":
            return share
        return torch.sigmoid(self.shift + torch.special.ndtri(share.clamp(1e-6, 1 - 1e-6)))

    def velocity(self, states: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """(N, M) states of (N, P) noisy patches at (N,) times to (N, P) velocities."""
        scale, shift = self.modulation(nn.functional.silu(self._condition(time))).chunk(2, -1)
        found = self.linear(states * (1 + scale) + shift).float()
        if self.prediction == "v":
            return found
        if self.prediction == "x0":
            return (noisy - found) / time.clamp(min=_LEAST)[:, None]
        return (found - noisy) / (1 - time).clamp(min=_LEAST)[:, None]

    def rows_loss(
        self,
        states: Tensor,
        rows: Sequence[Rows],
        generators: Sequence[torch.Generator | None],
    ) -> Tensor:
        """(m,) mean squared errors of the velocities."""
        noisy, time, wanted = [], [], []
        for one in rows:
            assert one.time is not None
            assert one.targets is not None
            noisy.append(one.inputs[one.reads - 1])
            time.append(one.time[one.reads - 1])
            wanted.append(one.targets)
        noisy, time, wanted = (torch.cat(x).to(states.device) for x in (noisy, time, wanted))
        return (self.velocity(states, noisy, time) - wanted).square().mean(-1)

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
        """Follows the flow from noise to pictures."""
        counts = [h * w for h, w in grids]
        size = self.linear.out_features
        drawn = [
            torch.randn(n, size, generator=one) for n, one in zip(counts, generators, strict=True)
        ]
        x = torch.cat(drawn).to(begun.device) * temperature
        blank = [self._blank(n, 2 if guidance != 1 else 1) for n in counts]
        slopes = self._slopes(see, blank, counts, guidance)
        at = 1 - torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        for now, then in zip(at[:-1].tolist(), at[1:].tolist(), strict=True):
            first = slopes(x, now)
            there = x - (now - then) * first
            if self.solver == "heun" and then > 0:
                there = x - (now - then) / 2 * (first + slopes(there, then))
            x = there
        return list(x.split(counts))

    def _blank(self, count: int, copies: int) -> Rows:
        which = np.arange(copies).repeat(count)
        return Rows(
            torch.zeros(0, 0), np.tile(np.arange(count), copies), np.zeros_like(which), which,
            np.ones_like(which), alone=which > 0,
        )  # fmt: skip

    def _slopes(
        self, see: See, blank: Sequence[Rows], counts: Sequence[int], guidance: float
    ) -> Callable[[Tensor, float], Tensor]:
        def found(x: Tensor, t: float) -> Tensor:
            asked = []
            for one, patches in zip(blank, x.split(list(counts)), strict=True):
                copies = len(one.place) // len(patches)
                asked.append(dataclasses.replace(
                    one, inputs=patches.repeat(copies, 1),
                    time=torch.full((copies * len(patches),), t, device=x.device),
                ))  # fmt: skip
            states = [
                one.view(-1, n, one.shape[-1])
                for one, n in zip(see(asked, False), counts, strict=True)
            ]
            time = x.new_full((len(x),), t)
            speeds = [self.velocity(torch.cat(copy), x, time) for copy in zip(*states, strict=True)]
            if len(speeds) == 1:
                return speeds[0]
            return speeds[1] + guidance * (speeds[0] - speeds[1])

        return found
