r"""Heads of patches: what the state of a Transformer says of the next patch, a continuous vector.

A text token is drawn from a softmax. A patch of raw pixels has no table of values, and the squared
error is no way out: its best answer to two possible patches is their mean, which is neither. A
small denoiser that reads the state h models the whole distribution,

$$ L = \mathbb{E}_{x, t, \epsilon} \frac{1}{P}
   \bigl\lVert y - f_\theta(a_t x + s_t \epsilon, t, h) \bigr\rVert^2 , \qquad
   y = \begin{cases} \epsilon & \text{"eps"} \\ x & \text{"x0"} \\
       c\, (a'_t x + s'_t \epsilon) & \text{"v"} \end{cases} $$

with $a_t = 1 - t,\ s_t = t$ ("flow", where $v = \epsilon - x$) or $a_t = \cos \tfrac{\pi}{2} t,
\ s_t = \sin \tfrac{\pi}{2} t$ ("cosine", $v = a_t \epsilon - s_t x$ and $c = 2 / \pi$), at several
t a patch, since the denoiser costs little beside the Transformer. A patch is drawn by walking t
from 1 to 0: of the clean patch and the noise that are found at t,

$$ x_{t'} = a_{t'} \hat x + \sqrt{s_{t'}^2 - \sigma^2}\, \hat\epsilon + \sigma z , \qquad
   \sigma = \eta\, s_{t'} \sqrt{1 - (a_t s_{t'} / a_{t'} s_t)^2} , $$

Euler's steps of the flow with $\eta = 0$, the posterior of the noising with $\eta = 1$.

Cost: the denoiser's weights times `repeats` a patch in training, times `steps` in drawing.

References:
    Li et al. (2024), arXiv:2406.11838, eq. 1-2 and section 4.2 (the head, its noise several times).
    Song et al. (2021), DDIM, arXiv:2010.02502, eq. 12 and 16; Lipman et al. (2023),
    arXiv:2210.02747, eq. 20-23 (flow matching); Salimans and Ho (2022), arXiv:2202.00512 (v).
    Peebles and Xie (2023), DiT, arXiv:2212.09748, section 3.2 (adaLN-Zero).
    Su (2024), kexue.fm 10197 (why the squared error fails, and what does not).

Shapes: N patches, M width of states, P numbers of a patch, R repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paragone._core.lazy import resolve
from paragone.multimodal._heads_draws import Generators, normals, uniforms
from paragone.multimodal._heads_noise import (
    NoisePath,
    ResidualBlock,
    TimeEmbedding,
    normed,
    squared,
)
from paragone.multimodal._heads_rows import (
    clean_rows,
    draw_few_by_few,
    draw_one_by_one,
    random_rows,
    raster_rows,
)
from paragone.multimodal._lossless_rows import PictureHead, Rows, See

__all__ = ["HEADS", "DiffusionHead", "MeanHead", "PatchHead", "make_head"]

HEADS = {
    "mar": "paragone.multimodal.patch_heads:DiffusionHead",
    "mse": "paragone.multimodal.patch_heads:MeanHead",
    "vq": "paragone.multimodal._heads_codes:CodeHead",
    "expanded": "paragone.multimodal._heads_expanded:ExpandedHead",
}
"""Names of heads that go through the trunk patch by patch; "flow" is the trunk's own."""


def make_head(
    name: str, width: int, size: int, options: Mapping[str, Any] | None = None, **places: Any
) -> PatchHead:
    """The head of a name.

    Args:
        name: A key of `HEADS`.
        width: Width M of the states.
        size: Numbers P of a patch.
        options: Further arguments of the head.
        **places: `device` and `dtype`.

    Raises:
        ValueError: An unknown name or option.
    """
    if name not in HEADS:
        raise ValueError(f"head={name!r} is none of {', '.join(HEADS)}")
    try:
        return resolve(HEADS[name])(width, size, **dict(options or {}), **places)
    except TypeError as error:
        raise ValueError(f"head={name!r} does not take {dict(options or {})} ({error})") from error


class PatchHead(PictureHead):
    """A distribution of patches given states; subclasses write `loss` and `sample`.

    Args:
        width: Width M of the states.
        size: Numbers P of a patch.
        order: "raster": patches one by one, row by row; "random": masked patches a few at a time
            in random order, all of the picture's known patches being seen (MAR).
        passes: Most passes of "random" order in drawing.
        drop: Share of pictures that are learned without the text, for guidance.
        device: Where the weights are.
        dtype: Their type.

    Raises:
        ValueError: Sizes below 1, a share out of range, or an unknown order.
    """

    def __init__(
        self,
        width: int,
        size: int,
        *,
        order: Literal["raster", "random"] = "raster",
        passes: int = 16,
        drop: float = 0.1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("size", size), ("passes", passes)):
            if value < 1:
                raise ValueError(f"{name}={value}; at least 1 is expected")
        if order not in ("raster", "random"):
            raise ValueError(f"order={order!r} is none of 'raster', 'random'")
        if not 0 <= drop < 1:
            raise ValueError(f"drop={drop}; a share from 0 to below 1 is expected")
        self.width, self.size, self.order = width, size, order
        self.passes, self.drop = passes, drop
        self.register_parameter("mask_token", None)
        if order == "random":
            self.mask_token = nn.Parameter(torch.empty(width, device=device, dtype=dtype))
            if not self.mask_token.is_meta:
                nn.init.normal_(self.mask_token, std=0.02)

    def embedded(self, h: Tensor, time: Tensor, masked: Tensor | None) -> Tensor:
        """(N, M) rows with the mask token where patches are masked."""
        if self.mask_token is None or masked is None:
            return h
        return torch.where(masked[:, None], self.mask_token.to(h.dtype), h)

    def rows(
        self,
        patches: Tensor,
        grid: tuple[int, int],
        learned: bool,
        generator: torch.Generator | None = None,
    ) -> Rows:
        """Rows of a picture: clean, and a copy that is learned from; see `PictureHead.rows`."""
        if not learned:
            return clean_rows(patches)
        alone = float(torch.rand(1, generator=generator)) < self.drop
        if self.order == "raster":
            return raster_rows(patches, alone)
        return random_rows(patches, alone, generator)

    def rows_loss(
        self,
        states: Tensor,
        rows: Sequence[Rows],
        generators: Sequence[torch.Generator | None],
    ) -> Tensor:
        """(m,) losses of the states that `reads` names; see `PictureHead.rows_loss`."""
        targets = torch.cat([one.targets for one in rows if one.targets is not None])
        owners = [
            generator for one, generator in zip(rows, generators, strict=True) for _ in one.reads
        ]
        known = [one for one in owners if one is not None]
        return self.loss(
            states, targets.to(states.device), known if len(known) == len(owners) else None
        )

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
        """(n, P) patches of each new picture; see `PictureHead.draw`."""
        counts = [rows * columns for rows, columns in grids]
        if self.order == "raster":
            return draw_one_by_one(self, see, begun, counts, generators, guidance, temperature)
        return draw_few_by_few(self, see, counts, generators, begun.device, guidance, temperature)

    def loss(self, states: Tensor, patches: Tensor, generator: Generators = None) -> Tensor:
        """Loss of each patch.

        Args:
            states: (N, M).
            patches: (N, P), about -1 to 1.
            generator: Of what is drawn: None for torch's own, one for all rows, or one for each
                row; rows that stand together and share one are drawn at once. So documents that
                bring their own generators have the same loss alone and in a batch.

        Returns:
            (N,): mean squared errors, or nats of a codebook.

        Raises:
            ValueError: Shapes that do not fit.
        """
        raise NotImplementedError

    def sample(
        self,
        states: Tensor,
        generator: Generators = None,
        *,
        temperature: float = 1.0,
        steps: int | None = None,
        guidance: float = 1.0,
        unguided: Tensor | None = None,
    ) -> Tensor:
        """Draws a patch for each state.

        Args:
            states: (N, M).
            generator: As in `loss`.
            temperature: Of the noise, or of the codes' softmax.
            steps: Steps of a denoiser (None: the head's own).
            guidance: g in `u + g (c - u)`, of what is predicted with the state and without.
            unguided: (N, M) states of the same patches without the text, for guidance.

        Returns:
            (N, P).
        """
        raise NotImplementedError

    def checked(self, states: Tensor, patches: Tensor | None = None) -> None:
        """Raises a `ValueError` where shapes do not fit."""
        if states.ndim != 2 or states.shape[1] != self.width:
            raise ValueError(f"states: {tuple(states.shape)}; (N, {self.width}) is expected")
        if patches is not None and patches.shape != (len(states), self.size):
            raise ValueError(
                f"patches: {tuple(patches.shape)}; ({len(states)}, {self.size}) is expected"
            )


class MeanHead(PatchHead):
    """The mean of the next patch by squared error: the baseline that fails.

    It is right only where the next patch is certain up to Gaussian noise. Prefer `DiffusionHead`
    wherever there is a choice; this one shows what is lost without.

    Args:
        width: Width M of the states.
        size: Numbers P of a patch.
        hidden: Width of the residual blocks.
        depth: Residual blocks.
        **places: Further arguments of `PatchHead`.
        device: Where the weights are.
        dtype: Their type.

    Example:
        >>> MeanHead(8, 4).sample(torch.randn(3, 8)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        width: int,
        size: int,
        *,
        hidden: int = 128,
        depth: int = 2,
        **common: Any,
    ) -> None:
        super().__init__(width, size, **common)
        place: Any = {name: common.get(name) for name in ("device", "dtype")}
        self.cond_embed = nn.Linear(width, hidden, **place)
        self.res_blocks = nn.ModuleList(ResidualBlock(hidden, False, **place) for _ in range(depth))
        self.linear = nn.Linear(hidden, size, **place)

    def mean(self, states: Tensor) -> Tensor:
        """(N, M) states to (N, P) means."""
        x = self.cond_embed(states)
        for block in self.res_blocks:
            x = block(x, None)
        return self.linear(x)

    def loss(self, states: Tensor, patches: Tensor, generator: Generators = None) -> Tensor:
        """(N,) mean squared errors; nothing is drawn."""
        self.checked(states, patches)
        return squared(self.mean(states) - patches).mean(1)

    @torch.no_grad()
    def sample(
        self,
        states: Tensor,
        generator: Generators = None,
        *,
        temperature: float = 1.0,
        steps: int | None = None,
        guidance: float = 1.0,
        unguided: Tensor | None = None,
    ) -> Tensor:
        """(N, P) means; nothing is drawn."""
        self.checked(states)
        mean = self.mean(states)
        if unguided is not None:
            without = self.mean(unguided)
            mean = without + guidance * (mean - without)
        return mean


class DiffusionHead(PatchHead):
    r"""A small denoiser that reads the state: a residual MLP modulated by state and time.

    Prefer it to `CodeHead` where small detail must survive, to `MeanHead` always; prefer the
    trunk's own "flow", which denoises all patches at once, where pictures are large and passes
    through the Transformer cost more than passes through the head.

    Args:
        width: Width M of the states.
        size: Numbers P of a patch.
        hidden: Width of the residual blocks.
        depth: Residual blocks.
        schedule: "flow" or "cosine".
        prediction: "v", "x0" or "eps".
        times: "uniform" or "logit-normal", which is denser in the middle.
        repeats: R, noises a patch and step of training; their times are spread over strata.
        steps: Steps of drawing.
        eta: 0 for Euler's steps of the flow, 1 for steps that add noise again.
        scale: Standard deviation of patches, by which they are divided inside.
        **places: Further arguments of `PatchHead`.
        device: Where the weights are.
        dtype: Their type.

    Raises:
        ValueError: An unknown name, or a number out of range.

    Example:
        >>> head = DiffusionHead(8, 4, hidden=16)
        >>> head.loss(torch.randn(5, 8), torch.randn(5, 4)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        width: int,
        size: int,
        *,
        hidden: int = 128,
        depth: int = 2,
        schedule: Literal["flow", "cosine"] = "flow",
        prediction: Literal["v", "x0", "eps"] = "v",
        times: Literal["uniform", "logit-normal"] = "uniform",
        repeats: int = 4,
        steps: int = 25,
        eta: float = 0.0,
        scale: float = 1.0,
        **common: Any,
    ) -> None:
        super().__init__(width, size, **common)
        self.path = NoisePath(schedule, prediction, times)
        if repeats < 1 or steps < 1 or not 0 <= eta <= 1 or scale <= 0:
            raise ValueError(
                f"repeats={repeats}, steps={steps}, eta={eta}, scale={scale}; at least 1, at "
                "least 1, 0 to 1 and more than 0 are expected"
            )
        self.repeats, self.steps, self.eta, self.scale = repeats, steps, eta, scale
        place: Any = {name: common.get(name) for name in ("device", "dtype")}
        self.time_embed = TimeEmbedding(hidden, **place)
        self.cond_embed = nn.Linear(width, hidden, **place)
        self.input_proj = nn.Linear(size, hidden, **place)
        self.res_blocks = nn.ModuleList(ResidualBlock(hidden, True, **place) for _ in range(depth))
        self.modulation = nn.Linear(hidden, 2 * hidden, **place)
        self.linear = nn.Linear(hidden, size, **place)
        for layer in (self.modulation, self.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def predict(self, noisy: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        """(N, P) noisy patches at (N,) times, under (N, hidden) embedded states, to predictions."""
        y = nn.functional.silu(self.time_embed(times).to(condition.dtype) + condition)
        x = self.input_proj(noisy)
        for block in self.res_blocks:
            x = block(x, y)
        shift, factor = self.modulation(y).chunk(2, -1)
        return self.linear(normed(x) * (1 + factor) + shift)

    def loss(self, states: Tensor, patches: Tensor, generator: Generators = None) -> Tensor:
        """(N,) squared errors of what is predicted, the mean over P and over the repeats."""
        self.checked(states, patches)
        count, repeats = len(states), self.repeats
        place = {"device": states.device, "dtype": states.dtype}
        times, noise = self.noises(count, generator, **place)
        clean = (patches / self.scale).to(states.dtype)[:, None].expand(-1, repeats, -1)
        noisy, target = self.path.noised(clean, noise, times)
        condition = self.cond_embed(states)[:, None].expand(-1, repeats, -1)
        found = self.predict(noisy.flatten(0, 1), times.flatten(), condition.flatten(0, 1))
        return squared(found.view(target.shape) - target).mean((1, 2))

    def noises(self, count: int, generator: Generators, **place: Any) -> tuple[Tensor, Tensor]:
        """(count, R) times, one of each stratum, and (count, R, P) noise."""
        share = uniforms((count, self.repeats), generator, **place)
        strata = torch.arange(self.repeats, device=share.device)
        times = self.path.spread((strata + share) / self.repeats)
        return times, normals((count, self.repeats, self.size), generator, **place)

    @torch.no_grad()
    def sample(
        self,
        states: Tensor,
        generator: Generators = None,
        *,
        temperature: float = 1.0,
        steps: int | None = None,
        guidance: float = 1.0,
        unguided: Tensor | None = None,
    ) -> Tensor:
        """(N, P) patches; the temperature multiplies all noise."""
        self.checked(states)
        conditions = [self.cond_embed(states)]
        if unguided is not None:
            conditions.append(self.cond_embed(unguided))
        condition = torch.cat(conditions)

        def predict(noisy: Tensor, time: float) -> Tensor:
            noisy = noisy.repeat(len(conditions), 1)
            found = self.predict(noisy, noisy.new_full((len(noisy),), time), condition)
            if len(conditions) == 1:
                return found
            with_text, without = found.chunk(2)
            return without + guidance * (with_text - without)

        def noise() -> Tensor:
            shape = (len(states), self.size)
            drawn = normals(shape, generator, device=states.device, dtype=states.dtype)
            return temperature * drawn

        return self.scale * self.path.walk(predict, noise, steps or self.steps, self.eta)
