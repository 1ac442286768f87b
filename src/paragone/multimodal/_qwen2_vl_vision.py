r"""The tower of Qwen2-VL and Qwen2.5-VL: patches at a picture's own size, merged four to one.

A patch is p x p pixels of two frames (a still picture is taken twice), embedded by one linear map
without bias. Places are turned into queries and keys by row and column; nothing is added. With
i(q) the picture or window that patch q belongs to,

$$ x \leftarrow x + W_o\, \mathrm{attn}_{i}(\mathrm{norm}(x)), \qquad
   x \leftarrow x + F(\mathrm{norm}(x)), $$

$$ F_{2}(x) = W_2\, h\, \sigma(1.702\, h),\ h = W_1 x, \qquad
   F_{2.5}(x) = W_d \big(\mathrm{silu}(W_g x) \odot W_u x\big) , $$

and four neighbours become one token, $z = V_2\, \mathrm{gelu}(V_1 [\mathrm{norm}(x_{1..4})])$.

Qwen2.5-VL attends within windows of 112 x 112 pixels but for four blocks, so that its cost grows
with the picture's area and not with its square.

Cost: for L patches O(L M^2) and, in n windows or pictures of l patches, O(M n l^2).

References:
    Wang et al. (2024), Qwen2-VL, arXiv:2409.12191, section 2.1.
    Bai et al. (2025), Qwen2.5-VL, arXiv:2502.13923, section 2.1.1.
    Hendrycks and Gimpel (2016), arXiv:1606.08415, section 2 (x sigma(1.702 x)).

Shapes: n pictures, L patches, C channels, p pixels of a patch's side, M width, H heads of width D,
W width of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.language._moe_feed import FeedForward
from paragone.language.llama import RMSNorm
from paragone.mixers.flash_attention import attention_packed
from paragone.mixers.rotary import Rotary
from paragone.multimodal._qwen2_vl_config import Qwen2VLVisionConfig
from paragone.multimodal._qwen2_vl_positions import checked_grids, turns, windows
from paragone.multimodal.ops.dense import linear

__all__ = ["Qwen2VLTower"]

_EPS = 1e-6


class Qwen2VLTower(nn.Module):
    """A Transformer over the patches of any number of pictures, and the merger behind it.

    Prefer `MoonViT` for an encoder that is to be trained here; this one is for weights of the
    Qwen2-VL family, whose names its parameters have. It is an encoder by itself: `hidden` gives
    the features of patches, `forward` those of merged tokens.

    Args:
        config: Sizes.
        device: Where the parameters are.
        dtype: Their type.

    Example:
        >>> config = Qwen2VLVisionConfig(width=32, depth=1, heads=2, inner=64, out=24, patch_size=4)
        >>> Qwen2VLTower(config)(torch.zeros(24, 96), [(1, 4, 6)]).shape
        torch.Size([6, 24])
    """

    def __init__(
        self,
        config: Qwen2VLVisionConfig,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.patch_embed = _PatchEmbed(config, where)
        self.blocks = nn.ModuleList(_Block(config, where) for _ in range(config.depth))
        self.merger = _Merger(config, where)

    def forward(self, pixel_values: Tensor, grid_thw: Tensor | Sequence[Sequence[int]]) -> Tensor:
        """What pictures put into the place of their placeholders.

        Args:
            pixel_values: (L, C 2 p^2) as `Qwen2VLImageProcessor` gives them, blocks of merged
                patches one behind the other.
            grid_thw: (n, 3) frames, rows and columns of patches of each picture.

        Returns:
            (L / 4, W), row by row.

        Raises:
            ValueError: Shapes or numbers that do not fit.
        """
        x, back = self._through(pixel_values, grid_thw)
        z = self.merger(x)
        return z if back is None else z[back]

    def hidden(self, pixel_values: Tensor, grid_thw: Tensor | Sequence[Sequence[int]]) -> Tensor:
        """Features of all patches before they are merged, (L, M), in the order of the patches.

        Args:
            pixel_values: As in `forward`.
            grid_thw: As in `forward`.

        Raises:
            ValueError: As in `forward`.
        """
        x, back = self._through(pixel_values, grid_thw)
        return x if back is None else self._grouped(x, back)

    def _grouped(self, x: Tensor, order: Tensor) -> Tensor:
        """Rows of patches, those of merged tokens moved together."""
        return x.unflatten(0, (-1, self.config.merge**2))[order].flatten(0, 1)

    def _through(self, pixel_values: Tensor, grid_thw: Any) -> tuple[Tensor, Tensor | None]:
        """All blocks; and the numbers that undo the order of windows, where there are any."""
        c, weight = self.config, self.patch_embed.proj.weight
        if pixel_values.ndim != 2 or pixel_values.shape[1] != c.pixels:
            raise ValueError(
                f"pixel_values have shape {tuple(pixel_values.shape)}; (L, {c.pixels}) is expected"
            )
        grids = checked_grids(grid_thw, c.merge, len(pixel_values))
        x = functional.linear(pixel_values.to(weight.dtype), weight.flatten(1))
        wide = torch.promote_types(x.dtype, torch.float32)
        table = turns(grids, c.merge, c.head_size, c.theta, x.device, wide)
        whole = _lengths([h * w for t, h, w in grids for _ in range(t)], x)
        near, back = whole, None
        if c.windowed:
            order, counts = windows(grids, c.merge, c.window // c.merge // c.patch_size)
            near = _lengths([count * c.merge**2 for count in counts], x)
            order = order.to(x.device)
            x, back = self._grouped(x, order), order.argsort()
            table = (self._grouped(table[0], order), self._grouped(table[1], order))
        for number, block in enumerate(self.blocks):
            full = not c.windowed or number in c.full
            x = block(x, *table, whole if full else near)
        return x, back


def _lengths(counts: list[int], x: Tensor) -> Tensor:
    return torch.tensor(counts, dtype=torch.int64, device=x.device)


class _PatchEmbed(nn.Module):
    """One linear map of pixels, written as a convolution for its published shape."""

    def __init__(self, config: Qwen2VLVisionConfig, where: Mapping[str, Any]):
        super().__init__()
        kernel = (config.frames, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.channels, config.width, kernel, kernel, bias=False, **where)


class _Block(nn.Module):
    def __init__(self, config: Qwen2VLVisionConfig, where: Mapping[str, Any]):
        super().__init__()
        self.norm1 = _norm(config, where)
        self.norm2 = _norm(config, where)
        self.attn = _Attention(config, where)
        if config.windowed:
            self.mlp = FeedForward(config.width, config.inner, bias=True, **where)
        else:
            self.mlp = _Feed(config, where)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, lengths: Tensor) -> Tensor:
        x = self.attn(self.norm1(x), cos, sin, lengths, x)
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    def __init__(self, config: Qwen2VLVisionConfig, where: Mapping[str, Any]):
        super().__init__()
        self.heads, self.rotary = config.heads, Rotary(config.head_size)
        self.qkv = nn.Linear(config.width, 3 * config.width, **where)
        self.proj = nn.Linear(config.width, config.width, **where)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, lengths: Tensor, shortcut: Tensor
    ) -> Tensor:
        qkv = linear(x, self.qkv.weight, self.qkv.bias).unflatten(-1, (3, self.heads, -1))
        q, k = (
            self.rotary.turn_early(qkv[None, :, one], cos, sin)[0].transpose(0, 1)
            for one in range(2)
        )
        y = attention_packed(q, k, qkv[:, 2], lengths).flatten(1)
        return linear(y, self.proj.weight, self.proj.bias, shortcut)


class _Feed(nn.Module):
    """Two layers with GELU's sigmoid form between them."""

    def __init__(self, config: Qwen2VLVisionConfig, where: Mapping[str, Any]):
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.inner, **where)
        self.fc2 = nn.Linear(config.inner, config.width, **where)

    def forward(self, x: Tensor) -> Tensor:
        h = linear(x, self.fc1.weight, self.fc1.bias)
        return linear(h * torch.sigmoid(1.702 * h), self.fc2.weight, self.fc2.bias)


class _Merger(nn.Module):
    def __init__(self, config: Qwen2VLVisionConfig, where: Mapping[str, Any]):
        super().__init__()
        wide = config.width * config.merge**2
        self.ln_q = _norm(config, where)
        self.mlp = nn.Sequential(
            nn.Linear(wide, wide, **where), nn.GELU(), nn.Linear(wide, config.out, **where)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(L, M) to (L / 4, W)."""
        wide = self.mlp[0].in_features
        return self.mlp(self.ln_q(x).view(-1, wide))


def _norm(config: Qwen2VLVisionConfig, where: Mapping[str, Any]) -> nn.Module:
    if config.windowed:
        return RMSNorm(config.width, _EPS, **where)
    return nn.LayerNorm(config.width, _EPS, **where)
