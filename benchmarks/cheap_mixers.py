"""Performer, Linformer, sparse attention, gated units: time beside their peers, in one run.

    python benchmarks/cheap_mixers.py [performer] [linformer] [sparse] [gau] [flash] [step]

CPU time of one thread, medians of interleaved calls, without gradients unless said.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from paragone.mixers import (
    FLASH,
    GatedAttentionUnit,
    Linformer,
    MultiHeadAttention,
    Performer,
    SparseAttention,
)  # fmt: skip
from paragone.mixers._cheap_patterns import Pattern
from paragone.mixers.ops import features as maps
from paragone.mixers.ops.gau import relu2_attention
from paragone.mixers.ops.gau.reference import relu2_attention as relu2_reference
from paragone.mixers.sparse_attention import sparse_attention

sdpa = functional.scaled_dot_product_attention


def compare(title: str, calls: dict[str, Callable[[], object]], rounds: int = 5) -> None:
    """Prints the medians of interleaved calls, and their ratio to the first."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            spent[name].append(1e3 * (time.process_time() - start))
    found = {name: statistics.median(times) for name, times in spent.items()}
    first = next(iter(found.values()))
    cells = (f"{name} {value:.2f} ms ({value / first:.2f}x)" for name, value in found.items())
    print(f"{title}: " + ", ".join(cells), flush=True)


def performer() -> None:
    """Random features against the package of that name and against exact attention."""
    for heads, length in ((8, 512), (4, 1024), (1, 4096)):
        performer_at(heads, length)


def performer_at(heads: int, length: int) -> None:
    """The same directions for both, projections of queries and keys included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from performer_pytorch import performer_pytorch as peer
    q, k, v = torch.randn(3, 1, heads, length, 64)
    directions = maps.draw(256, 64, torch.Generator().manual_seed(0))

    def ours(causal: bool) -> object:
        small = k * 64**-0.25
        a = maps.reach_of(q * 64**-0.25, directions)
        b, half = maps.reach_of(small, directions), small.square().sum(-1) / 2
        return (maps.attend_past if causal else maps.attend_all)(a, b, half, v)

    def theirs(causal: bool) -> object:
        a = peer.softmax_kernel(q, projection_matrix=directions, is_query=True)
        b = peer.softmax_kernel(k, projection_matrix=directions, is_query=False)
        if causal:
            return peer.causal_linear_attention_noncuda(a, b, v)
        return peer.linear_attention(a, b, v)

    for causal in (True, False):
        compare(
            f"Performer, causal {causal}, H {heads}, T {length}, D 64, F 256",
            {
                "ours": functools.partial(ours, causal),
                "performer-pytorch": functools.partial(theirs, causal),
                "SDPA": functools.partial(sdpa, q, k, v, is_causal=causal),
            },
        )


def linformer() -> None:
    """Mixed keys against exact attention, projections included."""
    for length in (512, 1024, 2048, 4096):
        x = torch.randn(1, length, 256)
        calls = {"SDPA module": functools.partial(Dense(256, 4), x, False)}
        for rank in (128, 256):
            mixer = Linformer(256, 4, length=length, rank=rank)
            calls[f"rank {rank}"] = functools.partial(mixer, x)
        compare(f"Linformer, M 256, T {length}", calls)


def sparse() -> None:
    """Patterns against exact attention with the same mask."""
    length = 16384
    q, k, v = torch.randn(3, 1, 1, length, 64)
    place = torch.arange(length)
    for pattern in (
        Pattern("strided", stride=128), Pattern("fixed", stride=128, summary=8),
        Pattern("local", stride=850), Pattern("bigbird", block=64, random=3),
    ):  # fmt: skip
        mask = pattern.sees(place[:, None], place[None])
        compare(
            f"{pattern.kind}, T {length}, density {mask.float().mean():.2%}",
            {
                "ours": functools.partial(sparse_attention, q, k, v, pattern),
                "SDPA with the mask": functools.partial(sdpa, q, k, v, attn_mask=mask),
            },
            rounds=3,
        )


class Dense(nn.Module):
    """Attention of plain torch, fused or not."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, x, causal, fused=True):
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if fused:
            y = sdpa(q, k, v, is_causal=causal)
        else:
            scores = q @ k.mT * q.shape[-1] ** -0.5
            if causal:
                hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(hidden, -torch.inf)
            y = torch.softmax(scores, -1) @ v
        return self.to_out(y.transpose(1, 2).flatten(2))


def gau() -> None:
    """Two gated units against attention, fused or not, and a feed-forward of 4 M."""
    for length in (128, 512, 1024, 2048):
        for causal in (True, False):
            gau_at(512, length, causal)
    for length in (512, 2048):
        shapes = ((1, length, 128), (1, length, 128), (1, length, 1024))
        qkv = [(0.1 * torch.randn(shape)).requires_grad_() for shape in shapes]
        compare(
            f"relu^2 attention, forward and backward, T {length}, D 128, E 1024, causal",
            {
                "ours": functools.partial(forward_backward, relu2_attention, qkv),
                "plain torch": functools.partial(forward_backward, relu2_reference, qkv),
            },
        )


def gau_at(width: int, length: int, causal: bool) -> None:
    """One length, everything of equal parameters."""
    x = torch.randn(1, length, width)
    feed = nn.Sequential(
        nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, bias=False)
    )
    dense, own = Dense(width, 8), MultiHeadAttention(width, 8)
    units = [GatedAttentionUnit(width, causal=causal) for _ in range(2)]
    chunks = [FLASH(width, causal=causal) for _ in range(2)]
    calls: dict[str, Callable[[], object]] = {
        "SDPA + FFN": lambda: feed(dense(x, causal)),
        "softmax + FFN": lambda: feed(dense(x, causal, False)),
        "two GAU": lambda: units[1](units[0](x)[0])[0],
        "two FLASH": lambda: chunks[1](chunks[0](x)[0])[0],
    }
    if causal:
        calls["our MHA + FFN"] = lambda: feed(own(x)[0])
    compare(f"M {width}, T {length}, causal {causal}", calls)


def forward_backward(function: Callable[..., torch.Tensor], qkv: list[torch.Tensor]) -> None:
    """Output and gradients."""
    with torch.enable_grad():
        function(*qkv, causal=True).sum().backward()


def flash() -> None:
    """Whether time is linear in length."""
    layer = FLASH(128, key_size=64)
    for length in (4096, 16384, 65536):
        x = torch.randn(1, length, 128)
        compare(f"FLASH, M 128, T {length}", {"forward": functools.partial(layer, x)}, rounds=3)


def step() -> None:
    """One token after a prefix."""
    for length in (1024, 8192):
        calls = {}
        for mixer in (
            MultiHeadAttention(256, 4), Performer(256, 4).eval(), SparseAttention(256, 4),
            GatedAttentionUnit(256), FLASH(256),
        ):  # fmt: skip
            calls[type(mixer).__name__] = stepping(mixer, length)
        compare(f"one token behind {length}", calls, rounds=15)


def stepping(mixer: nn.Module, length: int) -> Callable[[], object]:
    """A call that goes on by one token each time."""
    token, box = torch.randn(1, 256), [mixer(torch.randn(1, length, 256))[1]]

    def go() -> None:
        box[0] = mixer.step(token, box[0])[1]

    return go


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts = (performer, linformer, sparse, gau, flash, step)
    with torch.no_grad():
        for part in parts:
            if part.__name__ in (sys.argv[1:] or [part.__name__ for part in parts]):
                part()
