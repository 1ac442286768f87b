"""Real training steps of small models, with every byte that torch's CPU allocator gave counted.

The truth of the study `memory`: a model takes two steps with AdamW; the second one is recorded,
allocation by allocation, by torch's profiler. What it peaks at, with parameters and optimizer
states that were there before, is what a planner must say beforehand.

Shapes: B batch, T sequence, h width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = [
    "MODELS", "Case", "TinyGPT", "TinyLlama", "answer", "build", "load", "measure", "question",
    "shard",
]  # fmt: skip


class _Norm(torch.autograd.Function):
    """RMS norm as a fused kernel keeps it: its input and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        scale = x.float().square().mean(-1, keepdim=True).add(1e-6).rsqrt()
        ctx.save_for_backward(x, weight, scale)
        return x * scale.to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, scale = ctx.saved_tensors
        (grad,), scale = grads, scale.to(x.dtype)
        y, g = x * scale, grads[0] * weight
        return scale * (g - y * (g * y).mean(-1, keepdim=True)), (grad * y).flatten(0, -2).sum(0)


class RMSNorm(nn.Module):
    """`nn.RMSNorm` with the memory of the GPU's fused kernel."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return _Norm.apply(x, self.weight)  # type: ignore[no-any-return]


class _LlamaBlock(nn.Module):
    def __init__(self, h: int, a: int, k: int, f: int):
        super().__init__()
        self.heads, self.width = (a, k), h // a
        self.first, self.second = RMSNorm(h), RMSNorm(h)
        self.q, self.o = (nn.Linear(h, h, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(h, k * self.width, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(h, f, bias=False) for _ in range(2))
        self.down = nn.Linear(f, h, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        a, k = self.heads
        y = self.first(x)
        q, key, value = (
            each(y).unflatten(-1, (n, self.width)).transpose(1, 2)
            for each, n in ((self.q, a), (self.k, k), (self.v, k))
        )
        q, key = (t * cos + torch.cat((-t.chunk(2, -1)[1], t.chunk(2, -1)[0]), -1) * sin
                  for t in (q, key))  # fmt: skip
        y = F.scaled_dot_product_attention(q, key, value, is_causal=True, enable_gqa=a != k)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        y = self.second(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class TinyLlama(nn.Module):
    """A Llama of a few layers; the head stands alone or is the embedding."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self, vocab: int = 512, h: int = 64, layers: int = 2, heads: int = 4, kv_heads: int = 2,
        f: int = 176, sequence: int = 64, tied: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.embedding = nn.Embedding(vocab, h)
        self.layers = nn.ModuleList(_LlamaBlock(h, heads, kv_heads, f) for _ in range(layers))
        self.norm, self.head = RMSNorm(h), nn.Linear(h, vocab, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        angle = torch.arange(sequence)[:, None] * 10000.0 ** -torch.linspace(0, 1, h // heads)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
        return self.head(self.norm(x))


class _GPTBlock(nn.Module):
    def __init__(self, h: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.first, self.second = nn.LayerNorm(h), nn.LayerNorm(h)
        self.qkv, self.o = nn.Linear(h, 3 * h), nn.Linear(h, h)
        self.up, self.down = nn.Linear(h, 4 * h), nn.Linear(4 * h, h)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in self.qkv(self.first(x)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.dropout(self.o(y.transpose(1, 2).flatten(2)), self.dropout, self.training)
        y = self.down(F.gelu(self.up(self.second(x))))
        return x + F.dropout(y, self.dropout, self.training)


class TinyGPT(nn.Module):
    """A GPT-2 of a few layers, its head tied to the embedding."""

    def __init__(
        self, vocab: int = 512, h: int = 64, layers: int = 2, heads: int = 4, sequence: int = 64,
        dropout: float = 0.1,
    ):  # fmt: skip
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocab, h), nn.Embedding(sequence, h)
        self.layers = nn.ModuleList(_GPTBlock(h, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(h), nn.Linear(h, vocab, bias=False)
        self.head.weight = self.embedding.weight
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.dropout(self.embedding(ids) + self.positions(places))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(),
                         nn.Linear(500, 10))  # fmt: skip


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 64, 10),
    )  # fmt: skip


Case = tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]
"""A model, its input, and the loss of its output."""

MODELS: dict[str, str] = {
    "mlp": "MLP, 287,510 weights, batch 256",
    "cnn": "Convolutional net, batch 32",
    "encoder": "Two encoder layers of torch's own",
    "gpt": "GPT-2 of 2 layers, tied head",
    "llama": "Llama of 4 layers, grouped queries",
}
"""Small models by name."""


def build(name: str, *, scale: int = 1) -> Case:
    """A small model in training mode; `scale` multiplies its batch."""
    draw = torch.Generator().manual_seed(0)
    if name in ("gpt", "llama"):
        model = TinyGPT() if name == "gpt" else TinyLlama(layers=4, vocab=1000)
        ids = torch.randint(0, 512, (4 * scale, 64), generator=draw)
        return model, ids, lambda out: _entropy(out, ids.shape)
    if name == "encoder":
        model = nn.Sequential(
            *(nn.TransformerEncoderLayer(96, 4, 384, 0.0, batch_first=True) for _ in range(2))
        )
        return (
            model,
            torch.randn(8 * scale, 50, 96, generator=draw),
            lambda out: out.square().mean(),
        )
    model = _mlp() if name == "mlp" else _cnn()
    shape = (256 * scale, 64) if name == "mlp" else (32 * scale, 3, 32, 32)
    return model, torch.randn(shape, generator=draw), lambda out: _entropy(out, out.shape[:1])


def _entropy(logits: Tensor, shape: Any) -> Tensor:
    labels = torch.zeros(shape, dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten())


def measure(model: nn.Module, given: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, int]:
    """Takes two steps with torch's AdamW (foreach) and records the second.

    Returns:
        Bytes: "peak" of everything (parameters, buffers and states included, inputs not),
        "saved" when the forward pass ended, "states" of parameters, gradients and moments.
    """
    from torch.profiler import ProfilerActivity, profile, record_function

    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(given))
        with record_function("forward ended"):
            pass
        value.backward()
        del value
        optimizer.step()

    step()
    optimizer.zero_grad(set_to_none=True)
    kept = [*model.parameters(), *model.buffers()]
    moments = [t for state in optimizer.state.values() for t in state.values() if t.numel() > 1]
    before = sum(t.numel() * t.element_size() for t in (*kept, *moments))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    events = record.profiler.kineto_results.events()  # type: ignore[union-attr]
    now = peak = saved = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        if event.name() == "forward ended":
            saved = now
        elif event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return {"peak": before + peak, "saved": saved, "states": before + gradients}


class _Sent(TorchDispatchMode):
    """Adds up the bytes that collectives are called with."""

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if str(func).startswith("c10d."):
            sizes = [t.numel() * t.element_size() for t in tree_leaves(args)
                     if isinstance(t, Tensor)]  # fmt: skip
            self.total += max(sizes, default=0)
        return func(*args, **(kwargs or {}))


def shard(ranks: int) -> dict[str, int]:
    """One rank's step under torch's `fully_shard`, the others being there in name only.

    Returns:
        "states": bytes of this rank's parameters, gradients and moments; "sent": bytes that its
        collectives were called with; "parameters": how many the whole model has.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        mesh, model = init_device_mesh("cpu", (ranks,)), TinyLlama(h=128, f=320, vocab=1024)
        count = sum(p.numel() for p in model.parameters())
        for part in (*model.layers, model):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
        optimizer = torch.optim.AdamW(model.parameters())
        with _Sent() as sent:
            model(torch.zeros((2, 64), dtype=torch.long)).sum().backward()
        optimizer.step()
        kept = [
            each.to_local()  # type: ignore[union-attr]
            for p in model.parameters()
            for each in (p, p.grad, *(t for t in optimizer.state[p].values() if t.dim()))
        ]
        size = sum(t.numel() * t.element_size() for t in kept)
    finally:
        dist.destroy_process_group()
    return {"states": size, "sent": sent.total, "parameters": count}


def load(kind: str, **params: Any) -> tuple[Mapping[str, Any]]:
    """A problem of the study, with the truth that an estimate is judged by.

    Args:
        kind: "measured" (a step of the model `name`), "sharded" (states of one of `ranks`
            ranks), or "published" (`truth` and the plan's options are given).
        params: As said.
    """
    if kind == "measured":
        case = build(params["name"], scale=params.get("scale", 1))
        return ({"kind": kind, **params, "truth": measure(*case)["peak"]},)
    if kind == "sharded":
        found = shard(params["ranks"])
        return ({"kind": kind, **params, **found, "truth": found["states"]},)
    return ({"kind": kind, **params},)


def question(name: str) -> tuple[Mapping[str, Any], int]:
    """What the study of speed asks: a problem without its truth, and a seed."""
    return {"kind": "measured", "name": name}, 0


def answer(problem: Mapping[str, Any], seed: int) -> int:
    """The truth of such a question: bytes of a real step."""
    return measure(*build(problem["name"]))["peak"]
