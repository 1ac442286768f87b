r"""A picture as a grid of words: the tokenizer that Chameleon reads and draws pictures by.

Convolutions shrink the picture to a grid of vectors, each is replaced by the nearest of K learned
codes, and convolutions grow the grid back into the picture:

$$ z = E(x), \quad j_{rc} = \arg\min_j \lVert z_{rc} - e_j \rVert^2, \quad \hat x = D(e_j), $$
$$ L = \lvert x - \hat x \rvert + (x - \hat x)^2
       + \beta \lVert z - \mathrm{sg}[e_j] \rVert^2 + \lVert \mathrm{sg}[z] - e_j \rVert^2 . $$

The choice has no gradient; the decoder's goes straight on to the encoder. The last term is left
out where codes follow the running means of their vectors ("ema", the default). A code that
nothing falls to any more is put where vectors are: `_vq_training` has both.

A picture of 512 x 512 becomes 32 x 32 of 8,192 codes: 13 bits for 768 bytes. What is smaller than
a cell, such as small text, is lost; raw patches keep it (`LosslessTransformer`).

Cost: K D multiplications a cell for the choice, beside the convolutions.

References:
    van den Oord, Vinyals and Kavukcuoglu (2017), arXiv:1711.00937, eq. 1-3 and appendix A.1.
    Esser, Rombach and Ommer (2021), arXiv:2012.09841, section 3.1 (the network, the critic).
    Chameleon Team (2024), arXiv:2405.09818, section 2.1 (512 px, 1,024 tokens, 8,192 codes).

Shapes: n pictures, H and W pixels, C channels, h and w cells, K codes, D numbers each.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paragone._core.lazy import resolve
from paragone.multimodal._vq_layers import Decoder, Encoder
from paragone.multimodal.documents import picture
from paragone.multimodal.ops.codebook.call import nearest_code

__all__ = [
    "PRESETS",
    "CodebookLosses",
    "ImageTokenizer",
    "ImageTokenizerConfig",
    "TrainedTokenizer",
]

PRESETS: dict[str, dict[str, Any]] = {
    "chameleon": {},
    "digits": {
        "resolution": 8, "in_channels": 1, "base_channels": 16, "channel_multiplier": (1, 2),
        "num_res_blocks": 1, "latent_channels": 16, "embed_dim": 16, "num_embeddings": 128,
        "norm_groups": 8,
    },
    "tiny": {
        "resolution": 32, "base_channels": 16, "channel_multiplier": (1, 2, 2),
        "num_res_blocks": 1, "latent_channels": 32, "embed_dim": 32, "num_embeddings": 512,
        "norm_groups": 8,
    },
}  # fmt: skip
"""Name to what differs from the published sizes."""

_PIXELS = 1 << 18
"""Pixels of pictures that are encoded or decoded at a time."""


@dataclasses.dataclass(frozen=True)
class ImageTokenizerConfig:
    """Sizes; names and first values are those of Chameleon's `vq_config`.

    Args:
        resolution: Side of the pictures that it is trained on.
        in_channels: 1 (grey) or 3 (colour).
        base_channels: Width at full size.
        channel_multiplier: Width of each level as a multiple; each level halves the grid.
        num_res_blocks: Blocks a level; the decoder has one more.
        attn_resolutions: Sizes of the grid with attention after each block, beside the middle.
        attn_type: "vanilla", or "none" for no attention.
        dropout: Share of activations left out in training.
        latent_channels: Width between the convolutions and the codes.
        double_latent: Whether the encoder gives twice that (must be False).
        embed_dim: D, numbers of a code.
        num_embeddings: K, how many codes.
        norm_groups: Groups of the norms.
        decoder: Whether there is one; Chameleon's checkpoints in Hugging Face's layout lack it.

    Raises:
        ValueError: A size out of range, or sizes that do not fit together.
    """

    resolution: int = 512
    in_channels: int = 3
    base_channels: int = 128
    channel_multiplier: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = ()
    attn_type: str = "vanilla"
    dropout: float = 0.0
    latent_channels: int = 256
    double_latent: bool = False
    embed_dim: int = 256
    num_embeddings: int = 8192
    norm_groups: int = 32
    decoder: bool = True

    def __post_init__(self) -> None:
        for name in ("channel_multiplier", "attn_resolutions"):
            object.__setattr__(self, name, tuple(getattr(self, name) or ()))
        if self.attn_type is None:
            object.__setattr__(self, "attn_type", "none")
        for name in ("resolution", "base_channels", "num_res_blocks", "latent_channels",
                     "embed_dim", "num_embeddings", "norm_groups"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is expected")
        if self.in_channels not in (1, 3):
            raise ValueError(f"in_channels={self.in_channels}: 1 (grey) or 3 (colour) is expected")
        if not self.channel_multiplier or min(self.channel_multiplier) < 1:
            raise ValueError(
                f"channel_multiplier={self.channel_multiplier}: one number from 1 on a level"
            )
        if self.attn_type not in ("vanilla", "none"):
            raise ValueError(f"attn_type={self.attn_type!r} is none of 'vanilla', 'none'")
        if self.double_latent:
            raise ValueError("double_latent=True is for continuous latents; codes need False")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: a share from 0 to below 1 is expected")
        for by in (1, *self.channel_multiplier):
            if self.base_channels * by % self.norm_groups:
                raise ValueError(
                    f"norm_groups={self.norm_groups} must divide every width, and "
                    f"{self.base_channels * by} is one"
                )
        if self.resolution % self.factor:
            raise ValueError(
                f"resolution={self.resolution} is no multiple of {self.factor}, by which "
                f"{len(self.channel_multiplier)} levels shrink it"
            )

    @property
    def factor(self) -> int:
        """Pixels a side of a cell."""
        return 1 << (len(self.channel_multiplier) - 1)

    @property
    def grid(self) -> int:
        """Cells a side of a picture of `resolution`."""
        return self.resolution // self.factor

    def replace(self, **changes: Any) -> ImageTokenizerConfig:
        """The same with changes."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return {"model_type": "chameleon_vqgan", **dataclasses.asdict(self)}

    @classmethod
    def make(
        cls, source: str | Mapping[str, Any] | ImageTokenizerConfig, **changes: Any
    ) -> ImageTokenizerConfig:
        """From a preset's name, fields (those of other kinds are passed over), or a config.

        Raises:
            ValueError: No such preset, or values out of range.
        """
        if isinstance(source, str):
            if source not in PRESETS:
                raise ValueError(f"config={source!r} is none of {', '.join(PRESETS)}")
            source = PRESETS[source]
        if isinstance(source, ImageTokenizerConfig):
            return source.replace(**changes)
        names = {one.name for one in dataclasses.fields(cls)}
        given = {name: value for name, value in dict(source).items() if name in names}
        return cls(**{**given, **changes})


@dataclasses.dataclass(frozen=True)
class CodebookLosses:
    """Means over what a batch holds.

    Attributes:
        absolute: Mean of |x - x^|, pixels from -1 to 1.
        squared: Mean of (x - x^)^2.
        commitment: Mean of (z - sg[e])^2.
        codebook: Mean of (sg[z] - e)^2.
        pictures: What the decoder made (n, C, H, W).
        latents: What the encoder made (n, h, w, D), before codes took its place.
        ids: The codes (n, h, w).
    """

    absolute: Tensor
    squared: Tensor
    commitment: Tensor
    codebook: Tensor
    pictures: Tensor
    latents: Tensor
    ids: Tensor


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer:
    """What `ImageTokenizer.fit` returns.

    Attributes:
        tokenizer: The trained one, in evaluation mode.
        metrics: Of held-out pictures: "absolute" and "squared" errors, "psnr" in dB (of pixels
            from 0 to 1), "usage" (share of codes that occur) and "perplexity".
        history: A dict for each line of metrics.jsonl.
        seconds: How long it took, over all parts of the run.
        folder: Where it lies, or None.
    """

    tokenizer: ImageTokenizer
    metrics: dict[str, float]
    history: list[dict[str, Any]]
    seconds: float
    folder: Path | None


class _Codes(nn.Module):
    """Codes (K, D) and the way to the nearest."""

    def __init__(self, config: ImageTokenizerConfig, **where: Any) -> None:
        super().__init__()
        table = torch.empty(config.num_embeddings, config.embed_dim, **where)
        self.embedding = nn.Embedding.from_pretrained(table, freeze=False)

    def forward(self, z: Tensor) -> Tensor:
        """Vectors (..., D) to numbers of codes (...)."""
        flat = z.detach().reshape(-1, z.shape[-1])
        return nearest_code(flat, self.embedding.weight.detach()).view(z.shape[:-1])


class ImageTokenizer(nn.Module):
    r"""Pictures to codes and back.

    Prefer it where pictures are to be drawn by a model of discrete tokens (`Chameleon`); prefer
    raw patches (`LosslessTransformer`) where detail below a cell matters.

    Args:
        config: Sizes.
        generator: Source of the first weights (None: torch's own).
        device: Device of the parameters.
        dtype: Type of the parameters.

    Attributes:
        config: Sizes.

    Example:
        >>> tokenizer = ImageTokenizer.from_config("digits")
        >>> ids = tokenizer.encode([np.zeros((8, 8), np.uint8)])
        >>> ids.shape, tokenizer.decode(ids).shape
        (torch.Size([1, 4, 4]), (1, 8, 8, 1))
    """

    def __init__(
        self,
        config: ImageTokenizerConfig,
        *,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.config = config
        self.encoder = Encoder(config, **where)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.embed_dim, 1, **where)
        self.quantize = _Codes(config, **where)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.latent_channels, 1, **where)
        self.decoder = Decoder(config, **where) if config.decoder else None
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the weights anew."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                bound = (module.weight[0].numel()) ** -0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                bound = 1 / module.num_embeddings
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)

    @classmethod
    def from_config(
        cls,
        config: str | Mapping[str, Any] | ImageTokenizerConfig,
        *,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **changes: Any,
    ) -> ImageTokenizer:
        """Builds one with random weights.

        Args:
            config: "digits" (8 x 8 grey to 4 x 4), "tiny" (32 x 32 colour to 8 x 8), "chameleon"
                (the published one), fields of it, or a config.
            generator: As in the class.
            device: As in the class.
            dtype: As in the class.
            changes: Fields that differ.
        """
        made = ImageTokenizerConfig.make(config, **changes)
        return cls(made, generator=generator, device=device, dtype=dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.quant_conv.weight.device

    def pixels(self, pictures: Sequence[Any] | np.ndarray | Tensor) -> Tensor:
        """Pictures of one size as the encoder takes them, (n, C, H, W) from -1 to 1.

        Args:
            pictures: What `documents.picture` takes; or such a tensor, which is only checked.

        Raises:
            ValueError: No picture, different sizes, or sides that are no multiples of a cell's.
        """
        if not isinstance(pictures, Tensor):
            made = [picture(one, self.config.in_channels) for one in pictures]
            sizes = {one.shape for one in made}
            if len(sizes) != 1:
                shown = ", ".join(map(str, sorted(sizes)[:4])) or "none"
                raise ValueError(f"pictures of one size are expected; their shapes are {shown}")
            pictures = torch.from_numpy(np.stack(made)).to(self.device).permute(0, 3, 1, 2)
            pictures = pictures.to(self.quant_conv.weight.dtype) / 127.5 - 1
        by, channels = self.config.factor, self.config.in_channels
        if pictures.ndim != 4 or pictures.shape[1] != channels or 0 in pictures.shape:
            raise ValueError(
                f"pixels have shape {tuple(pictures.shape)}; (n, {channels}, H, W) is expected"
            )
        if pictures.shape[2] % by or pictures.shape[3] % by:
            raise ValueError(
                f"pictures of {pictures.shape[2]} x {pictures.shape[3]} pixels do not fall into "
                f"cells of {by} x {by}; resize them, e.g. by ChameleonImageProcessor"
            )
        return pictures

    def latents(self, pixels: Tensor) -> Tensor:
        """Pixels (n, C, H, W) to vectors (n, h, w, D), with a gradient."""
        return self.quant_conv(self.encoder(pixels)).permute(0, 2, 3, 1)

    def reconstructed(self, codes: Tensor) -> Tensor:
        """Vectors of codes (n, h, w, D) to pixels (n, C, H, W), with a gradient, not clipped."""
        if self.decoder is None:
            raise ValueError("this tokenizer has no decoder (decoder=False): it cannot draw")
        return self.decoder(self.post_quant_conv(codes.permute(0, 3, 1, 2)))

    @torch.no_grad()
    def encode(self, pictures: Sequence[Any] | np.ndarray | Tensor) -> Tensor:
        """Pictures of one size to numbers of codes, row by row.

        Args:
            pictures: As in `pixels`.

        Returns:
            (n, h, w) int64 on the tokenizer's device.
        """
        pixels = self.pixels(pictures)
        many = max(1, _PIXELS // (pixels.shape[2] * pixels.shape[3]))
        return torch.cat([self.quantize(self.latents(part)) for part in pixels.split(many)])

    @torch.no_grad()
    def decode_pixels(self, ids: Tensor | np.ndarray) -> Tensor:
        """Numbers of codes (n, h, w) to pixels (n, C, H, W), clipped to -1 to 1.

        Raises:
            ValueError: Another shape, a number that is no code, or a tokenizer without decoder.
        """
        ids = torch.as_tensor(ids, device=self.device)
        if ids.ndim != 3 or 0 in ids.shape or ids.is_floating_point():
            raise ValueError(f"ids have shape {tuple(ids.shape)} and type {ids.dtype}; (n, h, w) "
                             "whole numbers are expected")  # fmt: skip
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.config.num_embeddings:
            raise ValueError(f"ids go from {low} to {high}; 0 to {self.config.num_embeddings - 1} "
                             "are codes")  # fmt: skip
        many = max(1, _PIXELS // (ids.shape[1] * ids.shape[2] * self.config.factor**2))
        made = [self.reconstructed(self.quantize.embedding(part)) for part in ids.split(many)]
        return torch.cat(made).clamp(-1, 1)

    def decode(self, ids: Tensor | np.ndarray) -> np.ndarray:
        """Numbers of codes to pictures.

        Args:
            ids: (n, h, w).

        Returns:
            (n, H, W, C) uint8.

        Raises:
            ValueError: As in `decode_pixels`.
        """
        pixels = self.decode_pixels(ids).float()
        whole = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return whole.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def losses(self, pictures: Sequence[Any] | np.ndarray | Tensor) -> CodebookLosses:
        """All terms of the loss, apart; the decoder's gradient goes straight through the choice.

        Args:
            pictures: As in `pixels`.
        """
        pixels = self.pixels(pictures)
        z = self.latents(pixels)
        ids = self.quantize(z)
        codes = self.quantize.embedding(ids)
        made = self.reconstructed(z + (codes - z).detach())
        return CodebookLosses(
            absolute=(made - pixels).abs().mean(), squared=(made - pixels).square().mean(),
            commitment=(z - codes.detach()).square().mean(),
            codebook=(z.detach() - codes).square().mean(),
            pictures=made, latents=z, ids=ids,
        )  # fmt: skip

    @classmethod
    def fit(
        cls,
        pictures: Sequence[Any] | np.ndarray,
        config: str | Mapping[str, Any] | ImageTokenizerConfig = "digits",
        *,
        seconds: float | None = None,
        steps: int | None = None,
        folder: str | os.PathLike[str] | None = None,
        progress: Callable[[Any], None] | None = None,
        validation: Sequence[Any] | np.ndarray | None = None,
        **options: Any,
    ) -> TrainedTokenizer:
        """Trains a tokenizer from scratch (`train` is `torch.nn.Module`'s).

        Args:
            pictures: At least one; larger ones are cropped at random places.
            config: As in `from_config`.
            seconds: Budget; the rate falls to its end by then.
            steps: Steps (None: 1,000, or as many as the seconds allow).
            folder: Where the run lies; the same call with it goes on, bit for bit.
            progress: Called with `language.fitting.Progressed`.
            validation: Held-out pictures (None: a tenth, from ten pictures on).
            options: Further ones of `paragone.multimodal._vq_training.Options`: batch, lr, seed,
                codebook ("ema" or "gradient"), commitment, critic, device, ...

        Raises:
            ValueError: Pictures that are too small, or another run's folder.
            KeyboardInterrupt: Ctrl-C, after the state was written.
        """
        fit = resolve("paragone.multimodal._vq_training:fit")
        made = ImageTokenizerConfig.make(config)
        return fit(pictures, made, seconds, steps, folder, progress, validation, **options)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes config.json and model.safetensors."""
        return resolve("paragone.multimodal._vq_files:save")(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, device: Any = None, dtype: torch.dtype | None = None
    ) -> ImageTokenizer:
        """Reads what `save_pretrained` wrote, or the tokenizer in a Chameleon folder.

        Args:
            folder: With config.json (its own, or a model's with `vq_config`) and safetensors, or
                a taming-transformers checkpoint (`.ckpt`) and its config.
            device: Where to put it (None: the CPU).
            dtype: Type of the weights (None: that of the file).

        Raises:
            ValueError: A file that is missing, or weights that do not fit.
        """
        return resolve("paragone.multimodal._vq_files:load")(Path(folder), device, dtype)
