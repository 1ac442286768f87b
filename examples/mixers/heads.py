"""
What a token of context costs: heads that share keys and values, and heads that share a latent
==============================================================================================

Decoding reads the whole cache for every token, so a smaller cache is a faster model. Four kinds of
heads read the same text here, the source of the standard library's `argparse`: one that keeps keys
and values for each head, two that share them, and one that keeps a latent from which all heads
unfold theirs.
"""

# %%
# The text, a byte at a time, as vectors of a model.
import argparse
import time
from pathlib import Path

import torch

from paragone.mixers import (
    GroupedQueryAttention,
    LatentAttention,
    MultiHeadAttention,
    MultiQueryAttention,
)

torch.manual_seed(0)
text = Path(argparse.__file__).read_bytes()[:2048]
WIDTH, HEADS = 512, 8
embed = torch.nn.Embedding(256, WIDTH)
with torch.no_grad():
    x = embed(torch.tensor(list(text)))[None]

# %%
# The mixers: eight heads of width 64 each.
mixers = {
    "multi-head": MultiHeadAttention(WIDTH, HEADS),
    "grouped": GroupedQueryAttention(WIDTH, HEADS, kv_heads=2),
    "multi-query": MultiQueryAttention(WIDTH, HEADS),
    "latent": LatentAttention(WIDTH, HEADS, kv_lora_rank=128, qk_rope_head_dim=32),
}

# %%
# Each reads all but the last 32 bytes at once, then those one by one; the outputs are those of
# reading everything at once.
print(f"{'heads':<12}{'bytes a token':>14}{'ms a step':>11}{'largest difference':>20}")
for name, mixer in mixers.items():
    mixer.eval()
    with torch.no_grad():
        whole, _ = mixer(x)
        _, cache = mixer(x[:, :-32])
        outputs = []
        begun = time.perf_counter()
        for t in range(x.shape[1] - 32, x.shape[1]):
            y, cache = mixer.step(x[:, t], cache)
            outputs.append(y)
        spent = (time.perf_counter() - begun) / 32 * 1000
        apart = (torch.stack(outputs, 1) - whole[:, -32:]).abs().max().item()
    print(f"{name:<12}{cache.bytes_per_token:>14}{spent:>11.2f}{apart:>20.1e}")

# %%
# Caches are values. Two continuations of one prompt share it, and neither sees the other; a draft
# that is refused is taken back.
mixer = mixers["grouped"]
with torch.no_grad():
    _, prompt = mixer(x[:, :1000])
    _, one = mixer.step(x[:, 1000], prompt)
    _, other = mixer.step(x[:, 0], prompt)
    print(len(prompt), len(one), len(other), "same ending:", torch.equal(one.keys, other.keys))
    _, draft = mixer(x[:, 1001:1005], state=one)
    print("after four drafted bytes", len(draft), "and two refused", len(draft.truncate(1003)))
