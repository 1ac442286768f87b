"""Operations of mixers behind one call for the study `mixers_speed`: `(op, way, *numbers)`.

Operations on numbers alone: "linear" (causal linear attention, elu + 1), "scan" (selective
scan), "kernel" (the convolution kernel of diagonal modes), "legs" (online LegS projection). Whole
modules, with weights that all share: "mamba", "gau" (two gated units, each with a residual),
"performer", "linformer". The way is "forward", or "both": then the gradients of the numbers or of
the input belong to the result. `truth` computes all of them in float64, by the references.

Shapes: B rows, H heads or channels, T time, D width of keys, n modes, M model width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone._core.lazy import resolve
from paragone.lab.sequences import drawn_from
from paragone.lab.torchvision_cpu import prepare

__all__ = [
    "FlashPeer", "Hugging", "Linformers", "MambaPy", "Ours", "Performers", "Torch", "TorchBlock",
    "TorchSdpa", "inputs", "module_of", "truth",
]  # fmt: skip

_MODULES = {
    "mamba": ("Mamba", {}), "gau": ("GatedAttentionUnit", {}),
    "performer": ("Performer", {"heads": 4, "features": 256, "redraw": None, "seed": 0}),
    "linformer": ("Linformer", {"heads": 4, "rank": 256}),
}  # fmt: skip


def inputs(op: str, way: str, length: int, width: int, size: int = 64) -> tuple[Any, ...]:
    """The operation, the way, and its numbers.

    Args:
        op: As above.
        way: "forward" or "both".
        length: T.
        width: Heads of "linear", channels of "scan", "kernel" and "legs", M of modules.
        size: D of "linear", states of "scan", modes of "kernel", order of "legs".
    """
    rng = np.random.default_rng([length, width, size])

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))

    if op == "linear":
        return (
            op,
            way,
            normal(1, width, length, size),
            normal(1, width, length, size),
            normal(1, width, length, size),
        )
    if op == "scan":
        return (op, way, normal(1, length, width), normal(1, length, width) - 3,
                -torch.arange(1.0, size + 1).expand(width, size).contiguous(),
                normal(1, length, size), normal(1, length, size), normal(width),
                normal(1, length, width))  # fmt: skip
    if op == "kernel":
        rate = torch.stack([-0.5 * torch.ones(width, size), normal(width, size) * 100], dim=1)
        return op, way, rate * 1e-2, normal(width, 2, size), length
    if op == "legs":
        return op, way, rng.standard_normal((length, width)).cumsum(0) / length**0.5, size
    with drawn_from(0):
        weights = dict(module_of(op, width, length).state_dict())
    return op, way, weights, normal(1, length, width)


def module_of(op: str, width: int, length: int) -> nn.Module:
    """Our module of an operation; of "gau" two units."""
    name, options = _MODULES[op]
    if op == "linformer":
        options = {**options, "length": length, "rank": min(options["rank"], length)}
    target = resolve(f"paragone.mixers:{name}")
    if op == "gau":
        return nn.ModuleList([target(width, **options) for _ in range(2)])
    return target(width, **options)


def _applied(op: str, module: Any, x: Tensor) -> Tensor:
    if op != "gau":
        return module(x)[0]
    for unit in module:
        x = x + unit(x)[0]
    return x


def _linear_torch(q: Tensor, k: Tensor, v: Tensor, chunk: int = 64) -> Tensor:
    """Causal linear attention in plain torch by chunks: products inside, a state between."""
    q, k = functional.elu(q) + 1, functional.elu(k) + 1
    left = -q.shape[2] % chunk
    time = q.shape[2]
    q, k, v = (functional.pad(x, (0, 0, 0, left)).unflatten(2, (-1, chunk)) for x in (q, k, v))
    v = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    states = (k.mT @ v).cumsum(2)
    before = functional.pad(states[:, :, :-1], (0, 0, 0, 0, 1, 0))
    found = (q @ k.mT).tril() @ v + q @ before
    found = found.flatten(2, 3)[:, :, :time]
    return found[..., :-1] / found[..., -1:]


def _scan_torch(*numbers: Tensor) -> Tensor:
    """The selective scan as a loop over time, of x, dt, A, B, C, D and z."""
    x, dt, A, B, C, D, z = numbers
    dt = functional.softplus(dt)
    h, found = x.new_zeros(x.shape[0], *A.shape), []
    for t in range(x.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h
        h = h + (dt[:, t] * x[:, t])[..., None] * B[:, t, None]
        found.append((h @ C[:, t, :, None])[..., 0])
    return (torch.stack(found, 1) + D * x) * functional.silu(z)


def _kernel_torch(rate: Tensor, weight: Tensor, length: int) -> Tensor:
    """Sums of powers through a tensor of all of them (H, n, L)."""
    z, w = torch.complex(rate[:, 0], rate[:, 1]), torch.complex(weight[:, 0], weight[:, 1])
    lags = torch.arange(length, dtype=rate.dtype)
    return (w[..., None] * torch.exp(z[..., None] * lags)).sum(1).real


def _legs_loop(signal: np.ndarray, order: int) -> np.ndarray:
    """LegS by the bilinear rule, one dense solve a sample: the loop of the paper's code."""
    index = np.arange(order)
    root = np.sqrt(2 * index + 1)
    A = -np.tril(np.outer(root, root), -1) - np.diag(index + 1.0)
    c, one = np.zeros((order, signal.shape[1])), np.eye(order)
    for t, value in enumerate(signal, start=1):
        right = (one + A / (2 * t)) @ c + np.outer(root, value) / t
        c = np.linalg.solve(one - A / (2 * t), right)
    return c.T


class _Calls:
    """Keeps modules from the first call on; the way "both" takes gradients as well."""

    def __init__(self) -> None:
        self.kept: Any = None

    def __call__(self, op: str, way: str, *numbers: Any) -> Any:
        call: Callable[..., Any] = getattr(self, op)
        if way == "forward":
            with torch.no_grad():
                return call(*numbers)
        leaves = [n.clone().requires_grad_() if isinstance(n, Tensor) else n for n in numbers]
        out = call(*leaves)
        wanted = [n for n in leaves if isinstance(n, Tensor)]
        return (out.detach(), *torch.autograd.grad(out, wanted, torch.ones_like(out)))

    def _module(self, op: str, weights: Mapping[str, Tensor], x: Tensor) -> Any:
        if self.kept is None:
            self.kept = module_of(op, x.shape[-1], x.shape[1]).eval()
            self.kept.load_state_dict(weights)
        return self.kept


class Ours(_Calls):
    """Paragone's operations."""

    def linear(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        call = resolve("paragone.mixers.ops.linear.interface:linear_attention")
        return call(q, k, v, normalize=True, feature_map="elu1")[0]

    def scan(self, *numbers: Tensor) -> Tensor:
        call = resolve("paragone.mixers.ops.scan:selective_scan")
        return call(*numbers[:-1], z=numbers[-1])[0]

    def kernel(self, rate: Tensor, weight: Tensor, length: int) -> Tensor:
        return resolve("paragone.mixers.ops.spaces.vandermonde:vandermonde")(rate, weight, length)

    def legs(self, signal: np.ndarray, order: int) -> np.ndarray:
        return resolve("paragone.mixers.hippo:Projection")("legs", order).push(signal)

    def _applied(self, op: str, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return _applied(op, self._module(op, weights, x), x)

    def mamba(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return self._applied("mamba", weights, x)

    def gau(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return self._applied("gau", weights, x)

    def performer(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return self._applied("performer", weights, x)

    def linformer(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return self._applied("linformer", weights, x)


class Torch(_Calls):
    """The same as people write it in plain torch and NumPy."""

    def linear(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _linear_torch(q, k, v)

    def scan(self, *numbers: Tensor) -> Tensor:
        return _scan_torch(*numbers)

    def kernel(self, rate: Tensor, weight: Tensor, length: int) -> Tensor:
        return _kernel_torch(rate, weight, length)

    def legs(self, signal: np.ndarray, order: int) -> np.ndarray:
        return _legs_loop(signal, order)

    def gau(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        for unit in self._module("gau", weights, x):
            gate, v = functional.silu(unit.to_hidden(x)).chunk(2, dim=-1)
            z = functional.silu(unit.to_z(x))
            q, k = unit._offset(z, torch.arange(x.shape[1])[None])
            scores = (q @ k.mT * unit.key_size**-0.5).relu().square().tril()
            seen = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
            x = x + unit.to_out(gate * (scores @ v / seen))
        return x


class TorchSdpa(_Calls):
    """Exact causal attention by torch: other work, to see from which length on linear pays."""

    def linear(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


class TorchBlock(_Calls):
    """Attention and feed-forward of as many parameters as two gated units: other work."""

    def gau(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if self.kept is None:
            attention = resolve("paragone.lab.contestants.mixers_rivals:TorchAttention")
            width = x.shape[-1]
            mixer = attention(width, width // 64)
            count = sum(w.numel() for w in weights.values())
            mine = sum(p.numel() for p in mixer.parameters())
            inner = round((count - mine) / (3 * width))
            self.kept = mixer, resolve("paragone.mixers.body:FeedForward")(width, inner)
        mixer, feed = self.kept
        x = x + mixer(x)[0]
        return x + feed(x)


class Hugging(_Calls):
    """transformers' Mamba block with the same weights."""

    def mamba(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if self.kept is None:
            width = x.shape[-1]
            prepare()
            config = resolve("transformers:MambaConfig")(hidden_size=width, num_hidden_layers=1)
            place = "transformers.models.mamba.modeling_mamba:MambaMixer"
            self.kept = resolve(place)(config, layer_idx=0).eval()
            self.kept.load_state_dict(weights)
        return self.kept(x)


class MambaPy(_Calls):
    """mambapy's parallel scan, and its block with the same weights."""

    def scan(self, *numbers: Tensor) -> Tensor:
        x, dt, A, B, C, D, z = numbers
        dt = functional.softplus(dt)
        decay = torch.exp(dt[..., None] * A)
        h = resolve("mambapy.pscan:pscan")(decay, dt[..., None] * B[:, :, None] * x[..., None])
        return ((h @ C[..., None])[..., 0] + D * x) * functional.silu(z)

    def mamba(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if self.kept is None:
            config = resolve("mambapy.mamba:MambaConfig")(d_model=x.shape[-1], n_layers=1)
            self.kept = resolve("mambapy.mamba:MambaBlock")(config).eval()
            self.kept.load_state_dict(weights)
        return self.kept(x)


class Performers(_Calls):
    """performer-pytorch's attention with the same projections and directions."""

    def performer(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if self.kept is None:
            width, features = x.shape[-1], _MODULES["performer"][1]["features"]
            heads = _MODULES["performer"][1]["heads"]
            made = resolve("performer_pytorch:SelfAttention")(
                dim=width, causal=True, heads=heads, dim_head=width // heads, nb_features=features
            ).eval()
            parts = weights["to_qkv.weight"].chunk(3)
            with torch.no_grad():
                for name, part in zip(("to_q", "to_k", "to_v"), parts, strict=True):
                    getattr(made, name).weight.copy_(part)
                made.to_out.weight.copy_(weights["to_out.weight"])
                if made.to_out.bias is not None:
                    made.to_out.bias.zero_()
                made.fast_attention.projection_matrix.copy_(weights["directions"])
            self.kept = made
        return self.kept(x)


class Linformers(_Calls):
    """linformer's attention with the same weights."""

    def linformer(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if self.kept is None:
            options = _MODULES["linformer"][1]
            self.kept = resolve("linformer:LinformerSelfAttention")(
                dim=x.shape[-1],
                seq_len=x.shape[1],
                heads=options["heads"],
                k=weights["proj_k"].shape[-1],
            ).eval()
            self.kept.load_state_dict(weights)
        return self.kept(x)


class FlashPeer(_Calls):
    """FLASH-pytorch's gated units: a norm and a bias by distance more, weights of its own."""

    def gau(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if self.kept is None:
            made = resolve("flash_pytorch:GAU")
            self.kept = [made(dim=x.shape[-1], causal=True).eval() for _ in range(2)]
        for unit in self.kept:
            x = unit(x)
        return x


class _Truth(_Calls):
    linear = staticmethod(_linear_torch)
    scan = staticmethod(_scan_torch)
    kernel = staticmethod(_kernel_torch)
    legs = staticmethod(_legs_loop)

    def _double(self, op: str, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return _applied(op, self._module(op, weights, x).double(), x)


def truth(op: str, way: str, *numbers: Any) -> Any:
    """The result in float64: by plain torch, or our modules turned to double."""
    exact = [n.double() if isinstance(n, Tensor) else n for n in numbers]
    known = _Truth()
    if op in _MODULES:
        setattr(known, op, lambda weights, x: known._double(op, weights, x))
    return known(op, way, *exact)
