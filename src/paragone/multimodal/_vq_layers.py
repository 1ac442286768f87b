r"""The two halves of a picture tokenizer: convolutions down to a grid, and up again.

A block is `x + f(x)` with f two times norm, SiLU, convolution; each level but the last halves the
grid (the decoder doubles it), and one block of attention sits at the coarsest level:

$$ \mathrm{attend}(x) = x + W_o\, \mathrm{softmax}\!\Big(\frac{q^\top k}{\sqrt C}\Big) v . $$

Names of parameters are those of taming-transformers, which Chameleon's checkpoints keep.

References:
    Esser, Rombach and Ommer (2021), arXiv:2012.09841, table 7 (the layers).
    Gafni et al. (2022), Make-A-Scene, arXiv:2203.13131, appendix C.

Shapes: n pictures, C channels, H and W pixels, h and w cells of the grid.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["Decoder", "Encoder"]


class _Block(nn.Module):
    """`x + f(x)`; a 1 x 1 convolution where the width changes."""

    def __init__(self, config: Any, width: int, out: int, **where: Any) -> None:
        super().__init__()
        self.norm1 = _norm(config, width, where)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1, **where)
        self.norm2 = _norm(config, out, where)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, **where)
        if width != out:
            self.nin_shortcut = nn.Conv2d(width, out, 1, **where)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(nn.functional.silu(self.norm1(x)))
        y = self.conv2(self.dropout(nn.functional.silu(self.norm2(y))))
        return y + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class _Attention(nn.Module):
    """One head over all cells of the grid, as wide as the channels."""

    def __init__(self, config: Any, width: int, **where: Any) -> None:
        super().__init__()
        self.norm = _norm(config, width, where)
        self.q, self.k, self.v, self.proj_out = (
            nn.Conv2d(width, width, 1, **where) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (one(y).flatten(2).transpose(1, 2)[:, None] for one in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return x + self.proj_out(mixed.reshape(x.shape))


class _Down(nn.Module):
    """Halves the grid; zeros stand beyond the right and the lower edge alone."""

    def __init__(self, width: int, **where: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, **where)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pad(x, (0, 1, 0, 1)))


class _Up(nn.Module):
    """Doubles the grid by repetition, then smooths."""

    def __init__(self, width: int, **where: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, **where)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """Blocks at one size of the grid, each with attention after it where the config says so."""

    def __init__(
        self, config: Any, width: int, out: int, blocks: int, attend: bool, **where: Any
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            _Block(config, out if i else width, out, **where) for i in range(blocks)
        )
        self.attn = nn.ModuleList(
            _Attention(config, out, **where) for _ in range(blocks if attend else 0)
        )

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return x


class _Middle(nn.Module):
    """Block, attention, block at the coarsest size."""

    def __init__(self, config: Any, width: int, **where: Any) -> None:
        super().__init__()
        self.block_1 = _Block(config, width, width, **where)
        attends = config.attn_type == "vanilla"
        self.attn_1 = _Attention(config, width, **where) if attends else nn.Identity()
        self.block_2 = _Block(config, width, width, **where)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


def _norm(config: Any, width: int, where: dict[str, Any]) -> nn.GroupNorm:
    return nn.GroupNorm(config.norm_groups, width, eps=1e-6, **where)


def _attends(config: Any, level: int) -> bool:
    return config.attn_type == "vanilla" and config.resolution >> level in config.attn_resolutions


class Encoder(nn.Module):
    """Pictures (n, C, H, W) in [-1, 1] to a grid (n, latent, h, w).

    Args:
        config: An `ImageTokenizerConfig`.
        where: Device and dtype of the parameters.
    """

    def __init__(self, config: Any, **where: Any) -> None:
        super().__init__()
        widths = [config.base_channels * by for by in config.channel_multiplier]
        self.conv_in = nn.Conv2d(config.in_channels, config.base_channels, 3, padding=1, **where)
        self.down = nn.ModuleList()
        before = config.base_channels
        for i, width in enumerate(widths):
            blocks, attend = config.num_res_blocks, _attends(config, i)
            level = _Level(config, before, width, blocks, attend, **where)
            if i < len(widths) - 1:
                level.downsample = _Down(width, **where)
            self.down.append(level)
            before = width
        self.mid = _Middle(config, before, **where)
        self.norm_out = _norm(config, before, where)
        latent = config.latent_channels * (2 if config.double_latent else 1)
        self.conv_out = nn.Conv2d(before, latent, 3, padding=1, **where)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
            if hasattr(level, "downsample"):
                x = level.downsample(x)  # pyright: ignore[reportCallIssue]
        return self.conv_out(nn.functional.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """A grid (n, latent, h, w) to pictures (n, C, H, W), not clipped.

    Args:
        config: An `ImageTokenizerConfig`.
        where: Device and dtype of the parameters.
    """

    def __init__(self, config: Any, **where: Any) -> None:
        super().__init__()
        widths = [config.base_channels * by for by in config.channel_multiplier]
        before = widths[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, before, 3, padding=1, **where)
        self.mid = _Middle(config, before, **where)
        levels = []
        for i in reversed(range(len(widths))):
            blocks, attend = config.num_res_blocks + 1, _attends(config, i)
            level = _Level(config, before, widths[i], blocks, attend, **where)
            if i:
                level.upsample = _Up(widths[i], **where)
            levels.insert(0, level)
            before = widths[i]
        self.up = nn.ModuleList(levels)
        self.norm_out = _norm(config, before, where)
        self.conv_out = nn.Conv2d(before, config.in_channels, 3, padding=1, **where)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
            if hasattr(level, "upsample"):
                x = level.upsample(x)  # pyright: ignore[reportCallIssue]
        return self.conv_out(nn.functional.silu(self.norm_out(x)))
