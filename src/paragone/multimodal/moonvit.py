r"""MoonViT: images at their own resolution in one packed row, attention kept inside each image.

Patches of all images of a batch stand one behind the other, so nothing is resized to a common
square and nothing is padding. With $P$ a learned table of places, resampled to the image's grid,
$R$ the rotation of heads by column and row, and i(p) the image of patch p,

$$ x_p = W\, \text{patch}_p + P(\text{place}_p), \qquad
   x \leftarrow x + A(\mathrm{LN}(x)), \qquad x \leftarrow x + F(\mathrm{LN}(x)), $$

$$ A(x)_p = W_o \sum_{q:\, i(q) = i(p)} \mathrm{softmax}_q\!\left(
   \frac{\langle R_p W_q x_p,\, R_q W_k x_q \rangle}{\sqrt D}\right) W_v x_q , \qquad
   F(x) = W_1\, \mathrm{gelu}_{\tanh}(W_0 x) . $$

Cost: for L patches, of which n_i in image i, O(L M^2 + M sum n_i^2); memory linear in L.

References:
    Kimi Team (2025), Kimi-VL technical report, arXiv:2504.07491, section 2.1.
    Dehghani et al. (2023), Patch n' Pack (NaViT), arXiv:2307.06304, section 2.
    Zhai et al. (2023), SigLIP, arXiv:2303.15343 (what it was first trained as).

Shapes: n images, L patches in all, p pixels of a patch's side, C channels, M model width, H heads
of width D.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paragone.mixers.flash_attention import attention_packed
from paragone.multimodal._moonvit_grids import (
    Grids,
    checked_grids,
    merged_order,
    resampled,
    turns,
)
from paragone.multimodal._moonvit_layouts import published_names
from paragone.multimodal.ops.dense import feed, linear, projected

__all__ = ["MoonViT", "MoonViTConfig"]

_OTHER_NAMES = {"pos_emb_height": "init_pos_emb_height", "pos_emb_width": "init_pos_emb_width"}


@dataclasses.dataclass(frozen=True)
class MoonViTConfig:
    """Sizes of a `MoonViT`; names and values of the published `vision_config`.

    Args:
        hidden_size: Model width M.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads H; M / H is a multiple of 4.
        intermediate_size: Hidden units of the feed-forward.
        patch_size: Pixels p of a patch's side.
        init_pos_emb_height: Rows of the table of places.
        init_pos_emb_width: Columns of the table of places.
        merge_kernel_size: Rows and columns of patches that are merged behind it.
        num_channels: 3, or 1 for grey pictures.
        rope_theta: Base of the angles.
        layer_norm_eps: What is added to the variance of the norms.

    Raises:
        ValueError: Sizes that do not fit.

    Example:
        >>> MoonViTConfig(hidden_size=64, num_attention_heads=4).head_size
        16
    """

    hidden_size: int = 1152
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    intermediate_size: int = 4304
    patch_size: int = 14
    init_pos_emb_height: int = 64
    init_pos_emb_width: int = 64
    merge_kernel_size: tuple[int, int] = (2, 2)
    num_channels: int = 3
    rope_theta: float = 10000.0
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        kernel = tuple(int(one) for one in self.merge_kernel_size)
        if len(kernel) != 2 or min(kernel) < 1:
            raise ValueError(
                f"merge_kernel_size={self.merge_kernel_size}: rows and columns of at least 1"
            )
        object.__setattr__(self, "merge_kernel_size", kernel)
        for name in (
            "hidden_size", "num_attention_heads", "intermediate_size", "patch_size",
            "init_pos_emb_height", "init_pos_emb_width", "num_channels",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1")
        if self.num_hidden_layers < 0:
            raise ValueError(f"num_hidden_layers={self.num_hidden_layers}: at least 0")
        if self.hidden_size % (4 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} over num_attention_heads="
                f"{self.num_attention_heads}: heads are turned by columns and rows in pairs, so a "
                "head's width must be a multiple of 4"
            )

    @property
    def head_size(self) -> int:
        """Width D of a head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def of(cls, values: Mapping[str, Any] | MoonViTConfig) -> MoonViTConfig:
        """From the published keys, or those of K2.5; keys that say nothing of sizes are left.

        Raises:
            ValueError: Another kind of model or activation.
        """
        if isinstance(values, MoonViTConfig):
            return values
        act = values.get("hidden_act", "gelu_pytorch_tanh")
        if act != "gelu_pytorch_tanh":
            raise ValueError(f"hidden_act={act!r}: MoonViT's is 'gelu_pytorch_tanh'")
        known = {field.name for field in dataclasses.fields(cls)}
        named = {_OTHER_NAMES.get(key, key): value for key, value in values.items()}
        theta = (named.get("rope_parameters") or {}).get("rope_theta")
        if theta is not None:
            named["rope_theta"] = theta
        return cls(**{key: value for key, value in named.items() if key in known})

    def to_dict(self) -> dict[str, Any]:
        """The published keys, for a `config.json`."""
        values = dataclasses.asdict(self)
        values["merge_kernel_size"] = list(self.merge_kernel_size)
        return {"model_type": "moonvit", **values}


class MoonViT(nn.Module):
    """A Transformer over the patches of any number of images of any sizes.

    Prefer it to a ViT of one input size where small text or odd shapes must survive, and to
    padding where sizes differ: an image costs what its own patches cost. Parameters have the
    published names; `load_state_dict` also takes transformers' layout of Kimi K2.5.

    Args:
        config: A `MoonViTConfig`, or a mapping with its keys.
        device: Where the parameters are.
        dtype: Their type.

    Attributes:
        gradient_checkpointing: Whether training computes each block again in the backward pass
            and keeps its input alone.

    Example:
        >>> vit = MoonViT(MoonViTConfig(64, 2, 4, 128, init_pos_emb_height=8, init_pos_emb_width=8))
        >>> vit(torch.zeros(14, 3, 14, 14), [(2, 3), (4, 2)]).shape
        torch.Size([14, 64])
    """

    def __init__(
        self,
        config: MoonViTConfig | Mapping[str, Any],
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = MoonViTConfig.of(config)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.patch_embed = _PatchEmbed(self.config, where)
        self.encoder = _Encoder(self.config, where)
        self.gradient_checkpointing = False
        self.register_load_state_dict_pre_hook(_renamed)

    def forward(self, patches: Tensor, grid_hws: Tensor | Sequence[Sequence[int]]) -> Tensor:
        """Features of all patches.

        Args:
            patches: (L, C, p, p), of each image row by row, images one behind the other.
            grid_hws: (n, 2) rows and columns of patches of each image.

        Returns:
            (L, M), in the order of the patches, behind the last norm.

        Raises:
            ValueError: Shapes or numbers that do not fit.
        """
        x, grids = self._embedded(patches, grid_hws)
        return self.encoder.final_layernorm(self._through(x, grids, self.encoder.blocks))

    def merged(self, features: Tensor, grid_hws: Tensor | Sequence[Sequence[int]]) -> Tensor:
        """Features with those of a merging kernel side by side.

        Args:
            features: (L, M), as `forward` gives them.
            grid_hws: (n, 2); rows and columns are multiples of the kernel's.

        Returns:
            (L / 4, 4, M) for a kernel of 2 x 2, merged places row by row.

        Raises:
            ValueError: A grid that is no multiple.
        """
        grids = checked_grids(grid_hws, len(features))
        kernel = self.config.merge_kernel_size
        order = merged_order(grids, kernel).to(features.device)
        return features[order].unflatten(0, (-1, kernel[0] * kernel[1]))

    @torch.no_grad()
    def attention_of(
        self, patches: Tensor, grid_hws: Tensor | Sequence[Sequence[int]], layer: int = -1
    ) -> list[Tensor]:
        """Weights of attention, for pictures of it; memory grows with the square of an image.

        Args:
            patches: As in `forward`.
            grid_hws: As in `forward`.
            layer: Number of the block; negative ones count from the end.

        Returns:
            For each image (H, h w, h w): how much of each key (last) a query takes.

        Raises:
            ValueError: No such block, or as in `forward`.
        """
        blocks = len(self.encoder.blocks)
        if not -blocks <= layer < blocks:
            raise ValueError(f"layer={layer}: {-blocks} to {blocks - 1} are expected")
        x, grids = self._embedded(patches, grid_hws)
        block: Any = self.encoder.blocks[layer]
        x = self._through(x, grids, self.encoder.blocks[: layer % blocks])
        q, k, _ = block.projected(x, *self._turns(grids, x))
        sizes = [h * w for h, w in grids]
        return [
            torch.softmax(a.transpose(0, 1) @ b.permute(1, 2, 0) * a.shape[-1] ** -0.5, -1)
            for a, b in zip(q.split(sizes), k.split(sizes), strict=True)
        ]

    def _embedded(self, patches: Tensor, grid_hws: Any) -> tuple[Tensor, Grids]:
        c, weight = self.config, self.patch_embed.proj.weight
        wanted = (c.num_channels, c.patch_size, c.patch_size)
        if patches.ndim != 4 or tuple(patches.shape[1:]) != wanted:
            raise ValueError(
                f"patches have shape {tuple(patches.shape)}; (L, {', '.join(map(str, wanted))}) "
                "is expected"
            )
        if patches.device != weight.device or not patches.is_floating_point():
            raise ValueError(
                f"patches are {patches.dtype} on {patches.device}; floats on {weight.device}, "
                "where the model is, are expected"
            )
        grids = checked_grids(grid_hws, len(patches))
        return self.patch_embed(patches.to(weight.dtype), grids), grids

    def _turns(self, grids: Grids, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        return turns(grids, self.config.head_size, self.config.rope_theta, x.device, wide)

    def _through(self, x: Tensor, grids: Grids, blocks: nn.ModuleList) -> Tensor:
        cos, sin = self._turns(grids, x)
        lengths = torch.tensor([h * w for h, w in grids], dtype=torch.int64, device=x.device)
        kept = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for block in blocks:
            if kept:
                x = checkpoint(block, x, cos, sin, lengths, use_reentrant=False)  # pyright: ignore
            else:
                x = block(x, cos, sin, lengths)
        return x


class _Places(nn.Module):
    """The table (H, W, M) of learned places."""

    def __init__(self, config: MoonViTConfig, where: Mapping[str, Any]):
        super().__init__()
        sides = (config.init_pos_emb_height, config.init_pos_emb_width)
        self.weight = nn.Parameter(torch.empty(*sides, config.hidden_size, **where))
        if not self.weight.is_meta:
            nn.init.normal_(self.weight)

    def forward(self, x: Tensor, grids: Grids) -> Tensor:
        return x + resampled(self.weight, grids).to(x.dtype)


class _PatchEmbed(nn.Module):
    """One linear map of pixels, written as a convolution for its published shape."""

    def __init__(self, config: MoonViTConfig, where: Mapping[str, Any]):
        super().__init__()
        self.proj = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, config.patch_size, **where
        )
        _drawn(self.proj, config.num_channels * config.patch_size**2)
        self.pos_emb = _Places(config, where)

    def forward(self, patches: Tensor, grids: Grids) -> Tensor:
        weight = self.proj.weight.flatten(1)
        assert self.proj.bias is not None
        return self.pos_emb(linear(patches.flatten(1), weight, self.proj.bias), grids)


class _Encoder(nn.Module):
    def __init__(self, config: MoonViTConfig, where: Mapping[str, Any]):
        super().__init__()
        self.blocks = nn.ModuleList(_Block(config, where) for _ in range(config.num_hidden_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps, **where)


class _Block(nn.Module):
    def __init__(self, config: MoonViTConfig, where: Mapping[str, Any]):
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.norm0 = nn.LayerNorm(width, config.layer_norm_eps, **where)
        self.norm1 = nn.LayerNorm(width, config.layer_norm_eps, **where)
        self.wqkv = nn.Linear(width, 3 * width, **where)
        self.wo = nn.Linear(width, width, **where)
        self.mlp = _Feed(width, config.intermediate_size, where)
        for module in (self.wqkv, self.wo):
            _drawn(module, width)

    def projected(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """Turned queries and keys, and values, each (L, H, D)."""
        x, to = self.norm0(x), self.wqkv
        return projected(x, to.weight, to.bias, cos, sin, self.heads).unbind(1)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, lengths: Tensor) -> Tensor:
        q, k, v = self.projected(x, cos, sin)
        y = attention_packed(q, k, v, lengths).flatten(1)
        x = linear(y, self.wo.weight, self.wo.bias, x)
        return self.mlp(self.norm1(x), x)


class _Feed(nn.Module):
    def __init__(self, width: int, inner: int, where: Mapping[str, Any]):
        super().__init__()
        self.fc0 = nn.Linear(width, inner, **where)
        self.fc1 = nn.Linear(inner, width, **where)
        _drawn(self.fc0, width)
        _drawn(self.fc1, inner)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        a, b = self.fc0, self.fc1
        return feed(x, a.weight, a.bias, b.weight, b.bias, shortcut)


def _drawn(module: nn.Linear | nn.Conv2d, inputs: int) -> None:
    """Weights of variance 1 / inputs, biases of 0."""
    if not module.weight.is_meta:
        nn.init.normal_(module.weight, std=inputs**-0.5)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


def _renamed(module: MoonViT, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Gives weights in transformers' layout their published names, before they are loaded."""
    if not any(key.startswith(f"{prefix}layers.") for key in state):
        return
    own = {key: state.pop(key) for key in list(state) if key.startswith(prefix)}
    inner = {key[len(prefix) :]: value for key, value in own.items()}
    for key, value in published_names(inner, module.config.num_attention_heads).items():
        state[prefix + key] = value
