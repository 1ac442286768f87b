r"""Parts of models of pictures behind one call: encoder, codebook, attention of mixed documents.

"codes" takes vectors and codes and gives the number of the nearest code of each; "mixed" takes
queries, keys, values and who sees whom, and gives attention. The encoder, MoonViT, is called with
`(op, sizes, weights, patches, grids)`: "see" gives the features (L, M) of all patches; "learn"
also goes back and gives the gradient of the patches' map, for a loss that is the mean square of
the features. All have the same weights, under the published names. What pictures of mixed sizes
cost depends on how they are put into one batch:

- packed: the patches of all stand one behind the other, L = sum of n_i;
- one by one: each picture is a batch of its own;
- padded: all are filled up to the largest, which costs n max n_i patches.

`truth` is a Transformer in plain torch, in float64, one picture at a time.

Shapes: n pictures, L patches in all, p pixels of a patch's side, M model width, H heads of
width D, T time, N vectors, K codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paragone._core.lazy import resolve
from paragone.lab.tasks._vision_language_scenes import mixed_grids

__all__ = [
    "Packed", "Padded", "Single", "Transformers", "by_cdist", "by_products", "by_torch", "exact",
    "inputs", "mixed", "nearest", "seen_by", "truth", "vectors",
]  # fmt: skip

_THETA, _EPS = 10_000.0, 1e-5
_FIRST = "patch_embed.proj.weight"

Sizes = Mapping[str, int]
State = Mapping[str, Tensor]


def inputs(
    op: str, width: int, layers: int, heads: int, count: int, table: int = 32, patch: int = 14
) -> tuple[str, dict[str, int], dict[str, Tensor], Tensor, Tensor]:
    """The operation, sizes, weights, patches (L, 3, p, p) and grids (n, 2).

    Args:
        op: "see" or "learn".
        width: M.
        layers: Blocks.
        heads: H.
        count: Pictures n.
        table: Rows and columns of the table of places.
        patch: p.
    """
    rng = np.random.default_rng([width, count])
    inner = 4 * width

    def normal(*shape: int, spread: float = 1.0) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) * spread

    state = {_FIRST: normal(width, 3, patch, patch, spread=(3 * patch * patch) ** -0.5),
             "patch_embed.proj.bias": normal(width, spread=0.1),
             "patch_embed.pos_emb.weight": normal(table, table, width, spread=0.5)}  # fmt: skip
    maps = {"wqkv": (3 * width, width), "wo": (width, width), "mlp.fc0": (inner, width),
            "mlp.fc1": (width, inner)}  # fmt: skip
    for block in range(layers):
        name = f"encoder.blocks.{block}"
        for part, (rows, columns) in maps.items():
            state[f"{name}.{part}.weight"] = normal(rows, columns, spread=columns**-0.5)
            state[f"{name}.{part}.bias"] = normal(rows, spread=0.1)
        state |= _norm(f"{name}.norm0", width, normal) | _norm(f"{name}.norm1", width, normal)
    state |= _norm("encoder.final_layernorm", width, normal)
    grids = torch.tensor(mixed_grids(count))
    total = int(grids.prod(1).sum())
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
             "intermediate_size": inner, "patch_size": patch, "init_pos_emb_height": table,
             "init_pos_emb_width": table}  # fmt: skip
    return op, sizes, state, normal(total, 3, patch, patch, spread=0.5), grids


def _norm(name: str, width: int, normal: Any) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + normal(width, spread=0.1),
            f"{name}.bias": normal(width, spread=0.1)}  # fmt: skip


class Packed:
    """Our MoonViT, all pictures in one row."""

    def __init__(self) -> None:
        self.kept: Any = None

    def ready(self, sizes: Sizes, state: State) -> Any:
        """The module with these weights."""
        model = resolve("paragone.multimodal.moonvit:MoonViT")(dict(sizes))
        model.load_state_dict(dict(state))
        return model

    def features(self, model: Any, patches: Tensor, grids: Tensor) -> Tensor:
        """(L, M)."""
        return model(patches, grids)

    def first(self, model: Any) -> Tensor:
        """The map of the patches."""
        return model.patch_embed.proj.weight

    def __call__(
        self, op: str, sizes: Sizes, state: State, patches: Tensor, grids: Tensor
    ) -> Any:  # fmt: skip
        if self.kept is None:
            self.kept = self.ready(sizes, state)
        if op == "see":
            with torch.inference_mode():
                return self.features(self.kept, patches, grids)
        for p in self.parameters(self.kept):
            p.grad = None
        found = self.features(self.kept, patches, grids)
        found.square().mean().backward()
        return found, self.first(self.kept).grad

    def parameters(self, model: Any) -> list[Tensor]:
        """All that gets a gradient."""
        return list(model.parameters())


class Single(Packed):
    """Our MoonViT, a picture at a time."""

    def features(self, model: Any, patches: Tensor, grids: Tensor) -> Tensor:
        parts = patches.split([int(n) for n in grids.prod(1)])
        return torch.cat([model(x, grid[None]) for x, grid in zip(parts, grids, strict=True)])


class Padded(Packed):
    """The same network in plain torch with `scaled_dot_product_attention`, pictures filled up."""

    def ready(self, sizes: Sizes, state: State) -> Any:
        return sizes, {name: x.clone().requires_grad_() for name, x in state.items()}

    def features(self, model: Any, patches: Tensor, grids: Tensor) -> Tensor:
        sizes, state = model
        return _filled(sizes, state, patches, grids)

    def first(self, model: Any) -> Tensor:
        return model[1][_FIRST]

    def parameters(self, model: Any) -> list[Tensor]:
        return list(model[1].values())


def _places(state: State, grid: Sequence[int]) -> Tensor:
    table = state["patch_embed.pos_emb.weight"]
    if tuple(grid) == tuple(table.shape[:2]):
        return table.flatten(0, 1)
    plane = functional.interpolate(
        table.permute(2, 0, 1)[None], tuple(grid), mode="bicubic", align_corners=False
    )
    return plane[0].flatten(1).mT


def _angles(grid: Sequence[int], head: int) -> Tensor:
    """(h w, D / 2) of the pairs: by column and by row in turn."""
    rows, columns = (int(n) for n in grid)
    steps = _THETA ** (-torch.arange(0, head, 4, dtype=torch.float64) / head)
    y = torch.arange(rows).repeat_interleave(columns)[:, None] * steps
    x = torch.arange(columns).repeat(rows)[:, None] * steps
    return torch.stack([x, y], -1).flatten(1)


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    """Pairs side by side of (n, N, H, D), turned."""
    cos, sin = (f.to(x.dtype)[:, :, None] for f in (angles.cos(), angles.sin()))
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def _filled(sizes: Sizes, state: State, patches: Tensor, grids: Tensor) -> Tensor:
    counts = [int(n) for n in grids.prod(1)]
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    pad = torch.nn.utils.rnn.pad_sequence
    x = pad(list(patches.flatten(1).split(counts)), batch_first=True)
    x = functional.linear(x, state[_FIRST].flatten(1), state["patch_embed.proj.bias"])
    x = x + pad([_places(state, grid) for grid in grids.tolist()], batch_first=True)
    turns = [_angles(grid, width // heads) for grid in grids.tolist()]
    angles = pad(turns, batch_first=True)
    seen = torch.arange(x.shape[1])[None] < torch.tensor(counts)[:, None]
    for block in range(sizes["num_hidden_layers"]):
        name = f"encoder.blocks.{block}"
        q, k, v = _linear(state, f"{name}.wqkv", _normed(state, f"{name}.norm0", x)).unflatten(
            -1, (3, heads, -1)
        ).unbind(-3)  # fmt: skip
        q, k = (_turned(part, angles) for part in (q, k))
        found = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=seen[:, None, None]
        )
        x = x + _linear(state, f"{name}.wo", found.transpose(1, 2).flatten(2))
        inner = _linear(state, f"{name}.mlp.fc0", _normed(state, f"{name}.norm1", x))
        x = x + _linear(state, f"{name}.mlp.fc1", functional.gelu(inner, approximate="tanh"))
    return _normed(state, "encoder.final_layernorm", x)[seen]


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _normed(state: State, name: str, x: Tensor) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return functional.layer_norm(x, weight.shape, weight, bias, _EPS)


def truth(op: str, sizes: Sizes, state: State, patches: Tensor, grids: Tensor) -> Any:
    """What a call should give, in float64."""
    wide = {name: x.double().requires_grad_(op == "learn") for name, x in state.items()}
    counts = [int(n) for n in grids.prod(1)]
    found = torch.cat([
        _filled(sizes, wide, x, grid[None])
        for x, grid in zip(patches.double().split(counts), grids, strict=True)
    ])  # fmt: skip
    if op == "see":
        return found
    found.square().mean().backward()
    return found, wide[_FIRST].grad


class Transformers(Packed):
    """The vision tower of transformers' `kimi_k25`, which is MoonViT on single pictures."""

    def ready(self, sizes: Sizes, state: State) -> Any:
        resolve("paragone.lab.torchvision_cpu:prepare")()
        home = "transformers.models.kimi_k25"
        make = resolve(f"{home}.configuration_kimi_k25:Kimi_K25VisionConfig")
        same = {"init_pos_emb_height": "pos_emb_height", "init_pos_emb_width": "pos_emb_width"}
        config = make(**{same.get(name, name): value for name, value in sizes.items()})
        config._attn_implementation = "sdpa"
        model = resolve(f"{home}.modeling_kimi_k25:Kimi_K25VisionModel")(config)
        model.load_state_dict(_their_names(state, sizes["num_attention_heads"]))
        return model.eval()

    def features(self, model: Any, patches: Tensor, grids: Tensor) -> Tensor:
        ones = torch.ones(len(grids), 1, dtype=grids.dtype)
        return model(patches, grid_thw=torch.cat([ones, grids], 1)).last_hidden_state


def _their_names(state: State, heads: int) -> dict[str, Tensor]:
    """The published names as transformers has them."""
    halves = resolve("paragone.multimodal._moonvit_layouts:to_halves")
    found = {}
    parts = {"norm0": "norm1", "norm1": "norm2", "wo": "attn.proj", "mlp.fc0": "mlp.fc1",
             "mlp.fc1": "mlp.fc2"}  # fmt: skip
    for name, x in state.items():
        if not name.startswith("encoder.blocks."):
            name = name.replace("pos_emb.weight", "pos_emb.position_embeddings")
            found[name.removeprefix("encoder.")] = x
            continue
        _, _, block, rest = name.split(".", 3)
        part, _, kind = rest.rpartition(".")
        if part == "wqkv":
            q, k, v = x.chunk(3)
            for key, rows in (("q", halves(q, heads)), ("k", halves(k, heads)), ("v", v)):
                found[f"layers.{block}.attn.{key}_proj.{kind}"] = rows
        else:
            found[f"layers.{block}.{parts[part]}.{kind}"] = x
    return found


def vectors(op: str, count: int, codes: int, width: int) -> tuple[str, Tensor, Tensor]:
    """The operation, vectors (N, D) and codes (K, D) near which they lie.

    Args:
        op: "codes", passed on.
        count: N.
        codes: K.
        width: D.
    """
    rng = np.random.default_rng([count, codes, width])
    table = rng.standard_normal((codes, width), dtype=np.float32)
    near = table[rng.integers(0, codes, count)]
    moved = near + 0.5 * rng.standard_normal((count, width), dtype=np.float32)
    return op, torch.from_numpy(moved), torch.from_numpy(table)


def nearest(op: str, z: Tensor, codes: Tensor) -> Tensor:
    """The nearest code of each vector, (N,), by our codebook."""
    return resolve("paragone.multimodal.ops.codebook.call:nearest_code")(z, codes)


def by_cdist(op: str, z: Tensor, codes: Tensor) -> Tensor:
    """The same by torch: all distances (N, K), then the least."""
    return torch.cdist(z, codes).argmin(1)


def by_products(op: str, z: Tensor, codes: Tensor) -> Tensor:
    """The same as transformers' Chameleon has it: squares and one product, then the least."""
    squares = z.square().sum(1, keepdim=True) + codes.square().sum(1)
    return (squares - 2 * z @ codes.T).argmin(1)


def mixed(
    op: str, length: int, patches: int, heads: int, width: int
) -> tuple[str, Tensor, Tensor, Tensor, Tensor]:
    """The operation, queries, keys and values (1, H, T, D), and who sees whom (T, T).

    Texts and pictures by turns: text sees what is before it, a patch its whole picture, too.

    Args:
        op: "mixed", passed on.
        length: T.
        patches: Patches of each picture; each text is a quarter as long.
        heads: H.
        width: D.
    """
    rng = np.random.default_rng([length, patches])
    q, k, v = torch.from_numpy(rng.standard_normal((3, 1, heads, length, width), dtype=np.float32))
    at = torch.arange(length)
    part, place = at // (patches + patches // 4), at % (patches + patches // 4)
    inside = place >= patches // 4
    same = (part[:, None] == part) & inside[:, None] & inside
    return op, q, k, v, same | (at[:, None] >= at)


def seen_by(op: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention under the mask, ours."""
    return resolve("paragone.mixers.flash_attention:attention")(q, k, v, mask=mask)


def by_torch(op: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention under the mask, torch's."""
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def exact(op: str, *given: Any) -> Any:
    """What a call of any operation should give, in float64."""
    if op == "codes":
        z, codes = (x.double() for x in given)
        return by_cdist(op, z, codes)
    if op == "mixed":
        q, k, v = (x.double() for x in given[:3])
        return by_torch(op, q, k, v, given[3])
    sizes, state, patches, grids = given
    return truth(op, sizes, state, patches, grids)
