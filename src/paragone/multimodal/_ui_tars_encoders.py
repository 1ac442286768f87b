r"""What a `UITars` sees with: three encoders with one result.

A screenshot becomes fine features, one for each patch of p pixels, in which points are found, and
coarse ones, one for each square of four patches, which the language part attends to. Convolutions
or a codebook make the fine ones; blocks with full attention and rotary places over the four times
fewer coarse ones bring the parts of a page together, at a sixteenth of the price; what they found
goes back to the fine ones as keys k of a pointer:

$$ f = \mathrm{stem}(\text{image}), \quad c = \mathrm{blocks}(W_m [f_{2r,2c} \ldots f_{2r+1,2c+1}]
   + P), \quad k_p = W_f f_p + (W_c c)_{p} . $$

An encoder does not see the instruction: one pass serves any number of questions about a screen.

Cost: with F fine patches and M coarse width, O(F s^2 + F M^2 / 4 + F^2 M / 16).

References:
    Xiao et al. (2021), Early convolutions help Transformers see better, arXiv:2106.14881,
    section 3.
    Heo et al. (2024), Rotary position embedding for vision, arXiv:2403.13298, section 3 (axial).
    Kimi Team (2025), arXiv:2504.07491, section 2.1 (MoonViT, squares of four merged).
    Chameleon Team (2024), arXiv:2405.09818, section 2.1 (pictures as codes).

Shapes: B screens, h and w fine patches a side, s stem width, M model width, H heads.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.multimodal._ui_tars_config import UITarsConfig

__all__ = ["Block", "Encoder", "Seen", "centres", "places", "turned", "waves"]


@dataclasses.dataclass(frozen=True)
class Seen:
    """Features of screens of one size.

    Attributes:
        keys: (B, h w, M), what points are found by.
        coarse: (B, h w / 4, M), what the language part attends to.
        fine: (B, h w, M), what stands at a place.
        grid: h and w.
    """

    keys: Tensor
    coarse: Tensor
    fine: Tensor
    grid: tuple[int, int]


def places(rows: int, columns: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (rows x columns, width) that turn heads by row and column."""
    theta = 100.0 ** (-torch.arange(0, width, 4, dtype=torch.float32, device=like.device) / width)
    down = torch.arange(rows, device=like.device)[:, None, None] * theta
    across = torch.arange(columns, device=like.device)[None, :, None] * theta
    angle = torch.cat([down.expand(rows, columns, -1), across.expand(rows, columns, -1)], -1)
    angle = torch.cat([angle, angle], -1).flatten(0, 1)
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Heads (..., D) turned by their places, halves against halves."""
    a, b = x.chunk(2, -1)
    return x * turns[0] + torch.cat([-b, a], -1) * turns[1]


class Block(nn.Module):
    """A pre-norm block with full attention, turned by rows and columns."""

    def __init__(self, config: UITarsConfig, where: dict[str, Any]) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm0 = nn.LayerNorm(width, **where)
        self.qkv = nn.Linear(width, 3 * width, bias=False, **where)
        self.out = nn.Linear(width, width, bias=False, **where)
        self.norm1 = nn.LayerNorm(width, **where)
        self.up = nn.Linear(width, config.feed * width, **where)
        self.down = nn.Linear(config.feed * width, width, **where)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        """(B, T, M) to the same."""
        parts = self.qkv(self.norm0(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = turned(parts[:2], turns).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, parts[2])
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.down(functional.gelu(self.up(self.norm1(x)), approximate="tanh"))


class _Mixed(nn.Module):
    """A residual 3 x 3 convolution behind a norm, channels last."""

    def __init__(self, width: int, where: dict[str, Any]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, **where)
        self.conv = nn.Conv2d(width, width, 3, padding=1, **where)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, s) to the same."""
        y = functional.relu(self.norm(x)).permute(0, 3, 1, 2)
        return x + self.conv(y).permute(0, 2, 3, 1)


class _Convolutions(nn.Module):
    """Raw patches: a convolution of stride 4 that overlaps, then ones that halve the sides.

    A residual one between them, at stride 4, is what letters of few pixels are told apart by.
    """

    def __init__(self, config: UITarsConfig, where: dict[str, Any]) -> None:
        super().__init__()
        first = min(4, config.patch)
        halvings = int(math.log2(config.patch // first))
        widths = [max(8, config.stem >> (halvings - i)) for i in range(halvings)] + [config.stem]
        self.first = nn.Conv2d(3, widths[0], first + 2, first, 1, **where)
        self.early = nn.ModuleList(_Mixed(widths[0], where) for _ in range(min(1, halvings)))
        self.halves = nn.ModuleList(
            nn.Conv2d(before, after, 3, 2, 1, **where)
            for before, after in itertools.pairwise(widths)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in -1 to 1 becomes (B, h, w, s)."""
        x = self.first(pixels.contiguous(memory_format=torch.channels_last))
        for one in self.early:
            x = one(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        for conv in self.halves:
            x = conv(functional.relu(x))
        return x.permute(0, 2, 3, 1)


class _Moon(nn.Module):
    """The patches of a small `MoonViT`."""

    def __init__(self, config: UITarsConfig, where: dict[str, Any]) -> None:
        super().__init__()
        from paragone.multimodal.moonvit import MoonViT, MoonViTConfig

        heads = config.heads
        if config.stem % (4 * heads):
            raise ValueError(
                f"stem={config.stem} over heads={heads}: encoder 'moonvit' needs heads whose width "
                "is a multiple of 4"
            )
        self.patch = config.patch
        self.moonvit = MoonViT(
            MoonViTConfig(
                hidden_size=config.stem, num_hidden_layers=max(1, config.stem_blocks),
                num_attention_heads=heads, intermediate_size=config.feed * config.stem,
                patch_size=config.patch, init_pos_emb_height=32, init_pos_emb_width=32,
            ),
            **where,
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in -1 to 1 becomes (B, h, w, s)."""
        many, _, high, wide = pixels.shape
        p, rows, columns = self.patch, high // self.patch, wide // self.patch
        cut = pixels.reshape(many, 3, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)
        features = self.moonvit(cut.reshape(-1, 3, p, p), [(rows, columns)] * many)
        return features.view(many, rows, columns, -1)


class _Codes(nn.Module):
    """Codes of an `ImageTokenizer`, which is trained before and does not change."""

    def __init__(self, config: UITarsConfig, where: dict[str, Any]) -> None:
        super().__init__()
        from paragone.multimodal.image_tokenizer import ImageTokenizer

        halvings = int(math.log2(config.patch))
        self.tokenizer = ImageTokenizer.from_config(
            {
                "resolution": 32, "base_channels": 16,
                "channel_multiplier": (1, *(2,) * halvings), "num_res_blocks": 1,
                "latent_channels": 32, "embed_dim": 32, "num_embeddings": config.codes,
                "norm_groups": 8,
            },
            **where,
        )  # fmt: skip
        self.tokenizer.requires_grad_(False)
        self.embedding = nn.Embedding(config.codes, config.stem, **where)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in -1 to 1 becomes (B, h, w, s)."""
        with torch.no_grad():
            codes = self.tokenizer.quantize(self.tokenizer.latents(pixels))
        return self.embedding(codes)


_STEMS = {"patches": _Convolutions, "moonvit": _Moon, "vq": _Codes}


class Encoder(nn.Module):
    """A stem, convolutions over fine patches, blocks over coarse ones, and keys.

    Args:
        config: Sizes.
        where: Device and type.
    """

    def __init__(self, config: UITarsConfig, where: dict[str, Any]) -> None:
        super().__init__()
        stem, width = config.stem, config.width
        self.patch, self.heads, self.width = config.patch, config.heads, width
        self.stem = _STEMS[config.encoder](config, where)
        # MoonViT's blocks have mixed the fine patches already.
        mixing = 0 if config.encoder == "moonvit" else config.stem_blocks
        self.mixed = nn.ModuleList(_Mixed(stem, where) for _ in range(mixing))
        self.fine_norm = nn.LayerNorm(stem, **where)
        self.merge = nn.Linear(4 * stem, width, **where)
        self.place = nn.Linear(_WAVES * 4, width, bias=False, **where)
        self.blocks = nn.ModuleList(Block(config, where) for _ in range(config.encoder_layers))
        self.coarse_norm = nn.LayerNorm(width, **where)
        self.from_fine = nn.Linear(stem, width, **where)
        self.from_coarse = nn.Linear(width, 2 * width, bias=False, **where)
        self.to_keys = nn.Linear(stem, width, bias=False, **where)

    def forward(self, pixels: Tensor) -> Seen:
        """Sees screens.

        Args:
            pixels: (B, 3, H, W) in -1 to 1; sides are multiples of 2 p.
        """
        x = self.stem(pixels)
        for one in self.mixed:
            x = one(x)
        x = self.fine_norm(x)
        many, rows, columns, _ = x.shape
        squares = x.view(many, rows // 2, 2, columns // 2, 2, -1).transpose(2, 3).flatten(3)
        coarse = self.merge(squares).flatten(1, 2)
        middles = centres(rows // 2, columns // 2, 2 * self.patch, x)
        coarse = coarse + self.place(waves(*middles).to(coarse.dtype))
        turns = places(rows // 2, columns // 2, self.width // self.heads, x)
        for block in self.blocks:
            coarse = block(coarse, turns)
        coarse = self.coarse_norm(coarse)
        back = self.from_coarse(coarse).view(many, rows // 2, 1, columns // 2, 1, -1)
        back = back.expand(-1, -1, 2, -1, 2, -1).reshape(many, rows * columns, -1)
        around, key = back.chunk(2, -1)
        flat = x.flatten(1, 2)
        return Seen(
            self.to_keys(flat) + key, coarse, self.from_fine(flat) + around, (rows, columns)
        )


_WAVES = 8


def waves(x: Tensor, y: Tensor) -> Tensor:
    """Places in pixels (...) as sines and cosines (..., 4 x 8) of waves of 8 to 2,048 pixels."""
    lengths = 8.0 * 2.0 ** torch.arange(_WAVES, dtype=torch.float32, device=x.device)
    turns = torch.stack([x, y], -1).float()[..., None] * (2 * math.pi / (2 * lengths))
    return torch.cat([turns.sin(), turns.cos()], -1).flatten(-2)


def centres(rows: int, columns: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """X and y (rows x columns) of the centres of patches of a size, row by row."""
    y, x = torch.meshgrid(
        (torch.arange(rows, device=like.device) + 0.5) * size,
        (torch.arange(columns, device=like.device) + 0.5) * size,
        indexing="ij",
    )
    return x.flatten(), y.flatten()
