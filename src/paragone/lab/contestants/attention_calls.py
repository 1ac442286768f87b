"""Attention and decoding behind one call for the study `attention_speed`: `(op, way, *numbers)`.

Operations: "forward" and "backward" of exact attention (the backward pass alone: the first call
keeps the graph), "decode" (one query a head on grouped keys), "latent" (a step of multi-head
latent attention of DeepSeek-V2's sizes, with weights that all share, behind a full cache). The
way is "none", "causal" or "window" (the last 512 keys). `truth` computes them in float64.

Shapes: B rows, H heads, G key heads, T time, D width of a head, M model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone._core.lazy import resolve
from paragone.lab.contestants import attention_rivals as rivals
from paragone.lab.sequences import drawn_from

__all__ = ["Hugging", "Naive", "Ours", "TorchSdpa", "inputs", "truth"]

WINDOW = 512
_ROWS = 512


def inputs(op: str, way: str, length: int, heads: int, depth: int, groups: int = 0) -> tuple:
    """The operation, the way and its numbers; of "latent" the weights and M = heads x 64."""
    rng = np.random.default_rng([length, heads, depth])

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))

    if op == "latent":
        width = heads * depth
        with drawn_from(0):
            weights = dict(latent(width, heads).state_dict())
        return op, way, weights, normal(1, length, width)
    queries = 1 if op == "decode" else length
    shape = (1, groups or heads, length, depth)
    return op, way, normal(1, heads, queries, depth), normal(*shape), normal(*shape)


def latent(width: int, heads: int) -> Any:
    """Our latent attention of DeepSeek-V2's head sizes."""
    return rivals.Ours().decoder("mla", width, heads, 0)


class _Calls:
    """Keeps graphs, modules and caches from the first call on."""

    attend: Any

    def __init__(self) -> None:
        self.kept: Any = None

    def __call__(self, op: str, way: str, *numbers: Any) -> Any:
        if op == "backward":
            return self._backward(way, *numbers)
        with torch.no_grad():
            if op == "latent":
                return self._step(*numbers)
            return self._forward(way if op == "forward" else "none", *numbers)

    def _forward(self, way: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        window = WINDOW if way == "window" else None
        return self.attend(q, k, v, causal=way != "none", window=window)

    def _backward(self, way: str, *numbers: Tensor) -> tuple[Tensor, ...]:
        if self.kept is None:
            leaves = [x.clone().requires_grad_() for x in numbers]
            out = self._forward(way, *leaves)
            self.kept = out, leaves, torch.ones_like(out)
        out, leaves, ones = self.kept
        return torch.autograd.grad(out, leaves, ones, retain_graph=True)

    def _made(self, weights: Mapping[str, Tensor], x: Tensor) -> Any:
        raise NotImplementedError

    def _step(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if self.kept is None:
            module = self._made(weights, x)
            self.kept = module, module(x[:, :-1])[1]
        module, state = self.kept
        y, state = module.step(x[:, -1], state)
        self.kept = module, state
        return y


class Ours(_Calls):
    """Paragone's kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = rivals.Ours().attend

    def _made(self, weights: Mapping[str, Tensor], x: Tensor) -> Any:
        module = latent(x.shape[-1], _heads(weights)).eval()
        module.load_state_dict(weights)
        return module


def _heads(weights: Mapping[str, Tensor]) -> int:
    return weights["q_proj.weight"].shape[0] // (rivals.LATENT["head"] + rivals.LATENT["rope"])


class TorchSdpa(_Calls):
    """torch's SDPA; other masks than causal as a bool matrix, grouped keys by `enable_gqa`."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = rivals.TorchSdpa().attend
        self.seen: Any = None

    def _forward(self, way: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if way != "window":
            return self.attend(q, k, v, causal=way == "causal")
        if self.seen is None:
            self.seen = rivals.permitted(q.shape[2], True, WINDOW, None)
        return self.attend(q, k, v, mask=self.seen)


class Naive(_Calls):
    """Scores, softmax, product."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = rivals.Naive().attend


class Hugging(_Calls):
    """transformers' DeepSeek-V2 attention with the same weights: expands the latent each step."""

    def _made(self, weights: Mapping[str, Tensor], x: Tensor) -> Any:
        module = rivals.Hugging().decoder("mla", x.shape[-1], _heads(weights), 0).eval()
        resolve("operator:attrgetter")("inner")(module).load_state_dict(weights)
        return module


def truth(op: str, way: str, *numbers: Any) -> Any:
    """The result in float64."""
    if op == "latent":
        weights, x = numbers
        module = Ours()._made(weights, x).double()
        with torch.no_grad():
            return module(x.double())[0][:, -1]
    exact = [x.double() for x in numbers]
    if op != "backward":
        return _by_rows(way if op == "forward" else "none", *exact)
    leaves = [x.requires_grad_() for x in exact]
    out = rivals.Naive().attend(*leaves, causal=way != "none")
    return torch.autograd.grad(out, leaves, torch.ones_like(out))


def _by_rows(way: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention a few hundred queries at a time, so that long sequences fit."""
    times = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(times, dim=1) if times > 1 else x for x in (k, v))
    place, found = torch.arange(k.shape[2]), []
    for start in range(0, q.shape[2], _ROWS):
        rows = slice(start, start + _ROWS)
        low = max(0, start - WINDOW) if way == "window" else 0
        high = k.shape[2] if way == "none" else start + _ROWS
        scores = q[:, :, rows] @ k[:, :, low:high].mT / q.shape[-1] ** 0.5
        apart = place[rows, None] - place[low:high]
        if way != "none":
            hidden = (apart < 0) | (apart >= WINDOW) if way == "window" else apart < 0
            scores = scores.masked_fill(hidden, -torch.inf)
        found.append(scores.softmax(-1) @ v[:, :, low:high])
    return torch.cat(found, dim=2)
