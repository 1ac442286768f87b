"""Pictures of mixers and training systems."""

import json
from pathlib import Path

import numpy as np
import torch
from chart import bars, lines
from sklearn.datasets import load_sample_image

from paragone import mixers, training
from paragone.mixers.performer import approximation_error
from paragone.training import collectives, formats, memory


def letters(length: int, width: int = 64, seed: int = 0) -> torch.Tensor:
    """The first letters of json/decoder.py as random vectors (T, M)."""
    text = Path(json.__file__).with_name("decoder.py").read_bytes()[:length]
    table = torch.randn(256, width, generator=torch.Generator().manual_seed(seed))
    return table[torch.tensor(list(text))]


def flash_attention():
    """The answer of one row while tiles of keys arrive."""
    q, k, v = (letters(1024, seed=s)[None, None] for s in range(3))
    whole = mixers.attention(q[:, :, -1:], k, v)
    seen, curves = list(range(64, 1025, 64)), {}
    for name, scale in (("flat weights", 0.03), ("sharp weights", 0.2)):
        exact = mixers.attention(q[:, :, -1:], k, v, scale=scale)
        parts = [
            mixers.attention(q[:, :, -1:], k[:, :, :t], v[:, :, :t], scale=scale) for t in seen
        ]
        curves[name] = seen, [float((p - exact).norm() / exact.norm()) for p in parts]
    assert whole.shape == exact.shape
    return lines("What is missing until the last tile", curves, "keys seen", "relative error")


def latent_attention():
    """What a token of context costs."""
    width, heads = 512, 8
    kinds = {
        "multi-head (8)": mixers.MultiHeadAttention(width, heads),
        "grouped (2)": mixers.GroupedQueryAttention(width, heads, kv_heads=2),
        "multi-query (1)": mixers.MultiQueryAttention(width, heads),
        "latent (128 + 32)": mixers.LatentAttention(
            width, heads, kv_lora_rank=128, qk_rope_head_dim=32
        ),
    }
    with torch.no_grad():
        x = letters(32, width)[None]
        rows = {name: m.eval()(x)[1].bytes_per_token for name, m in kinds.items()}
    return bars("Cache a token", rows, "bytes a token and layer, model of width 512")


def linear_attention():
    """Multiply-adds of a head, and where they cross."""
    length = np.geomspace(16, 65536, 60)
    curves = {"softmax, D = 64": (length, 2 * length**2 * 64 / 2)}
    for width in (64, 256):
        curves[f"linear, D = {width}"] = length, 2 * length * width**2
    return lines("Work by length", curves, "tokens T", "multiply-adds a head", log="xy")


def performer():
    """Error by number of random features."""
    x, features, curves = letters(256), [16, 32, 64, 128, 256, 512], {}
    generator = torch.Generator().manual_seed(0)
    q, k = (x @ torch.randn(64, 64, generator=generator) / 8 for _ in range(2))
    for scale in (0.1, 0.3, 1.0):
        errors = [
            float(approximation_error(scale * q, scale * k, f, draws=4).relative.mean())
            for f in features
        ]
        curves[f"logits times {scale**2:.2g}"] = features, errors
    return lines("Error of random features", curves, "features", "relative error", log="xy")


def gated_attention_unit():
    """Weights of one row, largest first."""
    q, k = letters(128, seed=0), letters(128, seed=1)
    logits = (q[-1] @ k.T) / 8
    squared = torch.relu(logits) ** 2
    rows = {"softmax": logits.softmax(-1), "squared ReLU": squared / squared.sum()}
    curves = {
        name: (range(1, 129), row.sort(descending=True).values.cumsum(0))
        for name, row in rows.items()
    }
    return lines("Sum of the largest weights", curves, "keys, largest first", "share of the weight")


def state_space():
    """A row of a photograph from a few coefficients."""
    row = load_sample_image("flower.jpg").mean(axis=2)[200] / 255
    curves = {"pixels": (range(len(row)), row)}
    for order in (8, 64):
        memory_ = mixers.hippo.Projection("legs", order)
        memory_.push(row)
        curves[f"{order} coefficients"] = range(len(row)), memory_.reconstruct()
    return lines("HiPPO's memory", curves, "pixel", "brightness")


def adamw():
    """Decay through the division, and beside it."""
    curves = {}
    for kind in (training.Adam, training.AdamW):
        for size in (0.01, 1.0):
            w = torch.nn.Parameter(torch.ones(1))
            optimizer = kind([w], lr=0.01, weight_decay=0.1)
            noise, path = np.random.default_rng(0).normal(0, size, 600), []
            for g in noise:
                w.grad = torch.tensor([g], dtype=torch.float32)
                optimizer.step()
                path.append(float(w.detach()))
            curves[f"{kind.__name__}, noise {size}"] = range(600), path
    return lines("Decay under noise", curves, "steps", "weight")


def mixed_precision():
    """Relative error of rounding by size of the number."""
    x = np.geomspace(1e-9, 1e5, 140).astype(np.float32)
    curves = {}
    for name in ("fp16", "bf16", "e4m3"):
        y = np.asarray(formats.cast(x, name, saturate=True), np.float64)
        curves[name] = x, np.maximum(np.abs(y - x) / x, 1e-4)
    return lines("Rounding error", curves, "number", "relative error", log="xy")


def memory_figure():
    """Gigabytes of each GPU by ZeRO stage."""
    curves = {}
    for stage in (0, 1, 2, 3):
        gpus = [1, 2, 4, 8, 16, 32, 64] if stage else [1, 64]
        sizes = [memory.plan("llama-7b", gpus=n, zero=stage if n > 1 else 0).total_gb for n in gpus]
        curves["no ZeRO" if stage == 0 else f"stage {stage}"] = gpus, sizes
    return lines("Memory of llama-7b", curves, "GPUs", "GB on each", log="xy")


def all_reduce():
    """Seconds by size of the message."""
    sizes, curves = np.geomspace(1e2, 1e9, 40), {}
    for name in ("ring", "tree", "halving_doubling"):
        seconds = [
            collectives.cost(name, ranks=64, bytes=float(n), alpha=1e-5, beta=1e-10) for n in sizes
        ]
        curves[name.replace("_", "-")] = sizes, seconds
    return lines("Cost of all-reduce, 64 ranks", curves, "bytes", "seconds", log="xy")
