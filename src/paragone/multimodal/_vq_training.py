r"""Training of a picture tokenizer: codes that follow their vectors, and are not lost.

Codes take no gradient by default. With $n_j$ vectors of a batch nearest to code j,

$$ N_j \leftarrow \gamma N_j + (1 - \gamma)\, n_j, \quad
   m_j \leftarrow \gamma m_j + (1 - \gamma) \sum_{i \to j} z_i, \quad e_j = m_j / N_j . $$

A code with $N_j$ below a share of the mean is dead: it is put onto a vector of the batch, drawn
with a chance that grows with the squared error that the codes leave there. The first codes are
vectors of the untrained encoder, so all of them are used from the first step on; and since the
encoder moves far at first, $\gamma$ grows to its value, $\min(\gamma, (1 + s) / (10 + s))$ after s
steps; codes that ran slowly from the start would be left behind, and most of them die.

A critic of patches, an option, learns to tell reconstructions from pictures; the tokenizer learns
to please it. Both are steps of one optimizer: the tokenizer's term sees the critic's weights as
constants, the critic's term sees the reconstruction as one.

References:
    van den Oord, Vinyals and Kavukcuoglu (2017), arXiv:1711.00937, appendix A.1 (the means).
    Dhariwal et al. (2020), Jukebox, arXiv:2005.00341, section 3 (random restarts).
    Isola et al. (2017), arXiv:1611.07004, section 3.2.2 (the critic of patches).
    Lim and Ye (2017), arXiv:1705.02894 (its hinge).

Shapes: n pictures, h and w cells, K codes, D numbers each.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from paragone.language.fitting import Loop, Loss, Progressed, Recipe
from paragone.multimodal._vq_files import save
from paragone.multimodal.documents import picture
from paragone.multimodal.image_tokenizer import (
    ImageTokenizer,
    ImageTokenizerConfig,
    TrainedTokenizer,
)
from paragone.training.run_folder import Folder, seeded

__all__ = ["Options", "fit", "measured"]

_STEPS = 1000
_ENDLESS = 100_000
_FIRST = 4096
"""Vectors, at least, that the first codes are drawn from."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How to train.

    Args:
        batch: Pictures a step.
        lr: Largest learning rate.
        seed: Of weights, crops and codes.
        codebook: "ema": codes are running means; "gradient": they are trained like weights.
        commitment: Weight of the term that keeps vectors near their codes.
        decay: How slowly the means run, for "ema" and for counting.
        revive: A code used less often than this share of the mean is put elsewhere; 0: never.
        absolute: Weight of |x - x^|.
        squared: Weight of (x - x^)^2.
        critic: Weight of the critic's opinion; 0: there is none.
        critic_after: Steps before its opinion counts; it learns from the first one.
        flip: Whether half of the pictures are mirrored.
        optimizer: As in `Recipe`.
        weight_decay: As in `Recipe`.
        precision: As in `Recipe`.
        evaluate_every: As in `Recipe`.
        device: Where to train.

    Raises:
        ValueError: A value out of range.
    """

    batch: int = 32
    lr: float = 4e-3
    seed: int = 0
    codebook: Literal["ema", "gradient"] = "ema"
    commitment: float = 0.25
    decay: float = 0.99
    revive: float = 0.1
    absolute: float = 1.0
    squared: float = 1.0
    critic: float = 0.0
    critic_after: int = 500
    flip: bool = False
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    evaluate_every: int | None = None
    device: Any = "cpu"

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch={self.batch}: at least one picture a step is expected")
        if self.codebook not in ("ema", "gradient"):
            raise ValueError(f"codebook={self.codebook!r} is none of 'ema', 'gradient'")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay={self.decay}: from 0 to below 1 is expected")
        for name in ("commitment", "revive", "absolute", "squared", "critic", "critic_after"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: 0 or above is expected")


class _Trainee(nn.Module):
    """A tokenizer with what only its training needs."""

    often: Tensor
    means: Tensor
    steps: Tensor

    def __init__(self, tokenizer: ImageTokenizer, options: Options) -> None:
        super().__init__()
        self.tokenizer, self.options = tokenizer, options
        config, weight = tokenizer.config, tokenizer.quantize.embedding.weight
        weight.requires_grad_(options.codebook == "gradient")
        codes, width = weight.shape
        expected = options.batch * config.grid**2 / codes
        self.register_buffer("often", torch.full((codes,), expected, device=weight.device))
        self.register_buffer("means", torch.zeros(codes, width, device=weight.device))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=weight.device))
        self._hits, self._sums = torch.zeros_like(self.often), torch.zeros_like(self.means)
        self._last: tuple[Tensor, Tensor] | None = None
        self.critic = _critic(config).to(weight.device) if options.critic else None

    @torch.no_grad()
    def begin(self, pixels: Sequence[Tensor]) -> None:
        """Puts the codes onto vectors of the untrained encoder."""
        weight = self.tokenizer.quantize.embedding.weight
        z = torch.cat([self.tokenizer.latents(one).flatten(0, 2) for one in pixels])
        order = torch.randperm(len(z)).to(z.device)
        weight.copy_(z[order[torch.arange(len(weight), device=z.device) % len(z)]])
        self.means.copy_(weight * self.often[:, None])

    @torch.no_grad()
    def settle(self) -> None:
        """Writes the running means into the codes."""
        if self.options.codebook == "ema":
            self.tokenizer.quantize.embedding.weight.copy_(self.means / self.often[:, None])

    def loss(self, pixels: Tensor) -> Loss:
        """The loss of a batch."""
        found, o, count = self.tokenizer.losses(pixels), self.options, len(pixels)
        terms = {name: getattr(found, name) for name in ("absolute", "squared", "commitment")}
        total = o.absolute * found.absolute + o.squared * found.squared
        total = total + o.commitment * found.commitment
        if o.codebook == "gradient":
            total = total + found.codebook
        if self.critic is not None:
            false, true = self.critic(found.pictures.detach()), self.critic(pixels)
            terms["critic"] = (1 + false).relu().mean() + (1 - true).relu().mean()
            total = total + terms["critic"]
            if int(self.steps) >= o.critic_after:
                fixed = {name: p.detach() for name, p in self.critic.named_parameters()}
                opinion = functional_call(self.critic, fixed, (found.pictures,)).mean()
                total = total - o.critic * opinion
        self._count(found.latents.detach().float().flatten(0, 2), found.ids.flatten())
        return Loss(total * count, count, {k: (v * count, count) for k, v in terms.items()})

    @torch.no_grad()
    def _count(self, z: Tensor, ids: Tensor) -> None:
        self._hits += torch.bincount(ids, minlength=len(self._hits))
        self._sums.index_add_(0, ids, z)
        self._last = z, ids

    @torch.no_grad()
    def after(self) -> None:
        """Moves the codes, after each step of the optimizer."""
        weight, done = self.tokenizer.quantize.embedding.weight, int(self.steps)
        keep = min(self.options.decay, (1 + done) / (10 + done))
        for one in (self._hits, self._sums):
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(one)
        self.often.lerp_(self._hits, 1 - keep)
        self.means.lerp_(self._sums, 1 - keep)
        self._hits.zero_()
        self._sums.zero_()
        self.settle()
        usual = self.often.mean()
        dead = (self.often < self.options.revive * usual).nonzero().flatten()
        if len(dead) and self._last is not None:
            z = self._places(len(dead))
            self.often[dead], self.means[dead] = usual, z * usual
            weight[dead] = z.to(weight.dtype)
        self.steps += 1

    def _places(self, count: int) -> Tensor:
        """Vectors of the last batch, those far from their codes more often; alike on all ranks."""
        assert self._last is not None
        z, ids = self._last
        error = (z - self.tokenizer.quantize.embedding.weight[ids]).square().sum(-1)
        found = z[torch.multinomial(error.double() + 1e-12, count, replacement=True)]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(found, 0)
        return found


def _critic(config: ImageTokenizerConfig) -> nn.Module:
    """Says of each patch how real it looks; it shrinks the picture as the tokenizer does."""
    layers: list[nn.Module] = []
    before, width = config.in_channels, config.base_channels
    for _ in range(len(config.channel_multiplier) - 1):
        layers += [nn.Conv2d(before, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        before, width = width, min(2 * width, 8 * config.base_channels)
    layers += [nn.Conv2d(before, width, 3, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))


class _Crops:
    """Pictures in memory, and squares of one size out of them."""

    def __init__(
        self, pictures: Sequence[Any] | np.ndarray, config: ImageTokenizerConfig, what: str
    ) -> None:
        self.side = config.resolution
        self.pictures = [picture(one, config.in_channels) for one in pictures]
        if not self.pictures:
            raise ValueError(f"there is no {what} picture; at least one is expected")
        for at, one in enumerate(self.pictures):
            if min(one.shape[:2]) < self.side:
                raise ValueError(
                    f"{what} picture {at} has {one.shape[0]} x {one.shape[1]} pixels, fewer than "
                    f"resolution={self.side}; resize it, e.g. by ChameleonImageProcessor"
                )

    def at_random(self, rng: np.random.Generator, count: int, flip: bool) -> np.ndarray:
        """(count, side, side, C), drawn with replacement."""
        made = []
        for one in rng.integers(len(self.pictures), size=count):
            pixels, side = self.pictures[one], self.side
            top, left = (int(rng.integers(size - side + 1)) for size in pixels.shape[:2])
            part = pixels[top : top + side, left : left + side]
            made.append(part[:, ::-1] if flip and rng.random() < 0.5 else part)
        return np.stack(made)

    def in_the_middle(self) -> np.ndarray:
        """(n, side, side, C), one of each."""
        side = self.side
        starts = [[(size - side) // 2 for size in one.shape[:2]] for one in self.pictures]
        return np.stack([
            one[top : top + side, left : left + side]
            for one, (top, left) in zip(self.pictures, starts, strict=True)
        ])  # fmt: skip


def measured(tokenizer: ImageTokenizer, pictures: Any, batch: int = 64) -> dict[str, float]:
    """Errors of reconstruction and use of codes.

    Args:
        tokenizer: What is measured.
        pictures: As in `ImageTokenizer.pixels`.
        batch: How many at a time.

    Returns:
        "absolute", "squared" (pixels from -1 to 1), "psnr" in dB, "usage" (share of the codes
        that occur) and "perplexity" (of the codes).
    """
    often = torch.zeros(tokenizer.config.num_embeddings, dtype=torch.float64)
    absolute = squared = 0.0
    count = 0
    for start in range(0, len(pictures), batch):
        part = tokenizer.pixels(pictures[start : start + batch])
        ids = tokenizer.encode(part)
        error = (tokenizer.decode_pixels(ids) - part).double()
        absolute += float(error.abs().sum())
        squared += float(error.square().sum())
        often += torch.bincount(ids.flatten(), minlength=len(often)).cpu()
        count += part.numel()
    share = often[often > 0] / often.sum()
    squared /= count
    return {
        "absolute": absolute / count, "squared": squared,
        "psnr": 10 * math.log10(4 / max(squared, 1e-12)),
        "usage": len(share) / len(often), "perplexity": float((-share * share.log()).sum().exp()),
    }  # fmt: skip


def fit(
    pictures: Sequence[Any] | np.ndarray,
    config: ImageTokenizerConfig,
    seconds: float | None = None,
    steps: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[Progressed], None] | None = None,
    validation: Sequence[Any] | np.ndarray | None = None,
    **options: Any,
) -> TrainedTokenizer:
    """Trains; see `ImageTokenizer.fit`."""
    begun, o = time.monotonic(), _options(options)
    if not config.decoder:
        raise ValueError("decoder=False cannot be trained: pictures are learned by drawing them")
    pictures, held_out = _split(pictures, o.seed) if validation is None else (pictures, validation)
    crops, held = _Crops(pictures, config, "training"), _Crops(held_out, config, "held-out")
    recipe = Recipe(
        steps or (_STEPS if seconds is None else _ENDLESS), lr=o.lr, optimizer=o.optimizer,
        weight_decay=o.weight_decay, precision=o.precision, seed=o.seed, seconds=seconds,
        evaluate_every=o.evaluate_every,
    )  # fmt: skip
    where: dict[str, Any] = {"device": o.device, "memory_format": torch.channels_last}
    with seeded(o.seed, 1):
        tokenizer = ImageTokenizer(config).to(**where)
        trainee = _Trainee(tokenizer, o)
        trainee.begin(_first(tokenizer, crops, o))

    def batch(step: int) -> list[Tensor]:
        rng = np.random.default_rng([o.seed, step, loop.ranks.rank])
        return [tokenizer.pixels(crops.at_random(rng, o.batch, o.flip))]

    def evaluate() -> dict[str, float]:
        return measured(tokenizer, held.in_the_middle(), o.batch)

    def export(files: Folder) -> None:
        save(tokenizer, files.path)

    known = {**dataclasses.asdict(o), "device": str(o.device), **config.to_dict()}
    loop = Loop(
        trainee, recipe, batch, trainee.loss, folder, progress, evaluate, identity=known,
        export=export, after=trainee.after, begun=begun,
    )  # fmt: skip
    trainee.settle()
    if loop.folder is not None and loop.ranks.first and not loop.step:
        export(loop.folder)
    history = loop.run()
    tokenizer.eval().requires_grad_(True)
    return TrainedTokenizer(
        tokenizer, evaluate(), history, loop.seconds, None if folder is None else Path(folder)
    )


def _options(given: Mapping[str, Any]) -> Options:
    known = {one.name for one in dataclasses.fields(Options)}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such option; there are {', '.join(known)}")
    return Options(**given)


def _split(pictures: Any, seed: int) -> tuple[Any, Any]:
    """A tenth is held out; of fewer than ten pictures none is, and all are measured on."""
    count = len(pictures)
    if count < 10:
        return pictures, pictures
    order = np.random.default_rng([seed, 2]).permutation(count)
    cut = count // 10
    return [pictures[i] for i in order[cut:]], [pictures[i] for i in order[:cut]]


def _first(tokenizer: ImageTokenizer, crops: _Crops, o: Options) -> list[Tensor]:
    """Batches that hold enough vectors for the first codes."""
    config = tokenizer.config
    wanted = max(_FIRST, 2 * config.num_embeddings)
    batches = -(-wanted // (o.batch * config.grid**2))
    rng = np.random.default_rng([o.seed, 3])
    return [tokenizer.pixels(crops.at_random(rng, o.batch, o.flip)) for _ in range(batches)]
